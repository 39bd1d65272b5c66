"""Numbers in JSON answers are such as Python can read; other text with digits is left alone."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from nudging_llm import NudgingConfig, NudgingGenerator
from nudging_llm.structured.numbers import endless, number_at_end
from nudging_llm.testing.scripted import rules, scripted_pair
from nudging_llm.testing.tiny import tiny_model, tiny_tokenizer


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ('{"x": 1', "0"),
        ('{"x": -12.5e', "00.0e"),
        ("[3, 6.02e+2", "0.00e+0"),
        ('{"x": "1e9', ""),
        ('{"x": "a\\"1e9', ""),
        ('{"x": "1e9", "y": 7e', "0e"),
        ('{"x": 1, ', ""),
        ("", ""),
    ],
)
def test_the_number_at_the_end(text: str, number: str) -> None:
    assert number_at_end(text.encode()) == number.encode()


EXPONENTS = {b"e100", b".5E+300"}


@pytest.mark.parametrize(
    ("number", "too_long"),
    [
        ("0e", {b"100", b"999, ", *EXPONENTS}),
        ("0e0", {b"10", b"100", b"999, ", *EXPONENTS}),
        ("0e-00", {b"1", b"10", b"100", b"999, ", *EXPONENTS}),
        ("0", EXPONENTS),
        ("0" * 199, {b"10", b"100", b"999, ", *EXPONENTS}),
    ],
)
def test_tokens_that_no_float_would_hold(number: str, too_long: set[bytes]) -> None:
    spellings = [b"1", b"10", b"100", b"999, ", *EXPONENTS, b", 1000", b"a1", b"}"]
    found = endless(number.encode(), [(spelling, i) for i, spelling in enumerate(spellings)])
    assert {spellings[i] for i in found} == too_long


NUMBER = {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}


def parsed(text: str, schema: Any) -> Any:
    """What a pair that wants to write ``text`` writes."""
    pair = scripted_pair(rules((".", text)), NudgingConfig(max_tokens=600, repetition="off"))
    return json.loads(pair.generate("a", json_schema=schema).text)


def test_an_exponent_ends_where_floats_do() -> None:
    assert parsed('{"x": 1e9999}', NUMBER) == {"x": 1e99}
    assert parsed('{"x": 6.02e23}', NUMBER) == {"x": 6.02e23}
    assert parsed('{"x": 1.5e-12}', NUMBER) == {"x": 1.5e-12}
    assert math.isfinite(parsed(f'{{"x": {"9" * 400}e50}}', NUMBER)["x"])


def test_strings_and_constants_may_look_like_anything() -> None:
    text = {"type": "object", "properties": {"x": {"type": "string"}}, "required": ["x"]}
    assert parsed('{"x": "1e9999"}', text) == {"x": "1e9999"}
    found = parsed("[1e+300]", {"type": "array", "items": {"const": 1e300}, "minItems": 1, "maxItems": 1})
    assert [float(value) for value in found] == [1e300], "a constant has as many digits as it has"


def test_a_call_s_numbers_too() -> None:
    def scale(x: float) -> None:
        """Scale it."""

    asked = '<tool_call>\n{"name": "scale", "arguments": {"x": 1e999}}\n</tool_call>'
    for choice in ("auto", "required"):
        [call] = scripted_pair(rules((".", asked))).generate("a", tools=[scale], tool_choice=choice).calls
        assert call.arguments == {"x": 1e99}


@pytest.mark.parametrize("seed", range(6))
def test_random_models_write_finite_numbers(pair: NudgingGenerator, seed: int) -> None:
    schema = {"type": "array", "items": {"type": "number"}, "minItems": 8, "maxItems": 8}
    found = pair.generate(f"{seed}", json_schema=schema, temperature=2.0, seed=seed, threshold=0.1)
    assert len(found.parsed) == 8 and all(map(math.isfinite, found.parsed))


@pytest.fixture(scope="module")
def pair() -> NudgingGenerator:
    size = dict(max_position_embeddings=4096)
    models = [(tiny_model(seed, **size), tiny_tokenizer(seed == 57)) for seed in (7, 57)]
    return NudgingGenerator.from_pretrained(*models, NudgingConfig(max_tokens=900), dtype="float32", device="cpu")
