"""Engines: where predictions come from. One protocol, one file per engine.

An engine knows tokens and probabilities; it knows nothing of text, of nudging or of requests. A ``Session`` is its
only caller.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..gates import Prediction


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose a token where it is not simply the most likely one.

    One random number per position, made from the seed and the position alone, so that neither drafting nor the order
    of evaluation can change a sampled text.
    """

    temperature: float
    top_p: float
    top_k: int | None
    seed: int

    def number(self, position: int) -> float:
        """The random number, 0 … 1, for the token at ``position`` (its index in the sequence)."""
        return random.Random(self.seed * 1_000_003 + position).random()


@dataclass(frozen=True, slots=True)
class Want:
    """What a prediction must hold: the way of choosing, and statistics beyond the top-1 probability."""

    sampling: Sampling | None = None
    needs: frozenset[str] = frozenset()


GREEDY = Want()


class Engine(Protocol):
    """One loaded model. Whoever calls ``forward``, from any thread, holds ``lock``: one forward at a time."""

    name: str
    revision: str | None
    context_length: int | None  # tokens, None if unlimited
    lock: threading.Lock
    can_crop: bool  # whether ``crop`` restores a cache exactly

    def new_cache(self) -> Any:
        """An empty cache."""
        ...

    def forward(self, cache: Any, tokens: Sequence[int], past: int, last: int, want: Want) -> list[Prediction]:
        """Evaluate ``tokens`` after the ``past`` tokens in ``cache``, which grows by them.

        Returns the predictions after each of the last ``last`` of them, in order.
        """
        ...

    def crop(self, cache: Any, drop: int) -> None:
        """Remove the last ``drop`` tokens from ``cache``. Only called if ``can_crop``."""
        ...

    def copy_cache(self, cache: Any) -> Any:
        """A copy that later forwards leave alone. Only called unless ``can_crop``."""
        ...
