"""The nudging algorithm (arXiv 2410.09300, Algorithm 1), without any IO.

A decode is a generator that *asks* for predictions (yields ``Ask``, is sent a ``Prediction``) and *yields* pieces. Who
answers, in which thread, on which machine, is the driver's business; so one text serves sync, async and remote.

Knows: the rules. Leaves: tokens of a text to ``Voice`` (``tokenization.py``), probabilities to whoever answers, when a
piece may go out to ``stopping.py``. "Released code" below is the authors' public implementation, whose behaviour the
rules follow where the paper is silent (design, section 4).

Read in order: ``_rounds`` → ``_complete`` (open a round) → ``_settle_words`` → ``_hand_over`` → ``_run`` or, for
``NudgingConfig.paper()``, ``_run_in_chunks``.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

from .config import NudgingConfig
from .gates import Prediction, resolve_gate
from .provenance import FinishReason, Piece, Reason
from .stopping import Answer
from .voice import Ask, Model, TextStream, Voice

#: Tokens by which a completion may be longer than K, so that its last character is whole (UTF-8 has at most 4 bytes).
_REST_OF_CHARACTER = 3


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a decode ended."""

    finish_reason: FinishReason
    rounds: int
    cut_at_marker: bool
    context_full: Model | None


Decode = Generator["Ask | Piece", "Prediction | None", Outcome]


def decode(
    base: Voice, nudging: Voice, config: NudgingConfig, markers: Sequence[str], clock: Callable[[], float]
) -> Decode:
    """A nudged answer.

    Args:
        base, nudging: the two models' voices, each with its prompt inside.
        config: the rules' knobs.
        markers: strings with which the base prompt's template begins a turn.
        clock: seconds since the request began.

    Yields:
        ``Ask``, to be answered by ``send``-ing a ``Prediction``; and ``Piece``, in order.

    Returns:
        How it ended.
    """
    decoder = _Decoder({"base": base, "nudging": nudging}, config, markers, clock)
    return decoder.decode(decoder.rounds())


def decode_alone(
    model: Model, voice: Voice, config: NudgingConfig, markers: Sequence[str], clock: Callable[[], float]
) -> Decode:
    """An answer by one model alone, for comparison: no gate, no rounds; tokens are counted with its own tokenizer."""
    decoder = _Decoder({model: voice}, config, markers if model == "base" else (), clock)
    return decoder.decode(decoder.alone(model))


@dataclass(frozen=True, slots=True)
class _Nudge:
    """What the nudging model writes in a round.

    Attributes:
        words: its text, cut before each word, leading spaces with the word.
        evidence: for each word, the base model's prediction where it begins.
        reasons: for each word, why the nudging model wrote it.
        lengths: for each word, its length in base tokens.
        hand_over: the base model's prediction at the end and why it takes over; None if it does not.
    """

    words: list[str]
    evidence: list[Prediction]
    reasons: list[Reason]
    lengths: list[int]
    hand_over: tuple[Prediction, Reason] | None


class _ContextFull(Exception):
    """The answer has outgrown a model's context."""


Asking = Generator["Ask | Piece", "Prediction | None", Any]


class _Decoder:
    """State of one decode. Methods that ask or write are generators, joined by ``yield from``."""

    def __init__(
        self, voices: dict[Model, Voice], config: NudgingConfig, markers: Sequence[str], clock: Callable[[], float]
    ) -> None:
        self.voices, self.config, self.clock = voices, config, clock
        self.gate = resolve_gate(config.gate)
        self.markers = tuple(markers) if config.role_markers else ()
        self.answer = Answer(config.stop, guard=config.repetition == "guard")
        self.round = 0
        self.last_nudge, self.repeats = "", 0
        # Where the next round begins: why the nudging model holds the pen there, what the base model predicted (if
        # it was asked), and whether it had ended its text.
        self.why = Reason.OPENING
        self.at_end: Prediction | None = None
        self.base_ended = False
        self.cut_at_marker = self.cut_at_length = False
        self.context_full: Model | None = None

    def decode(self, steps: Generator[Ask | Piece, Prediction | None, FinishReason]) -> Decode:
        try:
            finish = yield from steps
        except _ContextFull:
            finish = "length"
        yield from self.answer.ready(final=True)
        return Outcome(self.answer.finish_reason or finish, self.round, self.cut_at_marker, self.context_full)

    def alone(self, model: Model) -> Generator[Ask | Piece, Prediction | None, FinishReason]:
        first = yield from self._predict(model, self.voices[model].encode(""))
        yield from self._run(model, first, Reason.ALONE, gated=False)
        return "stop" if self.base_ended else "length"

    # -- Algorithm 1 --------------------------------------------------------------------------------------------------

    def rounds(self) -> Generator[Ask | Piece, Prediction | None, FinishReason]:
        while not self._full and self.round != self.config.max_rounds:
            self.round += 1
            before = self.answer.text
            for voice in self.voices.values():
                voice.settle(before)

            # 1. The nudging model opens every round; where it reaches its end of text, the answer ends.
            text, ended = yield from self._complete()
            whole = ended  # its last word is whole
            if ended and self.config.stop_on == "both":
                ended = yield from self._base_agrees_to_end(text)

            # 2. Its words are taken until the base model is sure, or would have begun the next word itself.
            nudge = yield from self._settle_words(text, ended, whole)
            if not ended and self._fourth_equal_nudge(nudge):
                return "repetition"
            yield from self._write_nudge(nudge)
            if self.answer.finish_reason or self.cut_at_length:
                return "length"
            if ended or (not nudge.words and nudge.hand_over is None):  # or it has nothing to say
                return "stop"

            # 3. The base model writes while it is sure.
            if nudge.hand_over is not None and not self._capped_by(0):
                yield from self._hand_over(*nudge.hand_over)
                if self.answer.finish_reason or (self.base_ended and self.config.stop_on == "either"):
                    return "stop"
                if self.cut_at_length:
                    return "length"
            if len(self.answer.text) == len(before):  # a round that adds nothing would repeat for ever
                return "stop"
        return "length"

    def _complete(self) -> Asking:
        """The nudging model's greedy completion: its text, and whether it ended within K tokens."""
        voice = self.voices["nudging"]
        tokens = voice.encode(self.answer.text)
        settled = len(tokens)
        stream, text = voice.text_stream(), ""
        while (taken := len(tokens) - settled) < self.config.lookahead or (
            stream.pending and taken < self.config.lookahead + _REST_OF_CHARACTER
        ):
            prediction = yield from self._predict("nudging", tokens, stable=settled)
            if voice.is_end(prediction.token):
                return self._without_join(text), True
            tokens = [*tokens, prediction.token]
            text += stream.feed(prediction.token)
        return self._without_join(text), False

    def _settle_words(self, text: str, ended: bool, whole: bool) -> Asking:
        """Decide which words of a completion are taken (paper, section 3.2; released code, stage 1).

        The first word always is. The last is not, unless it is the only one or ``whole``: the lookahead may have cut
        it. Words are split at single spaces; an empty one (double space) is skipped over, not tested. A completion that
        ``ended`` the answer is taken whole, and the base model is asked for the record only.
        """
        base, before = self.voices["base"], self.answer.text
        settled = len(base.encode(before))
        full = base.encode(before + text)  # the draft: one forward answers all tests and begins the base run
        if not text:
            if not whole or ended:
                return _Nudge([], [], [], [], None)
            # stop_on="both": the nudging model would end, the base model would not
            at_end = yield from self._base_at(before, full, settled)
            return _Nudge([], [], [], [], (at_end, Reason.HANDOVER_CONFIDENT))
        lead = len(text) - len(text.lstrip(" "))
        parts = text[lead:].split(" ")
        if whole:
            parts.append("")
        first = self.at_end if self.at_end is not None else (yield from self._base_at(before, full, settled))
        cuts, evidence, reasons = [0], [first], [Reason.ENDING if ended else self.why]
        taken = text if whole else text[: lead + len(" ".join(parts[:-1]))] if len(parts) > 1 else text
        hand_over = None
        self.why, self.at_end = Reason.LOOKAHEAD_CUT, None
        end = lead  # of the words before parts[i]
        word_end = lead  # the same, without the spaces of empty words
        for i, part in enumerate(parts):
            if i > 0 and part:
                tested = yield from self._base_at(before + text[:end], full, settled)
                if not ended and (hand_over := self._may_take_over(tested, " " + part)):
                    taken = text[:end]
                    break
                self.why, self.at_end = Reason.UNCERTAIN, tested
                cuts.append(word_end)
                evidence.append(tested)
                reasons.append(Reason.ENDING if ended else Reason.UNCERTAIN)
            elif i > 0:
                self.why, self.at_end = Reason.LOOKAHEAD_CUT, None
            end += len(part) + (i > 0)
            word_end = end if part else word_end
        cuts = [cut for cut in cuts if cut < len(taken)]
        words = [taken[start:stop] for start, stop in zip(cuts, [*cuts[1:], len(taken)], strict=True)]
        marks = [len(base.encode(before + taken[:cut])) for cut in [*cuts, len(taken)]]
        lengths = [max(0, after - start) for start, after in zip(marks, marks[1:], strict=False)]
        return _Nudge(words, evidence[: len(words)], reasons[: len(words)], lengths, hand_over)

    def _may_take_over(self, prediction: Prediction, word: str) -> tuple[Prediction, Reason] | None:
        """The paper's two ways back to the base model, before ``word``: it agrees, or it is sure."""
        if self.gate.confident(prediction, self.config.threshold):
            return prediction, Reason.HANDOVER_CONFIDENT
        top = self.voices["base"].token_text(prediction.top)  # empty for an end of text, which agrees with nothing
        if self.config.prefix_rule and top and word.startswith(top):
            return prediction, Reason.HANDOVER_PREFIX
        return None

    def _hand_over(self, prediction: Prediction, reason: Reason) -> Asking:
        """Run the base model from its first token, whose own probability is not checked."""
        self.at_end, self.base_ended = None, False
        if self.voices["base"].is_end(prediction.token):
            self._base_stopped(prediction)  # ends the run before it began; the next round starts at once
        elif self.config.repetition == "paper":
            yield from self._run_in_chunks(prediction, reason)
        else:
            yield from self._run("base", prediction, reason)

    def _run(self, model: Model, prediction: Prediction, reason: Reason, gated: bool = True) -> Asking:
        """Take the model's tokens until the gate fails, its text ends, or the answer does."""
        voice = self.voices[model]
        self.answer.watch_markers(self.markers)
        tokens = voice.encode(self.answer.text)
        stream = voice.text_stream()
        begun, waiting = (prediction, reason), 0  # of the character that is not whole yet
        while not voice.is_end(prediction.token):
            begun = begun if waiting else (prediction, reason)
            text = stream.feed(prediction.token)
            tokens = [*tokens, prediction.token]
            waiting += 1
            if not stream.pending:
                at_marker = not self._add(text, model, *begun, waiting)
                waiting = 0
                yield from self.answer.ready()
                if at_marker:
                    self.cut_at_marker = True
                    self._base_stopped(None)
                    break
            if self.answer.n_tokens + waiting >= self.config.max_tokens:  # a run has no rounds in it to check between
                self.cut_at_length = True
            if self.answer.finish_reason or self.cut_at_length:
                break
            prediction = yield from self._predict(model, tokens)
            reason = Reason.CONFIDENT if gated else reason
            if gated and not self.gate.confident(prediction, self.config.threshold):
                self.why, self.at_end = Reason.UNCERTAIN, prediction
                break
        else:
            self._base_stopped(prediction)
        self.answer.unwatch_markers()

    def _run_in_chunks(self, prediction: Prediction, reason: Reason) -> Asking:
        """A base run as the released code reads it: in chunks of K tokens, with two rules against repetition.

        The first chunk begins with the handed-over token. A chunk whose whole text already stands in this run, or whose
        accepted part is longer than five words and already stands in the answer, ends the run and is not written.
        """
        base, run_start = self.voices["base"], len(self.answer.text)
        tokens = base.encode(self.answer.text)
        stream = base.text_stream()
        pieces = _RunPieces()
        tokens = [*tokens, prediction.token]
        pieces.feed(stream, prediction, reason)
        yield from self._write_run(pieces)
        size = self.config.lookahead - 1
        while not self.answer.finish_reason and not self._full:
            start = len(tokens)
            at_start: Prediction | None = None
            stopped: Prediction | None = None
            while len(tokens) - start < size and stopped is None:
                prediction = yield from self._predict("base", tokens)
                at_start = at_start or prediction
                if base.is_end(prediction.token) or not self.gate.confident(prediction, self.config.threshold):
                    stopped = prediction
                else:
                    tokens = [*tokens, prediction.token]
                    pieces.feed(stream, prediction, Reason.CONFIDENT)
            run, accepted = self.answer.text[run_start:], pieces.text
            repeated = len(accepted.split(" ")) > 5 and accepted in self.answer.text
            if not repeated and len(tokens) > start and accepted in run:
                rest = yield from self._rest_of_chunk(tokens, stopped, size - (len(tokens) - start), stream)
                repeated = accepted + rest in run
            if repeated or size == 0:  # an empty chunk stands everywhere
                self.why, self.at_end = Reason.BASE_ENDED, at_start
                return
            yield from self._write_run(pieces)
            if stopped is not None:
                if base.is_end(stopped.token):
                    self._base_stopped(stopped)
                else:
                    self.why, self.at_end = Reason.UNCERTAIN, stopped
                return
            size = self.config.lookahead

    def _rest_of_chunk(self, tokens: list[int], stopped: Prediction | None, left: int, stream: TextStream) -> Asking:
        """The text of a chunk after its accepted part: what the base model would have written unsure."""
        base, stream, text = self.voices["base"], stream.copy(), ""
        prediction = stopped
        while left > 0 and prediction is not None and not base.is_end(prediction.token):
            text += stream.feed(prediction.token)
            tokens = [*tokens, prediction.token]
            left -= 1
            prediction = (yield from self._predict("base", tokens)) if left else None
        return text

    def _base_agrees_to_end(self, text: str) -> Asking:
        """stop_on="both": whether the base model would end its text after ``text`` too."""
        if not text and self.base_ended:
            return True
        after = self.answer.text + text
        prediction = yield from self._base_at(after, self.voices["base"].encode(after), 0)
        return self.voices["base"].is_end(prediction.token)

    # -- asking -------------------------------------------------------------------------------------------------------

    def _predict(self, model: Model, tokens: list[int], draft: Sequence[int] = (), stable: int | None = None) -> Asking:
        limit = self.voices[model].context_length
        if limit is not None and len(tokens) > limit:
            self.context_full = model
            raise _ContextFull
        room = len(draft) if limit is None else limit - len(tokens)
        guess = list(draft[:room]) if self.config.drafting else []
        prediction = yield Ask(model, tokens, guess, len(tokens) if stable is None else stable)
        assert prediction is not None
        return prediction

    def _base_at(self, text: str, likely: list[int], settled: int) -> Asking:
        """The base model's prediction after ``text``, with the rest of ``likely`` as draft if it goes on that way."""
        tokens = self.voices["base"].encode(text)
        draft = likely[len(tokens) :] if likely[: len(tokens)] == tokens else []
        return (yield from self._predict("base", tokens, draft, stable=settled))

    # -- writing ------------------------------------------------------------------------------------------------------

    def _add(self, text: str, source: Model, prediction: Prediction, reason: Reason, n_tokens: int) -> bool:
        """Append a piece to the answer; False if it completed a role marker."""
        text = self._without_join(text)
        if not text:
            return True
        top = self.voices["base"].token_text(prediction.top) if "base" in self.voices else None
        prob = prediction.prob if "base" in self.voices else None
        start = len(self.answer.text)
        return self.answer.add(Piece(text, start, source, reason, self.round, prob, top, n_tokens, self.clock()))

    def _write_nudge(self, nudge: _Nudge) -> Asking:
        """Write the words, as far as max_tokens allows."""
        if nudge.words:
            self.base_ended = False
        for word, prediction, reason, length in zip(
            nudge.words, nudge.evidence, nudge.reasons, nudge.lengths, strict=True
        ):
            room = self.config.max_tokens - self.answer.n_tokens
            if self.config.length_check == "token" and length > room:
                self.cut_at_length = True
                word, length = self._first_tokens(word, room), room
            if word:
                self._add(word, "nudging", prediction, reason, length)
            yield from self.answer.ready()
            if self.answer.finish_reason or self.cut_at_length:
                return

    def _write_run(self, pieces: _RunPieces) -> Asking:
        for text, prediction, reason, length in pieces.take():
            if self._capped_by(length - 1):
                self.cut_at_length = True
                break
            self._add(text, "base", prediction, reason, length)
        yield from self.answer.ready()

    def _first_tokens(self, word: str, room: int) -> str:
        """As much of ``word`` as ``room`` base tokens hold."""
        base = self.voices["base"]
        head, whole = base.encode(self.answer.text), base.encode(self.answer.text + word)
        if whole[: len(head)] != head:
            return ""
        stream = base.text_stream()
        return "".join(stream.feed(token) for token in whole[len(head) : len(head) + room])

    def _without_join(self, text: str) -> str:
        """An answer has no leading space: it belongs to the join with the prompt (design, section 8)."""
        return text if self.answer.text else text.lstrip(" ")

    def _base_stopped(self, prediction: Prediction | None) -> None:
        """The base model ended its text, or began another turn."""
        self.base_ended = True
        self.why, self.at_end = Reason.BASE_ENDED, prediction

    def _fourth_equal_nudge(self, nudge: _Nudge) -> bool:
        """Released code: a nudge identical to the last one four times running ends the answer and is not written."""
        if self.config.repetition != "paper":
            return False
        text = "".join(nudge.words)
        self.repeats = self.repeats + 1 if text == self.last_nudge else 0
        self.last_nudge = text
        return self.repeats >= 3

    @property
    def _full(self) -> bool:
        return self.answer.n_tokens >= self.config.max_tokens

    def _capped_by(self, waiting: int) -> bool:
        return self.config.length_check == "token" and self.answer.n_tokens + waiting >= self.config.max_tokens


class _RunPieces:
    """Base tokens of a chunk on their way to pieces: text, prediction, reason, tokens; one piece per whole character."""

    def __init__(self) -> None:
        self._pieces: list[tuple[str, Prediction, Reason, int]] = []
        self._begun: tuple[Prediction, Reason] | None = None
        self._waiting = 0

    @property
    def text(self) -> str:
        return "".join(piece[0] for piece in self._pieces)

    def feed(self, stream: TextStream, prediction: Prediction, reason: Reason) -> None:
        self._begun = self._begun or (prediction, reason)
        self._waiting += 1
        text = stream.feed(prediction.token)
        if not stream.pending:
            self._pieces.append((text, *self._begun, self._waiting))
            self._begun, self._waiting = None, 0

    def take(self) -> list[tuple[str, Prediction, Reason, int]]:
        pieces, self._pieces = self._pieces, []
        return pieces
