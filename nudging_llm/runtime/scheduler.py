"""One model's compute for all requests at once: what is asked at the same time is answered by one forward.

Every request, from whatever thread or task, puts its question down as a ``Job`` and sees to it that somebody works. Whoever
finds an engine free answers all jobs that wait for it by then; the others sleep, and find theirs done. So a single request
runs by itself, and requests that come together share forwards, without a thread for it.

Also the place of the prefix cache: before the first forward of a request, its session takes over what earlier requests, or
others under way, have evaluated of the same text (``SessionPool.seat``).

Knows sessions; leaves rules to ``decoder.py``, numbers to an engine.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, wait

from ..decoding.costs import ForwardCosts
from ..errors import OutOfMemoryError
from ..protocol import Prediction, PredictionParams, Query
from .session import Session, SessionPool

_log = logging.getLogger("nudging_llm")

#: Most tokens in a forward of several rows; a longer row goes alone.
_MAX_TOKENS = 2048
#: A new request waits for one step if another in the same forward begins with as many tokens of the same text.
_WORTH_WAITING = 64
#: Longest wait for more requests to join, in seconds.
_GATHER_S = 0.004
#: How long to wait for another thread before looking again whether there is work, in seconds: another generator may hold
#: the same engine.
_PATIENCE_S = 0.02
#: After this wait a question is answered before others of which more would be answered at once, in seconds.
_LONG_S = 0.25


class Interrupted(Exception):
    """Whoever was answering a question was interrupted (Ctrl-C) and has not answered it: ask again."""


class Job(Future[Prediction]):
    """A question of one request: its session, what is asked, and how. Its result is the prediction."""

    def __init__(self, session: Session, ask: Query, want: PredictionParams) -> None:
        super().__init__()
        self.session, self.ask, self.want = session, ask, want
        self.guesses, self.masks = ask.masks(ask.guess()) if ask.masks else (ask.guess(), None)
        self.asked = time.perf_counter()


class Batcher:
    """One model: its sessions, and the questions that wait for it.

    Args:
        pool: the model's sessions.
        max_rows: most requests in one forward.
    """

    def __init__(self, pool: SessionPool, max_rows: int = 8) -> None:
        self.pool, self.engine, self.max_rows = pool, pool.engine, max_rows
        self.costs = ForwardCosts(pool.engine.can_crop)
        self._waiting: deque[Job] = deque()

    def submit(self, session: Session, ask: Query, want: PredictionParams) -> Job:
        """Put a question down. Somebody must call ``Scheduler.work`` until it is done."""
        job = Job(session, ask, want)
        self._waiting.append(job)
        return job

    @property
    def waiting(self) -> int:
        """Questions that nobody has begun to answer."""
        return len(self._waiting)

    @property
    def urgency(self) -> tuple[bool, float]:
        """Whether a question has waited too long; answers per second, if the waiting ones were answered now."""
        rows = min(self.waiting, self.max_rows if self.engine.can_pack else 1)
        try:
            waited = time.perf_counter() - self._waiting[0].asked
        except IndexError:
            return False, 0.0
        return waited > _LONG_S, rows / self.costs.seconds(rows) if rows else 0.0

    def work(self) -> int:
        """Answer the questions that wait, as many as one forward holds; returns how many. The caller holds the engine's lock."""
        jobs: list[Job] = []
        try:
            self._take(jobs)
            self._answer(jobs)
        except BaseException:
            for job in jobs:
                if not job.done():
                    job.session.forget()
                    job.set_exception(Interrupted())
            raise
        return len(jobs)

    def _take(self, taken: list[Job]) -> None:
        later: list[Job] = []
        while self._waiting and len(taken) < (self.max_rows if self.engine.can_pack else 1):
            job = self._waiting.popleft()
            if not job.session.attached and self.engine.can_crop and any(_alike(job, other) for other in taken):
                later.append(job)  # what they share is evaluated once, by the other
            elif job.set_running_or_notify_cancel():
                taken.append(job)
        self._waiting.extendleft(reversed(later))

    def _answer(self, jobs: Sequence[Job]) -> None:
        """One forward for all jobs that need one; several where they are too long or it fails."""
        rows: list[tuple[int, Job]] = []
        for job in jobs:
            self._attach(job)
            if (known := job.session.remembered(job.ask.tokens, job.want)) is not None:
                job.set_result(known)
            else:
                size = job.session.missing(job.ask.tokens) + len(job.guesses) if len(jobs) > 1 else 0
                rows.append((size, job))
        group: list[Job] = []
        total = 0
        for size, job in sorted(rows, key=lambda row: row[0]):
            if group and total + size > _MAX_TOKENS:
                self._answer_together(group)
                group, total = [], 0
            group.append(job)
            total += size
        self._answer_together(group)

    def _attach(self, job: Job) -> None:
        try:
            self.pool.attach(job.session, job.ask.tokens)
        except Exception as error:  # no memory for a copy: it was only to save time
            _log.warning("%s: nothing is reused for this request (%s)", self.engine.name, error)
            self.pool.clear()
            job.session.forget()

    def _answer_together(self, jobs: Sequence[Job]) -> None:
        """One forward; where it fails, one for each, and after want of memory one for each half."""
        if len(jobs) > 1:
            try:
                self._evaluate(jobs)
                return
            except OutOfMemoryError:
                self.pool.clear()
                half = self.max_rows = len(jobs) // 2
                self._answer_together(jobs[:half])
                self._answer_together(jobs[half:])
                return
            except Exception as error:
                cause = error
        for job in jobs:
            try:
                self._evaluate([job])
            except Exception as error:
                job.set_exception(error)
        if len(jobs) > 1 and all(job.exception() is None for job in jobs):  # so it is the sharing that failed
            self.engine.can_pack = False
            _log.warning("%s: requests are evaluated one by one (%s)", self.engine.name, cause)

    def _evaluate(self, jobs: Sequence[Job]) -> None:
        """One forward.

        Raises:
            Exception: whatever the engine raised. The jobs' sessions are empty then and can be used again.
        """
        try:
            started = time.perf_counter()
            if not self.engine.can_crop:  # never more than one
                for job in jobs:
                    job.session.evaluate_from_snapshot(job.ask, job.want, job.masks)
                self.costs.observe(1, 1, time.perf_counter() - started)
            else:
                rows = [job.session.prepare(job.ask.tokens, job.guesses, job.want, job.masks) for job in jobs]
                predictions = self.engine.forward(rows)
                seconds, tokens = time.perf_counter() - started, sum(len(row.tokens) for row in rows)
                self.costs.observe(tokens, len(rows), seconds)
                for job, row, found in zip(jobs, rows, predictions, strict=True):
                    job.session.absorb(row, len(job.guesses), found, seconds * len(row.tokens) / tokens)
        except BaseException:
            for job in jobs:
                job.session.forget()
            raise
        for job in jobs:
            job.set_result(job.session.prediction_after(job.ask.tokens))


class Scheduler:
    """The models of one generator: decides which of them computes next.

    Nobody waits for an engine's lock: whoever finds a free engine with questions answers them, the others sleep until
    something was answered.

    Args:
        batchers: one for each model.
    """

    def __init__(self, batchers: Sequence[Batcher]) -> None:
        self._batchers = tuple(batchers)
        self._expected = 0  # questions that were there, or on their way, after the last forward
        self._answered = threading.Condition()

    @property
    def _waiting(self) -> int:
        return sum(batcher.waiting for batcher in self._batchers)

    def work(self, gather: bool = False) -> bool:
        """Run the forward that answers most questions per second, on an engine that is free; False if there is none.

        Args:
            gather: other requests may be about to ask too, from other threads or an event loop: wait a few milliseconds for
                as many questions as are expected.
        """
        for batcher in sorted(self._batchers, key=lambda batcher: batcher.urgency, reverse=True):
            if not batcher.waiting or not batcher.engine.lock.acquire(blocking=False):
                continue
            try:
                until = time.perf_counter() + _GATHER_S
                while gather and self._waiting < self._expected and time.perf_counter() < until:
                    time.sleep(0.0005)
                answered = batcher.work()
                self._expected = self._waiting + answered
            finally:
                batcher.engine.lock.release()
                with self._answered:
                    self._answered.notify_all()
            return True
        return False

    def answer(self, batcher: Batcher, session: Session, ask: Query, want: PredictionParams) -> Prediction:
        """The answer to one question, computed in this thread or by whoever computes already."""
        while True:
            job = batcher.submit(session, ask, want)
            try:
                self.finish([job], gather=True)
                return job.result()
            except Interrupted:
                continue
            finally:
                self.withdraw(job)

    def finish(self, jobs: Sequence[Job], gather: bool = False) -> None:
        """Work, or wait for others who do, until at least one of ``jobs`` is done."""
        while not any(job.done() for job in jobs):
            if not self.work(gather):
                with self._answered:
                    if not any(job.done() for job in jobs):
                        self._answered.wait(_PATIENCE_S)

    def withdraw(self, job: Job) -> None:
        """The question is not asked any more. Returns when nobody touches its session."""
        if not job.cancel():
            wait([job])


def _alike(job: Job, other: Job) -> bool:
    """Whether the texts of two jobs begin with the same tokens, enough of them to wait for."""
    n = _WORTH_WAITING
    mine, others = job.ask.tokens, other.ask.tokens
    return len(mine) > n and mine[:n] == others[:n] and other.session.missing(others) > n
