"""Models without weights over real tokenizers, and an engine that evaluates them.

The next token of a ``FakeModel`` is a hash of the tokens so far. It often follows a small "language", so that two fakes
often agree, as two real models do. The tokenizers are real ones (``tokenizers`` library), small, and of the kinds that
make a difference to a decoder. ``FakeEngine`` checks at each forward that its cache is what the session says.
"""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from ..engines.base import Row
from ..protocol import Prediction
from ..text.tokenizer import TokenizerAdapter

TEXT = [
    "the cat sat on the mat. the dog ran to the cat and sat.",
    "one two three four five six seven eight nine ten",
    "Paris is the capital of France.\nIt has two million people.\n\nQuestion: why?\nAnswer: so.",
    "caf\u00e9 na\u00efve \u65e5\u672c\u8a9e \U0001f642 z\u00fcrich  double  space",
    "step 1: add. step 2: add.\nstep 3: stop.",
]
SPECIAL = ["<end>", "<turn>"]


class FakeTokenizer:
    """What the package needs of a transformers tokenizer, over a ``tokenizers.Tokenizer``."""

    chat_template = None

    def __init__(self, backend: Tokenizer, bos: bool = False) -> None:
        self.backend_tokenizer = backend
        self.eos_token_id = backend.token_to_id("<end>")
        self._bos = [backend.token_to_id("<turn>")] if bos else []

    def __call__(self, text: str) -> Any:
        class Output:
            input_ids = [*self._bos, *self.backend_tokenizer.encode(text, add_special_tokens=False).ids]

        return Output


def _special(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    return tokenizer


@lru_cache
def tokenizer(kind: str) -> FakeTokenizer:
    """The tokenizer of one kind in ``KINDS``."""
    if kind == "bytes":
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        tok = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
        tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tok.decoder = decoders.ByteLevel()
    elif kind in ("byte_bpe", "gpt_bpe", "crossing"):
        tok = Tokenizer(models.BPE())
        # without the regex merges may cross spaces: "crossing" has tokens such as "he c"
        tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind != "crossing")
        tok.decoder = decoders.ByteLevel()
        size = {"byte_bpe": 300, "gpt_bpe": 420, "crossing": 330}[kind]
        trainer = trainers.BpeTrainer(
            vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        )
        tok.train_from_iterator(TEXT * 3, trainer)
    elif kind == "metaspace":  # puts a space before every text, as Llama-2 does
        tok = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        tok.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        tok.decoder = decoders.Sequence(
            [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        _train_fallback(tok)
    elif kind == "fallback":  # as Gemma: no prefix, spaces become U+2581, unknown characters become bytes
        tok = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        tok.normalizer = normalizers.Replace(" ", "\u2581")
        tok.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
        _train_fallback(tok)
    else:
        raise ValueError(kind)
    return FakeTokenizer(_special(tok), bos=kind in ("metaspace", "fallback"))


def _train_fallback(tok: Tokenizer) -> None:
    """A BPE with merges within words, ASCII and byte tokens in the vocabulary, other characters as bytes."""
    special = ["<unk>"] + [f"<0x{b:02X}>" for b in range(256)]
    ascii_text = ["".join(c for c in line if ord(c) < 128).replace(" ", " \u2581") for line in TEXT]
    words = [word for line in ascii_text for word in line.split(" ")]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    scratch = Tokenizer(models.BPE(unk_token="<unk>"))
    scratch.train_from_iterator(words, trainer)
    model = json.loads(scratch.to_str())["model"]
    vocab, merges = model["vocab"], [tuple(merge) for merge in model["merges"]]
    tok.model = models.BPE(vocab=vocab, merges=merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)


#: One token a byte; byte-level BPE of two sizes; with a space before every text (Llama 2); with bytes for unknown characters
#: (Gemma); with tokens that reach across a space.
KINDS = ("bytes", "byte_bpe", "gpt_bpe", "metaspace", "fallback", "crossing")


@lru_cache
def codec(kind: str) -> TokenizerAdapter:
    """The adapter over ``tokenizer(kind)``, made once."""
    return TokenizerAdapter(tokenizer(kind), f"fake-{kind}")


def _hash(*parts: Any) -> int:
    return zlib.crc32(repr(parts).encode())


class NextTokenModel(Protocol):
    """What ``FakeEngine`` needs of a model; ``kind`` and ``seed`` make its name, ``codec`` is its tokenizer."""

    kind: str
    seed: int
    codec: TokenizerAdapter

    def next(self, tokens: Sequence[int]) -> tuple[int, float]:
        """The most probable next token after ``tokens``, and its probability."""
        ...


class FakeModel:
    """A model whose next token is a hash of the tokens so far.

    Args:
        kind: of its tokenizer, one of ``KINDS``.
        seed: two models of one seed are equal; ``seed % 4`` chooses the language.
        agree: how often, in 256ths, the next token follows the language, which is a function of the text alone. Else it
            is any token.
        end: how often, in 256ths, the text ends.
        low: how many of 100 tokens have a probability below 0.35; the others have one from 0.45 to 0.99.
    """

    def __init__(self, kind: str, seed: int, agree: int = 200, end: int = 8, low: int = 40) -> None:
        self.kind, self.seed, self.agree, self.end, self.low = kind, seed, agree, end, low
        self.codec = codec(kind)
        self._language = _LANGUAGES[seed % len(_LANGUAGES)]
        self._word_ids = [self._ids(word) for word in self._language]

    def next(self, tokens: Sequence[int]) -> tuple[int, float]:
        """See ``NextTokenModel``."""
        h = _hash(self.seed, tuple(tokens[-24:]), len(tokens))
        prob = 0.05 + 0.3 * (h >> 8 & 255) / 255 if (h & 255) % 100 < self.low else 0.45 + 0.54 * (h >> 8 & 255) / 255
        if (h >> 16 & 255) < self.end:
            return self.codec._backend.token_to_id("<end>"), prob
        if (h >> 24 & 255) < self.agree:
            if (rest := self._rest_of_character(tokens)) is not None:
                return rest, prob
            tail = self.codec.decode([t for t in tokens[-4:] if not self.codec.is_end(t)])[-2:]
            word = self._language[_hash(tail, self.seed // 4096) % len(self._language)]
            ids = self._ids(word)
            return ids[_hash(tail) % len(ids) if h & 1024 else 0], prob
        return h % (self.codec.size - len(SPECIAL)), prob

    def _ids(self, word: str) -> list[int]:
        return self.codec.encode_tail(word) if word.startswith(" ") and self.codec._may_cut else self.codec.encode(word)

    def _rest_of_character(self, tokens: Sequence[int]) -> int | None:
        """The token that goes on with a character of the language that the last token began."""
        for ids in self._word_ids:
            for i, token in enumerate(ids[:-1]):
                if tokens and tokens[-1] == token and self.codec.token_text(token).endswith("\ufffd"):
                    return ids[i + 1]
        return None


_LANGUAGES = [
    [" the", " cat", " sat", ".", " on", " a  b", "\n", " two", " caf\u00e9", " \u65e5\u672c", "\n\n", "s"],
    [" the the", "\n", " a", " a", "ing", " \U0001f642", "  x", " one two three"],
    [" go", " go", "\nQuestion:", " stop now", " \u00fc", "x y z", "\nAnswer:", " go"],
    [" Paris", " is", " the", " capital", " of France.", "\n", " so", " it is."],
]


class FakeEngine:
    """An ``Engine`` whose cache is the list of tokens, checked at every forward.

    Args:
        model: what predicts.
        can_crop: False for a cache that cannot go back, as a recurrent model's.

    Attributes:
        forwards: how many there were.
        most_rows: the number of rows of the largest one.
    """

    revision: str | None = None
    context_length: int | None = None
    vocabulary_size: int | None = None
    device = "fake"

    def __init__(self, model: NextTokenModel, can_crop: bool = True) -> None:
        self.model, self.can_crop, self.can_pack = model, can_crop, can_crop
        self.name = f"fake-{model.kind}-{model.seed}"
        self.tokenizer = model.codec
        self.forwards = self.most_rows = 0
        self.lock = threading.Lock()

    def new_cache(self) -> list[int]:
        return []

    def forward(self, rows: Sequence[Row]) -> list[list[Prediction]]:
        assert self.lock.locked() and rows and (len(rows) == 1 or self.can_pack)
        self.forwards += 1
        self.most_rows = max(self.most_rows, len(rows))
        return [self._row(row) for row in rows]

    def _row(self, row: Row) -> list[Prediction]:
        cache = row.cache
        assert len(cache) == row.past and row.tokens and 1 <= row.last <= len(row.tokens)
        cache.extend(row.tokens)
        found = []
        for end in range(len(cache) - row.last + 1, len(cache) + 1):
            token, prob = self.model.next(cache[:end])
            mask = row.masks[end - len(cache) + row.last - 1] if row.masks else None
            chosen = self._best(token, mask, end) if mask else token
            found.append(Prediction(token, prob, chosen, allowed=chosen == token))
        return found

    def _best(self, token: int, mask: bytes, end: int) -> int:
        """The token itself if it is allowed, else any that is, the same for the same text length and token."""
        if mask[token // 8] >> token % 8 & 1:
            return token
        allowed = [8 * at + bit for at, byte in enumerate(mask) if byte for bit in range(8) if byte >> bit & 1]
        return allowed[_hash(token, end) % len(allowed)]

    def crop(self, cache: list[int], drop: int) -> None:
        assert self.can_crop and 0 < drop <= len(cache)
        del cache[-drop:]

    def copy_cache(self, cache: list[int]) -> list[int]:
        return list(cache)

    def copy_prefix(self, cache: list[int], length: int) -> list[int]:
        assert self.can_crop and 0 < length <= len(cache)
        return cache[:length]

    def cache_bytes(self, cache: list[int]) -> int:
        return 8 * len(cache)
