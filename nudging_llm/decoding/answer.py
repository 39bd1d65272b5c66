"""The answer as it is written: the text so far, what still may come, and what ends it.

Knows text, lengths and the constraint, which it owns; asks no model. Methods that write are generators of pieces, and raise
``AnswerEnded`` where the answer is over. ``algorithm.py`` says when to write what, ``pieces.py`` when a piece may go out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..config import NudgingConfig
from ..errors import GrammarError
from ..protocol import Model, Prediction, PromptEncoder, Steps
from ..provenance import Piece, Reason
from .constraint import UNCONSTRAINED, AnswerConstraint
from .pieces import PieceBuffer
from .turn import AnswerEnded

#: Tokens by which pieces may be longer than the same text in one.
_SEAMS = 4


@dataclass(frozen=True, slots=True)
class Word:
    """A word of the nudging model, with the spaces before it.

    Attributes:
        text: never empty.
        why: the reason why the nudging model writes it.
        evidence: the base model's prediction where it begins.
    """

    text: str
    why: Reason
    evidence: Prediction


@dataclass(frozen=True, slots=True)
class RunPiece:
    """Tokens of a run that are whole characters, as few as can be.

    Attributes:
        text: of the tokens; empty for a token without any.
        why: the reason why the model writes them.
        evidence: its prediction where they begin.
        n_tokens: how many they are.
    """

    text: str
    why: Reason
    evidence: Prediction
    n_tokens: int


class Answer:
    """One answer in progress.

    Args:
        encoders: of the models that take part; the base model's counts tokens if it does.
        config: the rules' options.
        clock: seconds since the request began.
        constraint: what the answer must look like.

    Attributes:
        round: number of the round, for the record.
        cut_at_marker: whether a base run was cut where it began another turn of the transcript.
        call_left_out: whether a call was begun for whose shortest end max_tokens left no room.
    """

    def __init__(
        self,
        encoders: Mapping[Model, PromptEncoder],
        config: NudgingConfig,
        clock: Callable[[], float],
        constraint: AnswerConstraint = UNCONSTRAINED,
    ) -> None:
        self._buffer = PieceBuffer(config.stop, config.repetition == "guard", constraint.trigger)
        self._encoders, self._config, self._clock, self.constraint = encoders, config, clock, constraint
        self.round = 0
        self.cut_at_marker = self.call_left_out = False

    # -- what there is ------------------------------------------------------------------------------------------------

    @property
    def text(self) -> str:
        """The text so far, pieces included that still may be cut."""
        return self._buffer.text

    @property
    def n_tokens(self) -> int:
        """Its length in base tokens."""
        return self._buffer.n_tokens

    @property
    def has_room(self) -> bool:
        """Whether max_tokens leaves room for anything."""
        return self.n_tokens < self._config.max_tokens

    @property
    def may_end(self) -> bool:
        """Whether the constraint lets the answer end here."""
        return self.constraint.may_end(self.text)

    def capped(self, n_tokens: int) -> bool:
        """Whether max_tokens is a hard limit (``length_check="token"``) that ``n_tokens`` more would pass."""
        return self._config.length_check == "token" and self.n_tokens + n_tokens > self._config.max_tokens

    def as_answer(self, text: str) -> str:
        """``text`` as it may follow: an answer has no leading space, as that belongs to the join with the prompt."""
        if self.text or (self.constraint.active("") and self.as_allowed(text) == text):
            return text
        return text.lstrip(" ")

    def as_allowed(self, text: str) -> str:
        """As much of ``text`` as the constraint lets follow."""
        return self.constraint.clip(self.text + text)[len(self.text) :]

    # -- writing ------------------------------------------------------------------------------------------------------

    def begin_round(self) -> None:
        """A round begins: the last base run, if there was one, is over."""
        self.round += 1
        self._buffer.unwatch_markers()

    def begin_run(self, markers: Sequence[str]) -> None:
        """A base run begins: text in which one of ``markers`` begins is cut there."""
        self._buffer.watch_markers(markers)

    def write_words(self, words: Sequence[Word]) -> Steps:
        """Write words of the nudging model, as far as max_tokens allows."""
        for word in words:
            text, length = word.text, self._length(self.text, word.text)
            room = self._config.max_tokens - self.n_tokens
            self._check_end_fits(text, length)
            cut = self._config.length_check == "token" and length > room
            if cut:
                text, length = self._first_tokens(text, room), room
            if text:
                self._add(text, "nudging", word.evidence, word.why, length)
            yield from self._ready()
            if cut:
                raise AnswerEnded("length")

    def write_run(self, piece: RunPiece, model: Model) -> Steps:
        """Write a part of a model's run. Returns whether the run goes on: False where it began another turn of the transcript."""
        text = self.as_allowed(self.as_answer(piece.text))
        self._check_end_fits(text, piece.n_tokens)
        goes_on = self._add(text, model, piece.evidence, piece.why, piece.n_tokens)
        yield from self._ready()
        self.cut_at_marker = self.cut_at_marker or not goes_on
        return goes_on

    def write_forced(self, model: Model) -> Steps:
        """Write what the constraint leaves no choice about, for ``model`` to go on. Returns whether there was anything."""
        text = self.constraint.forced(self.text, model)
        if text:
            self._add_grammar(text, Reason.FORCED)
            yield from self._buffer.ready()
        if self.constraint.complete(self.text):
            raise AnswerEnded("stop")
        return bool(text)

    def close(self, cut: bool) -> bool:
        """Bring the text to an end that the constraint allows, by a short way; whether that was needed.

        Args:
            cut: the answer was cut short, so that what might have become a call will not.

        Raises:
            GrammarError: no way was found within max_tokens.
        """
        if cut and not self.constraint.active(self.text):
            self._buffer.drop_trigger_start()
        if self.may_end:
            return False
        room = self._config.max_tokens - self.n_tokens
        way = self.constraint.closing(self.text, lambda way: self._length(self.text, way) <= room)
        if way is None:
            raise GrammarError(
                f"{self.constraint.what}: no end was found after {self.text[-40:]!r} within "
                f"max_tokens={self._config.max_tokens}. Raise it."
            )
        self._add_grammar(way, Reason.CLOSING)
        return True

    def flush(self) -> list[Piece]:
        """The pieces that were still held back. The answer is over."""
        return self._buffer.ready(final=True)

    # -- helpers ------------------------------------------------------------------------------------------------------

    def _ready(self) -> Steps:
        """Let go what nothing can change any more; the end, if the text has come to one by itself."""
        yield from self._buffer.ready()
        if self._buffer.finish_reason is not None:
            raise AnswerEnded(self._buffer.finish_reason)

    def _add(self, text: str, source: Model, prediction: Prediction, reason: Reason, n_tokens: int) -> bool:
        """Append a piece; False if it completed a role marker."""
        text = self.as_answer(text)  # the first tokens of a word that is cut may be its space
        if not text:
            return True
        base = self._encoders.get("base")
        top = base.token_text(prediction.top) if base else None
        prob = prediction.prob if base else None
        self._buffer.ruled_from = self.constraint.start(self.text + text)
        return self._buffer.add(
            Piece(text, len(self.text), source, reason, self.round, prob, top, n_tokens, self._clock())
        )

    def _add_grammar(self, text: str, reason: Reason) -> None:
        """Append text that no model was asked about."""
        length, start = self._length(self.text, text), len(self.text)
        self._buffer.append(
            Piece(text, start, "grammar", reason, max(1, self.round), None, None, length, self._clock())
        )

    def _check_end_fits(self, text: str, n_tokens: int) -> None:
        """End the answer if max_tokens would leave no room to end as the constraint demands after ``text``."""
        room, after = self._config.max_tokens - self.n_tokens - n_tokens - _SEAMS, self.text + text
        fits = self.constraint.closing(after, lambda way: self._length(after, way) <= room) is not None
        self.call_left_out = not fits and self.constraint.start(self.text) is None
        if not fits:
            raise AnswerEnded("length")

    def _length(self, before: str, text: str) -> int:
        """Length of ``text`` after ``before`` in tokens of the model that counts."""
        encoder = self._encoders.get("base") or self._encoders["nudging"]
        return max(0, len(encoder.encode(before + text)) - len(encoder.encode(before)))

    def _first_tokens(self, word: str, room: int) -> str:
        """As much of ``word`` as ``room`` base tokens hold."""
        base = self._encoders["base"]
        head, whole = base.encode(self.text), base.encode(self.text + word)
        if whole[: len(head)] != head:
            return ""
        stream = base.text_stream()
        return "".join(stream.feed(token) for token in whole[len(head) : len(head) + room])
