"""One model's compute for all requests at once: what is asked at the same time is answered by one forward.

Every request, from whatever thread or task, puts its question down as a ``Job`` and then calls ``Batcher.work``. Whoever
gets the engine's lock answers all jobs that wait by then, its own among them; the others find theirs done. So single
requests run as before, and requests that come together share forwards, without a thread of its own.

Also the place of the prefix cache: before the first forward of a request, its session takes over what earlier requests, or
others under way, have evaluated of the same text (``SessionPool.seat``).

Knows sessions; leaves rules to ``decoder.py``, numbers to an engine.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future

from .backends import Want
from .drafting import ForwardCosts
from .errors import OutOfMemoryError
from .gates import Prediction
from .session import Session, SessionPool
from .voice import Ask

_log = logging.getLogger("nudging_llm")

#: Most tokens in a forward of several rows; a longer row goes alone.
_MAX_TOKENS = 2048
#: A new request waits for one step if another in the same forward begins with as many tokens of the same text.
_WORTH_WAITING = 64
#: Longest wait for more requests to join, in seconds, and as a share of a forward.
_GATHER_S, _GATHER_SHARE = 0.005, 0.1


class Interrupted(Exception):
    """Whoever was answering a question was interrupted (Ctrl-C) and has not answered it: ask again."""


class Job(Future[Prediction]):
    """A question of one request: its session, what is asked, and how. Its result is the prediction."""

    def __init__(self, session: Session, ask: Ask, want: Want) -> None:
        super().__init__()
        self.session, self.ask, self.want = session, ask, want
        self.guesses = ask.guess()


class Batcher:
    """See the module's docstring.

    Args:
        pool: the model's sessions.
        max_rows: most requests in one forward.
    """

    def __init__(self, pool: SessionPool, max_rows: int = 8) -> None:
        self.pool, self.engine, self.max_rows = pool, pool.engine, max_rows
        self.costs = ForwardCosts(pool.engine.can_crop)
        self._waiting: deque[Job] = deque()
        self._last_s, self._last_rows = 0.0, 0  # of the last forward

    def submit(self, session: Session, ask: Ask, want: Want) -> Job:
        """Put a question down. Somebody must call ``work`` until it is done."""
        job = Job(session, ask, want)
        self._waiting.append(job)
        return job

    def answer(self, session: Session, ask: Ask, want: Want) -> Prediction:
        """The answer to one question, computed in this thread or by whoever computes already."""
        while True:
            job = self.submit(session, ask, want)
            try:
                while not job.done():
                    self.work(gather=True)
                return job.result()
            except Interrupted:
                continue
            finally:
                job.cancel()

    @property
    def waiting(self) -> int:
        """Questions that nobody has begun to answer."""
        return len(self._waiting)

    def work(self, gather: bool = False) -> None:
        """Run one forward for the questions that wait, if any do.

        Args:
            gather: other requests may be about to ask too, from other threads or an event loop: wait for them, a few
                milliseconds at most.
        """
        with self.engine.lock:
            if gather:
                self._gather()
            jobs = self._take()
            try:
                self._answer(jobs)
            except BaseException:
                for job in jobs:
                    if not job.done():
                        job.session.forget()
                        job.set_exception(Interrupted())
                raise

    def _gather(self) -> None:
        """Wait until as many ask as were answered last: those are likely to ask again at once."""
        until = time.perf_counter() + min(_GATHER_S, _GATHER_SHARE * self._last_s)
        while len(self._waiting) < self._last_rows and time.perf_counter() < until:
            time.sleep(0.0005)

    def _take(self) -> list[Job]:
        """The jobs of the next forward: as many as fit."""
        taken: list[Job] = []
        later: list[Job] = []
        tokens = 0
        while self._waiting and len(taken) < (self.max_rows if self.engine.can_pack else 1):
            job = self._waiting.popleft()
            if job.cancelled():
                continue
            if not job.session.seated and self.engine.can_crop and any(_alike(job, other) for other in taken):
                later.append(job)  # what they share is evaluated once, by the other
                continue
            self.pool.seat(job.session, job.ask.tokens)
            size = job.session.missing(job.ask.tokens) + len(job.guesses)
            if taken and tokens + size > _MAX_TOKENS:
                later.append(job)
                break
            if job.set_running_or_notify_cancel():
                taken.append(job)
                tokens += size
        self._waiting.extendleft(reversed(later))
        return taken

    def _answer(self, jobs: Sequence[Job]) -> None:
        """One forward for all jobs; where that fails, one for each."""
        open_jobs = []
        for job in jobs:
            if (known := job.session.remembered(job.ask.tokens, job.want)) is not None:
                job.set_result(known)
            else:
                open_jobs.append(job)
        if len(open_jobs) > 1:
            try:
                self._evaluate(open_jobs)
                return
            except OutOfMemoryError:
                pass
            except Exception as error:
                self.engine.can_pack = False
                _log.warning("%s: requests are evaluated one by one (%s)", self.engine.name, error)
        for job in open_jobs:
            try:
                self._evaluate([job])
            except Exception as error:
                job.set_exception(error)

    def _evaluate(self, jobs: Sequence[Job]) -> None:
        """One forward.

        Raises:
            Exception: whatever the engine raised. The jobs' sessions are empty then and can be used again.
        """
        try:
            if not self.engine.can_crop:  # never more than one
                for job in jobs:
                    job.session.evaluate_from_snapshot(job.ask, job.want)
            else:
                rows = [job.session.prepare(job.ask.tokens, job.guesses, job.want) for job in jobs]
                started = time.perf_counter()
                predictions = self.engine.forward(rows)
                self._last_s, self._last_rows = time.perf_counter() - started, len(rows)
                self.costs.observe(sum(len(row.tokens) for row in rows), len(rows), self._last_s)
                for job, row, found in zip(jobs, rows, predictions, strict=True):
                    job.session.absorb(row, found, self._last_s / len(rows))
        except BaseException:
            for job in jobs:
                job.session.forget()
            raise
        for job in jobs:
            job.set_result(job.session.prediction_after(job.ask.tokens))


def _alike(job: Job, other: Job) -> bool:
    """Whether the texts of two jobs begin with the same tokens, enough of them to wait for."""
    n = _WORTH_WAITING
    mine, others = job.ask.tokens, other.ask.tokens
    return len(mine) > n and mine[:n] == others[:n] and other.session.missing(others) > n
