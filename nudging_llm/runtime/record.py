"""The record of a request: from what its models cost and how it ended to a ``Provenance`` with its warnings."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

from ..decoding.decode import Outcome
from ..engines.base import Counts, ModelBackend
from ..provenance import ModelUse, Provenance, Warning

#: Nudge ratio above which nudged answers are usually no better than the nudging model's alone.
TOO_MUCH = 0.4


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


def warnings_of(record: Provenance, outcome: Outcome | None) -> Iterator[Warning]:
    """The failure signatures that one record shows, each with what to do."""
    ratio, nudging = record.nudge_ratio, record.nudging.name
    alone = not record.base.name or not nudging
    if not alone and record.n_tokens >= 32 and not any(p.source == "nudging" and p.round > 1 for p in record.pieces):
        yield Warning(
            code="never_nudged",
            message=f"The base model was never nudged after the opening in {record.n_tokens} tokens. If the answer "
            "strays, raise the threshold.",
        )
    if not alone and record.n_tokens >= 16 and ratio > TOO_MUCH:
        yield Warning(
            code="nudged_too_much",
            message=f"{ratio:.0%} of the tokens are the nudging model's. Above {TOO_MUCH:.0%} results are usually no better "
            "than its own answer alone: lower the threshold, or use a base model that is surer of this subject.",
        )
    if record.finish_reason == "repetition":
        yield Warning(
            code="repetition",
            message="The answer went in circles and was ended. "
            + ("Sample (temperature=0.7)." if alone else "Raise the threshold, or sample (temperature=0.7)."),
        )
    if outcome and outcome.closed_early:
        yield Warning(
            code="closed_early",
            message="The answer was brought to a valid end by the shortest way, as max_tokens left no room for more or it "
            "went in circles: it may say less than the models would. Raise max_tokens, or bound arrays and strings in the "
            "schema.",
        )
    if outcome and outcome.call_left_out:
        yield Warning(
            code="call_left_out",
            message="A tool call was begun and left out, as max_tokens had no room for its shortest end. Raise max_tokens.",
        )
    if outcome and outcome.cut_at_marker:
        yield Warning(
            code="role_marker",
            message="The base model began another turn of the transcript and was cut there. If answers end too early, "
            "try another base template.",
        )
    if outcome and outcome.context_full:
        yield Warning(
            code="context_full",
            message=f"The answer filled the {outcome.context_full} model's context and ended there.",
        )


class CacheWatch:
    """Notices that requests share a prefix and yet never find it in the cache."""

    _SHARED = 64  # tokens
    _ROW = 3  # requests

    def __init__(self) -> None:
        self.last: tuple[int, ...] = ()  # how the prompt of the last finished request begins
        self._missed = 0
        self._lock = threading.Lock()

    def note(self, prompt: Sequence[int], reused: int, earlier: tuple[int, ...]) -> tuple[Warning, ...]:
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
            Warning(
                code="cache_never_hit",
                message=f"{missed + 1} requests in a row began with the same {self._SHARED} tokens and none found them in the "
                "cache. Raise cache_slots (0 switches the cache off).",
            ),
        )
