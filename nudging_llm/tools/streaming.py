"""Sorts an answer's pieces, as they come, into what is said and what is called.

For frameworks that stream the two apart: text goes to the reader, calls go to whoever makes them. A call in ``<tool_call>``
tags, which the grammar rules, is handed on as it is written; in the other styles only the finished answer shows whether it is
one, so from where one may begin nothing is handed on before the end. Knows pieces and results; no model, no framework.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from ..provenance import Piece, Provenance
from .definitions import HERMES
from .parser import InvalidToolCall, ToolCall, new_call_id

if TYPE_CHECKING:
    from ..result import Result

Channel = Literal["content", "tool_call"]

_Call = ToolCall | InvalidToolCall
_RULED = HERMES.begin.strip()
#: What may begin a call in a style that is read, not ruled, when it stands in the text …
_FREE = ("[TOOL_CALLS]", "<|python_tag|>")
_FENCE = re.compile(r"```(?:json|tool_calls?)?\s*[\[{]")
#: … or is all that the text has come to.
_FENCE_BEGUN = re.compile(r"```(?:j|js|jso|json|t|to|too|tool|tool_|tool_c\w{0,5})?\s*\Z")
_BARE = re.compile(r"[\s\[,;]*(?:\{.*)?", re.DOTALL)
_HEAD = re.compile(r'\s*\{"name": ("(?:[^"\\]|\\.)*"), "arguments": ')
_DECODER = json.JSONDecoder()


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
        self._bare = True  # the answer so far may be nothing but calls
        self._calls: _RuledCalls | None = None

    def feed(self, piece: Piece) -> Iterator[ParsedPiece]:
        """The next piece; what is settled with it."""
        self._text += piece.text
        if not self._tools:
            yield ParsedPiece(piece)
        elif self._calls is not None:
            yield ParsedPiece(piece, "tool_call", tuple(self._calls.read(self._text)))
        else:
            self._held.append(piece)
            ruled = self._text.find(_RULED, max(0, self._at - len(_RULED)))
            if ruled >= 0 and ruled <= (free := self._free_from()):
                yield from self._until(ruled)
                self._calls = _RuledCalls(ruled)
                rest, self._held = self._held, []
                if rest:
                    deltas = tuple(self._calls.read(self._text))
                    yield from (ParsedPiece(held, "tool_call") for held in rest[:-1])
                    yield ParsedPiece(rest[-1], "tool_call", deltas)
            else:
                yield from self._until(free if ruled >= 0 else min(self._free_from(), self._ruled_from()))

    def end(self, result: Result) -> Iterator[ParsedPiece]:
        """The answer is finished: what was held back, now that its calls are known."""
        if self._calls is not None:
            return
        calls_and_not: list[_Call] = [*result.calls, *result.invalid_calls]
        found = sorted(calls_and_not, key=lambda call: call.start)
        for start, stop in result.call_spans:
            yield from self._until(start)
            inside = self._take(stop)
            calls = [
                (index, call)
                for index, call in enumerate(found)
                if start < call.start <= stop or start == call.start == 0
            ]
            for i, piece in enumerate(inside):
                last = i + 1 == len(inside)
                yield ParsedPiece(piece, "tool_call", tuple(_whole(*call) for call in calls) if last else ())
        yield from self._until(len(self._text))

    def _ruled_from(self) -> int:
        """Where a ruled call may have begun at the end of the text."""
        text = self._text
        for length in range(min(len(_RULED) - 1, len(text)), 0, -1):
            if text.endswith(_RULED[:length]):
                return len(text) - length
        return len(text)

    def _free_from(self) -> int:
        """Where a call that no grammar rules may have begun; the text's length if nowhere."""
        text, at = self._text, len(self._text)
        if self._ruled:
            return at
        if self._bare:
            self._bare = _BARE.fullmatch(text) is not None
        if self._bare:
            return 0
        for opener in _FREE:
            found = text.find(opener, self._at)
            begun = next((n for n in range(min(len(opener) - 1, len(text)), 0, -1) if text.endswith(opener[:n])), 0)
            at = min(at, found if found >= 0 else len(text) - begun)
        fence = _FENCE.search(text, self._at) or _FENCE_BEGUN.search(text, self._at)
        ticks = len(text) - len(text.rstrip("`"))
        return min(at, fence.start() if fence else len(text) - min(ticks, 2))

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


class _RuledCalls:
    """Reads calls in tags, as the grammar has them written, from text that grows."""

    def __init__(self, start: int) -> None:
        self._at = start  # where the next call, or the rest of its arguments, begins
        self._index = -1
        self._begin = 0  # of the arguments, while within them
        self._inside = False

    def read(self, text: str) -> Iterator[CallDelta]:
        """What the text has more than at the last call; one delta for each tool call."""
        while True:
            name = None
            if not self._inside:
                opener = text.find(_RULED, self._at)
                head = _HEAD.match(text, opener + len(_RULED)) if opener >= 0 else None
                if head is None:
                    return
                self._index, self._inside = self._index + 1, True
                self._at = self._begin = head.end()
                name = str(json.loads(head[1]))
            stop = self._arguments_end(text)
            end = len(text) if stop is None else stop
            if name is not None or end > self._at:
                yield CallDelta(self._index, new_call_id() if name else None, name, text[self._at : end])
            self._at = end
            if stop is None:
                return
            self._inside = False

    def _arguments_end(self, text: str) -> int | None:
        """Where the arguments' object ends, if it has."""
        if "}" not in text[self._at :]:
            return None
        try:
            return int(_DECODER.raw_decode(text, self._begin)[1])
        except ValueError:
            return None


def _whole(index: int, call: _Call) -> CallDelta:
    """A finished call as one delta."""
    if isinstance(call, InvalidToolCall):
        return CallDelta(index, call.id, call.name, call.text, call.error)
    return CallDelta(index, call.id, call.name, json.dumps(call.arguments, ensure_ascii=False))
