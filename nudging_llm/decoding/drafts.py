"""Drafts: guesses at the tokens that a model will write next. Where they come from, and how many are evaluated.

A guess is evaluated in a forward that runs anyway; where it is right, later forwards are saved. It changes the cost, never the
text. A *draft source* proposes guesses; for each model they are asked in this order, and the first that has something is used:

- ``completion`` (base model): what the nudging model has just written, as tokens of the base model: one base forward answers
  all word tests of a round and begins the base run;
- ``ahead`` (base model): in a base run, the nudging model writes on for the base model (speculative decoding, arXiv 2211.17192,
  across tokenizers), where its forwards are much cheaper;
- ``rejected`` (nudging model): the token that the base model was not sure of is a guess at the nudging model's first;
- sources of the user's own (``NudgingConfig.draft_sources``);
- look-up (both): n-grams of the prompt, the answer and completions that were not used, as answers quote (prompt look-up).

How many: ``costs.py`` knows what a forward of n tokens takes, ``Drafts`` how often each source was right in this request; as
many guesses are evaluated as save more than they cost.

Knows tokens; leaves the rules to ``algorithm.py`` and text to the readers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from .costs import ForwardCosts, paying

#: As how many guesses a source's ``prior`` counts.
_PRIOR_WEIGHT = 6.0
#: Most guesses in one forward.
LONGEST = 24


@runtime_checkable
class DraftSource(Protocol):
    """Proposes tokens that may follow a text, for one model in one request.

    Attributes:
        name: of the source, its own: how often it was right is counted under it.
        prior: share of its guesses that is expected to be right, given that all before them were, until it shows: 0 … 1.
    """

    name: str
    prior: float

    def propose(self, tokens: list[int]) -> Sequence[int] | None:
        """What may follow ``tokens``, the model's prompt and text so far. None: no idea, the next source is asked; an empty
        sequence says that nothing should be guessed here, and no other source is asked."""
        ...

    def observe(self, tokens: Sequence[int], in_text: bool = True) -> None:
        """Learn. ``in_text``: ``tokens`` are the prompt and the text so far; else a model proposed them, and the text went on
        in another way."""
        ...


class HeldDraft:
    """Proposes the rest of one token sequence that it was told.

    Args:
        name, prior: see ``DraftSource``.
        once: whether the sequence is good for the next query only.
    """

    def __init__(self, name: str, prior: float, once: bool = False) -> None:
        self.name, self.prior, self.once = name, prior, once
        self._held: list[int] | None = None

    def hold(self, tokens: list[int] | None) -> None:
        """From now on, ``tokens`` is how the text may go on, its beginning included. None: nothing is known."""
        self._held = tokens

    def tokens_from(self, start: int) -> list[int]:
        """The held tokens from that index on."""
        return self._held[start:] if self._held else []

    def propose(self, tokens: list[int]) -> Sequence[int] | None:
        if self._held is None or self._held[: len(tokens)] != tokens:
            return None
        return self._held[len(tokens) :]

    def observe(self, tokens: Sequence[int], in_text: bool = True) -> None:
        """Nothing is learnt."""


class LookUp:
    """Finds where the last ``n`` tokens of a text stood before, and proposes what followed there."""

    def __init__(self, n: int, prior: float) -> None:
        self.name, self.prior, self._n = f"look-up {n}", prior, n
        self._text: list[int] = []
        self._after: dict[tuple[int, ...], tuple[list[int], int]] = {}  # what follows n tokens: where it stands

    def propose(self, tokens: list[int]) -> Sequence[int] | None:
        found = self._after.get(tuple(tokens[-self._n :])) if len(tokens) >= self._n else None
        if found is None:
            return None
        text, at = found
        return text[at : at + LONGEST]

    def observe(self, tokens: Sequence[int], in_text: bool = True) -> None:
        """What was read of a text before stays, even if the text was tokenised anew since."""
        if not in_text:
            self._index(list(tokens), 0)
            return
        start = len(self._text)
        self._text += tokens[start:]
        self._index(self._text, start)

    def _index(self, text: list[int], start: int) -> None:
        for at in range(max(start, self._n), len(text)):
            self._after[tuple(text[at - self._n : at])] = text, at


def look_ups() -> list[DraftSource]:
    """Three tokens are looked up before two: they are right more often."""
    return [LookUp(3, 0.55), LookUp(2, 0.3)]


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


class Drafts:
    """The guesses of one model in one request.

    Args:
        sources: in the order in which they are asked.
        costs: of the model's forwards.
        on: False: no guesses at all.
    """

    def __init__(self, sources: Sequence[DraftSource], costs: ForwardCosts, on: bool = True) -> None:
        self.sources, self.costs = tuple(sources), costs
        self.on = on and costs.can_draft
        self._records: dict[str, _Record] = {}
        self._under_way: _Guess | None = None
        self._evaluated = 0  # length of the text at the last forward

    def observe(self, tokens: Sequence[int], in_text: bool = True) -> None:
        """Let the sources learn; see ``DraftSource.observe``."""
        if self.on:
            for source in self.sources:
                source.observe(tokens, in_text)

    def guess(self, tokens: list[int], most: int) -> list[int]:
        """Guesses at what follows ``tokens``, for the forward that evaluates them: as many as pay, at most ``most``."""
        if not self.on:
            return []
        new = max(1, len(tokens) - self._evaluated)
        self._evaluated = len(tokens)
        for source in self.sources:
            if (proposed := source.propose(tokens)) is not None:
                record = self._record(source)
                count = paying(self.costs, new, record.acceptance, min(len(proposed), most, LONGEST))
                chosen = list(proposed[:count])
                if chosen:
                    self._under_way = _Guess(record, len(tokens), chosen)
                return chosen
        return []

    def query_over(self) -> None:
        """A query was answered: what was held for it alone is dropped."""
        for source in self.sources:
            if isinstance(source, HeldDraft) and source.once:
                source.hold(None)

    def check(self, tokens: list[int]) -> None:
        """The text is ``tokens`` now: were the last guesses right?"""
        guess = self._under_way
        if guess is None or len(tokens) <= guess.start + guess.right:
            return
        for at in range(guess.start + guess.right, min(len(tokens), guess.start + len(guess.tokens))):
            guess.record.tried += 1
            if tokens[at] != guess.tokens[at - guess.start]:
                self._under_way = None
                return
            guess.record.right += 1
            guess.right += 1

    def drop(self) -> None:
        """What was guessed last will not be decided any more."""
        self._under_way = None

    def worth_making(self, tokens: list[int], source: DraftSource, each: float) -> int:
        """How many guesses of ``source`` after ``tokens`` pay if each takes ``each`` seconds to make; 0 if none do, or if what
        follows is evaluated already."""
        if not self.on:
            return 0
        guess = self._under_way
        if guess is not None and len(tokens) < guess.start + len(guess.tokens):
            return 0
        return paying(self.costs, 1, self._record(source).acceptance, LONGEST, each)

    def _record(self, source: DraftSource) -> _Record:
        return self._records.setdefault(source.name, _Record(source.prior * _PRIOR_WEIGHT))
