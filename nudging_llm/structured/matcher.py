"""Follows a grammar along a text that changes: goes back to what two texts share, and on from there. llguidance matches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from llguidance import LLMatcher

from ..errors import GrammarError
from .numbers import number_at_end
from .vocabulary import ByteVocabulary, Vocabulary


class GrammarMatcher:
    """A matcher that stands where a text ends, and can be sent to where any other ends.

    Args:
        rule: the grammar.
        tokens: what the text is made of.
        finite: whether its numbers must be such as a float can hold.
    """

    def __init__(self, rule: str, tokens: Vocabulary | ByteVocabulary, finite: bool = False) -> None:
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
