"""Stopping, tokenisation and prompts: text-level behaviour."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nudging_llm import BaseTemplate
from nudging_llm.decoding.stopping import Answer
from nudging_llm.provenance import Piece, Reason
from nudging_llm.testing.fake_models import KINDS, codec
from nudging_llm.testing.tiny import tiny_tokenizer
from nudging_llm.text.prompts import read_messages, render_chat
from nudging_llm.text.tokenizer import Detokenizer, IncrementalEncoder


def piece(text: str, start: int) -> Piece:
    return Piece(text, start, "base", Reason.CONFIDENT, 1, 0.9, "x", 1, 0.0)


def feed(parts, stop=(), markers=(), guard=True):
    """Everything that goes out, and how it ended."""
    answer, out = Answer(stop, guard), []
    answer.watch_markers(markers)
    for part in parts:
        whole = answer.add(piece(part, len(answer.text)))
        out += answer.ready()
        if not whole or answer.finish_reason:
            break
    answer.unwatch_markers()
    out += answer.ready(final=True)
    return "".join(p.text for p in out), answer.finish_reason


def chop(text: str, seed: int) -> list[str]:
    rng, parts = random.Random(seed), []
    while text:
        n = rng.choice([1, 1, 2, 5, 9, 40])
        parts, text = [*parts, text[:n]], text[n:]
    return parts


TEXTS = [
    "one two. three four. five",
    "Paris is it.\n\nQuestion: and Rome?\nAnswer: no",
    "abcabcabcab cab",
    "yes\nyes\nyes\nno",
    "I know that I know nothing more than this. " * 5,
    "ab" * 200,
    "}\n}\n}\n}\n",
    "a\n\na\n \na\nb",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("stop", [(), (".",), ("ab", "abc", "cab"), ("\n\n",)])
def test_how_the_text_came_in_pieces_changes_nothing(text, stop):
    markers = ("\nQuestion:", "\nAnswer:")
    expected = feed(list(text), stop, markers)
    for seed in range(40):
        assert feed(chop(text, seed), stop, markers) == expected


def test_stop_string_split_across_pieces_is_excluded():
    assert feed(["so it ", "en", "d", "s"], stop=("ends",)) == ("so it ", "stop_string")


def test_marker_is_cut_with_the_white_space_before_it():
    assert feed(["Paris.", "\n", "\n", "Question", ": next"], markers=("\nQuestion:",)) == ("Paris.", None)


def test_only_what_may_change_is_held_back():
    answer = Answer(("END",), guard=True)
    answer.add(piece("abc", 0))
    assert [p.text for p in answer.ready()] == ["abc"]
    answer.add(piece(" E", 3))
    assert answer.ready() == []
    answer.add(piece("x", 5))
    assert [p.text for p in answer.ready()] == [" E", "x"]


def test_third_line_in_a_row_and_third_block_in_a_row_end_the_answer():
    assert feed(["go\n"] * 9) == ("go\ngo\ngo", "repetition")
    block = "This sentence has more than thirty characters. "
    text, finish = feed([block] * 9)
    assert (text, finish) == (block * 3, "repetition")


def test_a_phrase_that_comes_back_is_no_circle():
    phrase = "The number of apples that she has left is "
    text = "".join(f"{phrase}{n}. " for n in "three two one zero none".split())
    assert feed(chop(text, 1)) == (text, None)
    assert feed(["}\n"] * 6)[1] is None


ALPHABET = st.sampled_from(
    list("ab .\n<>/") + ["\u00e9", "\u65e5", "\U0001f642", "  ", " the", " cat", "> </", "Paris is"]
)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(parts=st.lists(ALPHABET, max_size=30), prompt=st.sampled_from(["", "Question: a b\nAnswer:", "x\n", "a  b"]))
def test_incremental_tokens_are_the_tokens_of_the_whole_text(kind, parts, prompt):
    path = IncrementalEncoder(codec(kind), [7, 8], prompt)
    answer = ""
    for part in parts:
        path.settle(answer)
        answer += part
        bare = prompt and answer and not answer[0].isspace() and not prompt[-1].isspace()
        assert path.encode(answer) == [7, 8, *codec(kind).encode(f"{prompt} {answer}" if bare else prompt + answer)]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100, deadline=None)
@given(text=st.text(alphabet="ab c\n\u00e9\u65e5\u672c\U0001f642.", max_size=40))
def test_tokens_come_back_as_the_text(kind, text):
    stream = Detokenizer(codec(kind))
    back = "".join(stream.feed(token) for token in codec(kind).encode(text))
    assert not stream.pending
    assert back.lstrip(" ") == text.lstrip(" ")  # one kind puts a space before every text


def test_crossing_tokenizer_is_recognised():
    assert codec("crossing").crossing, "the fake should have tokens across spaces, or it tests nothing"
    assert not codec("gpt_bpe").crossing


# -- prompts ----------------------------------------------------------------------------------------------------------


def test_base_prompt():
    messages = read_messages(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "system", "content": [{"type": "text", "text": "Use facts."}]},
            {"role": "user", "content": "Why?"},
            {"role": "assistant", "content": "So."},
            {"role": "user", "content": "Really?"},
            {"role": "user", "content": "Sure?"},
        ]
    )
    assert BaseTemplate().render(messages) == (
        "Be brief.\n\nUse facts.\nQuestion: Why?\nAnswer: So.\nQuestion: Really?\n\nSure?\nAnswer:"
    )


def test_custom_base_template():
    template = BaseTemplate("{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant]", ("\n[",))
    assert template.render(read_messages("Hi")) == "[user] Hi\n[assistant]"


def test_base_template_is_sandboxed():
    from nudging_llm import TemplateError

    with pytest.raises(TemplateError):
        BaseTemplate("{{ messages.__class__.__mro__ }}x").render(read_messages("Hi"))


def test_system_message_is_folded_where_the_template_knows_none():
    from nudging_llm.text.tokenizer import TokenizerAdapter

    tokenizer = tiny_tokenizer(True)
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for m in messages %}<|turn|>{{ m.content }}{% endfor %}"
    )
    found = TokenizerAdapter(tokenizer, "x")
    ids = render_chat(
        tokenizer, found, read_messages([{"role": "system", "content": "S"}, {"role": "user", "content": "U"}])
    )
    assert found.decode(ids) == "<|turn|>S\n\nU"


def test_added_tokens_that_a_template_uses_are_control_tokens_even_if_not_marked_special():
    from tokenizers import AddedToken

    from nudging_llm.text.tokenizer import TokenizerAdapter

    tokenizer = tiny_tokenizer(True)
    tokenizer.add_tokens([AddedToken("<tool_call>", special=False)])
    tokenizer.chat_template = "{% for m in messages %}<tool_call>{{ m.content }}{% endfor %}"
    found = TokenizerAdapter(tokenizer, "x")
    token = tokenizer.convert_tokens_to_ids("<tool_call>")
    ids = render_chat(tokenizer, found, read_messages("a <tool_call> b"))
    assert ids.count(token) == 1
    assert found.decode(ids) == "<tool_call>a <tool_call> b"
    assert token not in found.encode("<tool_call>")


def test_the_guard_counts_lines_rightly_after_a_cut_at_a_marker():
    answer = Answer((), guard=True)
    answer.watch_markers(("\nQ:",))
    assert answer.add(piece("x\nab\nab\n", 0))
    assert not answer.add(piece("Q:", 8))
    assert answer.text == "x\nab\nab"
    answer.unwatch_markers()
    answer.add(piece("\nab", 7))
    assert answer.finish_reason is None
    answer.add(piece("\n", 10))
    assert (answer.text, answer.finish_reason) == ("x\nab\nab\nab", "repetition")


def test_retokenising_costs_the_tail_only(monkeypatch):
    """Whatever the length of the answer, a settled text is not tokenised again."""
    found = codec("gpt_bpe")
    path, answer, seen = IncrementalEncoder(found, [], "Question: a\nAnswer:"), "", []
    monkeypatch.setattr(
        found, "_encode", lambda text, control, real=found._encode: (seen.append(len(text)), real(text, control))[1]
    )
    for _ in range(300):
        path.settle(answer)
        answer += " the cat sat"
        path.encode(answer)
        path.encode(answer + " on")
    assert max(seen) < 60
