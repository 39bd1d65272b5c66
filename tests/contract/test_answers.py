"""An answer is the core's, whole or in parts, waited for or awaited: its text, its pieces, its record, under every option."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from pydantic import BaseModel

from nudging_llm import NudgingGenerator, Provenance
from nudging_llm.testing.comparing import timeless
from nudging_llm.testing.scripted import rules, scripted_pair

from .asking import asked, outcome, user
from .layers import Answer, Layer

QUESTION = user("What is there to see at the sea?")
OPTIONS: list[dict[str, Any]] = [
    {"threshold": 0.9},
    {"threshold": 0.0},
    {"max_tokens": 7},
    {"lookahead": 3},
    {"temperature": 0.7, "seed": 3},
    {"stop": ["e"]},
]


async def test_an_answer_is_the_cores(layer: type[Layer], way: str, random_pair: NudgingGenerator) -> None:
    expected = random_pair.generate(QUESTION)
    found = await asked(layer(random_pair), way, QUESTION)
    assert found.text == expected.text and not found.calls
    check_record(found, expected.provenance)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
async def test_options_are_the_cores(
    layer: type[Layer], random_pair: NudgingGenerator, options: dict[str, Any]
) -> None:
    expected = random_pair.generate(QUESTION, **options)
    check_record(layer(random_pair).ask(QUESTION, **options), expected.provenance)
    check_record(await asked(layer(random_pair, **options), "astream", QUESTION), expected.provenance)


def check_record(found: Answer, expected: Provenance) -> None:
    """The record is the expected one, and the pieces that came are those of the record."""
    assert found.record is not None and found.record.text == expected.text
    assert timeless(found.pieces) == timeless(found.record.pieces) == timeless(expected.pieces)
    assert outcome(found.record) == outcome(expected)


def test_both_models_write_here(random_pair: NudgingGenerator) -> None:
    assert {piece.source for piece in random_pair.generate(QUESTION).provenance.pieces} == {"base", "nudging"}


def test_a_stream_has_a_part_for_each_piece(layer: type[Layer], random_pair: NudgingGenerator) -> None:
    model = layer(random_pair)
    parts = list(model.stream(QUESTION))
    assert [len(part.pieces) for part in parts] == [1] * (len(parts) - 1) + [0]
    assert [part.text for part in parts[:-1]] == [piece.text for part in parts for piece in part.pieces]
    assert "".join(part.text for part in parts) == model.join(parts).text and len(parts) > 5


def test_characters_of_several_tokens_come_whole(layer: type[Layer]) -> None:
    text = "Ciò è très 東京 🙂 fin."
    parts = list(layer(scripted_pair(rules(otherwise=text))).stream(user("Letters?")))
    assert "".join(part.text for part in parts) == text and not any("\ufffd" in part.text for part in parts)


async def test_a_system_text_and_earlier_turns_reach_both_models(
    layer: type[Layer], way: str, random_pair: NudgingGenerator
) -> None:
    conversation = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "So."},
        {"role": "user", "content": "Really?"},
    ]
    expected = random_pair.generate(conversation)
    found = await asked(layer(random_pair), way, conversation)
    check_record(found, expected.provenance)


# -- stop strings -----------------------------------------------------------------------------------------------------

TEXT = "One. Two! Three? Four; five."
STOPS: list[tuple[Any, Any, str]] = [
    (None, ["; five"], "One. Two! Three? Four"),
    (["?"], None, "One. Two! Three"),
    (["Three?", "?"], None, "One. Two! "),
    (["Two"], ["Four"], "One. Two! Three? "),
    (["Two"], [], TEXT),
    ("?", None, "One. Two! Three"),
]


@pytest.mark.parametrize(("constructors", "calls", "expected"), STOPS, ids=str)
async def test_a_stop_string_ends_the_answer_and_is_no_part_of_it(
    layer: type[Layer], way: str, constructors: Any, calls: Any, expected: str
) -> None:
    """A call's stop strings replace the constructor's."""
    model = layer(scripted_pair(rules(otherwise=TEXT)), **({} if constructors is None else {"stop": constructors}))
    found = await asked(model, way, user("Hi"), **({} if calls is None else {"stop": calls}))
    assert found.text == expected == "".join(piece.text for piece in found.pieces)
    assert found.record is not None and found.record.text == expected
    assert found.record.finish_reason == ("stop" if expected == TEXT else "stop_string")


async def test_a_calls_length_wins_over_the_constructors(layer: type[Layer], way: str) -> None:
    model = layer(scripted_pair(rules(otherwise=TEXT)), max_tokens=7)
    short, longer, whole = [
        await asked(model, way, user("Hi"), **o) for o in ({}, {"max_tokens": 12}, {"max_tokens": 99})
    ]
    assert short.record is not None and short.record.n_tokens <= 7 and short.record.finish_reason == "length"
    assert longer.record is not None and 7 < longer.record.n_tokens <= 12 and TEXT.startswith(longer.text)
    assert whole.text == TEXT


# -- structured answers -----------------------------------------------------------------------------------------------


class Point(BaseModel):
    """A place on a map."""

    x: int
    label: Literal["sea", "land"]


def test_a_structured_answer_is_of_its_type(layer: type[Layer]) -> None:
    call = '<tool_call>\n{"name": "Point", "arguments": {"x": 3, "label": "sea"}}\n</tool_call>'
    for script in ('{"x": 3, "label": "sea"}', call):  # as text, or as a call: the layer chooses
        found = layer(scripted_pair(rules(otherwise=script), None), max_tokens=120).structured(user("Where?"), Point)
        assert type(found) is Point and found.label in ("sea", "land")


def test_random_models_fit_a_type_too(layer: type[Layer], random_pair: NudgingGenerator) -> None:
    assert type(layer(random_pair, max_tokens=100).structured(user("Where?"), Point)) is Point
