"""LlamaIndex's messages and tools as the core's: plain dicts. The caller's objects are never changed."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    CitableBlock,
    CitationBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from llama_index.core.tools import BaseTool
from pydantic.errors import PydanticUserError

from nudging_llm import MessageError, ToolError, UnsupportedContentError
from nudging_llm.structured.type_schemas import schema_of

_ROLES = {
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
    MessageRole.USER: "user",
    MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
    MessageRole.TOOL: "tool",
    MessageRole.FUNCTION: "tool",
}
#: Lines of the form that ReAct agents ask for.
_REACT = ("Thought:", "Action:", "Action Input:", "Observation:")
#: Where the model would invent a tool's answer.
_OBSERVATION = "\nObservation:"


def to_core_messages(messages: Sequence[ChatMessage], system_prompt: str | None = None) -> list[dict[str, Any]]:
    """Messages as ``NudgingGenerator`` takes them.

    - Results of tools carry an id only; a result whose call is not there (memory was cut, ReAct's observations with the role of
      a tool) is shown as the user's words.
    - A system message that comes late (agents add one at their last iteration), and the last of nothing but system messages, are
      the user's words.
    - Calls keep their ids where these tell them apart; results find calls that have none by their order.
    - Thoughts and cache marks are left out; citable and citation blocks are shown as their text.

    Args:
        system_prompt: put first, unless a system message says just that already: query engines and context chat engines add it,
            agents and simple chat engines do not.

    Raises:
        UnsupportedContentError: an image, audio, video or a document.
        MessageError: something other than messages.
    """
    if isinstance(messages, (str, ChatMessage)) or not isinstance(messages, Iterable):
        raise MessageError(f"messages={messages!r:.200}: give a list of ChatMessage.")
    found: list[dict[str, Any]] = []
    calls = _Calls()
    for i, message in enumerate(messages):
        if not isinstance(message, ChatMessage):
            raise MessageError(f"message {i} is {message!r:.200}: give a ChatMessage.")
        core = _converted(message, i, calls)
        if core["role"] == "system" and any(earlier["role"] != "system" for earlier in found):
            core["role"] = "user"
        found.append(core)
    if found and all(item["role"] == "system" for item in found):
        found[-1]["role"] = "user"
    if system_prompt and not any(item["role"] == "system" and _says(item["content"], system_prompt) for item in found):
        found.insert(0, {"role": "system", "content": system_prompt})
    return found


def _says(text: str, prompt: str) -> bool:
    """Whether ``prompt`` stands in ``text``, in lines of its own: not as a quotation."""
    return f"\n{prompt.strip()}\n" in f"\n{text.strip()}\n"


def is_react(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a ReAct agent asks: its form is in the system message, and it passes no stop string."""
    system = "\n".join(str(message["content"]) for message in messages if message["role"] == "system")
    return all(line in system for line in _REACT)


def react_options(stop: Sequence[str], markers: Sequence[str]) -> dict[str, Any]:
    """Options for an answer in ReAct's form, whose own lines ("Answer:") may look like the beginning of another turn.

    Args:
        stop: strings that end the answer anyway.
        markers: with which the base model's template begins a turn: those that ReAct does not use end the answer too.
    """
    lines = (*_REACT, "Answer:")
    others = [marker for marker in markers if marker.strip() not in lines]
    return {"stop": list(dict.fromkeys((*stop, _OBSERVATION, *others))), "role_markers": False}


def tool_definition(tool: Any) -> Any:
    """A LlamaIndex tool as OpenAI's dict, with all of its schema; whatever else the core reads, as it is.

    Raises:
        ToolError: pydantic cannot read the types of its arguments.
    """
    if not isinstance(tool, BaseTool):
        return tool
    try:
        return _definition(tool)
    except PydanticUserError as error:
        reason = error.message.splitlines()[0]
        raise ToolError(
            f"The tool {tool.metadata.name!r}: LlamaIndex could not read the types of its arguments ({reason}). "
            "Define it in a module without 'from __future__ import annotations', or give fn_schema=."
        ) from None


def is_program_tool(tool: Any) -> bool:
    """Whether a tool is a class that one of LlamaIndex's programs wants an object of."""
    made = getattr(tool, "real_fn", None)
    place = f"{getattr(made, '__module__', '')}.{getattr(made, '__qualname__', '')}"
    return place == "llama_index.core.program.function_program.get_function_tool.<locals>.model_fn"


def _definition(tool: BaseTool) -> dict[str, Any]:
    definition = tool.metadata.to_openai_tool(skip_length_check=True)
    if tool.metadata.fn_schema is not None:  # LlamaIndex's own conversion keeps five of its keys
        own = schema_of(tool.metadata.fn_schema)
        shown = {key: value for key, value in own.items() if key not in ("title", "description")}
        definition["function"]["parameters"] = {"type": "object", **shown}
    return definition


class _Calls:
    """The calls of a conversation: each has an id of its own, and at most one result."""

    def __init__(self) -> None:
        self._used: set[str] = set()
        self._open: list[tuple[str | None, str]] = []  # as it was given, as it is now

    def open(self, given: str | None, name: str) -> str:
        """A call is made: its id."""
        found = given or name
        if not given or found in self._used:
            found = next(candidate for n in itertools.count(1) if (candidate := f"{found}_{n}") not in self._used)
        self._used.add(found)
        self._open.append((given or None, found))
        return found

    def close(self, given: str | None) -> str | None:
        """A result arrives: the id of its call, the oldest that fits; None if there is none."""
        for i, (known, found) in enumerate(self._open):
            if known == (given or None):
                del self._open[i]
                return found
        return None


def _converted(message: ChatMessage, i: int, calls: _Calls) -> dict[str, Any]:
    """One message."""
    role = _ROLES[message.role]
    text = "\n".join(_texts(message.blocks, i))
    if role == "tool":
        call_id = calls.close(message.additional_kwargs.get("tool_call_id"))
        if call_id is not None:
            return {"role": "tool", "tool_call_id": call_id, "content": text}
        return {"role": "user", "content": text}
    made = _calls(message) if role == "assistant" else []
    for call in made:
        call["id"] = calls.open(call["id"], str(call["name"]))
    return {"role": role, "content": text, **({"tool_calls": made} if made else {})}


def _calls(message: ChatMessage) -> list[dict[str, Any]]:
    """The calls of an assistant's message: its blocks, or what older integrations put beside them."""
    blocks = [block for block in message.blocks if isinstance(block, ToolCallBlock)]
    found: list[dict[str, Any]] = [
        {"id": block.tool_call_id, "name": block.tool_name, "arguments": block.tool_kwargs} for block in blocks
    ]
    if not found:
        for call in message.additional_kwargs.get("tool_calls") or ():
            plain = call.model_dump() if hasattr(call, "model_dump") else call
            inner = plain.get("function", plain)
            found.append({"id": plain.get("id"), "name": inner.get("name"), "arguments": inner.get("arguments")})
    return found


def _texts(blocks: Iterable[Any], i: int) -> Iterator[str]:
    for block in blocks:
        if isinstance(block, TextBlock):
            yield block.text
        elif isinstance(block, CitableBlock):
            yield from (block.title, *_texts(block.content, i))
        elif isinstance(block, CitationBlock):
            yield from _texts([block.cited_content], i)
        elif not isinstance(block, (ToolCallBlock, ThinkingBlock, CachePoint)):
            kind = getattr(block, "block_type", type(block).__name__)
            raise UnsupportedContentError(
                f"message {i} holds content of the type {kind!r}; both models read text only. Remove it, or put a "
                "description in its place."
            )
