"""Forms of answer through the generator, on tiny random models: every way to ask, and what is refused before any compute."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from pydantic import BaseModel, field_validator
from typing_extensions import TypedDict

from nudging_llm import ConfigError, GrammarError, MessageError, NudgingConfig, NudgingGenerator, ToolError
from nudging_llm.testing.tiny import tiny_model, tiny_tokenizer


class Point(BaseModel):
    x: int
    name: str

    @field_validator("x")
    @classmethod
    def _short(cls, value: int) -> int:
        return value


class Never(BaseModel):
    x: int

    @field_validator("x")
    @classmethod
    def _never(cls, value: int) -> int:
        raise ValueError("never")


class Typed(TypedDict):
    ok: bool


SCHEMA = {
    "type": "object",
    "properties": {"k": {"enum": ["x", "yy"]}, "n": {"type": "integer"}},
    "required": ["k", "n"],
}


def look_up(word: str, count: int = 3) -> str:
    """Look a word up."""


@pytest.fixture(scope="module")
def pair() -> NudgingGenerator:
    size = dict(max_position_embeddings=2048)
    return NudgingGenerator.from_pretrained(
        (tiny_model(7, **size), tiny_tokenizer(False)),
        (tiny_model(57, **size), tiny_tokenizer(True)),
        NudgingConfig(max_tokens=90, threshold=0.2),
        dtype="float32",
        device="cpu",
    )


def test_every_way_to_ask_gives_the_same(pair: NudgingGenerator) -> None:
    questions = [f"question {i}" for i in range(5)]

    async def ask() -> tuple[Any, ...]:
        several = await pair.abatch(questions, json_schema=SCHEMA)
        one = await pair.agenerate(questions[0], json_schema=SCHEMA)
        streamed = "".join([piece.text async for piece in pair.astream(questions[1], json_schema=SCHEMA)])
        return several, one, streamed

    expected = [pair.generate(question, json_schema=SCHEMA) for question in questions]
    for result in expected:
        assert result.parsed == json.loads(result.text) and result.parsed["k"] in ("x", "yy")
    several, one, streamed = asyncio.run(ask())
    texts = [result.text for result in expected]
    assert [result.text for result in several] == texts
    assert [result.text for result in pair.batch(questions, json_schema=SCHEMA)] == texts
    assert one.text == texts[0] and streamed == texts[1]
    assert len(set(texts)) > 1


def test_a_schema_does_not_spoil_what_is_remembered(pair: NudgingGenerator) -> None:
    """Choices made under a grammar are of no use to another, nor to free text."""
    pair.clear_cache()
    free = pair.generate("the same", max_tokens=30).text
    held = pair.generate("the same", json_schema=SCHEMA).text
    assert pair.generate("the same", max_tokens=30).text == free
    choice = pair.generate("the same", choices=["abc", "xyz"]).text
    assert choice in ("abc", "xyz")
    again = pair.generate("the same", json_schema=SCHEMA)
    assert again.text == held
    assert again.provenance.base.forwards == again.provenance.nudging.forwards == 0  # but to its own
    pair.clear_cache()
    assert pair.generate("the same", json_schema=SCHEMA).text == held


def test_types_are_parsed(pair: NudgingGenerator) -> None:
    assert isinstance(pair.generate("a", json_schema=Point).parsed, Point)
    assert pair.generate("a", json_schema=Typed).parsed in ({"ok": True}, {"ok": False})
    assert isinstance(pair.generate("a", json_schema=list[bool], max_tokens=30).parsed, list)
    assert isinstance(pair.generate("a", json_schema=int).parsed, int)
    assert pair.generate("a", json_schema={"const": None}).parsed is None


def test_a_validator_that_the_schema_does_not_tell_of(pair: NudgingGenerator) -> None:
    result = pair.generate("a", json_schema=Never)
    assert result.parsed is None and "never" in str(result.parsing_error)
    assert json.loads(result.text).keys() == {"x"}


def test_sampling_under_a_grammar(pair: NudgingGenerator) -> None:
    options = dict(json_schema=SCHEMA, temperature=1.5, nudging_temperature=1.5)
    texts = [pair.generate("a", seed=seed, **options).text for seed in range(12)]
    assert len(set(texts)) > 3
    assert all(json.loads(text)["k"] in ("x", "yy") for text in texts)
    assert texts[5] == pair.generate("a", seed=5, drafting=False, **options).text
    assert pair.generate("a", seed=5, top_p=0.5, top_k=7, **options).parsed["k"] in ("x", "yy")


@pytest.mark.parametrize("model", ["base", "nudging"])
def test_one_model_alone(pair: NudgingGenerator, model: Any) -> None:
    result = pair.generate_alone(model, "a", json_schema=SCHEMA)
    assert result.parsed["k"] in ("x", "yy")
    assert pair.generate_alone(model, "a", tools=[look_up], tool_choice="required").calls


def test_raw_prompts(pair: NudgingGenerator) -> None:
    assert pair.generate_raw("a:", "b:", choices=["one", "two"]).text in ("one", "two")
    with pytest.raises(ConfigError, match="raw"):
        pair.generate_raw("a:", "b:", tools=[look_up])


@pytest.mark.parametrize(
    "choice", ["required", "any", "look_up", True, {"type": "function", "function": {"name": "look_up"}}]
)
def test_calls_are_made_where_they_must_be(pair: NudgingGenerator, choice: Any) -> None:
    result = pair.generate("a", tools=[look_up], tool_choice=choice, max_tokens=150)
    assert result.calls and not result.invalid_calls and not result.content
    for call in result.calls:
        assert call.name == "look_up" and isinstance(call.arguments["word"], str)
        assert result.text[call.start : call.start + len(call.text)] == call.text
    assert len({call.id for call in result.calls}) == len(result.calls)
    alone = pair.generate("a", tools=[look_up], tool_choice=choice, max_tokens=150, parallel_tool_calls=False)
    assert len(alone.calls) == 1


def test_no_calls_where_none_may_be(pair: NudgingGenerator) -> None:
    free = pair.generate("a", max_tokens=30)
    assert pair.generate("a", tools=[look_up], tool_choice="none", max_tokens=30).text == free.text
    assert free.calls == () and free.content == free.text and free.parsed is None


def test_a_cancelled_answer_is_parsed_as_far_as_it_came(pair: NudgingGenerator) -> None:
    stream = pair.stream("a", json_schema={"type": "array", "items": {"type": "integer"}, "minItems": 9})
    for _ in range(4):
        next(stream)
    stream.close()
    assert stream.provenance.finish_reason == "cancelled"
    assert stream.result.parsed == stream.partial and isinstance(stream.partial, list)
    json.loads(pair.generate("a", json_schema=SCHEMA).text)


REFUSED = [
    (dict(json_schema=SCHEMA, choices=["a"]), ConfigError, "json_schema and choices"),
    (dict(json_schema=SCHEMA, tools=[look_up], tool_choice="required"), ConfigError, "json_schema and tools"),
    (dict(json_schema=SCHEMA, stop=["}"]), ConfigError, "stop"),
    (dict(json_schema=SCHEMA, **dict(repetition="paper", end_check="lookahead")), ConfigError, "guard"),
    (dict(json_schma=SCHEMA), ConfigError, "Did you mean 'json_schema'"),
    (dict(tool_choise="auto"), ConfigError, "Did you mean 'tool_choice'"),
    (dict(thresold=0.1), ConfigError, "Did you mean 'threshold'"),
    (dict(json_schema={"type": "frob"}), GrammarError, "frob"),
    (dict(json_schema=object()), GrammarError, "pydantic"),
    (dict(json_schema=SCHEMA, max_tokens=5), GrammarError, "max_tokens is 5"),
    (
        dict(
            json_schema={
                "$ref": "#/$defs/a",
                "$defs": {"a": {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}, "required": ["a"]}},
            }
        ),
        GrammarError,
        "without end|nsatisfiable",
    ),
    (dict(regex="("), GrammarError, "regex"),
    (dict(choices=[]), GrammarError, "choices"),
    (dict(tools=[look_up, look_up]), ToolError, "look_up"),
    (dict(tools=[look_up], tool_choice="lookup"), ToolError, "look_up"),
    (dict(tool_choice="required"), ToolError, "tool"),
    (
        dict(tools=[{"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "frob"}}}}]),
        (ToolError, GrammarError),
        "frob",
    ),
    (dict(tools="look_up"), ToolError, "look_up"),
]


@pytest.mark.parametrize(("options", "kind", "words"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_refused_before_any_compute(
    pair: NudgingGenerator, options: Any, kind: Any, words: str, monkeypatch: Any
) -> None:
    def no_forward(*_: Any) -> None:
        raise AssertionError("computed")

    with monkeypatch.context() as patched:
        patched.setattr(pair.base.engine, "forward", no_forward)
        patched.setattr(pair.nudging.engine, "forward", no_forward)
        with pytest.raises(kind, match=words):
            pair.generate("a", **options)
    assert pair.generate("a", choices=["ok"]).text == "ok"


def test_a_result_for_an_unknown_call(pair: NudgingGenerator) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "tool", "tool_call_id": "nope", "content": "1"}]
    with pytest.raises(MessageError, match="nope"):
        pair.generate(messages, tools=[look_up])
