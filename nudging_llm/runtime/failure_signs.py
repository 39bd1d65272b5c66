"""The known ways in which an answer fails, as far as its record shows them, each with what to do about it.

Knows records and how a decode ended; which way the threshold has to be moved is the gate's to say.
"""

from __future__ import annotations

from collections.abc import Iterator

from ..decoding.decode import Outcome
from ..decoding.gates import Gate, higher_nudges_more
from ..provenance import Provenance, ProvenanceWarning

#: Nudge ratio above which nudged answers are usually no better than the nudging model's alone.
TOO_MUCH = 0.4


def failure_signs(record: Provenance, outcome: Outcome | None, gate: str | Gate) -> Iterator[ProvenanceWarning]:
    """The warnings that one record deserves.

    Args:
        record: of the answer.
        outcome: how its decode ended; None if it did not end by itself.
        gate: the one that was used.
    """
    more, less = ("raise", "lower") if higher_nudges_more(gate) else ("lower", "raise")
    alone = len(record.models) < 2
    if not alone:
        yield from _of_nudging(record, more, less)
    if record.finish_reason == "repetition":
        yield ProvenanceWarning(
            code="repetition",
            message="The answer went in circles and was ended. "
            + ("Sample (temperature=0.7)." if alone else f"{more.title()} the threshold, or sample (temperature=0.7)."),
        )
    if outcome is not None:
        yield from _of_ending(outcome)


def _of_nudging(record: Provenance, more: str, less: str) -> Iterator[ProvenanceWarning]:
    if record.n_tokens >= 32 and not any(p.source == "nudging" and p.round > 1 for p in record.pieces):
        yield ProvenanceWarning(
            code="never_nudged",
            message=f"The base model was never nudged after the opening in {record.n_tokens} tokens. If the answer "
            f"strays, {more} the threshold.",
        )
    if record.n_tokens >= 16 and record.nudge_ratio > TOO_MUCH:
        yield ProvenanceWarning(
            code="nudged_too_much",
            message=f"{record.nudge_ratio:.0%} of the tokens are the nudging model's. Above {TOO_MUCH:.0%} results are usually "
            f"no better than its own answer alone: {less} the threshold, or use a base model that is surer of this subject.",
        )


def _of_ending(outcome: Outcome) -> Iterator[ProvenanceWarning]:
    if outcome.closed_early:
        yield ProvenanceWarning(
            code="closed_early",
            message="The answer was brought to a valid end by the shortest way, as max_tokens left no room for more or it "
            "went in circles: it may say less than the models would. Raise max_tokens, or bound arrays and strings in the "
            "schema.",
        )
    if outcome.call_left_out:
        yield ProvenanceWarning(
            code="call_left_out",
            message="A tool call was begun and left out, as max_tokens had no room for its shortest end. Raise max_tokens.",
        )
    if outcome.cut_at_marker:
        yield ProvenanceWarning(
            code="role_marker",
            message="The base model began another turn of the transcript and was cut there. If answers end too early, "
            "try another base template.",
        )
    if outcome.context_full:
        yield ProvenanceWarning(
            code="context_full",
            message=f"The answer filled the {outcome.context_full} model's context and ended there.",
        )
