"""A FunctionAgent and a ReActAgent with two tools: who wrote each call and each word, while it happens and afterwards.

When to call a tool is a judgement that the starter pair is too small for: left to themselves, its FunctionAgent calls at random
and its ReActAgent not at all. So the first call of each is forced here, to show the machinery: the FunctionAgent's by
``initial_tool_choice``; the ReActAgent's by ``HeldToReAct``, which holds the models to the form that its prompt asks for. A call
then always fits its tool; its arguments remain the models' guess, and so does what they make of the tool's result.

On a GPU with larger models, leave ``initial_tool_choice`` and ``HeldToReAct`` out and replace ``….starter(…)`` by, for example::

    NudgingLLM(base_model="google/gemma-2-27b", nudging_model="google/gemma-2-2b-it", base_model_kwargs={"device_map": "auto"})
"""

# no "from __future__ import annotations" here: LlamaIndex reads the tools' types, and cannot read them as strings
import asyncio
from collections.abc import Sequence
from typing import Any, Literal

from llama_index.core import Settings
from llama_index.core.agent.workflow import AgentOutput, AgentStream, FunctionAgent, ReActAgent, ToolCallResult
from llama_index.core.llms import ChatMessage, ChatResponseAsyncGen
from llama_index.core.workflow.errors import WorkflowRuntimeError

from llama_index.llms.nudging import CollectedCalls, NudgingLLM, collect_provenance, get_pieces, get_provenance


def opening_hours(place: Literal["library", "museum", "pool"]) -> str:
    """Say when a place in the town opens and closes."""
    return {
        "library": "The library is open from 9 to 18.",
        "museum": "The museum is open from 10 to 17.",
        "pool": "The pool is open from 6 to 21.",
    }[place]


def next_ferry(hour: Literal[8, 12, 16, 20]) -> str:
    """Say when the next ferry to the island leaves after an hour of the day."""
    return f"The next ferry to the island leaves at {hour}:40."


THOUGHT = r"Thought: [^\n]{1,80}\n"
ACTION = (
    r'Action: (opening_hours\nAction Input: \{"place": "(library|museum|pool)"\}'
    r'|next_ferry\nAction Input: \{"hour": (8|12|16|20)\})'
)


class HeldToReAct(NudgingLLM):
    """Writes a call first, and an answer in words when the tool's result is there, in ReAct's form."""

    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        observed = (messages[-1].content or "").startswith("Observation:")
        regex = THOUGHT + (r"Answer: [^\n]{1,200}" if observed else ACTION)
        return await super().astream_chat(messages, regex=regex, **kwargs)


def make_function_agent(llm: NudgingLLM) -> FunctionAgent:
    return FunctionAgent(
        tools=[opening_hours, next_ferry],
        llm=llm,
        system_prompt="You help visitors of a small town by the sea.",
        initial_tool_choice="opening_hours",
        allow_parallel_tool_calls=False,
    )


def make_react_agent(llm: NudgingLLM) -> ReActAgent:
    return ReActAgent(tools=[opening_hours, next_ferry], llm=llm)


async def ask(agent: Any, question: str, max_iterations: int = 3) -> tuple[AgentOutput | None, CollectedCalls]:
    """Print a run while it happens. Nudged text stands in [brackets], what the grammar left no choice about in (these)."""
    print(f"> {question} ({type(agent).__name__}, {type(agent.llm).__name__})")
    with collect_provenance() as calls:
        handler = agent.run(user_msg=question, max_iterations=max_iterations)
        async for event in handler.stream_events():
            if isinstance(event, ToolCallResult):
                print(f"  {event.tool_name}({event.tool_kwargs}): {event.tool_output.content}")
            elif isinstance(event, AgentStream) and (record := get_provenance(event)):  # a call's last event
                print(f"\n  nudged {record.nudge_ratio:.0%} of {record.n_tokens} tokens")
            elif isinstance(event, AgentStream):
                for piece in get_pieces(event):
                    marked = {"nudging": f"[{piece.text}]", "grammar": f"({piece.text})"}.get(piece.source, piece.text)
                    print(marked, end="", flush=True)
        try:
            return await handler, calls
        except WorkflowRuntimeError as error:
            if "Max iterations" not in str(error):
                raise
            print(f"  no answer: {error}")
            return None, calls


async def run(*agents: Any) -> None:
    for agent in agents:
        output, calls = await ask(agent, "When does the museum open?")
        if output:
            answer = agent.llm.provenance_of(output)  # by the id that its message keeps, or by its text
            nudged = [piece.text for piece in answer.pieces if piece.source == "nudging"]
            print(f"  the answer: {answer.text!r}, of which {nudged} nudged")
        for i, record in enumerate(calls.provenances, start=1):
            sources = ", ".join(sorted({piece.source for piece in record.pieces}))
            print(f"  call {i} of the model: {record.n_tokens} tokens by {sources}; ended: {record.finish_reason}")
        print()


def main() -> None:
    llm = NudgingLLM.starter(max_tokens=64)
    Settings.tokenizer = llm.tokenizer_fn  # the agents' memory counts with it what fits
    held = HeldToReAct.starter(max_tokens=64)
    asyncio.run(run(make_function_agent(llm), make_react_agent(llm), make_react_agent(held)))


if __name__ == "__main__":
    main()
