"""Engines: where predictions come from. One protocol, one file per engine.

An engine knows tokens and probabilities; it knows nothing of text, of nudging or of requests. A ``Session`` is its
only caller.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..protocol import Prediction, PredictionParams


class CannotPackError(RuntimeError):
    """The model does not evaluate several rows in one forward. Never reaches a user: rows go one by one then."""


@dataclass(frozen=True, slots=True)
class Row:
    """One text's part in a forward.

    Attributes:
        cache: of the text; it grows by ``tokens``.
        tokens: to evaluate, at least one.
        past: how many tokens the cache holds already.
        last: after how many of ``tokens``, counted from the end, predictions are wanted.
        want: what they must hold.
        masks: for each of these predictions the tokens that may be chosen, one bit each from the lowest; None: any.
    """

    cache: Any
    tokens: Sequence[int]
    past: int
    last: int
    want: PredictionParams
    masks: Sequence[bytes] | None = None


class Engine(Protocol):
    """One loaded model. Whoever calls ``forward`` or touches a cache, from any thread, holds ``lock``."""

    name: str
    revision: str | None
    context_length: int | None  # tokens, None if unlimited
    lock: threading.Lock
    can_crop: bool  # whether ``crop`` and ``copy_prefix`` restore a cache exactly
    can_pack: bool  # whether one forward evaluates several rows

    def new_cache(self) -> Any:
        """An empty cache."""
        ...

    def forward(self, rows: Sequence[Row]) -> list[list[Prediction]]:
        """Evaluate the rows in one forward; several only if ``can_pack``.

        Returns, for each row, the predictions after each of its last ``last`` tokens, in order.

        Raises:
            OutOfMemoryError: as any error, it leaves the caches of the rows in no known state.
            CannotPackError: the model turned out not to evaluate several rows.
        """
        ...

    def crop(self, cache: Any, drop: int) -> None:
        """Remove the last ``drop`` tokens from ``cache``. Only called if ``can_crop``."""
        ...

    def copy_cache(self, cache: Any) -> Any:
        """A copy that later forwards leave alone. Only called unless ``can_crop``."""
        ...

    def copy_prefix(self, cache: Any, length: int) -> Any:
        """A cache of its own with the first ``length`` tokens. Only called if ``can_crop``."""
        ...

    def cache_bytes(self, cache: Any) -> int:
        """Memory that a cache holds."""
        ...
