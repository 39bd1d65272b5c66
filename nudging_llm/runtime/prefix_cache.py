"""What requests to one model have evaluated, kept so that later ones, and others under way, begin with what they share.

Knows sessions; an idle one is a slot of the cache. Whoever attaches a session holds the engine's lock.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from weakref import WeakSet

from ..engines.base import Engine
from .session import Session

#: A session is taken over, not copied, if that loses at most as many of its tokens.
_LOSS = 32
#: Tokens to copy beyond a prompt that is asked again: the answer, likely.
_ANSWER = 1024
#: Fewer common tokens than this are not worth a copy.
_WORTH_COPYING = 16


class PrefixCache:
    """Sessions of one model: those that work, and idle ones kept for what they have evaluated.

    Args:
        engine: the model.
        slots: most idle sessions.
        max_bytes: most memory of all idle sessions' caches. The least recently used goes first.
    """

    def __init__(self, engine: Engine, slots: int = 8, max_bytes: int = 2**30) -> None:
        self.engine, self._slots, self._max_bytes = engine, slots, max_bytes
        self._idle: list[Session] = []  # least recently used first
        self._returned: deque[Session] = deque()
        self._working: WeakSet[Session] = WeakSet()
        self._lock = threading.Lock()

    @property
    def idle_bytes(self) -> int:
        """Memory of the idle sessions' caches."""
        return sum(session.nbytes for session in tuple(self._idle))

    def acquire(self) -> Session:
        """A session for a new request; empty until it is attached."""
        session = Session(self.engine)
        with self._lock:
            self._working.add(session)
        return session

    def attach(self, session: Session, tokens: Sequence[int]) -> None:
        """Before a request's first forward: begin with what another has evaluated of ``tokens``.

        An idle session is taken over if little of it is lost by that; else, as from one that works, the common prefix is
        copied. The caller holds the engine's lock.
        """
        if session.attached:
            return
        session.attached = True
        can_crop = self.engine.can_crop
        with self._lock:
            self._take_back()
            others = [other for other in self._working if other is not session] if can_crop else []
            best = max([*self._idle, *others], key=lambda other: other.usable(tokens), default=None)
            shared = best.usable(tokens) if best is not None else 0
            if best is None or not shared:
                return
            if best in self._idle and (not can_crop or len(best) - shared <= _LOSS):
                self._idle.remove(best)
                session.take_over(best)
            elif shared >= _WORTH_COPYING:
                session.copy_prefix(best, shared if shared < len(tokens) else min(len(best), shared + _ANSWER))
                if best in self._idle:  # the most recently used
                    self._idle.remove(best)
                    self._idle.append(best)
            session.counts.reused = min(shared, session.common_prefix(tokens))

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
            self._take_back()
            self._idle.clear()

    def _take_back(self) -> None:
        while self._returned:
            session = self._returned.popleft()
            self._working.discard(session)
            if len(session) and session.nbytes <= self._max_bytes:
                self._idle = [other for other in self._idle if not session.extends(other)]
                self._idle.append(session)
        held = [session.nbytes for session in self._idle]
        while self._idle and (len(self._idle) > self._slots or sum(held) > self._max_bytes):
            del self._idle[0], held[0]
