"""One model's compute for all requests at once: queries that wait at the same time are answered by one forward.

Also the place of the prefix cache: before the first forward of a request, its session takes over what earlier requests, or
others under way, have evaluated of the same text (``PrefixCache.attach``).

Knows sessions; leaves rules to ``decoding/``, numbers to an engine, and which model computes next to ``scheduler.py``.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future

from ..decoding.costs import ForwardCosts
from ..engines.base import QueryInterrupted
from ..errors import OutOfMemoryError
from ..protocol import Prediction, PredictionParams, Query
from .prefix_cache import PrefixCache
from .session import Session

_log = logging.getLogger("nudging_llm")

#: Most tokens in a forward of several rows; a longer row goes alone.
_MAX_TOKENS = 2048
#: A new request waits for one step if another in the same forward begins with as many tokens of the same text.
_WORTH_WAITING = 64
#: After this wait a query is answered before others of which more would be answered at once, in seconds.
_LONG_S = 0.25


class Job(Future[Prediction]):
    """A query of one request: its session, what is asked, and how it is answered. Its result is the prediction."""

    def __init__(self, session: Session, query: Query, params: PredictionParams) -> None:
        super().__init__()
        self.session, self.query, self.params = session, query, params
        self.guesses, self.masks = query.masks(query.guess()) if query.masks else (query.guess(), None)
        self.submitted = time.perf_counter()


class Batcher:
    """One model: its sessions, and the queries that wait for it. A ``Worker``.

    Args:
        cache: the model's sessions.
        max_rows: most requests in one forward.
    """

    def __init__(self, cache: PrefixCache, max_rows: int = 8) -> None:
        self.cache, self.engine, self.max_rows = cache, cache.engine, max_rows
        self.lock = cache.engine.lock
        self.costs = ForwardCosts(cache.engine.can_crop)
        self._waiting: deque[Job] = deque()

    def submit(self, session: Session, query: Query, params: PredictionParams) -> Job:
        """Put a query down. Somebody must let the batcher work until it is done."""
        job = Job(session, query, params)
        self._waiting.append(job)
        return job

    @property
    def device(self) -> str:
        """Where the model computes."""
        return str(self.engine.device)

    @property
    def waiting(self) -> int:
        """Queries that nobody has begun to answer."""
        return len(self._waiting)

    @property
    def urgency(self) -> tuple[bool, float]:
        """Whether a query has waited too long; answers per second, if the waiting ones were answered now."""
        rows = min(self.waiting, self.max_rows if self.engine.can_pack else 1)
        try:
            waited = time.perf_counter() - self._waiting[0].submitted
        except IndexError:
            return False, 0.0
        return waited > _LONG_S, rows / self.costs.seconds(rows) if rows else 0.0

    def work(self) -> int:
        """Answer the queries that wait, as many as one forward holds; returns how many. The caller holds the engine's lock."""
        jobs: list[Job] = []
        try:
            self._take(jobs)
            self._answer(jobs)
        except BaseException:
            for job in jobs:
                if not job.done():
                    job.session.forget()
                    job.set_exception(QueryInterrupted())
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
            if (known := job.session.remembered(job.query.tokens, job.params)) is not None:
                job.set_result(known)
            else:
                size = job.session.missing(job.query.tokens) + len(job.guesses) if len(jobs) > 1 else 0
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
            self.cache.attach(job.session, job.query.tokens)
        except Exception as error:  # no memory for a copy: it was only to save time
            _log.warning("%s: nothing is reused for this request (%s)", self.engine.name, error)
            self.cache.clear()
            job.session.forget()

    def _answer_together(self, jobs: Sequence[Job]) -> None:
        """One forward; where it fails, one for each, and after want of memory one for each half."""
        if len(jobs) > 1:
            try:
                self._evaluate(jobs)
                return
            except OutOfMemoryError:
                self.cache.clear()
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
                    job.session.evaluate_from_snapshot(job.query, job.params, job.masks)
                self.costs.observe(1, 1, time.perf_counter() - started)
            else:
                rows = [job.session.prepare(job.query.tokens, job.guesses, job.params, job.masks) for job in jobs]
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
            job.set_result(job.session.prediction_after(job.query.tokens))


def _alike(job: Job, other: Job) -> bool:
    """Whether the texts of two jobs begin with the same tokens, enough of them to wait for."""
    n = _WORTH_WAITING
    mine, others = job.query.tokens, other.query.tokens
    return len(mine) > n and mine[:n] == others[:n] and other.session.missing(others) > n
