"""What the rules ask of a constraint, and the one that constrains nothing.

A constraint says what an answer must look like. It knows the answer's text only, so that hand-overs, re-tokenising and guesses
need no bookkeeping. The one that follows a grammar is in ``structured/constraint.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from ..protocol import Masks, Model


class AnswerConstraint(Protocol):
    """Holds one answer to a rule. ``text`` is always the answer so far."""

    @property
    def trigger(self) -> str | None:
        """The text from which on the rule holds; None: from the start, or never."""
        ...

    @property
    def what(self) -> str:
        """How to call the rule in errors."""
        ...

    @property
    def seconds(self) -> float:
        """Time spent on the rule so far."""
        ...

    @property
    def loaded(self) -> bool:
        """Whether ``load`` has been done, or there is nothing to do."""
        ...

    def load(self) -> None:
        """Do what takes seconds and must be done before the first query."""
        ...

    def start(self, text: str) -> int | None:
        """Where in ``text`` the rule begins to hold; None: nowhere yet."""
        ...

    def active(self, text: str) -> bool:
        """Whether the rule holds at the end of ``text``."""
        ...

    def clip(self, text: str) -> str:
        """As much of ``text`` as keeps to the rule."""
        ...

    def complete(self, text: str) -> bool:
        """Whether ``text`` cannot go on: it is all that the rule allows."""
        ...

    def may_end(self, text: str) -> bool:
        """Whether ``text`` keeps to the rule as it is."""
        ...

    def forced(self, text: str, model: Model) -> str:
        """What must come next, if the rule leaves no choice, for ``model`` to go on after it."""
        ...

    def masks(self, model: Model, text: str, tail: Sequence[int], guesses: list[int]) -> tuple[list[int], Masks]:
        """The guesses that may be chosen after ``text`` and the tokens ``tail`` of an unfinished character, and for each position
        the tokens that may be."""
        ...

    def closing(self, text: str, fits: Callable[[str], bool]) -> str | None:
        """A way for ``text`` to a valid end that ``fits``; None if none was found."""
        ...


class Unconstrained:
    """Constrains nothing."""

    trigger: str | None = None
    what = "Free text"
    seconds = 0.0
    loaded = True

    def load(self) -> None:
        """There is nothing to do."""

    def start(self, text: str) -> int | None:
        return None

    def active(self, text: str) -> bool:
        return False

    def clip(self, text: str) -> str:
        return text

    def complete(self, text: str) -> bool:
        return False

    def may_end(self, text: str) -> bool:
        return True

    def forced(self, text: str, model: Model) -> str:
        return ""

    def masks(self, model: Model, text: str, tail: Sequence[int], guesses: list[int]) -> tuple[list[int], Masks]:
        return guesses, None

    def closing(self, text: str, fits: Callable[[str], bool]) -> str | None:
        return ""


#: The constraint of an answer that may be any text.
UNCONSTRAINED = Unconstrained()
