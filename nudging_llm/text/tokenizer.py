"""Text to tokens and back, for one tokenizer.

Knows: the tokenizer's vocabulary, its chat template, which tokens are control tokens, where text may be cut so that both sides
can be tokenised alone. Leaves to others: prompts' wording and any model.

A boundary before a space is safe if no token of the vocabulary reaches across it: then neither a BPE merge nor a unigram piece
can span it, and both sides tokenise independently. That is checked against the vocabulary, not assumed (one tokenizer in this
project's tests has the single crossing token ``> </``).
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from ..errors import ModelLoadError
from ..tools.styles import control_tokens

#: How vocabularies spell a space: as itself, SentencePiece's, byte-level BPE's.
_SPACES = frozenset({" ", "\u2581", chr(256 + 32)})
_WHITE = _SPACES | {"\t", "\n", "\v", "\f", "\r"} | {chr(256 + code) for code in range(9, 14)}
#: Candidates for a character put before a text, so that it is never treated as the start of a document.
_GUARDS = "axzAXZ0.;"


class TokenizerAdapter:
    """Encodes and decodes plain text with one *fast* tokenizer, and knows its control tokens.

    Args:
        tokenizer: a transformers tokenizer with a ``tokenizers`` backend. It is copied, never changed.
        name: of the model, for error messages.
        end_tokens: ids at which the model ends its text, besides the tokenizer's own end token.
        owned: True if nobody else holds this tokenizer: saves the copy.

    Raises:
        ModelLoadError: the tokenizer has no fast backend.
    """

    def __init__(self, tokenizer: Any, name: str, end_tokens: Sequence[int] = (), owned: bool = False) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None or not hasattr(backend, "encode"):
            raise ModelLoadError(
                f"The tokenizer of {name} ({type(tokenizer).__name__}) has no fast backend. Load it with "
                "AutoTokenizer.from_pretrained(…) from a folder that has a tokenizer.json."
            )
        self.name = name
        self._tokenizer = tokenizer
        self._backend = backend if owned else copy.deepcopy(backend)
        self._backend.no_truncation()
        self._backend.no_padding()
        self._lock = threading.Lock()  # one setting of the backend, encode_special_tokens, is changed per call
        template = getattr(tokenizer, "chat_template", None)
        template_text = template if isinstance(template, str) else "".join((template or {}).values())
        added = self._backend.get_added_tokens_decoder()
        self.control_tokens = frozenset(
            token
            for token, entry in added.items()
            if entry.special or (entry.content.strip() and entry.content in template_text)
        )
        self._loud = {
            entry.content: token for token, entry in added.items() if not entry.special and token in self.control_tokens
        }
        own_end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        self.stop_tokens = frozenset(end_tokens) | frozenset(own_end)  # what a model writes to end its text
        self.end_tokens = {token for token, entry in added.items() if entry.special} | self.stop_tokens
        call_starts = control_tokens()
        self.call_start_tokens = {
            token for token, entry in added.items() if entry.special and entry.content in call_starts
        }
        self.size: int = self._backend.get_vocab_size(with_added_tokens=True)
        self.crossing, self.crosses_wide = _crossing_characters(self._backend.get_vocab(with_added_tokens=True))
        safe_guards = [guard for guard in _GUARDS if guard not in self.crossing]
        self._guard = (safe_guards or _GUARDS)[0]
        self._may_cut = bool(safe_guards)
        self._guard_ids = self.encode(self._guard)
        self._guard_text = self._backend.decode(self._guard_ids, skip_special_tokens=False)
        self.bos_ids: list[int] = _leading_tokens(tokenizer(self._guard).input_ids, self._guard_ids)
        self.token_text = lru_cache(maxsize=65_536)(self._token_text)

    @property
    def chat_template(self) -> Any:
        """The tokenizer's chat template: text, several by name, or None."""
        return getattr(self._tokenizer, "chat_template", None)

    def apply_chat_template(self, messages: list[dict[str, Any]], **options: Any) -> str:
        """The chat template's text for messages, up to where the answer begins."""
        text: str = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options)
        return text

    def encode(self, text: str) -> list[int]:
        """Tokens of ``text`` as plain text: nothing in it becomes a control token."""
        if any(content in text for content in self._loud):
            return [token for part in self._split_loud(text) for token in self._encode(part, control=False)]
        return self._encode(text, control=False)

    def encode_control(self, text: str) -> list[int]:
        """Tokens of ``text``, control tokens recognised: for templates, never for text from outside."""
        return self._encode(text, control=True)

    def control_spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Character ranges of ``text`` that ``encode_control`` would turn into control tokens."""
        with self._lock:
            self._backend.encode_special_tokens = False
            encoding = self._backend.encode(text, add_special_tokens=False)
        for token, span in zip(encoding.ids, encoding.offsets, strict=True):
            if token in self.control_tokens:
                yield span

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of ``tokens`` as if it stood inside a document. Control tokens are spelt out."""
        whole: str = self._backend.decode([*self._guard_ids, *tokens], skip_special_tokens=False)
        return whole[len(self._guard_text) :]

    def serialized(self) -> str:
        """The tokenizer as the JSON of a ``tokenizer.json``."""
        text: str = self._backend.to_str()
        return text

    def is_end(self, token: int) -> bool:
        """Whether the token ends the text: the model's end tokens, and any special token, as text cannot hold it."""
        return token in self.end_tokens

    def safe_boundary(self, text: str, before: int) -> int:
        """The last position < ``before`` at which ``text`` can be cut and tokenised separately; 0 if there is none."""
        at = text.rfind(" ", 1, before) if self._may_cut else 0
        while at > 0:
            left = text[at - 1]
            if not left.isspace() and left not in self.crossing and not (self.crosses_wide and ord(left) > 127):
                return at
            at = text.rfind(" ", 1, at)
        return 0

    def encode_tail(self, tail: str) -> list[int]:
        """Tokens of ``tail``, which starts at a safe boundary, without what some tokenizers put before a text."""
        return self.encode(self._guard + tail)[len(self._guard_ids) :]

    def _token_text(self, token: int) -> str:
        return "" if self.is_end(token) else self.decode([token])

    def _encode(self, text: str, control: bool) -> list[int]:
        with self._lock:
            self._backend.encode_special_tokens = not control
            ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
            return ids

    def _split_loud(self, text: str) -> Iterator[str]:
        """Cut inside each added token that is not marked special, so that the backend cannot match it."""
        start = 0
        while start < len(text):
            hits = [(found, content) for content in self._loud if (found := text.find(content, start)) >= 0]
            if not hits:
                break
            found, _ = min(hits)
            yield text[start : found + 1]
            start = found + 1
        yield text[start:]


def _crossing_characters(vocab: dict[str, int]) -> tuple[frozenset[str], bool]:
    """Characters after which some token of the vocabulary goes on with a space; and whether a non-ASCII one does."""
    found = {
        left
        for token in vocab
        for left, right in zip(token, token[1:], strict=False)
        if right in _SPACES and left not in _WHITE
    }
    return frozenset(found), any(ord(char) > 127 for char in found)


def _leading_tokens(with_special: Sequence[int], plain: Sequence[int]) -> list[int]:
    """What the tokenizer puts before a text (BOS), given the same text with and without."""
    for start in range(len(with_special) - len(plain) + 1):
        if list(with_special[start : start + len(plain)]) == list(plain):
            return list(with_special[:start])
    return []
