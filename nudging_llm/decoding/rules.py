"""The rules' questions that have an answer by themselves: is the base model sure, may it take over, has a sentence ended?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..config import NudgingConfig
from ..protocol import Prediction
from ..provenance import Reason
from .gates import Gate, resolve_gate

#: What ends a sentence, besides a line's end.
_SENTENCE_ENDS = (".", "!", "?", "\u3002", "\uff01", "\uff1f")  # the last three: Chinese and Japanese


@dataclass(frozen=True, slots=True)
class Rules:
    """The options of one answer, as questions.

    Attributes:
        config: the options.
        gate: says where the base model is sure.
        markers: strings with which the base prompt's template begins a turn; a base run is cut before them.
        alone: whether one model writes by itself: it is asked for every token, and no gate is applied.
    """

    config: NudgingConfig
    gate: Gate
    markers: tuple[str, ...]
    alone: bool = False

    @classmethod
    def of(cls, config: NudgingConfig, markers: Sequence[str], alone: bool = False) -> Rules:
        """The rules of a config, with the markers of the base prompt's template."""
        return cls(config, resolve_gate(config.gate), tuple(markers) if config.role_markers else (), alone)

    def sure(self, prediction: Prediction) -> bool:
        """The gate, which sees the raw probability. Who is sure of what may not be written is not sure of what may."""
        return self.alone or (prediction.allowed and self.gate.confident(prediction, self.config.threshold))

    def takes_over(self, prediction: Prediction, top: str, word: str) -> Reason | None:
        """The paper's two ways back to the base model, before ``word``: it is sure, or ``top``, the text of its most likely token
        (empty for an end of text, which agrees with nothing), begins the same word."""
        if self.sure(prediction):
            return Reason.HANDOVER_CONFIDENT
        return Reason.HANDOVER_PREFIX if self.config.prefix_rule and top and word.startswith(top) else None

    def asks_for_end(self, text: str, last: str) -> bool:
        """``end_check="sentence"``: whether a run, whose last piece is ``last``, has come to the end of a sentence or line.
        There the nudging model is asked whether it would end the answer."""
        if self.config.end_check != "sentence" or self.config.stop_on == "both":
            return False
        ended = text.rstrip().endswith(_SENTENCE_ENDS)
        return ended if last.strip() else "\n" in last and not ended


@dataclass(frozen=True, slots=True)
class WordStart:
    """Where a word of a completion begins.

    Attributes:
        text: the word, without spaces; empty between two spaces in a row, and at the end of text that ends in a space.
        before: how many characters stand before it and the space that leads to it.
        cut: the same, without the spaces of empty words: there the word before it ends.
    """

    text: str
    before: int
    cut: int


def words_after_first(text: str, closed: bool) -> Iterator[WordStart]:
    """The words of a completion but the first: split at single spaces; leading spaces stay with the first word.

    Args:
        text: the completion.
        closed: nothing can follow it, so that its last word is whole and one more could be tested after it.
    """
    lead = len(text) - len(text.lstrip(" "))
    first, *parts = text[lead:].split(" ")
    before = cut = lead + len(first)
    cut = before if first else lead
    for part in [*parts, ""] if closed else parts:
        yield WordStart(part, before, cut)
        before += 1 + len(part)
        cut = before if part else cut
