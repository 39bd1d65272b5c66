"""What a request adds to a record: what its models cost, and whether requests find each other's work."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from ..engines.base import Counts, ModelBackend
from ..provenance import ModelUse, ProvenanceWarning


def model_use(backend: ModelBackend, counts: Counts, tokens: int, prompt: Sequence[int]) -> ModelUse:
    """One model's part in an answer, of which it wrote ``tokens``."""
    return ModelUse(
        name=backend.name,
        revision=backend.revision,
        tokens=tokens,
        forwards=counts.forwards,
        forward_tokens=counts.forward_tokens,
        drafted=counts.drafted,
        accepted=counts.accepted,
        prompt_tokens=len(prompt),
        prompt_tokens_reused=min(counts.reused, len(prompt)),
        seconds=counts.seconds,
    )


class CacheWatch:
    """Notices that requests share a prefix and yet never find it in the cache."""

    _SHARED = 64  # tokens
    _ROW = 3  # requests

    def __init__(self) -> None:
        self.last: tuple[int, ...] = ()  # how the prompt of the last finished request begins
        self._missed = 0
        self._lock = threading.Lock()

    def note(self, prompt: Sequence[int], reused: int, earlier: tuple[int, ...]) -> tuple[ProvenanceWarning, ...]:
        """Record a finished request; ``earlier`` is what ``last`` was when it was made."""
        head = tuple(prompt[: self._SHARED])
        if not self._lock.acquire(blocking=False):  # never waits, as PrefixCache.release
            return ()
        try:
            related = len(head) == self._SHARED and head == earlier
            self.last = head
            self._missed = self._missed + 1 if related and reused < self._SHARED else 0
            missed = self._missed
        finally:
            self._lock.release()
        if missed < self._ROW:
            return ()
        return (
            ProvenanceWarning(
                code="cache_never_hit",
                message=f"{missed + 1} requests in a row began with the same {self._SHARED} tokens and none found them in the "
                "cache. Raise cache_slots (0 switches the cache off).",
            ),
        )
