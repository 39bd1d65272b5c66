"""Structured output: whatever is given as a schema, by whatever method, the value is of that type."""

from __future__ import annotations

import asyncio
import datetime
import json
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage
from pydantic import BaseModel, Field, field_validator
from pydantic.v1 import BaseModel as BaseModelV1
from typing_extensions import TypedDict

from langchain_nudging import ChatNudging, get_provenance, get_provenances
from nudging_llm import ConfigError, ToolError
from nudging_llm.testing.scripted import rules, scripted_pair
from nudging_llm.testing.tiny import tiny_model, tiny_tokenizer

METHODS = ("function_calling", "json_schema", "json_mode")
each_method = pytest.mark.parametrize("method", METHODS)


class Joke(BaseModel):
    """A joke."""

    setup: str = Field(description="How it begins")
    punchline: str = ""
    rating: int | None = None


class JokeV1(BaseModelV1):
    """A joke."""

    setup: str
    punchline: str
    rating: int


class JokeDict(TypedDict):
    """A joke."""

    setup: Annotated[str, ..., "How it begins"]
    punchline: str
    rating: int


PROPERTIES = {"setup": {"type": "string"}, "punchline": {"type": "string"}, "rating": {"type": "integer"}}
PARAMETERS = {"type": "object", "properties": PROPERTIES, "required": list(PROPERTIES)}
JOKE_SCHEMA = {"title": "Joke", "description": "A joke.", **PARAMETERS}
JOKE_FUNCTION = {"name": "Joke", "description": "A joke.", "parameters": PARAMETERS}
KINDS: dict[str, tuple[Any, type]] = {
    "pydantic": (Joke, Joke),
    "pydantic v1": (JokeV1, JokeV1),
    "TypedDict": (JokeDict, dict),
    "JSON schema": (JOKE_SCHEMA, dict),
    "OpenAI function": (JOKE_FUNCTION, dict),
}
VALUE = {"setup": 'Why did the cat {sit} "down"?', "punchline": "It was 疲れた 🙂.", "rating": 7}


class Tree(BaseModel):
    """A tree."""

    value: int
    children: list[Tree] = []


TREE = {
    "value": 1,
    "children": [{"value": 2, "children": []}, {"value": 3, "children": [{"value": 4, "children": []}]}],
}


class Short(BaseModel):
    """Something short: a rule that no schema knows of."""

    text: str

    @field_validator("text")
    @classmethod
    def is_short(cls, text: str) -> str:
        if len(text) > 8:
            raise ValueError("too long")
        return text


class Weather(BaseModel):
    """The weather somewhere."""

    city: str
    degrees: float


def get_degrees(city: str) -> str:
    """Degrees in a city."""
    return f"It has 21.5 degrees in {city}."


def call(name: str, arguments: Any) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {write(arguments)}}}\n</tool_call>'


def write(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


WEATHER = {"city": "Rome", "degrees": 21.5}


def generator() -> Any:
    return scripted_pair(
        rules(
            ("weather by a tool.*21.5 degrees", call("Weather", WEATHER)),
            ("weather by a tool alone", call("Weather", WEATHER)),
            ("21.5 degrees", write(WEATHER)),
            ("weather alone", write(WEATHER)),
            ("weather", call("get_degrees", {"city": "Rome"})),
            ("JokeV1 by a call", call("JokeV1", VALUE)),
            ("JokeDict by a call", call("JokeDict", VALUE)),
            ("Joke by a call", call("Joke", VALUE)),
            ("joke as JSON", write(VALUE)),
            ("Tree by a call", call("Tree", TREE)),
            ("tree as JSON", write(TREE)),
            ("Counts by a call", call("Counts", {"a": 1})),
            ("counts as JSON", '{"a": 1}'),
            ("list as JSON", "[1, 2]"),
            ("short by a call", call("Short", {"text": "far too long"})),
            ("short as JSON", write({"text": "far too long"})),
        )
    )


@pytest.fixture(scope="module")
def model() -> ChatNudging:
    return ChatNudging(generator=generator())


def question(method: str, schema: Any = Joke) -> str:
    name = schema.__name__ if isinstance(schema, type) else schema.get("title", schema.get("name"))
    return {"function_calling": f"{name} by a call"}.get(method, "joke as JSON")


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, BaseModel):
        return value.model_dump()
    return value.dict() if isinstance(value, BaseModelV1) else value


async def collected(stream: Any) -> list[Any]:
    return [value async for value in stream]


@each_method
@pytest.mark.parametrize("kind", KINDS)
def test_the_value_is_of_the_type_asked_for(model, kind, method):
    schema, expected = KINDS[kind]
    bound = model.with_structured_output(schema, method=method)
    for value in (
        bound.invoke(question(method, schema)),
        asyncio.run(bound.ainvoke(question(method, schema))),
        *bound.batch([question(method, schema)] * 2),
    ):
        assert isinstance(value, expected)
        assert plain(value) == VALUE


@each_method
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["stream", "astream"])
def test_streamed_values_grow_and_are_of_the_type_from_first_to_last(model, kind, method, way):
    schema, expected = KINDS[kind]
    bound = model.with_structured_output(schema, method=method)
    asked = question(method, schema)
    values = list(bound.stream(asked)) if way == "stream" else asyncio.run(collected(bound.astream(asked)))
    assert all(isinstance(value, expected) for value in values)
    assert plain(values[-1]) == VALUE
    texts = [plain(value).get("setup", "") for value in values]
    assert all(later.startswith(earlier) for earlier, later in zip(texts, texts[1:], strict=False))
    assert len(values) > 3 or kind == "pydantic v1"  # it has no default: there is no value before the last
    assert all(one != next_one for one, next_one in zip(values, values[1:], strict=False))


@each_method
def test_a_type_that_refers_to_itself(model, method):
    bound = model.with_structured_output(Tree, method=method)
    asked = "a Tree by a call" if method == "function_calling" else "a tree as JSON"
    value = bound.invoke(asked)
    assert isinstance(value, Tree) and isinstance(value.children[1].children[0], Tree)
    assert value == list(bound.stream(asked))[-1] == Tree.model_validate(TREE)


#: Schemas of objects that do not list their properties.
COUNTS = {"title": "Counts", "type": "object", "additionalProperties": {"type": "integer"}}
EITHER = {
    "title": "Counts",
    "anyOf": [
        {"type": "object", "properties": {name: {"type": "integer"}}, "required": [name], "additionalProperties": False}
        for name in ("a", "b")
    ],
}


@each_method
@pytest.mark.parametrize("schema", [COUNTS, EITHER], ids=["any names", "either"])
def test_a_schema_that_lists_no_properties_holds_all_the_same(model, method, schema):
    asked = "Counts by a call" if method == "function_calling" else "counts as JSON"
    assert model.with_structured_output(schema, method=method).invoke(asked) == {"a": 1}


LIST = {"title": "Numbers", "type": "array", "items": {"type": "integer"}, "maxItems": 3}


@pytest.mark.parametrize("method", ["json_schema", "json_mode"])
def test_a_schema_of_a_list_gives_a_list(model, method):
    assert model.with_structured_output(LIST, method=method).invoke("a list as JSON") == [1, 2]


WITHOUT_PROPERTIES = {"any names": COUNTS, "either": EITHER, "list": LIST}


@each_method
@pytest.mark.parametrize("kind", WITHOUT_PROPERTIES)
@pytest.mark.parametrize("asked", ["a list as JSON", "a joke as JSON", "Hello"])
def test_the_value_fits_whatever_the_models_would_write(model, method, kind, asked):
    schema = WITHOUT_PROPERTIES[kind]
    try:
        value = model.with_structured_output(schema, method=method).invoke(asked, max_tokens=100)
    except (ConfigError, ToolError):
        assert (kind, method) == ("list", "function_calling"), "only a list cannot be a call's arguments"
    else:
        jsonschema.validate(value, schema)


@each_method
@pytest.mark.parametrize("strict", [None, False, True])
def test_strict_changes_nothing_because_it_always_is(model, method, strict):
    bound = model.with_structured_output(Joke, method=method, strict=strict)
    assert bound.invoke(question(method)).model_dump() == VALUE


@each_method
@pytest.mark.parametrize("kind", KINDS)
def test_with_the_raw_message_there_is_its_provenance(model, kind, method):
    schema, expected = KINDS[kind]
    bound = model.with_structured_output(schema, method=method, include_raw=True)
    for found in (
        bound.invoke(question(method, schema)),
        asyncio.run(bound.ainvoke(question(method, schema))),
    ):
        assert set(found) == {"raw", "parsed", "parsing_error"}
        assert isinstance(found["raw"], AIMessage)
        assert isinstance(found["parsed"], expected) and plain(found["parsed"]) == VALUE
        assert found["parsing_error"] is None
        assert "cat {sit}" in get_provenance(found).text


@each_method
def test_with_the_raw_message_streams_add_up(model, method):
    bound = model.with_structured_output(Joke, method=method, include_raw=True)
    last: dict[str, Any] = {}
    raw: Any = None
    for part in bound.stream(question(method)):
        if "raw" in part:
            raw = part["raw"] if raw is None else raw + part["raw"]
        last.update(part)
    assert last["parsed"].model_dump() == VALUE and last["parsing_error"] is None
    assert get_provenance(raw).text.strip() and raw.response_metadata["model_provider"] == "nudging"


# -- rules of the caller's own ----------------------------------------------------------------------------------------


def short(method: str) -> str:
    return "a short by a call" if method == "function_calling" else "a short as JSON"


@each_method
def test_a_validator_s_error_is_raised(model, method):
    bound = model.with_structured_output(Short, method=method)
    with pytest.raises(OutputParserException, match="too long"):
        bound.invoke(short(method))
    with pytest.raises(OutputParserException, match="too long"):
        asyncio.run(bound.ainvoke(short(method)))


@each_method
def test_a_validator_s_error_is_raised_at_the_end_of_a_stream(model, method):
    bound = model.with_structured_output(Short, method=method)
    seen: list[Any] = []
    with pytest.raises(OutputParserException, match="too long"):
        seen.extend(bound.stream(short(method)))
    assert seen and all(isinstance(value, Short) and len(value.text) <= 8 for value in seen)
    with pytest.raises(OutputParserException, match="too long"):
        asyncio.run(collected(bound.astream(short(method))))


@each_method
def test_a_validator_s_error_comes_with_the_raw_message(model, method):
    bound = model.with_structured_output(Short, method=method, include_raw=True)
    for found in (bound.invoke(short(method)), asyncio.run(bound.ainvoke(short(method)))):
        assert found["parsed"] is None
        assert "too long" in str(found["parsing_error"])
        assert "far too long" in get_provenance(found["raw"]).text


@each_method
def test_a_validator_s_error_comes_with_the_raw_message_of_a_stream(model, method):
    bound = model.with_structured_output(Short, method=method, include_raw=True)
    last: dict[str, Any] = {}
    for part in bound.stream(short(method)):
        last.update(part)
    assert "too long" in str(last["parsing_error"])


# -- what cannot be asked for -----------------------------------------------------------------------------------------


def test_an_unknown_method_is_refused_with_the_nearest(model):
    with pytest.raises(ConfigError, match="Did you mean 'json_schema'"):
        model.with_structured_output(Joke, method="json_shema")


@each_method
@pytest.mark.parametrize("schema", [3, "Joke", {"type": "object", "properties": {}}, [Joke]], ids=repr)
def test_what_is_no_schema_is_refused(model, method, schema):
    with pytest.raises(ConfigError):
        model.with_structured_output(schema, method=method)


def test_json_as_text_by_response_format(model):
    message = model.invoke("a joke as JSON", response_format={"type": "json_object"})
    assert json.loads(message.text) == VALUE


@pytest.mark.parametrize(
    "response_format",
    [
        {"type": "json_schema", "json_schema": {"name": "Joke", "schema": JOKE_SCHEMA, "strict": True}},
        {"type": "json_schema", "json_schema": {"name": "Joke", "schema": PARAMETERS}},
        JOKE_SCHEMA,
        Joke,
        JokeDict,
    ],
    ids=["named", "untitled", "schema", "class", "TypedDict"],
)
def test_a_schema_by_response_format(model, response_format):
    assert json.loads(model.invoke("a joke as JSON", response_format=response_format).text) == VALUE
    chain = model.bind(response_format=response_format)
    assert json.loads("".join(chunk.text for chunk in chain.stream("a joke as JSON"))) == VALUE


def test_further_options_reach_every_call(model):
    bound = model.with_structured_output(Joke, include_raw=True, threshold=0.95)
    assert get_provenance(bound.invoke(question("function_calling"))["raw"]).config["threshold"] == 0.95


# -- models that know nothing -----------------------------------------------------------------------------------------


class Event(BaseModel):
    """An event."""

    day: datetime.date
    kind: Literal["party", "talk"]
    score: float = Field(ge=0, le=10)
    tags: list[Annotated[str, Field(max_length=5)]] = Field(max_length=2)
    place: Joke | None
    open: bool = True


@pytest.fixture(scope="module")
def clueless() -> ChatNudging:
    """Two random models, each of which would write noise."""
    base, nudging = (
        (tiny_model(seed, max_position_embeddings=8192), tiny_tokenizer(chat))
        for seed, chat in ((7, False), (57, True))
    )
    return ChatNudging(base_model=base, nudging_model=nudging, max_tokens=240, threshold=0.3)


@pytest.mark.slow
@each_method
@pytest.mark.parametrize("schema", [Event, JokeV1, Tree], ids=lambda schema: schema.__name__)
def test_even_random_models_write_what_fits(clueless, method, schema):
    value = clueless.with_structured_output(schema, method=method).invoke("Go on.")
    assert isinstance(value, schema)


@pytest.mark.slow
@each_method
def test_even_random_models_write_what_fits_a_schema(clueless, method):
    value = clueless.with_structured_output(JOKE_SCHEMA, method=method).invoke("Go on.")
    jsonschema.validate(value, JOKE_SCHEMA)


# -- agents -----------------------------------------------------------------------------------------------------------


def agent_answer(agent: Any, asked: str) -> dict[str, Any]:
    state: dict[str, Any] = agent.invoke({"messages": [("human", asked)]})
    return state


@pytest.mark.parametrize("form", [Weather, ProviderStrategy(Weather)], ids=["class", "provider"])
def test_an_agent_answers_with_a_value(model, form):
    state = agent_answer(create_agent(model, [], response_format=form), "The weather alone, please.")
    assert state["structured_response"] == Weather(**WEATHER)
    assert isinstance(state["structured_response"], Weather)


@pytest.mark.parametrize("form", [Weather, ProviderStrategy(Weather)], ids=["class", "provider"])
def test_an_agent_calls_a_tool_and_answers_with_a_value(model, form):
    state = agent_answer(create_agent(model, [get_degrees], response_format=form), "What weather is it in Rome?")
    assert [message.type for message in state["messages"]] == ["human", "ai", "tool", "ai"]
    assert state["messages"][1].tool_calls[0]["args"] == {"city": "Rome"}
    assert state["structured_response"] == Weather(**WEATHER)
    assert len(get_provenances(state)) == 2


def test_an_agent_answers_with_a_value_as_a_tool_s_arguments(model):
    agent = create_agent(model, [], response_format=ToolStrategy(Weather))
    assert agent_answer(agent, "The weather by a tool alone.")["structured_response"] == Weather(**WEATHER)


async def test_an_agent_calls_a_tool_and_answers_with_a_value_as_a_tool_s_arguments(model):
    agent = create_agent(model, [get_degrees], response_format=ToolStrategy(Weather))
    state = await agent.ainvoke({"messages": [("human", "What weather by a tool?")]})
    assert state["messages"][1].tool_calls[0]["name"] == "get_degrees"
    assert state["structured_response"] == Weather(**WEATHER)


def test_the_profile_makes_an_agent_ask_for_json_itself(model):
    """Else a class as ``response_format`` would become a tool."""
    state = agent_answer(create_agent(model, [], response_format=Weather), "The weather alone, please.")
    assert not state["messages"][-1].tool_calls
    assert json.loads(state["messages"][-1].text) == WEATHER
