"""Small models for tests: yours, and this repository's own.

Each module makes models that need no download, run in milliseconds and give the same answer every time. The rest of the
package is the real one: decoder, prompts, grammar, parser and sessions. ``import nudging_llm`` does not import this package.

``scripted``     a generator that writes what a function of the prompt says: for tests of agents, chains and engines
``tiny``         real ``transformers`` models of 20,000 random weights, and their tokenizer: for tests of loading and plumbing
``fake_models``  an engine without weights over real tokenizers of six kinds: for tests of decoders and caches
``remote``       a backend that answers later, in another order, with faults: for tests of what stands above a backend
``comparing``    pieces of two requests, made comparable

An agent is tested like this::

    from langchain.agents import create_agent
    from langchain_nudging import ChatNudging
    from nudging_llm.testing.scripted import rules, scripted_pair, tool_call

    script = rules(("cold in Oslo", "Take a coat."), ("weather", tool_call("weather", city="Oslo")))
    agent = create_agent(ChatNudging(generator=scripted_pair(script)), [weather])
    assert agent.invoke({"messages": "How is the weather?"})["messages"][-1].text == "Take a coat."
"""
