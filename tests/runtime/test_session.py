"""A session goes back and forth over texts; what it says is what the model says of each."""

from __future__ import annotations

import random

import pytest

from nudging_llm.protocol import GREEDY
from nudging_llm.runtime.session import Session
from nudging_llm.testing.fake_models import FakeEngine, FakeModel
from tests.sampling import cases


def next_text(rng: random.Random, seen: list[list[int]]) -> list[int]:
    """A beginning of an earlier text, and a few tokens of three kinds, so that texts part and meet again."""
    earlier = rng.choice(seen)
    return earlier[: rng.randint(1, len(earlier))] + [rng.choice((5, 6, 7)) for _ in range(rng.randint(0, 6))]


@pytest.mark.parametrize("seed", range(cases(60)))
def test_a_session_never_says_what_it_knew_of_another_text(seed: int) -> None:
    rng, model = random.Random(seed), FakeModel("bytes", seed)
    engine = FakeEngine(model)
    session, seen = Session(engine), [[5, 6, 7, 5]]
    for _ in range(80):
        tokens = next_text(rng, seen)
        seen.append(tokens)
        guesses = [rng.choice((5, 6, 7)) for _ in range(rng.choice((0, 0, 1, 4)))]
        known = session.remembered(tokens, GREEDY)
        if known is None:
            with engine.lock:
                row = session.prepare(tokens, guesses, GREEDY)
                session.absorb(row, len(guesses), engine.forward([row])[0], 0.0)
            known = session.prediction_after(tokens)
        assert (known.top, known.prob) == model.next(tokens)
        for earlier in rng.sample(seen, min(5, len(seen))):
            remembered = session.remembered(earlier, GREEDY)
            assert remembered is None or (remembered.top, remembered.prob) == model.next(earlier)


def test_guesses_that_are_asked_for_are_counted_as_accepted_once() -> None:
    engine = FakeEngine(FakeModel("bytes", 4))
    session = Session(engine)
    with engine.lock:
        row = session.prepare([5, 6], [7, 5, 6], GREEDY)
        session.absorb(row, 3, engine.forward([row])[0], 0.0)
    assert session.remembered([5, 6, 7], GREEDY) and session.remembered([5, 6, 7], GREEDY)
    assert session.remembered([5, 6, 7, 5], GREEDY)
    assert session.remembered([5, 6, 5], GREEDY) is None
    assert (session.counts.drafted, session.counts.accepted, session.counts.forwards) == (3, 2, 1)
