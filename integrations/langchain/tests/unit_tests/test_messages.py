"""LangChain's messages as the core's: every kind of message and content."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    HumanMessageChunk,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
    convert_to_messages,
)

from langchain_nudging import ChatNudging
from langchain_nudging.messages import to_core_messages
from nudging_llm import MessageError, UnsupportedContentError
from nudging_llm.testing.scripted import scripted_pair

CALL = {"id": "call_1", "name": "get_weather", "args": {"city": "Rome"}}
TEXT = {"type": "text", "text": "Hello"}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def result(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": "call_1", "content": text, **more}


def calling(text: str = "") -> dict[str, Any]:
    return {"role": "assistant", "content": text, "tool_calls": [CALL]}


TEXTS: list[tuple[BaseMessage, dict[str, Any]]] = [
    (HumanMessage("Hello"), user("Hello")),
    (HumanMessageChunk("Hello"), user("Hello")),
    (SystemMessage("Be brief."), {"role": "system", "content": "Be brief."}),
    (AIMessage("Hello"), {"role": "assistant", "content": "Hello"}),
    (AIMessageChunk("Hello"), {"role": "assistant", "content": "Hello"}),
    (AIMessage(""), {"role": "assistant", "content": ""}),
    (ToolMessage("Sun", tool_call_id="call_1"), result("Sun")),
    (HumanMessage("  as it is\n"), user("  as it is\n")),
    (HumanMessage([TEXT, "there"]), user("Hello\nthere")),
    (HumanMessage([TEXT, {"type": "text", "text": ""}]), user("Hello")),
    (HumanMessage([]), user("")),
    (SystemMessage([TEXT]), {"role": "system", "content": "Hello"}),
    (HumanMessage([{"type": "input_text", "text": "Hello"}]), user("Hello")),
    (AIMessage([{"type": "output_text", "text": "Hello"}]), {"role": "assistant", "content": "Hello"}),
    (AIMessage([{"type": "refusal", "refusal": "No."}]), {"role": "assistant", "content": "No."}),
    (HumanMessage(content_blocks=[{"type": "text", "text": "Hello"}]), user("Hello")),
    (
        HumanMessage(content_blocks=[{"type": "text-plain", "text": "A file.", "mime_type": "text/plain"}]),
        user("A file."),
    ),
]


@pytest.mark.parametrize(("message", "expected"), TEXTS, ids=lambda value: str(value)[:60])
def test_text_stays_as_it_is(message, expected):
    assert to_core_messages([message]) == [expected]


def test_messages_keep_their_order():
    asked = convert_to_messages([("system", "a"), ("human", "b"), ("ai", "c"), ("human", "d")])
    assert [(core["role"], core["content"]) for core in to_core_messages(asked)] == [
        ("system", "a"),
        ("user", "b"),
        ("assistant", "c"),
        ("user", "d"),
    ]


# -- names ------------------------------------------------------------------------------------------------------------


def test_a_person_s_name_is_shown():
    assert to_core_messages([HumanMessage("Hello", name="Ann")]) == [user("Ann: Hello")]
    assert to_core_messages([HumanMessage([TEXT], name="Ann")]) == [user("Ann: Hello")]


def test_an_application_s_name_for_its_model_is_not():
    assert to_core_messages([AIMessage("Hello", name="researcher")]) == [{"role": "assistant", "content": "Hello"}]


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        ("user", "user"),
        ("human", "user"),
        ("assistant", "assistant"),
        ("ai", "assistant"),
        ("system", "system"),
        ("developer", "system"),
        ("User", "user"),
    ],
)
def test_known_roles_of_chat_messages(role, expected):
    assert to_core_messages([ChatMessage("Hello", role=role)]) == [{"role": expected, "content": "Hello"}]


def test_other_roles_are_refused_by_name():
    with pytest.raises(MessageError, match=r"message 1 .*'critic'.* known are human"):
        to_core_messages([HumanMessage("Hello"), ChatMessage("Hello", role="critic")])


# -- calls and results ------------------------------------------------------------------------------------------------

TOOL_USE = {"type": "tool_use", "id": "call_1", "name": "get_weather", "input": {"city": "Rome"}}


@pytest.mark.parametrize(
    "message",
    [
        AIMessage("", tool_calls=[CALL]),
        AIMessage([TOOL_USE], tool_calls=[CALL]),
        AIMessage([TOOL_USE]),
        AIMessage([{"type": "tool_call", **CALL}]),
        AIMessage(content_blocks=[{"type": "tool_call", **CALL}]),
        AIMessageChunk(
            "",
            tool_call_chunks=[
                {"id": "call_1", "name": "get_weather", "args": '{"city": "Ro', "index": 0, "type": "tool_call_chunk"}
            ],
        )
        + AIMessageChunk("", tool_call_chunks=[{"id": None, "name": None, "args": 'me"}', "index": 0}]),
    ],
    ids=["calls", "both", "Anthropic", "block", "version one", "chunks"],
)
def test_a_call_is_there_once_however_it_is_told(message):
    assert to_core_messages([message]) == [calling()]


def test_words_beside_a_call_are_kept():
    assert to_core_messages([AIMessage([TEXT, TOOL_USE], tool_calls=[CALL])]) == [calling("Hello")]


def test_what_a_model_thought_is_left_out():
    thoughts = [
        {"type": "thinking", "thinking": "Hmm", "signature": "abc"},
        {"type": "redacted_thinking", "data": "abc"},
        {"type": "reasoning", "reasoning": "Hmm"},
        {"type": "reasoning_content", "reasoning_content": {"text": "Hmm"}},
    ]
    assert to_core_messages([AIMessage([*thoughts, TEXT, TOOL_USE])]) == [calling("Hello")]


def test_marks_for_another_vendor_s_cache_are_left_out():
    marked = {**TEXT, "cache_control": {"type": "ephemeral"}}
    assert to_core_messages([SystemMessage([marked]), HumanMessage([marked])]) == [
        {"role": "system", "content": "Hello"},
        user("Hello"),
    ]


def test_a_failed_call_s_result_says_so_once():
    failed = [
        ToolMessage(text, tool_call_id="call_1", status="error") for text in ("no such city", "Error: no such city")
    ]
    assert to_core_messages(failed) == [result("Error: no such city")] * 2


def test_a_result_s_name_is_kept_and_its_artifact_is_not():
    message = ToolMessage("Sun", tool_call_id="call_1", name="get_weather", artifact={"raw": [1, 2]})
    assert to_core_messages([message]) == [result("Sun", name="get_weather")]


def test_results_in_anthropic_s_form_come_before_what_the_user_adds():
    message = HumanMessage(
        [{"type": "tool_result", "tool_use_id": "call_1", "content": "Sun"}, {"type": "text", "text": "And Oslo?"}]
    )
    assert to_core_messages([message]) == [result("Sun"), user("And Oslo?")]


@pytest.mark.parametrize(
    ("block", "text"),
    [
        ({"content": [TEXT]}, "Hello"),
        ({"content": [TEXT], "is_error": True}, "Error: Hello"),
        ({}, ""),
        ({"content": None}, ""),
    ],
)
def test_a_result_in_anthropic_s_form_alone_makes_no_message_of_the_user(block, text):
    message = HumanMessage([{"type": "tool_result", "tool_use_id": "call_1", **block}])
    assert to_core_messages([message]) == [result(text)]


def test_what_was_no_call_is_shown_as_it_was_written():
    invalid = {"id": "x", "name": "get_weather", "args": '{"city": Rome', "error": "no JSON"}
    assert to_core_messages([AIMessage("Hello", invalid_tool_calls=[invalid])]) == [
        {"role": "assistant", "content": 'Hello\n{"city": Rome'}
    ]
    block = {"type": "invalid_tool_call", **invalid}
    assert to_core_messages([AIMessage([block], invalid_tool_calls=[invalid])])[0]["content"] == '{"city": Rome'


# -- what is refused --------------------------------------------------------------------------------------------------

UNREADABLE = [
    {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}},
    {"type": "image", "url": "https://x.test/a.png"},
    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
    {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
    {"type": "audio", "base64": "AAAA", "mime_type": "audio/wav"},
    {"type": "video", "url": "https://x.test/a.mp4"},
    {"type": "file", "file": {"file_id": "x"}},
    {"type": "document", "source": {"type": "text", "data": "x"}},
    {"type": "non_standard", "value": {}},
    {"no": "type"},
    {"type": "text-plain", "url": "https://x.test/a.txt", "mime_type": "text/plain"},
]


@pytest.mark.parametrize("block", UNREADABLE, ids=lambda block: "-".join(map(str, block)) + str(block.get("type")))
def test_content_that_is_no_text_is_refused_by_its_type(block):
    kind = block.get("type", "dict")
    messages: list[BaseMessage] = [
        HumanMessage([TEXT, block]),
        ToolMessage([TEXT, block], tool_call_id="call_1"),
        SystemMessage([block]),
        AIMessage([block]),
        HumanMessage([{"type": "tool_result", "tool_use_id": "call_1", "content": [block]}]),
    ]
    for message in messages:
        with pytest.raises(UnsupportedContentError, match=f"message 1 .*{kind}"):
            to_core_messages([HumanMessage("Hello"), message])


@pytest.mark.parametrize("message", [FunctionMessage("x", name="f"), RemoveMessage(id="x")], ids=lambda m: m.type)
def test_messages_that_no_prompt_has_a_place_for_are_refused(message):
    with pytest.raises(MessageError, match=rf"message 0 is a {type(message).__name__}.*ToolMessage"):
        to_core_messages([message])


# -- as a whole -------------------------------------------------------------------------------------------------------


def last_line(prompt: str) -> str:
    """The last thing that was said or found out."""
    return "It is Sun." if "Sun" in prompt else prompt.strip().splitlines()[-2].removesuffix("<|end|>")


@pytest.fixture(scope="module")
def model() -> ChatNudging:
    return ChatNudging(generator=scripted_pair(last_line))


def weather(call_id: str) -> AIMessage:
    return AIMessage("", tool_calls=[{**CALL, "id": call_id}])


ASK = HumanMessage("Weather?")
BROKEN: dict[str, tuple[list[BaseMessage], str]] = {
    "a result alone": ([ToolMessage("Sun", tool_call_id="1")], "no earlier message makes"),
    "a result of another call": ([ASK, weather("1"), ToolMessage("Sun", tool_call_id="2")], "known calls: '1'"),
    "two results of one call": (
        [ASK, weather("1"), ToolMessage("Sun", tool_call_id="1"), ToolMessage("Rain", tool_call_id="1")],
        "second result",
    ),
    "a result in Anthropic's form alone": (
        [HumanMessage([{"type": "tool_result", "tool_use_id": "9", "content": "Sun"}])],
        "no earlier message makes",
    ),
    "a call without an id": ([ASK, AIMessage("", tool_calls=[{**CALL, "id": None}]), ASK], "id"),
    "system late": ([ASK, SystemMessage("Be brief.")], "put it first"),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("ask", ["invoke", "stream"])
def test_conversations_that_cannot_be_answered_are_refused(model, case, ask):
    messages, why = BROKEN[case]
    forwards = model.generator.base.engine.forwards
    with pytest.raises(MessageError, match=why):
        model.invoke(messages) if ask == "invoke" else next(model.stream(messages))
    assert model.generator.base.engine.forwards == forwards, "before any compute"


def test_several_messages_of_one_role_may_come_in_a_row(model):
    message = model.invoke([SystemMessage("a"), SystemMessage("b"), HumanMessage("c"), HumanMessage("Say this.")])
    assert message.text == "Say this."
    assert model.invoke([AIMessage("I begin."), HumanMessage("Say that.")]).text == "Say that."
