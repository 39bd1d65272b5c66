"""Calls after a tag: what the styles with tags share. In a tag everything is a call or an invalid one."""

from __future__ import annotations

import re
from functools import cache

from ..calls import Call
from .base import begun_at_end
from .reading import as_call, no_call, read_object, skip
from .registry import styles

#: What may stand around calls in a tag: the brackets of a list, and a fence.
_GAP = re.compile(r"(?:[\s,;\[\]]|```(?:json)?)*")
#: What may stand after the last call: brackets too many are what small models like to write.
_TAIL = re.compile(r"[\s,;\[\]}`]*")
_BRACKETS = re.compile(r"(?:\s*[\]}])*")


class Tagged:
    """Calls between ``opener`` and ``closer``, or up to the next tag or the end of the text.

    Attributes:
        opener, closer: the tags; a style may have no closer.
        name_before: matches a tool's name (group 1) that stands before its arguments alone; None if that is no part of the style.
    """

    opener: str
    closer: str | None = None
    name_before: re.Pattern[str] | None = None
    control_tokens: frozenset[str] = frozenset()

    def find(self, text: str, at: int, names: frozenset[str]) -> tuple[int, int] | None:
        start = text.find(self.opener, at)
        return (start, start + len(self.opener)) if start >= 0 else None

    def read(self, text: str, at: int, names: frozenset[str]) -> tuple[list[Call], int]:
        found: list[Call] = []
        stop, closer = self._stop(text, at)
        while True:
            named = self.name_before.match(text, at) if self.name_before else None
            start = named.start(1) if named else skip(_GAP, text, at)
            value = read_object(text, named.end() if named else start, stop)
            if value:
                body, at = value
                body = {"name": named[1], "arguments": body} if named else body
                found.append(as_call(body, text[start:at], start, names))
                if at > stop:  # a tag in a string of the call was none
                    stop, closer = self._stop(text, at)
            elif found and skip(_TAIL, text, at) >= stop:
                return found, stop + closer
            elif found and not (closer or named or text.startswith("{", start)):
                return found, skip(_BRACKETS, text, at)  # the model forgot to close the tag, and went on with words
            else:
                return [*found, no_call(text[at:stop], at)], stop + closer

    def held_from(self, text: str, at: int) -> int:
        start = text.find(self.opener, at)
        return start if start >= 0 else begun_at_end(text, self.opener)

    def _stop(self, text: str, at: int) -> tuple[int, int]:
        """Where a tag's text ends: at a closing tag, the next opening tag or the end; and the closing tag's length."""
        edge = _edge().search(text, at)
        if edge is None:
            return len(text), 0
        return edge.start(), len(edge[0]) if edge[0] == self.closer else 0


def _edge() -> re.Pattern[str]:
    """Any style's tag: where the text of a call in a tag ends at the latest."""
    tagged = [style for style in styles() if isinstance(style, Tagged)]
    return _any_of(frozenset(tag for style in tagged for tag in (style.opener, style.closer) if tag))


@cache
def _any_of(tags: frozenset[str]) -> re.Pattern[str]:
    """Any of the tags; of two that begin alike, the longer."""
    return re.compile("|".join(map(re.escape, sorted(tags, key=lambda tag: (-len(tag), tag)))))
