"""What requests find of each other's evaluation: the prefix cache and its bounds."""

from __future__ import annotations

import pytest

from nudging_llm import NudgingConfig, NudgingGenerator
from nudging_llm.protocol import GREEDY, Query
from nudging_llm.runtime.prefix_cache import PrefixCache
from nudging_llm.runtime.session import Session
from nudging_llm.testing.fake_models import FakeEngine, FakeModel


def evaluate(pool: PrefixCache, session: Session, tokens: list[int]) -> None:
    with pool.engine.lock:
        pool.attach(session, tokens)
        if session.remembered(tokens, GREEDY):
            return
        row = session.prepare(tokens, (), GREEDY)
        session.absorb(row, 0, pool.engine.forward([row])[0], 0.0)


def pool_of(**options) -> PrefixCache:
    return PrefixCache(FakeEngine(FakeModel("bytes", 4)), **options)


def finished(pool: PrefixCache, tokens: list[int]) -> Session:
    session = pool.acquire()
    evaluate(pool, session, tokens)
    pool.release(session)
    return session


SHARED = list(range(100))


def test_a_conversation_goes_on_in_its_session():
    pool = pool_of()
    finished(pool, [*SHARED, 1, 2, 3])
    second = pool.acquire()
    evaluate(pool, second, [*SHARED, 1, 2, 3, 4, 5])
    assert second.counts.reused == 103 and second.counts.forward_tokens == 2
    assert not pool._idle


def test_another_question_copies_what_it_shares():
    pool = pool_of()
    first = finished(pool, [*SHARED, *[7] * 80])
    second = pool.acquire()
    evaluate(pool, second, [*SHARED, *[9] * 80])
    assert second.counts.reused == 100 and second.counts.forward_tokens == 80
    assert pool._idle == [first] and len(first) == 180  # the first conversation can still go on
    third = pool.acquire()  # from one that works
    evaluate(pool, third, [*SHARED, *[9] * 60, 1])
    assert third.counts.reused == 160


def test_a_short_question_does_not_cost_a_long_conversation():
    pool = pool_of()
    long = [*SHARED, *range(200, 256), *[7] * 900]
    first = finished(pool, long)
    for short in ([0, 250, 251], SHARED[:60], [*SHARED, 9, 9]):
        finished(pool, short)
    assert first in pool._idle
    again = pool.acquire()
    evaluate(pool, again, [*long, 4])
    assert again.counts.reused == len(long)


def test_the_session_that_shares_most_is_used_idle_or_not():
    pool = pool_of()
    finished(pool, [0, 1, 2])
    working = pool.acquire()
    evaluate(pool, working, [*SHARED, 5])
    other = pool.acquire()
    evaluate(pool, other, [*SHARED, 6])
    assert other.counts.reused == 100


def test_a_prompt_asked_again_finds_its_answer():
    pool = pool_of()
    first = pool.acquire()
    evaluate(pool, first, SHARED)
    evaluate(pool, first, [*SHARED, *[7] * 300])
    pool.release(first)
    for _ in range(3):
        again = pool.acquire()
        evaluate(pool, again, SHARED)
        assert again.counts.reused == 100 and len(again) == 400 and again.counts.forwards == 0
        pool.release(again)
    assert pool._idle == [again]  # one of each text is enough


def test_the_least_recently_used_goes_first():
    pool = pool_of(slots=2)
    a, b = (finished(pool, [n] * 100) for n in (1, 2))
    pool.release(session := pool.acquire())
    assert pool._idle == [a, b] and session not in pool._idle  # an empty session is not worth keeping
    again = pool.acquire()
    evaluate(pool, again, [*[1] * 30, *[5] * 60])  # copies from a, which thereby is the most recent
    c = finished(pool, [3] * 60)
    assert pool._idle == [a, c]


def test_idle_sessions_are_bounded_in_bytes():
    pool = pool_of(slots=100, max_bytes=8 * 250)
    for n in range(10):
        finished(pool, [n] * 100)
    assert pool.idle_bytes == 8 * 200
    finished(pool, [99] * 300)  # too large by itself: it does not drive out the others
    assert pool.idle_bytes == 8 * 200


def test_a_shared_context_is_evaluated_once_in_a_batch(tiny_pair):
    generator = NudgingGenerator.from_pretrained(*tiny_pair, NudgingConfig(max_tokens=4))
    context = "The river rises in the hills and runs to the sea. " * 2
    requests = [
        [{"role": "system", "content": context}, {"role": "user", "content": question}] for question in ("a", "b", "c")
    ]
    results = generator.batch(requests)
    use = [result.provenance.base for result in results]
    assert sorted(u.prompt_tokens_reused >= len(context) for u in use) == [False, True, True]
    assert sum(u.forward_tokens - u.drafted for u in use) < 1.5 * use[0].prompt_tokens


def test_sessions_that_cannot_go_back_are_not_copied():
    pool = PrefixCache(FakeEngine(FakeModel("bytes", 4), can_crop=False))
    first = pool.acquire()
    with pool.engine.lock:
        first.evaluate_from_snapshot(Query("base", SHARED, 100), GREEDY)
    second = pool.acquire()
    pool.attach(second, [*SHARED, 1])
    assert len(second) == 0
    pool.release(first)
    third = pool.acquire()
    pool.attach(third, [*SHARED, 1])
    assert third.counts.reused == 100


@pytest.mark.slow
def test_memory_stays_flat(tiny):
    held = []
    for n in range(200):
        tiny.generate(f"{n} is a number", max_tokens=6)
        held.append(sum(batcher.cache.idle_bytes for batcher in (tiny.base.worker, tiny.nudging.worker)))
    assert max(held[20:]) <= 1.2 * max(held[10:20])
    assert all(
        len(batcher.cache._idle) <= 8 and not batcher.cache._working
        for batcher in (tiny.base.worker, tiny.nudging.worker)
    )


def test_asking_the_same_again_is_a_cache_hit(tiny):
    for _ in range(6):
        record = tiny.generate("again " * 20, max_tokens=4).provenance
        assert not any(warning.code == "cache_never_hit" for warning in record.warnings)
    assert record.base.prompt_tokens_reused > 100
    assert record.base.forwards == 0


def test_warns_when_a_shared_prompt_never_hits_the_cache(tiny_pair):
    generator = NudgingGenerator.from_pretrained(*tiny_pair, NudgingConfig(max_tokens=2), device="cpu", cache_slots=0)
    found = [generator.generate("shared " * 12 + str(i)).provenance.warnings for i in range(5)]
    assert [any(w.code == "cache_never_hit" for w in warnings) for warnings in found] == [
        False,
        False,
        False,
        True,
        True,
    ]
    with_cache = NudgingGenerator.from_pretrained(*tiny_pair, NudgingConfig(max_tokens=2), device="cpu")
    for i in range(5):
        record = with_cache.generate("shared " * 12 + str(i)).provenance
        assert not any(w.code == "cache_never_hit" for w in record.warnings)
    assert record.base.prompt_tokens_reused > 80
