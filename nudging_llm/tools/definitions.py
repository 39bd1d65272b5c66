"""Tools: definitions in whatever form a user has them, brought into one, with their JSON schemas checked.

Knows JSON schemas and Python's type hints. Never runs a tool.
"""

from __future__ import annotations

import importlib
import inspect
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model
from pydantic.errors import PydanticUserError

from ..errors import ToolError
from ..structured.type_schemas import schema_of
from .json_values import plain_json, short

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
    target = resolve_reference(schema, reference)
    rest = {key: value for key, value in schema.items() if key != "$ref"}
    return {**target, **rest} if isinstance(target, dict) and target is not schema else schema


def resolve_reference(root: Any, reference: str) -> Any:
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
