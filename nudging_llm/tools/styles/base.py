"""What a way of writing calls must be able to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..calls import Call


class CallStyle(Protocol):
    """One way in which models write calls of tools. An object without state: one serves all answers.

    Attributes:
        control_tokens: control tokens with which models begin a call in this way. Where a model has one of them, and writes it,
            a call is begun for it, as an answer's text cannot hold a control token.
    """

    control_tokens: frozenset[str]

    def find(self, text: str, at: int, names: frozenset[str]) -> tuple[int, int] | None:
        """Where, from ``at`` on, a call in this way begins: the start and the end of what opens it. None: nowhere.

        Args:
            names: of the tools that there are.
        """
        ...

    def read(self, text: str, at: int, names: frozenset[str]) -> tuple[Sequence[Call], int]:
        """The calls after an opener that ends at ``at``, and where the text goes on. No calls: it was no opener."""
        ...

    def held_from(self, text: str, at: int) -> int:
        """Of an answer that is still being written: where, from ``at`` on, a call in this way has begun or may be beginning at
        the text's end; ``len(text)`` if nowhere. The text from there on is held back."""
        ...


def begun_at_end(text: str, opener: str) -> int:
    """Where ``opener`` may be beginning at the end of ``text``; the text's length if nowhere."""
    for n in range(min(len(opener) - 1, len(text)), 0, -1):
        if text.endswith(opener[:n]):
            return len(text) - n
    return len(text)
