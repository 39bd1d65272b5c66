"""The terminal view: lines break between words, marks survive, nothing in an answer can drive the terminal."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from nudging_llm.provenance import Piece, Reason
from nudging_llm.views.terminal import TerminalView


def shown(texts: list[tuple[str, str]], width: int = 20, terminal: bool = True, **options) -> str:
    console = Console(
        file=io.StringIO(),
        force_terminal=terminal,
        width=width,
        color_system="truecolor" if terminal else None,
        **options,
    )
    view, at = TerminalView(console), 0
    for text, source in texts:
        view.write(Piece(text, at, source, Reason.CONFIDENT, 1, 0.5, "", 1, 0.0))
        at += len(text)
    view.end()
    return console.file.getvalue()


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.mark.parametrize("width", [8, 20, 33])
def test_lines_break_between_words(width):
    words = "the quick brown fox jumps over the lazy dog again and again".split()
    out = plain(shown([(("" if i == 0 else " ") + word, "base") for i, word in enumerate(words)], width))
    assert all(len(line) <= width for line in out.splitlines())
    assert out.split() == words


def test_wide_characters_count_double():
    out = plain(
        shown([("\u65e5\u672c\u8a9e", "base"), (" \u65e5\u672c\u8a9e", "base"), (" \u65e5\u672c\u8a9e", "base")], 14)
    )
    assert out.splitlines() == ["\u65e5\u672c\u8a9e \u65e5\u672c\u8a9e", "\u65e5\u672c\u8a9e"]


def test_a_word_in_two_pieces_is_not_torn_apart_at_the_join():
    assert "prevent able" not in plain(shown([("prevent", "base"), ("able", "nudging")]))


def test_no_colour_keeps_the_underline():
    assert "\x1b[4m" in shown([("word", "nudging")], no_color=True)


def test_control_characters_cannot_drive_the_terminal():
    out = shown([("a\x1b[2Jb\x9bc\rd\te\nf", "base")], 60)
    assert "\x1b[2J" not in out
    assert "\r" not in out
    assert "\x9b" not in out
    assert out.endswith("\nf\n")


def test_piped_output_is_the_text_itself():
    assert shown([("a ", "base"), ("b\n c", "nudging")], terminal=False) == "a b\n c\n"


def test_what_the_grammar_wrote_is_dim():
    out = shown([('{"a": ', "grammar"), ("5", "nudging"), ("}", "grammar")])
    assert plain(out) == '{"a": 5}\n'
    assert "\x1b[2m" in out and "\x1b[4;95m" in out
