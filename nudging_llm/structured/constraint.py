"""Holds one answer to a grammar while two models write it.

A ``Constraint`` says what must come next (``forced``: written without asking a model), which tokens each model may choose
(``masks``), how the text can end soonest (``closing``), and when it is over. All are functions of the answer's *text*, so
hand-overs, re-tokenising and guesses need no bookkeeping elsewhere.

Knows text, bytes and vocabularies; no model, no probability, no rule of nudging.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from ..errors import GrammarError
from ..protocol import Masks, Model
from ..text.tokenizer import TokenizerAdapter
from .closing import WALKS, way_to_end
from .grammar import Grammar
from .matcher import GrammarMatcher
from .vocabulary import Vocabulary, byte_vocabulary, vocabulary

#: A space, or a word or number with the space before it, at the end of a text.
_WORD_PART = re.compile(r" ?\w*\Z")


class Constraint:
    """Holds one answer to a grammar.

    Args:
        grammar: the rule.
        codecs: of the models that take part.
        joined: those whose prompt a space joins to the answer: their first token may begin with it.

    Attributes:
        seconds: spent here so far, without the reading of vocabularies.
        loaded: whether the vocabularies are read; they are when first needed.
    """

    def __init__(
        self, grammar: Grammar, codecs: Mapping[Model, TokenizerAdapter], joined: Collection[Model] = ()
    ) -> None:
        self.grammar, self.seconds = grammar, 0.0
        self._joined = frozenset(joined if grammar.trigger is None else ())
        self._codecs = dict(codecs)
        self._text = GrammarMatcher(grammar.text, byte_vocabulary())
        self._models: dict[Model, tuple[GrammarMatcher, Vocabulary]] = {}
        self._closing: tuple[bytes, bytes] | None = None  # a text, and a way to its end

    @property
    def loaded(self) -> bool:
        return len(self._models) == len(self._codecs)

    def load(self) -> None:
        """Read the vocabularies: a few seconds for a tokenizer that was not read before.

        Raises:
            GrammarError: a tokenizer is not understood.
        """
        for model, codec in self._codecs.items():
            if model not in self._models:
                words = vocabulary(codec)
                rule = self.grammar.joined if model in self._joined else self.grammar.text
                self._models[model] = GrammarMatcher(rule, words, self.grammar.json), words

    @property
    def trigger(self) -> str | None:
        """The text from which on the rule holds; None: from the start."""
        return self.grammar.trigger

    @property
    def what(self) -> str:
        """How to call the rule in errors."""
        return self.grammar.what

    # Each of these takes the answer's text so far. They are timed together.

    def active(self, text: str) -> bool:
        """Whether the rule holds at the end of ``text``."""
        return self.start(text) is not None

    def clip(self, text: str) -> str:
        """As much of ``text`` as keeps to the rule: a token may reach over the place where it begins."""
        with self._timed():
            data, ruled = text.encode(), self._ruled(text)
            if ruled is None or (accepted := self._text.follow(ruled)) == len(ruled):
                return text
            return data[: len(data) - len(ruled) + accepted].decode(errors="ignore")

    def complete(self, text: str) -> bool:
        """Whether ``text`` cannot go on: it is all that the rule allows."""
        with self._timed():
            ruled = self._ruled(text)
            return ruled is not None and self._follow(ruled).matcher.is_stopped()

    def may_end(self, text: str) -> bool:
        """Whether ``text`` keeps to the rule as it is."""
        with self._timed():
            ruled = self._ruled(text)
            return ruled is None or self._follow(ruled).matcher.is_accepting()

    def forced(self, text: str, model: Model) -> str:
        """What must come next, if the rule leaves no choice; whole characters.

        A space or a part of a word at its end is left to ``model`` if it has tokens in which that goes on: it would not have
        written it so.
        """
        known = self._model(model) if model in self._codecs else None
        with self._timed():
            if (ruled := self._ruled(text)) is None:
                return ""
            must = self._follow(ruled).matcher.compute_ff_bytes().decode(errors="ignore")
            tail = _WORD_PART.search(must)[0]  # type: ignore[index]  # it matches the empty text too
            if tail and known is not None:
                follower, words = known
                follower.follow(self._as_seen(model, ruled + must[: -len(tail)].encode()))
                if words.goes_on(follower.mask(), tail.encode()):
                    return must[: -len(tail)]
            return must

    def masks(self, model: Model, text: str, tail: Sequence[int], guesses: list[int]) -> tuple[list[int], Masks]:
        """Which tokens ``model`` may choose after ``text`` and the tokens ``tail`` of an unfinished character, and after each
        guess that follows; the guesses from the first wrong one on are left out. None where the rule does not hold.

        Raises:
            GrammarError: none of the model's tokens goes on.
        """
        follower, words = self._model(model)
        with self._timed():
            ruled = self._ruled(text)
            if ruled is None:
                return self._before_the_rule(words, text, tail, guesses), None
            data = self._as_seen(model, ruled) + words.spelt(tail)
            if follower.follow(data) < len(data):
                raise GrammarError(
                    f"{self.grammar.what}: {text[-20:]!r} cannot be spelt with the tokens of this model."
                )
            masks = [follower.mask()]
            if not any(masks[0]):
                raise GrammarError(
                    f"{self.grammar.what}: this model has no token that could come after {text[-20:]!r}."
                )
            kept: list[int] = []
            for guess in guesses:
                if guess in words.ends or not follower.consume([guess]) or not any(mask := follower.mask()):
                    break
                kept.append(guess)
                masks.append(mask)
            return kept, masks

    def closing(self, text: str, fits: Callable[[str], bool]) -> str | None:
        """A way for ``text`` to its end that ``fits``: the last one found if it still leads there, else the straight one, else
        the shortest of some random ones. None if none does."""
        with self._timed():
            if (ruled := self._ruled(text)) is None:
                return ""
            self._follow(ruled)
            for way in self._ways(ruled):
                if fits(way.decode()):
                    self._closing = ruled, way
                    return way.decode()
            return None

    @contextmanager
    def _timed(self) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - started

    def _ways(self, ruled: bytes) -> Iterator[bytes]:
        matcher = self._text.matcher
        if self._closing is not None:
            before, last = self._closing
            if ruled.startswith(before) and last.startswith(ruled[len(before) :]):
                last = last[len(ruled) - len(before) :]
            there = matcher.deep_copy()
            if there.try_consume_tokens(list(last)) == len(last) and there.is_accepting():
                yield last
        if (straight := way_to_end(matcher.deep_copy(), None)) is not None:
            yield straight
        rng = random.Random(0)
        ways = [way for _ in range(WALKS) if (way := way_to_end(matcher.deep_copy(), rng)) is not None]
        yield from sorted(ways, key=len)

    def _model(self, model: Model) -> tuple[GrammarMatcher, Vocabulary]:
        if not self.loaded:
            self.load()
        return self._models[model]

    def _as_seen(self, model: Model, ruled: bytes) -> bytes:
        """The text as it stands after the model's prompt."""
        return b" " + ruled if model in self._joined and ruled and not ruled[:1].isspace() else ruled

    def _before_the_rule(self, words: Vocabulary, text: str, tail: Sequence[int], guesses: list[int]) -> list[int]:
        """The guesses up to the one that would bring the rule into force: what follows it is to be chosen under the rule."""
        trigger = (self.grammar.trigger or "").encode()
        data = text.encode()[-len(trigger) :] + words.spelt(tail)
        for at, guess in enumerate(guesses):
            data += words.spelt([guess])
            if trigger in data:
                return guesses[:at]
        return guesses

    def start(self, text: str) -> int | None:
        """Where in ``text`` the rule begins to hold; None: nowhere yet."""
        if self.grammar.trigger is None:
            return 0
        found = text.find(self.grammar.trigger)
        return found if found >= 0 else None

    def _ruled(self, text: str) -> bytes | None:
        start = self.start(text)
        return None if start is None else text[start:].encode()

    def _follow(self, ruled: bytes) -> GrammarMatcher:
        if self._text.follow(ruled) < len(ruled):
            raise GrammarError(f"{self.grammar.what}: the text strayed from it at {ruled[-20:]!r}.")
        return self._text
