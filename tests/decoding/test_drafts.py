"""Guesses: where they come from, how many pay, and that they stop where they do not."""

from __future__ import annotations

import pytest

from nudging_llm.decoding.costs import ForwardCosts, paying
from nudging_llm.decoding.drafts import Drafts, DraftSource, HeldDraft, LookUp, look_ups


def test_look_up_finds_what_followed_last():
    two, three = LookUp(2, 0.3), LookUp(3, 0.5)
    for look_up in (two, three):
        assert isinstance(look_up, DraftSource)
        look_up.observe([1, 2, 3, 4, 5, 1, 2, 9, 8], in_text=False)
    assert two.propose([1, 2]) == [9, 8]  # where they stood last
    assert two.propose([7, 1, 2]) == [9, 8] and three.propose([7, 1, 2]) is None
    assert three.propose([2, 3, 4]) == [5, 1, 2, 9, 8]
    assert two.propose([9, 8]) is None  # nothing followed yet
    assert two.propose([8]) is None
    two.observe([6, 9, 8, 3], in_text=False)  # another text: what stands before it is not its past
    assert two.propose([8, 6]) is None
    assert two.propose([9, 8]) == [3]


def test_a_text_read_token_by_token_is_one_text():
    text = [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3]
    look_up = LookUp(3, 0.5)
    for end in range(1, len(text) + 1):
        look_up.observe(text[:end])
    assert look_up.propose(text) == [4, 5, 6, 7, 8, 1, 2, 3]


def test_what_is_held_is_proposed_where_the_text_goes_that_way():
    held = HeldDraft("completion", 0.7)
    assert held.propose([1]) is None
    held.hold([1, 2, 3])
    assert held.propose([1]) == [2, 3] and held.propose([1, 2, 3]) == [] and held.propose([2]) is None
    assert held.tokens_from(1) == [2, 3]


CHEAP = ForwardCosts.fixed((1, 1.0), (64, 1.01))


def test_the_text_so_far_is_looked_up():
    base, nudging = Drafts(look_ups(), CHEAP), Drafts(look_ups(), CHEAP)
    text = [1, 2, 3, 4, 5, 6]
    base.observe(text[:4])
    base.observe(text)
    assert base.guess([*text, 2, 3], 9)[:3] == [4, 5, 6]
    assert nudging.guess([*text, 2, 3], 9) == []
    nudging.observe([7, 8, 9], in_text=False)
    assert nudging.guess([*text, 7, 8], 9) == [9]
    assert base.guess([*text, 2, 3], 2) == [4, 5]  # not more than are of use


def test_sources_are_asked_in_order():
    held = HeldDraft("completion", 0.7)
    drafts = Drafts([held, *look_ups()], CHEAP)
    drafts.observe([1, 2, 3, 4])
    held.hold([1, 2, 7, 7])
    assert drafts.guess([1, 2], 9) == [7, 7]
    held.hold([1, 2])  # it knows that nothing follows: the others are not asked
    assert drafts.guess([1, 2], 9) == []
    held.hold(None)
    assert drafts.guess([1, 2], 9) == [3, 4]


def test_what_is_good_for_one_query_is_dropped_after_it():
    once, longer = HeldDraft("ahead", 0.7, once=True), HeldDraft("completion", 0.7)
    drafts = Drafts([once, longer], CHEAP)
    once.hold([1, 2])
    longer.hold([1, 3])
    assert drafts.guess([1], 9) == [2]
    drafts.query_over()
    assert drafts.guess([1], 9) == [3]


@pytest.mark.parametrize(("costs", "on"), [(ForwardCosts(can_draft=False), True), (CHEAP, False)])
def test_no_guesses_where_they_are_off_or_cannot_be_taken_back(costs, on):
    held = HeldDraft("completion", 0.7)
    drafts = Drafts([held, *look_ups()], costs, on)
    drafts.observe([1, 2, 3, 4])
    held.hold([1, 2, 3])
    assert drafts.guess([1, 2], 9) == []
    assert drafts.worth_making([1, 2], held, each=0.0) == 0


@pytest.mark.parametrize("right", [True, False])
def test_guesses_that_are_wrong_end_themselves(right):
    """Where a longer forward costs more: 1 token 1.0, 2 tokens 1.5, 8 tokens 1.8."""
    held = HeldDraft("completion", 0.75)
    drafts = Drafts([held], ForwardCosts.fixed((1, 1.0), (2, 1.5), (8, 1.8)))
    tokens, counts = [0], []
    for _ in range(40):
        held.hold([*tokens, *[5] * 8])
        guess = drafts.guess(tokens, 8)
        counts.append(len(guess))
        for token in (guess if right else [6]) or [6]:
            tokens = [*tokens, token]
            drafts.check(tokens)
    assert counts[0] > 0
    assert counts[-1] == (8 if right else 0)


def test_how_many_pay():
    flat, steep = ForwardCosts.fixed((1, 1.0), (64, 1.0)), ForwardCosts.fixed((1, 1.0), (64, 64.0))
    assert paying(flat, 1, 0.5, 10) == 10
    assert paying(steep, 1, 0.9, 10) == 0
    assert paying(flat, 1, 0.5, 10, each=0.4) == 1  # a guess itself costs 0.4: the second is right once in four times
    assert paying(flat, 1, 0.5, 10, each=0.6) == 0
    flat.rows = 4  # four requests share a forward: one saved is a quarter
    assert paying(flat, 1, 0.5, 10, each=0.15) == 0


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
    ahead = HeldDraft("ahead", 0.6)
    assert Drafts([ahead], dear).worth_making([1], ahead, each=cheap.seconds(1)) >= 3
    assert Drafts([ahead], cheap).worth_making([1], ahead, each=cheap.seconds(1)) == 0
