"""Drivers: run a decode to its pieces and its record: synchronously, on an event loop, or many together.

``Run`` holds what one request needs: the decode (``decoder.py``) and one session per model. ``Stream``,
``AsyncStream`` and ``run_batch`` differ in how they wait for an answer; who computes it is ``batching.py``'s business.
Streams are pulled: nothing computes unless the consumer asks for the next piece, so leaving a loop, ``close()`` or
cancelling a task stops compute within one forward.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

from ..config import NudgingConfig
from ..decoding.algorithm import Decode, Outcome
from ..errors import OutOfMemoryError
from ..protocol import Model, Prediction, PredictionParams, Query
from ..provenance import FinishReason, ModelUse, Piece, Provenance, ProvenanceWarning
from ..structured.constraint import Constraint
from ..structured.grammar import Grammar
from ..tools.definitions import partial_object
from ..tools.parser import InvalidToolCall, ToolCall
from ..tools.streaming import ToolCallParser
from .failure_signs import failure_signs
from .scheduler import Batcher, Interrupted, Job, Scheduler
from .session import Counts, Session


@dataclass(frozen=True, slots=True)
class Part:
    """One model's part in a request: who computes, how its predictions are made, its prompt's tokens."""

    batcher: Batcher
    want: PredictionParams
    prompt: list[int]

    def held_to(self, grammar: Grammar) -> Part:
        """The same, for an answer that a grammar rules: its choices are of no use to others."""
        key = f"{len(self.prompt)} {grammar.trigger} {grammar.text}"
        return replace(self, want=replace(self.want, grammar=key))


@dataclass(frozen=True, slots=True)
class Result:
    """A finished answer.

    Attributes:
        text: the answer, every character of it.
        provenance: who wrote what, and why.
        content: the text without tool calls.
        calls: the tool calls in it.
        invalid_calls: what was meant as a call and is none, as it stands in the text, with the reason.
        call_spans: where calls, valid or not, stand in the text, with their tags: start and end, in characters.
        parsed: the value of a JSON answer: of the type given as ``json_schema``, or plain; of a cancelled one, as far as it came.
        parsing_error: why ``parsed`` could not be made: a validator that the schema says nothing of.
    """

    text: str
    provenance: Provenance
    content: str = ""
    calls: tuple[ToolCall, ...] = ()
    invalid_calls: tuple[InvalidToolCall, ...] = ()
    call_spans: tuple[tuple[int, int], ...] = ()
    parsed: Any = None
    parsing_error: Exception | None = None

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """In a notebook or IPython, as text: as its record."""
        self.provenance._repr_pretty_(printer, cycle)

    def _repr_html_(self) -> str:
        """In a notebook: as its record."""
        return self.provenance._repr_html_()


class Request:
    """One request in progress.

    Args:
        parts: the models that take part.
        desk: decides which model computes next.
        start: makes the decode, given a clock that tells the seconds worked on this request.
        config: recorded with the answer.
        done: called once with each model's counts, when the request is over.
        constraint: what the answer is held to; for the record.
        reading: turns the finished text into the result.
        tool_call_parser: makes what takes the answer apart while it is written.
    """

    def __init__(
        self,
        parts: Mapping[Model, Part],
        desk: Scheduler,
        start: Callable[[Callable[[], float]], Decode],
        config: NudgingConfig,
        done: Callable[[Mapping[Model, Counts]], tuple[ProvenanceWarning, ...]],
        constraint: Constraint | None = None,
        reading: Callable[[Provenance], Result] | None = None,
        tool_call_parser: Callable[[], ToolCallParser] = lambda: ToolCallParser(False),
    ) -> None:
        self._parts, self.desk, self._config, self._done = parts, desk, config, done
        self._constraint, self._reading, self.tool_call_parser = constraint, reading, tool_call_parser
        self._decode = start(self._worked_s)
        self._sessions: dict[Model, Session] = {}
        self._worked = 0.0  # seconds
        self._since: float | None = None
        self._guard = threading.Lock()  # of the next two
        self._busy = False  # somebody is inside ``with run``
        self._asked_to_end: FinishReason | None = None
        self._forward_left_behind = False  # its task was cancelled; it still runs in its session
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
        if not self._sessions:
            self._sessions = {model: part.batcher.pool.acquire() for model, part in self._parts.items()}
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
        return self._constraint.load if self._constraint and not self._constraint.loaded else None

    def remembered(self, ask: Query) -> Prediction | None:
        """The answer, if it takes no compute."""
        return self._sessions[ask.model].remembered(ask.tokens, self._parts[ask.model].want)

    def compute(self, ask: Query) -> Prediction:
        """The answer, computed in this thread or by whoever computes already."""
        part = self._parts[ask.model]
        return self.desk.answer(part.batcher, self._sessions[ask.model], ask, part.want)

    def submit(self, ask: Query) -> Job:
        """Put the question down; somebody must let the desk ``work`` until it is done."""
        part = self._parts[ask.model]
        return part.batcher.submit(self._sessions[ask.model], ask, part.want)

    def failed(self, error: BaseException) -> FinishReason:
        """Why the request ends with ``error``. Out of memory, idle sessions go: they hold some too."""
        if isinstance(error, OutOfMemoryError):
            for part in self._parts.values():
                part.batcher.pool.clear()
        return "error" if isinstance(error, Exception) else "cancelled"

    def leave(self, reason: FinishReason, forward: Job) -> None:
        """End once ``forward``, which nobody waits for any more, has left its session. Nothing more is computed."""
        self._asked_to_end = self._asked_to_end or reason
        self._forward_left_behind = True

        def left(_: Future[Prediction]) -> None:
            self._forward_left_behind = False
            self.end(reason)

        forward.add_done_callback(left)

    def end(self, reason: FinishReason) -> None:
        """The request is over: give the sessions back. Only the first call counts.

        While somebody is inside ``with run``, in whatever thread, the end waits until that one leaves.
        """
        with self._guard:
            if self.over:
                return
            if self._busy:
                self._asked_to_end = self._asked_to_end or reason
                return
            self._finish = self._asked_to_end or reason
        self._decode.close()
        for model, session in self._sessions.items():
            self._counts[model] = session.counts
            self._parts[model].batcher.pool.release(session)
        self._sessions = {}
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
            grammar_s=self._constraint.seconds if self._constraint else 0.0,
            config=self._config.model_dump(mode="json"),
        )
        return record.model_copy(
            update={"warnings": (*failure_signs(record, outcome, self._config.gate), *self._warnings)}
        )

    @property
    def result(self) -> Result:
        """Text and record."""
        if self._result is not None:
            return self._result
        record = self.provenance()
        result = self._reading(record) if self._reading else Result(record.text, record, record.text)
        if self.over:
            self._result = result  # so that calls keep their ids
        return result

    def _model_use(self, model: Model) -> ModelUse | None:
        if model not in self._parts:
            return None
        part = self._parts[model]
        counts = self._counts.get(model) or (self._sessions[model].counts if self._sessions else Counts())
        return ModelUse(
            name=part.batcher.engine.name,
            revision=part.batcher.engine.revision,
            tokens=sum(piece.n_tokens for piece in self.pieces if piece.source == model),
            forwards=counts.forwards,
            forward_tokens=counts.forward_tokens,
            drafted=counts.drafted,
            accepted=counts.accepted,
            prompt_tokens=len(part.prompt),
            prompt_tokens_reused=min(counts.reused, len(part.prompt)),
            seconds=counts.seconds,
        )

    def _worked_s(self) -> float:
        return self._worked + (time.perf_counter() - self._since if self._since is not None else 0.0)


class _Streaming:
    """What both kinds of stream share."""

    def __init__(self, run: Request) -> None:
        self._run = run

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The pieces so far."""
        return tuple(self._run.pieces)

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(piece.text for piece in self._run.pieces)

    def tool_call_parser(self) -> ToolCallParser:
        """Takes the answer apart, as it comes, into what is said and what is called: feed it each piece, then end it."""
        return self._run.tool_call_parser()

    @property
    def partial(self) -> Any:
        """The value of a JSON answer as far as it has come; None before it begins."""
        return partial_object(self.text)

    @property
    def provenance(self) -> Provenance:
        """The record so far; complete once the stream has ended."""
        return self._run.provenance()

    @property
    def result(self) -> Result:
        """Text and record."""
        return self._run.result

    def __del__(self) -> None:
        run: Request | None = getattr(self, "_run", None)
        if run is not None:
            self._end("cancelled")

    def _end(self, reason: FinishReason) -> None:
        self._run.end(reason)


class Stream(_Streaming, Iterator[Piece]):
    """An answer as it is written: iterate for ``Piece``s, then read ``provenance``. A context manager that closes."""

    def __next__(self) -> Piece:
        with self._run:
            try:
                event = self._run.advance()
                while isinstance(event, Query):
                    event = self._run.advance(self._run.remembered(event) or self._run.compute(event))
            except BaseException as error:
                self._end(self._run.failed(error))
                raise
        if event is None:
            raise StopIteration
        return event

    def close(self) -> None:
        """Stop. What was written stays in ``pieces``."""
        self._run.end("cancelled")

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncStream(_Streaming, AsyncIterator[Piece]):
    """As ``Stream``, with ``async for``. Forwards run in a worker thread; the event loop stays free."""

    def __init__(self, run: Request, executor: ThreadPoolExecutor) -> None:
        super().__init__(run)
        self._executor = executor
        self._forward: Job | None = None

    async def __anext__(self) -> Piece:
        with self._run:
            try:
                if (prepare := self._run.preparation) is not None:
                    await asyncio.wrap_future(self._executor.submit(prepare))
                event = self._run.advance()
                while isinstance(event, Query):
                    event = self._run.advance(self._run.remembered(event) or await self._compute(event))
            except BaseException as error:
                self._end(self._run.failed(error))
                raise
        if event is None:
            raise StopAsyncIteration
        return event

    async def _compute(self, ask: Query) -> Prediction:
        while True:
            job = self._forward = self._run.submit(ask)
            job.add_done_callback(self._forward_done)
            self._executor.submit(self._run.desk.finish, [job], gather=True)
            try:
                return await asyncio.wrap_future(job)
            except Interrupted:
                continue

    def _forward_done(self, _: Future[Prediction]) -> None:
        self._forward = None  # it holds the session, and the session its cache

    def _end(self, reason: FinishReason) -> None:
        """End the run once the forward under way, if any, has left its session."""
        forward = self._forward
        if forward is None or forward.done():
            self._run.end(reason)
        elif not self._run.over:
            self._run.leave(reason, forward)

    async def aclose(self) -> None:
        """Stop. What was written stays in ``pieces``."""
        self._end("cancelled")

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self.aclose()


def run_batch(runs: Sequence[Request], at_once: int) -> None:
    """Run requests to their ends side by side, ``at_once`` at a time, so that they share forwards."""
    left = deque((run, _steps(run)) for run in runs)
    asking: dict[_Steps, tuple[Request, Job]] = {}
    try:
        while left or asking:
            ready = [(run, steps) for steps, (run, job) in asking.items() if job.done()]
            ready += [left.popleft() for _ in range(min(len(left), at_once - len(asking)))]
            for run, steps in ready:
                asking.pop(steps, None)
                if (job := next(steps, None)) is not None:
                    asking[steps] = run, job
            if asking:
                [(run, _), *_] = asking.values()
                run.desk.finish([job for _, job in asking.values()])
    finally:
        for steps in (*asking, *(steps for _, steps in left)):
            steps.close()


_Steps = Generator[Job, None, None]


def _steps(run: Request) -> _Steps:
    """A request, paused wherever it needs a forward; to be resumed when the job is done."""
    with run:
        try:
            event = run.advance()
            while event is not None:
                reply = None
                if isinstance(event, Query) and (reply := run.remembered(event)) is None:
                    job = run.submit(event)
                    try:
                        yield job
                        reply = job.result()
                    except Interrupted:
                        continue
                    finally:
                        run.desk.withdraw(job)
                event = run.advance(reply)
        except BaseException as error:
            run.end(run.failed(error))
            raise
