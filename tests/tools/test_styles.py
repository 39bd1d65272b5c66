"""Styles that are made of the package's own: their tags count as those of any style."""

from __future__ import annotations

from nudging_llm.provenance import Piece, Reason
from nudging_llm.tools.definitions import Tool
from nudging_llm.tools.parser import parse_calls
from nudging_llm.tools.streaming import ToolCallParser
from nudging_llm.tools.styles import registered
from nudging_llm.tools.styles.hermes import Hermes

ROLL = Tool("roll", "Roll dice.", {"type": "object", "properties": {"sides": {"type": "integer"}}})


class Function(Hermes):
    """As Hermes, with other tags."""

    opener, closer = "<fn>", "</fn>"
    control_tokens = frozenset({opener})


def test_tags_from_outside_end_a_call_in_any_tag():
    with registered(Function()):
        closed = parse_calls('<fn>{"name": "roll", "arguments": {}}</fn> then', [ROLL])
        cut = parse_calls('<tool_call>{"name": "roll", <fn>{"name": "roll", "arguments": {}}</fn>', [ROLL])
    assert (closed.content, len(closed.calls), closed.invalid) == ("then", 1, ())
    assert [call.text for call in cut.invalid] == ['{"name": "roll",']
    assert [call.name for call in cut.calls] == ["roll"]


def test_a_variant_of_the_ruled_style_is_held_back_in_streams():
    text = 'Hi <fn>{"name": "roll", "arguments": {}}</fn>'
    with registered(Function()):
        parser, settled = ToolCallParser(True), ""
        for at, char in enumerate(text):
            piece = Piece(char, at, "base", Reason.CONFIDENT, 1, 0.9, "", 1, 0.0)
            settled += "".join(item.piece.text for item in parser.feed(piece))
    assert settled == "Hi "
