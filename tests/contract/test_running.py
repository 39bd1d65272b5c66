"""Many at once, and answers that are left in the middle: each gets its own, and what nobody waits for is not computed."""

from __future__ import annotations

import asyncio
import re
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from nudging_llm import NudgingGenerator
from nudging_llm.testing.scripted import scripted_pair

from .asking import Watch, asked, user
from .layers import Answer, Layer

PATIENCE = 30  # seconds until a test that hangs fails
STORY = " ".join(f"Then came day {i}." for i in range(26))


def script(prompt: str) -> str:
    """A number is answered with its name and square; a long tale is long."""
    if numbers := re.findall(r"number (\d+)", prompt):
        return f"Number {numbers[-1]} it is, and its square is {int(numbers[-1]) ** 2}; 東京 says so."
    return STORY if "long tale" in prompt else "Hello!"


def number(i: int) -> list[dict[str, str]]:
    return user(f"number {i}")


def right(found: Answer, i: int) -> bool:
    """Whether this is the answer to a number, in its text, its pieces and its record."""
    assert found.record is not None
    joined = "".join(piece.text for piece in found.pieces)
    return found.text == joined == found.record.text == script(f"number {i}")


@pytest.fixture
def scripted() -> NudgingGenerator:
    return scripted_pair(script)


# -- many at once -----------------------------------------------------------------------------------------------------


async def test_tasks_and_threads_at_once_each_get_their_own(layer: type[Layer], scripted: NudgingGenerator) -> None:
    model = layer(scripted)
    tasks = [asked(model, "astream" if i % 2 else "aask", number(i)) for i in range(20)]
    with ThreadPoolExecutor(20) as pool:
        threads = [
            pool.submit(asyncio.run, asked(model, "stream" if i % 2 else "ask", number(i))) for i in range(20, 40)
        ]
        awaited = [asyncio.wrap_future(thread) for thread in threads]
        found = await asyncio.wait_for(asyncio.gather(*tasks, *awaited), PATIENCE)
    assert all(right(answer, i) for i, answer in enumerate(found))
    assert max(scripted.base.engine.most_rows, scripted.nudging.engine.most_rows) > 1, "they share forwards"


async def test_many_over_random_models_are_what_each_is_alone(
    layer: type[Layer], random_pair: NudgingGenerator
) -> None:
    model, questions = layer(random_pair), [user(f"What about number {i}?") for i in range(10)]
    alone = [model.ask(question).text for question in questions]
    assert len(set(alone)) > 5
    streams = [asked(model, "astream", question) for question in questions]
    assert [answer.text for answer in await asyncio.wait_for(asyncio.gather(*streams), PATIENCE)] == alone


def test_streams_read_in_turns_are_apart(layer: type[Layer], scripted: NudgingGenerator) -> None:
    model = layer(scripted)
    streams = [model.stream(number(i)) for i in range(3)]
    begun = [[next(stream)] for stream in streams]
    for parts, stream in zip(begun, streams, strict=True):
        parts += stream
    assert all(right(model.join(parts), i) for i, parts in enumerate(begun))


@pytest.mark.parametrize("way", ["aask", "astream"])
async def test_the_event_loop_runs_on_while_a_forward_computes(
    layer: type[Layer], scripted: NudgingGenerator, way: str
) -> None:
    """The forward is not let go before the loop has ticked: were the loop blocked, nobody could."""
    model, watch, hold = layer(scripted), Watch(scripted), Hold(4)
    watch.before = hold

    async def tick() -> None:
        await hold.reached()
        for _ in range(5):
            await asyncio.sleep(0)
        hold.release()

    found, _ = await asyncio.gather(asked(model, way, number(7)), tick())
    assert right(found, 7)


def test_one_object_works_on_two_event_loops_at_once(layer: type[Layer], scripted: NudgingGenerator) -> None:
    model = layer(scripted)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda i: asyncio.run(asked(model, "astream", number(i))), range(2)))
    assert all(right(answer, i) for i, answer in enumerate(found))


# -- left in the middle -----------------------------------------------------------------------------------------------


class Hold:
    """Holds a forward back until told to let it go."""

    def __init__(self, at: int) -> None:
        self._at, self._reached, self._go = at, threading.Event(), threading.Event()

    def __call__(self, count: int) -> None:
        if count == self._at:
            self._reached.set()
            assert self._go.wait(PATIENCE), "nobody let this forward go"

    async def reached(self) -> None:
        assert await asyncio.to_thread(self._reached.wait, PATIENCE), "no such forward began"

    def release(self) -> None:
        self._go.set()


@pytest.mark.parametrize("how", ["close", "forget", "error"])
def test_leaving_a_stream_stops_compute(layer: type[Layer], scripted: NudgingGenerator, how: str) -> None:
    model, watch = layer(scripted), Watch(scripted)
    if how == "error":
        with pytest.raises(KeyError):
            fail_on(model)
    else:
        stream = model.stream(user("a long tale"))
        text = "".join(next(stream).text for _ in range(3))
        assert text and STORY.startswith(text)
        if how == "close":
            stream.close()
        del stream
    before = watch.about("long tale")
    assert right(model.ask(number(3)), 3)
    assert watch.about("long tale") == before > 0


def fail_on(model: Layer) -> None:
    for _ in model.stream(user("a long tale")):
        raise KeyError("the reader's")


@pytest.mark.parametrize("how", ["close", "break"])
async def test_leaving_an_async_stream_stops_compute(layer: type[Layer], scripted: NudgingGenerator, how: str) -> None:
    model, watch = layer(scripted), Watch(scripted)
    stream = model.astream(user("a long tale"))
    async for part in stream:
        assert part.text
        break
    if how == "close":
        await stream.aclose()
    else:
        del stream, part
    before = watch.about("long tale")
    assert right(await model.aask(number(3)), 3)
    assert watch.about("long tale") <= before + (how == "break"), "no more than the forward under way"


@pytest.mark.parametrize("way", ["aask", "astream"])
async def test_cancelling_a_task_stops_compute_with_the_forward_under_way(
    layer: type[Layer], scripted: NudgingGenerator, way: str
) -> None:
    model, watch, hold = layer(scripted), Watch(scripted), Hold(11)
    watch.before = hold
    task = asyncio.create_task(asked(model, way, user("a long tale")))
    await hold.reached()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, PATIENCE)
    hold.release()
    assert right(await model.aask(number(3)), 3)
    assert watch.about("long tale") == 11


async def test_a_time_limit_around_it_stops_compute_too(layer: type[Layer], scripted: NudgingGenerator) -> None:
    model, watch, hold = layer(scripted), Watch(scripted), Hold(11)
    watch.before = hold
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(model.aask(user("a long tale")), 0.05)
    before = watch.about("long tale")
    hold.release()
    assert right(await model.aask(number(3)), 3)
    assert watch.about("long tale") <= before + 1 <= 12


async def test_cancelling_one_of_many_leaves_the_others_alone(layer: type[Layer], scripted: NudgingGenerator) -> None:
    model, watch, hold = layer(scripted), Watch(scripted), Hold(21)
    watch.before = hold
    tale = asyncio.create_task(model.aask(user("a long tale")))
    others = [asyncio.create_task(asked(model, "astream", number(i))) for i in range(6)]
    await hold.reached()
    tale.cancel()
    hold.release()
    found = await asyncio.wait_for(asyncio.gather(*others), PATIENCE)
    assert all(right(answer, i) for i, answer in enumerate(found))
    with pytest.raises(asyncio.CancelledError):
        await tale


async def test_a_slow_reader_is_not_run_ahead_of(layer: type[Layer], scripted: NudgingGenerator) -> None:
    model, watch = layer(scripted), Watch(scripted)
    stream = model.astream(user("a long tale"))
    first = await anext(stream)
    before = watch.about("long tale")
    assert right(await model.aask(number(3)), 3)
    assert watch.about("long tale") == before
    assert first.text + "".join([part.text async for part in stream]) == STORY
    assert watch.about("long tale") > before
