"""Reads tool calls out of what models write: Hermes tags, fenced JSON, Llama-3 and Mistral styles.

Lenient in what it takes for a call, exact about the rest: what was meant as a call and is none comes back word for word,
with the reason. Knows text and tools' names; no model.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import nearest
from .definitions import Tool, plain_json, short


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
    """An answer taken apart: the text outside of calls, the calls, what was meant as one, and where they stand, tags included."""

    content: str
    calls: tuple[ToolCall, ...] = ()
    invalid: tuple[InvalidToolCall, ...] = ()
    spans: tuple[tuple[int, int], ...] = ()


def new_call_id() -> str:
    """A call's id: unique everywhere."""
    return f"call_{uuid.uuid4().hex[:24]}"


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
        return ParsedAnswer("", tuple(bare), spans=((0, end),))
    found: list[_Found] = []
    spans: list[tuple[int, int]] = []
    outside, at, kept = [], 0, 0
    while opener := _OPENER.search(text, at):
        calls, at = _read_region(text, opener, names)
        if calls:
            outside.append(text[kept : opener.start()])
            spans.append((opener.start(), at))
            found += calls
            kept = at
    if not found:
        return ParsedAnswer(text)
    return ParsedAnswer(
        ("".join(outside) + text[kept:]).strip(),
        tuple(call for call in found if isinstance(call, ToolCall)),
        tuple(call for call in found if isinstance(call, InvalidToolCall)),
        tuple(spans),
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
        found = _read_object(text, 0, len(text))
        value = found[0] if found and found[1] == len(text) else value
    if value is None or value == "":
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{short(value)} is no JSON object")
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
