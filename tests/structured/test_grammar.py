"""Constrained decoding on fake pairs over all kinds of tokenizers: always valid, whatever the models would write."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nudging_llm import GrammarError, NudgingConfig
from nudging_llm.decoding.algorithm import decode, decode_alone
from nudging_llm.protocol import GREEDY
from nudging_llm.provenance import Reason
from nudging_llm.runtime.request import Part, Request, Result, Stream
from nudging_llm.runtime.scheduler import Batcher, Scheduler
from nudging_llm.runtime.session import SessionPool
from nudging_llm.structured.constraint import Constraint, vocabulary
from nudging_llm.structured.grammar import Grammar, calls_grammar, choices_grammar, json_grammar, regex_grammar
from nudging_llm.testing.fake_models import KINDS, FakeEngine, FakeModel, codec
from nudging_llm.text.prompt_encoder import IncrementalPromptEncoder
from nudging_llm.tools.definitions import HERMES, read_tools
from nudging_llm.tools.parser import parse_calls

# -- random schemas ---------------------------------------------------------------------------------------------------

names = st.sampled_from(["a", "b", "city name", "größe", "日本", "x-1", 'quo"te', "back\\slash", "ref"])
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=12)
scalars = st.one_of(st.none(), st.booleans(), st.integers(-(10**6), 10**6), texts)


@st.composite
def numbers(draw: st.DrawFn) -> dict[str, Any]:
    low = draw(st.integers(-50, 50))
    schema: dict[str, Any] = {"type": draw(st.sampled_from(["integer", "number"]))}
    if draw(st.booleans()):
        schema["minimum"] = low
    if draw(st.booleans()):
        schema["maximum"] = low + draw(st.integers(10, 1000))
    if schema["type"] == "integer" and draw(st.booleans()):
        schema["multipleOf"] = draw(st.sampled_from([2, 5, 7]))
    return schema


@st.composite
def strings(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.integers(0, 3))
    if kind == 0:
        return {"type": "string"}
    if kind == 1:
        least = draw(st.integers(0, 6))
        return {"type": "string", "minLength": least, "maxLength": least + draw(st.integers(0, 9))}
    if kind == 2:
        pattern = draw(st.sampled_from(["^[A-Z]{2}[0-9]+$", "^(ab)*c$", "^é{2,3}$", "^[^0-9]+$", "^\\d{4}-\\d{2}$"]))
        return {"type": "string", "pattern": pattern}
    return {"type": "string", "format": draw(st.sampled_from(["date", "date-time", "uuid", "ipv4", "email"]))}


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    def build(properties: dict[str, Any], chosen: random.Random, silent: bool) -> dict[str, Any]:
        required = [name for name in properties if chosen.random() < 0.6]
        schema: dict[str, Any] = {"type": "object", "properties": properties, "required": required}
        return schema if silent else schema | {"additionalProperties": False}

    return st.builds(build, st.dictionaries(names, inner, max_size=4), st.randoms(), st.booleans())


def arrays(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    def build(items: Any, least: int, more: int | None) -> dict[str, Any]:
        schema = {"type": "array", "items": items, "minItems": least}
        return schema if more is None else schema | {"maxItems": least + more}

    return st.builds(build, inner, st.integers(0, 3), st.one_of(st.none(), st.integers(0, 3)))


leaves = st.one_of(
    numbers(),
    strings(),
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.builds(lambda values: {"enum": values}, st.lists(scalars, min_size=1, max_size=4, unique_by=json.dumps)),
    st.builds(lambda value: {"const": value}, scalars),
    st.just({"$ref": "#/$defs/node"}),
)
schemas = st.recursive(
    leaves,
    lambda inner: st.one_of(
        objects(inner),
        arrays(inner),
        st.builds(lambda options: {"anyOf": options}, st.lists(inner, min_size=1, max_size=3)),
    ),
    max_leaves=6,
)
WHOLE = {"type": "integer"}
NODE = {
    "type": "object",
    "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}, "v": {"type": "integer"}},
    "required": ["v"],
}


# -- running fakes ----------------------------------------------------------------------------------------------------


def models_for(seed: int, end: int = 8) -> list[FakeModel]:
    rng = random.Random(seed)
    language = rng.randrange(4)
    return [FakeModel(rng.choice(KINDS), rng.randrange(2**20) * 4 + language, end=end) for _ in range(2)]


def answer(grammar: Grammar, models: list[FakeModel], config: NudgingConfig, crop: bool = True) -> Result:
    batchers = {
        model: Batcher(SessionPool(FakeEngine(fake, crop)))
        for model, fake in zip(("base", "nudging"), models, strict=True)
    }
    voices = {
        "base": IncrementalPromptEncoder(models[0].codec, models[0].codec.bos_ids, "Question: why?\nAnswer:", None),
        "nudging": IncrementalPromptEncoder(models[1].codec, models[1].codec.encode("user says"), "", None),
    }
    constraint = Constraint(grammar, {name: fake.codec for name, fake in zip(voices, models, strict=True)}, ["base"])
    parts = {name: Part(batchers[name], GREEDY, voice.encode("")).held_to(grammar) for name, voice in voices.items()}

    def start(clock):
        return decode(voices["base"], voices["nudging"], config, ("\nQuestion:",), clock, None, constraint)

    stream = Stream(Request(parts, Scheduler(tuple(batchers.values())), start, config, lambda counts: (), constraint))
    for _ in stream:
        pass
    return stream.result


def valid(schema: Any, text: str) -> None:
    jsonschema.validate(json.loads(text), schema, jsonschema.Draft202012Validator)


# -- always valid -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quarter", range(4))  # so that cores can share them
@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
@given(schema=schemas, seed=st.integers(0, 2**30), tight=st.booleans())
@example(schema={"enum": ["0\x7f"]}, seed=0, tight=False)
@example(schema={"type": "object", "properties": {"\x7f": {"const": "\x9f"}}, "required": ["\x7f"]}, seed=0, tight=True)
def test_random_schemas_are_always_met(quarter: int, schema: dict[str, Any], seed: int, tight: bool) -> None:
    schema = {**schema, "$defs": {"node": NODE}}
    try:
        grammar = json_grammar(schema)
    except GrammarError as error:  # two bounds or a pattern that exclude each other
        assert "nsatisfiable" in str(error) or "multiple of" in str(error), error
        return
    rng = random.Random(seed)
    models = models_for(seed)
    shortest = (
        Constraint(grammar, {}).closing("", lambda way: True) or ""
    )  # what has no room at all is refused elsewhere
    config = NudgingConfig(
        max_tokens=max(400 if tight else 1200, 4 * len(models[0].codec.encode(shortest))),
        threshold=rng.choice([0.0, 0.4, 1.1]),
        lookahead=rng.choice([1, 4, 16]),
        end_check=rng.choice(["lookahead", "sentence"]),
        stop_on=rng.choice(["nudging", "either", "both"]),
    )
    drafted = answer(grammar, models, config)
    valid(schema, drafted.text)
    record = drafted.provenance
    assert record.n_tokens <= config.max_tokens
    assert record.finish_reason in ("stop", "length", "repetition")
    plain = answer(grammar, models, config.updated({"drafting": False}), crop=rng.random() < 0.8)
    assert plain.text == drafted.text
    assert [(p.text, p.source, p.reason) for p in plain.provenance.pieces] == [
        (p.text, p.source, p.reason) for p in record.pieces
    ]


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
    batcher = Batcher(SessionPool(FakeEngine(fake)))
    voice = IncrementalPromptEncoder(fake.codec, [], "Say: one\n", None)
    constraint = Constraint(grammar, {model: fake.codec}, [model] if voice.joins else [])
    part = Part(batcher, GREEDY, voice.encode("")).held_to(grammar)
    run = Request(
        {model: part},
        Scheduler((batcher,)),
        lambda clock: decode_alone(model, voice, config, (), clock, None, constraint),
        config,
        lambda c: (),
        constraint,
    )
    for _ in (stream := Stream(run)):
        pass
    valid(schema, stream.text)
    assert {piece.source for piece in stream.pieces} == {model, "grammar"}


# -- the constraint by itself -----------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
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


class Scripted(FakeModel):
    """A model that would write one text, whatever the grammar makes of it."""

    def __init__(self, kind: str, prompt: str, script: str, prob: float) -> None:
        super().__init__(kind, 1)
        self.prompt, self.script, self.prob = prompt, script, prob

    def next(self, tokens: Any) -> tuple[int, float]:
        text = self.codec.decode([token for token in tokens if not self.codec.is_end(token)])
        written = text.partition(self.prompt)[2].lstrip(" ")
        rest = self.codec.encode(self.script[len(written) :])
        return (rest[0] if rest else self.codec._backend.token_to_id("<end>")), self.prob


CALL = {"name": "add", "parameters": {"type": "object", "properties": {"n": WHOLE}, "required": ["n"]}}


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
