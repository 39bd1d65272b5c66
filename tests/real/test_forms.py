"""Constrained answers and tool calls on the starter pair: always valid, and what the grammar saves."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import jsonschema
import pytest
from pydantic import BaseModel, Field, TypeAdapter

from nudging_llm import GrammarError, NudgingGenerator

pytestmark = pytest.mark.real


class Address(BaseModel):
    street: str
    number: int = Field(ge=1, le=9999)
    city: str


class Person(BaseModel):
    """A person."""

    name: str
    age: int = Field(ge=0, le=150)
    email: str | None = None
    address: Address | None = None


class Order(BaseModel):
    items: Annotated[list[str], Field(min_length=1, max_length=3)]
    state: Literal["new", "paid", "sent"]
    total: float


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(ge=0, le=9)


class Dog(BaseModel):
    kind: Literal["dog"]
    barks: bool


class Owner(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]


class Tree(BaseModel):
    value: int
    children: list[Tree] = Field(default_factory=list, max_length=2)


def record(properties: dict, *required: str, **more) -> dict:
    return {"type": "object", "properties": properties, "required": list(required or properties), **more}


TEXT, WHOLE = {"type": "string"}, {"type": "integer"}
SCHEMAS = {
    "string": TEXT,
    "short string": {"type": "string", "maxLength": 12},
    "integer": WHOLE,
    "bounded integer": {"type": "integer", "minimum": 10, "maximum": 99},
    "number": {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
    "multiple": {"type": "integer", "multipleOf": 5, "minimum": 1, "maximum": 1000},
    "boolean": {"type": "boolean"},
    "null or integer": {"type": ["integer", "null"]},
    "enum": {"enum": ["red", "green", "blue", None, 7]},
    "unicode enum": {"enum": ["größer", "kleiner", "日本語", "🙂"]},
    "const": {"const": {"version": 2, "ok": True}},
    "array": {"type": "array", "items": TEXT, "maxItems": 3},
    "array of at least two": {
        "type": "array",
        "items": {"type": "integer", "maximum": 9, "minimum": 0},
        "minItems": 2,
        "maxItems": 4,
    },
    "tuple": {"type": "array", "prefixItems": [TEXT, WHOLE], "items": False, "minItems": 2},
    "object": record({"answer": TEXT}),
    "two keys": record({"city": TEXT, "people": WHOLE}),
    "optional keys": record({"a": TEXT, "b": WHOLE, "c": {"type": "boolean"}}, "b"),
    "unicode keys": record({"Größe": {"type": "number"}, "都市": TEXT}),
    "nested": record({"outer": record({"inner": record({"value": WHOLE})})}),
    "array of objects": {"type": "array", "items": record({"name": TEXT, "n": WHOLE}), "minItems": 1, "maxItems": 2},
    "union": {"anyOf": [record({"error": TEXT}), record({"value": {"type": "number"}})]},
    "pattern": record({"plate": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3,4}$"}}),
    "date": record({"when": {"type": "string", "format": "date"}}),
    "references": {
        "$defs": {"place": record({"x": WHOLE, "y": WHOLE})},
        **record({"from": {"$ref": "#/$defs/place"}, "to": {"$ref": "#/$defs/place"}}),
    },
    "map": {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0, "maximum": 9}},
    "class": Person,
    "class with enum and list": Order,
    "class with a choice": Owner,
    "recursive class": Tree,
    "list of a type": list[Address],
}
QUESTIONS = [
    "Which city in France has the most people, and how many are there?",
    "Mary, who is 34, lives at 12 Mill Lane in Oxford. Describe her.",
    "I would like two apples and a red pen, please.",
]


@pytest.mark.parametrize("name", SCHEMAS)
def test_answers_always_fit_their_schema(starter: NudgingGenerator, name: str) -> None:
    asked = SCHEMAS[name]
    adapter = TypeAdapter(asked) if not isinstance(asked, dict) else None
    schema = adapter.json_schema() if adapter else asked
    question = QUESTIONS[list(SCHEMAS).index(name) % len(QUESTIONS)]
    result = starter.generate(question, json_schema=asked, max_tokens=90)
    jsonschema.validate(json.loads(result.text), schema, jsonschema.Draft202012Validator)
    if adapter:
        assert result.parsed == adapter.validate_json(result.text)
    else:
        assert result.parsed == json.loads(result.text)
    record = result.provenance
    assert record.text == result.text and record.n_tokens <= 90
    assert "".join(piece.text for piece in record.pieces) == result.text


def test_guesses_change_nothing(starter: NudgingGenerator) -> None:
    for asked, question in ((Person, QUESTIONS[1]), (SCHEMAS["array of objects"], QUESTIONS[0])):
        with_guesses = starter.generate(question, json_schema=asked, max_tokens=80)
        starter.clear_cache()
        without = starter.generate(question, json_schema=asked, max_tokens=80, drafting=False)
        streamed = list(starter.stream(question, json_schema=asked, max_tokens=80))
        assert with_guesses.text == without.text == "".join(piece.text for piece in streamed)


def test_the_grammar_saves_forwards_and_costs_little(starter: NudgingGenerator) -> None:
    starter.generate(QUESTIONS[1], json_schema=Person, max_tokens=80)  # reads the vocabularies
    starter.clear_cache()
    record = starter.generate(QUESTIONS[1], json_schema=Person, max_tokens=80).provenance
    assert record.grammar_tokens >= 8  # keys and punctuation
    assert record.base.forwards + record.nudging.forwards < 2 * record.n_tokens


def test_choices_and_patterns(starter: NudgingGenerator) -> None:
    options = ["France", "Germany", "Japan"]
    assert starter.generate("Paris is the capital of which country?", choices=options).text == "France"
    answer = starter.generate(
        "When did the second world war end? Give the date.",
        regex=r"[0-9]{1,2} (April|May|June|August|September) 19[0-9]{2}",
    )
    assert answer.text.rsplit(" ", 1)[1].startswith("19")


def test_partial_objects_while_streaming(starter: NudgingGenerator) -> None:
    stream, seen = starter.stream(QUESTIONS[1], json_schema=Person, max_tokens=80), []
    for _ in stream:
        seen.append(stream.partial)
    assert seen[-1] == json.loads(stream.text)
    assert all(isinstance(value, dict) for value in seen)
    lengths = [len(json.dumps(value)) for value in seen]
    assert lengths == sorted(lengths)


def get_weather(city: str, days: int) -> str:
    """Weather forecast for a city, for some days."""


def add_reminder(text: str, minutes: int) -> None:
    """Remind the user of something after some minutes."""


def test_forced_calls(starter: NudgingGenerator) -> None:
    result = starter.generate(
        "What will the weather be like in Paris over the next 3 days?",
        tools=[get_weather, add_reminder],
        tool_choice="get_weather",
    )
    [call] = result.calls
    assert call.name == "get_weather" and call.arguments["days"] == 3 and "Paris" in call.arguments["city"]
    assert not result.content and not result.invalid_calls
    either = starter.generate(
        "Remind me in 20 minutes to call Ann.", tools=[get_weather, add_reminder], tool_choice="required"
    )
    assert either.calls and {call.name for call in either.calls} <= {"get_weather", "add_reminder"}
    assert len({call.id for call in either.calls}) == len(either.calls)


def test_free_choice_ends_in_text_or_whole_calls(starter: NudgingGenerator) -> None:
    for question in ("What is the weather in Rome for 2 days?", "Say hello.", QUESTIONS[1]):
        result = starter.generate(question, tools=[get_weather, add_reminder], max_tokens=60)
        assert not result.invalid_calls, result.text
        assert result.calls or result.content
        for call in result.calls:
            json.dumps(call.arguments)


def test_a_call_and_its_result_in_the_conversation(starter: NudgingGenerator) -> None:
    call = {"id": "c1", "name": "get_weather", "arguments": {"city": "Rome", "days": 1}}
    conversation = [
        {"role": "user", "content": "What is the weather in Rome?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "Sunny, 31 degrees"},
    ]
    result = starter.generate(conversation, tools=[get_weather], tool_choice="none", max_tokens=40)
    assert "31" in result.text or "sunny" in result.text.lower()


def test_too_little_room_is_refused_before_any_compute(starter: NudgingGenerator) -> None:
    with pytest.raises(GrammarError, match=r"max_tokens is 5"):
        starter.generate("Who?", json_schema=Person, max_tokens=5)
