"""Reads the JSON of calls: leniently, as models write it, and exactly about what is none.

Python's quotes and literals, line breaks in strings and commas too many are mended; arguments may be a string of JSON, and the
call may stand in a ``function`` object. Shared by the styles; knows no tags and no fences.
"""

from __future__ import annotations

import json
import re
from typing import Any

from ...errors import nearest
from ..calls import Call, InvalidToolCall, ToolCall, new_call_id
from ..json_values import plain_json, short

#: What may stand around calls: the brackets of a list.
_GAP = re.compile(r"[\s,;\[\]]*")
#: What has to be told apart in broken JSON. A string without an end reaches to the end of the text, so that no part of it
#: is looked at again.
_TOKEN = re.compile(
    r""""[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|'[^'\\]*(?:\\.[^'\\]*)*(?:'|\\?\Z)"""
    r"""|\b(?:True|False|None)\b|,(?=\s*[}\]])|[{}\[\]]""",
    re.DOTALL,
)
_LITERALS = {"True": "true", "False": "false", "None": "null", ",": ""}
_ARGUMENTS = ("arguments", "parameters", "args", "input")
DECODER = json.JSONDecoder(strict=False)  # models write line breaks into strings


def skip(pattern: re.Pattern[str], text: str, at: int) -> int:
    """Where what ``pattern`` matches at ``at`` ends."""
    found = pattern.match(text, at)
    return found.end() if found else at


def strict_calls(text: str, at: int, stop: int, names: frozenset[str]) -> tuple[list[ToolCall], int]:
    """Calls of known tools that follow each other from ``at``, and where they end; none if other JSON is among them.

    Args:
        stop: where broken JSON ends at the latest.
    """
    found: list[ToolCall] = []
    at = skip(_GAP, text, at)
    while value := read_object(text, at, stop):
        call = as_call(value[0], text[at : value[1]], at, names) if looks_like_call(value[0]) else None
        if not isinstance(call, ToolCall):
            return [], at
        found.append(call)
        at = skip(_GAP, text, value[1])
    return found, at


def looks_like_call(body: dict[str, Any]) -> bool:
    """Whether untagged JSON is a call and nothing else: a tool's definition, say, has a description besides."""
    body = _unwrapped(body)
    return any(key in body for key in _ARGUMENTS) and not set(body) - {"name", "id", "type", *_ARGUMENTS}


def _unwrapped(body: dict[str, Any]) -> dict[str, Any]:
    inner = body.get("function")
    return inner if isinstance(inner, dict) else body


def as_call(body: dict[str, Any], text: str, start: int, names: frozenset[str]) -> Call:
    """The call that a JSON object stands for."""
    body = _unwrapped(body)
    name = body.get("name")
    error, arguments = "", {}
    if not isinstance(name, str):
        error = f"A call needs the 'name' of a function as a string; here it is {short(name)}."
    elif name not in names:
        known = ", ".join(sorted(names)) or "none at all"
        error = f"There is no function {short(name)}; known are {known}.{nearest(name[:64], names)}"
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
        found = read_object(text, 0, len(text))
        value = found[0] if found and found[1] == len(text) else value
    if value is None or value == "":
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{short(value)} is no JSON object")
    plain: dict[str, Any] = plain_json(value)
    return plain


def no_call(text: str, start: int) -> InvalidToolCall:
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
        DECODER.decode(text)
    except json.JSONDecodeError as problem:
        return f"This is no JSON: {problem.msg} (character {problem.pos + 1})."
    except (ValueError, RecursionError) as problem:
        return f"This is no JSON that can be read: {problem}."
    return 'This is JSON, but no call: {"name": …, "arguments": {…}}.'


def read_object(text: str, at: int, stop: int) -> tuple[dict[str, Any], int] | None:
    """The JSON object that begins at ``at``, and where it ends; None if there is none.

    Args:
        stop: where it ends at the latest if it is slightly broken.
    """
    if not text.startswith("{", at):
        return None
    try:
        return DECODER.raw_decode(text, at)
    except (ValueError, RecursionError):
        pass
    end = _object_end(text, at, stop)
    try:
        value: dict[str, Any] = DECODER.decode(_TOKEN.sub(_mended, text[at:end]))
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
