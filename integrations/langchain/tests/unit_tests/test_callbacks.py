"""Provenance through callbacks: live, complete, told apart, and in nobody's way."""

from __future__ import annotations

import asyncio
import io
import queue
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableParallel
from langgraph.graph import START, MessagesState, StateGraph
from rich.console import Console

from langchain_nudging import AnswerProvenance, AsyncProvenanceCallbackHandler, ChatNudging, ProvenanceCallbackHandler
from nudging_llm import NudgingGenerator, Piece
from nudging_llm.testing.scripted import rules, scripted_pair
from nudging_llm.views.terminal import TerminalView

SCRIPT = rules(("first", "One answer."), ("second", "Quite another answer."), ("fail", "Some words before it fails."))


@pytest.fixture(scope="module")
def generator() -> NudgingGenerator:
    return scripted_pair(SCRIPT)


@pytest.fixture
def model(generator: NudgingGenerator) -> ChatNudging:
    return ChatNudging(generator=generator)


def handled(handler: Any, **more: Any) -> Any:
    return {"callbacks": [handler], **more}


def test_pieces_come_while_an_invoke_is_running(model):
    seen: list[tuple[str, bool]] = []

    def note(piece: Piece, answer: AnswerProvenance) -> None:
        seen.append((piece.text, answer.provenance is None))

    text = (model | StrOutputParser()).invoke("the first", config=handled(ProvenanceCallbackHandler(note)))
    assert text == "One answer." == "".join(piece for piece, _ in seen)
    assert len(seen) > 3 and all(running for _, running in seen)


@pytest.mark.parametrize("switch", [{"streaming": False}, {"disable_streaming": True}])
def test_where_streaming_is_switched_off_pieces_come_at_the_end_and_once(generator, switch):
    seen: list[str] = []
    handler = ProvenanceCallbackHandler(lambda piece, answer: seen.append(piece.text))
    model = ChatNudging(generator=generator, **switch)
    assert model.invoke("the first", config=handled(handler)).text == "".join(seen) == "One answer."
    assert handler.last is not None and len(seen) == len(handler.last.pieces)


def test_stream_false_in_a_call_is_heeded(model, monkeypatch):
    handler = ProvenanceCallbackHandler()
    calls: list[str] = []
    monkeypatch.setattr(
        ProvenanceCallbackHandler, "on_llm_new_token", lambda self, token, **_: calls.append(token), raising=True
    )
    model.invoke("the first", config=handled(handler), stream=False)
    assert calls == [] and handler.answers[0].text == "One answer."


def test_answers_of_one_chain_are_told_apart(model):
    prompt = ChatPromptTemplate.from_template("the {which}")
    parallel = RunnableParallel(
        a=prompt | model.with_config(tags=["left"], metadata={"side": 1}) | StrOutputParser(),
        b=ChatPromptTemplate.from_template("a second, not the {which}".replace("{which}", "{other}"))
        | model.with_config(tags=["right"]),
    )
    handler = ProvenanceCallbackHandler()
    found = parallel.invoke({"which": "first", "other": "same"}, config=handled(handler, tags=["all"]))
    by_tag = {tag: answer for answer in handler.answers for tag in answer.tags if tag in ("left", "right")}
    assert by_tag["left"].text == found["a"] == "One answer."
    assert by_tag["right"].text == found["b"].text == "Quite another answer."
    assert by_tag["left"].metadata["side"] == 1 and "all" in by_tag["right"].tags
    assert len({answer.run_id for answer in handler.answers}) == 2
    assert all(answer.parent_run_id is not None for answer in handler.answers)


def test_a_graphs_node_is_in_the_metadata(model):
    builder = StateGraph(MessagesState)
    builder.add_node("write", lambda state: {"messages": [model.invoke(state["messages"])]})
    builder.add_edge(START, "write")
    handler = ProvenanceCallbackHandler()
    builder.compile().invoke({"messages": [("human", "the first")]}, config=handled(handler))
    assert [answer.metadata["langgraph_node"] for answer in handler.answers] == ["write"]


def test_a_queue_gets_pieces_and_the_end(model):
    pieces: queue.Queue[Any] = queue.Queue()
    model.invoke("the first", config=handled(ProvenanceCallbackHandler(pieces)))
    got = [pieces.get_nowait() for _ in range(pieces.qsize())]
    assert "".join(piece.text for piece, _ in got[:-1]) == "One answer."
    assert got[-1][0] is None and got[-1][1].provenance.text == "One answer."


def test_the_terminal_view_shows_it(model):
    out = io.StringIO()
    view = TerminalView(Console(file=out, force_terminal=False))
    chain = model | StrOutputParser()
    chain.batch(["the first", "the second"], config=handled(ProvenanceCallbackHandler(view), max_concurrency=1))
    assert out.getvalue() == "One answer.\nQuite another answer.\n"


async def test_the_async_twin_on_a_coroutine_function_and_a_queue(model):
    written: list[str] = []

    async def note(piece: Piece, answer: AnswerProvenance) -> None:
        await asyncio.sleep(0)
        written.append(piece.text)

    pieces: asyncio.Queue[Any] = asyncio.Queue()
    first, second = AsyncProvenanceCallbackHandler(note), AsyncProvenanceCallbackHandler(pieces)
    await model.ainvoke("the first", config={"callbacks": [first, second]})
    got = [pieces.get_nowait() for _ in range(pieces.qsize())]
    assert "".join(written) == "".join(piece.text for piece, _ in got[:-1]) == "One answer."
    assert first.last == second.last and got[-1][0] is None


async def test_the_sync_handler_works_in_async_chains(model):
    handler = ProvenanceCallbackHandler()
    chain = model | StrOutputParser()
    assert "".join([part async for part in chain.astream("the second", config=handled(handler))]) == handler.last.text


def test_what_needs_a_loop_is_refused_without_one():
    async def note(piece: Piece, answer: AnswerProvenance) -> None: ...

    for target in (note, asyncio.Queue()):
        with pytest.raises(TypeError, match="AsyncProvenanceCallbackHandler"):
            ProvenanceCallbackHandler(target)
    with pytest.raises(TypeError, match="a queue"):
        ProvenanceCallbackHandler(3)


async def test_event_streams_lose_nothing_by_it(model):
    chain = ChatPromptTemplate.from_template("the {which}") | model | StrOutputParser()

    async def kinds(config: Any) -> list[str]:
        return [event["event"] async for event in chain.astream_events({"which": "first"}, config, version="v2")]

    plain = await kinds({})
    assert "on_parser_stream" in plain and "on_chain_stream" in plain
    assert await kinds(handled(ProvenanceCallbackHandler())) == plain
    assert await kinds(handled(AsyncProvenanceCallbackHandler())) == plain


def test_a_failure_is_noted_with_what_there_was(model, generator, monkeypatch):
    handler = ProvenanceCallbackHandler()
    forward = generator.base.engine.forward
    monkeypatch.setattr(generator.base.engine, "forward", lambda rows: _fails_late(forward, rows))
    with pytest.raises(RuntimeError, match="broken"):
        model.invoke("it will fail", config=handled(handler))
    monkeypatch.undo()
    [answer] = handler.answers
    assert isinstance(answer.error, RuntimeError) and answer.provenance is None and handler.last is None
    assert answer.pieces and "Some words before it fails.".startswith(answer.text)
    assert model.invoke("the first", config=handled(handler)).text == "One answer."
    assert len(handler.provenances) == 1


def _fails_late(forward: Any, rows: Any) -> Any:
    if any(row.past > 40 for row in rows):
        raise RuntimeError("broken")
    return forward(rows)


def test_other_models_leave_no_trace(model):
    handler = ProvenanceCallbackHandler()
    other = GenericFakeChatModel(messages=iter([AIMessage("hello")]))
    other.invoke("hi", config=handled(handler))
    assert handler.answers == [] and handler.last is None


def test_a_cache_hit_is_handed_on_like_an_answer(generator):
    model = ChatNudging(generator=generator, cache=InMemoryCache())
    first, again = ProvenanceCallbackHandler(), ProvenanceCallbackHandler()
    model.invoke("the first", config=handled(first))
    model.invoke("the first", config=handled(again))
    assert again.last == first.last and [p.text for p in again.answers[0].pieces] == [p.text for p in first.last.pieces]


def test_many_threads_and_one_handler(model):
    handler = ProvenanceCallbackHandler()
    questions = ["the first", "the second"] * 10
    texts = (model | StrOutputParser()).batch(questions, config=handled(handler, max_concurrency=8))
    assert sorted(answer.text for answer in handler.answers) == sorted(texts)
    assert all(answer.provenance.text == answer.text for answer in handler.answers)
    handler.clear()
    assert handler.answers == []
