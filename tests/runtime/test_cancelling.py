"""Requests that are left, cancelled or fail in the middle: compute stops, and the generator goes on as before."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest
import torch

import nudging_llm as n


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("can't allocate memory: x")]
)
def test_out_of_memory_leaves_the_generator_usable(tiny, error):
    before = tiny.generate("hello").text
    model_forward = tiny.base.engine.model.forward
    calls = []

    def failing(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise error
        return model_forward(*args, **kwargs)

    tiny.base.engine.model.forward = failing
    try:
        stream = tiny.stream("another question", threshold=0)
        with pytest.raises(n.OutOfMemoryError, match="smaller dtype"):
            list(stream)
        assert stream.provenance.finish_reason == "error"
    finally:
        del tiny.base.engine.model.forward
    assert tiny.generate("hello").text == before


@pytest.fixture
def counted(tiny):
    """A generator that counts its base and nudging forwards."""
    tiny.count = 0
    for engine in (tiny.base.engine, tiny.nudging.engine):

        def forward(*args, real=engine.forward):
            tiny.count += 1
            return real(*args)

        engine.forward = forward
    return tiny


def _still_right(generator):
    fresh = generator.generate("hello").text
    generator.clear_cache()
    assert generator.generate("hello").text == fresh


@pytest.mark.parametrize("how", ["close", "break", "with", "forget"])
def test_leaving_a_stream_stops_compute_at_once(counted, how):
    stream = counted.stream("hello", max_tokens=60)
    if how == "with":
        with stream:
            next(stream)
    else:
        for _ in stream:
            break
    at = counted.count
    if how == "close":
        stream.close()
        assert list(stream) == []
        assert stream.provenance.finish_reason == "cancelled"
        assert stream.text == stream.provenance.text
    if how == "forget":
        del stream
        gc.collect()
    assert counted.count == at
    _still_right(counted)


@pytest.mark.parametrize("model", ["base", "nudging"])
@pytest.mark.parametrize("when", [1, 3, 6])
def test_ctrl_c_in_a_forward_keeps_what_there_is(counted, when, model):
    engine = getattr(counted, model).engine
    real, calls = engine.model.forward, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        output = real(*args, **kwargs)  # the cache has grown, its session does not know yet
        if len(calls) == when:
            raise KeyboardInterrupt
        return output

    engine.model.forward = interrupted
    stream = counted.stream("hello", max_tokens=60)
    try:
        with pytest.raises(KeyboardInterrupt):
            list(stream)
    finally:
        del engine.model.forward
    assert stream.provenance.finish_reason == "cancelled"
    assert len(calls) == when
    _still_right(counted)


async def test_cancelling_a_task_stops_within_one_forward(counted):
    async def consume():
        async for _ in counted.astream("hello", max_tokens=200, repetition="off"):
            await asyncio.sleep(0)

    task = asyncio.create_task(consume())
    while counted.count < 5:
        await asyncio.sleep(0.001)
    task.cancel()
    at = counted.count
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.2)
    assert counted.count <= at + 1
    counted.generate("hello")
    assert all(len(batcher.cache._idle) <= 8 for batcher in (counted.base.worker, counted.nudging.worker))
    _still_right(counted)


async def test_the_event_loop_stays_free(tiny):
    ticks = 0

    async def clock():
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    ticking = asyncio.create_task(clock())
    async for _ in tiny.astream("hello"):
        pass
    ticking.cancel()
    assert ticks > 10


def test_closing_from_another_thread_waits_for_the_forward(tiny):
    """The session of a stream that is computing must not be handed to the next request."""
    inside, go_on = threading.Event(), threading.Event()
    real = tiny.base.engine.forward

    def slow(*args):
        inside.set()
        assert go_on.wait(10)
        return real(*args)

    tiny.base.engine.forward = slow
    stream = tiny.stream("hello", max_tokens=60)
    failures = []

    def consume():
        try:
            list(stream)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=consume)
    thread.start()
    assert inside.wait(10)
    stream.close()
    assert not tiny.base.worker.cache._idle, "the session was given back while it computes"
    tiny.base.engine.forward = real
    go_on.set()
    thread.join(10)
    assert not failures
    assert stream.provenance.finish_reason == "cancelled"
    _still_right(tiny)


async def test_a_stream_whose_step_was_cancelled_has_ended(counted):
    stream = counted.astream("hello", max_tokens=60)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(stream.__anext__(), 0.0001)
    with pytest.raises(StopAsyncIteration):
        await stream.__anext__()
    await asyncio.sleep(0.1)
    assert stream.provenance.finish_reason == "cancelled"
    _still_right(counted)


async def test_abatch_stops_the_others_when_one_fails(counted):
    real, calls = counted.base.engine.model.forward, []

    def failing(*args, **kwargs):
        calls.append(1)
        if len(calls) > 1:
            raise ZeroDivisionError
        return real(*args, **kwargs)

    counted.base.engine.model.forward = failing
    with pytest.raises(ZeroDivisionError):
        await counted.abatch(["one", "two", "three"], max_tokens=60)
    del counted.base.engine.model.forward
    at = counted.count
    await asyncio.sleep(0.2)
    assert counted.count <= at + 3  # what was computed together is tried one by one
    _still_right(counted)


def test_abandoned_streams_in_cycles_do_not_deadlock(tiny):
    stream = tiny.stream("hello")
    next(stream)
    cycle = [stream]
    cycle.append(cycle)
    del stream, cycle
    with tiny.base.worker.cache._lock:
        gc.collect()
    assert tiny.generate("hello").text


async def test_two_tasks_on_one_stream_are_refused_and_the_first_goes_on(tiny):
    expected = tiny.generate("hello").text
    tiny.clear_cache()
    stream = tiny.astream("hello")
    first = asyncio.ensure_future(stream.__anext__())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="another thread or task"):
        await stream.__anext__()
    begun = await first
    assert begun.text + "".join([piece.text async for piece in stream]) == expected
