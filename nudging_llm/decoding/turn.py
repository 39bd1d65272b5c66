"""Whose turn it is: the one small value that the algorithm passes on; and how an answer ends."""

from __future__ import annotations

from dataclasses import dataclass

from ..protocol import Model, Prediction
from ..provenance import FinishReason, Reason


@dataclass(frozen=True, slots=True)
class Turn:
    """Who writes next, why, and on what evidence.

    Attributes:
        writer: the model that writes next.
        why: the reason, as the record has it.
        evidence: the base model's prediction there, if it was asked; where the base model writes next, that of its first token.
        base_ended: whether the base model has just ended its text, or begun another turn of the transcript.
    """

    writer: Model
    why: Reason
    evidence: Prediction | None = None
    base_ended: bool = False


class AnswerEnded(Exception):
    """The answer is over.

    Attributes:
        reason: why.
        full: the model whose context is full, if that is why.
    """

    def __init__(self, reason: FinishReason, full: Model | None = None) -> None:
        super().__init__(reason)
        self.reason, self.full = reason, full
