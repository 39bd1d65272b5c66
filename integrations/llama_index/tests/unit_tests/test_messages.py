"""From LlamaIndex's messages and tools to the core's."""

from __future__ import annotations

import copy

import pytest
from llama_index.core.agent.react.formatter import ReActChatFormatter
from llama_index.core.base.llms.types import (
    CacheControl,
    CachePoint,
    ChatMessage,
    CitableBlock,
    DocumentBlock,
    ImageBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.tools import FunctionTool, ToolMetadata
from pydantic import BaseModel, ConfigDict

from llama_index.llms.nudging.messages import is_react, to_core_messages, tool_definition
from nudging_llm import MessageError, ToolError, UnsupportedContentError
from nudging_llm.text.messages import read_messages


def user(text: str) -> ChatMessage:
    return ChatMessage(role="user", content=text)


def system(text: str) -> ChatMessage:
    return ChatMessage(role="system", content=text)


def call(call_id: str | None, name: str = "add", **arguments: int) -> ChatMessage:
    block = ToolCallBlock(tool_call_id=call_id, tool_name=name, tool_kwargs=arguments)
    return ChatMessage(role="assistant", blocks=[block])


def result(call_id: str | None, text: str) -> ChatMessage:
    known = {"tool_call_id": call_id} if call_id else {}
    return ChatMessage(role="tool", content=text, additional_kwargs=known)


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        (MessageRole.DEVELOPER, "system"),
        (MessageRole.CHATBOT, "assistant"),
        (MessageRole.MODEL, "assistant"),
        (MessageRole.FUNCTION, "user"),  # without a call
    ],
)
def test_every_role_has_a_place(role: MessageRole, expected: str) -> None:
    assert to_core_messages([ChatMessage(role=role, content="x"), user("y")])[0] == {"role": expected, "content": "x"}
    assert {role.value for role in MessageRole} == {
        *("system", "developer", "user", "assistant", "function", "tool", "chatbot", "model")
    }


def test_two_system_messages_become_one() -> None:
    found = read_messages(to_core_messages([system("Be brief."), system("Context: salt."), user("Why?")]))
    assert found == [
        {"role": "system", "content": "Be brief.\n\nContext: salt."},
        {"role": "user", "content": "Why?"},
    ]


@pytest.mark.parametrize(
    "messages", [[user("Why?")], [system("Be brief."), user("Why?")], [system("More."), user("Why?")]]
)
def test_the_system_prompt_is_there_exactly_once(messages: list[ChatMessage]) -> None:
    [first, *_] = read_messages(to_core_messages(messages, "Be brief."))
    assert first["role"] == "system" and first["content"].count("Be brief.") == 1
    assert first["content"].startswith("Be brief.")


def test_a_quotation_of_the_system_prompt_is_none() -> None:
    [first, *_] = read_messages(
        to_core_messages([system("Never say 'Be brief.' to users."), user("Why?")], "Be brief.")
    )
    assert first["content"] == "Be brief.\n\nNever say 'Be brief.' to users."
    [first, *_] = read_messages(to_core_messages([system("Be brief.\nContext: salt."), user("Why?")], "Be brief."))
    assert first["content"] == "Be brief.\nContext: salt."


def test_a_result_finds_the_name_of_its_call() -> None:
    found = read_messages(to_core_messages([user("1 + 2?"), call("c1", a=1, b=2), result("c1", "3")]))
    assert found[-1] == {"role": "tool", "content": "3", "tool_call_id": "c1", "name": "add"}
    assert found[-2]["tool_calls"] == [{"id": "c1", "name": "add", "arguments": {"a": 1, "b": 2}}]


@pytest.mark.parametrize(
    "messages",
    [
        [user("Go on."), result("gone", "3")],
        [user("Go on."), result(None, "3")],
        [user("1 + 2?"), call("c1"), result("c1", "3"), result("c1", "3")],
    ],
    ids=["its call was cut from memory", "no id", "a second time"],
)
def test_a_result_without_a_call_is_the_users_words(messages: list[ChatMessage]) -> None:
    last = read_messages(to_core_messages(messages))[-1]
    assert last["role"] == "user" and last["content"].endswith("3")


def test_calls_without_ids_are_told_apart() -> None:
    blocks = [ToolCallBlock(tool_name="add", tool_kwargs={"a": n}) for n in (1, 2)]
    found = to_core_messages([user("Add."), ChatMessage(role="assistant", blocks=blocks)])
    assert len({made["id"] for made in found[-1]["tool_calls"]}) == 2


def test_calls_of_older_integrations_are_read() -> None:
    old = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    message = ChatMessage(role="assistant", content="", additional_kwargs={"tool_calls": [old]})
    found = read_messages(to_core_messages([user("Add."), message, result("c1", "1")]))
    assert found[1]["tool_calls"] == [{"id": "c1", "name": "add", "arguments": {"a": 1}}]


def test_blocks_are_joined_and_thoughts_left_out() -> None:
    blocks = [
        TextBlock(text="One."),
        ThinkingBlock(content="hm"),
        CachePoint(cache_control=CacheControl(type="ephemeral")),
        CitableBlock(title="Ferries", source="book", content=[TextBlock(text="At 9:40.")]),
    ]
    assert to_core_messages([ChatMessage(blocks=blocks)])[0]["content"] == "One.\nFerries\nAt 9:40."


@pytest.mark.parametrize("block", [ImageBlock(image=b"aGk="), DocumentBlock(data=b"aGk=")])
def test_what_no_model_could_read_is_refused(block: object) -> None:
    with pytest.raises(UnsupportedContentError, match=f"message 1 holds content of the type '{block.block_type}'"):  # type: ignore[attr-defined]
        to_core_messages([user("See."), ChatMessage(blocks=[block])])


@pytest.mark.parametrize("messages", ["Why?", user("Why?"), [{"role": "user", "content": "Why?"}], 3])
def test_what_is_no_message_is_refused(messages: object) -> None:
    with pytest.raises(MessageError, match="ChatMessage"):
        to_core_messages(messages)  # type: ignore[arg-type]


def test_messages_stay_as_they_were() -> None:
    messages = [system("Be brief."), user("1 + 2?"), call("c1", a=1), result("c1", "3")]
    before = copy.deepcopy(messages)
    to_core_messages(messages, "Be kind.")
    assert messages == before


def test_a_react_agents_prompt_is_known() -> None:
    tool = FunctionTool.from_defaults(lambda city: "sunny", name="weather", description="Weather.")
    prompt = ReActChatFormatter().format([tool], [user("Rome?")])
    assert is_react(to_core_messages(prompt))
    assert not is_react(to_core_messages([system("Action: none."), user(str(prompt[0].content))]))


class Node(BaseModel):
    """A tree."""

    model_config = ConfigDict(extra="forbid")
    children: list[Node] = []


def test_a_tool_keeps_all_of_its_schema() -> None:
    tool = FunctionTool.from_defaults(print, name="plant", description="Plants.", fn_schema=Node)
    function = tool_definition(tool)["function"]
    assert (function["name"], function["description"]) == ("plant", "Plants.")
    assert function["parameters"]["$ref"] == "#/$defs/Node"
    assert function["parameters"]["$defs"]["Node"]["additionalProperties"] is False


def test_a_tool_without_a_schema_takes_a_text() -> None:
    tool = FunctionTool(print, ToolMetadata(description="Prints.", name="print", fn_schema=None))
    assert tool_definition(tool)["function"]["parameters"]["required"] == ["input"]


def test_types_that_llamaindex_could_not_read_are_said() -> None:
    code = (
        "from __future__ import annotations\n"
        "from typing import Literal as Only\n"
        "def opening_hours(place: Only['library']) -> str:\n"
        "    'Opening hours.'\n"
    )
    names: dict[str, object] = {"__name__": "elsewhere"}
    exec(compile(code, "elsewhere.py", "exec"), names)
    tool = FunctionTool.from_defaults(names["opening_hours"])  # type: ignore[arg-type]
    with pytest.raises(ToolError, match=r"'opening_hours': .*from __future__ import annotations"):
        tool_definition(tool)
