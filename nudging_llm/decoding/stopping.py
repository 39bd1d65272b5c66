"""When an answer ends by its text, and what must be held back until that is clear.

``Answer`` takes pieces in order and lets them go as soon as nothing can change them any more. Three things can: a stop
string (the text ends before it), a role marker (the base run is cut before it), and the repetition guard. All three are
defined character by character, so how the text came in pieces cannot change the outcome. A piece goes out whole.

Knows text only: no tokens, no models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..provenance import FinishReason, Piece

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


class Answer:
    """The text so far, in pieces, and what may be let go.

    Args:
        stop: strings that end the answer.
        guard: whether the repetition guard watches.
        opener: text that brings a grammar into force; what may become it is held back, and cut at the end if it has not.

    Attributes:
        text: everything accepted, held pieces included. Only a cut shortens it, and only by what was held.
        n_tokens: its length in base tokens.
        ruled_from: where a grammar begins to rule the text: stop strings and role markers count before it, and circles beyond it
            within one value only, as rows of equal values are no circle.
        finish_reason: set once the text has ended by itself; ``add`` then ignores what comes.
    """

    def __init__(self, stop: Sequence[str] = (), guard: bool = True, opener: str | None = None) -> None:
        self.text = ""
        self.n_tokens = 0
        self.ruled_from: int | None = None
        self.finish_reason: FinishReason | None = None
        self._stop = StringScanner(stop)
        self._guard = RepetitionGuard() if guard else None
        self._opener = StringScanner((opener,)) if opener else None
        self._markers: StringScanner | None = None
        self._run_start = 0
        self._held: list[Piece] = []

    def watch_markers(self, markers: Sequence[str]) -> None:
        """A base run begins here: look for role markers from now on."""
        self._markers = StringScanner(markers, len(self.text)) if markers else None
        self._run_start = len(self.text)

    def unwatch_markers(self) -> None:
        """The base run is over: what could have become a marker will not."""
        self._markers = None

    def add(self, piece: Piece) -> bool:
        """Append a piece. False if a role marker was complete with it: the text then ends before the marker."""
        if self.finish_reason is not None:
            return True
        self.text += piece.text
        self.n_tokens += piece.n_tokens
        self._held.append(piece)
        stop = self._stop.find(self.text)
        circle = self._guard.find(self.text, self.ruled_from) if self._guard else None
        marker = self._markers.find(self.text) if self._markers else None
        if self.ruled_from is not None:
            stop = stop if stop and stop[1] <= self.ruled_from else None
            marker = marker if marker and marker[1] <= self.ruled_from else None
        if stop is not None and (circle is None or stop[1] <= circle) and (marker is None or stop[1] <= marker[1]):
            self.finish_reason = "stop_string"
            self._cut(stop[0])
        elif marker is not None and (circle is None or marker[1] <= circle):
            self._cut(self._run_start + len(self.text[self._run_start : marker[0]].rstrip()))
            return False
        elif circle is not None:
            self.finish_reason = "repetition"
            self._cut(circle)
        return True

    def append(self, piece: Piece) -> None:
        """Append a piece that nothing may cut, even after the end of the answer: text that a grammar demands."""
        self.text += piece.text
        self.n_tokens += piece.n_tokens
        self._held.append(piece)
        self._stop.find(self.text)
        if self._guard is not None:
            self._guard.rewind(self.text)

    def ready(self, final: bool = False) -> list[Piece]:
        """Take out the pieces that nothing can change any more; all of them if ``final``."""
        safe = len(self.text)
        if not final and self.finish_reason is None:
            safe = min(self._stop.held_from(self.text), self._opening)
            if self._markers is not None:
                turn = self._markers.held_from(self.text)
                safe = min(safe, self._run_start + len(self.text[self._run_start : turn].rstrip()))
        count = 0
        while count < len(self._held) and self._held[count].start + len(self._held[count].text) <= safe:
            count += 1
        out, self._held = self._held[:count], self._held[count:]
        return out

    def drop_opening(self) -> None:
        """The text ends here: cut off what would have become the opener."""
        self._cut(self._opening)

    @property
    def _opening(self) -> int:
        """Where the opener may have begun."""
        if self._opener is None or self.ruled_from is not None:
            return len(self.text)
        return self._opener.held_from(self.text)

    def _cut(self, at: int) -> None:
        """Shorten the text to ``at`` characters; only held pieces are touched."""
        self.text = self.text[:at]
        kept = [piece for piece in self._held if piece.start < at]
        self.n_tokens -= sum(piece.n_tokens for piece in self._held[len(kept) :])
        if kept and kept[-1].start + len(kept[-1].text) > at:
            kept[-1] = replace(kept[-1], text=kept[-1].text[: at - kept[-1].start])
        self._held = kept
        self._stop.rewind(self.text)
        if self._guard is not None:
            self._guard.rewind(self.text)
