"""The pieces of an answer, held back until nothing can change them any more.

Three things can: a stop string (the text ends before it), a role marker (the base run is cut before it), and the repetition
guard. A piece goes out whole.

Knows text only: no tokens, no models. The rules themselves are in ``stopping.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..provenance import FinishReason, Piece
from .stopping import RepetitionGuard, StringScanner


class PieceBuffer:
    """The text so far, in pieces, and what may be let go.

    Args:
        stop: strings that end the answer.
        guard: whether the repetition guard watches.
        trigger: text that brings a grammar into force; what may become it is held back, and cut at the end if it has not.

    Attributes:
        text: everything accepted, held pieces included. Only a cut shortens it, and only by what was held.
        n_tokens: its length in base tokens.
        ruled_from: where a grammar begins to rule the text: stop strings and role markers count before it, and circles beyond it
            within one value only, as rows of equal values are no circle.
        finish_reason: set once the text has ended by itself; ``add`` then ignores what comes.
    """

    def __init__(self, stop: Sequence[str] = (), guard: bool = True, trigger: str | None = None) -> None:
        self.text = ""
        self.n_tokens = 0
        self.ruled_from: int | None = None
        self.finish_reason: FinishReason | None = None
        self._stop = StringScanner(stop)
        self._guard = RepetitionGuard() if guard else None
        self._trigger = StringScanner((trigger,)) if trigger else None
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
            safe = min(self._stop.held_from(self.text), self._trigger_start)
            if self._markers is not None:
                turn = self._markers.held_from(self.text)
                safe = min(safe, self._run_start + len(self.text[self._run_start : turn].rstrip()))
        count = 0
        while count < len(self._held) and self._held[count].start + len(self._held[count].text) <= safe:
            count += 1
        out, self._held = self._held[:count], self._held[count:]
        return out

    def drop_trigger_start(self) -> None:
        """The text ends here: cut off what would have become the trigger."""
        self._cut(self._trigger_start)

    @property
    def _trigger_start(self) -> int:
        """Where the trigger may have begun."""
        if self._trigger is None or self.ruled_from is not None:
            return len(self.text)
        return self._trigger.held_from(self.text)

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
