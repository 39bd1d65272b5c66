"""Tools and a JSON schema together: calls, or else JSON that fits. Agents with a response format ask so."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from nudging_llm import ConfigError, GrammarError, NudgingConfig, NudgingGenerator
from nudging_llm.testing.scripted import rules, scripted_pair


class Trip(BaseModel):
    city: str
    days: int


def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'
JSON = '{"city": "Paris", "days": 3}'
#: What would be a call if the schema did not say that it is the answer.
LOOKALIKE = '{"name": "get_weather", "arguments": {"city": "Rome"}}'


class Odd(BaseModel):
    name: str
    arguments: dict[str, str]


@pytest.fixture(scope="module")
def pair() -> NudgingGenerator:
    script = rules(("weather", CALL), ("trip", JSON), ("odd", LOOKALIKE), ("free", "Some free text."))
    return scripted_pair(script, NudgingConfig(max_tokens=300))


def sorted_text(pair: NudgingGenerator, question: str, **options: Any) -> list[tuple[str, str]]:
    stream = pair.stream(question, **options)
    tool_call_parser = stream.tool_call_parser()
    found = [part for piece in stream for part in tool_call_parser.feed(piece)] + list(
        tool_call_parser.end(stream.result)
    )
    return [(part.channel, part.piece.text) for part in found]


def test_the_models_choose_between_a_call_and_json(pair):
    called = pair.generate("the weather?", tools=[get_weather], json_schema=Trip)
    assert [call.arguments for call in called.calls] == [{"city": "Rome"}] and called.parsed is None
    answered = pair.generate("a trip!", tools=[get_weather], json_schema=Trip)
    assert answered.parsed == Trip(city="Paris", days=3) and not answered.calls and answered.content == JSON


def test_free_text_is_neither(pair):
    found = pair.generate("free", tools=[get_weather], json_schema=Trip)
    assert found.calls or isinstance(found.parsed, Trip)


def test_json_that_looks_like_a_call_is_the_answer(pair):
    found = pair.generate("odd", tools=[get_weather], json_schema=Odd)
    assert found.parsed == Odd(name="get_weather", arguments={"city": "Rome"}) and not found.calls
    parts = sorted_text(pair, "odd", tools=[get_weather], json_schema=Odd)
    assert {channel for channel, _ in parts} == {"content"} and "".join(text for _, text in parts) == LOOKALIKE


def test_json_streams_while_it_is_written(pair):
    stream = pair.stream("a trip!", tools=[get_weather], json_schema=Trip)
    tool_call_parser = stream.tool_call_parser()
    for piece in stream:
        assert [part.piece for part in tool_call_parser.feed(piece)] == [piece]
    assert not list(tool_call_parser.end(stream.result))


def test_a_call_goes_to_its_channel(pair):
    parts = sorted_text(pair, "the weather?", tools=[get_weather], json_schema=Trip)
    assert {channel for channel, _ in parts} == {"tool_call"} and "".join(text for _, text in parts) == CALL


def test_without_a_choice_it_is_json_and_forced_it_is_refused(pair):
    found = pair.generate("the weather?", tools=[get_weather], json_schema=Trip, tool_choice="none")
    assert isinstance(found.parsed, Trip) and not found.calls
    for choice in ("required", "get_weather"):
        with pytest.raises(ConfigError, match="json_schema and tools"):
            pair.generate("the weather?", tools=[get_weather], json_schema=Trip, tool_choice=choice)
    with pytest.raises(GrammarError, match="frob"):
        pair.generate("the weather?", tools=[get_weather], json_schema={"type": "frob"})
    with pytest.raises(ConfigError, match="stop"):
        pair.generate("the weather?", tools=[get_weather], json_schema=Trip, stop=["x"])
