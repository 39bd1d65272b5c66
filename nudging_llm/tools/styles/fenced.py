"""Calls in a fenced block of JSON, as models write them that were trained on documents."""

from __future__ import annotations

import re

from ..calls import ToolCall
from .reading import strict_calls

_FENCE = re.compile(r"```(?:json|tool_calls?)?\s*(?=[\[{])")
#: The beginning of one, at the end of a text.
_BEGUN = re.compile(r"```(?:j|js|jso|json|t|to|too|tool|tool_|tool_c\w{0,5})?\s*\Z")


class Fenced:
    """A block that holds calls of known tools and nothing else; other JSON in a fence is content."""

    control_tokens: frozenset[str] = frozenset()

    def find(self, text: str, at: int, names: frozenset[str]) -> tuple[int, int] | None:
        found = _FENCE.search(text, at)
        return found.span() if found else None

    def read(self, text: str, at: int, names: frozenset[str]) -> tuple[list[ToolCall], int]:
        edge = text.find("```", at)
        calls, end = strict_calls(text, at, edge if edge >= 0 else len(text), names)
        if calls and (end == len(text) or text.startswith("```", end)):
            return calls, min(end + 3, len(text))
        return [], at

    def held_from(self, text: str, at: int) -> int:
        fence = _FENCE.search(text, at) or _BEGUN.search(text, at)
        ticks = len(text) - len(text.rstrip("`"))
        return fence.start() if fence else len(text) - min(ticks, 2)
