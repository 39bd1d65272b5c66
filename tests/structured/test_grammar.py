"""Grammars on fake pairs: what is forced, what is closed, what is refused, and calls in free text."""

from __future__ import annotations

import random
import time
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nudging_llm import GrammarError, NudgingConfig
from nudging_llm.decoding.decode import decode_alone
from nudging_llm.protocol import GREEDY
from nudging_llm.provenance import Reason
from nudging_llm.runtime.local import LocalBackend
from nudging_llm.runtime.request import ModelPart, Request
from nudging_llm.runtime.scheduler import Scheduler
from nudging_llm.runtime.streams import Stream
from nudging_llm.structured.constraint import Constraint
from nudging_llm.structured.grammar import calls_grammar, choices_grammar, json_grammar, regex_grammar
from nudging_llm.structured.vocabulary import vocabulary
from nudging_llm.testing.fake_models import KINDS, FakeEngine, FakeModel, codec
from nudging_llm.text.prompt_encoder import IncrementalPromptEncoder
from nudging_llm.tools.definitions import read_tools
from nudging_llm.tools.parser import parse_calls
from nudging_llm.tools.styles.hermes import HERMES
from tests.sampling import cases
from tests.structured.answering import CALL, Scripted, answer, models_for, valid


@pytest.mark.parametrize("kind", KINDS)
def test_patterns_and_choices(kind: str) -> None:
    models = [FakeModel(kind, 5), FakeModel(kind, 9)]
    for pattern, max_tokens in (
        ("(日本|日曜)x", 20),
        ("[a-c]{3}-[0-9]+", 30),
        ("New (York|Jersey)?", 20),
        ("(é|è|ê)+!", 25),
    ):
        import re

        found = answer(regex_grammar(pattern), models, NudgingConfig(max_tokens=max_tokens))
        assert re.fullmatch(pattern, found.text), (pattern, found.text)
    options = ["New York", "New Jersey", " lead", "日本", "a.b*(c)", "#&~-|"]
    seen = {answer(choices_grammar(options), models_for(seed), NudgingConfig()).text for seed in range(30)}
    assert seen <= set(options) and len(seen) > 2


def test_what_is_forced_costs_no_forward() -> None:
    models = models_for(3)
    found = answer(json_grammar({"const": {"a": [1, "b c"]}}), models, NudgingConfig())
    assert found.text == '{"a": [1, "b c"]}'
    assert found.provenance.base.forwards == found.provenance.nudging.forwards == 0
    [piece] = found.provenance.pieces
    assert (piece.source, piece.reason, piece.base_top_prob) == ("grammar", Reason.FORCED, None)
    assert found.provenance.grammar_tokens == found.provenance.n_tokens > 0


def test_keys_are_the_grammars_and_values_the_models() -> None:
    schema = {
        "type": "object",
        "properties": {"k": {"enum": ["x", "y"]}, "n": {"type": "integer"}},
        "required": ["k", "n"],
    }
    found = answer(json_grammar(schema), models_for(11), NudgingConfig())
    by_grammar = "".join(
        piece.text if piece.source == "grammar" else "·" * len(piece.text) for piece in found.provenance.pieces
    )
    assert by_grammar.startswith('{"k": "·"')
    assert any(
        piece.source in ("base", "nudging") and piece.text.strip(' "') in "xy" for piece in found.provenance.pieces
    )


def test_closing_is_marked_and_within_max_tokens() -> None:
    schema = {
        "type": "object",
        "properties": {"text": {"type": "string"}, "n": {"type": "integer"}},
        "required": ["text", "n"],
    }
    models = [FakeModel("byte_bpe", 40, end=0), FakeModel("gpt_bpe", 44, end=0)]
    found = answer(json_grammar(schema), models, NudgingConfig(max_tokens=60, repetition="off"))
    valid(schema, found.text)
    record = found.provenance
    assert record.finish_reason == "length" and record.n_tokens <= 60
    assert record.pieces[-1].reason is Reason.CLOSING
    assert "closed_early" in {warning.code for warning in record.warnings}


def test_circles_are_closed_too() -> None:
    schema = {"type": "array", "items": {"const": 7}}
    models = [FakeModel("bytes", 40, end=0), FakeModel("bytes", 44, end=0)]
    records = [
        answer(json_grammar(schema), models, NudgingConfig(max_tokens=900, threshold=g)).provenance for g in (0, 2)
    ]
    for record in records:
        valid(schema, record.text)


@pytest.mark.parametrize("model", ["base", "nudging"])
def test_one_model_alone(model: str) -> None:
    schema = {
        "type": "object",
        "properties": {"k": {"enum": ["x", "y"]}, "n": {"type": "integer", "maximum": 99, "minimum": 0}},
        "required": ["k", "n"],
    }
    fake, grammar, config = FakeModel("gpt_bpe", 12), json_grammar(schema), NudgingConfig(max_tokens=60)
    backend = LocalBackend(FakeEngine(fake))
    voice = IncrementalPromptEncoder(fake.codec, [], "Say: one\n", None)
    constraint = Constraint(grammar, {model: fake.codec}, [model] if voice.joins else [])
    part = ModelPart(backend, GREEDY, voice.encode("")).held_to(grammar)
    run = Request(
        {model: part},
        Scheduler([backend.worker]),
        lambda clock: decode_alone(model, voice, config, (), clock, None, constraint),
        config,
        constraint=constraint,
    )
    for _ in (stream := Stream(run)):
        pass
    valid(schema, stream.text)
    assert {piece.source for piece in stream.pieces} == {model, "grammar"}


# -- the constraint by itself -----------------------------------------------------------------------------------------


@settings(max_examples=cases(150), deadline=None)
@given(seed=st.integers(0, 2**30), kind=st.sampled_from(KINDS))
def test_masks_are_the_same_whatever_was_asked_before(seed: int, kind: str) -> None:
    """A follower that went back and forth answers as a fresh one."""
    rng = random.Random(seed)
    grammar = json_grammar(
        {
            "type": "object",
            "properties": {"é a": {"type": "array", "items": {"type": "string"}}, "b": {"type": "number"}},
            "required": ["é a"],
        }
    )
    words = codec(kind)
    whole = '{"é a": ["日本 x", "y\\n", ""], "b": -1.5e3}'
    used = Constraint(grammar, {"base": words})
    for _ in range(12):
        text = whole[: rng.randrange(len(whole) + 1)]
        fresh = Constraint(grammar, {"base": words})
        guesses = codec(kind).encode(whole[len(text) :][: rng.randrange(8)])
        assert used.masks("base", text, (), guesses) == fresh.masks("base", text, (), guesses)
        assert used.forced(text, "base") == fresh.forced(text, "base")
        assert used.complete(text) == fresh.complete(text) == (text == whole)
        assert used.may_end(text) == fresh.may_end(text)


def test_a_last_space_is_left_to_a_model_that_would_go_on_with_it() -> None:
    words = vocabulary(codec("gpt_bpe"))
    assert any(words.spelt([token]) == b" the" for token in range(words.size))
    constraint = Constraint(regex_grammar("of (the|thy)"), {"base": codec("gpt_bpe")})
    assert constraint.forced("", "base") == "of"
    letters = codec("bytes")
    assert Constraint(regex_grammar("of (the|thy)"), {"base": letters}).forced("", "base") == "of th"
    day = regex_grammar("on (Monday|Month)")
    assert Constraint(day, {"base": letters}).forced("", "base") == "on Mon"


def test_declared_objects_hold_no_strangers_unless_they_say_so() -> None:
    words = {"base": codec("bytes")}
    one = {"type": "object", "properties": {"a": {"type": "integer"}}}
    assert Constraint(json_grammar(one), words).clip('{"b') == "{"[:1] + '"'
    assert Constraint(json_grammar(one | {"additionalProperties": True}), words).clip('{"b') == '{"b'
    both = {"allOf": [one, {"type": "object", "properties": {"b": {"type": "integer"}}}]}
    assert Constraint(json_grammar(both), words).clip('{"b') == '{"b'
    named = {"type": "object", "properties": {"properties": {"type": "integer"}}, "required": ["properties"]}
    valid(named, answer(json_grammar(named), models_for(1), NudgingConfig()).text)


def test_closing_looks_further_where_the_straight_way_is_long() -> None:
    # optional and recursive first: straight on, it would open one in another without end
    schema = {
        "$ref": "#/$defs/t",
        "$defs": {
            "t": {
                "type": "object",
                "properties": {"c": {"$ref": "#/$defs/t"}, "v": {"type": "boolean"}},
                "required": ["v"],
            }
        },
    }
    constraint = Constraint(json_grammar(schema), {})
    way = constraint.closing("", lambda way: len(way) < 60)
    assert way is not None
    valid(schema, way)


def test_following_a_long_answer_is_not_quadratic() -> None:
    constraint = Constraint(json_grammar({"type": "string"}), {"base": codec("byte_bpe")})
    text, seconds = '"', []
    for _ in range(2):
        started = time.process_time()
        for _ in range(2000):
            text += "a "
            constraint.masks("base", text, (), [])
        seconds.append(time.process_time() - started)
    assert seconds[1] < 4 * seconds[0] + 0.1  # quadratic: it would be 3 times and grow


# -- what cannot be met -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (False, "no value fits"),
        ({"type": "frob"}, "frob"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum"),
        ({"$ref": "#/$defs/missing"}, "missing"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "object", "minProperties": 2}, "minProperties"),
        ({"type": "number", "multipleOf": 0.1}, "multipleOf"),
        ({"type": "object", "properties": 5}, "properties=5"),
        ({"type": "object", "required": [["a"]]}, "required"),
        ({"const": float("nan")}, "no JSON"),
        ({"const": "\ud800"}, "no JSON"),
        ("string", "pydantic"),
        ({"const": {1, 2}}, "no JSON"),
    ],
)
def test_schemas_that_cannot_be_met_say_why(schema: Any, words: str) -> None:
    with pytest.raises(GrammarError, match=words):
        json_grammar(schema)


@pytest.mark.parametrize("pattern", ["", "(", "a(?=b)", None])
def test_bad_patterns(pattern: Any) -> None:
    with pytest.raises(GrammarError):
        regex_grammar(pattern)


@pytest.mark.parametrize("choices", [[], "yes", ["a", ""], ["a", 1], None])
def test_bad_choices(choices: Any) -> None:
    with pytest.raises(GrammarError):
        choices_grammar(choices)


@pytest.mark.parametrize(
    "value", [True, {}, {"type": "object"}, {"type": ["string", "null"]}, {"enum": [1, "a", None, {"x": []}]}]
)
def test_corner_cases_are_met(value: Any) -> None:
    for seed in range(6):
        valid(value, answer(json_grammar(value), models_for(seed), NudgingConfig(max_tokens=80)).text)


# -- calls in free text -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bytes", "byte_bpe", "gpt_bpe", "fallback"])
@pytest.mark.parametrize("base_prob", [0.1, 0.9])
@pytest.mark.parametrize("several", [True, False])
def test_a_call_that_has_begun_is_held_to_its_schema(kind: str, base_prob: float, several: bool) -> None:
    script = 'Wait.\n<tool_call>[{"tool": "frob", "n": "x"}] and so on. and so on. and so on.'
    models: list[FakeModel] = [
        Scripted(kind, "Answer:", script, base_prob),
        Scripted(kind, "user says", script, 0.9),
    ]
    tools = read_tools([CALL])
    grammar = calls_grammar(HERMES.schema(tools), HERMES.begin, HERMES.end, several, "<tool_call>")
    found = answer(grammar, models, NudgingConfig(max_tokens=120, stop=["n", "@"] if several else []))
    if several:  # a stop string counts in free text only
        assert found.text.startswith("Wait.\n<tool_call>") and found.provenance.finish_reason != "stop_string"
    read = parse_calls(found.text, tools)
    assert read.content == "Wait." and read.calls and not read.invalid
    for call in read.calls:
        jsonschema.validate(call.arguments, CALL["parameters"])
    assert len(read.calls) == 1 or several
    by_grammar = "".join(piece.text for piece in found.provenance.pieces if piece.source == "grammar")
    assert by_grammar.startswith('\n{"name": "add", "arguments": {"n":')


def test_free_text_stays_free() -> None:
    script = "No call is needed here. Two and two are four."
    models: list[FakeModel] = [
        Scripted("gpt_bpe", "Answer:", script, 0.5),
        Scripted("gpt_bpe", "user says", script, 0.9),
    ]
    grammar = calls_grammar(HERMES.schema(read_tools([CALL])), HERMES.begin, HERMES.end, True, "<tool_call>")
    found = answer(grammar, models, NudgingConfig())
    assert found.text == script and found.provenance.grammar_tokens == 0
