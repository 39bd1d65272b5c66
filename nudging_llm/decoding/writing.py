"""The answer as it is written: pieces with their record, and what a constraint has to say about them.

Knows text and lengths; asks no model. When to write what is ``decoder.py``'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ..config import NudgingConfig
from ..errors import GrammarError
from ..protocol import Model, Prediction, PromptEncoder
from ..provenance import Piece, Reason
from .stopping import Answer

if TYPE_CHECKING:
    from ..structured.constraint import Constraint

#: Tokens by which pieces may be longer than the same text in one.
_SEAMS = 4


class Writer:
    """Appends pieces to an answer.

    Args:
        voices: of the models that take part; the base model's counts tokens if it does.
        config: the rules' knobs.
        clock: seconds since the request began.
        constraint: what the answer must look like, if anything.

    Attributes:
        answer: the text so far.
        round: number of the round, for the record.
        call_left_out: whether a call was begun for whose shortest end max_tokens left no room.
    """

    def __init__(
        self,
        voices: Mapping[Model, PromptEncoder],
        config: NudgingConfig,
        clock: Callable[[], float],
        constraint: Constraint | None,
    ) -> None:
        opener = constraint.grammar.trigger if constraint else None
        self.answer = Answer(config.stop, config.repetition == "guard", opener)
        self.round = 0
        self.call_left_out = False
        self._voices, self._max_tokens, self._clock, self._constraint = voices, config.max_tokens, clock, constraint

    def add_forced(self, model: Model) -> bool:
        """Append what the constraint leaves no choice about, for ``model`` to go on; whether there was any."""
        text = self._constraint.forced(self.answer.text, model) if self._constraint else ""
        if text:
            self._add_grammar(text, Reason.FORCED)
        return bool(text)

    def add(self, text: str, source: Model, prediction: Prediction, reason: Reason, n_tokens: int) -> bool:
        """Append a piece to the answer; False if it completed a role marker."""
        text = self.without_join(text)
        if not text:
            return True
        top = self._voices["base"].token_text(prediction.top) if "base" in self._voices else None
        prob = prediction.prob if "base" in self._voices else None
        start = len(self.answer.text)
        if self._constraint:
            self.answer.ruled_from = self._constraint.start(self.answer.text + text)
        return self.answer.add(Piece(text, start, source, reason, self.round, prob, top, n_tokens, self._clock()))

    def kept(self, text: str) -> str:
        """As much of ``text`` as may follow the answer."""
        if self._constraint is None:
            return text
        return self._constraint.clip(self.answer.text + text)[len(self.answer.text) :]

    def can_close_after(self, text: str, n_tokens: int) -> bool:
        """Whether max_tokens leaves room to end as the constraint demands after ``text`` too."""
        if self._constraint is None:
            return True
        room = self._max_tokens - self.answer.n_tokens - n_tokens - _SEAMS
        after = self.answer.text + text
        fits = self._constraint.closing(after, lambda way: self._length(after, way) <= room) is not None
        self.call_left_out = not fits and self._constraint.start(self.answer.text) is None
        return fits

    def close(self, cut: bool) -> bool:
        """End as the constraint demands, as soon as that can be; whether that was needed. ``cut``: the answer was cut short, so
        that what might have become a call will not."""
        if self._constraint is None:
            return False
        if cut and not self._constraint.active(self.answer.text):
            self.answer.drop_opening()
        text = self.answer.text
        if self._constraint.may_end(text):
            return False
        way = self._constraint.closing(
            text, lambda way: self._length(text, way) <= self._max_tokens - self.answer.n_tokens
        )
        if way is None:
            raise GrammarError(
                f"{self._constraint.grammar.what}: no end was found after {text[-40:]!r} within "
                f"max_tokens={self._max_tokens}. Raise it."
            )
        self._add_grammar(way, Reason.CLOSING)
        return True

    def _add_grammar(self, text: str, reason: Reason) -> None:
        """Append text that no model was asked about."""
        length, start = self._length(self.answer.text, text), len(self.answer.text)
        self.answer.append(Piece(text, start, "grammar", reason, max(1, self.round), None, None, length, self._clock()))

    def _length(self, before: str, text: str) -> int:
        """Length of ``text`` after ``before`` in tokens of the model that counts."""
        voice = self._voices.get("base") or self._voices["nudging"]
        return max(0, len(voice.encode(before + text)) - len(voice.encode(before)))

    def first_tokens(self, word: str, room: int) -> str:
        """As much of ``word`` as ``room`` base tokens hold."""
        base = self._voices["base"]
        head, whole = base.encode(self.answer.text), base.encode(self.answer.text + word)
        if whole[: len(head)] != head:
            return ""
        stream = base.text_stream()
        return "".join(stream.feed(token) for token in whole[len(head) : len(head) + room])

    def without_join(self, text: str) -> str:
        """An answer has no leading space: it belongs to the join with the prompt (design, section 8)."""
        if self.answer.text or (self._constraint and self._constraint.active("") and self.kept(text) == text):
            return text
        return text.lstrip(" ")
