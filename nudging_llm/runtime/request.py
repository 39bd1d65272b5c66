"""One request in progress: its decode, one source of predictions per model, its clock, and its record.

Knows how a request begins, goes on and ends, in whatever thread; leaves the rules to ``decoding/``, compute to the backends
and the scheduler, and waiting to ``streams.py``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace

from ..config import NudgingConfig
from ..decoding.constraint import UNCONSTRAINED, AnswerConstraint
from ..decoding.decode import Decode, Outcome
from ..engines.base import Counts, ModelBackend, PredictionSource, QueryInterrupted
from ..errors import OutOfMemoryError
from ..protocol import Model, Prediction, PredictionParams, Query
from ..provenance import FinishReason, ModelUse, Piece, Provenance, ProvenanceWarning
from ..result import Result
from ..structured.grammar import Grammar
from ..structured.response_format import FREE_TEXT, ResponseFormat
from ..tools.streaming import ToolCallParser
from .failure_signs import failure_signs
from .record import model_use
from .scheduler import Scheduler


@dataclass(frozen=True, slots=True)
class ModelPart:
    """One model's part in a request.

    Attributes:
        backend: who predicts.
        params: how its predictions are made.
        prompt: its prompt's tokens.
    """

    backend: ModelBackend
    params: PredictionParams
    prompt: list[int]

    def held_to(self, grammar: Grammar) -> ModelPart:
        """The same, for an answer that a grammar rules: its choices are of no use to others."""
        key = f"{len(self.prompt)} {grammar.trigger} {grammar.text}"
        return replace(self, params=replace(self.params, grammar=key))


class Request:
    """One request in progress.

    Args:
        parts: the models that take part.
        scheduler: lets local models work.
        start: makes the decode, given a clock that tells the seconds worked on this request.
        config: recorded with the answer.
        done: called once with each model's counts, when the request is over; returns warnings for the record.
        constraint: what the answer is held to; for the record.
        response_format: turns the finished text into the result, and takes it apart while it is written.
    """

    def __init__(
        self,
        parts: Mapping[Model, ModelPart],
        scheduler: Scheduler,
        start: Callable[[Callable[[], float]], Decode],
        config: NudgingConfig,
        done: Callable[[Mapping[Model, Counts]], tuple[ProvenanceWarning, ...]] = lambda counts: (),
        constraint: AnswerConstraint = UNCONSTRAINED,
        response_format: ResponseFormat = FREE_TEXT,
    ) -> None:
        self._parts, self.scheduler, self._config, self._done = parts, scheduler, config, done
        self._constraint, self._response_format = constraint, response_format
        self._decode = start(self._worked_s)
        self._sources: dict[Model, PredictionSource] = {}
        self._worked = 0.0  # seconds
        self._since: float | None = None
        self._guard = threading.Lock()  # of the next two
        self._busy = False  # somebody is inside ``with request``
        self._asked_to_end: FinishReason | None = None
        self._forward_left_behind = False  # its task was cancelled; it still runs
        self._outcome: Outcome | None = None
        self._finish: FinishReason | None = None
        self._warnings: tuple[ProvenanceWarning, ...] = ()
        self._counts: dict[Model, Counts] = {}
        self._result: Result | None = None
        self.pieces: list[Piece] = []

    @property
    def over(self) -> bool:
        """Whether the request has ended, in whatever way."""
        return self._finish is not None

    def __enter__(self) -> None:
        """Work begins: the clock runs, and ``end`` waits for ``__exit__``."""
        with self._guard:
            if self._busy:
                raise RuntimeError("this stream is being advanced by another thread or task already")
            self._busy = True
        self._since = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._worked, self._since = self._worked_s(), None
        with self._guard:
            self._busy = False
            asked = self._asked_to_end
        if asked is not None and not self._forward_left_behind:
            self.end(asked)

    def advance(self, reply: Prediction | None = None) -> Query | Piece | None:
        """The decode's next question or piece, given the answer to its last question; None at the end."""
        if self.over or self._asked_to_end is not None:
            return None
        if not self._sources:
            self._sources = {model: part.backend.open(part.prompt, part.params) for model, part in self._parts.items()}
        try:
            event = self._decode.send(reply) if reply is not None else next(self._decode)
        except StopIteration as stop:
            self._outcome = stop.value
            self.end(self._outcome.finish_reason)
            return None
        if isinstance(event, Piece):
            self.pieces.append(event)
        return event

    @property
    def preparation(self) -> Callable[[], None] | None:
        """What takes seconds and must be done before the first ``advance``, if anything."""
        return None if self._constraint.loaded else self._constraint.load

    def known(self, query: Query) -> Prediction | None:
        """The answer, if it takes no compute and no waiting."""
        return self._sources[query.model].known(query)

    def compute(self, query: Query) -> Prediction:
        """The answer, computed in this thread or by whoever computes already."""
        while True:
            future = self.submit(query)
            try:
                self.scheduler.finish([future], gather=True)
                return future.result()
            except QueryInterrupted:
                continue
            finally:
                self.withdraw(query, future)

    def submit(self, query: Query) -> Future[Prediction]:
        """The answer, later. Where ``needs_worker``, somebody must let the scheduler work until it is done."""
        future = self._sources[query.model].submit(query)
        if not self.needs_worker(query):
            future.add_done_callback(self.scheduler.wake)
        return future

    def needs_worker(self, query: Query) -> bool:
        """Whether the answer is computed in the threads of those who wait for it."""
        return self._parts[query.model].backend.worker is not None

    def withdraw(self, query: Query, future: Future[Prediction]) -> None:
        """Nobody waits for this answer any more. Returns when nobody computes it."""
        self._sources[query.model].withdraw(future)

    def failed(self, error: BaseException) -> FinishReason:
        """Why the request ends with ``error``. Out of memory, what is kept for later requests goes: it holds some too."""
        if isinstance(error, OutOfMemoryError):
            for part in self._parts.values():
                part.backend.clear()
        return "error" if isinstance(error, Exception) else "cancelled"

    def leave(self, reason: FinishReason, forward: Future[Prediction]) -> None:
        """End once ``forward``, which nobody waits for any more, is done. Nothing more is computed."""
        self._asked_to_end = self._asked_to_end or reason
        self._forward_left_behind = True

        def left(_: Future[Prediction]) -> None:
            self._forward_left_behind = False
            self.end(reason)

        forward.add_done_callback(left)

    def end(self, reason: FinishReason) -> None:
        """The request is over: close its sources. Only the first call counts.

        While somebody is inside ``with request``, in whatever thread, the end waits until that one leaves.
        """
        with self._guard:
            if self.over:
                return
            if self._busy:
                self._asked_to_end = self._asked_to_end or reason
                return
            self._finish = self._asked_to_end or reason
        self._decode.close()
        for model, source in self._sources.items():
            self._counts[model] = source.counts
            source.close()
        self._sources = {}
        self._warnings = self._done(self._counts) if self._counts else ()

    def provenance(self) -> Provenance:
        """The record, as far as the request has come."""
        finish = self._finish or "cancelled"
        outcome = self._outcome
        rounds = outcome.rounds if outcome else max((piece.round for piece in self.pieces), default=0)
        use = {model: self._model_use(model) for model in ("base", "nudging")}
        record = Provenance(
            pieces=tuple(self.pieces),
            finish_reason=finish,
            rounds=rounds,
            base=use["base"],
            nudging=use["nudging"],
            first_piece_s=self.pieces[0].elapsed_s if self.pieces else None,
            total_s=self._worked_s(),
            grammar_tokens=sum(piece.n_tokens for piece in self.pieces if piece.source == "grammar"),
            grammar_s=self._constraint.seconds,
            config=self._config.model_dump(mode="json"),
        )
        return record.model_copy(
            update={"warnings": (*failure_signs(record, outcome, self._config.gate), *self._warnings)}
        )

    def tool_call_parser(self) -> ToolCallParser:
        """Takes the answer apart, as it comes, into what is said and what is called."""
        return self._response_format.tool_call_parser()

    @property
    def result(self) -> Result:
        """Text and record."""
        if self._result is not None:
            return self._result
        record = self.provenance()
        result = self._response_format.read(record)
        if self.over:
            self._result = result  # so that calls keep their ids
        return result

    def _model_use(self, model: Model) -> ModelUse | None:
        if model not in self._parts:
            return None
        part, source = self._parts[model], self._sources.get(model)
        counts = self._counts.get(model) or (source.counts if source else Counts())
        tokens = sum(piece.n_tokens for piece in self.pieces if piece.source == model)
        return model_use(part.backend, counts, tokens, part.prompt)

    def _worked_s(self) -> float:
        return self._worked + (time.perf_counter() - self._since if self._since is not None else 0.0)
