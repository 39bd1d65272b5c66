"""Tokens of a text and back: incremental, exact, and with control tokens told apart."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nudging_llm.testing.fake_models import KINDS, codec
from nudging_llm.testing.tiny import tiny_tokenizer
from nudging_llm.text.chat_template import render_chat
from nudging_llm.text.incremental import Detokenizer, IncrementalEncoder
from nudging_llm.text.messages import read_messages
from tests.sampling import cases

ALPHABET = st.sampled_from(
    list("ab .\n<>/") + ["\u00e9", "\u65e5", "\U0001f642", "  ", " the", " cat", "> </", "Paris is"]
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=cases(150), deadline=None)
@given(parts=st.lists(ALPHABET, max_size=30), prompt=st.sampled_from(["", "Question: a b\nAnswer:", "x\n", "a  b"]))
def test_incremental_tokens_are_the_tokens_of_the_whole_text(kind, parts, prompt):
    path = IncrementalEncoder(codec(kind), [7, 8], prompt)
    answer = ""
    for part in parts:
        path.commit(answer)
        answer += part
        bare = prompt and answer and not answer[0].isspace() and not prompt[-1].isspace()
        assert path.encode(answer) == [7, 8, *codec(kind).encode(f"{prompt} {answer}" if bare else prompt + answer)]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=cases(100), deadline=None)
@given(text=st.text(alphabet="ab c\n\u00e9\u65e5\u672c\U0001f642.", max_size=40))
def test_tokens_come_back_as_the_text(kind, text):
    stream = Detokenizer(codec(kind))
    back = "".join(stream.feed(token) for token in codec(kind).encode(text))
    assert not stream.pending
    assert back.lstrip(" ") == text.lstrip(" ")  # one kind puts a space before every text


def test_crossing_tokenizer_is_recognised():
    assert codec("crossing").crossing, "the fake should have tokens across spaces, or it tests nothing"
    assert not codec("gpt_bpe").crossing


def test_added_tokens_that_a_template_uses_are_control_tokens_even_if_not_marked_special():
    from tokenizers import AddedToken

    from nudging_llm.text.tokenizer import TokenizerAdapter

    tokenizer = tiny_tokenizer(True)
    tokenizer.add_tokens([AddedToken("<tool_call>", special=False)])
    tokenizer.chat_template = "{% for m in messages %}<tool_call>{{ m.content }}{% endfor %}"
    found = TokenizerAdapter(tokenizer, "x")
    token = tokenizer.convert_tokens_to_ids("<tool_call>")
    ids = render_chat(found, read_messages("a <tool_call> b"))
    assert ids.count(token) == 1
    assert found.decode(ids) == "<tool_call>a <tool_call> b"
    assert token not in found.encode("<tool_call>")


def test_retokenising_costs_the_tail_only(monkeypatch):
    """Whatever the length of the answer, a settled text is not tokenised again."""
    found = codec("gpt_bpe")
    path, answer, seen = IncrementalEncoder(found, [], "Question: a\nAnswer:"), "", []
    monkeypatch.setattr(
        found, "_encode", lambda text, control, real=found._encode: (seen.append(len(text)), real(text, control))[1]
    )
    for _ in range(300):
        path.commit(answer)
        answer += " the cat sat"
        path.encode(answer)
        path.encode(answer + " on")
    assert max(seen) < 60
