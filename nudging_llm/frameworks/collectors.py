"""Collects answers' pieces and records where a framework would lose them, and hands pieces on while they are written."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ..provenance import Piece, Provenance


@dataclass
class CollectedAnswer:
    """One answer.

    Attributes:
        pieces: so far.
        provenance: the whole record, once the answer is finished; None before, and if it failed.
        error: what ended it, if it failed.
    """

    pieces: list[Piece] = field(default_factory=list)
    provenance: Provenance | None = None
    error: BaseException | None = None

    @property
    def text(self) -> str:
        """What has been written so far, tool calls included."""
        return "".join(piece.text for piece in self.pieces)


Answer = TypeVar("Answer", bound=CollectedAnswer)


class Collected(Generic[Answer]):
    """Answers, in the order in which they began."""

    def __init__(self) -> None:
        self._answers: dict[Any, Answer] = {}
        self._lock = threading.Lock()

    @property
    def answers(self) -> list[Answer]:
        """Every answer, in the order in which they began."""
        with self._lock:
            return list(self._answers.values())

    @property
    def provenances(self) -> list[Provenance]:
        """The records of the finished answers, in the order in which they began."""
        return [answer.provenance for answer in self.answers if answer.provenance is not None]

    @property
    def last(self) -> Provenance | None:
        """The record of the finished answer that began last."""
        return next(reversed(self.provenances), None)

    def clear(self) -> None:
        """Forget all answers."""
        with self._lock:
            self._answers.clear()

    def __len__(self) -> int:
        return len(self._answers)

    def __iter__(self) -> Iterator[Answer]:
        return iter(self.answers)

    def __getitem__(self, index: int) -> Answer:
        return self.answers[index]

    def __bool__(self) -> bool:
        """True, also before the first answer."""
        return True


def emitter(target: Any) -> Callable[[Piece | None, Any], Any]:
    """What hands on a piece and its answer, and ``(None, answer)`` at an answer's end.

    Args:
        target: a function of both, which gets pieces only; a queue, into which both are put; anything with a ``write(piece)``
            and an ``end()``, such as ``nudging_llm.views.terminal.TerminalView``; or None.

    Raises:
        TypeError: it is none of these.
    """
    if target is None:
        return lambda piece, answer: None
    if hasattr(target, "put"):  # both kinds of queue
        return lambda piece, answer: target.put((piece, answer))
    if hasattr(target, "write") and hasattr(target, "end"):
        return lambda piece, answer: target.end() if piece is None else target.write(piece)
    if callable(target):
        return lambda piece, answer: None if piece is None else target(piece, answer)
    raise TypeError(f"on_piece={target!r}: give a function of a piece and an answer, a queue, or a view.")
