"""One tokenizer's tokens as bytes, for the grammar matcher. Reading a vocabulary takes a second or two, once in a process."""

from __future__ import annotations

import re
import threading
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from itertools import takewhile
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from llguidance import LLTokenizer

from ..errors import GrammarError
from ..text.tokenizer import TokenizerAdapter
from .numbers import endless

#: How tokens begin that may be a part of a number.
_NUMERAL = re.compile(rb"[0-9.eE+-]*[0-9]")


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


class ByteVocabulary:
    """Every byte a token."""

    def __init__(self) -> None:
        self.matching = LLTokenizer("byte")

    def spelt(self, tokens: Sequence[int]) -> bytes:
        return bytes(tokens)

    def tokens(self, data: bytes) -> list[int]:
        return list(data)


@cache
def byte_vocabulary() -> ByteVocabulary:
    """The vocabulary of bytes: one for the process."""
    return ByteVocabulary()
