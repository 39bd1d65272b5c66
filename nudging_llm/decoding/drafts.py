"""Guesses of what a model will say next: where they come from, and how many pay.

A guess is evaluated in a forward that runs anyway; where it is right, later forwards are saved. It changes the cost, never
the text. Sources, in the order in which they are tried:

- *completion*: what the nudging model has just written, as tokens of the base model: one base forward answers all word
  tests of a round and begins the base run;
- *ahead*: in a base run, the nudging model goes on writing for the base model (speculative decoding, arXiv 2211.17192,
  across tokenizers), where its forwards are much cheaper; what it wrote opens the next round for nothing;
- *rejected*: the token that the base model was not sure of is a guess at the nudging model's first;
- *look-up*: n-grams of the prompt, the answer and earlier completions that were not used (prompt look-up: answers quote).

How many: ``ForwardCosts`` knows what a forward of n tokens takes, ``Drafter`` how often each source was right in this
request; as many guesses are evaluated as save more than they cost, none if none do.

Knows tokens and seconds; leaves the rules to ``decoder.py``, which asks for guesses, and text to the voices.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from ..protocol import Model

Source = Literal["completion", "ahead", "rejected", "look-up 2", "look-up 3"]
Given = tuple[Source, Sequence[int]] | None

#: Share of guesses that are right, given that all before them were, until a request shows its own.
_PRIOR: dict[Source, float] = {
    "completion": 0.75,
    "ahead": 0.6,
    "rejected": 0.4,
    "look-up 2": 0.3,
    "look-up 3": 0.55,
}
_PRIOR_WEIGHT = 6.0  # guesses
_LOOK_UPS: tuple[tuple[int, Source], ...] = ((3, "look-up 3"), (2, "look-up 2"))
#: Most guesses in one forward.
_LONGEST = 24
#: Tokens of a completion that is made as far as needed: at first, and at least.
_FIRST_LOOK, _SHORTEST_LOOK = 5, 2
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


@dataclass(slots=True)
class _Record:
    """How often the guesses of one source were right, each given that those before it were."""

    right: float
    tried: float = _PRIOR_WEIGHT

    @property
    def acceptance(self) -> float:
        return self.right / self.tried


@dataclass(slots=True)
class _Guess:
    """Guesses under way, at the tokens from index ``start`` on."""

    record: _Record
    start: int
    tokens: list[int]
    right: int = 0


class LookUp:
    """Finds where the last tokens of a text stood before, and what followed there."""

    def __init__(self) -> None:
        self._text: list[int] = []
        self._after: dict[
            tuple[int, ...], tuple[list[int], int]
        ] = {}  # what follows two or three tokens: where it stands

    def read(self, tokens: Sequence[int]) -> None:
        """The text is ``tokens`` now. What was read before stays, even if the text was tokenised anew since."""
        start = len(self._text)
        self._text += tokens[start:]
        self._index(self._text, start)

    def add(self, tokens: Sequence[int]) -> None:
        """Remember a piece of another text."""
        self._index(list(tokens), 0)

    def find(self, tail: Sequence[int]) -> tuple[Source, list[int]] | None:
        """What followed the last three, else the last two, tokens of ``tail`` where they stood last."""
        for n, source in _LOOK_UPS:
            if len(tail) >= n and (found := self._after.get(tuple(tail[-n:]))):
                text, at = found
                return source, text[at : at + _LONGEST]
        return None

    def _index(self, text: list[int], start: int) -> None:
        for at in range(start, len(text)):
            for n, _ in _LOOK_UPS:
                if at >= n:
                    self._after[tuple(text[at - n : at])] = text, at


class Drafter:
    """Guesses for one request.

    Args:
        models: those that take part.
        costs: of each model's forwards.
        on: False: no guesses at all.
    """

    def __init__(self, models: Iterable[Model], costs: Mapping[Model, ForwardCosts], on: bool = True) -> None:
        self._costs, self._on = costs, on
        self._records: dict[tuple[Model, Source], _Record] = {}
        self._open: dict[Model, _Guess] = {}
        self._asked: dict[Model, int] = {}  # length of the text at the last forward
        self._look_up: dict[Model, LookUp] = {model: LookUp() for model in models}
        self._look = float(_FIRST_LOOK)

    def written(self, model: Model, tokens: Sequence[int]) -> None:
        """The text has come so far."""
        if self._on:
            self._look_up[model].read(tokens)

    def proposed(self, model: Model, tokens: Sequence[int]) -> None:
        """Tokens were proposed that the answer did not use."""
        if self._on:
            self._look_up[model].add(tokens)

    def guesses(self, model: Model, tokens: list[int], given: Given, most: int) -> list[int]:
        """Guesses at what follows ``tokens``, for the forward that evaluates them: as many as pay.

        Args:
            model: whose next tokens to guess.
            tokens: its whole text so far.
            given: guesses that the decoder has, and their source; else they are looked up.
            most: how many can be of use.
        """
        costs = self._costs[model]
        if not (self._on and costs.can_draft):
            return []
        found = given or self._look_up[model].find(tokens[-3:])
        new = max(1, len(tokens) - self._asked.get(model, 0))
        self._asked[model] = len(tokens)
        if found is None:
            return []
        source, guessed = found
        record = self._record(model, source)
        count = _paying(costs, new, record.acceptance, min(len(guessed), most, _LONGEST))
        chosen = list(guessed[:count])
        if chosen:
            self._open[model] = _Guess(record, len(tokens), chosen)
        return chosen

    def ahead(self, tokens: list[int]) -> int:
        """How many tokens the nudging model should write ahead for the base model after ``tokens``; 0 if it does not pay."""
        costs, other = self._costs["base"], self._costs.get("nudging")
        if not (self._on and other and costs.can_draft and other.can_draft):
            return 0
        guess = self._open.get("base")
        if guess is not None and len(tokens) < guess.start + len(guess.tokens):
            return 0  # known already
        acceptance = self._record("base", "ahead").acceptance
        return _paying(costs, 1, acceptance, _LONGEST, other.seconds(1))

    def took(self, model: Model, tokens: list[int]) -> None:
        """The text is ``tokens`` now: were the last guesses right?"""
        guess = self._open.get(model)
        if guess is None or len(tokens) <= guess.start + guess.right:
            return
        for at in range(guess.start + guess.right, min(len(tokens), guess.start + len(guess.tokens))):
            guess.record.tried += 1
            if tokens[at] != guess.tokens[at - guess.start]:
                del self._open[model]
                return
            guess.record.right += 1
            guess.right += 1

    def drop(self, model: Model) -> None:
        """What was guessed last will not be decided any more."""
        self._open.pop(model, None)

    def first_look(self) -> int:
        """How many tokens of a completion to make before the base model is asked: what recent rounds needed."""
        return max(_SHORTEST_LOOK, round(self._look))

    def looked(self, tokens: float) -> None:
        """A completion was needed to about ``tokens`` tokens."""
        self._look += (tokens - self._look) / 4

    def _record(self, model: Model, source: Source) -> _Record:
        return self._records.setdefault((model, source), _Record(_PRIOR[source] * _PRIOR_WEIGHT))


def _paying(costs: ForwardCosts, new: int, acceptance: float, most: int, each: float = 0.0) -> int:
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
