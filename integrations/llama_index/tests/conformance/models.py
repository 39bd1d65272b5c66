"""Tiny random models for the suite: every answer is nonsense, and the same each time."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import torch
from tokenizers import processors

from nudging_llm.testing.tiny import CHAT_TEMPLATE, tiny_model, tiny_tokenizer

#: As many models' templates: they write the beginning-of-text token themselves, and take a system message first or not at all.
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' and not loop.first %}"
    "{{ raise_exception('The system message must come first.') }}{% endif %}{% endfor %}" + CHAT_TEMPLATE
)


def tokenizer(chat: bool) -> Any:
    """Bytes and control tokens, one of which begins every text."""
    found = tiny_tokenizer(chat)
    found.add_special_tokens({"bos_token": "<s>"})
    found.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", found.bos_token_id)]
    )
    if chat:
        found.chat_template = TEMPLATE
    return found


@lru_cache
def pair(seed: int, chat: bool) -> tuple[Any, Any]:
    """A model and its tokenizer, with room for prompts of one token a byte."""
    model = tiny_model(seed, vocab_size=259, max_position_embeddings=16384, bos_token_id=258)
    words = tokenizer(False).convert_tokens_to_ids([*ascii_lowercase, "\u0120"])
    others = [token for token in range(259) if token not in words]
    with torch.no_grad():  # letters and spaces alone: whatever else there is is always less likely than one of them
        rows = model.lm_head.weight
        rows[words[-1]] *= 2
        rows[others] = rows[[words[token % len(words)] for token in others]] / 2
    return model, tokenizer(chat)


def save(folder: Path, seed: int, chat: bool) -> str:
    """The same as a folder."""
    model, its_tokenizer = pair(seed, chat)
    path = folder / f"model-{seed}"
    model.save_pretrained(path)
    its_tokenizer.save_pretrained(path)
    return str(path)
