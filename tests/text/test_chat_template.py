"""The nudging model's prompt: what its own chat template does with the messages."""

from __future__ import annotations

import pytest

import nudging_llm as n
from nudging_llm.testing.tiny import tiny_tokenizer
from nudging_llm.text.chat_template import render_chat
from nudging_llm.text.messages import read_messages


def test_system_message_is_folded_where_the_template_knows_none():
    from nudging_llm.text.tokenizer import TokenizerAdapter

    tokenizer = tiny_tokenizer(True)
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for m in messages %}<|turn|>{{ m.content }}{% endfor %}"
    )
    found = TokenizerAdapter(tokenizer, "x")
    ids = render_chat(found, read_messages([{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]))
    assert found.decode(ids) == "<|turn|>S\n\nU"


def test_no_chat_template(tiny_pair):
    base, (model, _) = tiny_pair
    generator = n.NudgingGenerator.from_pretrained(base, (model, tiny_tokenizer(False)), device="cpu")
    with pytest.raises(n.TemplateError, match="no chat template"):
        generator.generate("hello")
    assert generator.generate_raw("hello", "hello", max_tokens=4).provenance.finish_reason in ("stop", "length")


def test_chat_template_that_refuses(tiny_pair):
    base, (model, _) = tiny_pair
    tokenizer = tiny_tokenizer(True)
    tokenizer.chat_template = "{{ raise_exception('only poems') }}"
    generator = n.NudgingGenerator.from_pretrained(base, (model, tokenizer), device="cpu")
    with pytest.raises(n.TemplateError, match="only poems"):
        generator.generate("hello")
