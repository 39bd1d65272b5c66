"""LangChain's messages as the core's: one dict for each, with role, content, calls.

Content blocks become text. What neither model could read (images, audio, files) is refused; what was never meant for a reader
(cache marks, another model's reasoning and its signatures, what its vendor's server did) is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from nudging_llm import MessageError, UnsupportedContentError

#: Blocks that hold no answer: what a model thought, as several vendors call it.
_THOUGHTS = frozenset({"thinking", "redacted_thinking", "reasoning", "reasoning_content"})
#: Blocks of calls, as vendors and LangChain call them; ``tool_calls`` says the same.
_CALLS = frozenset({"tool_use", "tool_call", "function_call", "tool_call_chunk", "invalid_tool_call"})
#: What another vendor's server did on the way to an answer.
_SERVED = frozenset(
    {"server_tool_use", "server_tool_call", "server_tool_call_chunk", "server_tool_result", "web_search_call"}
    | {
        "web_search_tool_result",
        "web_fetch_tool_result",
        "code_execution_tool_result",
        "bash_code_execution_tool_result",
    }
    | {"text_editor_code_execution_tool_result", "tool_search_tool_result", "mcp_tool_use", "mcp_tool_result"}
    | {"mcp_call", "mcp_list_tools", "file_search_call", "code_interpreter_call", "computer_call"}
    | {"executable_code", "code_execution_result"}
)
_TEXTS = frozenset({"text", "text-plain", "input_text", "output_text", "refusal"})
_ROLES = {"human": "user", "user": "user", "ai": "assistant", "assistant": "assistant"}
_ROLES |= {"system": "system", "developer": "system"}


def to_core_messages(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Messages as ``NudgingGenerator`` takes them.

    - ``HumanMessage.name`` is shown as ``name: text``, as no chat template has a place for it. An ``AIMessage``'s name is the
      application's label of itself and is not shown: a base model would copy it into its answer.
    - ``ToolMessage.status="error"`` is shown as ``Error: text``; its ``artifact`` is not for the model, as LangChain has it.
    - ``tool_result`` blocks in a ``HumanMessage`` (Anthropic's form) become results of tools.
    - ``invalid_tool_calls`` are shown as the text that they were, and what a ``ToolMessage`` says of one as the user's words.

    Raises:
        UnsupportedContentError: content that is not text.
        MessageError: a message of a kind or role that no prompt has a place for.
    """
    converted = [core for i, message in enumerate(messages) for core in _converted(message, i)]
    invalid = {
        call["id"] for message in messages if isinstance(message, AIMessage) for call in message.invalid_tool_calls
    }
    return [_said(core) if core.get("tool_call_id") in invalid else core for core in converted]


def _said(result: dict[str, Any]) -> dict[str, Any]:
    """The result of a call that was none, as the user's words: no prompt could show the call."""
    return {"role": "user", "content": result["content"]}


def _converted(message: BaseMessage, i: int) -> Iterator[dict[str, Any]]:
    if isinstance(message, SystemMessage):
        yield {"role": "system", "content": _text(message.content, i)}
    elif isinstance(message, HumanMessage):
        yield from _human(message, i)
    elif isinstance(message, AIMessage):
        yield _assistant(message, i)
    elif isinstance(message, ToolMessage):
        text = _text(message.content, i)
        yield _result(message.tool_call_id, text, message.status == "error", message.name)
    elif isinstance(message, ChatMessage) and message.role.lower() in _ROLES:
        yield {"role": _ROLES[message.role.lower()], "content": _text(message.content, i)}
    elif isinstance(message, ChatMessage):
        known = ", ".join(_ROLES)
        raise MessageError(f"message {i} is a ChatMessage with the role {message.role!r}; known are {known}.")
    else:
        raise MessageError(
            f"message {i} is a {type(message).__name__}, for which no prompt has a place: use SystemMessage, HumanMessage, "
            "AIMessage or ToolMessage."
        )


def _human(message: HumanMessage, i: int) -> Iterator[dict[str, Any]]:
    blocks = [message.content] if isinstance(message.content, str) else message.content
    results = [block for block in blocks if isinstance(block, Mapping) and block.get("type") == "tool_result"]
    for block in results:
        text = _text(block.get("content") or "", i)
        yield _result(str(block.get("tool_use_id")), text, bool(block.get("is_error")), None)
    said = [block for block in blocks if block not in results]
    if said or not results:
        text = _text(said, i)
        yield {"role": "user", "content": f"{message.name}: {text}" if message.name else text}


def _assistant(message: AIMessage, i: int) -> dict[str, Any]:
    calls = [{"id": call["id"], "name": call["name"], "args": call["args"]} for call in message.tool_calls]
    invalid = [call["args"] or "" for call in message.invalid_tool_calls]
    known = {call["id"] for call in (*message.tool_calls, *message.invalid_tool_calls)}
    blocks = [] if isinstance(message.content, str) else message.content
    for block in blocks:
        if (
            isinstance(block, Mapping)
            and block.get("type") in ("tool_use", "tool_call")
            and block.get("id") not in known
        ):
            arguments = block.get("input", block.get("args"))
            calls.append({"id": block.get("id"), "name": block.get("name", ""), "args": arguments or {}})
    text = "\n".join(part for part in (_text(message.content, i, _THOUGHTS | _CALLS | _SERVED), *invalid) if part)
    return {"role": "assistant", "content": text, **({"tool_calls": calls} if calls else {})}


def _result(call_id: str, text: str, failed: bool, name: str | None) -> dict[str, Any]:
    if failed and not text.lower().startswith("error"):
        text = f"Error: {text}"
    return {"role": "tool", "tool_call_id": call_id, "content": text, **({"name": name} if name else {})}


def _text(content: Any, i: int, unread: frozenset[str] = frozenset()) -> str:
    """Text of a message's content: a string, or blocks. ``unread``: types of blocks that are left out."""
    if isinstance(content, str):
        return content
    parts = []
    for block in content:
        kind = block.get("type") if isinstance(block, Mapping) else None
        if isinstance(block, str):
            parts.append(block)
        elif kind in _TEXTS and isinstance(text := block.get("text", block.get("refusal")), str):
            parts.append(text)
        elif kind not in unread:
            raise UnsupportedContentError(
                f"message {i} holds content of the type {kind or type(block).__name__!r}; both models read text only. Remove "
                "it, or put a description in its place."
            )
    return "\n".join(part for part in parts if part)
