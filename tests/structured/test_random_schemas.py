"""Random schemas on random fake pairs over all kinds of tokenizers: the answer always meets its schema."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nudging_llm import GrammarError, NudgingConfig
from nudging_llm.structured.constraint import Constraint
from nudging_llm.structured.grammar import json_grammar
from tests.sampling import cases
from tests.structured.answering import answer, models_for, valid

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


NODE = {
    "type": "object",
    "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}, "v": {"type": "integer"}},
    "required": ["v"],
}


@pytest.mark.parametrize("quarter", range(4))  # so that cores can share them
@settings(max_examples=cases(120), deadline=None, suppress_health_check=list(HealthCheck))
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
