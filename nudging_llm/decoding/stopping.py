"""Rules that end an answer by its text: strings that are looked for, and text that goes in circles.

Each is an object that reads a growing text: ``find`` says where the text ends by its rule, ``rewind`` that the text was cut. All
are defined character by character, so how the text came in pieces cannot change the outcome. ``pieces.py`` applies them.

Knows text only: no tokens, no models.
"""

from __future__ import annotations

from collections.abc import Sequence

_MIN_BLOCK = 30  # characters in a repeated block
_MAX_BLOCK = 400
_REPEATS = 3


class StringScanner:
    """Finds the first of several strings in a growing text: the one that ends first, of those the longest.

    Args:
        strings: what to look for.
        start: where in the text to begin.
    """

    def __init__(self, strings: Sequence[str], start: int = 0) -> None:
        self._strings = tuple(strings)
        self._reach = max((len(string) for string in strings), default=0)
        self._start = self._seen = start

    def find(self, text: str) -> tuple[int, int] | None:
        """The (start, end) of the first match in ``text``, which has grown since the last call."""
        begin = max(self._start, self._seen - self._reach + 1)
        self._seen = len(text)
        hits = [(at + len(string), at) for string in self._strings if (at := text.find(string, begin)) >= 0]
        if not hits:
            return None
        end, at = min(hits)
        return at, end

    def rewind(self, text: str) -> None:
        """The text was cut to ``text``."""
        self._seen = min(self._seen, len(text))

    def held_from(self, text: str) -> int:
        """Where the longest suffix of ``text`` begins that could still become a match; ``len(text)`` if none."""
        for at in range(max(self._start, len(text) - self._reach + 1), len(text)):
            if any(string.startswith(text[at:]) for string in self._strings):
                return at
        return len(text)


class RepetitionGuard:
    """Finds the point where a text begins to go in circles.

    That is the end of the third block in a row that is the same (30 to 400 characters; shorter periods count by their
    multiples), or of the third line in a row that is the same and has a letter or digit in it (blank lines between do
    not count). Phrases that come back with other text between them are not circles: step-by-step answers do that.
    """

    def __init__(self) -> None:
        self._seen = 0
        self._line_start = 0
        self._lines: list[str] = []

    def find(self, text: str, ruled_from: int | None = None) -> int | None:
        """Offset at which the third repeat is complete, if it is within ``text``, which has grown since the last call. From
        ``ruled_from`` on it counts within one value of a JSON text only."""
        for end in range(self._seen + 1, len(text) + 1):
            if text[end - 1] == "\n" and self._third_line(text[self._line_start : end - 1], end) and ruled_from is None:
                return end - 1
            if (length := self._third_block(text, end)) and (
                ruled_from is None
                or end - length < ruled_from
                or _one_value(text[ruled_from : end - length], text[end - length : end])
            ):
                return end
        self._seen = len(text)
        return None

    def rewind(self, text: str) -> None:
        """The text was cut to ``text``."""
        self._seen = len(text)
        self._line_start = text.rfind("\n") + 1
        lines = [line for line in text[: self._line_start].split("\n") if line.strip()]
        self._lines = lines[-_REPEATS:]

    def _third_line(self, line: str, end: int) -> bool:
        self._line_start = end
        if not line.strip():
            return False
        self._lines = [*self._lines, line][-_REPEATS:]
        return len(self._lines) == _REPEATS and len(set(self._lines)) == 1 and any(char.isalnum() for char in line)

    def _third_block(self, text: str, end: int) -> int:
        """Length of three equal blocks that end there; 0 if there are none."""
        if end < _REPEATS * _MIN_BLOCK:
            return 0
        tail = text[end - _MIN_BLOCK : end]
        floor = max(0, end - _MIN_BLOCK - _MAX_BLOCK)
        at = text.rfind(tail, floor, end - 1)
        while at >= 0:
            distance = end - _MIN_BLOCK - at
            block = -(-_MIN_BLOCK // distance) * distance  # the period's first multiple of at least 30 characters
            if block <= _MAX_BLOCK and end >= _REPEATS * block:
                whole = text[end - _REPEATS * block : end]
                if whole[:-block] == whole[block:]:
                    return len(whole)
            at = text.rfind(tail, floor, at + _MIN_BLOCK - 1)
        return 0


def _one_value(before: str, circle: str) -> bool:
    """Whether ``circle`` stands within one string or number of a JSON text that begins with ``before``."""
    if '"' in circle.replace('\\"', ""):
        return False
    in_string = before.replace("\\\\", "").replace('\\"', "").count('"') % 2 == 1
    return in_string or not any(char in circle for char in ",:[]{}")
