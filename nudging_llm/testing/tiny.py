"""Real ``transformers`` models with random weights, small enough to be made anew in a test.

They write nonsense, and always the same. They are loaded, saved, moved and evaluated as every other model is, so a test
over them covers that code, too. Their tokenizer has one token for each byte.
"""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

#: A chat template: each message after its role, between two control tokens.
CHAT_TEMPLATE = (
    "{% for m in messages %}<|turn|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|turn|>assistant\n{% endif %}"
)


def tiny_tokenizer(chat: bool) -> PreTrainedTokenizerFast:
    """A tokenizer of 256 bytes and the control tokens ``<|end|>`` and ``<|turn|>``.

    Args:
        chat: whether it has a chat template, as a nudging model's tokenizer must.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ("<|end|>", "<|turn|>")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def tiny_model(seed: int = 0, **changes: Any) -> LlamaForCausalLM:
    """A Llama of two layers whose weights follow from ``seed``.

    Args:
        changes: settings of ``LlamaConfig`` that differ, for example ``max_position_embeddings``, which is 256 else.
    """
    torch.manual_seed(seed)
    settings = {
        "vocab_size": 258,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 256,
        "bos_token_id": None,
        "eos_token_id": 256,
        "pad_token_id": None,
        "initializer_range": 0.6,
    }
    model: LlamaForCausalLM = LlamaForCausalLM(LlamaConfig(**(settings | changes)))
    if "vocab_size" not in changes:
        with torch.no_grad():  # words of sensible length: spaces are more likely
            model.lm_head.weight[tiny_tokenizer(False).convert_tokens_to_ids("\u0120")] *= 3
    model.eval()
    return model
