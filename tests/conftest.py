"""Fixtures: tiny random models for errors and plumbing, the starter pair for everything that claims to work."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.questions import OWN_QUESTIONS, data_folder, read_questions
from nudging_llm import NudgingConfig, NudgingGenerator, Piece

__all__ = ["OWN_QUESTIONS", "data_folder", "read_questions"]  # also from here, for tests

CHAT = (
    "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)


def tiny_tokenizer(chat: bool) -> PreTrainedTokenizerFast:
    """Bytes, plus control tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ("<|end|>", "<|turn|>")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")
    if chat:
        tokenizer.chat_template = CHAT
    return tokenizer


def tiny_model(seed: int = 0, **changes) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    settings = dict(
        vocab_size=258,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=256,
        pad_token_id=None,
        initializer_range=0.6,
    )
    model = LlamaForCausalLM(LlamaConfig(**(settings | changes)))
    if "vocab_size" not in changes:
        with torch.no_grad():  # words of sensible length: spaces are more likely
            model.lm_head.weight[tiny_tokenizer(False).convert_tokens_to_ids("\u0120")] *= 3
    return model.eval()


@pytest.fixture(scope="session")
def tiny_pair() -> tuple:
    return (tiny_model(7), tiny_tokenizer(False)), (tiny_model(57), tiny_tokenizer(True))


@pytest.fixture
def tiny(tiny_pair) -> NudgingGenerator:
    return NudgingGenerator.from_pretrained(*tiny_pair, NudgingConfig(max_tokens=60), dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def starter() -> NudgingGenerator:
    """The starter pair in float32, where identity is exact."""
    return NudgingGenerator.starter(dtype="float32", device="cpu")


class Near(float):
    """A float32 probability: equal to another within what the shape of a forward changes in the order of its sums."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, float) and abs(float(self) - float(other)) < 1e-4

    __hash__ = None  # type: ignore[assignment]


def timeless(pieces: Iterable[Piece]) -> list[Piece]:
    """Pieces that can be compared across requests: without their times, and with probabilities that need only be near."""
    return [
        replace(p, elapsed_s=0.0, base_top_prob=None if p.base_top_prob is None else Near(p.base_top_prob))
        for p in pieces
    ]
