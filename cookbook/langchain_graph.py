"""A LangGraph graph of two nodes: the first finds the question's topic, the second answers; provenance per node.

The topic always is one of the three, by grammar; whether it is the right one is for the models, and the starter pair is small.

On a GPU with larger models, replace ``ChatNudging.starter(…)`` by, for example::

    ChatNudging(base_model="google/gemma-2-27b", nudging_model="google/gemma-2-2b-it", base_model_kwargs={"device_map": "auto"})

Needs ``pip install langgraph``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from langchain_core.messages import AnyMessage
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from langchain_nudging import ChatNudging, get_pieces, get_provenance
from nudging_llm import Provenance

FACTS = {
    "ferry": "The ferry leaves every 40 minutes. A return ticket costs 12 crowns.",
    "library": "The library opens at 9 on weekdays and at 11 on Saturdays.",
    "museum": "The museum shows 340 ship models. It is shut on Mondays.",
}


class Topic(BaseModel):
    """What a question is about."""

    topic: Literal["ferry", "library", "museum"] = Field(description="The place that the question is about")


class State(TypedDict, total=False):
    messages: Annotated[list[AnyMessage], add_messages]
    topic: str


def make_graph(model: ChatNudging) -> Any:
    find_topic = model.with_structured_output(Topic)

    def classify(state: State) -> State:
        return {"topic": find_topic.invoke(state["messages"]).topic}

    def answer(state: State) -> State:
        system = ("system", f"Answer from this text:\n{FACTS[state['topic']]}")
        return {"messages": [model.invoke([system, *state["messages"]])]}

    graph = StateGraph(State)
    graph.add_node(classify)
    graph.add_node(answer)
    graph.add_edge(START, "classify")
    graph.add_edge("classify", "answer")
    return graph.compile()


def ask(graph: Any, question: str) -> tuple[State, dict[str, Provenance]]:
    """Print the run while it happens; what the nodes returned, and the record of each node's model call.

    ``classify`` returns no message, so its record is found only here, in the stream. With ``include_raw=True``, what
    ``find_topic`` gives would have it too: ``get_provenance(found)``.
    """
    returned: State = {}
    records: dict[str, Provenance] = {}
    asked = {"messages": [("human", question)]}
    for mode, data in graph.stream(asked, stream_mode=["updates", "messages"]):
        if mode == "updates":
            for node, update in data.items():
                print(f"\n  {node} returned {', '.join(update)}")
                returned |= update
            continue
        chunk, metadata = data
        if record := get_provenance(chunk):  # the last chunk of an answer has its record; the others have pieces
            records[metadata["langgraph_node"]] = record
        else:
            for piece in get_pieces(chunk):
                print(f"[{piece.text}]" if piece.source == "nudging" else piece.text, end="", flush=True)
    return returned, records


def main() -> None:
    graph = make_graph(ChatNudging.starter(max_tokens=64))
    for question in ("How much is the ferry?", "Is the museum open on Mondays?"):
        print(f"> {question}")
        state, records = ask(graph, question)
        print(f"topic: {state['topic']}")
        for node, record in records.items():
            by_grammar = record.grammar_tokens / record.n_tokens
            print(f"  {node}: {record.n_tokens} tokens, {record.nudge_ratio:.0%} nudged, {by_grammar:.0%} by grammar")
        assert get_provenance(state) == records["answer"]  # in the graph's state too


if __name__ == "__main__":
    main()
