"""What a LlamaIndex LLM should do, as a class of checks that any LLM over local models can be run through.

A subclass says how the LLM is made (``make``), and what of it can be looked at (``models``). Checks need no fixture and no event
loop, so that they can be run without pytest too: ``observe``. The first line of a check's docstring is its row in the table.
"""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import re
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.base.llms.types import ChatMessage, CompletionResponse, MessageRole, TextBlock, ToolCallBlock
from llama_index.core.callbacks import CallbackManager, CBEventType
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers.base import BaseEventHandler
from llama_index.core.llms import LLM
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

#: LlamaIndex's eight methods.
WAYS = (
    "chat",
    "stream_chat",
    "achat",
    "astream_chat",
    "complete",
    "stream_complete",
    "acomplete",
    "astream_complete",
)
STREAMS = tuple(way for way in WAYS if "stream" in way)
QUESTION = "Why is the sea salt?"
SYSTEM = "Be brief and kind."
BROKEN = "the device is gone"
#: Seconds that a forward takes in checks of what happens meanwhile.
SLOW = 0.01


def user(text: str = QUESTION) -> ChatMessage:
    return ChatMessage(role=MessageRole.USER, content=text)


def system(text: str = SYSTEM) -> ChatMessage:
    return ChatMessage(role=MessageRole.SYSTEM, content=text)


def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


#: A call of it.
MULTIPLIED = ToolCallBlock(tool_call_id="c1", tool_name="multiply", tool_kwargs={"a": 23, "b": 47})


def calling(*blocks: ToolCallBlock) -> ChatMessage:
    return ChatMessage(role=MessageRole.ASSISTANT, blocks=list(blocks))


def result(call_id: str, text: str) -> ChatMessage:
    """A tool's, as LlamaIndex's agents write it."""
    return ChatMessage(role=MessageRole.TOOL, content=text, additional_kwargs={"tool_call_id": call_id})


class City(BaseModel):
    """A city."""

    name: str


def begun(llm: LLM, way: str, given: Any = None, **options: Any) -> Any:
    """What a method returns: of an asynchronous one, what is to be awaited."""
    given = QUESTION if given is None else given
    if "complete" not in way and isinstance(given, str):
        given = [user(given)]
    return getattr(llm, way)(given, **options)


async def aresponses(llm: LLM, way: str, given: Any = None, **options: Any) -> list[Any]:
    found = await begun(llm, way, given, **options)
    return [response async for response in found] if "stream" in way else [found]


def responses(llm: LLM, way: str, given: Any = None, **options: Any) -> list[Any]:
    """All responses of one call: of one that is not streamed, one."""
    if way.startswith("a"):
        return asyncio.run(aresponses(llm, way, given, **options))
    found = begun(llm, way, given, **options)
    return list(found) if "stream" in way else [found]


def text_of(response: Any) -> str:
    return (response.text if isinstance(response, CompletionResponse) else response.message.content) or ""


def answer(llm: LLM, way: str = "chat", given: Any = None, **options: Any) -> str:
    """The text of the last response."""
    return text_of(responses(llm, way, given, **options)[-1])


def refusal(doing: Callable[[], Any]) -> str:
    """What an error says; nothing if there was none."""
    try:
        doing()
    except Exception as error:
        return str(error) or type(error).__name__
    return ""


def within(seconds: float, doing: Callable[[], Any], what: str) -> Any:
    """Result or error of ``doing``; an ``AssertionError`` if it has not ended after that long."""
    outcome: list[Callable[[], Any]] = []

    def run() -> None:
        try:
            found = doing()
            outcome.append(lambda: found)
        except BaseException as error:
            outcome.append(lambda error=error: _raise(error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert outcome, f"{what} hangs"
    return outcome[0]()


def _raise(error: BaseException) -> Any:
    raise error


class Watch:
    """Sees the forwards of models, slows them down, or lets one fail.

    Attributes:
        forwards: how many have begun.
        prompts: for each model, the tokens that it was given first.
        read: for each model, all tokens that it was given, in order.
    """

    def __init__(self, models: Sequence[tuple[Any, Any]], delay: float, fail_at: int | None) -> None:
        self.forwards = 0
        self.prompts: list[list[int]] = [[] for _ in models]
        self.read: list[list[int]] = [[] for _ in models]
        self._models, self._delay, self._fail_at = models, delay, fail_at
        self._hooks: list[Any] = []

    def __enter__(self) -> Watch:
        for at, (model, _) in enumerate(self._models):
            self._hooks.append(
                model.register_forward_pre_hook(
                    lambda _, args, kwargs, at=at: self._seen(at, args, kwargs), with_kwargs=True
                )
            )
        return self

    def __exit__(self, *_: Any) -> None:
        for hook in self._hooks:
            hook.remove()

    def _seen(self, at: int, args: Any, kwargs: Any) -> None:
        self.forwards += 1
        given = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
        tokens = given[0].tolist()
        self.prompts[at] = self.prompts[at] or tokens
        self.read[at] += tokens
        if self._delay:
            time.sleep(self._delay)
        if self.forwards == self._fail_at:
            raise RuntimeError(BROKEN)

    @property
    def texts(self) -> list[str]:
        """What each model has read, as text."""
        return [model[1].decode(tokens) for model, tokens in zip(self._models, self.read, strict=True)]

    def settled(self) -> int:
        """The number of forwards, once the one under way has had time to end."""
        time.sleep(3 * SLOW)
        return self.forwards


class Events(BaseEventHandler):
    """Names of LlamaIndex's instrumentation events of LLM calls."""

    names: list[str] = []
    unwritten: dict[str, str] = {}

    @classmethod
    def class_name(cls) -> str:
        return "Events"

    def handle(self, event: Any, **_: Any) -> None:
        if re.fullmatch("LLM(Chat|Completion)(Start|InProgress|End)Event", name := type(event).__name__):
            self.names.append(name)
            if error := refusal(event.model_dump_json):
                self.unwritten[name] = error

    def __enter__(self) -> Events:
        get_dispatcher().add_event_handler(self)
        return self

    def __exit__(self, *_: Any) -> None:
        get_dispatcher().event_handlers.remove(self)


class Callbacks(BaseCallbackHandler):
    """LLM events of the older callback manager."""

    def __init__(self) -> None:
        super().__init__([], [])
        self.starts = self.ends = 0

    def on_event_start(self, event_type: CBEventType, *_: Any, **__: Any) -> str:
        self.starts += event_type is CBEventType.LLM
        return ""

    def on_event_end(self, event_type: CBEventType, *_: Any, **__: Any) -> None:
        self.ends += event_type is CBEventType.LLM

    def start_trace(self, trace_id: str | None = None) -> None: ...

    def end_trace(self, trace_id: str | None = None, trace_map: Any = None) -> None: ...


class LLMConformance(ABC):
    """The checks. An LLM is made anew for each, greedy, over models whose answers are long enough to be cut."""

    #: Whether the LLM says that it calls tools.
    calls_tools = True
    #: Seconds after which something that should have ended hangs.
    limit = 30.0

    @abstractmethod
    def make(self, **options: Any) -> LLM:
        """An LLM with nothing in its caches.

        Args:
            options: ``max_tokens`` (30 if it is not given) and ``system_prompt``, by whatever names the LLM has for them; any other
                argument of the class as it is.
        """

    @abstractmethod
    def make_from_files(self, folder: Path) -> LLM:
        """The same over models saved in a folder."""

    def models(self, llm: LLM) -> list[tuple[Any, Any]]:
        """The torch modules that an LLM computes with and their tokenizers; none if they cannot be reached."""
        return []

    @contextmanager
    def watch(self, llm: LLM, delay: float = 0.0, fail_at: int | None = None) -> Iterator[Watch]:
        models = self.models(llm)
        if not models:
            pytest.skip("its forwards cannot be seen")
        with Watch(models, delay, fail_at) as watched:
            yield watched

    def read(self, doing: Callable[[LLM], Any], **options: Any) -> list[str]:
        """What each model of an LLM reads, as text."""
        llm = self.make(**options)
        with self.watch(llm) as watched:
            doing(llm)
        return watched.texts

    def claims_tools(self) -> None:
        if not self.calls_tools:
            pytest.skip("calls no tools")

    # -- responses ----------------------------------------------------------------------------------------------------

    def test_answers_are_the_same_in_every_way(self) -> None:
        """`chat`, `achat`, `stream_chat`, `astream_chat` give one text; so do the four of `complete`"""
        llm = self.make()
        for kind in ("chat", "complete"):
            texts = {way: answer(llm, way) for way in WAYS if kind in way}
            assert len(set(texts.values())) == 1 and texts[kind], f"texts differ: {texts}"

    def test_deltas_add_up(self) -> None:
        """streams: each response has a delta, and they add up to the text so far"""
        llm = self.make()
        for way in STREAMS:
            text = ""
            for response in responses(llm, way):
                assert response.delta is not None, f"{way}: a delta is None"
                text += response.delta
                assert text_of(response) == text, f"{way}: deltas {text!r} are not the text {text_of(response)!r}"

    def test_a_stream_has_more_than_one_response(self) -> None:
        """streams come in parts, while the model writes"""
        llm = self.make()
        for way in ("stream_chat", "stream_complete"):
            with self.watch(llm) as watched:
                stream = begun(llm, way)
                first = next(stream)
                at = watched.forwards
                last = [first, *stream][-1]
            assert len(text_of(first)) < len(text_of(last)) and at < watched.forwards, f"{way}: all at once"

    def test_the_last_response_of_a_stream_is_complete(self) -> None:
        """streams: the last response has the whole message, as `chat` gives it"""
        llm = self.make()
        for way in STREAMS:
            last, whole = responses(llm, way)[-1], responses(llm, "chat" if "chat" in way else "complete")[-1]
            assert text_of(last) == text_of(whole), f"{way}: {text_of(last)!r} is not {text_of(whole)!r}"
            if "chat" in way:
                assert last.message.role == whole.message.role == MessageRole.ASSISTANT
                assert len(last.message.blocks) == 1, f"{way}: several blocks in one answer"
            assert (last.raw is None) == (whole.raw is None), f"{way}: raw is lost"

    def test_raw_is_json(self) -> None:
        """`raw` and the whole response can be written as JSON, in all eight methods"""
        llm = self.make()
        for way in WAYS:
            for response in responses(llm, way):
                assert not (error := refusal(lambda: json.dumps(response.raw))), f"{way}: raw is no JSON: {error}"
                assert not (error := refusal(response.model_dump_json)), f"{way}: the response is no JSON: {error}"

    # -- events -------------------------------------------------------------------------------------------------------

    def test_events(self) -> None:
        """instrumentation events of a call: one start, one for each streamed response, one end; all eight methods"""
        llm = self.make()
        for way in WAYS:
            with Events() as events:
                found = responses(llm, way)
            kind = "Chat" if "chat" in way else "Completion"
            expected = [f"LLM{kind}InProgressEvent"] * (len(found) if "stream" in way else 0)
            expected = [f"LLM{kind}StartEvent", *expected, f"LLM{kind}EndEvent"]
            counts = {name: events.names.count(name) for name in dict.fromkeys(events.names)}
            assert events.names == expected, f"{way}: {counts} in place of {len(expected)} events"

    def test_events_are_json(self) -> None:
        """instrumentation events can be written as JSON, as tracers do"""
        llm = self.make()
        for way in WAYS:
            with Events() as events:
                responses(llm, way)
            assert not events.unwritten, f"{way}: {events.unwritten}"

    def test_callback_events(self) -> None:
        """the older callback manager sees one LLM event in a call, all eight methods"""
        for way in WAYS:
            seen = Callbacks()
            responses(self.make(callback_manager=CallbackManager([seen])), way)
            assert (seen.starts, seen.ends) == (1, 1), f"{way}: {seen.starts} events began, {seen.ends} ended"

    # -- async --------------------------------------------------------------------------------------------------------

    def test_the_event_loop_is_free(self) -> None:
        """the event loop stays free in `achat`, `acomplete`, `astream_chat`, `astream_complete`"""

        async def ticks(llm: LLM, way: str) -> int:
            count = 0

            async def ticker() -> None:
                nonlocal count
                while True:
                    await asyncio.sleep(SLOW / 2)
                    count += 1

            task = asyncio.create_task(ticker())
            await asyncio.sleep(0)
            await aresponses(llm, way)
            task.cancel()
            return count

        llm = self.make()
        for way in WAYS:
            if way.startswith("a"):
                with self.watch(llm, delay=SLOW) as watched:
                    count = asyncio.run(ticks(llm, way))
                assert watched.forwards >= 10
                assert count >= watched.forwards / 3, f"{way}: {count} ticks in {watched.forwards} forwards"

    def test_concurrent_calls_are_apart(self) -> None:
        """eight `achat` at once, and eight `chat` in threads, give the texts that they give one by one"""
        llm = self.make()
        questions = [f"Question {n}: {QUESTION}" for n in range(8)]
        alone = [answer(self.make(), given=question) for question in questions]
        assert len(set(alone)) > 4

        async def gathered() -> list[str]:
            found = await asyncio.gather(*(aresponses(llm, "achat", question) for question in questions))
            return [text_of(last) for *_, last in found]

        assert asyncio.run(gathered()) == alone
        with ThreadPoolExecutor(8) as threads:
            assert list(threads.map(lambda question: answer(llm, given=question), questions)) == alone

    def test_streams_read_in_turns_are_apart(self) -> None:
        """two streams read in turns give the texts that they give one by one"""
        llm = self.make()
        questions = [QUESTION, "And why is the sky blue?"]
        alone = [answer(self.make(), given=question) for question in questions]
        streams = [begun(llm, "stream_chat", question) for question in questions]
        texts, reading = ["", ""], [0, 1]
        while reading:
            for at in list(reading):
                if (response := next(streams[at], None)) is None:
                    reading.remove(at)
                else:
                    texts[at] = text_of(response)
        assert texts == alone

    # -- errors and leaving -------------------------------------------------------------------------------------------

    def _fails(self, ways: Sequence[str]) -> None:
        llm = self.make()
        before = {way: answer(llm, way) for way in ways}
        for way in ways:
            for forward in (1, 6):
                with self.watch(llm, fail_at=forward):
                    call = f"{way}, when forward {forward} fails,"
                    error = within(self.limit, lambda: refusal(lambda: responses(llm, way)), call)
                assert error, f"{call} ends as if nothing had happened"
                assert BROKEN in error, f"{call} says something else: {error}"
                after = within(self.limit, lambda: answer(llm, way), f"{way} after an error")
                assert after == before[way], f"{way}: after an error the answer is another"

    def test_an_error_reaches_the_caller(self) -> None:
        """an error while the model computes reaches the caller of `chat`, `complete`, `achat`, `acomplete`"""
        self._fails([way for way in WAYS if way not in STREAMS])

    def test_an_error_reaches_the_reader_of_a_stream(self) -> None:
        """… and the reader of `stream_chat`, `stream_complete`; nothing hangs, and the LLM is good for more"""
        self._fails(["stream_chat", "stream_complete"])

    def test_an_error_reaches_the_reader_of_an_async_stream(self) -> None:
        """… and the reader of `astream_chat`, `astream_complete`"""
        self._fails(["astream_chat", "astream_complete"])

    def _stopped(self, watched: Watch, way: str) -> None:
        """Nothing is computed any more, but what was under way."""
        before = watched.forwards
        soon = watched.settled()
        time.sleep(10 * SLOW)
        more = watched.forwards - soon
        assert soon - before <= 2 and not more, f"{way}: {watched.forwards - before} forwards after it was left"

    def test_a_closed_stream_computes_no_more(self) -> None:
        """a stream that is closed computes no more"""
        for way in ("stream_chat", "stream_complete"):
            llm = self.make(max_tokens=60)
            whole = answer(llm, way)
            with self.watch(llm, delay=SLOW) as watched:
                stream = begun(llm, way)
                for _ in range(2):
                    next(stream)
                stream.close()
                self._stopped(watched, way)
            assert answer(llm, way) == whole

    def test_a_dropped_stream_computes_no_more(self) -> None:
        """… or dropped without being closed, as by `break`, or never read"""
        for way in ("stream_chat", "stream_complete"):
            llm = self.make(max_tokens=60)
            with self.watch(llm, delay=SLOW) as watched:
                for _ in begun(llm, way):
                    break
                self._stopped(watched, way)
                begun(llm, way)
                self._stopped(watched, f"{way}, never read")

    def test_a_closed_async_stream_computes_no_more(self) -> None:
        """… or closed with `aclose`"""

        async def leave(llm: LLM, way: str) -> None:
            stream = await begun(llm, way)
            for _ in range(2):
                await anext(stream)
            await stream.aclose()
            with self.watch(llm) as watched:
                await asyncio.sleep(10 * SLOW)
            assert watched.forwards <= 1, f"{way}: {watched.forwards} forwards or more after it was left"

        for way in ("astream_chat", "astream_complete"):
            llm = self.make(max_tokens=60)
            with self.watch(llm, delay=SLOW) as watched:
                asyncio.run(leave(llm, way))
                self._stopped(watched, way)

    def test_a_cancelled_task_computes_no_more(self) -> None:
        """a task that is cancelled ends at once and computes no more, streaming or not"""

        async def cancelled(llm: LLM, way: str, watched: Watch) -> None:
            task = asyncio.create_task(aresponses(llm, way))
            while watched.forwards < 4 and not task.done():
                await asyncio.sleep(SLOW)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            assert task.cancelled(), f"{way}: could not be cancelled, it had all been computed"

        for way in WAYS:
            if way.startswith("a"):
                llm = self.make(max_tokens=60)
                whole = answer(llm, way)
                with self.watch(llm, delay=SLOW) as watched:
                    asyncio.run(cancelled(llm, way, watched))
                    self._stopped(watched, way)
                assert answer(llm, way) == whole

    # -- messages and prompts -----------------------------------------------------------------------------------------

    def test_one_beginning_of_text(self) -> None:
        """the model gets exactly one beginning-of-text token, all eight methods"""
        for way in WAYS:
            llm = self.make()
            with self.watch(llm) as watched:
                responses(llm, way)
            for (_, tokenizer), tokens in zip(self.models(llm), watched.read, strict=True):
                count = tokens.count(tokenizer.bos_token_id)
                assert tokens[0] == tokenizer.bos_token_id and count == 1, f"{way}: {count} beginnings of text"

    def test_two_system_messages(self) -> None:
        """two system messages and one of the user, as query and context engines send them, are taken"""
        second = "The sea has rivers."
        for way in ("chat", "stream_chat", "achat", "astream_chat"):
            messages = [system(), system(second), user()]
            try:
                texts = self.read(lambda llm: responses(llm, way, messages))
            except Exception as error:
                raise AssertionError(f"{way}: refused: {error}") from error
            for text in texts:
                for part in (SYSTEM, second, QUESTION):
                    assert text.count(part) == 1, f"{way}: {part!r} is there {text.count(part)} times"

    def test_the_callers_messages_stay_as_they_are(self) -> None:
        """the caller's messages are not changed"""
        several = ChatMessage(role=MessageRole.USER, blocks=[TextBlock(text="Why?"), TextBlock(text="And how?")])
        messages = [system(), user(), ChatMessage(role=MessageRole.ASSISTANT, content="So."), several]
        before = copy.deepcopy(messages)
        llm = self.make(system_prompt="Speak well.")
        for way in ("chat", "stream_chat", "achat", "astream_chat"):
            responses(llm, way, messages)
            assert messages == before, f"{way}: they are {messages}"

    def test_several_text_blocks_are_all_read(self) -> None:
        """all text blocks of a message are read"""
        several = ChatMessage(role=MessageRole.USER, blocks=[TextBlock(text="Why?"), TextBlock(text="And how?")])
        for text in self.read(lambda llm: llm.chat([several])):
            assert "Why?" in text and "And how?" in text, text

    def test_the_system_prompt_is_there_once(self) -> None:
        """`system_prompt` is applied exactly once in `chat`, `complete`, their streams and async forms"""
        for way in WAYS:
            for text in self.read(lambda llm: responses(llm, way), system_prompt=SYSTEM):
                assert text.count(SYSTEM) == 1, f"{way}: it is there {text.count(SYSTEM)} times"

    def test_the_system_prompt_is_there_once_in_prediction(self) -> None:
        """… in `predict`, `stream`, `apredict`, `astream`"""
        template = PromptTemplate("Why is the {what} salt?")

        async def astream(llm: LLM) -> None:
            async for _ in await llm.astream(template, what="sea"):
                pass

        for name, doing in {
            "predict": lambda llm: llm.predict(template, what="sea"),
            "stream": lambda llm: list(llm.stream(template, what="sea")),
            "apredict": lambda llm: asyncio.run(llm.apredict(template, what="sea")),
            "astream": lambda llm: asyncio.run(astream(llm)),
        }.items():
            for text in self.read(doing, system_prompt=SYSTEM):
                assert text.count(SYSTEM) == 1, f"{name}: it is there {text.count(SYSTEM)} times"

    def test_the_system_prompt_is_there_once_in_structured_prediction(self) -> None:
        """… in `structured_predict`, its streamed and async forms, whatever becomes of the answer"""
        template = PromptTemplate("Which {what}?")

        async def streamed(llm: LLM) -> None:
            async for _ in await llm.astream_structured_predict(City, template, what="city"):
                pass

        for name, doing in {
            "structured_predict": lambda llm: llm.structured_predict(City, template, what="city"),
            "astructured_predict": lambda llm: asyncio.run(llm.astructured_predict(City, template, what="city")),
            "stream_structured_predict": lambda llm: list(llm.stream_structured_predict(City, template, what="city")),
            "astream_structured_predict": lambda llm: asyncio.run(streamed(llm)),
        }.items():

            def read(llm: LLM, doing: Callable[[LLM], Any] = doing) -> None:
                with suppress(ValueError):  # random models, where nothing holds them to a form
                    doing(llm)

            for text in self.read(read, system_prompt=SYSTEM, max_tokens=200):
                assert "city" in text and text.count(SYSTEM) == 1, f"{name}: it is there {text.count(SYSTEM)} times"

    def test_complete_and_its_streams_have_one_prompt(self) -> None:
        """`complete`, `stream_complete` and their async forms give the model the same prompt, with a `completion_to_prompt` too"""
        ways = [way for way in WAYS if "complete" in way]
        options: list[dict[str, Any]] = [{}, {"system_prompt": SYSTEM}]
        wrapped = {"completion_to_prompt": lambda prompt: f"Someone asks: {prompt}"}
        if not refusal(lambda: self.make(**wrapped)):  # an LLM may refuse it, but not forget it
            options.append(wrapped)
        for given in options:
            for formatted in (False, True):
                prompts = {}
                for way in ways:
                    llm = self.make(**given)
                    with self.watch(llm) as watched:
                        responses(llm, way, formatted=formatted)
                    prompts[way] = [
                        model[1].decode(p) for model, p in zip(self.models(llm), watched.prompts, strict=True)
                    ]
                same = all(prompt == prompts["complete"] for prompt in prompts.values())
                assert same, f"with {sorted(given)}, formatted={formatted}, prompts differ: {prompts}"

    # -- options ------------------------------------------------------------------------------------------------------

    def test_a_misspelt_argument_is_refused(self) -> None:
        """a misspelt argument of the class is refused, by name"""
        error = refusal(lambda: self.make(sytem_prompt="Be brief."))
        assert "sytem_prompt" in error, f"not refused: {error!r}"

    def test_a_misspelt_option_is_refused(self) -> None:
        """a misspelt keyword of a call is refused, by name; all eight methods"""
        llm = self.make()
        for way in WAYS:
            error = refusal(lambda: responses(llm, way, max_token=3))
            assert "max_token" in error, f"{way}: not refused: {error!r}"

    def test_max_tokens_of_a_call(self) -> None:
        """a call's own `max_tokens` counts; all eight methods"""
        llm = self.make()
        for way in WAYS:
            whole, short = answer(llm, way), answer(llm, way, max_tokens=5)
            assert whole.startswith(short) and 0 < len(short) < len(whole), f"{way}: {short!r} of {whole!r}"

    def test_stop_of_a_call(self) -> None:
        """a call's own `stop` ends the text before it; all eight methods"""
        llm = self.make()
        for way in WAYS:
            whole = answer(llm, way)
            stop = whole[len(whole) // 2 :][:2]
            found = answer(llm, way, stop=[stop])
            assert found == whole[: whole.index(stop)], f"{way}: {found!r} of {whole!r}, to end at {stop!r}"

    def test_temperature_of_a_call(self) -> None:
        """a call's own `temperature` counts; all eight methods"""
        llm = self.make()
        for way in WAYS:
            greedy = answer(llm, way)
            assert any(answer(llm, way, temperature=1.5) != greedy for _ in range(4)), f"{way}: always the same text"

    # -- the object ---------------------------------------------------------------------------------------------------

    def test_metadata(self) -> None:
        """`metadata`: a model name, and a context that has room for a prompt beside the answer"""
        llm = self.make()
        found = llm.metadata
        assert found.model_name not in ("", "unknown") and found.is_chat_model
        assert 0 < found.num_output < found.context_window
        assert found.is_function_calling_model == self.calls_tools
        assert self.make(max_tokens=7).metadata.num_output == 7
        assert json.dumps(llm.to_payload()) if hasattr(llm, "to_payload") else True

    def test_the_name_is_that_of_the_model(self) -> None:
        """`metadata.model_name` is that of the model that was given, not of another"""
        llm = self.make()
        names = [str(model.name_or_path or type(model).__name__) for model, _ in self.models(llm)]
        for name in names:
            assert name in llm.metadata.model_name, f"{llm.metadata.model_name!r} for {names}"

    def _weights(self, llm: LLM) -> list[int]:
        found = [parameter.data_ptr() for model, _ in self.models(llm) for parameter in model.parameters()]
        if not found:
            pytest.skip("its weights cannot be seen")
        return found

    def _copies(self, how: Callable[[LLM], LLM]) -> None:
        llm = self.make()
        text = answer(llm)
        made = how(llm)
        assert made is not llm and answer(made) == text == answer(llm)
        assert self._weights(made) == self._weights(llm), "the weights are there twice"

    def test_copies_share_weights(self) -> None:
        """`copy.copy` and `model_copy` share the weights"""
        self._copies(copy.copy)
        self._copies(lambda llm: llm.model_copy())

    def test_deep_copies_share_weights(self) -> None:
        """`copy.deepcopy` shares the weights, as frameworks copy their settings"""
        self._copies(copy.deepcopy)

    def test_as_a_dict_and_back(self) -> None:
        """`to_dict` and `from_dict` of an LLM over folders give the same LLM; what is between is JSON"""
        with tempfile.TemporaryDirectory() as folder:
            llm = self.make_from_files(Path(folder))
            text = answer(llm)
            written = refusal(lambda: json.dumps(llm.to_dict()))
            assert not written, f"to_dict gives no JSON: {written}"
            data = llm.to_dict()
            try:
                again = type(llm).from_dict(json.loads(json.dumps(data)))
            except Exception as error:
                raise AssertionError(f"from_dict fails: {error}") from error
            assert answer(again) == text and again.to_dict() == data

    def _pickled(self, llm: LLM) -> None:
        text = answer(llm)
        try:
            data = pickle.dumps(llm)
        except Exception as error:
            assert not re.search("pickle|local object|unpicklable", str(error)), f"no clear refusal: {error}"
            assert answer(llm) == text
        else:
            error = refusal(lambda: answer(pickle.loads(data)))
            assert not error, f"what was pickled cannot be used: {error}"
            assert answer(pickle.loads(data)) == text

    def test_pickle(self) -> None:
        """pickle works, or is refused with a reason; over loaded models and over folders"""
        self._pickled(self.make())
        with tempfile.TemporaryDirectory() as folder:
            self._pickled(self.make_from_files(Path(folder)))

    # -- tools --------------------------------------------------------------------------------------------------------

    def test_a_tools_result_is_shown(self) -> None:
        """a tool's result that carries nothing but its call's id is shown after the call"""
        self.claims_tools()
        messages = [user(), calling(MULTIPLIED), result("c1", "1081")]
        for way in ("chat", "stream_chat", "achat", "astream_chat"):
            for text in self.read(lambda llm: responses(llm, way, messages)):
                for part in ("multiply", "23", "47", "1081"):
                    assert part in text, f"{way}: no {part!r} in {text!r}"
                assert text.index("multiply") < text.index("1081")

    def test_results_are_told_apart(self) -> None:
        """results of several calls are shown with their tools' names, or in the order of the calls, as they may come in another"""
        self.claims_tools()
        weighed = ToolCallBlock(tool_call_id="c2", tool_name="weigh", tool_kwargs={"what": "salt"})
        messages = [user(), calling(MULTIPLIED, weighed), result("c2", "9 kg"), result("c1", "1081")]
        for text in self.read(lambda llm: llm.chat(messages)):
            named = re.search(r"weigh\W[^\n]*\n?[^\n]*9 kg", text) and text.count("multiply") > 1
            assert named or text.index("1081") < text.index("9 kg"), f"whose is which? {text!r}"

    def test_a_call_that_must_be_is_one(self) -> None:
        """`tool_required`: a call of one of the tools, with arguments that it takes; in four ways"""
        self.claims_tools()
        llm = self.make(max_tokens=300)
        tool = FunctionTool.from_defaults(multiply)
        for way in ("chat", "stream_chat", "achat", "astream_chat"):

            async def asked(way: str = way) -> Any:
                found = getattr(llm, f"{way}_with_tools")([tool], user_msg=QUESTION, tool_required=True)
                found = await found if way.startswith("a") else found
                if "stream" not in way:
                    return [found]
                return [response async for response in found] if way.startswith("a") else list(found)

            *before, last = asyncio.run(asked())
            for response in before:  # must not raise: agents ask of each
                llm.get_tool_calls_from_response(response, error_on_no_tool_call=False)
            calls = llm.get_tool_calls_from_response(last, error_on_no_tool_call=True)
            assert {call.tool_name for call in calls} == {"multiply"}, way
            assert len({call.tool_id for call in calls}) == len(calls) and all(call.tool_id for call in calls), way
            assert all(isinstance(multiply(**call.tool_kwargs), int) for call in calls), way
            blocks = [block for block in last.message.blocks if isinstance(block, ToolCallBlock)]
            assert len(blocks) == len(calls), f"{way}: the last message does not have all calls"

    def test_the_callers_messages_and_tools_stay_as_they_are(self) -> None:
        """the caller's history is not changed by a call with tools"""
        self.claims_tools()
        history = [system(), user(), ChatMessage(role=MessageRole.ASSISTANT, content="So.")]
        before = copy.deepcopy(history)
        llm = self.make(max_tokens=300)
        llm.chat_with_tools([FunctionTool.from_defaults(multiply)], user_msg="And how?", chat_history=history)
        assert history == before

    def test_events_with_tools_are_json(self) -> None:
        """instrumentation events of a call with tools can be written as JSON"""
        self.claims_tools()
        with Events() as events:
            self.make(max_tokens=300).chat_with_tools([FunctionTool.from_defaults(multiply)], user_msg=QUESTION)
        assert not events.unwritten, events.unwritten

    def test_structured_prediction_fits(self) -> None:
        """`structured_predict` gives an object of the class, whatever the model would write"""
        self.claims_tools()
        found = self.make(max_tokens=300).structured_predict(City, PromptTemplate("Which city?"))
        assert type(found) is City


def checks() -> dict[str, str]:
    """The names of all checks, and what each says of an LLM."""
    return {
        name: " ".join((check.__doc__ or "").split())
        for name, check in vars(LLMConformance).items()
        if name.startswith("test_")
    }


def observe(subject: LLMConformance, name: str, seconds: float) -> str:
    """What a check says of an LLM: "passes", "not claimed: …" or "fails: …"; one that hangs fails after some seconds."""
    try:
        within(seconds, getattr(subject, name), name)
    except pytest.skip.Exception as skipped:
        return f"not claimed: {skipped}"
    except Exception as error:
        return f"fails: {str(error) or type(error).__name__}"
    return "passes"
