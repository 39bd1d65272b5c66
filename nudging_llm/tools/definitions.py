"""Tools: definitions in; sections for prompts, and the form of calls to them, out.

Knows JSON schemas. Leaves prompts to ``prompts.py``, grammars to ``grammar.py``, reading calls to ``calls.py``, and never runs a
tool.
"""

from __future__ import annotations

import importlib
import inspect
import json
import math
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.errors import PydanticUserError
from pydantic_core import from_json

from ..errors import ToolError, nearest
from ..structured.type_schemas import schema_of

#: Deepest nesting of arguments and schemas. Far beyond any real one, and safe for everything here that recurses.
MAX_DEPTH = 64
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
#: Keywords of JSON schema whose values map names to schemas; and those whose values are data, not schemas.
MAPS_OF_SCHEMAS = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"})
PLAIN_DATA = frozenset({"const", "enum", "default", "examples"})


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
            raise ValueError(f"the key {short(odd[0])} is no string")
        return {plain_json(key): plain_json(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item, depth - 1) for item in value]
    raise ValueError(f"{short(value)} cannot be written as JSON")


def write_json(value: Any) -> str:
    """``value`` as JSON on one line, in the characters that it has."""
    return json.dumps(value, ensure_ascii=False)


def partial_object(text: str) -> Any:
    """The value of a JSON text as far as it has come; None if nothing has, or what is there is no JSON."""
    try:
        return from_json(text, allow_partial="trailing-strings")
    except (ValueError, TypeError):  # TypeError: half a surrogate pair
        return None


def short(value: Any) -> str:
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
        raise ToolError(f"tools={short(tools)}: give a list of tools, also where there is only one.")
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
            f"tool {i} is {short(item)}: give a dict with name, description and parameters, a pydantic model class, or a "
            "function with type hints."
        )
    _check_name(name, i)
    if not isinstance(description, str):
        raise ToolError(f"tool {name!r} has the description {short(description)}: give a string.")
    try:
        plain_json(description)
    except ValueError as error:
        raise ToolError(f"tool {name!r} has a description that is no text: {error}.") from None
    return Tool(name, description.strip(), _check_parameters(parameters, name))


def _parts(item: Mapping[str, Any], i: int) -> tuple[Any, Any, Any]:
    """Name, description and parameters of a tool given as a dict."""
    if item.get("type", "function") not in ("function", "custom"):
        raise ToolError(
            f"tool {i} is of the type {short(item['type'])}; only functions can be offered: "
            '{"type": "function", "function": {"name": …, "description": …, "parameters": …}}.'
        )
    inner = item.get("function", item)
    if not isinstance(inner, Mapping):
        raise ToolError(f"tool {i} has {short(inner)} as 'function': give a dict with name and parameters.")
    parameters = inner.get("input_schema") if inner.get("parameters") is None else inner["parameters"]
    return inner.get("name"), inner.get("description") or "", parameters


def _check_name(name: Any, i: int) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ToolError(
            f"tool {i} has the name {short(name)}: give 1 to 64 letters, digits, underscores, dots or hyphens."
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
        return schema_of(model)
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
        raise ToolError(f"tool {name!r} has the parameters {short(parameters)}: give a JSON schema, as a dict.")
    try:
        schema = _inlined_root(plain_json(parameters))
    except ValueError as error:
        raise ToolError(f"tool {name!r} has parameters that are no JSON: {error}.") from None
    if "type" not in schema and "properties" in schema:
        schema = {"type": "object", **schema}
    if schema.get("type") != "object":
        raise ToolError(
            f"tool {name!r} has parameters of the type {short(schema.get('type'))}: a call's arguments are an object. Give "
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
        return f"'properties' is {short(properties)}, which does not map names to schemas"
    if not isinstance(required, list) or not all(isinstance(key, str) for key in required):
        return f"'required' is {short(required)}, which is no list of names"
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
        raise ToolError(f"tool_choice={short(choice)} asks for a call, and there are no tools: give some.")
    if found is None or (found.name is not None and found.name not in names):
        named = found.name if found and found.name else choice
        possible = ", ".join(map(repr, ["auto", "none", "required", *names]))
        hint = nearest(named, [*_MODES, *names]) if isinstance(named, str) else ""
        raise ToolError(f"tool_choice={short(choice)}: possible are {possible}.{hint}")
    return found


def is_forced(choice: Any) -> bool:
    """Whether ``tool_choice`` asks for a call."""
    found = _wanted(choice)
    return found is not None and found.mode == "required"


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
        elif key in MAPS_OF_SCHEMAS and isinstance(value, dict):  # its keys are names, even one called "$ref" or "enum"
            out[key] = {name: _rebased(item, place) for name, item in value.items()}
        else:
            out[key] = value if key in PLAIN_DATA else _rebased(value, place)
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

    Examples:
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
