"""Holds one answer to a grammar while two models write it.

A ``Constraint`` says what must come next (``forced``: written without asking a model), which tokens each model may choose
(``masks``), how the text can end soonest (``closing``), and when it is over. All are functions of the answer's *text*, so
hand-overs, re-tokenising and guesses need no bookkeeping elsewhere: a follower goes back to what two texts share, and on from
there. The matching is llguidance's.

Knows text, bytes and vocabularies; no model, no probability, no rule of nudging.
"""

from __future__ import annotations

import random
import re
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from itertools import takewhile
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from llguidance import LLMatcher, LLTokenizer

from ..errors import GrammarError
from ..protocol import Masks, Model
from ..text.tokenizer import TokenizerAdapter
from .grammar import Grammar
from .numbers import endless, number_at_end

#: Bytes after which a text is sooner over, best first: between values, and within a string, where a letter may stand; and which
#: to try first where none of them may stand.
_CLOSERS, _STRING_CLOSERS, _FIRST = b'}]",', b'"', b"0aAn "
#: Random ways to the end that are tried where the straight one does not fit; how long any may be, and a random one, in bytes.
_WALKS, _LONGEST, _LONGEST_WALK = 24, 20_000, 2_000


#: A space, or a word or number with the space before it, at the end of a text.
_WORD_PART = re.compile(r" ?\w*\Z")
#: How tokens begin that may be a part of a number.
_NUMERAL = re.compile(rb"[0-9.eE+-]*[0-9]")


# -- vocabularies and followers ---------------------------------------------------------------------------------------


class Vocabulary:
    """One tokenizer's tokens as bytes, for the matcher. Made once for each tokenizer: it takes a second or two.

    Raises:
        GrammarError: llguidance cannot read the tokenizer.
    """

    def __init__(self, codec: TokenizerAdapter) -> None:
        try:
            ends = sorted(token for token in codec.stop_tokens if token < codec.size)
            self.matching = LLTokenizer(codec.serialized(), eos_token=ends or None)
        except Exception as error:
            raise GrammarError(
                f"Answers of {codec.name} cannot be constrained: its tokenizer is not understood ({error})."
            ) from None
        self.size: int = self.matching.vocab_size
        self.ends = frozenset(codec.end_tokens)
        self._spellings = sorted(
            (self.matching.decode_bytes([token]), token) for token in range(self.size) if token not in self.ends
        )
        self._longer = lru_cache(maxsize=512)(self._find_longer)
        self._numeral = [(spelling, token) for spelling, token in self._spellings if _NUMERAL.match(spelling)]
        self._endless = lru_cache(maxsize=512)(lambda number: self._bits(endless(number, self._numeral)))

    def spelt(self, tokens: Sequence[int]) -> bytes:
        """What the tokens spell."""
        return self.matching.decode_bytes(list(tokens)) if tokens else b""

    def tokens(self, data: bytes) -> list[int]:
        """Some tokens that spell ``data``."""
        found: list[int] = self.matching.tokenize_bytes(data)
        return found

    def goes_on(self, mask: bytes, start: bytes) -> bool:
        """Whether ``mask`` allows a token that begins with ``start`` and is longer."""
        longer = self._longer(start)
        allowed = np.frombuffer(mask, dtype=np.uint8)[: len(longer)]
        return bool((allowed & longer[: len(allowed)]).any())

    def finite(self, mask: bytes, number: bytes) -> bytes:
        """``mask`` without the tokens that would make ``number`` one which no float can hold; as it is if no other is left."""
        forbidden = self._endless(number)
        allowed = np.frombuffer(mask, dtype=np.uint8).copy()
        allowed[: len(forbidden)] &= ~forbidden[: len(allowed)]
        return allowed.tobytes() if allowed.any() else mask

    def _find_longer(self, start: bytes) -> Any:
        """The tokens that begin with ``start`` and are longer, as bits."""
        found = self._spellings[bisect_left(self._spellings, (start, self.size)) :]
        return self._bits(token for _, token in takewhile(lambda item: item[0].startswith(start), found))

    def _bits(self, tokens: Iterable[int]) -> Any:
        bits = np.zeros(8 * -(-self.size // 8), dtype=np.uint8)
        bits[list(tokens)] = 1
        return np.packbits(bits, bitorder="little")


_VOCABULARIES: WeakKeyDictionary[TokenizerAdapter, Vocabulary] = WeakKeyDictionary()
_LOCKS: WeakKeyDictionary[TokenizerAdapter, threading.Lock] = WeakKeyDictionary()
_LOCK = threading.Lock()  # of the two


def vocabulary(codec: TokenizerAdapter) -> Vocabulary:
    """The vocabulary of a codec."""
    with _LOCK:
        lock = _LOCKS.setdefault(codec, threading.Lock())
    with lock:
        if (found := _VOCABULARIES.get(codec)) is None:
            found = Vocabulary(codec)
            with _LOCK:
                _VOCABULARIES[codec] = found
        return found


class _ByteVocabulary:
    """Every byte a token."""

    def __init__(self) -> None:
        self.matching = LLTokenizer("byte")

    def spelt(self, tokens: Sequence[int]) -> bytes:
        return bytes(tokens)

    def tokens(self, data: bytes) -> list[int]:
        return list(data)


@cache
def _byte_vocabulary() -> _ByteVocabulary:
    return _ByteVocabulary()


class GrammarMatcher:
    """A matcher that stands where a text ends, and can be sent to where any other ends.

    Args:
        rule: the grammar.
        tokens: what the text is made of.
        finite: whether its numbers must be such as a float can hold.
    """

    def __init__(self, rule: str, tokens: Vocabulary | _ByteVocabulary, finite: bool = False) -> None:
        self._tokens, self._finite = tokens, finite
        self.matcher = LLMatcher(tokens.matching, rule)
        self._data = b""
        self._marks: list[int] = []  # bytes after each token consumed

    def follow(self, data: bytes) -> int:
        """Go to the end of ``data``, or as far as it keeps to the grammar; returns how many of its bytes that is."""
        if not data.startswith(self._data):
            shared = _shared(self._data, data)
            keep = sum(1 for _ in _while_at_most(self._marks, shared))
            self.matcher.rollback(len(self._marks) - keep)
            del self._marks[keep:]
            self._data = self._data[: self._marks[-1] if self._marks else 0]
        if rest := data[len(self._data) :]:
            self.consume(self._tokens.tokens(rest))
        return len(self._data)

    def consume(self, tokens: Sequence[int]) -> int:
        """Go on by ``tokens``, or as many of them as keep to the grammar; returns how many."""
        count: int = self.matcher.try_consume_tokens(list(tokens))
        for token in tokens[:count]:
            self._data += self._tokens.spelt([token])
            self._marks.append(len(self._data))
        return count

    def mask(self) -> bytes:
        """One bit for each token: whether it may come next."""
        mask: bytes = self.matcher.compute_bitmask()
        if self.matcher.is_error():
            raise GrammarError(f"The grammar became too complex to follow: {self.matcher.get_error().splitlines()[0]}")
        if self._finite and isinstance(self._tokens, Vocabulary) and (number := number_at_end(self._data)):
            return self._tokens.finite(mask, number)
        return mask


def _shared(one: bytes, other: bytes) -> int:
    """Length of the common prefix."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _while_at_most(marks: Sequence[int], most: int) -> Iterator[int]:
    for mark in marks:
        if mark > most:
            return
        yield mark


# -- one answer -------------------------------------------------------------------------------------------------------


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
        self._text = GrammarMatcher(grammar.text, _byte_vocabulary())
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

    # Each of these takes the answer's text so far. They are timed together.

    @property
    def trigger(self) -> str | None:
        """The text from which on the rule holds; None: from the start."""
        return self.grammar.trigger

    @property
    def what(self) -> str:
        """How to call the rule in errors."""
        return self.grammar.what

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
        if (straight := _way(matcher.deep_copy(), None)) is not None:
            yield straight
        rng = random.Random(0)
        ways = [way for _ in range(_WALKS) if (way := _way(matcher.deep_copy(), rng)) is not None]
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


def _way(matcher: Any, rng: random.Random | None) -> bytes | None:
    """Bytes that lead a matcher over bytes to an end; None if it was not found. Without ``rng``: straight ahead."""
    out = bytearray()
    while not matcher.is_accepting():
        step: bytes = matcher.compute_ff_bytes()
        if not step:
            mask = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)[:32], bitorder="little")
            allowed = np.nonzero(mask)[0].astype(np.uint8).tobytes()
            if not allowed or matcher.is_error():
                return None
            step = _step(allowed, rng)
        if not matcher.consume_tokens(list(step)):
            return None
        out += step
        if len(out) > (_LONGEST_WALK if rng else _LONGEST):
            return None
    return bytes(out)


def _step(allowed: bytes, rng: random.Random | None) -> bytes:
    if rng is None or rng.random() < 0.7:
        closers = _STRING_CLOSERS if b"a" in allowed else _CLOSERS
        for byte in closers if rng else closers + _FIRST:
            if byte in allowed:
                return bytes([byte])
    plain = bytes(byte for byte in allowed if 32 <= byte < 127 and byte != 92) or allowed  # no escapes, if possible
    return bytes([rng.choice(plain) if rng else plain[0]])
