"""Tools, and the text of calls to them: definitions in, sections for prompts out; answers in, calls out.

Knows JSON schemas and the ways in which models write calls. Leaves prompts to ``prompts.py``, grammars to
``grammar.py``, and never runs a tool.
"""

from __future__ import annotations

import importlib
import inspect
import json
import math
import re
import typing
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.errors import PydanticUserError
from pydantic_core import from_json

from .errors import ToolError, nearest

#: Deepest nesting of arguments and schemas. Far beyond any real one, and safe for everything here that recurses.
MAX_DEPTH = 64
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
#: Keywords of JSON schema whose values map names to schemas; and those whose values are data, not schemas.
_MAPS = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"})
_DATA = frozenset({"const", "enum", "default", "examples"})


@dataclass(frozen=True)
class Tool:
    """A function that the model may call: its name, what it does, and the JSON schema (type object) of its arguments."""

    name: str
    description: str
    parameters: dict[str, Any]

    @property
    def definition(self) -> dict[str, Any]:
        """The tool as chat templates want it: ``{"type": "function", "function": {…}}``."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}


@dataclass(frozen=True)
class Choice:
    """What the model may do: call or not (auto), must call (required; ``name`` alone if there is one), must not (none)."""

    mode: Literal["auto", "required", "none"] = "auto"
    name: str | None = None


@dataclass(frozen=True)
class ToolCall:
    """A call. ``text`` is the JSON that it was read from, which stands at ``start`` in the answer."""

    id: str
    name: str
    arguments: dict[str, Any]
    text: str
    start: int


@dataclass(frozen=True)
class InvalidToolCall:
    """Text that was meant as a call and is none: ``text`` as the model wrote it, at ``start``, and what is wrong."""

    id: str
    name: str | None
    text: str
    error: str
    start: int


@dataclass(frozen=True)
class ParsedAnswer:
    """An answer taken apart: the text outside of calls, the calls, and what was meant as one."""

    content: str
    calls: tuple[ToolCall, ...] = ()
    invalid: tuple[InvalidToolCall, ...] = ()


def new_call_id() -> str:
    """A call's id: unique everywhere."""
    return f"call_{uuid.uuid4().hex[:24]}"


# -- JSON -------------------------------------------------------------------------------------------------------------


def plain_json(value: Any, depth: int = MAX_DEPTH) -> Any:
    """A copy of ``value`` made of what JSON knows: dicts with string keys, lists, strings, finite numbers, bool, None.

    Raises:
        ValueError: anything else in it, half a surrogate pair, or more than ``depth`` levels.
    """
    if depth < 0:
        raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, str):
        value.encode("utf-8")  # its error is a ValueError
        return value
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, Mapping):
        if odd := [key for key in value if not isinstance(key, str)]:
            raise ValueError(f"the key {_short(odd[0])} is no string")
        return {plain_json(key): plain_json(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item, depth - 1) for item in value]
    raise ValueError(f"{_short(value)} cannot be written as JSON")


def write_json(value: Any) -> str:
    """``value`` as JSON on one line, in the characters that it has."""
    return json.dumps(value, ensure_ascii=False)


def partial_object(text: str) -> Any:
    """The value of a JSON text as far as it has come; None if nothing has, or what is there is no JSON."""
    try:
        return from_json(text, allow_partial="trailing-strings")
    except (ValueError, TypeError):  # TypeError: half a surrogate pair
        return None


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deep; an integer of thousands of digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "…"


# -- definitions ------------------------------------------------------------------------------------------------------


def read_tools(tools: Sequence[Any]) -> tuple[Tool, ...]:
    """Bring tools into one form.

    Args:
        tools: each one ``{"type": "function", "function": {name, description, parameters}}``, the inner dict alone (with
            ``parameters`` or ``input_schema``), a pydantic model class, a function with type hints, or a ``Tool``. No
            parameters at all means a tool without arguments.

    Raises:
        ToolError: no list, an unknown form, a bad or repeated name, or a schema that is none or not of type object.
    """
    if not isinstance(tools, Sequence) or isinstance(tools, str | bytes):
        raise ToolError(f"tools={_short(tools)}: give a list of tools, also where there is only one.")
    found: dict[str, Tool] = {}
    for i, item in enumerate(tools):
        tool = _read_tool(item, i)
        if tool.name in found:
            raise ToolError(f"Two tools are called {tool.name!r}: a call could mean either. Rename one.")
        found[tool.name] = tool
    return tuple(found.values())


def _read_tool(item: Any, i: int) -> Tool:
    if isinstance(item, Tool):
        name, description, parameters = item.name, item.description, item.parameters
    elif isinstance(item, Mapping):
        name, description, parameters = _parts(item, i)
    elif isinstance(item, type) and issubclass(item, BaseModel):
        name, description, parameters = item.__name__, "", _schema_of(item, item.__name__)
        description = parameters.pop("description", "")
    elif callable(item) and hasattr(item, "__name__") and not isinstance(item, type):
        name, description, parameters = item.__name__, inspect.getdoc(item) or "", None
        _check_name(name, i)
        parameters = _signature_schema(item, name)
    else:
        raise ToolError(
            f"tool {i} is {_short(item)}: give a dict with name, description and parameters, a pydantic model class, or a "
            "function with type hints."
        )
    _check_name(name, i)
    if not isinstance(description, str):
        raise ToolError(f"tool {name!r} has the description {_short(description)}: give a string.")
    try:
        plain_json(description)
    except ValueError as error:
        raise ToolError(f"tool {name!r} has a description that is no text: {error}.") from None
    return Tool(name, description.strip(), _check_parameters(parameters, name))


def _parts(item: Mapping[str, Any], i: int) -> tuple[Any, Any, Any]:
    """Name, description and parameters of a tool given as a dict."""
    if item.get("type", "function") not in ("function", "custom"):
        raise ToolError(
            f"tool {i} is of the type {_short(item['type'])}; only functions can be offered: "
            '{"type": "function", "function": {"name": …, "description": …, "parameters": …}}.'
        )
    inner = item.get("function", item)
    if not isinstance(inner, Mapping):
        raise ToolError(f"tool {i} has {_short(inner)} as 'function': give a dict with name and parameters.")
    parameters = inner.get("input_schema") if inner.get("parameters") is None else inner["parameters"]
    return inner.get("name"), inner.get("description") or "", parameters


def _check_name(name: Any, i: int) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ToolError(
            f"tool {i} has the name {_short(name)}: give 1 to 64 letters, digits, underscores, dots or hyphens."
        )


def _signature_schema(function: Callable[..., Any], name: str) -> dict[str, Any]:
    """The schema of a function's arguments. A missing hint is anything; only ``**kwargs`` allow further arguments."""
    try:
        hints = typing.get_type_hints(function, include_extras=True)
        signature = inspect.signature(function)
    except (NameError, TypeError, ValueError) as error:
        raise ToolError(f"tool {name!r}: its type hints cannot be read ({error}). Give its schema as a dict.") from None
    fields: dict[str, Any] = {}
    extra: Literal["allow", "forbid"] = "forbid"
    for i, parameter in enumerate(signature.parameters.values()):
        if parameter.kind is parameter.VAR_KEYWORD:
            extra = "allow"
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            default = ... if parameter.default is parameter.empty else parameter.default
            # by alias: as field names, pydantic refuses some that are fine for arguments, such as "_x" or "schema"
            hint: Any = Annotated[hints.get(parameter.name, Any), Field(alias=parameter.name)]
            fields[f"p{i}"] = (hint, default)
    try:
        model = create_model(name, __config__=ConfigDict(extra=extra), **fields)
    except (PydanticUserError, NameError, TypeError) as error:
        raise ToolError(_no_schema(name, error)) from None
    return _schema_of(model, name)


def _schema_of(model: type[BaseModel], name: str) -> dict[str, Any]:
    try:
        return model.model_json_schema()
    except (PydanticUserError, NameError, TypeError, ValueError) as error:
        raise ToolError(_no_schema(name, error)) from None


def _no_schema(name: str, error: Exception) -> str:
    [line, *_] = str(error).splitlines() or [""]
    return f"tool {name!r} has arguments of a type without a JSON schema: {line} Give its schema as a dict."


def _check_parameters(parameters: Any, name: str) -> dict[str, Any]:
    """A tool's parameters as a schema of type object.

    Raises:
        ToolError: they are none.
    """
    if parameters is None or parameters == {}:
        return {"type": "object", "properties": {}}
    if not isinstance(parameters, Mapping):
        raise ToolError(f"tool {name!r} has the parameters {_short(parameters)}: give a JSON schema, as a dict.")
    try:
        schema = _inlined_root(plain_json(parameters))
    except ValueError as error:
        raise ToolError(f"tool {name!r} has parameters that are no JSON: {error}.") from None
    if "type" not in schema and "properties" in schema:
        schema = {"type": "object", **schema}
    if schema.get("type") != "object":
        raise ToolError(
            f"tool {name!r} has parameters of the type {_short(schema.get('type'))}: a call's arguments are an object. Give "
            '{"type": "object", "properties": {…}}.'
        )
    if problem := _schema_problem(schema):
        raise ToolError(f"tool {name!r} has parameters that are no valid JSON schema: {problem}.")
    return schema


def _inlined_root(schema: dict[str, Any]) -> dict[str, Any]:
    """``schema`` without a reference as its root, which pydantic writes for a model that contains itself."""
    reference = schema.get("$ref")
    if not isinstance(reference, str) or "type" in schema:
        return schema
    target = _resolve(schema, reference)
    rest = {key: value for key, value in schema.items() if key != "$ref"}
    return {**target, **rest} if isinstance(target, dict) and target is not schema else schema


def _resolve(root: Any, reference: str) -> Any:
    """What a local reference such as ``#/$defs/X`` points to; None if nothing."""
    at = root
    for part in reference.lstrip("#").split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        at = at.get(key) if isinstance(at, dict) else None
    return at if reference.startswith("#") else None


def _schema_problem(schema: dict[str, Any]) -> str:
    """What is wrong with the schema; an empty string if nothing is. Looks closely only where jsonschema is installed."""
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(properties, dict) or not all(isinstance(value, dict | bool) for value in properties.values()):
        return f"'properties' is {_short(properties)}, which does not map names to schemas"
    if not isinstance(required, list) or not all(isinstance(key, str) for key in required):
        return f"'required' is {_short(required)}, which is no list of names"
    try:
        jsonschema: Any = importlib.import_module("jsonschema")
    except ImportError:
        return ""
    validator = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        validator.check_schema(schema)
    except jsonschema.SchemaError as error:
        where = "/".join(map(str, error.absolute_path))
        return f"at {where!r}: {error.message}" if where else str(error.message)
    return ""


# -- choice -----------------------------------------------------------------------------------------------------------

_MODES: dict[str, Choice] = {
    "auto": Choice(),
    "none": Choice("none"),
    "required": Choice("required"),
    "any": Choice("required"),
}


def read_choice(choice: Any, tools: Sequence[Tool]) -> Choice:
    """What ``tool_choice`` asks for.

    Args:
        choice: None or "auto"; "none" or False; "required", "any" or True; a tool's name; a dict as OpenAI
            (``{"type": "function", "function": {"name": …}}``) or Anthropic (``{"type": "tool", "name": …}``,
            ``{"type": "any"}``) have it; or a ``Choice``.
        tools: those that there are.

    Raises:
        ToolError: it is none of these, names no tool, or asks for a call where there are no tools.
    """
    found = _wanted(choice)
    names = [tool.name for tool in tools]
    if found and found.mode == "required" and not tools:
        raise ToolError(f"tool_choice={_short(choice)} asks for a call, and there are no tools: give some.")
    if found is None or (found.name is not None and found.name not in names):
        named = found.name if found and found.name else choice
        possible = ", ".join(map(repr, ["auto", "none", "required", *names]))
        hint = nearest(named, [*_MODES, *names]) if isinstance(named, str) else ""
        raise ToolError(f"tool_choice={_short(choice)}: possible are {possible}.{hint}")
    return found


def _wanted(choice: Any) -> Choice | None:
    """A choice as it was written; None if it is written in no known way."""
    if isinstance(choice, Choice):
        return choice
    if choice is None or isinstance(choice, bool):
        return {None: Choice(), True: Choice("required"), False: Choice("none")}[choice]
    if isinstance(choice, str):
        return _MODES.get(choice) or Choice("required", choice)
    if not isinstance(choice, Mapping):
        return None
    kind, inner = choice.get("type"), choice.get("function")
    name = inner.get("name") if isinstance(inner, Mapping) else choice.get("name")
    if kind in ("function", "tool") and isinstance(name, str):
        return Choice("required", name)
    return _MODES.get(kind) if isinstance(kind, str) else None


# -- writing calls ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CallFormat:
    """How a call is written: what stands around its JSON object, and the object's two keys."""

    begin: str
    end: str
    name_key: str
    arguments_key: str

    def write(self, name: str, arguments: Mapping[str, Any]) -> str:
        """The text of a call."""
        return f"{self.begin}{write_json({self.name_key: name, self.arguments_key: arguments})}{self.end}"

    def schema(self, tools: Sequence[Tool]) -> dict[str, Any]:
        """The JSON schema of a call's object: the name first, then arguments that fit that tool.

        Parameters with references inside move to ``$defs`` under the tool's name, where the references still hold.
        """
        shared: dict[str, Any] = {}
        bodies = [self._body(tool, shared) for tool in tools]
        schema = bodies[0] if len(bodies) == 1 else {"anyOf": bodies}
        return {**schema, "$defs": shared} if shared else schema

    def _body(self, tool: Tool, shared: dict[str, Any]) -> dict[str, Any]:
        own = {key: value for key, value in tool.parameters.items() if key not in ("$schema", "$id")}
        place = f"#/$defs/{tool.name}"
        moved = _rebased(own, place)
        if moved != own:
            shared[tool.name] = moved
        return {
            "type": "object",
            "properties": {
                self.name_key: {"const": tool.name},
                self.arguments_key: own if moved == own else {"$ref": place},
            },
            "required": [self.name_key, self.arguments_key],
            "additionalProperties": False,
        }


HERMES = CallFormat("<tool_call>\n", "\n</tool_call>", "name", "arguments")


def _rebased(schema: Any, place: str) -> Any:
    """``schema`` with its references to itself (``#…``) as references to ``place``."""
    if isinstance(schema, list):
        return [_rebased(item, place) for item in schema]
    if not isinstance(schema, dict):
        return schema
    out: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "$ref" and isinstance(value, str) and value.startswith("#"):
            out[key] = place + value[1:]
        elif key in _MAPS and isinstance(value, dict):  # its keys are names, even one called "$ref" or "enum"
            out[key] = {name: _rebased(item, place) for name, item in value.items()}
        else:
            out[key] = value if key in _DATA else _rebased(value, place)
    return out


# -- prompts ----------------------------------------------------------------------------------------------------------


def tools_section(tools: Sequence[Tool], choice: Choice | None = None) -> str:
    """A part of a system text that offers tools to a chat model whose template cannot; empty if it may call none."""
    if not tools or (choice and choice.mode == "none"):
        return ""
    signatures = "\n".join(write_json(tool.definition) for tool in tools)
    body = f'{{"{HERMES.name_key}": <function name>, "{HERMES.arguments_key}": <object with the arguments>}}'
    parts = [
        "# Functions",
        f"You can call functions to help with the user's request. Their signatures, one per line:\n<tools>\n{signatures}\n"
        "</tools>",
        f"To call a function, write one such block, with nothing but JSON in it:\n{HERMES.begin}{body}{HERMES.end}",
    ]
    if choice and choice.mode == "required":
        what = f"the function {choice.name}" if choice.name else "at least one function"
        parts.append(f"This time you must call {what}.")
    else:
        parts.append("If no function is needed, answer in plain words.")
    return "\n\n".join(parts)


def transcript_tools(tools: Sequence[Tool]) -> str:
    """Tools in plain text, for a base model's transcript: one line each, as a signature. Empty if there are none.

    Example:
        >>> print(transcript_tools([Tool("roll", "Roll dice.", {"properties": {"sides": {"type": "integer"}}})]))
        Functions:
        - roll(sides?: integer): Roll dice.
    """
    return "\n".join(["Functions:", *map(_signature, tools)]) if tools else ""


def _signature(tool: Tool) -> str:
    required = tool.parameters.get("required", [])
    arguments = []
    for name, schema in tool.parameters.get("properties", {}).items():
        kind = _type_text(schema, tool.parameters)
        if isinstance(schema, dict) and "default" in schema:
            arguments.append(f"{name}: {kind} = {write_json(schema['default'])}")
        else:
            arguments.append(f"{name}{'' if name in required else '?'}: {kind}")
    line = f"- {tool.name}({', '.join(arguments)})" + (f": {tool.description}" if tool.description else "")
    return " ".join(line.split())  # one line, so that no description begins a turn of the transcript


def _type_text(schema: Any, root: dict[str, Any], depth: int = 4) -> str:
    """A schema's type in words, such as "string", "array of integer" or "1 | 2"."""
    if not isinstance(schema, dict) or depth == 0:
        return "any"
    if isinstance(reference := schema.get("$ref"), str):
        return _type_text(_resolve(root, reference), root, depth - 1)
    if "const" in schema:
        return write_json(schema["const"])
    if isinstance(values := schema.get("enum"), list):
        return " | ".join(map(write_json, values))
    for key in ("anyOf", "oneOf"):
        if isinstance(options := schema.get(key), list):
            return " or ".join(dict.fromkeys(_type_text(option, root, depth - 1) for option in options))
    kind = schema.get("type", "any")
    if kind == "array" and "items" in schema:
        return f"array of {_type_text(schema['items'], root, depth - 1)}"
    return " or ".join(map(str, kind)) if isinstance(kind, list) else str(kind)


# -- reading calls ----------------------------------------------------------------------------------------------------

_OPENER = re.compile(
    r"(?P<hermes><tool_call>)|(?P<mistral>\[TOOL_CALLS\])|(?P<python><\|python_tag\|>)"
    r"|(?P<fence>```(?:json|tool_calls?)?\s*(?=[\[{]))"
)
_CLOSER = "</tool_call>"
#: Where a tag's text ends; and where a fence does.
_TAG_EDGE = re.compile(r"<tool_call>|\[TOOL_CALLS\]|<\|python_tag\|>|</tool_call>")
_FENCE_EDGE = re.compile("```")
#: What may stand around calls: the brackets of a list, and in a tag also a fence.
_GAP = re.compile(r"[\s,;\[\]]*")
_TAG_GAP = re.compile(r"(?:[\s,;\[\]]|```(?:json)?)*")
#: What may stand after the last call in a tag: brackets too many are what small models like to write.
_TAIL = re.compile(r"[\s,;\[\]}`]*")
_BRACKETS = re.compile(r"(?:\s*[\]}])*")
_MISTRAL_NAME = re.compile(r"\s*([A-Za-z0-9_.-]{1,64})\s*(?:\[CALL_ID\]\s*\w+\s*)?(?:\[ARGS\]\s*)?(?=\{)")
#: What has to be told apart in broken JSON. A string without an end reaches to the end of the text, so that no part of it
#: is looked at again.
_TOKEN = re.compile(
    r""""[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|'[^'\\]*(?:\\.[^'\\]*)*(?:'|\\?\Z)"""
    r"""|\b(?:True|False|None)\b|,(?=\s*[}\]])|[{}\[\]]""",
    re.DOTALL,
)
_LITERALS = {"True": "true", "False": "false", "None": "null", ",": ""}
_ARGUMENTS = ("arguments", "parameters", "args", "input")
_DECODER = json.JSONDecoder(strict=False)  # models write line breaks into strings

_Found = ToolCall | InvalidToolCall


def parse_calls(text: str, tools: Sequence[Tool]) -> ParsedAnswer:
    """Find the calls in an answer, in any of the ways in which models write them. Never raises.

    Read are ``<tool_call>`` tags, ``[TOOL_CALLS]`` (both of Mistral's ways), ``<|python_tag|>``, fenced blocks of JSON, and
    an answer that is nothing but calls; arguments also as a string of JSON; Python's quotes and literals, and commas too
    many. In tags, whatever is no call of a known tool becomes an ``InvalidToolCall``; JSON elsewhere is then content.
    """
    names = frozenset(tool.name for tool in tools)
    bare, end = _strict_calls(text, 0, len(text), names)
    if bare and end == len(text):
        return ParsedAnswer("", tuple(bare))
    found: list[_Found] = []
    outside, at, kept = [], 0, 0
    while opener := _OPENER.search(text, at):
        calls, at = _read_region(text, opener, names)
        if calls:
            outside.append(text[kept : opener.start()])
            found += calls
            kept = at
    if not found:
        return ParsedAnswer(text)
    return ParsedAnswer(
        ("".join(outside) + text[kept:]).strip(),
        tuple(call for call in found if isinstance(call, ToolCall)),
        tuple(call for call in found if isinstance(call, InvalidToolCall)),
    )


def _read_region(text: str, opener: re.Match[str], names: frozenset[str]) -> tuple[Sequence[_Found], int]:
    """The calls after an opener, and where to go on."""
    if opener.lastgroup != "fence":
        return _tagged_calls(text, opener, names)
    edge = _FENCE_EDGE.search(text, opener.end())
    calls, end = _strict_calls(text, opener.end(), edge.start() if edge else len(text), names)
    if calls and (end == len(text) or text.startswith("```", end)):
        return calls, min(end + 3, len(text))
    return [], opener.end()


def _tagged_calls(text: str, opener: re.Match[str], names: frozenset[str]) -> tuple[list[_Found], int]:
    """The calls in a tag, where everything is a call or an invalid one, and where the text goes on."""
    found: list[_Found] = []
    at = opener.end()
    stop, closer = _tag_stop(text, at, opener)
    while True:
        named = _MISTRAL_NAME.match(text, at) if opener.lastgroup == "mistral" else None
        start = named.start(1) if named else _skip(_TAG_GAP, text, at)
        value = _read_object(text, named.end() if named else start, stop)
        if value:
            body, at = value
            body = {"name": named[1], "arguments": body} if named else body
            found.append(_as_call(body, text[start:at], start, names))
            if at > stop:  # a tag in a string of the call was none
                stop, closer = _tag_stop(text, at, opener)
        elif found and _skip(_TAIL, text, at) >= stop:
            return found, stop + closer
        elif found and not (closer or named or text.startswith("{", start)):
            return found, _skip(_BRACKETS, text, at)  # the model forgot to close the tag, and went on with words
        else:
            return [*found, _no_call(text[at:stop], at)], stop + closer


def _tag_stop(text: str, at: int, opener: re.Match[str]) -> tuple[int, int]:
    """Where a tag's text ends: at a closing tag, the next opening tag or the end; and the closing tag's length."""
    edge = _TAG_EDGE.search(text, at)
    if edge is None:
        return len(text), 0
    return edge.start(), len(_CLOSER) if edge[0] == _CLOSER and opener.lastgroup == "hermes" else 0


def _skip(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return found.end() if found else at


def _strict_calls(text: str, at: int, stop: int, names: frozenset[str]) -> tuple[list[ToolCall], int]:
    """Calls of known tools that follow each other from ``at``, and where they end; none if other JSON is among them.

    Args:
        stop: where broken JSON ends at the latest.
    """
    found: list[ToolCall] = []
    at = _skip(_GAP, text, at)
    while value := _read_object(text, at, stop):
        call = _as_call(value[0], text[at : value[1]], at, names) if _looks_like_call(value[0]) else None
        if not isinstance(call, ToolCall):
            return [], at
        found.append(call)
        at = _skip(_GAP, text, value[1])
    return found, at


def _looks_like_call(body: dict[str, Any]) -> bool:
    """Whether untagged JSON is a call and nothing else: a tool's definition, say, has a description besides."""
    body = _unwrapped(body)
    return any(key in body for key in _ARGUMENTS) and not set(body) - {"name", "id", "type", *_ARGUMENTS}


def _unwrapped(body: dict[str, Any]) -> dict[str, Any]:
    inner = body.get("function")
    return inner if isinstance(inner, dict) else body


def _as_call(body: dict[str, Any], text: str, start: int, names: frozenset[str]) -> _Found:
    """The call that a JSON object stands for."""
    body = _unwrapped(body)
    name = body.get("name")
    error, arguments = "", {}
    if not isinstance(name, str):
        error = f"A call needs the 'name' of a function as a string; here it is {_short(name)}."
    elif name not in names:
        known = ", ".join(sorted(names)) or "none at all"
        error = f"There is no function {_short(name)}; known are {known}.{nearest(name[:64], names)}"
    else:
        try:
            arguments = _arguments(next((body[key] for key in _ARGUMENTS if key in body), None))
        except ValueError as problem:
            error = f"The arguments of {name} are not usable: {problem}."
    if error:
        return InvalidToolCall(new_call_id(), name if isinstance(name, str) else None, text, error, start)
    return ToolCall(new_call_id(), str(name), arguments, text, start)


def _arguments(value: Any) -> dict[str, Any]:
    """A call's arguments; an object, or a string of JSON that holds one. None is no arguments.

    Raises:
        ValueError: they are something else.
    """
    if isinstance(value, str) and value.strip():
        text = value.strip()
        found = _read_object(text, 0, len(text))
        value = found[0] if found and found[1] == len(text) else value
    if value is None or value == "":
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{_short(value)} is no JSON object")
    plain: dict[str, Any] = plain_json(value)
    return plain


def _no_call(text: str, start: int) -> InvalidToolCall:
    """What stands in a tag and is no object."""
    bare = text.strip()
    start += len(text) - len(text.lstrip()) if bare else 0
    if not bare:
        error = "The call is empty."
    elif bare[0] not in "{[":
        error = 'A call is a JSON object: {"name": …, "arguments": {…}}.'
    else:
        error = _json_problem(bare)
    return InvalidToolCall(new_call_id(), None, bare, error, start)


def _json_problem(text: str) -> str:
    try:
        _DECODER.decode(text)
    except json.JSONDecodeError as problem:
        return f"This is no JSON: {problem.msg} (character {problem.pos + 1})."
    except (ValueError, RecursionError) as problem:
        return f"This is no JSON that can be read: {problem}."
    return 'This is JSON, but no call: {"name": …, "arguments": {…}}.'


def _read_object(text: str, at: int, stop: int) -> tuple[dict[str, Any], int] | None:
    """The JSON object that begins at ``at``, and where it ends; None if there is none.

    Args:
        stop: where it ends at the latest if it is slightly broken.
    """
    if not text.startswith("{", at):
        return None
    try:
        return _DECODER.raw_decode(text, at)
    except (ValueError, RecursionError):
        pass
    end = _object_end(text, at, stop)
    try:
        value: dict[str, Any] = _DECODER.decode(_TOKEN.sub(_mended, text[at:end]))
    except (ValueError, RecursionError):
        return None
    return value, end


def _object_end(text: str, at: int, stop: int) -> int:
    """Where the brackets that open at ``at`` are closed again; ``at`` if nowhere before ``stop``."""
    depth = 0
    for token in _TOKEN.finditer(text, at, stop):
        depth += (token[0] in "{[") - (token[0] in "}]")
        if depth == 0:
            return token.end()
    return at


def _mended(token: re.Match[str]) -> str:
    """A piece of almost-JSON as JSON: Python's literals and quotes, and no comma before a closing bracket."""
    text = token[0]
    if not text.startswith("'"):
        return _LITERALS.get(text, text)
    inner = re.sub(r'\\.|"', lambda part: {'"': '\\"', "\\'": "'"}.get(part[0], part[0]), text[1:-1], flags=re.DOTALL)
    return f'"{inner}"'
