"""Many at once, pieces while they are written, stopping in the middle, events, and the latest answers by their text."""

from __future__ import annotations

import asyncio
import io
import queue
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from llama_index.core import Document, SummaryIndex, get_response_synthesizer
from llama_index.core.agent.workflow import AgentStream, FunctionAgent
from llama_index.core.base.response.schema import Response
from llama_index.core.callbacks import CallbackManager, TokenCountingHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers.base import BaseEventHandler
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool, QueryEngineTool
from rich.console import Console

from llama_index.llms.nudging import CallProvenance, NudgingLLM, collect_provenance, get_provenance
from llama_index.llms.nudging.provenance import Recent, _containing, _Kept, _within
from nudging_llm import NudgingConfig, NudgingGenerator, Piece, Provenance, Reason
from nudging_llm.testing.comparing import timeless
from nudging_llm.testing.scripted import scripted_pair
from nudging_llm.views.terminal import TerminalView

PATIENCE = 30  # seconds until a test that hangs fails
STORY = " ".join(f"Then came day {i}." for i in range(26))


def script(prompt: str) -> str:
    """A number is answered with its name and square; a long tale is long."""
    said = re.findall(r"say (.+?) (?:and|or) nothing", prompt, re.DOTALL)
    if said:
        return said[-1]
    asked = re.findall(r"number (\d+)", prompt)
    if asked:
        number = int(asked[-1])
        return f"Number {number} it is, and its square is {number * number}; 東京 says so."
    return STORY if "long tale" in prompt else "Hello! How can I help you today?"


def answer_to(number: int) -> str:
    return script(f"number {number}")


@pytest.fixture
def pair() -> NudgingGenerator:
    return scripted_pair(script)


@pytest.fixture
def scripted(pair: NudgingGenerator) -> NudgingLLM:
    return NudgingLLM(generator=pair)


@pytest.fixture
def forwards(pair: NudgingGenerator, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one whenever either model begins a forward."""
    return watched(pair, monkeypatch)


def watched(generator: NudgingGenerator, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []
    for engine in (generator.base.engine, generator.nudging.engine):

        def forward(*args: Any, real: Any = engine.forward, name: str = engine.name) -> Any:
            seen.append(name)
            return real(*args)

        monkeypatch.setattr(engine, "forward", forward)
    return seen


def message(text: str) -> list[ChatMessage]:
    return [ChatMessage(content=text)]


def texts(calls: Any) -> list[str]:
    """Of finished calls, each as its pieces and as its record say."""
    assert all(call.text == call.provenance.text for call in calls)
    return [call.text for call in calls]


async def asked_for(llm: NudgingLLM, number: int, way: str) -> str:
    if way == "achat":
        return (await llm.achat(message(f"number {number}"))).message.content or ""
    stream = await llm.astream_chat(message(f"number {number}"))
    return "".join([response.delta or "" async for response in stream])


# -- many at once -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["achat", "astream_chat"])
async def test_twenty_at_once_each_collect_their_own(scripted: NudgingLLM, way: str) -> None:
    async def one(number: int) -> tuple[str, list[str]]:
        with collect_provenance() as calls:
            text = await asked_for(scripted, number, way)
            text += await asked_for(scripted, number + 100, way)
        return text, texts(calls)

    found = await asyncio.wait_for(asyncio.gather(*[one(i) for i in range(20)]), PATIENCE)
    for i, (text, seen) in enumerate(found):
        assert seen == [answer_to(i), answer_to(i + 100)] and text == "".join(seen)


@pytest.mark.slow
async def test_twenty_query_engines_at_once(scripted: NudgingLLM) -> None:
    index = SummaryIndex.from_documents([Document(text="A text.")])

    async def one(number: int) -> tuple[str, list[str]]:
        with collect_provenance() as calls:
            response = await index.as_query_engine(llm=scripted).aquery(f"number {number}")
        return str(response), texts(calls)

    found = await asyncio.wait_for(asyncio.gather(*[one(i) for i in range(20)]), PATIENCE)
    assert found == [(answer_to(i), [answer_to(i)]) for i in range(20)]


async def test_agents_with_nested_engines_at_once() -> None:
    """Each collector sees its own agent's calls, those of the engine that is its tool among them, and no other's."""

    def script(prompt: str) -> str:
        number = re.findall(r"number (\d+)", prompt)[-1]
        if "Context information" in prompt:
            return f"The engine says {number}."
        if f"The engine says {number}" in prompt:
            return f"So it is {number}."
        return f'<tool_call>\n{{"name": "docs", "arguments": {{"input": "number {number}"}}}}\n</tool_call>'

    llm = NudgingLLM(generator=scripted_pair(script, NudgingConfig(max_tokens=300)))
    index = SummaryIndex.from_documents([Document(text="A text.")])

    async def one(number: int) -> tuple[str, list[str]]:
        tool = QueryEngineTool.from_defaults(index.as_query_engine(llm=llm), name="docs", description="Answers.")
        agent = FunctionAgent(tools=[tool], llm=llm)
        with collect_provenance() as calls:
            output = await agent.run(f"What of number {number}?")
        return str(output), [call.provenance.text for call in calls if call.provenance]

    found = await asyncio.wait_for(asyncio.gather(*[one(i) for i in range(8)]), PATIENCE)
    for i, (text, seen) in enumerate(found):
        assert text == f"So it is {i}."
        assert len(seen) == 3 and f"number {i}" in seen[0] and seen[1:] == [f"The engine says {i}.", f"So it is {i}."]


def test_threads_each_collect_their_own(scripted: NudgingLLM) -> None:
    def one(number: int) -> list[str]:
        with collect_provenance() as calls:
            scripted.complete(f"number {number}")
        return texts(calls)

    with collect_provenance() as outside, ThreadPoolExecutor(20) as pool:
        found = list(pool.map(one, range(20)))
    assert found == [[answer_to(i)] for i in range(20)]
    assert len(outside) == 0, "a bare thread has a context of its own"


async def test_threads_that_take_the_context_along_are_seen(scripted: NudgingLLM) -> None:
    with collect_provenance() as calls:
        await asyncio.gather(*[asyncio.to_thread(scripted.complete, f"number {i}") for i in range(6)])
        thread = threading.Thread(target=copy_context().run, args=(scripted.complete, "number 6"))
        thread.start()
        thread.join(PATIENCE)
    assert sorted(texts(calls)) == sorted(answer_to(i) for i in range(7))


def test_one_within_another(scripted: NudgingLLM) -> None:
    with collect_provenance() as outer:
        scripted.complete("number 1")
        with collect_provenance() as inner:
            scripted.complete("number 2")
        scripted.complete("number 3")
    scripted.complete("number 4")
    assert texts(outer) == [answer_to(i) for i in (1, 2, 3)]
    assert texts(inner) == [answer_to(2)] and inner[0] is outer[1]
    assert outer.last is not None and outer.last.text == answer_to(3)
    outer.clear()
    assert outer.last is None and len(outer) == 0 and len(inner) == 1 and bool(outer)


def test_a_stream_belongs_to_where_it_was_begun(scripted: NudgingLLM) -> None:
    with collect_provenance() as begun:
        stream = scripted.stream_complete("number 1")
    with collect_provenance() as read:
        assert "".join(response.delta or "" for response in stream) == answer_to(1)
    assert texts(begun) == [answer_to(1)] and len(read) == 0


def test_an_error_inside_ends_the_collecting(scripted: NudgingLLM) -> None:
    def fail() -> None:
        scripted.complete("number 1")
        raise KeyError("the caller's")

    with pytest.raises(KeyError), collect_provenance() as calls:
        fail()
    scripted.complete("number 2")
    assert texts(calls) == [answer_to(1)]


def test_a_call_that_fails_is_noted_with_what_there_was(
    scripted: NudgingLLM, pair: NudgingGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(rows: Any, real: Any = pair.base.engine.forward) -> Any:
        if any(row.past > 100 for row in rows):
            raise RuntimeError("broken")
        return real(rows)

    monkeypatch.setattr(pair.base.engine, "forward", failing)
    ended: queue.Queue[Any] = queue.Queue()
    with pytest.raises(RuntimeError, match="broken"), collect_provenance(ended) as calls:
        scripted.complete("a long tale")
    monkeypatch.undo()
    [call] = calls
    assert isinstance(call.error, RuntimeError) and call.provenance is None and calls.last is None
    assert call.text and STORY.startswith(call.text) and [*ended.queue][-1] == (None, call)
    assert scripted.complete("number 1").text == answer_to(1)


# -- pieces while they are written ------------------------------------------------------------------------------------


def test_a_function_gets_pieces_while_a_query_engine_runs(scripted: NudgingLLM) -> None:
    seen: list[tuple[str, bool]] = []

    def note(piece: Piece, call: CallProvenance) -> None:
        seen.append((piece.text, call.provenance is None))

    engine = SummaryIndex.from_documents([Document(text="A text.")]).as_query_engine(llm=scripted)
    with collect_provenance(note):
        text = str(engine.query("number 3"))
    assert text == answer_to(3) == "".join(part for part, _ in seen)
    assert len(seen) > 3 and all(running for _, running in seen)


@pytest.mark.parametrize("make", [queue.Queue, queue.SimpleQueue])
def test_a_queue_gets_pieces_and_the_end(scripted: NudgingLLM, make: Callable[[], Any]) -> None:
    pieces = make()
    with collect_provenance(pieces):
        scripted.complete("number 3")
        scripted.complete("number 4")
    got = [pieces.get_nowait() for _ in range(pieces.qsize())]
    ends = [i for i, (piece, _) in enumerate(got) if piece is None]
    assert len(ends) == 2 and ends[-1] == len(got) - 1
    assert "".join(piece.text for piece, _ in got[: ends[0]]) == answer_to(3) == got[ends[0]][1].provenance.text
    assert "".join(piece.text for piece, _ in got[ends[0] + 1 : -1]) == answer_to(4)


async def test_an_asyncio_queue_gets_pieces_while_they_are_written(scripted: NudgingLLM) -> None:
    pieces: asyncio.Queue[Any] = asyncio.Queue()
    got: list[tuple[str, bool]] = []

    async def read() -> None:
        while (found := await pieces.get())[0] is not None:
            got.append((found[0].text, found[1].provenance is None))

    with collect_provenance(pieces):
        await asyncio.wait_for(asyncio.gather(scripted.achat(message("number 5")), read()), PATIENCE)
    assert "".join(text for text, _ in got) == answer_to(5) and got[0][1]


async def test_an_asyncio_queue_gets_them_from_another_thread_too(
    scripted: NudgingLLM, pair: NudgingGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer goes on only when its first piece has been read: were the loop not woken, nobody would read it."""
    pieces: asyncio.Queue[Any] = asyncio.Queue()
    read = threading.Event()

    def waiting(rows: Any, real: Any = pair.base.engine.forward) -> Any:
        read.wait(0.1)  # until the loop has nothing to do but to wait
        if any(row.past > 100 for row in rows):
            assert read.wait(2), "the queue's reader was not woken"
        return real(rows)

    monkeypatch.setattr(pair.base.engine, "forward", waiting)

    async def reader() -> str:
        text = ""
        while (found := await pieces.get())[0] is not None:
            text += found[0].text
            read.set()
        return text

    with collect_provenance(pieces):
        reading = asyncio.create_task(reader())
        await asyncio.sleep(0.01)  # it waits
        await asyncio.wait_for(asyncio.to_thread(scripted.chat, message("a long tale")), PATIENCE)
        assert await asyncio.wait_for(reading, PATIENCE) == STORY


def test_a_view_is_written_to(scripted: NudgingLLM) -> None:
    out = io.StringIO()
    with collect_provenance(TerminalView(Console(file=out, force_terminal=False, width=200))):
        scripted.complete("number 1")
        scripted.complete("number 2")
    assert out.getvalue() == f"{answer_to(1)}\n{answer_to(2)}\n"


def test_what_cannot_be_told_is_refused(scripted: NudgingLLM) -> None:
    async def note(piece: Piece, call: CallProvenance) -> None: ...

    with pytest.raises(TypeError, match=r"asyncio\.Queue"), collect_provenance(note):
        pass
    with pytest.raises(TypeError, match="a queue"), collect_provenance(3):
        pass
    with collect_provenance() as calls:
        scripted.complete("number 1")
    assert len(calls) == 1


def test_pieces_are_the_cores(llm: NudgingLLM, generator: NudgingGenerator) -> None:
    seen: list[Piece] = []
    with collect_provenance(lambda piece, call: seen.append(piece)) as calls:
        llm.complete("Who wrote this?")
    expected = generator.generate("Who wrote this?").provenance
    assert timeless(seen) == timeless(expected.pieces) == timeless(calls[0].pieces)


# -- stopping ---------------------------------------------------------------------------------------------------------


async def test_cancelling_an_agents_run_stops_compute(
    scripted: NudgingLLM, pair: NudgingGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, go = threading.Event(), threading.Event()

    def held(rows: Any, real: Any = pair.base.engine.forward) -> Any:
        if len(forwards) > 20 and not go.is_set():
            reached.set()
            assert go.wait(PATIENCE)
        return real(rows)

    monkeypatch.setattr(pair.base.engine, "forward", held)
    forwards = watched(pair, monkeypatch)
    agent = FunctionAgent(tools=[FunctionTool.from_defaults(answer_to)], llm=scripted)
    with collect_provenance() as calls:
        handler = agent.run("a long tale")
        async for event in handler.stream_events():
            if isinstance(event, AgentStream) and event.delta:
                break
        assert await asyncio.to_thread(reached.wait, PATIENCE), "the answer ended too soon"
        await handler.cancel_run()
        go.set()
        before = len(forwards)
        with pytest.raises(BaseException) as raised:
            await asyncio.wait_for(handler, PATIENCE)
        assert not isinstance(raised.value, asyncio.TimeoutError)
    await asyncio.sleep(0.05)
    assert len(forwards) <= before + 1, "no more than the forward under way"
    [call] = calls
    assert call.text and STORY.startswith(call.text) and len(call.text) < len(STORY)
    assert call.provenance is not None and call.provenance.finish_reason == "cancelled" and call.error is None
    assert (await scripted.achat(message("number 3"))).message.content == answer_to(3)


@pytest.mark.parametrize("method", ["stream_chat", "stream_complete"])
@pytest.mark.parametrize("how", ["close", "forget"])
def test_leaving_a_stream_stops_compute(scripted: NudgingLLM, forwards: list[str], method: str, how: str) -> None:
    with collect_provenance() as calls:
        stream = getattr(scripted, method)("a long tale" if "complete" in method else message("a long tale"))
        text = "".join(next(stream).delta for _ in range(3))
        if how == "close":
            stream.close()
        else:
            del stream
    before = len(forwards)
    [call] = calls
    assert call.text.startswith(text) and STORY.startswith(call.text) and len(call.text) < len(STORY)
    assert call.provenance is not None and call.provenance.finish_reason == "cancelled"
    found = scripted.provenance_of(text)
    assert found is not None and found.provenance == call.provenance
    assert len(forwards) == before and scripted.complete("number 3").text == answer_to(3)


async def test_leaving_an_async_stream_stops_compute(scripted: NudgingLLM, forwards: list[str]) -> None:
    with collect_provenance() as calls:
        stream = await scripted.astream_chat(message("a long tale"))
        text = "".join([(await anext(stream)).delta or "" for _ in range(3)])
        await stream.aclose()
    before = len(forwards)
    await asyncio.sleep(0.05)
    [call] = calls
    assert len(forwards) == before
    assert call.text.startswith(text) and STORY.startswith(call.text) and len(call.text) < len(STORY)
    assert call.provenance is not None and call.provenance.finish_reason == "cancelled"


@pytest.mark.parametrize("method", ["achat", "acomplete"])
async def test_cancelling_a_task_stops_compute(scripted: NudgingLLM, forwards: list[str], method: str) -> None:
    with collect_provenance() as calls:
        asked = getattr(scripted, method)("a long tale" if "complete" in method else message("a long tale"))
        task = asyncio.create_task(asked)
        while not calls.answers or len(calls[0].pieces) < 3:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, PATIENCE)
    before = len(forwards)
    await asyncio.sleep(0.05)
    [call] = calls
    assert len(forwards) <= before + 1 and call.error is None
    assert call.provenance is not None and call.provenance.finish_reason == "cancelled"
    assert STORY.startswith(call.text) and len(call.text) < len(STORY)


def test_a_stream_that_is_never_read_costs_nothing(scripted: NudgingLLM, forwards: list[str]) -> None:
    with collect_provenance() as calls:
        stream = scripted.stream_complete("a long tale")
        del stream
    assert len(forwards) == 0 and len(calls) == 0 and calls.last is None


# -- events -----------------------------------------------------------------------------------------------------------


class Events(BaseEventHandler):
    """All events, or only those named so; raises on each if it is told to."""

    seen: list[Any] = []
    only: tuple[str, ...] = ()
    broken: bool = False

    @classmethod
    def class_name(cls) -> str:
        return "Events"

    def handle(self, event: Any, **kwargs: Any) -> None:
        if not self.only or event.class_name() in self.only:
            self.seen.append(event)
        if self.broken:
            raise RuntimeError("the handler's")

    def of(self, name: str) -> list[Any]:
        return [event for event in self.seen if event.class_name() == name]


@pytest.fixture
def events() -> Iterator[Events]:
    handler, root = Events(seen=[]), get_dispatcher()
    root.add_event_handler(handler)
    yield handler
    root.event_handlers.remove(handler)


@pytest.mark.parametrize("method", ["chat", "stream_chat", "achat", "astream_chat", "complete", "stream_complete"])
async def test_events_of_one_answer(llm: NudgingLLM, generator: NudgingGenerator, events: Events, method: str) -> None:
    expected = generator.generate("Who wrote this?").provenance
    found = getattr(llm, method)("Who wrote this?" if "complete" in method else message("Who wrote this?"))
    if method.startswith("a"):
        found = await found
    if "stream" in method:
        responses = [part async for part in found] if method.startswith("a") else list(found)
        found = responses[-1]
    pieces, [end] = events.of("NudgePieceEvent"), events.of("NudgeEndEvent")
    assert [event.piece["text"] for event in pieces] == [piece.text for piece in expected.pieces]
    assert {event.nudging_id for event in (*pieces, end)} == {found.raw["nudging"]["id"]}
    assert end.nudge_ratio == expected.nudge_ratio and not {"pieces", "text"} & set(end.record)
    assert end.record["finish_reason"] == expected.finish_reason
    kind = "LLMCompletion" if "complete" in method else "LLMChat"
    [start], [over] = events.of(f"{kind}StartEvent"), events.of(f"{kind}EndEvent")
    assert start.span_id is not None
    assert {event.span_id for event in (*pieces, end, over)} == {start.span_id}


def test_events_of_two_calls_are_told_apart(scripted: NudgingLLM, events: Events) -> None:
    first, second = scripted.stream_complete("number 1"), scripted.stream_complete("number 2")
    for _ in zip(first, second, strict=False):  # one piece of the one, one of the other
        pass
    list(second)
    said: dict[str, str] = {}
    spans: dict[str, set[str]] = {}
    for event in events.of("NudgePieceEvent"):
        said[event.nudging_id] = said.get(event.nudging_id, "") + event.piece["text"]
        spans.setdefault(event.nudging_id, set()).add(event.span_id)
    assert sorted(said.values()) == [answer_to(1), answer_to(2)]
    one, two = spans.values()
    assert len(one) == len(two) == 1 and one != two


@pytest.mark.parametrize("kept", [False, True], ids=["others forgotten", "others kept"])
@pytest.mark.parametrize("way", ["stream_chat", "stream_complete", "astream_chat", "astream_complete"])
async def test_events_of_an_answer_that_was_left(scripted: NudgingLLM, events: Events, way: str, kept: bool) -> None:
    """Also where a tracer keeps LlamaIndex's event of it, which holds on to LlamaIndex's own generator."""
    events.only = () if kept else ("NudgePieceEvent", "NudgeEndEvent")
    with collect_provenance() as calls:
        stream = getattr(scripted, way)("a long tale" if "complete" in way else message("a long tale"))
        if way.startswith("a"):
            stream = await stream
            await anext(stream)
            await stream.aclose()
        else:
            next(stream)
            stream.close()
        del stream
        await asyncio.sleep(0.05)
    [end] = events.of("NudgeEndEvent")
    assert end.record["finish_reason"] == "cancelled"
    assert calls.last is not None and calls.last.finish_reason == "cancelled"


def test_a_handler_that_raises_breaks_nothing(scripted: NudgingLLM, events: Events) -> None:
    events.broken = True
    with collect_provenance() as calls:
        assert scripted.complete("number 1").text == answer_to(1)
    assert texts(calls) == [answer_to(1)] and events.of("NudgeEndEvent")


@pytest.mark.parametrize("method", ["chat", "stream_chat", "complete", "stream_complete", "achat", "astream_complete"])
async def test_tokens_are_counted_once_and_are_the_base_models(pair: NudgingGenerator, method: str) -> None:
    handler = TokenCountingHandler(tokenizer=lambda text: [0] * 1000)
    llm = NudgingLLM(generator=pair, callback_manager=CallbackManager([handler]))
    found = getattr(llm, method)("number 1" if "complete" in method else message("number 1"))
    if method.startswith("a"):
        found = await found
    if "stream" in method:
        found = ([part async for part in found] if method.startswith("a") else list(found))[-1]
    record = get_provenance(found)
    assert record is not None and len(handler.llm_token_counts) == 1
    assert handler.prompt_llm_token_count == record.base.prompt_tokens > 0
    assert handler.completion_llm_token_count == record.n_tokens > 0


# -- the latest answers -----------------------------------------------------------------------------------------------


def joined(found: Any) -> str:
    for piece in found.pieces:
        assert found.text[piece.start : piece.start + len(piece.text)] == piece.text
    return "".join(piece.text for piece in found.pieces)


@pytest.mark.slow
def test_sixty_four_answers_are_kept(scripted: NudgingLLM) -> None:
    for i in range(66):
        scripted.complete(f"number {i}")
    assert scripted.provenance_of(answer_to(0)) is None and scripted.provenance_of(answer_to(1)) is None
    assert all(joined(scripted.provenance_of(answer_to(i))) == answer_to(i) for i in range(2, 66))


def test_copies_share_them(scripted: NudgingLLM) -> None:
    copies = [scripted.with_options(threshold=0.2), scripted.model_copy(), scripted.model_copy(deep=True)]
    for i, copy in enumerate(copies):
        copy.complete(f"number {i}")
    everyone = [scripted, *copies, copies[0].with_options(lookahead=4)]
    assert all(llm.provenance_of(answer_to(i)) is not None for i in range(len(copies)) for llm in everyone)
    other = NudgingLLM(generator=scripted.generator)
    assert other.provenance_of(answer_to(0)) is None


def test_of_equal_answers_the_latest_is_found_unless_the_id_is_known(scripted: NudgingLLM) -> None:
    first = scripted.chat(message("number 1"), threshold=0.2)
    second = scripted.complete("number 1", threshold=0.3)
    scripted.complete("number 2")
    thresholds = {
        holder: scripted.provenance_of(holder).provenance.config["threshold"]
        for holder in (answer_to(1), answer_to(1)[3:])
    }
    assert thresholds == {answer_to(1): 0.3, answer_to(1)[3:]: 0.3}
    assert scripted.provenance_of(Response(answer_to(1))).provenance.config["threshold"] == 0.3
    for holder in (first, first.message):
        assert scripted.provenance_of(holder).provenance.config["threshold"] == 0.2
    assert scripted.provenance_of(second).provenance.config["threshold"] == 0.3


def test_the_id_wins_over_the_text(scripted: NudgingLLM) -> None:
    kept = scripted.chat(message("number 1")).message
    scripted.complete("number 2")
    kept.blocks[0].text = "  its square is 1;"  # LlamaIndex writes over texts of streams
    found = scripted.provenance_of(kept)
    assert found.provenance.text == answer_to(1) and joined(found).strip() == "its square is 1;"
    kept.blocks[0].text = answer_to(2)
    found = scripted.provenance_of(kept)
    assert found.provenance.text == answer_to(1) and found.pieces == () and found.text == answer_to(2)


@pytest.mark.parametrize("text", ["Nobody said that.", "", " \n", "number 1", answer_to(1) + "!", f"x{answer_to(1)}"])
def test_what_nobody_said_is_nobodys(scripted: NudgingLLM, text: str) -> None:
    scripted.complete("number 1")
    assert scripted.provenance_of(text) is None and scripted.provenance_of(ChatMessage(content=text)) is None


def test_what_has_no_text_is_nobodys(scripted: NudgingLLM) -> None:
    scripted.complete("number 1")
    assert scripted.provenance_of(None) is None and scripted.provenance_of(3) is None


@pytest.mark.parametrize(
    ("said", "text", "whose"),
    [
        ("  Two\n", "  Two\n", "  Two\n"),
        ("  Two\n", "Two", "Two"),
        ("Two", "\n Two \n", "Two"),
        ("Two words.", "words.", "words."),
        ("Two words. ", "words.", "words."),
        ("Two.\nWords.", "Words.", "Words."),
        ("Thought: so.\nAnswer: Two words.", "Two words.", "Two words."),
        ("Two words here.", "words here", "words here"),
        ("aba aba", "ba aba", "ba aba"),
        ("日本 語", "日本", "日本"),
        ("It has many words, of which some stand here.", "of which some stand here.", "of which some stand here."),
    ],
)
def test_parts_of_an_answer(said: str, text: str, whose: str) -> None:
    recent = Recent()
    add(recent, said)
    found = recent.find(text)
    assert found is not None and found.text == text and joined(found) == whose


def test_the_end_of_one_answer_wins_over_the_middle_of_a_later_one() -> None:
    recent = Recent()
    add(recent, "Thought: so.\nAnswer: Two words.", "first")
    add(recent, "Two words. More.", "second")
    assert recent.find("Two words.").provenance.config == {"name": "first"}
    add(recent, "Two words.\n", "third")
    assert recent.find("Two words.").provenance.config == {"name": "third"}


def test_answers_with_labels_between_them(scripted: NudgingLLM) -> None:
    """The response mode "accumulate"; the same answer twice is two answers."""
    index = SummaryIndex.from_documents([Document(text=f"number {i}") for i in (1, 1, 2)])
    made = get_response_synthesizer(llm=scripted, response_mode="accumulate")  # type: ignore[arg-type]
    response = index.as_query_engine(llm=scripted, response_synthesizer=made).query("Which?")
    assert str(response).count("Response ") == 3
    found = scripted.provenance_of(response)
    assert [record.text for record in found.records] == [answer_to(1), answer_to(1), answer_to(2)]
    assert joined(found) == "".join(record.text for record in found.records)


# -- generated texts --------------------------------------------------------------------------------------------------


def add(recent: Recent, text: str, name: str = "") -> None:
    kept = as_kept(text, [3], name)
    recent.add(kept.id, kept.record, kept.pieces)


def as_kept(text: str, sizes: list[int], name: str = "") -> _Kept:
    """An answer as pieces of these sizes, over and over."""
    pieces: list[Piece] = []
    while (at := sum(len(piece.text) for piece in pieces)) < len(text):
        part = text[at : at + sizes[len(pieces) % len(sizes)]]
        pieces.append(Piece(part, at, "base", Reason.CONFIDENT, len(part), 0.9, part, 0, 0.0))
    use: Any = {"name": "m", "prompt_tokens": 1, "tokens": 1}
    made = {"pieces": tuple(pieces), "base": use, "nudging": use, "total_s": 0.0, "config": {"name": name}}
    return _Kept(name, text, tuple(pieces), Provenance.model_validate(made))


answers = st.text("ab \n\t語", min_size=1, max_size=12).filter(str.strip)
sizes = st.lists(st.integers(1, 5), min_size=1, max_size=4)


def check(found: Any, text: str) -> None:
    """Pieces are parts of the text, in order, none over another."""
    assert found.text == text
    end = 0
    for piece in found.pieces:
        assert piece.text and piece.start >= end
        end = piece.start + len(piece.text)
        assert text[piece.start : end] == piece.text


@given(text=answers, sizes=sizes, data=st.data())
@example(text="a ba", sizes=[1], data=None)
def test_any_part_of_any_answer(text: str, sizes: list[int], data: Any) -> None:
    kept = as_kept(text, sizes)
    begin = data.draw(st.integers(0, len(text))) if data else 1
    end = data.draw(st.integers(begin, len(text))) if data else 4
    part = text[begin:end]
    if not part.strip():
        return
    found = _within(part, kept)
    assert found is not None
    check(found, part)
    covered = {i for piece in found.pieces for i in range(piece.start, piece.start + len(piece.text))}
    assert {i for i, char in enumerate(part) if not char.isspace()} <= covered, "all but white space is somebody's"
    if part == text:
        assert found.pieces == kept.pieces
    assert sum(piece.n_tokens for piece in found.pieces) <= sum(piece.n_tokens for piece in kept.pieces)


@given(
    text=answers,
    sizes=sizes,
    before=st.text(" \n\t", max_size=3),
    after=st.text(" \n\t", max_size=3),
    strip=st.booleans(),
)
def test_any_answer_with_other_white_space(text: str, sizes: list[int], before: str, after: str, strip: bool) -> None:
    shown = before + (text.strip() if strip else text) + after
    found = _within(shown, as_kept(text, sizes))
    assert found is not None
    check(found, shown)
    assert text.strip() in "".join(piece.text for piece in found.pieces)


@given(text=answers, other=answers, sizes=sizes)
def test_no_part_is_no_part(text: str, other: str, sizes: list[int]) -> None:
    found = _within(other, as_kept(text, sizes))
    assert (found is not None) == (other.strip() in text)
    if found is not None:
        check(found, other)


@given(said=st.lists(answers, min_size=1, max_size=4), sizes=sizes, data=st.data())
def test_any_answers_between_labels(said: list[str], sizes: list[int], data: Any) -> None:
    """The labels have letters that no answer has."""
    text = "".join(f"Response {i}: {answer}\n---\n" for i, answer in enumerate(said))
    latest = [as_kept(answer, sizes, str(i)) for i, answer in enumerate(said)]
    latest = data.draw(st.permutations(latest))
    found = _containing(text, latest)
    assert found is not None
    check(found, text)
    assert all(any(record is kept.record for kept in latest) for record in found.records)
    assert "".join(piece.text for piece in found.pieces) == "".join(record.text.strip() for record in found.records)
    if len({answer.strip() for answer in said}) == len(said) and not any(
        one is not other and one.strip() in other for one in said for other in said
    ):
        assert [record.text for record in found.records] == said


@given(text=st.text("ab \n語x", max_size=30), said=st.lists(answers, max_size=4), sizes=sizes)
def test_any_text_at_all(text: str, said: list[str], sizes: list[int]) -> None:
    recent = Recent()
    for i, answer in enumerate(said):
        kept = as_kept(answer, sizes, str(i))
        recent.add(kept.id, kept.record, kept.pieces)
    found = recent.find(text)
    if found is not None:
        check(found, text)
        assert found.records and found.provenance == found.records[-1]
