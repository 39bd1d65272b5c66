"""JSON schemas as a grammar can be held to them: what cannot be enforced is refused, what is silent is closed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from llguidance import LLMatcher

from ..errors import GrammarError
from ..tools.definitions import MAPS_OF_SCHEMAS, PLAIN_DATA
from ..tools.json_values import plain_json

#: JSON as ``json.dumps`` spells it, so that spaces stand between its words. Escapes by number would spell one key in two ways,
#: and are let in only where a schema names a control character that has no other.
_JSON: Any = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "json_allowed_escapes": 'nrbtf\\"',
}
_NAMES_CONTROL = re.compile(r"\\u00(?:[01]|7f)")


def grammar_problem(grammar: str) -> str:
    """Why llguidance refuses a grammar; empty if it does not."""
    failed, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    return str(messages[0].splitlines()[0]) if failed else ""


def json_rule(schema: dict[str, Any]) -> str:
    """The rule, in llguidance's notation, of JSON that fits ``schema``."""
    options = dict(_JSON)
    if _NAMES_CONTROL.search(json.dumps(schema)):
        options |= {"json_allowed_escapes": 'nrbtfu\\"', "json_allow_general_unicode_escapes": False}
    return f"%json {json.dumps(schema | {'x-guidance': options})}"


def enforceable(schema: Any) -> Any:
    """A copy of a JSON schema, without ``format``s that llguidance does not know, which are annotations.

    Raises:
        GrammarError: it is no JSON, is malformed, or asks for what cannot be held to token by token.
    """
    if schema is False:
        raise GrammarError("The JSON schema is false: no value fits it.")
    try:
        plain = plain_json({} if schema is True else schema)
    except (ValueError, RecursionError) as error:
        raise GrammarError(f"The JSON schema is no JSON: {error}.") from None
    for part in _parts(plain):
        _check_part(part)
        named = {"type": "string", "format": part.get("format")}
        if isinstance(named["format"], str) and "Unknown format" in grammar_problem(f"start: {json_rule(named)}"):
            del part["format"]
    return plain


def _check_part(part: dict[str, Any]) -> None:
    """Refuse what llguidance takes and does not enforce, or chokes on."""
    properties, required, least = part.get("properties", {}), part.get("required", []), part.get("minProperties", 0)
    if not isinstance(properties, dict):
        raise GrammarError(f"The JSON schema: properties={properties!r} is no object.")
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise GrammarError(f"The JSON schema: required={required!r} is no list of names.")
    if not isinstance(least, int) or least > len(required):
        raise GrammarError(
            f"The JSON schema: minProperties={least!r} cannot be enforced where keys may repeat. Require the properties by name."
        )
    if isinstance(part.get("multipleOf"), float) and not part["multipleOf"].is_integer():
        raise GrammarError(
            f"The JSON schema: multipleOf={part['multipleOf']} has no exact meaning in binary fractions. Use an integer."
        )


def closed_objects(schema: Any) -> Any:
    """The schema with objects closed that declare properties and are silent about others; as it is if parts of it must hold
    together (``allOf``, or properties beside a choice or reference), where closing one would shut out another."""
    for part in _parts(schema):
        if "allOf" in part or ("properties" in part and _TOGETHER & set(part)):
            return schema
    return _closed(schema)


_TOGETHER = frozenset({"$ref", "anyOf", "oneOf", "if", "then", "else", "dependentSchemas", "not"})


def _parts(schema: Any) -> Iterator[dict[str, Any]]:
    """Every schema in a schema, itself included."""
    if isinstance(schema, dict):
        yield schema
        for key, value in schema.items():
            if key not in PLAIN_DATA:
                for part in list(value.values()) if key in MAPS_OF_SCHEMAS and isinstance(value, dict) else [value]:
                    yield from _parts(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _parts(part)


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    out: dict[str, Any] = {
        key: value
        if key in PLAIN_DATA
        else {name: _closed(part) for name, part in value.items()}
        if key in MAPS_OF_SCHEMAS and isinstance(value, Mapping)
        else _closed(value)
        for key, value in schema.items()
    }
    silent = not {"additionalProperties", "patternProperties", "unevaluatedProperties"} & set(out)
    if silent and "properties" in out and set(out.get("required", ())) <= set(out["properties"]):
        out["additionalProperties"] = False
    return out
