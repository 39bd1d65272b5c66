"""Requests that share forwards: batches, threads and tasks. Tiny random models."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
import torch

from nudging_llm import ConfigError, NudgingConfig, NudgingGenerator

QUESTIONS = [f"question {i} " + "about the river " * (i % 4) for i in range(20)]


def plain(result):
    return [(p.text, p.source, p.reason, p.n_tokens) for p in result.provenance.pieces]


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"temperature": 0.8, "seed": 3}, {"end_check": "sentence", "lookahead": 8}])
async def test_batches_write_what_single_requests_write(tiny, options):
    options = {"max_tokens": 40, **options}
    alone = []
    for question in QUESTIONS:
        tiny.clear_cache()
        alone.append(plain(tiny.generate(question, **options)))
    tiny.clear_cache()
    assert [plain(result) for result in tiny.batch(QUESTIONS, **options)] == alone
    tiny.clear_cache()
    assert [plain(result) for result in await tiny.abatch(QUESTIONS, **options)] == alone
    tiny.clear_cache()
    found: dict[str, list] = {}
    threads = [
        threading.Thread(target=lambda q=question: found.update({q: plain(tiny.generate(q, **options))}))
        for question in QUESTIONS
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [found[question] for question in QUESTIONS] == alone


def count_forwards(generator) -> list[list[int]]:
    """Rows of each forward, base and nudging, from now on."""
    rows: list[list[int]] = [[], []]
    for seen, engine in zip(rows, (generator.base.engine, generator.nudging.engine), strict=True):

        def forward(batch, real=engine.forward, seen=seen):
            seen.append(len(batch))
            return real(batch)

        engine.forward = forward
    return rows


async def test_batches_share_forwards(tiny):
    rows = count_forwards(tiny)
    tiny.batch(QUESTIONS[:8], max_tokens=30)
    shared = [sum(seen) / len(seen) for seen in rows]
    assert min(shared) > 2, rows
    for seen in rows:
        seen.clear()
    tiny.clear_cache()
    await tiny.abatch(QUESTIONS[:8], max_tokens=30)
    assert max(map(max, rows)) >= 4 and max(map(max, rows)) <= 8, rows


@pytest.mark.slow
async def test_more_requests_than_rows(tiny_pair):
    generator = NudgingGenerator.from_pretrained(*tiny_pair, NudgingConfig(max_tokens=12), batch_size=3)
    rows = count_forwards(generator)
    expected = [generator.generate(question).text for question in QUESTIONS]
    assert [result.text for result in generator.batch(QUESTIONS)] == expected
    assert [result.text for result in await generator.abatch(QUESTIONS)] == expected
    assert max(map(max, rows)) <= 3


def test_bad_sizes(tiny_pair):
    for name, value in (("batch_size", 0), ("cache_slots", -1), ("cache_bytes", -5)):
        with pytest.raises(ConfigError, match=name):
            NudgingGenerator.from_pretrained(*tiny_pair, **{name: value})


async def test_a_cancelled_abatch_leaves_the_generator_usable(tiny):
    expected = tiny.generate("hello").text
    task = asyncio.create_task(tiny.abatch(QUESTIONS, max_tokens=60, repetition="off"))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await tiny.agenerate("hello")).text == expected
    assert not any(batcher.waiting for batcher in (tiny.base.worker, tiny.nudging.worker))
    assert not any(batcher.cache._working for batcher in (tiny.base.worker, tiny.nudging.worker))


# -- threads and tasks at once ----------------------------------------------------------------------------------------


def slowly(generator, seconds=0.004):
    """Forwards take a while, as real ones do."""
    for engine in (generator.base.engine, generator.nudging.engine):

        def forward(rows, real=engine.forward):
            time.sleep(seconds)
            return real(rows)

        engine.forward = forward


def in_threads(generator, questions) -> dict[str, str]:
    found: dict[str, str] = {}
    threads = [
        threading.Thread(target=lambda q=question: found.update({q: generator.generate(q, max_tokens=24).text}))
        for question in questions
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def test_threads_share_forwards(tiny):
    slowly(tiny)
    rows = count_forwards(tiny)
    assert len(in_threads(tiny, QUESTIONS[:8])) == 8
    assert sum(map(sum, rows)) > 2 * sum(map(len, rows)), rows


@pytest.mark.slow
async def test_no_question_is_lost_where_others_hold_the_engine(tiny):
    """Threads, tasks and somebody else on the same engines: every question is answered."""
    expected = {question: tiny.generate(question, max_tokens=24).text for question in QUESTIONS[:8]}
    tiny.clear_cache()
    stop = threading.Event()

    def somebody_else():
        while not stop.is_set():
            for engine in (tiny.base.engine, tiny.nudging.engine):
                with engine.lock:
                    time.sleep(0.003)
                time.sleep(0.001)

    other = threading.Thread(target=somebody_else)
    other.start()
    try:
        threads = asyncio.get_running_loop().run_in_executor(None, in_threads, tiny, QUESTIONS[:4])
        results = await asyncio.wait_for(tiny.abatch(QUESTIONS[4:8], max_tokens=24), 60)
        found = await asyncio.wait_for(threads, 60)
    finally:
        stop.set()
        other.join(10)
    assert found | {q: r.text for q, r in zip(QUESTIONS[4:8], results, strict=True)} == expected


@pytest.mark.slow
def test_one_model_in_two_roles(tiny_pair):
    """The same weights as base and as nudging model, in threads: a packed forward of one role does not disturb the other."""
    (model, _), (_, tokenizer) = tiny_pair
    generator = NudgingGenerator.from_pretrained((model, tokenizer), (model, tokenizer), NudgingConfig(max_tokens=24))
    assert generator.base.engine.lock is generator.nudging.engine.lock
    expected = {question: generator.generate(question, max_tokens=24).text for question in QUESTIONS[:12]}
    generator.clear_cache()
    assert in_threads(generator, QUESTIONS[:12]) == expected


async def test_a_stream_closed_by_another_task_ends(tiny):
    slowly(tiny, 0.02)
    stream = tiny.astream("hello", max_tokens=200, repetition="off")

    async def consume():
        return [piece async for piece in stream]

    for _ in range(3):
        consumer = asyncio.create_task(consume())
        await asyncio.sleep(0.1)
        await stream.aclose()
        pieces = await asyncio.wait_for(consumer, 10)  # no CancelledError: nobody cancelled it
        assert len(pieces) < 200
    assert stream.provenance.finish_reason == "cancelled"


async def test_finished_streams_hold_no_cache(tiny):
    streams = [tiny.astream(question, max_tokens=8) for question in QUESTIONS[:4]]
    for stream in streams:
        _ = [piece async for piece in stream]
    assert all(stream._forward is None and not stream._request._sources for stream in streams)


# -- want of memory ---------------------------------------------------------------------------------------------------


def test_want_of_memory_makes_smaller_batches(tiny):
    expected = [result.text for result in tiny.batch(QUESTIONS[:8], max_tokens=16)]
    tiny.clear_cache()
    real, refused = tiny.base.engine.model.forward, []

    def small(*args, past_key_values=None, **kwargs):
        if len(getattr(past_key_values, "lengths", [])) > 3:
            refused.append(1)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*args, past_key_values=past_key_values, **kwargs)

    tiny.base.engine.model.forward = small
    try:
        results = tiny.batch(QUESTIONS[:8], max_tokens=16)
    finally:
        del tiny.base.engine.model.forward
    assert [result.text for result in results] == expected
    assert 1 <= len(refused) <= 3, "it is tried again and again"
    assert tiny.base.worker.max_rows < 4 and tiny.base.engine.can_pack


def test_want_of_memory_for_a_copy_costs_only_time(tiny, caplog):
    questions = [f"{'the same long beginning of a question ' * 4}{i}" for i in range(3)]
    expected = [tiny.generate(question, max_tokens=8).text for question in questions]

    def refuse(cache, length):
        raise torch.OutOfMemoryError("CUDA out of memory")

    tiny.clear_cache()
    tiny.base.engine.copy_prefix = tiny.nudging.engine.copy_prefix = refuse
    assert [tiny.generate(question, max_tokens=8).text for question in questions] == expected
    assert "nothing is reused" in caplog.text
