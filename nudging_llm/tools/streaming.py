"""Sorts an answer's pieces, as they come, into what is said and what is called.

For frameworks that stream the two apart: text goes to the reader, calls go to whoever makes them. A call in ``<tool_call>``
tags, which the grammar rules, is handed on as it is written; in the other styles only the finished answer shows whether it is
one, so from where one may begin nothing is handed on before the end. Knows pieces and results; no model, no framework.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from ..provenance import Piece, Provenance
from .calls import Call, InvalidToolCall, new_call_id
from .styles import styles
from .styles.base import begun_at_end
from .styles.hermes import RULED_STYLE, RuledCalls

if TYPE_CHECKING:
    from ..result import Result

Channel = Literal["content", "tool_call"]

_RULED = RULED_STYLE.opener


@dataclass(frozen=True, slots=True)
class CallDelta:
    """A part of a call: the deltas of one ``index``, in order, are the call.

    Attributes:
        index: the call's number in the answer, from 0.
        id: of the call; in its first delta only.
        name: of the called tool; in the first delta only.
        arguments: JSON text of the arguments, a stretch of it.
        error: of what was meant as a call and is none: the reason. ``arguments`` is then the whole text, as it was written.
    """

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    error: str | None = None


@dataclass(frozen=True, slots=True)
class ParsedPiece:
    """A piece, or the part of one that is in one channel, and what it adds to calls."""

    piece: Piece
    channel: Channel = "content"
    calls: tuple[CallDelta, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The piece as plain JSON values. Text of calls, which is no part of a message's text, says so in ``channel``."""
        return self.piece.to_dict() | ({} if self.channel == "content" else {"channel": self.channel})


def finish_word(record: Provenance, called: bool) -> str:
    """Why an answer ended, in the words that the frameworks' users look for: "stop", "length", "tool_calls", "repetition"."""
    if called:
        return "tool_calls"
    return record.finish_reason if record.finish_reason in ("length", "repetition") else "stop"


class ToolCallParser:
    """Sorts the pieces of one answer; the sorted pieces are the pieces in order, cut where the channel changes.

    Args:
        tools: whether the answer may hold calls at all; if not, everything is content.
        ruled: whether they can stand in tags only, as a grammar rules the answer from its start.
    """

    def __init__(self, tools: bool, ruled: bool = False) -> None:
        self._tools, self._ruled = tools, ruled
        self._text = ""
        self._held: list[Piece] = []
        self._at = 0  # how far has been sorted
        self._calls: RuledCalls | None = None
        self._index = -1  # of the last call

    def feed(self, piece: Piece) -> Iterator[ParsedPiece]:
        """The next piece; what is settled with it."""
        self._text += piece.text
        if not self._tools:
            yield ParsedPiece(piece)
        elif self._calls is not None:
            yield ParsedPiece(piece, "tool_call", tuple(self._deltas(self._calls)))
        else:
            self._held.append(piece)
            ruled = self._text.find(_RULED, max(0, self._at - len(_RULED)))
            if ruled >= 0 and ruled <= (free := self._free_from()):
                yield from self._until(ruled)
                self._calls = RuledCalls(ruled)
                rest, self._held = self._held, []
                if rest:
                    deltas = tuple(self._deltas(self._calls))
                    yield from (ParsedPiece(held, "tool_call") for held in rest[:-1])
                    yield ParsedPiece(rest[-1], "tool_call", deltas)
            else:
                yield from self._until(free if ruled >= 0 else min(self._free_from(), begun_at_end(self._text, _RULED)))

    def end(self, result: Result) -> Iterator[ParsedPiece]:
        """The answer is finished: what was held back, now that its calls are known."""
        if self._calls is not None:
            return
        calls_and_not: list[Call] = [*result.calls, *result.invalid_calls]
        left = list(enumerate(sorted(calls_and_not, key=lambda call: call.start)))
        for start, stop in result.call_spans:
            yield from self._until(start)
            inside = self._take(stop)
            calls = []
            while left and (left[0][1].start < stop or (left[0][1].start == stop and not left[0][1].text)):  # or empty
                calls.append(left.pop(0))
            for i, piece in enumerate(inside):
                last = i + 1 == len(inside)
                yield ParsedPiece(piece, "tool_call", tuple(_whole(*call) for call in calls) if last else ())
        yield from self._until(len(self._text))

    def _deltas(self, calls: RuledCalls) -> Iterator[CallDelta]:
        """What the text has more of ruled calls."""
        for name, arguments in calls.read(self._text):
            self._index += name is not None
            yield CallDelta(self._index, new_call_id() if name else None, name, arguments)

    def _free_from(self) -> int:
        """Where a call that no grammar rules may have begun; the text's length if nowhere."""
        if self._ruled:
            return len(self._text)
        free = (style for style in styles() if style is not RULED_STYLE)
        return min((style.held_from(self._text, self._at) for style in free), default=len(self._text))

    def _until(self, stop: int) -> Iterator[ParsedPiece]:
        """Content up to there."""
        return (ParsedPiece(piece) for piece in self._take(stop))

    def _take(self, stop: int) -> list[Piece]:
        """The held pieces up to ``stop``; one that reaches beyond is cut."""
        taken = []
        while self._held and self._held[0].start < stop:
            piece = self._held.pop(0)
            if (inside := stop - piece.start) < len(piece.text):
                rest = replace(piece, text=piece.text[inside:], start=stop, n_tokens=0)
                self._held.insert(0, rest)
                piece = replace(piece, text=piece.text[:inside])
            taken.append(piece)
        self._at = max(self._at, stop)
        return taken


def _whole(index: int, call: Call) -> CallDelta:
    """A finished call as one delta."""
    if isinstance(call, InvalidToolCall):
        return CallDelta(index, call.id, call.name, call.text, call.error)
    return CallDelta(index, call.id, call.name, json.dumps(call.arguments, ensure_ascii=False))
