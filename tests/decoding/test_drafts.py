"""Guesses: where they come from, how many pay, and that they stop where they do not."""

from __future__ import annotations

import pytest

from nudging_llm.decoding.drafts import Drafter, ForwardCosts, LookUp, _paying


def test_look_up_finds_what_followed_last():
    look_up = LookUp()
    look_up.add([1, 2, 3, 4, 5, 1, 2, 9, 8])
    assert look_up.find([1, 2]) == ("look-up 2", [9, 8])  # where they stood last
    assert look_up.find([7, 1, 2]) == ("look-up 2", [9, 8])
    assert look_up.find([2, 3, 4]) == ("look-up 3", [5, 1, 2, 9, 8])
    assert look_up.find([9, 8]) is None  # nothing followed yet
    assert look_up.find([8]) is None
    look_up.add([6, 9, 8, 3])  # another text: what stands before it is not its past
    assert look_up.find([8, 6]) is None
    assert look_up.find([9, 8]) == ("look-up 2", [3])


def test_a_text_read_token_by_token_is_one_text():
    text = [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3]
    look_up = LookUp()
    for end in range(1, len(text) + 1):
        look_up.read(text[:end])
    assert look_up.find(text) == ("look-up 3", [4, 5, 6, 7, 8, 1, 2, 3])


def drafter(costs: ForwardCosts | None = None, on: bool = True) -> Drafter:
    costs = costs or ForwardCosts.fixed((1, 1.0), (64, 1.01))
    return Drafter(("base", "nudging"), {"base": costs, "nudging": costs}, on)


def test_the_text_so_far_is_looked_up():
    found = drafter()
    text = [1, 2, 3, 4, 5, 6]
    found.written("base", text[:4])
    found.written("base", text)
    assert found.guesses("base", [*text, 2, 3], None, 9)[:3] == [4, 5, 6]
    assert found.guesses("nudging", [*text, 2, 3], None, 9) == []
    found.proposed("nudging", [7, 8, 9])
    assert found.guesses("nudging", [*text, 7, 8], None, 9) == [9]
    assert found.guesses("base", [*text, 2, 3], None, 2) == [4, 5]  # not more than are of use


def test_given_guesses_come_first():
    found = drafter()
    found.written("base", [1, 2, 3, 4])
    assert found.guesses("base", [1, 2], ("completion", [7, 7]), 9) == [7, 7]


@pytest.mark.parametrize("costs", [ForwardCosts(can_draft=False), None])
def test_no_guesses_where_they_are_off_or_cannot_be_taken_back(costs):
    found = drafter(costs, on=costs is not None)
    found.written("base", [1, 2, 3, 4])
    assert found.guesses("base", [1, 2], ("completion", [3]), 9) == []
    assert found.ahead([1, 2]) == 0


@pytest.mark.parametrize("right", [True, False])
def test_guesses_that_are_wrong_end_themselves(right):
    """Where a longer forward costs more: 1 token 1.0, 2 tokens 1.5, 8 tokens 1.8."""
    found = drafter(ForwardCosts.fixed((1, 1.0), (2, 1.5), (8, 1.8)))
    tokens, counts = [0], []
    for _ in range(40):
        guess = found.guesses("base", tokens, ("completion", [5] * 8), 8)
        counts.append(len(guess))
        for token in (guess if right else [6]) or [6]:
            tokens = [*tokens, token]
            found.took("base", tokens)
    assert counts[0] > 0
    assert counts[-1] == (8 if right else 0)


def test_how_many_pay():
    flat, steep = ForwardCosts.fixed((1, 1.0), (64, 1.0)), ForwardCosts.fixed((1, 1.0), (64, 64.0))
    assert _paying(flat, 1, 0.5, 10) == 10
    assert _paying(steep, 1, 0.9, 10) == 0
    assert _paying(flat, 1, 0.5, 10, each=0.4) == 1  # a guess itself costs 0.4: the second is right once in four times
    assert _paying(flat, 1, 0.5, 10, each=0.6) == 0
    flat.rows = 4  # four requests share a forward: one saved is a quarter
    assert _paying(flat, 1, 0.5, 10, each=0.15) == 0


def test_costs_are_those_seen_fastest_and_settle():
    costs = ForwardCosts()
    assert costs.seconds(1) == costs.seconds(9) == 1.0
    costs.observe(1, 1, 0.5)
    costs.observe(1, 1, 0.2)
    assert costs.seconds(1) == costs.seconds(30) == 0.2  # longer ones are not known to cost more: they are tried
    costs.observe(11, 1, 0.4)
    assert costs.seconds(11) == costs.seconds(40) == 0.4
    assert costs.seconds(6) == pytest.approx(0.3)
    costs.observe(5, 1, 0.1)  # noise: a line does not fall
    assert costs.seconds(5) == 0.2
    for _ in range(9):
        costs.observe(11, 1, 0.3)
    costs.observe(11, 1, 0.01)
    assert costs.seconds(11) == 0.3
    costs.observe(5000, 3, 9.9)
    assert costs.rows == 3 and costs.seconds(5000) == 0.3


def test_writing_ahead_pays_only_beside_a_dear_base_model():
    cheap, dear = ForwardCosts.fixed((1, 1.0), (64, 1.1)), ForwardCosts.fixed((1, 10.0), (64, 10.5))
    assert Drafter(("base", "nudging"), {"base": dear, "nudging": cheap}).ahead([1]) >= 3
    assert Drafter(("base", "nudging"), {"base": cheap, "nudging": cheap}).ahead([1]) == 0
    assert Drafter(("base",), {"base": dear}).ahead([1]) == 0
