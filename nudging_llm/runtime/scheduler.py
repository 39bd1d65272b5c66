"""Which model computes next, in whose thread.

Every request, from whatever thread or task, submits its query and sees to it that somebody works. Whoever finds a worker free
lets it answer all queries that wait for it by then; the others sleep, and find theirs answered. So a single request runs by
itself, and requests that come together share forwards, without a thread for it. Backends that answer by themselves only wake
those who wait.

Knows workers and futures; no model.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

from ..engines.base import Worker

#: Longest wait for more requests to join, in seconds.
_GATHER_S = 0.004
#: How long to wait for another thread before looking again whether there is work, in seconds: another generator may hold
#: the same model.
_PATIENCE_S = 0.02


class Scheduler:
    """Lets the workers of one generator's models work.

    Nobody waits for a worker's lock: whoever finds one free with queries lets it answer them, the others sleep until
    something was answered.

    Args:
        workers: of the models that have one.
    """

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = tuple(workers)
        self._expected = 0  # queries that were there, or on their way, after the last forward
        self._answered = threading.Condition()

    @property
    def _waiting(self) -> int:
        return sum(worker.waiting for worker in self._workers)

    def work(self, gather: bool = False) -> bool:
        """Run the forward that answers most queries per second, on a worker that is free; False if there is none.

        Args:
            gather: other requests may be about to ask too, from other threads or an event loop: wait a few milliseconds for
                as many queries as are expected.
        """
        for worker in sorted(self._workers, key=lambda worker: worker.urgency, reverse=True):
            if not worker.waiting or not worker.lock.acquire(blocking=False):
                continue
            try:
                until = time.perf_counter() + _GATHER_S
                while gather and self._waiting < self._expected and time.perf_counter() < until:
                    time.sleep(0.0005)
                answered = worker.work()
                self._expected = self._waiting + answered
            finally:
                worker.lock.release()
                self.wake()
            return True
        return False

    def wake(self, *_: Any) -> None:
        """Something was answered: let those who wait look. Also good as a future's callback."""
        with self._answered:
            self._answered.notify_all()

    def finish(self, futures: Sequence[Future[Any]], gather: bool = False) -> None:
        """Work, or wait for others who do, until at least one of ``futures`` is done."""
        if not self._workers:
            wait(futures, return_when=FIRST_COMPLETED)
        while not any(future.done() for future in futures):
            if not self.work(gather):
                with self._answered:
                    if not any(future.done() for future in futures):
                        self._answered.wait(_PATIENCE_S)
