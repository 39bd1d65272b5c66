"""Structured output: from what users give as a schema to what the core is asked for, and from the answer to their type."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any, Literal

from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.output_parsers import BaseTransformOutputParser
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.tools import BaseTool, Tool
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool
from pydantic import BaseModel, Field

from nudging_llm import ConfigError
from nudging_llm.structured.type_schemas import schema_of
from nudging_llm.tools.json_values import partial_object

Method = Literal["function_calling", "json_schema", "json_mode"]
_JSON_TYPES = frozenset({"object", "array", "string", "number", "integer", "boolean", "null"})
METHODS: tuple[Method, ...] = ("function_calling", "json_schema", "json_mode")


def tool_definition(tool: Any) -> dict[str, Any]:
    """A tool as OpenAI's dict, from whatever LangChain takes for one.

    LangChain's own conversion cuts schemas that refer to themselves, and drops those that have no properties; where it would,
    the schema is taken as it was given, or as pydantic writes it.
    """
    if _served(tool):
        return dict(tool)  # LangChain would make a function without parameters of it; the core refuses it by its type
    definition = convert_to_openai_tool(tool)
    if isinstance(tool, Tool) and not tool.args_schema:  # one text, as LangChain has it
        return definition
    source = tool.tool_call_schema if isinstance(tool, BaseTool) else tool
    own = _own_schema(source) or _plain_schema(source)
    if own and "function" in definition:
        own = {"type": "object"} | {key: value for key, value in own.items() if key not in ("title", "description")}
        definition = {**definition, "function": {**definition["function"], "parameters": own}}
    return definition


def schema_tool(schema: Any) -> dict[str, Any]:
    """The tool whose arguments are a structured answer.

    Raises:
        ConfigError: it is no schema of an object.
    """
    found = _checked(schema, tool_definition)
    if found.get("type") != "function":
        raise _no_schema(schema, "it is no function")
    function = found["function"]  # a generic class's name has brackets, a title may have spaces
    return {**found, "function": {**function, "name": re.sub(r"[^a-zA-Z0-9_-]", "_", function["name"])[:64]}}


def json_schema(schema: Any) -> dict[str, Any]:
    """The JSON schema of a pydantic class, a ``TypedDict``, a JSON schema, or an OpenAI function.

    Raises:
        ConfigError: it is none of these.
    """
    found: dict[str, Any] = _checked(schema, convert_to_json_schema)
    if own := _own_schema(schema):
        return {**own, **{key: found[key] for key in ("title", "description") if key in found}}
    return _plain_schema(schema) or found


def response_format(asked: Any) -> dict[str, Any]:
    """OpenAI's ``response_format``, which LangChain's agents send, in the core's words.

    Raises:
        ConfigError: it is none.
    """
    kind = asked.get("type") if isinstance(asked, Mapping) else None
    if kind == "text":
        return {}
    if kind == "json_object":
        return {"json_schema": {"type": "object"}}
    if kind == "json_schema":
        inner = asked.get("json_schema")
        schema = inner.get("schema") if isinstance(inner, Mapping) else None
        if isinstance(schema, Mapping):
            return {"json_schema": dict(schema)}
    elif kind is None or kind == "object":
        return {"json_schema": json_schema(asked)}
    raise ConfigError(
        f"response_format={asked!r}: give {{'type': 'json_schema', 'json_schema': {{'name': …, 'schema': …}}}}, "
        "{'type': 'json_object'}, {'type': 'text'}, or a pydantic class."
    )


def _checked(schema: Any, convert: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    try:
        return convert(schema)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise _no_schema(schema, error) from None


def _no_schema(schema: Any, why: object) -> ConfigError:
    return ConfigError(f"schema={schema!r}: give a pydantic class, a TypedDict, or a JSON schema with a title ({why}).")


def _served(tool: Any) -> bool:
    """Whether a tool is one that another vendor's server has."""
    if not isinstance(tool, dict) or not isinstance(kind := tool.get("type"), str):
        return False
    parameters = {"function", "parameters", "input_schema", "properties"} & set(tool)
    return kind not in _JSON_TYPES | {"function", "custom"} and not parameters


def _plain_schema(schema: Any) -> dict[str, Any] | None:
    """A dict that is a JSON schema itself, not a function that holds one."""
    if not isinstance(schema, dict) or not {"type", "properties", "anyOf", "oneOf", "allOf", "$ref", "enum"} & set(
        schema
    ):
        return None
    function = schema.get("type") == "function" or {"parameters", "input_schema"} & set(schema)
    return None if function or "toolSpec" in schema else dict(schema)


def _own_schema(schema: Any) -> dict[str, Any] | None:
    """A class's schema, if it needs references, which LangChain cuts, or another spelling than pydantic's."""
    if not (inspect.isclass(schema) and issubclass(schema, BaseModel)):
        return None
    own = schema_of(schema)
    return own if "$defs" in own or own != schema.model_json_schema() else None


class StructuredOutput(BaseTransformOutputParser[Any]):
    """Reads the value of a structured answer: of the type asked for, or a dict.

    Streaming, it gives the value as far as it has come: dicts that grow; of a class, objects as soon as what there is makes
    one. The last value is always checked whole.
    """

    target: Any = Field(exclude=True, repr=False)
    """A class with ``model_validate`` or ``parse_obj``; anything else gives dicts."""
    from_call: bool
    """Whether the value is the arguments of a tool call; else the text."""
    quiet: bool = False
    """Gives None where it would raise, and no partial values; ``problem`` then says why."""

    def parse_result(self, result: list[Generation], *, partial: bool = False) -> Any:
        """The value; with ``partial`` None where there is none yet.

        Raises:
            OutputParserException: it is not of the type asked for.
        """
        generation = result[0]
        assert isinstance(generation, ChatGeneration)
        return self._value(self._json_of(generation.message), partial)

    def parse(self, text: str) -> Any:
        """The value of an answer's text, or of a call's arguments."""
        return self._value(text, partial=False)

    def _value(self, text: str, partial: bool) -> Any:
        try:
            value = partial_object(text) if partial else json.loads(text)
            return None if partial and value is None else self._load(value)
        except ValueError as error:
            if partial or self.quiet:
                return None
            raise OutputParserException(f"The answer is not what was asked for: {error}", llm_output=text) from error

    def problem(self, message: BaseMessage) -> OutputParserException | None:
        """Why an answer cannot be read; None if it can."""
        try:
            self.model_copy(update={"quiet": False}).parse(self._json_of(message))
        except OutputParserException as error:
            return error
        return None

    def _load(self, value: Any) -> Any:
        if not inspect.isclass(self.target):
            return value
        load = getattr(self.target, "model_validate", None) or getattr(self.target, "parse_obj", None)
        return load(value) if load else value

    def _json_of(self, message: str | BaseMessage) -> str:
        """What a message or chunk has of the value's JSON."""
        if isinstance(message, str):
            return message
        if not self.from_call:
            return message.text
        if isinstance(message, AIMessageChunk):
            return "".join(part["args"] or "" for part in message.tool_call_chunks if not part["index"])
        calls = message.tool_calls if isinstance(message, AIMessage) else []
        return json.dumps(calls[0]["args"]) if calls else ""

    def _transform(self, input: Iterator[str | BaseMessage]) -> Iterator[Any]:
        reading = _Reading(self)
        for message in input:
            yield from reading.more(self._json_of(message))
        yield from reading.end()

    async def _atransform(self, input: AsyncIterator[str | BaseMessage]) -> AsyncIterator[Any]:
        reading = _Reading(self)
        async for message in input:
            for value in reading.more(self._json_of(message)):
                yield value
        for value in reading.end():
            yield value

    @property
    def _type(self) -> str:
        return "nudging-structured-output"


class _Reading:
    """A value that comes in parts: gives it whenever it has changed."""

    def __init__(self, parser: StructuredOutput) -> None:
        self._parser = parser
        self._text = ""
        self._given: Any = None

    def more(self, text: str) -> Iterator[Any]:
        self._text += text
        if text and not self._parser.quiet:
            yield from self._changed(self._parser._value(self._text, partial=True))

    def end(self) -> Iterator[Any]:
        value = self._parser._value(self._text, partial=False)
        yield from [value] if self._parser.quiet else self._changed(value)

    def _changed(self, value: Any) -> Iterator[Any]:
        if value is not None and (type(value), value) != (type(self._given), self._given):
            self._given = value
            yield value
