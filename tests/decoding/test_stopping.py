"""What ends an answer: stop strings, role markers and repetition, however the text comes in pieces."""

from __future__ import annotations

import random

import pytest

from nudging_llm.decoding.pieces import PieceBuffer
from nudging_llm.provenance import Piece, Reason


def piece(text: str, start: int) -> Piece:
    return Piece(text, start, "base", Reason.CONFIDENT, 1, 0.9, "x", 1, 0.0)


def feed(parts, stop=(), markers=(), guard=True):
    """Everything that goes out, and how it ended."""
    answer, out = PieceBuffer(stop, guard), []
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


def test_a_cut_takes_off_the_tokens_of_what_it_removes():
    answer = PieceBuffer((), guard=False)
    answer.watch_markers(("\nQ:",))
    for text, start in (("ab", 0), ("\n", 2), ("Q:", 3)):
        answer.add(piece(text, start))
    assert (answer.text, answer.n_tokens) == ("ab", 1)


def test_only_what_may_change_is_held_back():
    answer = PieceBuffer(("END",), guard=True)
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


def test_the_guard_counts_lines_rightly_after_a_cut_at_a_marker():
    answer = PieceBuffer((), guard=True)
    answer.watch_markers(("\nQ:",))
    assert answer.add(piece("x\nab\nab\n", 0))
    assert not answer.add(piece("Q:", 8))
    assert answer.text == "x\nab\nab"
    answer.unwatch_markers()
    answer.add(piece("\nab", 7))
    assert answer.finish_reason is None
    answer.add(piece("\n", 10))
    assert (answer.text, answer.finish_reason) == ("x\nab\nab\nab", "repetition")
