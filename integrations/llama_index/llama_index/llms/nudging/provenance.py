"""Who wrote what, through engines and agents that keep nothing but text.

Three ways to it, from the surest to the handiest: what a response carries in ``raw``; ``collect_provenance``, which sees every
call made within it; ``Recent``, behind ``NudgingLLM.provenance_of``, which finds a text's answer among the latest.
"""

from __future__ import annotations

import asyncio
import inspect
import queue
import re
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.span import active_span_id

from nudging_llm import ParsedPiece, Piece, Provenance
from nudging_llm.frameworks.collectors import Collected, CollectedAnswer, emitter

from .events import NudgeEndEvent, NudgePieceEvent

#: In ``raw``, and in the messages' ``additional_kwargs`` with ``_id``.
KEY = "nudging"
ID = "nudging_id"
_DISPATCHER = get_dispatcher(__name__)


@dataclass
class CallProvenance(CollectedAnswer):
    """One call of the model.

    Attributes:
        id: as in the ``additional_kwargs`` of its message.
        pieces: so far.
        provenance: the whole record, once the call has ended; None before, and if it failed. Of one that was left or
            cancelled, what there was, with the finish reason "cancelled".
        error: what ended it, if it failed.
    """

    id: str = field(default_factory=lambda: uuid.uuid4().hex[:16], kw_only=True)


class CollectedCalls(Collected[CallProvenance]):
    """The calls made within a ``collect_provenance``: a sequence, in the order in which they began."""

    def __init__(self, on_piece: Any) -> None:
        super().__init__()
        self.emit = emitter(on_piece)

    def begin(self, call: CallProvenance) -> None:
        with self._lock:
            self._answers[call.id] = call


_COLLECTORS: ContextVar[tuple[CollectedCalls, ...]] = ContextVar("nudging_collectors", default=())


@contextmanager
def collect_provenance(
    on_piece: Callable[[Piece, CallProvenance], Any] | queue.Queue[Any] | asyncio.Queue[Any] | Any = None,
) -> Iterator[CollectedCalls]:
    """Collect the provenance of every call made within: by query engines, chat engines, agents, nested tools, threads of
    LlamaIndex's own, tasks started inside. Calls made elsewhere at the same time are not seen.

    A stream that an engine begins lazily is seen if it is *iterated* inside.

    Args:
        on_piece: called with each piece and its call as it is written: a function, or a queue, in which ``(piece, call)`` is put
            and, when a call has ended, ``(None, call)``; or anything with a ``write(piece)`` and an ``end()``, such as
            ``nudging_llm.views.terminal.TerminalView``. What it raises ends the answer.

    Yields:
        The calls: ``calls[0].provenance``, ``calls.provenances``, ``calls.last``.

    Raises:
        TypeError: ``on_piece`` is none of these, a coroutine function, or a bounded ``asyncio.Queue``.
    """
    if isinstance(on_piece, asyncio.Queue):
        if on_piece.maxsize:
            raise TypeError(
                f"on_piece={on_piece!r} holds {on_piece.maxsize} pieces, and writing does not wait: give an unbounded one."
            )
        calls = CollectedCalls(None)
        calls.emit = _onto(on_piece)
    elif inspect.iscoroutinefunction(on_piece):
        raise TypeError(f"on_piece={on_piece!r}: pieces are not awaited; give a function, or an asyncio.Queue.")
    else:
        calls = CollectedCalls(on_piece)
    token = _COLLECTORS.set((*_COLLECTORS.get(), calls))
    try:
        yield calls
    finally:
        with suppress(ValueError):  # a generator that is closed in another task
            _COLLECTORS.reset(token)


def _onto(found: asyncio.Queue[Any]) -> Callable[[Piece | None, CallProvenance], None]:
    """What puts pieces onto an event loop's queue, from whatever thread."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        loop = None

    def put(piece: Piece | None, call: CallProvenance) -> None:
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if loop is None or here is loop:
            found.put_nowait((piece, call))
        else:
            loop.call_soon_threadsafe(found.put_nowait, (piece, call))

    return put


class Recorder:
    """Tells everyone who listens what one call writes. Listeners are those of where the call is made, not of where a stream is
    read.

    Args:
        recent: where the answer is kept.
    """

    def __init__(self, recent: Recent) -> None:
        self.call = CallProvenance()
        self._recent = recent
        self._content: list[Piece] = []
        self._at = 0
        self._span = active_span_id.get()
        self._collectors = _COLLECTORS.get()

    def begin(self) -> None:
        """The answer is about to be read: from here on it is a call. A stream that nobody reads is none."""
        for collector in self._collectors:
            collector.begin(self.call)

    def piece(self, found: ParsedPiece) -> None:
        """A piece was written."""
        self.call.pieces.append(found.piece)
        for collector in self._collectors:
            collector.emit(found.piece, self.call)
        _DISPATCHER.event(NudgePieceEvent(nudging_id=self.call.id, piece=found.to_dict(), span_id=self._span))

    def shown(self, piece: Piece) -> None:
        """A piece is a part of the message's text."""
        self._content.append(replace(piece, start=self._at))
        self._at += len(piece.text)

    def end(self, record: Provenance) -> None:
        """The call has ended, or was left."""
        self.call.pieces = list(record.pieces)
        self.call.provenance = record
        self._recent.add(self.call.id, record, self._content)
        rest = record.to_dict()
        del rest["pieces"], rest["text"]
        _DISPATCHER.event(
            NudgeEndEvent(nudging_id=self.call.id, record=rest, nudge_ratio=record.nudge_ratio, span_id=self._span)
        )
        self._over()

    def failed(self, error: BaseException) -> None:
        """The call ended with an error."""
        self.call.error = error
        self._over()

    def _over(self) -> None:
        for collector in self._collectors:
            collector.emit(None, self.call)


# -- what a response carries ------------------------------------------------------------------------------------------


def get_pieces(response: Any) -> tuple[Piece, ...]:
    """The pieces that a response carries: of a streamed one its own, of a finished answer all. Empty if it carries none.

    A stream's last response, which has the whole record, has no piece of its own: so a loop over a stream sees each once.

    Args:
        response: a ``ChatResponse``, ``CompletionResponse``, an agent's ``AgentStream`` or ``AgentOutput``, or a ``raw`` dict.
    """
    carried = _carried(response)
    if "piece" in carried:
        return (Piece.from_dict(carried["piece"]),)
    if getattr(response, "delta", None) is not None:
        return ()
    record = get_provenance(carried)
    return record.pieces if record else ()


def get_provenance(response: Any) -> Provenance | None:
    """The record that a finished response carries; None if it carries none, as a streamed one before the last.

    Args:
        response: as for ``get_pieces``.
    """
    record = _carried(response).get("record")
    return Provenance.from_dict(record) if record else None


def _carried(response: Any) -> Mapping[str, Any]:
    raw = response if isinstance(response, Mapping) else getattr(response, "raw", None)
    if not isinstance(raw, Mapping):
        return {}
    found = raw.get(KEY, raw)
    return found if isinstance(found, Mapping) else {}


# -- what a text came from --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TextProvenance:
    """Who wrote a text.

    Attributes:
        text: the text.
        pieces: what of it was written by the models, in order: ``start`` is the offset in ``text``. What no model wrote (labels
            that an engine put between answers) is in none.
        records: the whole record of each answer that stands in it, in order.
    """

    text: str
    pieces: tuple[Piece, ...]
    records: tuple[Provenance, ...]

    @property
    def provenance(self) -> Provenance:
        """The record of the last answer in the text."""
        return self.records[-1]


@dataclass(frozen=True)
class _Kept:
    id: str
    text: str
    pieces: tuple[Piece, ...]
    record: Provenance

    def at(self, start: int, begin: int, end: int) -> list[Piece]:
        """The pieces of ``text[begin:end]``, which stands at ``start`` in another text."""
        found = []
        for piece in self.pieces:
            a, b = max(piece.start, begin), min(piece.start + len(piece.text), end)
            if a < b:
                whole = b - a == len(piece.text)
                found.append(
                    replace(
                        piece,
                        text=self.text[a:b],
                        start=start + a - begin,
                        n_tokens=piece.n_tokens if whole or a == piece.start else 0,
                    )
                )
        return found


#: Roles of messages that an LLM writes.
_ASSISTANT = ("assistant", "chatbot", "model")
#: Where the end of an answer may have been cut off.
_BEGINNING = re.compile(r"(?:\n|Answer:)\s*\Z")
#: What may stand before a whole answer on its first line.
_LABEL = re.compile(r"(?:\A|\n)(?:Response \d+: )?[^\S\n]*\Z")
_LINE_END = re.compile(r"[^\S\n]*(?:\n|\Z)")
#: A part of an answer is found by its text if it has so many characters, or is half of it.
_LARGE = 20


class Recent:
    """The latest answers of an LLM and its copies, by id and by text. Thread-safe.

    Args:
        size: how many are kept.
    """

    def __init__(self, size: int = 64) -> None:
        self._kept: deque[_Kept] = deque(maxlen=size)
        self._lock = threading.Lock()

    def add(self, call_id: str, record: Provenance, pieces: Sequence[Piece]) -> None:
        """Keep a finished answer; ``pieces`` are those of its message's text."""
        kept = _Kept(call_id, "".join(piece.text for piece in pieces), tuple(pieces), record)
        with self._lock:
            self._kept.append(kept)

    def find(self, holder: Any) -> TextProvenance | None:
        """Who wrote the text that ``holder`` has; see ``NudgingLLM.provenance_of``."""
        with self._lock:
            latest = list(reversed(self._kept))
        text, call_id = _text_of(holder), _id_of(holder)
        if call_id is not None:
            for kept in latest:
                if kept.id == call_id:
                    shown = kept.text if text is None else text
                    return _within(shown, kept) or TextProvenance(shown, (), (kept.record,))
            return None  # it was one of these, long ago
        if not text or not text.strip() or getattr(holder, "role", "assistant") not in _ASSISTANT:
            return None
        core = text.strip()
        for matches in (
            lambda kept: kept.text == text,
            lambda kept: kept.text.strip() == core,
            lambda kept: kept.text.rstrip().endswith(core) and _BEGINNING.search(kept.text.rstrip()[: -len(core)]),
            lambda kept: len(core) >= min(_LARGE, len(kept.text.strip()) / 2) and core in kept.text,
        ):
            for kept in latest:
                if kept.text.strip() and matches(kept) and (found := _within(text, kept)):
                    return found
        return _containing(text, latest)


def _within(text: str, kept: _Kept) -> TextProvenance | None:
    """A text that is an answer's, or the last such part of it."""
    core = text.strip()
    begin = kept.text.rfind(core)
    if begin < 0:
        return None
    before = len(text) - len(text.lstrip())
    after = len(text) - before - len(core)
    # white space around it is the answer's too where the answer has the same
    while before and begin and kept.text[begin - 1] == text[before - 1]:
        begin, before = begin - 1, before - 1
    end = begin + len(text) - before - after
    while after and end < len(kept.text) and kept.text[end] == text[len(text) - after]:
        end, after = end + 1, after - 1
    return TextProvenance(text, tuple(kept.at(before, begin, end)), (kept.record,))


def _containing(text: str, latest: Sequence[_Kept]) -> TextProvenance | None:
    """A text in which whole answers fill lines, after nothing but a label; the latest first."""
    taken: list[tuple[int, int, _Kept]] = []
    for kept in latest:
        core = kept.text.strip()
        at = text.find(core) if core else -1
        while at >= 0:
            end = at + len(core)
            alone = _LABEL.search(text[:at]) and _LINE_END.match(text, end)
            if alone and all(end <= a or at >= b for a, b, _ in taken):
                taken.append((at, end, kept))
                break
            at = text.find(core, at + 1)
    if not taken:
        return None
    pieces: list[Piece] = []
    taken.sort(key=lambda found: found[0])
    for at, end, kept in taken:
        begin = len(kept.text) - len(kept.text.lstrip())
        pieces += kept.at(at, begin, begin + end - at)
    return TextProvenance(text, tuple(pieces), tuple(kept.record for _, _, kept in taken))


#: Where responses, messages and agents' outputs have their text, or what has it.
_HOLDERS = ("response", "message", "text", "content", "response_txt")


def _text_of(holder: Any, depth: int = 0) -> str | None:
    if isinstance(holder, str):
        return holder
    for name in _HOLDERS if depth < 3 else ():
        try:
            found = getattr(holder, name, None)
        except Exception:  # a property that wants a stream to be read first
            continue
        if found is not None and not callable(found) and (text := _text_of(found, depth + 1)) is not None:
            return text
    return None


def _id_of(holder: Any, depth: int = 0) -> str | None:
    """The call's id, where a response, a message or an agent's output has it."""
    carried = _carried(holder).get("id") if not isinstance(holder, Mapping) else None
    own = getattr(holder, "additional_kwargs", None)
    found = carried or (own.get(ID) if isinstance(own, Mapping) else None)
    if found is None and depth < 2:
        for name in ("response", "message"):
            inner = getattr(holder, name, None)
            if inner is not None and not isinstance(inner, str) and (found := _id_of(inner, depth + 1)):
                break
    return found if isinstance(found, str) else None
