"""What a forward of a model takes, and how many guesses it is worth evaluating in one.

Knows tokens and seconds; no text, no rule, no model.
"""

from __future__ import annotations

from itertools import accumulate

#: Numbers of tokens for which the time of a forward is kept.
_SIZES = (1, 2, 4, 8, 16, 32, 64)
#: Forwards of one size after which its time is settled, so that equal requests draft equally from then on.
_SETTLED = 5


class ForwardCosts:
    """What a forward of n tokens takes on one model, in seconds: from the fastest of the first few at each size.

    Between sizes seen the line is straight; beyond the largest it is flat, so that longer forwards are tried.

    Attributes:
        rows: requests that shared the last forward.
        can_draft: whether the model can go back behind wrong guesses.
    """

    def __init__(self, can_draft: bool = True) -> None:
        self.rows, self.can_draft = 1, can_draft
        self._seen: dict[int, int] = {}
        self._points: dict[int, tuple[int, float]] = {}  # by size: tokens and seconds of the fastest
        self._line: list[tuple[int, float]] = []  # the points, tokens rising, seconds not falling

    def observe(self, tokens: int, rows: int, seconds: float) -> None:
        """A forward of ``tokens`` in all, for ``rows`` requests, took ``seconds``."""
        self.rows = rows
        size = next((size for size in _SIZES if tokens <= size), None)
        if size is None or self._seen.get(size, 0) >= _SETTLED:
            return
        self._seen[size] = self._seen.get(size, 0) + 1
        if size not in self._points or seconds < self._points[size][1]:
            self._points[size] = tokens, seconds
            self._draw()

    def seconds(self, tokens: int) -> float:
        """What a forward of ``tokens`` takes; 1.0 before anything was seen."""
        before = (0, self._line[0][1]) if self._line else (0, 1.0)
        for point in self._line:
            if tokens <= point[0]:
                share = (tokens - before[0]) / (point[0] - before[0])
                return before[1] + share * (point[1] - before[1])
            before = point
        return before[1]

    def _draw(self) -> None:
        points = sorted(self._points.values())
        slowest = accumulate((seconds for _, seconds in points), max)
        self._line = [(tokens, seconds) for (tokens, _), seconds in zip(points, slowest, strict=True)]

    @classmethod
    def fixed(cls, *points: tuple[int, float]) -> ForwardCosts:
        """Given costs, (tokens, seconds) each, that do not change: for experiments and tests."""
        costs = cls()
        costs._points = dict(zip(_SIZES, points, strict=False))
        costs._seen = dict.fromkeys(_SIZES, _SETTLED)
        costs._draw()
        return costs


def paying(costs: ForwardCosts, new: int, acceptance: float, most: int, each: float = 0.0) -> int:
    """How many guesses save most: of n, as many as are right in a row save a forward each.

    Args:
        costs: of the model that evaluates them.
        new: tokens in the forward that must be evaluated anyway.
        acceptance: chance that a guess is right, given that all before it are.
        most: how many there are.
        each: seconds that it takes to make one.
    """
    rows = costs.rows
    without, saved = costs.seconds(rows - 1 + new), costs.seconds(rows) / rows
    best, count, right, chance = 0.0, 0, 0.0, 1.0
    for n in range(1, most + 1):
        chance *= acceptance
        right += chance
        gain = saved * right - (costs.seconds(rows - 1 + new + n) - without) - each * n
        if gain > best:
            best, count = gain, n
    return count
