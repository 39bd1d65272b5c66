"""Chat messages in, the two models' prompts out.

The nudging model gets its own chat template. The base model, which has never seen one, gets a plain transcript (Jinja,
sandboxed). Text from outside never becomes a control token in either: it is tokenised as plain text, character for
character (design, section 8). Tools, calls and their results go the same two ways.

Knows messages, templates and a codec's notion of control tokens. Leaves the answer to ``voice.py``, and what a tool is
and how a call is written to ``tools.py``.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..errors import MessageError, TemplateError, UnsupportedContentError, nearest
from ..tools.definitions import HERMES, Choice, Tool, plain_json, tools_section, transcript_tools, write_json
from ..tools.parser import ToolCall
from .tokenizer import TokenizerAdapter

#: The roles, and what a message of each may have besides role and content.
_EXTRAS: dict[str, frozenset[str]] = {
    "system": frozenset(),
    "user": frozenset(),
    "assistant": frozenset({"tool_calls"}),
    "tool": frozenset({"tool_call_id", "name"}),
}
ROLES = tuple(_EXTRAS)
Messages = str | Sequence[Mapping[str, Any]]

DEFAULT_TEMPLATE = """\
{%- for message in messages -%}
{%- if loop.first and message.role != "system" -%}
{{ tools }}
{%- endif -%}
{%- if message.role == "system" -%}
{{ message.content }}{{ "\n\n" + tools if tools else "" }}
{%- elif message.role == "user" -%}
{{ "" if loop.first and not tools else "\n" }}Question: {{ message.content }}
{%- elif message.role == "tool" -%}
{{ "\n" }}Function result: {{ message.content }}
{%- else -%}
{%- if message.content or not message.tool_calls -%}
{{ "\n" }}Answer: {{ message.content }}
{%- endif -%}
{%- for call in message.tool_calls -%}
{{ "\n" }}Function call: {{ call.name }}({{ call.arguments | tojson }})
{%- endfor -%}
{%- endif -%}
{%- endfor -%}
{{ "\n" }}Answer:"""


@dataclass(frozen=True)
class BaseTemplate:
    """How a conversation looks to the base model: a plain transcript that ends where the answer begins.

    Args:
        template: Jinja text; it sees ``messages``, a list of ``role`` ("system", "user", "assistant", "tool") and
            ``content``, and ``tools``, the functions on offer as text ("" if none). An assistant's message also has
            ``tool_calls``, a list of ``id``, ``name`` and ``arguments``; a tool's has ``tool_call_id`` and ``name``. A
            template without the word ``tools`` gets that text put first; one without ``tool_calls`` sees calls as text
            of the assistant and results as text of the user. The result may not end in white space: a base model
            predicts badly after it.
        markers: strings with which the template begins a turn. Where the base model writes one, its run is cut.

    Raises:
        TemplateError: the template does not compile.

    Examples:
        >>> BaseTemplate().render([{"role": "user", "content": "Why?"}])
        'Question: Why?\\nAnswer:'
    """

    template: str = DEFAULT_TEMPLATE
    markers: tuple[str, ...] = ("\nQuestion:", "\nAnswer:", "\nFunction call:", "\nFunction result:")

    def __post_init__(self) -> None:
        try:
            self._compiled  # noqa: B018 - compile now, so that a mistake shows at once
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f"base template, line {error.lineno}: {error.message}") from None
        if "" in self.markers or isinstance(self.markers, str):
            raise TemplateError("markers must be a tuple of non-empty strings")

    @cached_property
    def _compiled(self) -> jinja2.Template:
        environment = ImmutableSandboxedEnvironment(keep_trailing_newline=True, undefined=jinja2.StrictUndefined)
        environment.filters["tojson"] = write_json  # as in chat templates; Jinja's own escapes "<" and "'"
        return environment.from_string(self.template)

    def render(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool] = ()) -> str:
        """The transcript of messages as ``read_messages`` returns them, and of the tools on offer.

        Raises:
            TemplateError: the template fails on these messages, or its result is empty or ends in white space.
        """
        offered = transcript_tools(tools)
        shown: Sequence[Mapping[str, Any]]
        if _mentions(self.template, "tool_calls"):
            shown = [{"tool_calls": [], **item} if item["role"] == "assistant" else item for item in messages]
        else:
            shown = _as_text(messages, _transcript_call, "Function result: {}")
        try:
            text = self._compiled.render(messages=shown, tools=offered)
            if offered and not _mentions(self.template, "tools"):
                text = f"{offered}\n\n{text}"
        except (jinja2.TemplateError, TypeError) as error:
            raise TemplateError(f"The base template fails on these messages: {error}") from None
        if not text or text[-1].isspace():
            raise TemplateError(
                f"The base template's result ends in {text[-1:]!r}: let it end right before the white space that the "
                "answer is joined with, for example in 'Answer:'."
            )
        return text


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
    ledger = _Ledger()
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
            ledger.open(calls, i)
            read |= ledger.close(message, i) if role == "tool" else {}
        merged.append(read)
    merged = _joined(merged)
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


def _joined(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
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


class _Ledger:
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


# -- calls and results as text ----------------------------------------------------------------------------------------


def _mentions(template: str, word: str) -> bool:
    return re.search(rf"\b{word}\b", template) is not None


def _as_text(
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
    return _joined(shown)


def _transcript_call(name: str, arguments: dict[str, Any]) -> str:
    return f"Function call: {name}({write_json(arguments)})"


# -- the nudging model's prompt ---------------------------------------------------------------------------------------


def render_chat(
    codec: TokenizerAdapter,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Tool] = (),
    choice: Choice | None = None,
) -> list[int]:
    """Tokens of the nudging model's prompt: its chat template, up to where the answer begins.

    Every stretch of the messages and tools that the tokenizer would read as a control token is put aside before the
    template is rendered and comes back as plain text, so the template's own control tokens are the only ones.

    Args:
        messages: as ``read_messages`` returns them.
        tools: those on offer. Where the template knows none, they are described in the system text, and calls and results
            are shown as text.
        choice: what the model may do. Tools that it may not call are not shown.

    Raises:
        TemplateError: the model has no chat template, or it fails on these messages.
    """
    if not codec.chat_template:
        raise TemplateError(
            f"{codec.name} has no chat template. The nudging model must be an instruction-tuned model that has one; if "
            "yours should, set tokenizer.chat_template and pass (model, tokenizer)."
        )
    if choice and choice.mode == "none":
        tools = ()
    source = _template_source(codec.chat_template, codec.name, bool(tools))
    aside = _Aside(codec, [messages, [tool.definition for tool in tools]])
    if _mentions(source, "tools"):
        shown = _as_openai(messages, aside.put)
        definitions = [_put_definition(tool, aside.put) for tool in tools]
    else:
        shown = _with_section(messages, tools_section(tools, choice))
        shown = [{**message, "content": aside.put(message["content"])} for message in shown]
        definitions = []
    return aside.encode(_apply(codec, source, shown, definitions))


def _template_source(template: Any, name: str, with_tools: bool) -> str:
    """The template to use; of several by name, "tool_use" where there are tools, else "default"."""
    if isinstance(template, str):
        return template
    named = template if isinstance(template, Mapping) else {entry["name"]: entry["template"] for entry in template}
    source = (named.get("tool_use") if with_tools else None) or named.get("default")
    if not source:
        raise TemplateError(
            f"{name} has chat templates called {', '.join(named)}, and none called default: choose one."
        )
    return str(source)


def _as_openai(messages: Sequence[Mapping[str, Any]], put: Callable[[Any], Any]) -> list[dict[str, Any]]:
    """Messages as chat templates expect them, with ``put`` done to whatever is from outside.

    Ids are counted anew: a template that shows them (Mistral's) wants nine letters or digits.
    """
    ids: dict[str, str] = {}
    shown, numbers = [], itertools.count()
    for message in messages:
        item = {**message, "content": put(message["content"])}
        if "name" in item:
            item["name"] = put(item["name"])
        if calls := item.get("tool_calls"):
            ids |= {call["id"]: f"call{next(numbers):05}" for call in calls}
            item["tool_calls"] = [
                {
                    "id": ids[call["id"]],
                    "type": "function",
                    "function": {"name": put(call["name"]), "arguments": put(call["arguments"])},
                }
                for call in calls
            ]
        if "tool_call_id" in item:
            item["tool_call_id"] = ids[item["tool_call_id"]]
        shown.append(item)
    return shown


def _put_definition(tool: Tool, put: Callable[[Any], Any]) -> dict[str, Any]:
    definition = tool.definition
    return {**definition, "function": {key: put(value) for key, value in definition["function"].items()}}


def _with_section(messages: Sequence[Mapping[str, Any]], section: str) -> list[dict[str, Any]]:
    """Messages for a template that knows no tools: all as text, ``section`` at the end of the system text."""
    shown = _as_text(messages, HERMES.write, "<tool_response>\n{}\n</tool_response>")
    if not section:
        return shown
    at = 1 if shown[0]["role"] == "system" else 0
    return _joined([*shown[:at], {"role": "system", "content": section}, *shown[at:]])


def _apply(
    codec: TokenizerAdapter, source: str, messages: list[dict[str, Any]], definitions: list[dict[str, Any]]
) -> str:
    """Render the chat template; fold the system message into the first user message where it knows no such role."""
    options: dict[str, Any] = {"enable_thinking": False} if "enable_thinking" in source else {}
    if definitions:
        options["tools"] = definitions
    if not isinstance(codec.chat_template, str):
        options["chat_template"] = source

    def render(conversation: list[dict[str, Any]]) -> str:
        text = codec.apply_chat_template(conversation, **options)
        return text

    try:
        try:
            return render(messages)
        except jinja2.TemplateError as error:
            if messages[0]["role"] != "system" or "system" not in str(error).lower() or len(messages) < 2:
                raise
            first = {**messages[1], "content": messages[0]["content"] + "\n\n" + messages[1]["content"]}
            return render([first, *messages[2:]])
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        raise TemplateError(f"The chat template of {codec.name} fails on these messages: {error}") from None


class _Aside:
    """Control strings in text from outside, kept away from a template and from the tokenizer's notion of control.

    In the text stands a mark instead: a private-use character that the text has nowhere else, a number, a quotation mark
    and the character again. The quotation mark shows how often the template has written the text as JSON, as each time
    doubles its backslashes; so the string comes back as JSON, or as JSON in JSON, where it has to be.

    Args:
        values: everything that will be put aside from.
    """

    def __init__(self, codec: TokenizerAdapter, values: Any) -> None:
        self._codec = codec
        self._kept: list[str] = []
        everything = write_json(values)
        chars = map(chr, range(0xE000, 0xF8FF))
        self._mark = next(char for char in chars if char not in everything and _escape(char) not in everything)
        mark = f"(?:{self._mark}|{re.escape(_escape(self._mark))})"
        self._pattern = re.compile(rf'{mark}(\d+)(\\*)"{mark}')

    def put(self, value: Any) -> Any:
        """``value`` with marks for its control strings, also in the keys of its dicts."""
        if isinstance(value, str):
            return self._put_text(value)
        if isinstance(value, list):
            return [self.put(item) for item in value]
        if isinstance(value, dict):
            return {self._put_text(key): self.put(item) for key, item in value.items()}
        return value

    def _put_text(self, text: str) -> str:
        out, at = "", 0
        for start, stop in self._codec.control_spans(text):
            if start < at:
                continue
            out += f'{text[at:start]}{self._mark}{len(self._kept)}"{self._mark}'
            self._kept.append(text[start:stop])
            at = stop
        return out + text[at:]

    def encode(self, text: str) -> list[int]:
        """Tokens of a rendered template: its own control tokens count, what was put aside is plain text."""
        ids: list[int] = []
        at = 0
        for found in self._pattern.finditer(text):
            ids += self._codec.encode_control(text[at : found.start()])
            ids += self._codec.encode(self._restored(found))
            at = found.end()
        return ids + self._codec.encode_control(text[at:])

    def _restored(self, found: re.Match[str]) -> str:
        """The string of a mark, written as the mark was."""
        text, escaped = self._kept[int(found[1])], found[0].startswith("\\")
        times = (len(found[2]) + 1).bit_length() - 1  # 0, 1, 3, 7 backslashes
        if escaped and not times:
            return repr(text)[1:-1]  # a template that prints a dict
        for i in range(times):
            text = json.dumps(text, ensure_ascii=escaped and i == times - 1)[1:-1]
        return text


def _escape(char: str) -> str:
    """A character as JSON in ASCII has it: a backslash, "u" and four digits."""
    return json.dumps(char)[1:-1]
