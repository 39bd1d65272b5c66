"""An agent with two tools and a memory: stream it, see who wrote each call and each word, find the same in its state.

When to call a tool is a judgement that the starter pair is too small for: left to itself it calls at random. So ``ToolFirst``
forces a call at the start of each turn, and an answer in words after it. The call always fits a tool, by grammar; which tool,
and with which arguments, remains the models' guess, and the starter pair's is often wrong. Nor does it say much about a tool's
result: it repeats it, tag and all.

On a GPU with larger models, leave ``middleware`` out and replace ``ChatNudging.starter(…)`` by, for example::

    ChatNudging(base_model="google/gemma-2-27b", nudging_model="google/gemma-2-2b-it", base_model_kwargs={"device_map": "auto"})

Needs ``pip install langchain``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Literal

from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain_core.messages import AIMessageChunk, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver

from langchain_nudging import ChatNudging, get_pieces, get_provenance, get_provenances


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


class ToolFirst(AgentMiddleware):
    """One call of some tool, then an answer in words."""

    def wrap_model_call(self, request: ModelRequest, handler: Callable[[ModelRequest], ModelResponse]) -> ModelResponse:
        return handler(self._chosen(request))

    async def awrap_model_call(
        self, request: ModelRequest, handler: Callable[[ModelRequest], Awaitable[ModelResponse]]
    ) -> ModelResponse:
        return await handler(self._chosen(request))

    def _chosen(self, request: ModelRequest) -> ModelRequest:
        if isinstance(request.messages[-1], ToolMessage):
            return request.override(tool_choice="none")
        return request.override(tool_choice="any", model_settings={"parallel_tool_calls": False})


def make_agent(model: ChatNudging) -> Any:
    return create_agent(
        model,
        tools=[opening_hours, next_ferry],
        system_prompt="You help visitors of a small town by the sea.",
        middleware=[ToolFirst()],
        checkpointer=InMemorySaver(),  # a database's saver keeps the provenance too: it is plain JSON in the messages
    )


def ask(agent: Any, question: str, config: dict[str, Any]) -> None:
    """Print one turn while it happens. Nudged text stands in [brackets], what the grammar left no choice about in (these)."""
    print(f"> {question}")
    asked = {"messages": [("human", question)]}
    for message, metadata in agent.stream(asked, config, stream_mode="messages"):
        if isinstance(message, ToolMessage):
            print(f"{message.name}: {message.content}")
        elif isinstance(message, AIMessageChunk) and (record := get_provenance(message)):  # an answer's last chunk
            print(f"\n  {metadata['langgraph_node']}: nudged {record.nudge_ratio:.0%} of {record.n_tokens} tokens")
        else:
            for piece in get_pieces(message):
                marked = {"nudging": f"[{piece.text}]", "grammar": f"({piece.text})"}.get(piece.source, piece.text)
                print(marked, end="", flush=True)


def main() -> None:
    agent = make_agent(ChatNudging.starter(max_tokens=64))
    config = {"configurable": {"thread_id": "a visitor"}}
    for question in ("When does the museum open?", "When does the ferry leave after 12?"):
        ask(agent, question, config)

    state = agent.get_state(config).values
    print("\nThe thread's state holds:")
    for message in state["messages"]:
        calls = ", ".join(f"{call['name']}({call['args']})" for call in getattr(message, "tool_calls", ()))
        record = get_provenance(message)
        print(f"  {message.type}: {calls or message.text}", f"({record.nudge_ratio:.0%} nudged)" if record else "")
    print(f"{len(get_provenances(state))} records in all")


if __name__ == "__main__":
    main()
