"""Many at once, stopping in the middle, and LangChain's own wrappers around a model: retry, fallbacks, caches, rate limits."""

from __future__ import annotations

import asyncio
import gc
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from operator import add
from typing import Any

import pytest
import torch
from langchain_core.caches import InMemoryCache
from langchain_core.globals import get_llm_cache, set_llm_cache
from langchain_core.output_parsers import StrOutputParser
from langchain_core.rate_limiters import InMemoryRateLimiter

from langchain_nudging import ChatNudging, get_pieces, get_provenance
from nudging_llm import ContextOverflowError, NudgingConfig, NudgingGenerator, OutOfMemoryError, UnsupportedContentError
from nudging_llm.engines.base import Row
from nudging_llm.protocol import Prediction
from nudging_llm.testing.scripted import scripted_pair
from nudging_llm.testing.tiny import tiny_model, tiny_tokenizer

PATIENCE = 30  # seconds until a test that hangs fails
STORY = " ".join(f"Then came day {i}." for i in range(26))


def script(prompt: str) -> str:
    """A number is answered with its name and square; a long tale is long."""
    asked = re.findall(r"number (\d+)", prompt)
    if asked:
        number = int(asked[-1])
        return f"Number {number} it is, and its square is {number * number}; 東京 says so."
    return STORY if "long tale" in prompt else "Hello! How can I help you today?"


def answer_to(number: int) -> str:
    return script(f"number {number}")


class Watch:
    """Sees every forward of a pair, as the texts of its rows, and can hold one back until told to let it go."""

    def __init__(self, generator: NudgingGenerator) -> None:
        self.forwards: list[list[str]] = []
        self.begun, self._go, self._hold_at = threading.Event(), threading.Event(), -1
        for engine in (generator.base.engine, generator.nudging.engine):
            engine.forward = self._watched(engine, engine.forward)  # type: ignore[method-assign]

    def _watched(self, engine: Any, forward: Callable[..., Any]) -> Callable[..., Any]:
        def watched(rows: Sequence[Row]) -> list[list[Prediction]]:
            self.forwards.append([engine.tokenizer.decode([*row.cache, *row.tokens]) for row in rows])
            if len(self.forwards) == self._hold_at:
                self.begun.set()
                assert self._go.wait(PATIENCE), "nobody let this forward go"
            found: list[list[Prediction]] = forward(rows)
            return found

        return watched

    def hold(self, after: int) -> None:
        """Hold back the forward that comes after so many more."""
        self._hold_at = len(self.forwards) + after + 1

    async def held(self) -> None:
        """Wait until it is."""
        assert await asyncio.to_thread(self.begun.wait, PATIENCE), "no such forward began"

    def release(self) -> None:
        self._go.set()

    @property
    def of_the_tale(self) -> int:
        """Forwards that the long tale took part in."""
        return sum(any("long tale" in text for text in rows) for rows in self.forwards)


@pytest.fixture
def generator() -> NudgingGenerator:
    return scripted_pair(script)


@pytest.fixture
def watch(generator: NudgingGenerator) -> Watch:
    return Watch(generator)


@pytest.fixture
def model(generator: NudgingGenerator) -> ChatNudging:
    return ChatNudging(generator=generator)


@pytest.fixture(scope="module")
def tiny() -> ChatNudging:
    base, nudging = (tiny_model(7), tiny_tokenizer(False)), (tiny_model(57), tiny_tokenizer(True))
    return ChatNudging(base_model=base, nudging_model=nudging, max_tokens=30, threshold=0.3)


def same(message: Any, text: str) -> bool:
    """Whether an answer has this text, in its content, its pieces and its record."""
    joined = "".join(piece.text for piece in get_pieces(message))
    return message.text == joined == get_provenance(message).text == text


# -- many at once -----------------------------------------------------------------------------------------------------


async def astreamed(model: Any, number: int) -> Any:
    return reduce(add, [chunk async for chunk in model.astream(f"number {number}")])


@pytest.mark.parametrize("batch", ["batch", "abatch"])
def test_a_batch_shares_forwards_and_keeps_its_order(model, generator, batch):
    questions = [f"number {i}" for i in range(16)]
    for _ in range(20):  # these models answer at once: on a busy machine threads may just miss one another
        found = model.batch(questions) if batch == "batch" else asyncio.run(model.abatch(questions))
        assert [message.text for message in found] == [answer_to(i) for i in range(16)]
        if max(generator.base.engine.most_rows, generator.nudging.engine.most_rows) > 1:
            return
    raise AssertionError("no two of them shared a forward")


def test_a_batch_can_keep_what_fails_apart(model):
    image = [("human", [{"type": "image_url", "image_url": "x"}])]
    one, bad, two = model.batch(["number 1", image, "number 2"], return_exceptions=True)
    assert [one.text, two.text] == [answer_to(1), answer_to(2)]
    assert isinstance(bad, UnsupportedContentError)


def test_one_object_works_on_one_event_loop_after_another(model):
    assert [asyncio.run(astreamed(model, i)).text for i in range(3)] == [answer_to(i) for i in range(3)]


async def test_the_event_loop_runs_on_while_a_batch_computes(model, watch):
    """The forward is not let go before the loop has ticked: were the loop blocked, nobody could."""
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        await watch.held()
        while ticks < 5:
            await asyncio.sleep(0)
            ticks += 1
        watch.release()

    watch.hold(after=3)
    [message], _ = await asyncio.gather(model.abatch(["number 7"]), tick())
    assert same(message, answer_to(7))
    assert ticks == 5


# -- stopping ---------------------------------------------------------------------------------------------------------


def test_a_loop_that_ends_within_a_forward_leaves_the_model_usable(model, watch):
    async def run() -> None:
        task = asyncio.create_task(model.ainvoke("a long tale"))
        await watch.held()
        assert not task.done()

    watch.hold(after=10)
    asyncio.run(run())
    watch.release()
    assert same(asyncio.run(model.ainvoke("number 3")), answer_to(3))
    assert watch.of_the_tale == 11


def test_leaving_a_chain_stops_compute(model, watch):
    stream = (model | StrOutputParser()).stream("a long tale")
    assert next(stream)
    stream.close()
    before = watch.of_the_tale
    model.invoke("number 3")
    assert watch.of_the_tale == before


async def test_leaving_astream_events_stops_compute_with_the_forward_under_way(model, watch):
    watch.hold(after=30)
    events = model.astream_events("a long tale", version="v2")
    async for event in events:
        if event["event"] == "on_chat_model_stream":
            break
    await watch.held()
    await asyncio.wait_for(events.aclose(), PATIENCE)
    watch.release()
    assert same(await model.ainvoke("number 3"), answer_to(3))
    assert watch.of_the_tale == 31


def nudging_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if "nudging" in thread.name]


def test_answers_without_a_loop_leave_no_thread(model):
    before = set(threading.enumerate())
    model.invoke("number 1")
    next(model.stream("a long tale"))
    assert set(threading.enumerate()) <= before


@pytest.mark.slow
def test_a_model_that_is_gone_leaves_no_thread():
    async def run(model: ChatNudging) -> None:
        tasks = [asyncio.create_task(model.ainvoke("a long tale")) for _ in range(10)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    before = set(nudging_threads())
    model = ChatNudging(generator=scripted_pair(script))
    asyncio.run(run(model))
    ours = set(nudging_threads()) - before
    assert len(ours) == 1, "one thread computes, however many tasks ask"
    del model
    gc.collect()
    for thread in ours:
        thread.join(PATIENCE)
        assert not thread.is_alive()


# -- the caller's thread ----------------------------------------------------------------------------------------------


def test_torch_s_inference_mode_stays_inside(tiny):
    inside = [torch.is_inference_mode_enabled() for _ in tiny.stream("Who are you?")]
    assert len(inside) > 2 and not any(inside)
    assert torch.is_grad_enabled()
    weight = torch.ones(1, requires_grad=True)
    assert (weight * 2).requires_grad


async def test_torch_s_inference_mode_stays_inside_on_an_event_loop(tiny):
    inside = [torch.is_inference_mode_enabled() async for _ in tiny.astream("Who are you?")]
    inside += await asyncio.to_thread(lambda: [torch.is_inference_mode_enabled()])
    assert len(inside) > 3 and not any(inside)


# -- LangChain's wrappers ---------------------------------------------------------------------------------------------


class Failing:
    """Makes the next forwards of a pair fail with an error; forwards after those work."""

    def __init__(self, generator: NudgingGenerator, times: int, error: Exception) -> None:
        self.left, self.error = times, error
        forward = generator.nudging.engine.forward

        def failing(rows: Sequence[Row]) -> list[list[Prediction]]:
            if self.left:
                self.left -= 1
                raise self.error
            return forward(rows)

        generator.nudging.engine.forward = failing  # type: ignore[method-assign]


def test_with_retry_asks_again(model, generator):
    failing = Failing(generator, 2, OutOfMemoryError("no room"))
    patient = model.with_retry(
        retry_if_exception_type=(OutOfMemoryError,), wait_exponential_jitter=False, stop_after_attempt=3
    )
    assert same(patient.invoke("number 5"), answer_to(5))
    assert failing.left == 0


async def test_with_retry_asks_again_on_a_loop(model, generator):
    Failing(generator, 2, OutOfMemoryError("no room"))
    patient = model.with_retry(
        retry_if_exception_type=(OutOfMemoryError,), wait_exponential_jitter=False, stop_after_attempt=3
    )
    assert same(await patient.ainvoke("number 5"), answer_to(5))


def test_with_retry_does_not_ask_again_what_cannot_succeed(tiny, watch, model):
    patient = model.with_retry(retry_if_exception_type=(OutOfMemoryError,), wait_exponential_jitter=False)
    with pytest.raises(ValueError, match="image_url"):
        patient.invoke([("human", [{"type": "image_url", "image_url": "x"}])])
    assert not watch.forwards


@pytest.mark.parametrize("ask", ["invoke", "stream", "ainvoke", "astream"])
def test_with_fallbacks_asks_another_model(model, generator, ask):
    """A pair of little context refuses a long question; one of more context answers."""
    small = scripted_pair(script)
    small.base.engine.context_length = 64
    first = ChatNudging(generator=small, max_tokens=40)
    question = "Please, " * 20 + "number 9"
    with pytest.raises(ContextOverflowError):
        first.invoke(question)
    both = first.with_fallbacks([model], exceptions_to_handle=(ContextOverflowError,))

    async def arun() -> Any:
        return reduce(add, [chunk async for chunk in both.astream(question)])

    message = {
        "invoke": lambda: both.invoke(question),
        "stream": lambda: reduce(add, both.stream(question)),
        "ainvoke": lambda: asyncio.run(both.ainvoke(question)),
        "astream": lambda: asyncio.run(arun()),
    }[ask]()
    assert same(message, answer_to(9))


@pytest.fixture
def global_cache() -> Iterator[InMemoryCache]:
    before, cache = get_llm_cache(), InMemoryCache()
    set_llm_cache(cache)
    yield cache
    set_llm_cache(before)


@pytest.mark.parametrize("where", ["global", "own"])
def test_a_cached_answer_has_its_text_and_provenance_times_and_all(generator, global_cache, where):
    if where == "own":
        set_llm_cache(None)
    model = ChatNudging(generator=generator, cache=InMemoryCache() if where == "own" else None)
    first = model.invoke("number 4")
    again = model.invoke("number 4")
    assert again.text == first.text == answer_to(4)
    assert get_pieces(again) == get_pieces(first)
    assert get_provenance(again) == get_provenance(first)


async def test_a_cached_answer_serves_on_a_loop_too(model, global_cache):
    first = model.invoke("number 4")
    assert get_provenance(await model.ainvoke("number 4")) == get_provenance(first)


OTHERS = [
    {"threshold": 0.95},
    {"lookahead": 3},
    {"max_tokens": 99},
    {"temperature": 0.5, "seed": 1},
    {"stop": ["square"]},
]


@pytest.mark.parametrize("other", [*OTHERS, {"nudging_config": NudgingConfig(prefix_rule=False)}])
def test_a_cache_keeps_models_of_other_options_apart(generator, global_cache, other):
    first = get_provenance(ChatNudging(generator=generator).invoke("number 4"))
    found = get_provenance(ChatNudging(generator=generator, **other).invoke("number 4"))
    assert found.config != first.config
    again = get_provenance(ChatNudging(generator=generator, **other).invoke("number 4"))
    assert again == found, "the same options find it, times and all"


@pytest.mark.parametrize("options", OTHERS)
def test_a_cache_keeps_calls_with_other_options_apart(model, global_cache, options):
    first = get_provenance(model.invoke("number 4"))
    found = get_provenance(model.invoke("number 4", **options))
    assert found.config != first.config
    assert get_provenance(model.invoke("number 4", **options)) == found


def test_a_cache_keeps_calls_of_other_forms_apart(model, global_cache):
    assert model.invoke("number 4").text == answer_to(4)
    assert model.invoke("number 4", choices=["yes", "no"]).text in ("yes", "no")


class CountingLimiter(InMemoryRateLimiter):
    asked = 0

    def acquire(self, *, blocking: bool = True) -> bool:
        self.asked += 1
        return super().acquire(blocking=blocking)

    async def aacquire(self, *, blocking: bool = True) -> bool:
        self.asked += 1
        return await super().aacquire(blocking=blocking)


def test_a_rate_limiter_is_asked_before_every_answer(generator):
    limiter = CountingLimiter(requests_per_second=1000, check_every_n_seconds=0.001, max_bucket_size=1)
    model = ChatNudging(generator=generator, rate_limiter=limiter)
    assert same(model.invoke("number 1"), answer_to(1))
    assert same(reduce(add, model.stream("number 2")), answer_to(2))
    assert same(asyncio.run(model.ainvoke("number 3")), answer_to(3))
    assert same(asyncio.run(astreamed(model, 4)), answer_to(4))
    assert limiter.asked == 4
