"""Calls found in the text of an answer."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nudging_llm.tools.calls import InvalidToolCall, ToolCall, new_call_id
from nudging_llm.tools.definitions import Tool
from nudging_llm.tools.json_values import partial_object, plain_json
from nudging_llm.tools.parser import parse_calls
from nudging_llm.tools.styles.hermes import HERMES
from tests.sampling import cases

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


EMPTY = {"type": "object", "properties": {}}


WEATHER = Tool("get_weather", "Weather of a city.", CITY)


TIME = Tool("get_time", "", EMPTY)


TOOLS = (WEATHER, TIME)


ROME = ("get_weather", {"city": "Rome"})


OSLO = ("get_weather", {"city": "Oslo"})


NOW = ("get_time", {})


ROME_JSON = '{"name": "get_weather", "arguments": {"city": "Rome"}}'


OSLO_JSON = '{"name": "get_weather", "arguments": {"city": "Oslo"}}'


ROME_LLAMA = '{"name": "get_weather", "parameters": {"city": "Rome"}}'


FOUND = {
    "hermes": (f"<tool_call>\n{ROME_JSON}\n</tool_call>", "", [ROME]),
    "words around": (f"Let me see.\n<tool_call>{ROME_JSON}</tool_call>\nSo.", "Let me see.\n\nSo.", [ROME]),
    "two tags": (f"<tool_call>{ROME_JSON}</tool_call>\n<tool_call>{OSLO_JSON}</tool_call>", "", [ROME, OSLO]),
    "two in a tag": (f"<tool_call>\n{ROME_JSON}\n{OSLO_JSON}\n</tool_call>", "", [ROME, OSLO]),
    "list in a tag": (f"<tool_call>[{ROME_JSON}, {OSLO_JSON}]</tool_call> ok", "ok", [ROME, OSLO]),
    "fence in a tag": (f"<tool_call>\n```json\n{ROME_JSON}\n```\n</tool_call>", "", [ROME]),
    "unclosed": (f"Well. <tool_call>\n{ROME_JSON}", "Well.", [ROME]),
    "unclosed, then words": (f"<tool_call>{ROME_JSON}\n\nI wait.", "I wait.", [ROME]),
    "unclosed, then another": (f"<tool_call>{ROME_JSON}\n<tool_call>{OSLO_JSON}", "", [ROME, OSLO]),
    "bracket too many": (f"<tool_call>{ROME_JSON}}}</tool_call>", "", [ROME]),
    "closing tag in a string": (
        '<tool_call>{"name": "get_weather", "arguments": {"city": "a</tool_call>b"}}</tool_call>.',
        ".",
        [("get_weather", {"city": "a</tool_call>b"})],
    ),
    "no arguments": ('<tool_call>{"name": "get_time"}</tool_call>', "", [NOW]),
    "null arguments": ('<tool_call>{"name": "get_time", "arguments": null}</tool_call>', "", [NOW]),
    "arguments as a string": (
        '<tool_call>{"name": "get_weather", "arguments": "{\\"city\\": \\"Rome\\"}"}</tool_call>',
        "",
        [ROME],
    ),
    "arguments as an empty string": ('<tool_call>{"name": "get_time", "arguments": ""}</tool_call>', "", [NOW]),
    "wrapped": (f'<tool_call>{{"type": "function", "function": {ROME_JSON}}}</tool_call>', "", [ROME]),
    "wrapped, no type": (f'<tool_call>{{"function": {ROME_JSON}}}</tool_call>', "", [ROME]),
    "python": ("<tool_call>{'name': 'get_weather', 'arguments': {'city': 'Rome',}}</tool_call>", "", [ROME]),
    "python quotes": (
        "<tool_call>{'name': 'get_weather', 'arguments': {'city': 'O\\'x \"y\"', 'a': [True, None, False]}}</tool_call>",
        "",
        [("get_weather", {"city": 'O\'x "y"', "a": [True, None, False]})],
    ),
    "two in python": ("<tool_call>{'name': 'get_time'}\n{'name': 'get_time',}</tool_call>", "", [NOW, NOW]),
    "line break in a string": (
        '<tool_call>{"name": "get_weather", "arguments": {"city": "a\nb"}}</tool_call>',
        "",
        [("get_weather", {"city": "a\nb"})],
    ),
    "fenced": (f"I call:\n```json\n{ROME_JSON}\n```\nDone.", "I call:\n\nDone.", [ROME]),
    "fenced, two": (f"```tool_call\n{ROME_JSON}\n{OSLO_JSON}\n```", "", [ROME, OSLO]),
    "fenced in words, no language": (f"So:\n```\n[{ROME_JSON}]\n```", "So:", [ROME]),
    "fenced, unclosed": (f"So:\n```json\n{ROME_JSON}", "So:", [ROME]),
    "fence in a string": (
        'A\n```json\n{"name": "get_weather", "arguments": {"city": "```"}}\n```',
        "A",
        [("get_weather", {"city": "```"})],
    ),
    "llama": (ROME_LLAMA, "", [ROME]),
    "llama, python tag": (f"<|python_tag|>{ROME_LLAMA}", "", [ROME]),
    "llama, two": (f" {ROME_LLAMA}; {OSLO_JSON}\n", "", [ROME, OSLO]),
    "llama, lines": (f"{ROME_LLAMA}\n{OSLO_JSON}", "", [ROME, OSLO]),
    "bare list": (f"[{ROME_JSON}, {OSLO_JSON}]", "", [ROME, OSLO]),
    "mistral": (f"[TOOL_CALLS] [{ROME_JSON}, {OSLO_JSON}]", "", [ROME, OSLO]),
    "mistral, words": (f"Hm. [TOOL_CALLS][{ROME_JSON}]\n\nOk [1].", "Hm. \n\nOk [1].", [ROME]),
    "mistral, newer": ('[TOOL_CALLS]get_weather{"city": "Rome"}', "", [ROME]),
    "mistral, arguments": ('[TOOL_CALLS]get_weather[ARGS]{"city": "Rome"}', "", [ROME]),
    "mistral, id": ('[TOOL_CALLS]get_weather[CALL_ID]a1b2c3d4e[ARGS]{"city": "Rome"}', "", [ROME]),
    "mistral, two": ('[TOOL_CALLS]get_weather{"city": "Rome"}[TOOL_CALLS]get_time{}', "", [ROME, NOW]),
}


@pytest.mark.parametrize(("text", "content", "calls"), FOUND.values(), ids=FOUND)
def test_calls_found(text, content, calls):
    answer = parse_calls(text, TOOLS)
    assert [(call.name, call.arguments) for call in answer.calls] == calls
    assert answer.content == content
    assert not answer.invalid
    for call in answer.calls:
        assert text[call.start : call.start + len(call.text)] == call.text
        assert call.text.endswith("}") and call.text.strip() == call.text
    assert len({call.id for call in answer.calls}) == len(calls)


CONTENT = [
    "",
    "  Paris is it. \n",
    '{"city": "Rome"}',
    '{"name": "other", "arguments": {}}',
    '{"name": "get_weather"}',
    '{"name": "get_weather", "arguments": [1]}',
    '{"name": "get_weather", "description": "A tool.", "parameters": {"type": "object"}}',
    f"{ROME_JSON} is how a call looks.",
    f"For example {ROME_JSON}",
    f'{ROME_JSON}\n{{"x": 1}}',
    'So:\n```json\n{"name": "other", "arguments": {}}\n```\n',
    f"```json\n{ROME_JSON}\n... and more\n```",
    f"```json\n{{ // comment\n{ROME_JSON}}}\n```",
    f"```python\nprint({ROME_JSON})\n```",
    "if (a) { b(); }",
    "{",
]


@pytest.mark.parametrize("text", CONTENT)
def test_other_json_is_content_exactly_as_it_is(text):
    answer = parse_calls(text, TOOLS)
    assert (answer.content, answer.calls, answer.invalid) == (text, (), ())


INVALID = [
    ('<tool_call>{"name": "get_wether", "arguments": {}}</tool_call>', "get_wether", "Did you mean 'get_weather'"),
    ('<tool_call>{"name": "get_weather", "arguments": [1]}</tool_call>', "get_weather", r"\[1\] is no JSON object"),
    ('<tool_call>{"name": "get_weather", "arguments": "{oops"}</tool_call>', "get_weather", "oops"),
    ('<tool_call>{"name": "get_weather", "arguments": {"x": NaN}}</tool_call>', "get_weather", "nan"),
    ('<tool_call>{"name": "get_weather", "arguments": {"x": "\\ud800"}}</tool_call>', "get_weather", "surrogates"),
    ('<tool_call>{"arguments": {}}</tool_call>', None, "name"),
    ('<tool_call>{"name": ["a"]}</tool_call>', None, "name"),
    ('<tool_call>{"name": "get_weather", "arguments": {"city": "Ro</tool_call>', None, "no JSON: "),
    ('<tool_call>{"name": "get_weather", "argu', None, "no JSON: "),
    ("<tool_call>get_weather(Rome)</tool_call>", None, "JSON object"),
    ("<tool_call>[1, 2]</tool_call>", None, "no call"),
    ("<tool_call>7</tool_call>", None, "JSON object"),
    ('<|python_tag|>brave.call(query="x")', None, "JSON object"),
    ("[TOOL_CALLS]get_weather{oops", None, "JSON object"),
    ('[TOOL_CALLS]nope{"a": 1}', "nope", "no function"),
]


@pytest.mark.parametrize(("text", "name", "said"), INVALID)
def test_what_is_no_call_keeps_its_text_and_says_why(text, name, said):
    answer = parse_calls(f"Hm. {text}", TOOLS)
    assert answer.calls == ()
    assert answer.content == "Hm."
    [invalid] = answer.invalid
    opener = next(tag for tag in ("<tool_call>", "<|python_tag|>", "[TOOL_CALLS]") if text.startswith(tag))
    assert invalid.text == text.removeprefix(opener).removesuffix("</tool_call>")
    assert f"Hm. {text}"[invalid.start :].startswith(invalid.text)
    assert invalid.name == name
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(invalid.error)


def test_valid_and_invalid_side_by_side():
    broken = '{"name": "get_weather", "arguments": {"city": Oslo}}'
    answer = parse_calls(f"a <tool_call> {broken}\n</tool_call> b <tool_call>{ROME_JSON}\n{broken}</tool_call>", TOOLS)
    assert [call.arguments for call in answer.calls] == [{"city": "Rome"}]
    assert [invalid.text for invalid in answer.invalid] == [broken, broken]
    assert answer.content == "a  b"


def test_without_tools_every_call_is_invalid():
    answer = parse_calls(HERMES.write("get_time", {}), ())
    assert answer.calls == () and "none at all" in answer.invalid[0].error


BOMBS = [
    "[" * 100_000,
    "{" * 100_000,
    '{"a":' * 100_000,
    "<tool_call>" + "[" * 100_000,
    "<tool_call>" + '{"a":' * 50_000,
    "<tool_call>{" * 20_000,
    "<tool_call>{'" * 20_000,
    '<tool_call>{"' + '\\"' * 50_000,
    "<tool_call>{'" + "\\'" * 50_000 + "\\",
    "<tool_call>" * 20_000,
    "<tool_call>{'a':1}" + "{'a':1}" * 10_000,
    "<tool_call>{'a':1}" * 5_000,
    "```json\n{" * 20_000,
    "```json\n[[[" * 20_000,
    "```" + " " * 100_000 + "```" * 20_000,
    "[TOOL_CALLS]" * 20_000,
    "[TOOL_CALLS]get_time{" * 10_000,
    '[TOOL_CALLS]get_time{"a": [' * 10_000,
    "<tool_call>{'a': 1" + ", " * 50_000 + "}",
    "<tool_call>" + "-" * 100_000,
    "<tool_call>{'a': " + "'" * 100_001,
    '<tool_call>{"name": ' + "[" * 900 + "]" * 900 + "}",
    '<tool_call>{"name": "get_time", "arguments": {"x": ' + "[" * 900 + "]" * 900 + "}}",
    '<tool_call>{"name": ' + "9" * 10_000 + "}",
    "{'name': 'get_time', 'arguments': " + "{'a':" * 30_000,
    ROME_JSON * 1_000 + "x",
    f"```json\n{ROME_JSON}\n" * 1_000,
]


@pytest.mark.slow
@pytest.mark.parametrize("text", BOMBS, ids=lambda text: text[:24])
def test_hostile_answers_take_little_time_and_never_raise(text):
    start = time.process_time()
    parse_calls(text, TOOLS)
    assert time.process_time() - start < 5  # a second where they are slowest; what grows quadratically takes minutes


PIECES = st.sampled_from(
    [
        *("<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "```json\n", "```", ROME_JSON, ROME_LLAMA),
        *(
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "'",
            '"',
            "\\",
            '"name"',
            "get_weather",
            '"arguments"',
            "None",
            " ",
            "\n",
            "[ARGS]",
        ),
        *("\ud800", "\x00", "1e999", "-"),
    ]
)


@settings(max_examples=cases(400), deadline=None)
@given(st.one_of(st.text(), st.lists(PIECES | st.text(max_size=3), max_size=25).map("".join)))
def test_parsing_never_raises_and_loses_nothing(text):
    answer = parse_calls(text, TOOLS)
    for call in (*answer.calls, *answer.invalid):
        assert text[call.start : call.start + len(call.text)] == call.text
    if not answer.calls and not answer.invalid:
        assert answer.content == text
    for call in answer.calls:
        assert plain_json(call.arguments) == call.arguments
    partial_object(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=cases(300), deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(TOOLS), st.dictionaries(st.text(), JSON, max_size=4)), min_size=1, max_size=3)
)
def test_what_is_written_is_read_back(wanted):
    text = "\n".join(["Well.", *(HERMES.write(tool.name, arguments) for tool, arguments in wanted)])
    answer = parse_calls(text, TOOLS)
    assert [(call.name, call.arguments) for call in answer.calls] == [(tool.name, given) for tool, given in wanted]
    assert (answer.content, answer.invalid) == ("Well.", ())


@settings(max_examples=cases(200), deadline=None)
@given(
    st.dictionaries(st.text(alphabet="ab '\"", max_size=5), st.text(alphabet="ab '\"{},[]", max_size=8) | st.booleans())
)
def test_what_python_prints_is_read_back(arguments):
    answer = parse_calls(f"<tool_call>{ {'name': 'get_time', 'arguments': arguments} }</tool_call>", TOOLS)
    assert [call.arguments for call in answer.calls] == [arguments]


def test_ids_are_unique():
    ids = {new_call_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(len(call_id) == 29 and call_id.startswith("call_") for call_id in ids)


def test_results_compare_by_value():
    assert ToolCall("i", "n", {}, "t", 0) == ToolCall("i", "n", {}, "t", 0)
    assert InvalidToolCall("i", None, "t", "e", 0) != InvalidToolCall("i", None, "t", "e", 1)
