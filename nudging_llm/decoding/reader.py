"""Asks one model, for one answer.

A reader turns a text into tokens, attaches to each query the guesses and masks that belong to it, and sees that the model's
context is not passed. ``NudgingReader`` also makes completions: what the nudging model would write next.

Knows tokens and drafts; the rules are ``algorithm.py``'s business, and who answers a query is the driver's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from ..config import NudgingConfig
from ..protocol import Model, Prediction, PromptEncoder, Query, Steps
from ..provenance import Reason
from .answer import Answer, RunPiece
from .constraint import UNCONSTRAINED
from .costs import ForwardCosts
from .drafts import Drafts, DraftSource, HeldDraft, look_ups
from .turn import AnswerEnded

#: Tokens by which a completion may be longer than K, so that its last character is whole (UTF-8 has at most 4 bytes).
_REST_OF_CHARACTER = 3
#: Tokens of a completion that is made as far as needed: at first, at least, and by which it goes on.
_FIRST_LOOK, _SHORTEST_LOOK, _NEXT_LOOK = 5, 2, 3


class ModelReader:
    """One model, as the rules ask it. Methods that ask are generators of queries.

    Args:
        model: which one it is.
        encoder: its tokens for its prompt and the answer.
        answer: the answer in progress.
        config: the rules' options.
        costs: of its forwards.
        held: draft sources that know how the text may go on, before all others.
    """

    def __init__(
        self,
        model: Model,
        encoder: PromptEncoder,
        answer: Answer,
        config: NudgingConfig,
        costs: ForwardCosts,
        held: Sequence[DraftSource] = (),
    ) -> None:
        self.model, self.answer, self.encoder, self._config = model, answer, encoder, config
        own = [make(model) for make in config.draft_sources]
        self.drafts = Drafts([*held, *own, *look_ups()], costs, config.drafting)
        self.encode, self.token_text, self.is_end = encoder.encode, encoder.token_text, encoder.is_end

    def begin_round(self) -> None:
        """A round begins: the answer will only grow from here."""
        self.encoder.commit(self.answer.text)
        self.drafts.observe(self.encode(self.answer.text))

    def predict(
        self,
        tokens: list[int],
        text: str,
        most: int | None = None,
        stable: int | None = None,
        tail: Sequence[int] = (),
    ) -> Steps:
        """Returns the prediction after ``tokens``, ``stable`` of which (default: all) will not be taken back.

        Args:
            tokens: the prompt and what follows it.
            text: the part of them that is the answer's, but for ``tail``.
            most: how many guesses are of use.
            stable: see above.
            tail: the last of ``tokens``, if they are part of a character that is not whole yet.

        Raises:
            AnswerEnded: the model's context is full.
        """
        limit = self.encoder.context_length
        if limit is not None and len(tokens) > limit:
            raise AnswerEnded("length", self.model)
        room = self._config.max_tokens if limit is None else limit - len(tokens)
        self.drafts.check(tokens)
        guess = partial(self.drafts.guess, tokens, room if most is None else min(room, most))
        constraint = self.answer.constraint
        masks = None if constraint is UNCONSTRAINED else partial(constraint.masks, self.model, text, tail)
        prediction = yield Query(self.model, tokens, len(tokens) if stable is None else stable, guess, masks)
        self.drafts.query_over()
        assert prediction is not None
        return prediction

    def expect_run(self, tokens: list[int], nudging: NudgingReader | None) -> Steps:
        """Look for how a run may go on after ``tokens``. A model by itself has nobody to ask."""
        yield from ()


class TokenRun:
    """The tokens of a run, on their way to pieces of whole characters.

    Args:
        encoder: the model's.
        tokens: prompt and answer where the run begins.

    Attributes:
        tokens: prompt, answer and run.
        stream: makes text of the run's tokens.
        waiting: tokens of the character that is not whole yet.
    """

    def __init__(self, encoder: PromptEncoder, tokens: list[int]) -> None:
        self.tokens, self.stream, self.waiting = tokens, encoder.text_stream(), 0
        self._begun: tuple[Reason, Prediction] | None = None

    @property
    def tail(self) -> list[int]:
        """The tokens of the character that is not whole yet."""
        return self.tokens[len(self.tokens) - self.waiting :]

    def take(self, prediction: Prediction, why: Reason) -> RunPiece | None:
        """Append the predicted token. Returns what is whole with it; None within a character."""
        self._begun = self._begun or (why, prediction)
        text = self.stream.feed(prediction.token)
        self.tokens = [*self.tokens, prediction.token]
        self.waiting += 1
        if self.stream.pending:
            return None
        piece = RunPiece(text, *self._begun, self.waiting)
        self._begun, self.waiting = None, 0
        return piece


class BaseReader(ModelReader):
    """The base model."""

    def __init__(
        self,
        encoder: PromptEncoder,
        answer: Answer,
        config: NudgingConfig,
        costs: ForwardCosts,
    ) -> None:
        self._settled = 0  # tokens of the prompt and of the answer where the proposal begins
        self._completion = HeldDraft("completion", prior=0.75)
        self._ahead = HeldDraft("ahead", prior=0.6, once=True)
        super().__init__("base", encoder, answer, config, costs, [self._completion, self._ahead])

    def rejected_text(self, evidence: Prediction | None) -> str:
        """What the model would have written where it was unsure; empty if it was not asked, or would have ended its text."""
        return self.token_text(evidence.top) if evidence is not None else ""

    def expect(self, text: str) -> None:
        """The nudging model has proposed ``text`` for the answer: one forward evaluates all of it."""
        self._settled = len(self.encode(self.answer.text))
        self._completion.hold(self.encode(self.answer.text + text))

    def expect_nothing(self) -> None:
        """What was proposed is not how the text goes on."""
        self._completion.hold(None)

    def remember_proposal(self) -> None:
        """What of the proposal is not used now may come later, word for word."""
        self.drafts.observe(self._completion.tokens_from(max(0, self._settled - 2)), in_text=False)

    def at(self, text: str) -> Steps:
        """Returns the prediction after ``text``, which goes on from the answer as was proposed."""
        return (yield from self.predict(self.encode(text), text, stable=self._settled))

    def at_once(self, text: str) -> Steps:
        """Returns the prediction after ``text`` alone: nothing that may follow is of use."""
        return (yield from self.predict(self.encode(text), text, most=0, stable=0))

    def expect_run(self, tokens: list[int], nudging: NudgingReader | None) -> Steps:
        """Look for how a run may go on after ``tokens``: as was proposed, or as the nudging model writes ahead, if that pays."""
        if self._completion.propose(tokens):
            return
        self.expect_nothing()
        if nudging is None or not nudging.drafts.on:
            return
        answer, size = self.answer.text, self.drafts.worth_making(tokens, self._ahead, nudging.drafts.costs.seconds(1))
        if size and self.encode(answer) == tokens and nudging.has_context(size):
            completion = nudging.begin_completion()
            yield from nudging.complete(completion, size)
            self._ahead.hold(self.encode(answer + completion.text))


class Completion:
    """What the nudging model would write next, as far as it was asked.

    Attributes:
        tokens: prompt, answer and completion, as its tokens.
        settled: how many of them are not the completion's.
        text: the completion's.
        tail: its last tokens, if they are part of a character that is not whole yet.
        whole: whether that is all that the lookahead allows; if not, the last word may go on.
        ended: whether it reached its end of text, or all that the constraint allows.
        at_forced: whether what comes next is forced by the constraint.
    """

    def __init__(self, encoder: PromptEncoder, answer: str) -> None:
        self.tokens = encoder.encode(answer)
        self.settled = len(self.tokens)
        self.stream = encoder.text_stream()
        self.text = ""
        self.tail: list[int] = []
        self.whole = self.ended = self.at_forced = False

    def __len__(self) -> int:
        return len(self.tokens) - self.settled


class NudgingReader(ModelReader):
    """The nudging model."""

    def __init__(self, encoder: PromptEncoder, answer: Answer, config: NudgingConfig, costs: ForwardCosts) -> None:
        self._rejected = HeldDraft("rejected", prior=0.4, once=True)
        super().__init__("nudging", encoder, answer, config, costs, [self._rejected])
        self._most, self._lazy = config.lookahead, config.end_check == "sentence"
        self._look = float(_FIRST_LOOK)  # tokens of a completion that recent rounds needed

    def has_context(self, size: int) -> bool:
        """Whether the model's context has room for ``size`` more tokens than the answer."""
        limit = self.encoder.context_length
        return limit is None or len(self.encode(self.answer.text)) + size <= limit

    def begin_completion(self, rejected: str = "") -> Completion:
        """A completion of the answer, empty so far. ``rejected``: what the base model would have written, unsure: a guess."""
        answer = self.answer.text
        completion = Completion(self.encoder, answer)
        if rejected:
            after = self.encode(answer + rejected)
            self._rejected.hold(after if after[: completion.settled] == completion.tokens else None)
        return completion

    def look(self, completion: Completion) -> Steps:
        """Make the completion longer: to K tokens, or with ``end_check="sentence"`` by as many as rounds have needed of late."""
        size = len(completion) + _NEXT_LOOK if len(completion) else max(_SHORTEST_LOOK, round(self._look))
        yield from self.complete(completion, min(size, self._most) if self._lazy else self._most)

    def complete(self, completion: Completion, size: int) -> Steps:
        """Go on greedily, to ``size`` tokens, the rest of a character, or the end of the text."""
        while not completion.whole and (len(completion) < size or completion.stream.pending):
            prediction = yield from self.predict(
                completion.tokens,
                self.answer.text + completion.text,
                most=self._most - len(completion),
                stable=completion.settled,
                tail=completion.tail,
            )
            if self.is_end(prediction.token):
                completion.whole = True
                completion.at_forced = self._begins_call(completion, prediction.token)
                completion.ended = not completion.at_forced
                break
            self._take(completion, prediction)
        self.drafts.drop()

    def _take(self, completion: Completion, prediction: Prediction) -> None:
        completion.tokens = [*completion.tokens, prediction.token]
        text = completion.text + completion.stream.feed(prediction.token)
        completion.text = self.answer.as_answer(text)
        pending = completion.stream.pending
        completion.tail = [*completion.tail, prediction.token] if pending else []
        taken = len(completion)
        completion.whole = (taken >= self._most and not pending) or taken >= self._most + _REST_OF_CHARACTER
        if self.answer.constraint is not UNCONSTRAINED and not pending:
            self._hold_to_constraint(completion)

    def looked(self, completion: Completion, used: int) -> None:
        """A completion was made as far as needed; ``used`` characters of it were."""
        self._look += (min(1.0, used / len(completion.text)) * len(completion) - self._look) / 4

    def remember(self, completion: Completion) -> None:
        """What of a completion is not used now may come later, word for word."""
        self.drafts.observe(completion.tokens[max(0, completion.settled - 2) :], in_text=False)

    def would_end(self) -> Steps:
        """Returns whether the model would end its text here."""
        text = self.answer.text
        prediction = yield from self.predict(self.encode(text), text)
        return self.is_end(prediction.token)

    def _begins_call(self, completion: Completion, token: int) -> bool:
        """Whether the model begins a tool call in its own way: then it is begun in ours."""
        trigger = self.answer.constraint.trigger
        before = self.answer.text + completion.text
        if trigger is None or trigger in before or not self.encoder.starts_call(token):
            return False
        completion.text += trigger
        return True

    def _hold_to_constraint(self, completion: Completion) -> None:
        """A completion goes as far as the constraint leaves a choice."""
        constraint = self.answer.constraint
        kept = self.answer.as_allowed(completion.text)
        text = self.answer.text + kept
        completion.at_forced = bool(constraint.forced(text, "nudging"))
        completion.ended = constraint.complete(text)
        completion.whole = completion.whole or completion.at_forced or completion.ended or kept != completion.text
        completion.text = kept
