"""The nudging algorithm (arXiv 2410.09300, Algorithm 1), without any IO.

A decode is a generator that *asks* for predictions (yields ``Query``, is sent a ``Prediction``) and *yields* pieces. Who
answers, in which thread, on which machine, is the driver's business; so one text serves sync, async and remote.

Knows: the rules. Leaves: tokens of a text to ``PromptEncoder`` (``tokenization.py``), probabilities to whoever answers, when a
piece may go out to ``stopping.py``. "Released code" below is the authors' public implementation, whose behaviour the
rules follow where the paper is silent (design, section 4).

Read in order: ``rounds`` → ``_nudge`` (``_complete`` opens a round, ``_settle_words`` takes words) → ``_hand_over`` →
``_run`` or, for ``NudgingConfig.paper()``, ``chunks.py``. What is written, and how a constraint ends it: ``writing.py``. Guesses
(``drafting.py``) change what is computed when, never what is written.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from ..config import NudgingConfig
from ..protocol import Model, Prediction, PromptEncoder, Query, Steps
from ..provenance import FinishReason, Piece, Reason
from .drafts import Drafter, ForwardCosts, Given
from .gates import resolve_gate
from .paper import run_in_chunks
from .writing import Writer

if TYPE_CHECKING:
    from ..structured.constraint import Constraint

#: Tokens by which a completion may be longer than K, so that its last character is whole (UTF-8 has at most 4 bytes).
_REST_OF_CHARACTER = 3
#: What ends a sentence, besides a line's end.
_SENTENCE_ENDS = (".", "!", "?", "\u3002", "\uff01", "\uff1f")  # the last three: Chinese and Japanese
#: Tokens by which a completion goes on where no hand-over was found in it.
_NEXT_LOOK = 3


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a decode ended."""

    finish_reason: FinishReason
    rounds: int
    cut_at_marker: bool
    context_full: Model | None
    closed_early: bool = False
    call_left_out: bool = False


Decode = Generator["Query | Piece", "Prediction | None", Outcome]


def decode(
    base: PromptEncoder,
    nudging: PromptEncoder,
    config: NudgingConfig,
    markers: Sequence[str],
    clock: Callable[[], float],
    costs: Mapping[Model, ForwardCosts] | None = None,
    constraint: Constraint | None = None,
) -> Decode:
    """A nudged answer.

    Args:
        base, nudging: the two models' voices, each with its prompt inside.
        config: the rules' knobs.
        markers: strings with which the base prompt's template begins a turn.
        clock: seconds since the request began.
        costs: of the models' forwards: how many guesses are worth evaluating.
        constraint: what the answer must look like.

    Yields:
        ``Query``, to be answered by ``send``-ing a ``Prediction``; and ``Piece``, in order.

    Returns:
        How it ended.
    """
    decoder = Decoder({"base": base, "nudging": nudging}, config, markers, clock, costs, constraint)
    return decoder.decode(decoder.rounds())


def decode_alone(
    model: Model,
    voice: PromptEncoder,
    config: NudgingConfig,
    markers: Sequence[str],
    clock: Callable[[], float],
    costs: Mapping[Model, ForwardCosts] | None = None,
    constraint: Constraint | None = None,
) -> Decode:
    """An answer by one model alone, for comparison: no gate, no rounds; tokens are counted with its own tokenizer."""
    decoder = Decoder({model: voice}, config, markers if model == "base" else (), clock, costs, constraint)
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
        at_forced: whether what follows is forced by the constraint.
    """

    words: list[str]
    evidence: list[Prediction]
    reasons: list[Reason]
    lengths: list[int]
    hand_over: tuple[Prediction, Reason] | None
    at_forced: bool = False


class _Completion:
    """What the nudging model would write next, as far as it was asked.

    Attributes:
        tokens: prompt, answer and completion, as its tokens.
        settled: how many of them are not the completion's.
        text: the completion's.
        tail: its last tokens, if they are part of a character that is not whole yet.
        ended: whether it reached its end of text, or all that the constraint allows.
        at_forced: whether what comes next is forced by the constraint.
        whole: whether that is all that the lookahead allows; if not, the last word may go on.
    """

    def __init__(self, voice: PromptEncoder, answer: str) -> None:
        self.tokens = voice.encode(answer)
        self.settled = len(self.tokens)
        self.stream = voice.text_stream()
        self.text = ""
        self.tail: list[int] = []
        self.ended = self.at_forced = self.whole = False

    def __len__(self) -> int:
        return len(self.tokens) - self.settled


class _ContextFull(Exception):
    """The answer has outgrown a model's context."""


class Decoder:
    """State of one decode. Methods that ask or write are generators, joined by ``yield from``."""

    def __init__(
        self,
        voices: dict[Model, PromptEncoder],
        config: NudgingConfig,
        markers: Sequence[str],
        clock: Callable[[], float],
        costs: Mapping[Model, ForwardCosts] | None,
        constraint: Constraint | None,
    ) -> None:
        self.voices, self.config = voices, config
        self.drafter = Drafter(voices, costs or {model: ForwardCosts() for model in voices}, config.drafting)
        self.gate = resolve_gate(config.gate)
        self.markers = tuple(markers) if config.role_markers else ()
        self.constraint = constraint
        self.writer = Writer(voices, config, clock, constraint)
        self.answer = self.writer.answer
        self.last_nudge, self.repeats = "", 0
        # Where the next round begins: why the nudging model holds the pen there, what the base model predicted (if
        # it was asked), and whether it had ended its text.
        self.why = Reason.OPENING
        self.at_end: Prediction | None = None
        self.base_ended = False
        self.cut_at_marker = self.cut_at_length = self.ended_in_run = False
        self.context_full: Model | None = None
        self.likely: list[int] = []  # how the base run may go on: prompt, answer and completion as its tokens

    def decode(self, steps: Generator[Query | Piece, Prediction | None, FinishReason]) -> Decode:
        try:
            finish = yield from steps
        except _ContextFull:
            finish = "length"
        finish = self.answer.finish_reason or finish
        closed = self.writer.close(cut=finish == "length")
        finish = "length" if closed and finish == "stop" else finish
        yield from self.answer.ready(final=True)
        left_out = self.writer.call_left_out
        return Outcome(finish, self.writer.round, self.cut_at_marker, self.context_full, closed, left_out)

    def alone(self, model: Model) -> Generator[Query | Piece, Prediction | None, FinishReason]:
        if (yield from self._write_forced(model)):
            return "stop"
        first = yield from self.predict(model, self.voices[model].encode(self.answer.text), self.answer.text)
        yield from self._run(model, first, Reason.ALONE, gated=False)
        return "stop" if self.base_ended or self.ended_in_run else "length"

    # -- Algorithm 1 --------------------------------------------------------------------------------------------------

    def rounds(self) -> Generator[Query | Piece, Prediction | None, FinishReason]:
        if (yield from self._write_forced("nudging")):
            return "stop"
        while not self.full and self.writer.round != self.config.max_rounds:
            self.writer.round += 1
            before = self.answer.text
            for model, voice in self.voices.items():
                voice.settle(before)
                self.drafter.written(model, voice.encode(before))

            # 1. The nudging model opens every round; where it reaches its end of text, the answer ends.
            # 2. Its words are taken until the base model is sure, or would have begun the next word itself.
            nudge, ended = yield from self._nudge()
            if not ended and self._fourth_equal_nudge(nudge):
                return "repetition"
            yield from self._write_nudge(nudge)
            if self.answer.finish_reason or self.cut_at_length:
                return "length"
            if ended or (not nudge.words and nudge.hand_over is None):  # or it has nothing to say
                return "stop"
            hand_over = nudge.hand_over
            if nudge.at_forced:
                if (yield from self._write_forced("base")):
                    return "stop"
                hand_over = yield from self._test_after_forced()

            # 3. The base model writes while it is sure.
            if hand_over is not None and not self.capped_by(0):
                yield from self._hand_over(*hand_over)
                by_base = self.base_ended and self.config.stop_on == "either"
                if self.answer.finish_reason or by_base or self.ended_in_run:
                    return "stop"
                if self.cut_at_length:
                    return "length"
            if len(self.answer.text) == len(before):  # a round that adds nothing would repeat for ever
                return "stop"
        return "length"

    def _nudge(self) -> Steps:
        """A round's nudge, and whether the answer ends with it.

        ``end_check="lookahead"`` (paper): the completion is made first, and an end of text in it ends the answer.
        ``end_check="sentence"``: it is made as far as needed to find a hand-over; it ends the answer if there is none before
        its end of text.
        """
        completion = _Completion(self.voices["nudging"], self.answer.text)
        why, at_end = self.why, self.at_end
        lazy = self.config.end_check == "sentence"
        size = self.drafter.first_look() if lazy else self.config.lookahead
        while not completion.whole:
            yield from self._complete(completion, min(size, self.config.lookahead))
            if lazy and completion.text:
                self.why, self.at_end = why, at_end
                nudge = yield from self._settle_words(completion, ended=False)
                if nudge is not None and (nudge.hand_over is not None or not completion.ended):
                    self._remember_proposal(completion)
                    used = sum(map(len, nudge.words)) + 2  # characters: up to the next word's first
                    self.drafter.looked(min(1.0, used / len(completion.text)) * len(completion))
                    return nudge, False
            size = len(completion) + _NEXT_LOOK
        self.why, self.at_end = why, at_end
        ended = completion.ended
        if ended and self.config.stop_on == "both":
            ended = yield from self._base_agrees_to_end(completion.text)
        nudge = yield from self._settle_words(completion, ended)
        self._remember_proposal(completion)
        return nudge, ended

    def _remember_proposal(self, completion: _Completion) -> None:
        """What of a completion is not used now may come later, word for word."""
        settled = len(self.voices["base"].encode(self.answer.text))
        self.drafter.proposed("base", self.likely[max(0, settled - 2) :])
        self.drafter.proposed("nudging", completion.tokens[max(0, completion.settled - 2) :])

    def _complete(self, completion: _Completion, size: int) -> Steps:
        """Let the nudging model go on, greedily, to ``size`` tokens, the rest of a character, or its end of text."""
        voice, most = self.voices["nudging"], self.config.lookahead
        given = self._rejected() if not len(completion) else None
        while not completion.whole and (len(completion) < size or completion.stream.pending):
            prediction = yield from self.predict(
                "nudging",
                completion.tokens,
                self.answer.text + completion.text,
                given,
                most - len(completion),
                stable=completion.settled,
                tail=completion.tail,
            )
            given = None
            if voice.is_end(prediction.token):
                completion.whole = True
                completion.at_forced = self._begins_call(completion, prediction.token)
                completion.ended = not completion.at_forced
                break
            completion.tokens = [*completion.tokens, prediction.token]
            text = completion.text + completion.stream.feed(prediction.token)
            completion.text = self.writer.without_join(text)
            completion.tail = [*completion.tail, prediction.token] if completion.stream.pending else []
            taken = len(completion)
            completion.whole = (taken >= most and not completion.stream.pending) or taken >= most + _REST_OF_CHARACTER
            self._hold_to_constraint(completion)
        self.drafter.drop("nudging")

    def _rejected(self) -> Given:
        """A guess at the nudging model's first token: what the base model was not sure of."""
        if self.at_end is None or not (text := self.voices["base"].token_text(self.at_end.top)):
            return None
        voice, answer = self.voices["nudging"], self.answer.text
        before, after = voice.encode(answer), voice.encode(answer + text)
        return ("rejected", after[len(before) :]) if after[: len(before)] == before else None

    def _settle_words(self, completion: _Completion, ended: bool) -> Steps:
        """Decide which words of a completion are taken (paper, section 3.2; released code, stage 1).

        The first word always is. The last is not, unless it is the only one or ended by the model: the lookahead may have
        cut it. Words are split at single spaces; an empty one (double space) is skipped over, not tested. A completion that
        ``ended`` the answer is taken whole, and the base model is asked for the record only.

        Returns:
            The nudge; None if the completion must go on first: no hand-over was found in what there is.
        """
        base, before, text = self.voices["base"], self.answer.text, completion.text
        settled = len(base.encode(before))
        follows = self.constraint.forced(before + text, "base") if self.constraint and completion.at_forced else ""
        full = base.encode(before + text + follows)  # the draft: one forward answers all tests and begins the base run
        self.likely = full
        if not text:
            if not completion.ended or ended:
                return _Nudge([], [], [], [], None)
            # stop_on="both": the nudging model would end, the base model would not
            at_end = yield from self._base_at(before, full, settled)
            return _Nudge([], [], [], [], (at_end, Reason.HANDOVER_CONFIDENT))
        lead = len(text) - len(text.lstrip(" "))
        parts = text[lead:].split(" ")
        if completion.ended:
            parts.append("")
        first = self.at_end if self.at_end is not None else (yield from self._base_at(before, full, settled))
        cuts, evidence, reasons = [0], [first], [Reason.ENDING if ended else self.why]
        all_of_it = completion.ended or completion.at_forced or len(parts) == 1
        taken = text if all_of_it else text[: lead + len(" ".join(parts[:-1]))]
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
        if hand_over is None and not completion.whole:
            return None
        cuts = [cut for cut in cuts if cut < len(taken)]
        words = [taken[start:stop] for start, stop in zip(cuts, [*cuts[1:], len(taken)], strict=True)]
        marks = [len(base.encode(before + taken[:cut])) for cut in [*cuts, len(taken)]]
        lengths = [max(0, after - start) for start, after in zip(marks, marks[1:], strict=False)]
        at_forced = completion.at_forced and hand_over is None
        return _Nudge(words, evidence[: len(words)], reasons[: len(words)], lengths, hand_over, at_forced)

    def _may_take_over(self, prediction: Prediction, word: str) -> tuple[Prediction, Reason] | None:
        """The paper's two ways back to the base model, before ``word``: it agrees, or it is sure."""
        if self.confident(prediction):
            return prediction, Reason.HANDOVER_CONFIDENT
        top = self.voices["base"].token_text(prediction.top)  # empty for an end of text, which agrees with nothing
        if self.config.prefix_rule and top and word.startswith(top):
            return prediction, Reason.HANDOVER_PREFIX
        return None

    def _hand_over(self, prediction: Prediction, reason: Reason) -> Steps:
        """Run the base model from its first token, whose own probability is not checked."""
        self.at_end, self.base_ended = None, False
        if self.voices["base"].is_end(prediction.token):
            self.base_stopped(prediction)  # ends the run before it began; the next round starts at once
        elif self.config.repetition == "paper":
            yield from run_in_chunks(self, prediction, reason)
        else:
            yield from self._run("base", prediction, reason)

    def _run(self, model: Model, prediction: Prediction, reason: Reason, gated: bool = True) -> Steps:
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
                text = self.writer.kept(self.writer.without_join(text))
                if not self.writer.can_close_after(text, waiting):
                    self.cut_at_length = True
                    break
                at_marker = not self.writer.add(text, model, *begun, waiting)
                waiting = 0
                yield from self.answer.ready()
                if at_marker:
                    self.cut_at_marker = True
                    self.base_stopped(None)
                    break
                if self.constraint and not self.answer.finish_reason:
                    tokens = yield from self._go_past_forced(model, tokens, gated)
                    if not tokens:
                        break
            if self.answer.n_tokens + waiting >= self.config.max_tokens:  # a run has no rounds in it to check between
                self.cut_at_length = True
            if self.answer.finish_reason or self.cut_at_length:
                break
            self.drafter.written(model, tokens)
            guess = (yield from self.guess_of_run(tokens)) if gated else None
            prediction = yield from self.predict(
                model, tokens, self.answer.text, guess, tail=tokens[len(tokens) - waiting :]
            )
            reason = Reason.CONFIDENT if gated else reason
            if gated and not self.confident(prediction):
                self.why, self.at_end = Reason.UNCERTAIN, prediction
                break
            if (
                gated
                and not waiting
                and not voice.is_end(prediction.token)
                and (yield from self._nudging_ends_here(text))
            ):
                self.ended_in_run = True
                break
        else:
            self.base_stopped(prediction)
        self.answer.unwatch_markers()

    def _nudging_ends_here(self, written: str) -> Steps:
        """end_check="sentence": whether a base run has come to the end of a sentence, with ``written``, and the nudging
        model would end its text there."""
        if self.config.end_check != "sentence" or self.config.stop_on == "both":
            return False
        if self.constraint and not self.constraint.may_end(self.answer.text):
            return False
        line = self.answer.text.rstrip()
        ended = line.endswith(_SENTENCE_ENDS)
        if not (ended if written.strip() else "\n" in written and not ended):
            return False
        voice = self.voices["nudging"]
        prediction = yield from self.predict("nudging", voice.encode(self.answer.text), self.answer.text)
        return voice.is_end(prediction.token)

    def guess_of_run(self, tokens: list[int]) -> Steps:
        """How a base run may go on: as the nudging model's completion did, or as it writes ahead now where that pays."""
        if self.likely[: len(tokens)] == tokens and len(self.likely) > len(tokens):
            return "completion", self.likely[len(tokens) :]
        base, answer = self.voices["base"], self.answer.text
        size = self.drafter.ahead(tokens)
        if not size or base.encode(answer) != tokens:
            return None
        voice = self.voices["nudging"]
        completion = _Completion(voice, answer)
        if voice.context_length is not None and completion.settled + size > voice.context_length:
            return None
        yield from self._complete(completion, size)
        ahead = base.encode(answer + completion.text)
        return ("ahead", ahead[len(tokens) :]) if ahead[: len(tokens)] == tokens else None

    def _base_agrees_to_end(self, text: str) -> Steps:
        """stop_on="both": whether the base model would end its text after ``text`` too."""
        if not text and self.base_ended:
            return True
        after = self.answer.text + text
        if self.constraint and self.constraint.complete(after):
            return True
        prediction = yield from self._base_at(after, self.voices["base"].encode(after), 0)
        return self.voices["base"].is_end(prediction.token)

    # -- asking -------------------------------------------------------------------------------------------------------

    def predict(
        self,
        model: Model,
        tokens: list[int],
        text: str,
        given: Given = None,
        most: int | None = None,
        stable: int | None = None,
        tail: Sequence[int] = (),
    ) -> Steps:
        """The prediction after ``tokens``, ``stable`` of which (default: all) will not be taken back.

        ``text``, and the tokens ``tail`` of an unfinished character, are the part of them that is the answer's; ``given``: a
        guess at what follows; ``most``: how many guesses are of use.
        """
        limit = self.voices[model].context_length
        if limit is not None and len(tokens) > limit:
            self.context_full = model
            raise _ContextFull
        room = self.config.max_tokens if limit is None else limit - len(tokens)
        self.drafter.took(model, tokens)
        guess = partial(self.drafter.guesses, model, tokens, given, room if most is None else min(room, most))
        masks = partial(self.constraint.masks, model, text, tail) if self.constraint else None
        prediction = yield Query(model, tokens, len(tokens) if stable is None else stable, guess, masks)
        assert prediction is not None
        return prediction

    def _base_at(self, text: str, likely: list[int], settled: int) -> Steps:
        """The base model's prediction after ``text``, with the rest of ``likely`` as a guess if it goes on that way."""
        tokens = self.voices["base"].encode(text)
        guess: Given = ("completion", likely[len(tokens) :]) if likely[: len(tokens)] == tokens else None
        return (yield from self.predict("base", tokens, text, guess, stable=settled))

    def confident(self, prediction: Prediction) -> bool:
        """The gate, which sees the raw probability; sure of what may not be written is not sure of what may."""
        return prediction.allowed and self.gate.confident(prediction, self.config.threshold)

    # -- under a constraint (constraint.py) ---------------------------------------------------------------------------

    def _write_forced(self, model: Model) -> Steps:
        """Write what the constraint leaves no choice about, for ``model`` to go on; whether the answer is over with it."""
        if self.writer.add_forced(model):
            yield from self.answer.ready()
        return self.constraint is not None and self.constraint.complete(self.answer.text)

    def _go_past_forced(self, model: Model, tokens: list[int], gated: bool) -> Steps:
        """Write what is forced within a run. Returns the tokens to go on from; none where the run ends with it."""
        before = len(self.answer.text)
        if (yield from self._write_forced(model)):
            self.ended_in_run = True
            return []
        if len(self.answer.text) == before:
            return tokens
        if gated and self.constraint and self.constraint.may_end(self.answer.text):
            # the nudging model says whether it ends
            self.why, self.at_end = Reason.LOOKAHEAD_CUT, None
            return []
        return self.voices[model].encode(self.answer.text)

    def _test_after_forced(self) -> Steps:
        """Whether the base model goes on after forced text: if it is sure. Where the answer may end, the nudging model says
        whether it does."""
        text = self.answer.text
        if self.constraint and self.constraint.may_end(text):
            self.why, self.at_end = Reason.LOOKAHEAD_CUT, None
            return None
        tested = yield from self._base_at(text, self.voices["base"].encode(text), 0)
        if self.confident(tested):
            return tested, Reason.HANDOVER_CONFIDENT
        self.why, self.at_end = Reason.UNCERTAIN, tested
        return None

    def _begins_call(self, completion: _Completion, token: int) -> bool:
        """Whether the nudging model begins a tool call in its own way: then it is begun in ours."""
        opener = self.constraint.grammar.trigger if self.constraint else None
        before = self.answer.text + completion.text
        if opener is None or opener in before or not self.voices["nudging"].starts_call(token):
            return False
        completion.text += opener
        return True

    def _hold_to_constraint(self, completion: _Completion) -> None:
        """A completion goes as far as the constraint leaves a choice."""
        if self.constraint is None or completion.tail:
            return
        kept = self.writer.kept(completion.text)
        text = self.answer.text + kept
        completion.at_forced = bool(self.constraint.forced(text, "nudging"))
        completion.ended = self.constraint.complete(text)
        completion.whole = completion.whole or completion.at_forced or completion.ended or kept != completion.text
        completion.text = kept

    # -- writing ------------------------------------------------------------------------------------------------------

    def _write_nudge(self, nudge: _Nudge) -> Steps:
        """Write the words, as far as max_tokens allows."""
        if nudge.words:
            self.base_ended = False
        for word, prediction, reason, length in zip(
            nudge.words, nudge.evidence, nudge.reasons, nudge.lengths, strict=True
        ):
            room = self.config.max_tokens - self.answer.n_tokens
            if not self.writer.can_close_after(word, length):
                self.cut_at_length = True
                return
            if self.config.length_check == "token" and length > room:
                self.cut_at_length = True
                word, length = self.writer.first_tokens(word, room), room
            if word:
                self.writer.add(word, "nudging", prediction, reason, length)
            yield from self.answer.ready()
            if self.answer.finish_reason or self.cut_at_length:
                return

    def base_stopped(self, prediction: Prediction | None) -> None:
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
    def full(self) -> bool:
        return self.answer.n_tokens >= self.config.max_tokens

    def capped_by(self, waiting: int) -> bool:
        return self.config.length_check == "token" and self.answer.n_tokens + waiting >= self.config.max_tokens
