"""Text that grows, as tokens; tokens that come one by one, as text: neither starts anew each time.

Tokenising a whole text at every round would cost O(length) each; ``IncrementalEncoder`` re-tokenises from the last *safe
boundary* only (``TokenizerAdapter.safe_boundary``).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

from .tokenizer import TokenizerAdapter

#: What a byte that is not (yet) a whole UTF-8 character decodes to.
REPLACEMENT = "\ufffd"


class IncrementalEncoder:
    """The tokens of a fixed prompt followed by a growing answer; re-tokenises only the tail.

    Args:
        codec: the tokenizer.
        prompt_ids: tokens that stand first and never change (a chat template, or just BOS).
        prompt_text: plain text that is tokenised together with the answer (the base model's transcript). If it does not
            end in white space, a space joins it to an answer that does not begin with white space.
    """

    def __init__(self, codec: TokenizerAdapter, prompt_ids: Sequence[int], prompt_text: str = "") -> None:
        self._codec, self._prompt = codec, prompt_text
        self._cut = 0  # a safe boundary of the text, and the tokens of prompt and text before it
        self._head = list(prompt_ids)
        self._text = prompt_text

    def encode(self, answer: str) -> list[int]:
        """Tokens of the prompt and ``answer``."""
        text = self._join(answer)
        if not text:
            return list(self._head)
        if not text.startswith(self._text[: self._cut]):
            raise ValueError("an answer may not change before its last safe boundary")
        if text.startswith(self._text):
            self._advance(self._codec.safe_boundary(self._text, len(self._text)))
        return [*self._head, *self._tail(text)]

    def commit(self, answer: str) -> None:
        """Say that the answer will never again be shorter than this, nor differ from it."""
        self._text = self._join(answer)

    def _join(self, answer: str) -> str:
        bare = self._prompt and answer and not answer[0].isspace() and not self._prompt[-1].isspace()
        return f"{self._prompt} {answer}" if bare else self._prompt + answer

    def _advance(self, cut: int) -> None:
        if cut > self._cut:
            self._head += self._tail(self._text[:cut])
            self._cut = cut

    def _tail(self, text: str) -> list[int]:
        tail = text[self._cut :]
        return self._codec.encode_tail(tail) if self._cut else self._codec.encode(tail)


class Detokenizer:
    """Tokens in, text out: in the shortest groups of tokens that are whole characters."""

    def __init__(self, codec: TokenizerAdapter) -> None:
        self._codec = codec
        self._group: tuple[int, ...] = ()

    @property
    def pending(self) -> bool:
        """Whether the last tokens are part of a character that is not whole yet."""
        return bool(self._group)

    def copy(self) -> Detokenizer:
        """Another one in the same state."""
        return copy.copy(self)

    def feed(self, token: int) -> str:
        """Text that ``token`` completes; empty while a character is incomplete."""
        group = (*self._group, token)
        text = self._codec.token_text(token) if len(group) == 1 else self._codec.decode(group)
        self._group = group if text.endswith(REPLACEMENT) else ()
        return "" if self._group else text
