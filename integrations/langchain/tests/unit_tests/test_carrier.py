"""Where provenance survives: the table of the README, each row on the real class over a real (tiny, random) pair of models."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.caches import InMemoryCache
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.load import dumps, loads
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from langchain_nudging import (
    AsyncProvenanceCallbackHandler,
    ChatNudging,
    ProvenanceCallbackHandler,
    get_pieces,
    get_provenance,
    get_provenances,
)
from nudging_llm import NudgingConfig, NudgingGenerator, Provenance
from nudging_llm.testing.comparing import timeless
from nudging_llm.testing.tiny import tiny_model, tiny_tokenizer

QUESTION = "Who wrote this, and how sure were they?"
#: What a path gives back: whatever carries the record, and whatever carries the pieces.
Found = tuple[Any, Any]


@pytest.fixture(scope="module")
def generator() -> NudgingGenerator:
    pair = (tiny_model(7), tiny_tokenizer(False)), (tiny_model(57), tiny_tokenizer(True))
    config = NudgingConfig(max_tokens=30, threshold=0.3)
    return NudgingGenerator.from_pretrained(*pair, config, dtype="float32", device="cpu")


@pytest.fixture
def model(generator: NudgingGenerator) -> ChatNudging:
    return ChatNudging(generator=generator)


def add(chunks: Any) -> Any:
    whole: Any = None
    for chunk in chunks:
        whole = chunk if whole is None else whole + chunk
    return whole


def invoke(model: ChatNudging) -> Found:
    return (answer := model.invoke(QUESTION)), answer


def ainvoke(model: ChatNudging) -> Found:
    return (answer := asyncio.run(model.ainvoke(QUESTION))), answer


def streamed_chunks(model: ChatNudging) -> Found:
    chunks = list(model.stream(QUESTION))
    return chunks[-1], [piece for chunk in chunks[:-1] for piece in get_pieces(chunk)]


def chunks_added(model: ChatNudging) -> Found:
    return (answer := add(model.stream(QUESTION))), answer


def events_v2(model: ChatNudging) -> Found:
    async def run() -> Found:
        events = [event async for event in model.astream_events(QUESTION, version="v2")]
        chunks = [event["data"]["chunk"] for event in events if event["event"] == "on_chat_model_stream"]
        return events[-1]["data"]["output"], [piece for chunk in chunks[:-1] for piece in get_pieces(chunk)]

    return asyncio.run(run())


def events_v3(model: ChatNudging) -> Found:
    stream = model.stream_events(QUESTION, version="v3")
    list(stream)
    return stream.output, stream.output


def callback(model: ChatNudging) -> Found:
    handler = ProvenanceCallbackHandler()
    chain = model | StrOutputParser()
    assert isinstance(chain.invoke(QUESTION, config={"callbacks": [handler]}), str)
    return handler.last, handler.answers[0].pieces


def async_callback(model: ChatNudging) -> Found:
    handler = AsyncProvenanceCallbackHandler()
    chain = model | StrOutputParser()

    async def run() -> None:
        async for _ in chain.astream(QUESTION, config={"callbacks": [handler]}):
            pass

    asyncio.run(run())
    return handler.last, handler.answers[0].pieces


def rag(model: ChatNudging) -> Found:
    store = InMemoryVectorStore.from_documents([Document("It was written in May.")], DeterministicFakeEmbedding(size=8))
    prompt = ChatPromptTemplate.from_messages(
        [("system", "Answer from this text:\n{context}"), ("human", "{question}")]
    )
    context = store.as_retriever() | (lambda documents: "\n".join(document.page_content for document in documents))
    chain = {"context": context, "question": RunnablePassthrough()} | RunnablePassthrough.assign(answer=prompt | model)
    return (answer := chain.invoke(QUESTION)["answer"]), answer


def agent_state(model: ChatNudging) -> Found:
    state = create_agent(model, []).invoke({"messages": [("human", QUESTION)]})
    return state, state["messages"][-1]


def checkpoint(model: ChatNudging) -> Found:
    saver = InMemorySaver()
    config: Any = {"configurable": {"thread_id": "1"}}
    create_agent(model, [], checkpointer=saver).invoke({"messages": [("human", QUESTION)]}, config)
    state = create_agent(model, [], checkpointer=saver).get_state(config).values
    return state, state["messages"][-1]


def graph_messages(model: ChatNudging) -> Found:
    builder = StateGraph(MessagesState)
    builder.add_node("write", lambda state: {"messages": [model.invoke(state["messages"])]})
    builder.add_edge(START, "write")
    stream = builder.compile().stream({"messages": [("human", QUESTION)]}, stream_mode="messages")
    chunks = [chunk for chunk, _ in stream]
    assert len(chunks) > 5 and all(isinstance(chunk, AIMessageChunk) for chunk in chunks)
    return chunks[-1], [piece for chunk in chunks[:-1] for piece in get_pieces(chunk)]


def failing_once() -> RunnableLambda[Any, Any]:
    calls = iter((True, False))

    def fail(value: Any) -> Any:
        if next(calls):
            raise RuntimeError("once")
        return value

    return RunnableLambda(fail)


def retry(model: ChatNudging) -> Found:
    """The first answer is written, and lost behind the model."""
    chain = (model | failing_once()).with_retry(stop_after_attempt=2, wait_exponential_jitter=False)
    return (answer := chain.invoke(QUESTION)), answer


def fallback(model: ChatNudging) -> Found:
    """The first model is given up on while it writes."""
    slow = ChatNudging(generator=model.generator, timeout=1e-9)
    return (answer := slow.with_fallbacks([model]).invoke(QUESTION)), answer


def cache_hit(model: ChatNudging) -> Found:
    cached = ChatNudging(generator=model.generator, cache=InMemoryCache())
    first, again = cached.invoke(QUESTION), cached.invoke(QUESTION)
    assert get_provenance(again) == get_provenance(first)  # timings too: nothing was computed
    return again, again


def cache_hit_v3(model: ChatNudging) -> Found:
    cached = ChatNudging(generator=model.generator, cache=InMemoryCache())
    cached.invoke(QUESTION)
    stream = cached.stream_events(QUESTION, version="v3")
    list(stream)
    return stream.output, stream.output


def dumped(model: ChatNudging) -> Found:
    answer = loads(dumps(model.invoke(QUESTION)), allowed_objects="core")
    return answer, answer


#: Name in the README's table → path.
PATHS: dict[str, Callable[[ChatNudging], Found]] = {
    "`invoke`": invoke,
    "`ainvoke`": ainvoke,
    "`stream`, `astream`, chunk by chunk": streamed_chunks,
    "chunks added with `+`": chunks_added,
    '`astream_events(version="v2")`': events_v2,
    '`stream_events(version="v3")`, `.output`': events_v3,
    "`… | StrOutputParser()` with `ProvenanceCallbackHandler`": callback,
    "the same, with its async twin": async_callback,
    "a RAG chain": rag,
    "`create_agent`, its state": agent_state,
    "`create_agent`, read back from a checkpoint": checkpoint,
    'LangGraph, `stream_mode="messages"`': graph_messages,
    "`with_retry`": retry,
    "`with_fallbacks`": fallback,
    "a cache hit": cache_hit,
    "a cache hit replayed as v3 events": cache_hit_v3,
    "`dumps` and `loads`": dumped,
}


@pytest.mark.parametrize("name", PATHS)
def test_provenance_survives(name: str, model: ChatNudging, generator: NudgingGenerator) -> None:
    context = (
        [{"role": "system", "content": "Answer from this text:\nIt was written in May."}] if PATHS[name] is rag else []
    )
    expected = generator.generate([*context, {"role": "user", "content": QUESTION}]).provenance
    assert {piece.source for piece in expected.pieces} == {"base", "nudging"}
    record_holder, piece_holder = PATHS[name](model)
    record = record_holder if isinstance(record_holder, Provenance) else get_provenance(record_holder)
    pieces = piece_holder if isinstance(piece_holder, list) else get_pieces(piece_holder)
    assert record is not None
    assert timeless(record.pieces) == timeless(expected.pieces) == timeless(pieces)
    assert record.text == expected.text
    assert (record.rounds, record.finish_reason, record.config) == (
        expected.rounds,
        expected.finish_reason,
        expected.config,
    )
    assert record.base.tokens == expected.base.tokens and record.nudging.tokens == expected.nudging.tokens
    assert record.base.name and record.nudging.name


def test_a_message_with_a_record_of_version_1_is_read() -> None:
    """As a checkpoint of an earlier version of this package holds it."""
    stored = json.loads((Path(__file__).parents[1] / "data" / "message_v1.json").read_text(encoding="utf-8"))
    [carried] = stored["response_metadata"]["nudging"]
    assert carried["schema_version"] == 1
    message = AIMessage(**stored)
    record = get_provenance(message)
    assert record is not None and record.schema_version == 2
    assert record.text == message.text and get_pieces(message) == record.pieces
    assert [use.name for use in record.models] == [carried["base"]["name"], carried["nudging"]["name"]]


def test_the_readme_has_these_paths() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    table = readme.split("| path |")[1].split("\n\n")[0]
    rows = [re.split(r"(?<!\\)\|", line)[1].strip().replace("\\|", "|") for line in table.splitlines()[2:]]
    assert rows == list(PATHS)


def test_two_answers_added_keep_both_records(model: ChatNudging) -> None:
    first, second = (add(model.stream(question)) for question in (QUESTION, "And this?"))
    both = first + second
    assert [record.text for record in get_provenances(both)] == [first.text, second.text]
    assert "".join(piece.text for piece in get_pieces(both)) == both.text


def test_a_chunk_before_the_last_has_pieces_and_no_record(model: ChatNudging) -> None:
    first = next(iter(model.stream(QUESTION)))
    assert get_pieces(first) and get_provenance(first) is None


def test_another_models_message_has_none() -> None:
    assert get_provenance(AIMessage("hello")) is None and get_pieces(AIMessage("hello")) == ()
