"""Chat messages, checked and brought into the one form that both models' prompts are made of.

Roles, contents, calls of tools and their results. Knows no template and no tokenizer; what a tool is stands in ``tools/``.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..errors import MessageError, UnsupportedContentError, nearest
from ..tools.calls import ToolCall
from ..tools.json_values import plain_json

#: The roles, and what a message of each may have besides role and content.
_EXTRAS: dict[str, frozenset[str]] = {
    "system": frozenset(),
    "user": frozenset(),
    "assistant": frozenset({"tool_calls"}),
    "tool": frozenset({"tool_call_id", "name"}),
}
ROLES = tuple(_EXTRAS)
#: What callers give: a question, or chat messages.
Messages = str | Sequence[Mapping[str, Any]]


def read_messages(messages: Messages, part: bool = False) -> list[dict[str, Any]]:
    """Check messages, and bring them into the one form that templates see.

    A string is one user message. Leading system messages, and neighbours of one role, are joined by a blank line; results
    of tools and messages with calls stay alone, neighbouring results in the order of their calls. Calls may be OpenAI's
    (``{"id", "function": {"name", "arguments"}}``), ``{"id", "name", "arguments" or "args"}``, or a ``ToolCall``; they become
    ``{"id", "name", "arguments": dict}``.

    Args:
        part: the messages are a part of a conversation, to be measured and not answered: the last may be anybody's, a call and
            its result may be apart, and a system message may come late.

    Raises:
        MessageError: none at all, an unknown role, a system message after the start, an assistant's message last, a call
            without id, name or an object of arguments, or a result without a call or for one that has its result.
        UnsupportedContentError: content other than text.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if not isinstance(messages, Sequence) or not messages:
        raise MessageError(f"messages={messages!r}: give a string or a non-empty list of messages.")
    conversation: Sequence[Any] = messages
    merged: list[dict[str, Any]] = []
    pairing = CallPairing()
    for i, message in enumerate(conversation):
        role = _checked_role(message, i)
        if role == "system" and not part and any(earlier["role"] != "system" for earlier in merged):
            raise MessageError(f"message {i} is a system message after the conversation began; put it first.")
        calls = _read_calls(message["tool_calls"], i) if message.get("tool_calls") else []
        content = "" if calls and message.get("content") is None else _text_of(message["content"], i)
        read: dict[str, Any] = {"role": role, "content": content}
        if calls:
            read["tool_calls"] = calls
        if part:
            read |= {key: message[key] for key in ("tool_call_id", "name") if role == "tool" and key in message}
        else:
            pairing.open(calls, i)
            read |= pairing.close(message, i) if role == "tool" else {}
        merged.append(read)
    merged = joined(merged)
    if part:
        return merged
    merged = list(_in_order_of_calls(merged))
    if merged[-1]["role"] not in ("user", "tool"):
        missing = "the results of its calls" if merged[-1].get("tool_calls") else "a user message"
        raise MessageError(
            f"The last message is the {merged[-1]['role']}'s: there is nothing to answer. Add {missing}."
        )
    if merged[-1]["role"] == "user" and not merged[-1]["content"].strip():
        raise MessageError("The user's message is empty.")
    return merged


def _checked_role(message: Any, i: int) -> str:
    """A message's role, once everything but its content and calls is known to be in order."""
    if (
        not isinstance(message, Mapping)
        or "role" not in message
        or not ("content" in message or message.get("tool_calls"))
    ):
        raise MessageError(f"message {i} is {message!r}: give {{'role': …, 'content': …}}.")
    role = message["role"]
    if not isinstance(role, str) or role not in ROLES:
        raise MessageError(
            f"message {i} has the role {role!r}; known are {', '.join(ROLES)}.{nearest(str(role), ROLES)}"
        )
    if extra := set(message) - {"role", "content"} - _EXTRAS[role]:
        raise MessageError(f"message {i} has {sorted(extra)} besides role and content, which no prompt would show.")
    return role


def joined(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Messages with neighbours of one role as one, except results of tools and messages with calls."""
    merged: list[dict[str, Any]] = []
    for message in messages:
        last = merged[-1] if merged else {}
        alone = message["role"] == "tool" or "tool_calls" in message or "tool_calls" in last
        if last.get("role") == message["role"] and not alone:
            last["content"] += "\n\n" + message["content"]
        else:
            merged.append(dict(message))
    return merged


def _in_order_of_calls(messages: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Neighbouring results in the order of their calls: not every prompt says whose a result is, and tools end as they please."""
    order: dict[str, int] = {}
    for is_results, group in itertools.groupby(messages, lambda message: message["role"] == "tool"):
        if is_results:
            yield from sorted(group, key=lambda result: order.get(result["tool_call_id"], 0))
            continue
        for message in group:
            order |= {call["id"]: i for i, call in enumerate(message.get("tool_calls", ()))}
            yield message


class CallPairing:
    """Which calls there have been, and which have their result."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._done: set[str] = set()

    def open(self, calls: Sequence[Mapping[str, Any]], i: int) -> None:
        """Calls are made. An id may come again once its call has its result: some servers count from 0 in each turn."""
        for call in calls:
            if call["id"] in self._names.keys() - self._done:
                raise MessageError(f"message {i} has a second call with the id {call['id']!r}: give each its own.")
            self._names[call["id"]] = call["name"]
            self._done.discard(call["id"])

    def close(self, message: Mapping[str, Any], i: int) -> dict[str, str]:
        """A result arrives: its call's id and name."""
        call_id = message.get("tool_call_id")
        if not isinstance(call_id, str) or call_id not in self._names:
            known = ", ".join(map(repr, self._names)) or "none"
            raise MessageError(
                f"message {i} is the result of the call {call_id!r}, which no earlier message makes; known calls: {known}. "
                "Put the assistant's message with its tool_calls before the result."
            )
        if call_id in self._done:
            raise MessageError(f"message {i} is a second result of the call {call_id!r}: join the two.")
        self._done.add(call_id)
        name = self._names[call_id]
        if message.get("name") not in (None, name):
            raise MessageError(
                f"message {i} is a result of {message['name']!r}, but the call {call_id!r} was of {name!r}."
            )
        return {"tool_call_id": call_id, "name": name}


def _read_calls(calls: Any, i: int) -> list[dict[str, Any]]:
    """An assistant's calls in one form."""
    if not isinstance(calls, Sequence) or isinstance(calls, str | bytes):
        raise MessageError(f"message {i} has the tool_calls {calls!r}: give a list.")
    return [_read_call(call, f"message {i}, call {j}") for j, call in enumerate(calls)]


def _read_call(call: Any, where: str) -> dict[str, Any]:
    if isinstance(call, ToolCall):
        call = {"id": call.id, "name": call.name, "arguments": call.arguments}
    inner = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(inner, Mapping):
        raise MessageError(f"{where} is {call!r}: give {{'id': …, 'name': …, 'arguments': {{…}}}}.")
    for key, value in (("id", call.get("id")), ("name", inner.get("name"))):
        if not isinstance(value, str) or not value:
            raise MessageError(f"{where} has {value!r} as its {key}: give a string that is not empty.")
        check_text(value)
    arguments = inner.get("arguments", inner.get("args"))
    return {"id": call["id"], "name": inner["name"], "arguments": _read_arguments(arguments, where)}


def _read_arguments(arguments: Any, where: str) -> dict[str, Any]:
    """A call's arguments: an object, or JSON text of one. An empty text is no arguments, as some servers write it."""
    try:
        value = json.loads(arguments or "{}") if isinstance(arguments, str) else arguments
        if not isinstance(value, Mapping):
            raise ValueError("they are no object")
        plain: dict[str, Any] = plain_json(value)
    except (ValueError, RecursionError) as error:
        raise MessageError(
            f"{where} has arguments that cannot be used ({error}): {arguments!r:.200}. Give a dict, or JSON text of an object."
        ) from None
    return plain


def _text_of(content: Any, i: int) -> str:
    """A message's content as one string."""
    if isinstance(content, str):
        return check_text(content)
    if isinstance(content, Sequence):
        parts = []
        for part in content:
            if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
                raise UnsupportedContentError(
                    f"message {i} holds content of the type {kind!r}; both models read text only. Remove it, or put a "
                    "description in its place."
                )
            parts.append(check_text(part["text"]))
        return "\n".join(parts)
    raise UnsupportedContentError(f"message {i} holds {type(content).__name__} as content; give a string.")


def check_text(text: str) -> str:
    """``text`` itself, if every character in it is one: no half of a surrogate pair, as badly decoded bytes leave.

    Raises:
        MessageError: otherwise.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise MessageError(
            f"The text holds {text[error.start]!a} at {error.start}, which is no character: decode its bytes with the "
            "right encoding."
        ) from None
    return text


def mentions(template: str, word: str) -> bool:
    return re.search(rf"\b{word}\b", template) is not None


def as_text(
    messages: Sequence[Mapping[str, Any]], write: Callable[[str, dict[str, Any]], str], result: str
) -> list[dict[str, Any]]:
    """Messages of system, user and assistant only: calls as the assistant's text, results as the user's.

    Args:
        write: a call's text, from its name and arguments.
        result: a result's text, with ``{}`` where the content goes.
    """
    shown = []
    for message in messages:
        role, content = message["role"], message["content"]
        if role == "tool":
            role, content = "user", result.replace("{}", content)
        elif calls := message.get("tool_calls"):
            parts = [content, *(write(call["name"], call["arguments"]) for call in calls)]
            content = "\n".join(part for part in parts if part)
        shown.append({"role": role, "content": content})
    return joined(shown)
