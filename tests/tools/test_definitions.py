"""Tools: definitions, choices, and the text of calls in prompts."""

from __future__ import annotations

import doctest
import json
from typing import Annotated, Literal

import jsonschema
import llguidance
import pytest
from pydantic import BaseModel, Field

import nudging_llm.tools.prompts
from nudging_llm import ToolError
from nudging_llm.tools.choice import Choice, read_choice
from nudging_llm.tools.definitions import Tool, read_tools
from nudging_llm.tools.json_values import MAX_DEPTH, partial_object, plain_json
from nudging_llm.tools.prompts import tools_section, transcript_tools
from nudging_llm.tools.styles.hermes import HERMES

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
EMPTY = {"type": "object", "properties": {}}


class Weather(BaseModel):
    """Forecast of a city."""

    city: str
    days: int = 3


class Node(BaseModel):
    """A tree."""

    value: int
    children: list[Node] = []


def get_time(city: str, zone: Annotated[str, Field(description="of time")] = "UTC", *rest: int) -> str:
    """Time in a city."""
    return city + zone


def anything(a, _b=2, **more):
    return a


WEATHER = Tool("get_weather", "Weather of a city.", CITY)
TIME = Tool("get_time", "", EMPTY)
TOOLS = (WEATHER, TIME)


# -- definitions ------------------------------------------------------------------------------------------------------

BARE = {"name": "get_weather", "description": "Weather of a city.", "parameters": CITY}


@pytest.mark.parametrize(
    "item",
    [
        BARE,
        {"type": "function", "function": {**BARE, "strict": True}},
        {"type": "function", **BARE},
        {"name": "get_weather", "description": "Weather of a city.\n", "input_schema": CITY},
        {**BARE, "parameters": {key: CITY[key] for key in ("properties", "required")}},
        WEATHER,
    ],
    ids=str,
)
def test_forms_of_one_tool(item):
    assert read_tools([item]) == (WEATHER,)


@pytest.mark.parametrize("parameters", [None, {}])
def test_no_parameters_are_no_arguments(parameters):
    assert read_tools([{"name": "now", "parameters": parameters}]) == (Tool("now", "", EMPTY),)
    assert read_tools([{"name": "now"}]) == (Tool("now", "", EMPTY),)


def test_pydantic_class():
    [tool] = read_tools([Weather])
    assert (tool.name, tool.description) == ("Weather", "Forecast of a city.")
    assert tool.parameters["required"] == ["city"]
    assert tool.parameters["properties"]["days"]["default"] == 3
    assert "description" not in tool.parameters


def test_pydantic_class_that_contains_itself_is_an_object():
    [tool] = read_tools([Node])
    assert tool.parameters["type"] == "object"
    jsonschema.validate({"value": 1, "children": [{"value": 2}]}, tool.parameters)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"value": 1, "children": [{"value": "x"}]}, tool.parameters)


def test_functions():
    first, second = read_tools([get_time, anything])
    assert (first.name, first.description) == ("get_time", "Time in a city.")
    assert list(first.parameters["properties"]) == ["city", "zone"]
    assert first.parameters["properties"]["zone"]["description"] == "of time"
    assert first.parameters["required"] == ["city"]
    assert first.parameters["additionalProperties"] is False
    assert list(second.parameters["properties"]) == ["a", "_b"]
    assert second.parameters["additionalProperties"] is True
    assert "type" not in second.parameters["properties"]["a"]


def test_arguments_with_names_that_pydantic_uses_itself():
    def tool(schema: str, model_config: int, copy: bool = True): ...

    [found] = read_tools([tool])
    assert list(found.parameters["properties"]) == ["schema", "model_config", "copy"]


class Opaque: ...


def takes_opaque(x: Opaque): ...


def unknown_hint(x: Nowhere): ...  # noqa: F821


def deep(levels: int) -> dict:
    schema: dict = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return {"type": "object", "properties": {"x": schema}}


BAD_TOOLS = [
    (BARE, "give a list"),
    ("get_weather", "tools='get_weather'"),
    (None, "give a list"),
    ([7], "tool 0 is 7"),
    ([Opaque], "tool 0 is .*Opaque"),
    ([{"type": "web_search", "name": "x"}], "type 'web_search'"),
    ([{"description": "x"}], "tool 0 has the name None"),
    ([{"name": "get weather"}], "'get weather'.*letters"),
    ([{"name": "x" * 65}], "1 to 64"),
    ([lambda x: x], "'<lambda>'"),
    ([{"type": "function", "function": "x"}], "'x' as 'function'"),
    ([BARE, WEATHER], "Two tools are called 'get_weather'"),
    ([{"name": "a", "description": 5}], "description 5"),
    ([{"name": "a", "description": "\ud800"}], "'a' has a description"),
    ([{"name": "a", "parameters": []}], r"parameters \[\]"),
    ([{"name": "a", "parameters": {"type": "string"}}], "'a' has parameters of the type 'string'"),
    ([{"name": "a", "parameters": {"type": "object", "properties": {"x": 3}}}], "properties"),
    ([{"name": "a", "parameters": {"type": "object", "required": "x"}}], "required"),
    (
        [{"name": "a", "parameters": {"type": "object", "properties": {"x": {"type": "int"}}}}],
        "valid JSON schema.*'int'",
    ),
    ([{"name": "a", "parameters": {"type": "object", "default": float("nan")}}], "nan"),
    ([{"name": "a", "parameters": {"type": "object", "default": {1, 2}}}], "no JSON"),
    ([{"name": "a", "parameters": {"type": "object", "default": {1: 2}}}], "key 1"),
    ([{"name": "a", "parameters": deep(500)}], "levels deep"),
    ([takes_opaque], "'takes_opaque'.*JSON schema"),
    ([unknown_hint], "'unknown_hint'.*Nowhere"),
]


@pytest.mark.parametrize(("tools", "said"), BAD_TOOLS, ids=range(len(BAD_TOOLS)))
def test_bad_tools(tools, said):
    with pytest.raises(ToolError, match=said):
        read_tools(tools)


def test_a_schema_as_deep_as_allowed_is_read():
    assert read_tools([{"name": "a", "parameters": deep(MAX_DEPTH - 4)}])


# -- choice -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, Choice("auto")),
        ("auto", Choice("auto")),
        ({"type": "auto"}, Choice("auto")),
        ("none", Choice("none")),
        (False, Choice("none")),
        ({"type": "none"}, Choice("none")),
        ("required", Choice("required")),
        ("any", Choice("required")),
        (True, Choice("required")),
        ({"type": "any"}, Choice("required")),
        ("get_time", Choice("required", "get_time")),
        ({"type": "function", "function": {"name": "get_time"}}, Choice("required", "get_time")),
        ({"type": "tool", "name": "get_time"}, Choice("required", "get_time")),
        (Choice("required", "get_time"), Choice("required", "get_time")),
    ],
    ids=str,
)
def test_choices(choice, expected):
    assert read_choice(choice, TOOLS) == expected
    if expected.mode == "required":
        with pytest.raises(ToolError, match="no tools"):
            read_choice(choice, ())
    else:
        assert read_choice(choice, ()) == expected


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ("get_wether", "'get_wether': possible are .*'get_weather'.*Did you mean 'get_weather'"),
        ("requird", "Did you mean 'required'"),
        ({"type": "tool", "name": "get_tim"}, "Did you mean 'get_time'"),
        ({"type": "function"}, "possible are"),
        ({"type": ["x"]}, "possible are"),
        ({}, "possible are"),
        ("", "possible are"),
        (3, "tool_choice=3"),
    ],
    ids=str,
)
def test_bad_choices(choice, said):
    with pytest.raises(ToolError, match=said):
        read_choice(choice, TOOLS)


# -- writing ----------------------------------------------------------------------------------------------------------


def test_a_call_as_hermes_writes_it():
    text = HERMES.write("get_weather", {"city": 'Zürich "N"'})
    assert text == '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Zürich \\"N\\""}}\n</tool_call>'


def valid(schema, body) -> bool:
    validator = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    validator.check_schema(schema)
    return validator(schema).is_valid(body)


def test_schema_of_one_and_of_several():
    one = HERMES.schema([WEATHER])
    assert one == {
        "type": "object",
        "properties": {"name": {"const": "get_weather"}, "arguments": CITY},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }
    assert list(one["properties"]) == ["name", "arguments"]
    several = HERMES.schema(TOOLS)
    assert several == {"anyOf": [one, HERMES.schema([TIME])]}
    assert valid(several, {"name": "get_weather", "arguments": {"city": "Rome"}})
    assert not valid(several, {"name": "get_weather", "arguments": {}})
    assert not valid(several, {"name": "other", "arguments": {}})


def test_references_hold_where_two_tools_have_definitions_of_one_name():
    def tool(name, kind, keyword):
        part = {"type": "object", "properties": {"v": {"type": kind}, "next": {"$ref": f"#/{keyword}/P"}}}
        schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "http://x/y", "type": "object"}
        return Tool(name, "", {**schema, keyword: {"P": part}, "properties": {"p": {"$ref": f"#/{keyword}/P"}}})

    schema = HERMES.schema([tool("a", "string", "$defs"), tool("b", "integer", "definitions"), WEATHER])
    for name, right, wrong in (("a", "x", 1), ("b", 1, "x")):
        assert valid(schema, {"name": name, "arguments": {"p": {"v": right, "next": {"v": right}}}})
        assert not valid(schema, {"name": name, "arguments": {"p": {"v": right, "next": {"v": wrong}}}})
    assert valid(schema, {"name": "get_weather", "arguments": {"city": "Rome"}})


def test_parameters_that_contain_themselves():
    tree = {"type": "object", "properties": {"v": {"type": "integer"}, "sub": {"$ref": "#"}}, "required": ["v"]}
    for tools in (
        [Tool("tree", "", tree)],
        [Tool("tree", "", tree), TIME],
        [*read_tools([Node]), Tool("tree", "", tree)],
    ):
        schema = HERMES.schema(tools)
        assert valid(schema, {"name": "tree", "arguments": {"v": 1, "sub": {"v": 2, "sub": {"v": 3}}}})
        assert not valid(schema, {"name": "tree", "arguments": {"v": 1, "sub": {"sub": {"v": 3}}}})


def test_arguments_and_data_that_look_like_references_stay():
    data = {"$ref": "#/x"}
    properties = {"$ref": {"type": "string"}, "enum": {"$ref": "#/$defs/E"}, "d": {"const": data, "default": data}}
    schema = HERMES.schema([Tool("t", "", {"type": "object", "properties": properties, "$defs": {"E": {"enum": [1]}}})])
    moved = schema["$defs"]["t"]["properties"]
    assert moved == {"$ref": {"type": "string"}, "enum": {"$ref": "#/$defs/t/$defs/E"}, "d": properties["d"]}
    assert valid(schema, {"name": "t", "arguments": {"$ref": "x", "enum": 1, "d": data}})


def test_the_grammar_compiler_takes_the_references():
    schema = HERMES.schema([*read_tools([Node]), WEATHER])
    grammar = llguidance.LLMatcher.grammar_from_json_schema(json.dumps(schema))
    assert not llguidance.LLMatcher.validate_grammar(grammar)


def test_section_of_a_system_text():
    section = tools_section(TOOLS)
    lines = section[section.index("<tools>\n") + 8 : section.index("\n</tools>")].splitlines()
    assert [json.loads(line)["function"]["name"] for line in lines] == ["get_weather", "get_time"]
    assert json.loads(lines[0]) == {"type": "function", "function": BARE}
    assert HERMES.begin in section and HERMES.end in section
    assert "must" not in section
    assert "must call at least one function" in tools_section(TOOLS, Choice("required"))
    assert "must call the function get_time" in tools_section(TOOLS, Choice("required", "get_time"))
    assert tools_section(TOOLS, Choice("none")) == tools_section(()) == ""


def test_signatures_for_a_transcript():
    schema = {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer", "default": 3},
            "unit": {"enum": ["C", "F"]},
            "tags": {"type": "array", "items": {"type": "string"}},
            "when": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "kind": {"$ref": "#/$defs/Kind"},
            "id": {"type": ["string", "integer"]},
            "loop": {"$ref": "#/properties/loop"},
            "all": True,
        },
        "$defs": {"Kind": {"const": "é"}},
        "required": ["city", "unit"],
    }
    text = transcript_tools([Tool("get_weather", "Weather\nof a city.\n\nQuestion: no?", schema), TIME])
    assert text == (
        "Functions:\n"
        '- get_weather(city: string, days: integer = 3, unit: "C" | "F", tags?: array of string, when?: string or null, '
        'kind?: "é", id?: string or integer, loop?: any, all?: any): Weather of a city. Question: no?\n'
        "- get_time()"
    )
    assert transcript_tools(()) == ""


# -- small things -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("  ", None),
        ("no", None),
        ("{", {}),
        ('{"a', {}),
        ('{"a": "Ro', {"a": "Ro"}),
        ('{"a": [1, {"b": tru', {"a": [1, {}]}),
        ("[" * 5000, None),
    ],
)
def test_partial_object(text, value):
    assert partial_object(text) == value


@pytest.mark.parametrize(
    "value",
    [{1}, float("inf"), {1: 2}, b"x", "\udfff", {"\ud800": 1}, object()],
    ids=lambda value: type(value).__name__,
)
def test_plain_json_refuses(value):
    with pytest.raises(ValueError):
        plain_json({"x": [value]})


def test_plain_json_refuses_what_contains_itself_and_copies_the_rest():
    loop: list = []
    loop.append(loop)
    with pytest.raises(ValueError, match="levels deep"):
        plain_json(loop)
    value = {"a": (1, 2.5, None, True), "b": {"c": "é"}}
    copy = plain_json(value)
    assert copy == {"a": [1, 2.5, None, True], "b": {"c": "é"}}
    assert copy["b"] is not value["b"]


def test_examples_in_docstrings_run():
    found = doctest.testmod(nudging_llm.tools.prompts)
    assert found.attempted and not found.failed


def test_enum_hints():
    def pick(unit: Literal["C", "F"] = "C"): ...

    # hints of this module are strings, and are looked up where the function was defined
    [tool] = read_tools([pick])
    assert tool.parameters["properties"]["unit"]["enum"] == ["C", "F"]
