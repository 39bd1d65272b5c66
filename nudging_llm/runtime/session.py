"""One model's view of one growing text: what was evaluated, what was predicted, how to go back.

A session answers "what comes after ``tokens``?" from memory (``remembered``) or after a forward: ``prepare`` goes back to
the longest common prefix and says what to evaluate, ``absorb`` takes the predictions. A guess of what follows may be
evaluated in the same forward; a later query for a position on its way costs nothing. Going back, which ``_rewind``
alone does, is exact. A session that is interrupted in the middle of a forward empties itself and can be used again.

Knows tokens; leaves text to ``text/``, numbers to an engine, what requests share to ``prefix_cache.py``, and whose turn it is to
``batcher.py``, which calls under the engine's lock whatever changes a session.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from ..engines.base import Counts, Engine, Row
from ..protocol import Masks, Prediction, PredictionParams, Query


class Session:
    """See the module's docstring. Belongs to one request at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.counts = Counts()
        self.attached = False  # whether it has looked for what others have evaluated
        self._cache: Any = None
        self._path: list[int] = []
        self._known: dict[int, tuple[PredictionParams, Prediction]] = {}  # by index of the token it follows
        self._drafts: set[int] = set()  # indices evaluated as guesses, not asked for yet
        self._snapshot: tuple[list[int], Any] | None = None
        self.forget()

    def __len__(self) -> int:
        """Tokens evaluated."""
        return len(self._path)

    @property
    def nbytes(self) -> int:
        """Memory of its caches."""
        saved = self._engine.cache_bytes(self._snapshot[1]) if self._snapshot else 0
        return self._engine.cache_bytes(self._cache) + saved

    # -- questions ----------------------------------------------------------------------------------------------------

    def common_prefix(self, tokens: Sequence[int]) -> int:
        """How many leading ``tokens`` this session has evaluated already."""
        path = self._path
        n = min(len(path), len(tokens))
        if (path if n == len(path) else path[:n]) == (tokens if n == len(tokens) else tokens[:n]):
            return n
        low, high = 0, n  # path[:low] agrees, path[:high] does not
        while high - low > 1:
            middle = (low + high) // 2
            if path[low:middle] == tokens[low:middle]:
                low = middle
            else:
                high = middle
        return low

    def missing(self, tokens: Sequence[int]) -> int:
        """How many of ``tokens`` must be evaluated for the prediction after them."""
        return len(tokens) - min(self.common_prefix(tokens), len(tokens) - 1)

    def remembered(self, tokens: Sequence[int], params: PredictionParams) -> Prediction | None:
        """The prediction after ``tokens`` if it is known already; never computes."""
        at, path = len(tokens) - 1, self._path
        if (
            at < len(path)
            and path[at] == tokens[at]
            and (known := self._known.get(at))
            and known[0] == params
            and (path if at + 1 == len(path) else path[: at + 1]) == tokens
        ):
            if at in self._drafts:
                self._drafts.discard(at)
                self.counts.accepted += 1
            return known[1]
        return None

    def prediction_after(self, tokens: Sequence[int]) -> Prediction:
        """The prediction after ``tokens``, which has just been evaluated."""
        return self._known[len(tokens) - 1][1]

    # -- evaluation ---------------------------------------------------------------------------------------------------

    def prepare(self, tokens: list[int], guesses: Sequence[int], params: PredictionParams, masks: Masks = None) -> Row:
        """Go back to what ``tokens`` shares with the path; what a forward must evaluate."""
        keep = min(self.common_prefix(tokens), len(tokens) - 1)
        self._rewind(keep)
        return Row(self._cache, [*tokens[keep:], *guesses], keep, 1 + len(guesses), params, masks)

    def absorb(self, row: Row, guesses: int, predictions: Sequence[Prediction], seconds: float) -> None:
        """A forward has evaluated ``row``, the last ``guesses`` tokens of which were guessed."""
        self.counts.drafted += guesses
        self.counts.forwards += 1
        self.counts.forward_tokens += len(row.tokens)
        self.counts.seconds += seconds
        self._path.extend(row.tokens)
        self._drafts.update(range(len(self._path) - guesses, len(self._path)))
        for at, prediction in enumerate(predictions, start=len(self._path) - len(predictions)):
            self._known[at] = (row.params, prediction)

    def evaluate_from_snapshot(self, query: Query, params: PredictionParams, masks: Masks = None) -> None:
        """For caches that cannot be cropped (recurrent states): no drafts, and a copy of the cache to go back to."""
        tokens, path = query.tokens, self._path
        if min(self.common_prefix(tokens), len(tokens) - 1) < len(path):
            saved = self._snapshot
            if saved and len(saved[0]) < len(tokens) and tokens[: len(saved[0])] == saved[0]:
                self._cache, self._path = self._engine.copy_cache(saved[1]), list(saved[0])
            else:
                self._cache, self._path, self._snapshot = self._engine.new_cache(), [], None
            self._known = {at: known for at, known in self._known.items() if at < len(self._path)}
            self.counts.reused = min(self.counts.reused, len(self._path))
        if len(self._path) <= query.stable < len(tokens):
            if len(self._path) < query.stable:
                self._evaluate(tokens[len(self._path) : query.stable], params, known=params.grammar is None)
            self._snapshot = (list(self._path), self._engine.copy_cache(self._cache))
        self._evaluate(tokens[len(self._path) :], params, masks)

    def _evaluate(self, tokens: list[int], params: PredictionParams, masks: Masks = None, known: bool = True) -> None:
        row = Row(self._cache, tokens, len(self._path), 1, params, masks)
        started = time.perf_counter()
        [predictions] = self._engine.forward([row])
        self.absorb(row, 0, predictions if known else [], time.perf_counter() - started)

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

    def forget(self) -> None:
        """Empty: nothing evaluated, nothing known."""
        self._cache = self._engine.new_cache()
        self._path, self._known, self._drafts, self._snapshot = [], {}, set(), None
        self.counts.reused = 0

    # -- taking over --------------------------------------------------------------------------------------------------

    def take_over(self, other: Session) -> None:
        """Go on where ``other``, which nobody uses any more, has ended."""
        self._cache, self._path, self._known = other._cache, other._path, other._known
        self._snapshot = other._snapshot

    def copy_prefix(self, other: Session, length: int) -> None:
        """Begin with the first ``length`` tokens of ``other``, which stays as it is."""
        self._cache = self._engine.copy_prefix(other._cache, length)
        self._path = other._path[:length]
        self._known = {at: known for at, known in other._known.items() if at < length}

    def usable(self, tokens: Sequence[int]) -> int:
        """How many leading ``tokens`` need no forward if a request goes on from here: less than is shared where the cache cannot
        be cropped."""
        shared = self.common_prefix(tokens)
        if self._engine.can_crop or shared == len(self._path):
            return shared
        saved = len(self._snapshot[0]) if self._snapshot else 0
        return saved if saved <= shared else 0

    def extends(self, other: Session) -> bool:
        """Whether this one holds all that ``other`` holds."""
        return other._path == self._path[: len(other._path)]
