"""Pieces sorted, as they come, into what is said and what is called."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nudging_llm.provenance import ModelUse, Piece, Provenance, Reason
from nudging_llm.result import Result
from nudging_llm.structured.response_format import read_response_format
from nudging_llm.tools.calls import InvalidToolCall
from nudging_llm.tools.streaming import CallDelta, ParsedPiece, ToolCallParser
from nudging_llm.tools.styles.hermes import HERMES
from tests.sampling import cases

CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = [{"name": name, "description": "Of a city.", "parameters": CITY} for name in ("get_weather", "get_time")]
FORM = read_response_format({"tools": TOOLS})[0]


def write(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def call(name: str, arguments: Any) -> str:
    return write({"name": name, "arguments": arguments})


def ruled(*calls: str) -> str:
    """Calls as the grammar has them written."""
    return "\n".join(HERMES.begin + one + HERMES.end for one in calls)


def pieces_of(text: str, cuts: Sequence[int]) -> list[Piece]:
    """A text in pieces that begin at ``cuts``."""
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(text)}), len(text)]
    return [
        Piece(text[a:b], a, ("base", "nudging")[i % 2], Reason.CONFIDENT, i, 0.5, "x", b - a, 0.1 * i)
        for i, (a, b) in enumerate(zip(edges, edges[1:], strict=False))
        if a < b
    ]


def result_of(pieces: Sequence[Piece]) -> Result:
    return FORM.read(Provenance(pieces=tuple(pieces), base=ModelUse(name="a"), nudging=ModelUse(name="b")))


def sort(pieces: Sequence[Piece], tools: bool = True) -> list[ParsedPiece]:
    tool_call_parser = ToolCallParser(tools)
    found = [out for piece in pieces for out in tool_call_parser.feed(piece)]
    return [*found, *tool_call_parser.end(result_of(pieces))]


def text_in(found: Sequence[ParsedPiece], channel: str) -> str:
    return "".join(out.piece.text for out in found if out.channel == channel)


def by_index(found: Sequence[ParsedPiece]) -> dict[int, list[CallDelta]]:
    deltas: dict[int, list[CallDelta]] = {}
    for out in found:
        for delta in out.calls:
            deltas.setdefault(delta.index, []).append(delta)
    return deltas


def check(text: str, cuts: Sequence[int]) -> list[ParsedPiece]:
    """Everything that holds of every text."""
    pieces = pieces_of(text, cuts)
    result, found = result_of(pieces), sort(pieces)
    assert "".join(out.piece.text for out in found) == text
    at = 0
    for out in found:
        assert out.piece.start == at and out.piece.text
        [whole] = [piece for piece in pieces if piece.start <= at < piece.start + len(piece.text)]
        assert (out.piece.source, out.piece.round) == (whole.source, whole.round)
        at += len(out.piece.text)
    assert sum(out.piece.n_tokens for out in found) == sum(piece.n_tokens for piece in pieces)
    assert text_in(found, "content").strip() == result.content.strip()
    for out in found:
        end = out.piece.start + len(out.piece.text)
        inside = any(start < end and out.piece.start < stop for start, stop in result.call_spans)
        assert not (inside and out.channel == "content"), "nothing of a call is content"
        assert not (out.calls and out.channel == "content"), "what tells of a call is of the call"
    expected = sorted([*result.calls, *result.invalid_calls], key=lambda one: one.start)
    deltas = by_index(found)
    assert sorted(deltas) == list(range(len(expected)))
    for index, one in enumerate(expected):
        first, *rest = deltas[index]
        assert first.name == one.name and first.id
        assert all(delta.name is None and delta.id is None for delta in rest)
        joined = "".join(delta.arguments for delta in deltas[index])
        if isinstance(one, InvalidToolCall):
            assert (joined, first.error) == (one.text, one.error)
        else:
            assert json.loads(joined) == one.arguments and first.error is None
    assert len({deltas[index][0].id for index in deltas}) == len(deltas)
    return found


CUTS = st.lists(st.integers(1, 300), max_size=60)
EVERY = range(1, 1000)  # a piece for each character
#: What looks like the beginning of a call, a part of one, or nothing of the kind.
FRAGMENTS = [
    "Let me see. ", "[1] see", "```python\nprint({})\n```", "<tool", "<tool_", "<", "{not json", "}", "[", "]", "`", "``",
    "```", "```json\n", "```tool_call\n{", "</tool_call>", "[TOOL_", "[TOOL_CALLS]", "<|python", "<|python_tag|>", " ", "\n",
    ", ", "; ", "東京 🙂", '"', "\\", "[TOOL_CALLS] get_time{", call("get_time", {"city": "Rome"}), call("get_moon", {}),
    "[" + call("get_time", {}) + ", " + call("get_weather", {"city": "a } b"}) + "]", '{"a": 1}', "{}",
]  # fmt: skip
ARGUMENTS = st.dictionaries(
    st.text(st.characters(codec="utf-8"), max_size=6), st.text(st.characters(codec="utf-8"), max_size=12), max_size=3
)
ODD_ARGUMENTS = st.sampled_from(
    [{"city": "</tool_call>"}, {"city": '<tool_call>\n{"name": "x'}, {"a": {"b": "}}"}}, {"city": '"}'}, {}]
)
RULED_CALL = st.builds(call, st.sampled_from(["get_weather", "get_time"]), ARGUMENTS | ODD_ARGUMENTS)


@given(fragments=st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=5), max_size=6), cuts=CUTS)
@example(fragments=["[TOOL_CALLS] ", call("get_moon", {}), " so"], cuts=EVERY)
@example(fragments=["Look:\n```json\n", call("get_time", {"city": "a ``` b"}), "\n``` there"], cuts=EVERY)
@settings(max_examples=cases(400), deadline=None)
def test_any_text_in_any_pieces_is_sorted_as_the_whole_is_read(fragments, cuts):
    text = "".join(fragments).replace("<tool_call>", "")
    check(text, cuts)


@given(
    said=st.lists(st.sampled_from(FRAGMENTS), max_size=3), calls=st.lists(RULED_CALL, min_size=1, max_size=3), cuts=CUTS
)
@settings(max_examples=cases(300), deadline=None)
def test_ruled_calls_after_any_text_are_those_that_are_read_from_the_whole(said, calls, cuts):
    check("".join(said) + ruled(*calls), cuts)


STYLES = {
    "tags": ruled(call("get_time", {"city": "Rome"}), call("get_weather", {"city": "東京 }"})),
    "fence": f"```json\n[{call('get_time', {'city': 'Rome'})}, {call('get_weather', {'city': '東京 }'})}]\n```",
    "plain fence": f"```\n{call('get_time', {'city': 'Rome'})}\n{call('get_weather', {'city': '東京 }'})}\n```",
    "mistral": f"[TOOL_CALLS] [{call('get_time', {'city': 'Rome'})}, {call('get_weather', {'city': '東京 }'})}]",
    "new mistral": '[TOOL_CALLS]get_time[ARGS]{"city": "Rome"}[TOOL_CALLS]get_weather[ARGS]{"city": "東京 }"}',
    "llama": f"<|python_tag|>{call('get_time', {'city': 'Rome'})}; {call('get_weather', {'city': '東京 }'})}",
    "bare": f"{call('get_time', {'city': 'Rome'})}\n{call('get_weather', {'city': '東京 }'})}",
    "list": f"[{call('get_time', {'city': 'Rome'})}, {call('get_weather', {'city': '東京 }'})}]",
    "Python": "[{'name': 'get_time', 'arguments': {'city': 'Rome'}}, {'name': 'get_weather', 'arguments': {'city': '東京 }'}}]",
}


@pytest.mark.parametrize("style", STYLES)
@given(cuts=CUTS)
@settings(max_examples=20, deadline=None)
def test_two_calls_are_found_in_every_style(style, cuts):
    deltas = by_index(check(STYLES[style], cuts))
    assert [deltas[index][0].name for index in deltas] == ["get_time", "get_weather"]
    values = [json.loads("".join(delta.arguments for delta in deltas[index])) for index in deltas]
    assert values == [{"city": "Rome"}, {"city": "東京 }"}]


@pytest.mark.parametrize("style", ["tags", "fence", "plain fence", "mistral", "llama"])
@given(cuts=CUTS)
@settings(max_examples=20, deadline=None)
def test_words_before_calls_are_content_and_calls_are_not(style, cuts):
    found = check("Let me see.\n" + STYLES[style], cuts)
    assert text_in(found, "content").strip() == "Let me see."


def test_ruled_calls_are_handed_on_as_they_are_written():
    text = "So: " + ruled(call("get_time", {"city": "Rome"}))
    tool_call_parser, seen = ToolCallParser(True), ""
    for piece in pieces_of(text, EVERY):
        for out in tool_call_parser.feed(piece):
            seen += "".join(delta.arguments for delta in out.calls)
            if out.channel == "content":
                assert out.piece.start < 4
        written = text[: piece.start + 1].partition('"arguments": ')[2]
        assert seen == written.removesuffix(HERMES.end).partition("}")[0] + ("}" if "}" in written else "")
    assert json.loads(seen) == {"city": "Rome"}


def test_a_call_s_name_comes_with_its_first_part_and_before_its_arguments():
    text = ruled(call("get_time", {"city": "Rome"}))
    deltas = by_index(sort(pieces_of(text, EVERY)))[0]
    assert (deltas[0].name, deltas[0].arguments) == ("get_time", "")
    assert len(deltas) == 1 + len('{"city": "Rome"}')


# -- at once ----------------------------------------------------------------------------------------------------------

WORDS = st.text(st.sampled_from("abc .,:;!?()|>}]\n\t東🙂\"'"), max_size=30)


@given(text=WORDS.map(lambda words: "A" + words), cuts=CUTS)
@settings(max_examples=cases(100), deadline=None)
def test_text_that_cannot_be_a_call_is_handed_on_at_once(text, cuts):
    tool_call_parser = ToolCallParser(True)
    for piece in pieces_of(text, cuts):
        assert list(tool_call_parser.feed(piece)) == [ParsedPiece(piece)]


@given(text=st.text(max_size=20) | st.sampled_from(list(STYLES.values())), cuts=CUTS)
@settings(max_examples=60, deadline=None)
def test_without_tools_everything_is_handed_on_at_once(text, cuts):
    tool_call_parser = ToolCallParser(False)
    pieces = pieces_of(text, cuts)
    assert [list(tool_call_parser.feed(piece)) for piece in pieces] == [[ParsedPiece(piece)] for piece in pieces]
    assert list(tool_call_parser.end(result_of(pieces))) == []


@pytest.mark.parametrize(
    ("text", "settled"),
    [
        ("[1] see", 2),  # a list of calls begins with an object
        ("a < b", 4),
        ("Use <tool> here", 10),
        ("Use <tool_calls> here", 15),
        ("In `code so", 5),
        ("As ```python\nx", 7),
        ("As [TOOL_BOX] so", 10),
        ("As <|end|> so", 7),
        ("Sets {1, 2} are", 6),
    ],
)
def test_what_only_looks_like_a_call_is_handed_on_when_that_shows(text, settled):
    """``settled``: how many characters are needed to tell."""
    tool_call_parser = ToolCallParser(True)
    pieces = pieces_of(text, EVERY)
    handed_on = [sum(len(out.piece.text) for out in tool_call_parser.feed(piece)) for piece in pieces]
    assert sum(handed_on[:settled]) == settled
    assert handed_on[settled:] == [1] * (len(text) - settled)


@given(fragments=st.lists(st.sampled_from(FRAGMENTS), max_size=5), cuts=CUTS)
@settings(max_examples=cases(200), deadline=None)
def test_only_what_may_be_a_call_is_held_back(fragments, cuts):
    tool_call_parser, text, given_on = ToolCallParser(True), "A" + "".join(fragments).replace("<tool_call>", ""), 0
    for piece in pieces_of(text, cuts):
        given_on += sum(len(out.piece.text) for out in tool_call_parser.feed(piece))
        held = text[given_on : piece.start + len(piece.text)]
        assert held == "" or held[0] in "<[`"


def test_pieces_are_cut_where_the_channel_changes():
    text = "Now: " + ruled(call("get_time", {}))
    one = pieces_of(text, [])
    found = sort(one)
    assert [(out.piece.text, out.channel) for out in found] == [("Now: ", "content"), (text[5:], "tool_call")]
    assert [out.piece.n_tokens for out in found] == [one[0].n_tokens, 0]


@pytest.mark.parametrize("text", ["[TOOL_CALLS]", "So: <|python_tag|>", "[TOOL_CALLS][TOOL_CALLS]get_time{}"])
def test_a_tag_with_nothing_in_it_is_handed_on_as_an_invalid_call(text):
    first, *_ = by_index(check(text, [])).values()
    assert first[0].error and first[0].arguments == ""
