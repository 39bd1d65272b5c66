"""Reads tool calls out of what models write, in any of the styles that there are (``styles/``).

Lenient in what it takes for a call, exact about the rest: what was meant as a call and is none comes back word for word,
with the reason. Knows text and tools' names; no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .calls import Call, InvalidToolCall, ToolCall
from .definitions import Tool
from .styles import styles
from .styles.base import CallStyle


@dataclass(frozen=True)
class ParsedAnswer:
    """An answer taken apart: the text outside of calls, the calls, what was meant as one, and where they stand, tags included."""

    content: str
    calls: tuple[ToolCall, ...] = ()
    invalid: tuple[InvalidToolCall, ...] = ()
    spans: tuple[tuple[int, int], ...] = ()


def parse_calls(text: str, tools: Sequence[Tool]) -> ParsedAnswer:
    """Find the calls in an answer, in any of the ways in which models write them. Never raises.

    Read are ``<tool_call>`` tags, ``[TOOL_CALLS]`` (both of Mistral's ways), ``<|python_tag|>``, fenced blocks of JSON, an answer
    that is nothing but calls, and registered styles; arguments also as a string of JSON; Python's quotes and literals, and commas
    too many. In tags, whatever is no call of a known tool becomes an ``InvalidToolCall``; JSON elsewhere is then content.
    """
    names = frozenset(tool.name for tool in tools)
    found: list[Call] = []
    spans: list[tuple[int, int]] = []
    outside, at, kept = [], 0, 0
    openings = _Openings(text, names)
    while (opening := openings.first_from(at)) is not None:
        style, start, end = opening
        calls, at = style.read(text, end, names)
        if calls:
            outside.append(text[kept:start])
            spans.append((start, at))
            found += calls
            kept = at
        at = max(at, start + 1)
    if not found:
        return ParsedAnswer(text)
    return ParsedAnswer(
        ("".join(outside) + text[kept:]).strip(),
        tuple(call for call in found if isinstance(call, ToolCall)),
        tuple(call for call in found if isinstance(call, InvalidToolCall)),
        tuple(spans),
    )


class _Openings:
    """Where calls begin in a text. What a style has found is kept until it is passed, so that a long text is searched once."""

    def __init__(self, text: str, names: frozenset[str]) -> None:
        self._text, self._names = text, names
        self._next: list[tuple[CallStyle, tuple[int, int] | None]] = [(style, (-1, -1)) for style in styles()]

    def first_from(self, at: int) -> tuple[CallStyle, int, int] | None:
        """The style whose call begins first from ``at`` on, where, and where what opens it ends. ``at`` never goes back."""
        first: tuple[CallStyle, int, int] | None = None
        for place, (style, found) in enumerate(self._next):
            if found is not None and found[0] < at:
                found = style.find(self._text, at, self._names)
                self._next[place] = style, found
            if found is not None and (first is None or found[0] < first[1]):
                first = style, *found
        return first
