"""One model's view of one growing text: what was evaluated, what was predicted, how to go back.

Contract of ``Session.predict(tokens, draft)``: returns the prediction after ``tokens``. The session may also evaluate
``draft``, a guess of what follows, in the same forward and remember the predictions there; a later ``predict`` for a
remembered position costs nothing. Going back, which ``_rewind`` alone does, keeps the longest common prefix. A session
that is interrupted in the middle of a forward empties itself and can be used again.

Knows tokens; leaves text to ``tokenization.py`` and numbers to an engine (``backends``).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .backends import Engine, Want
from .gates import Prediction


@dataclass(slots=True)
class Counts:
    """What one request cost on one model.

    Attributes:
        forwards: calls of the model.
        forward_tokens: tokens evaluated in them.
        drafted: tokens among those that were guesses.
        accepted: guesses whose prediction was asked for afterwards.
        reused: prompt tokens that an earlier request had left in the cache.
        seconds: time inside the model's forwards, statistics included.
    """

    forwards: int = 0
    forward_tokens: int = 0
    drafted: int = 0
    accepted: int = 0
    reused: int = 0
    seconds: float = 0.0


class Session:
    """See the module's docstring. Not safe for use by two threads at once; ``SessionPool`` hands it to one at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.counts = Counts()
        self._cache: Any = None
        self._path: list[int] = []
        self._known: dict[int, tuple[Want, Prediction]] = {}  # by index of the token it follows
        self._drafts: set[int] = set()  # indices evaluated as guesses, not asked for yet
        self._snapshot: tuple[list[int], Any] | None = None
        self._fresh = True
        self._forget()

    def begin(self) -> None:
        """Start counting for a new request. The evaluated path stays."""
        self.counts = Counts()
        self._drafts.clear()
        self._fresh = True

    def common_prefix(self, tokens: Sequence[int]) -> int:
        """How many leading ``tokens`` this session has evaluated already."""
        path = self._path
        n = min(len(path), len(tokens))
        if path[:n] == tokens[:n]:
            return n
        low, high = 0, n  # path[:low] agrees, path[:high] does not
        while high - low > 1:
            middle = (low + high) // 2
            if path[low:middle] == tokens[low:middle]:
                low = middle
            else:
                high = middle
        return low

    def remembered(self, tokens: Sequence[int], want: Want) -> Prediction | None:
        """The prediction after ``tokens`` if it is known already; never computes."""
        at = len(tokens) - 1
        if (
            at < len(self._path)
            and (known := self._known.get(at))
            and known[0] == want
            and self._path[: at + 1] == tokens
        ):
            if at in self._drafts:
                self._drafts.discard(at)
                self.counts.accepted += 1
            if self._fresh:
                self.counts.reused, self._fresh = len(tokens), False
            return known[1]
        return None

    def predict(self, tokens: list[int], draft: Sequence[int], stable: int, want: Want) -> Prediction:
        """The prediction after ``tokens``.

        Args:
            tokens: the whole sequence, prompt included; at least one.
            draft: guesses at what follows. May be ignored.
            stable: how many of ``tokens`` will not be taken back in this request.
            want: how to choose, and which statistics to compute.
        """
        if known := self.remembered(tokens, want):
            return known
        keep = min(self.common_prefix(tokens), len(tokens) - 1)
        try:
            if self._engine.can_crop:
                self._rewind(keep)
                self._note_reuse()
                self._evaluate([*tokens[keep:], *draft], 1 + len(draft), want)
                self._drafts.update(range(len(tokens), len(self._path)))
                self.counts.drafted += len(draft)
            else:
                self._evaluate_from_snapshot(tokens, keep, stable, want)
        except BaseException:
            self._forget()
            raise
        return self._known[len(tokens) - 1][1]

    def _note_reuse(self) -> None:
        """The first evaluation of a request: what is on the path now was there before it."""
        if self._fresh:
            self.counts.reused, self._fresh = len(self._path), False

    def _evaluate(self, tokens: Sequence[int], last: int, want: Want) -> None:
        """Extend the path by ``tokens`` and remember the predictions after the ``last`` of them."""
        with self._engine.lock:
            started = time.perf_counter()
            predictions = self._engine.forward(self._cache, tokens, len(self._path), last, want)
            self.counts.seconds += time.perf_counter() - started
        self.counts.forwards += 1
        self.counts.forward_tokens += len(tokens)
        self._path.extend(tokens)
        for at, prediction in enumerate(predictions, start=len(self._path) - len(predictions)):
            self._known[at] = (want, prediction)

    def _rewind(self, keep: int) -> None:
        """Go back to the first ``keep`` tokens of the path."""
        if (drop := len(self._path) - keep) <= 0:
            return
        if keep == 0:
            self._cache = self._engine.new_cache()
        else:
            self._engine.crop(self._cache, drop)
        for at in range(keep, len(self._path)):
            self._known.pop(at, None)
            self._drafts.discard(at)
        del self._path[keep:]

    def _evaluate_from_snapshot(self, tokens: list[int], keep: int, stable: int, want: Want) -> None:
        """For caches that cannot be cropped (recurrent states): no drafts, and a copy of the cache to go back to."""
        if keep < len(self._path):
            saved = self._snapshot
            if saved and len(saved[0]) < len(tokens) and tokens[: len(saved[0])] == saved[0]:
                self._cache, self._path = self._engine.copy_cache(saved[1]), list(saved[0])
            else:
                self._cache, self._path, self._snapshot = self._engine.new_cache(), [], None
            self._known = {at: known for at, known in self._known.items() if at < len(self._path)}
        self._note_reuse()
        if len(self._path) <= stable < len(tokens):
            if len(self._path) < stable:
                self._evaluate(tokens[len(self._path) : stable], 1, want)
            self._snapshot = (list(self._path), self._engine.copy_cache(self._cache))
        self._evaluate(tokens[len(self._path) :], 1, want)

    def _forget(self) -> None:
        """Empty: nothing evaluated, nothing known."""
        self._cache = self._engine.new_cache()
        self._path, self._known, self._drafts, self._snapshot, self._fresh = [], {}, set(), None, True


class SessionPool:
    """Idle sessions of one model, kept for the next request that shares a prefix (design, section 5).

    Args:
        engine: the model.
        slots: how many idle sessions to keep; the least recently used goes first.
    """

    def __init__(self, engine: Engine, slots: int = 4) -> None:
        self.engine, self._slots = engine, slots
        self._idle: list[Session] = []  # least recently used first
        self._returned: deque[Session] = deque()
        self._lock = threading.Lock()

    def acquire(self, tokens: Sequence[int]) -> Session:
        """Take the idle session with the longest common prefix, or a new one."""
        with self._lock:
            self._take_back()
            best = max(self._idle, key=lambda session: session.common_prefix(tokens), default=None)
            if best is None or best.common_prefix(tokens) * 4 < len(tokens):
                best = self._idle[0] if self._idle and len(self._idle) >= self._slots else None
            if best is None:
                best = Session(self.engine)
            else:
                self._idle.remove(best)
        best.begin()
        return best

    def release(self, session: Session) -> None:
        """Give a session back. Never waits: an abandoned stream may call this while the garbage is collected."""
        self._returned.append(session)
        if self._lock.acquire(blocking=False):
            try:
                self._take_back()
            finally:
                self._lock.release()

    def clear(self) -> None:
        """Drop all idle sessions and their memory."""
        with self._lock:
            self._returned.clear()
            self._idle.clear()

    def _take_back(self) -> None:
        while self._returned:
            self._idle.append(self._returned.popleft())
        del self._idle[: max(0, len(self._idle) - self._slots)]
