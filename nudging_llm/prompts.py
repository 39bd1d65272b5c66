"""Chat messages in, the two models' prompts out.

The nudging model gets its own chat template. The base model, which has never seen one, gets a plain transcript (Jinja,
sandboxed). Text from outside never becomes a control token in either: it is tokenised as plain text, character for
character (design, section 8).

Knows messages, templates and a codec's notion of control tokens. Leaves the answer to ``voice.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from .errors import MessageError, TemplateError, UnsupportedContentError, nearest
from .tokenization import TextCodec

ROLES = ("system", "user", "assistant")
Messages = str | Sequence[Mapping[str, Any]]

DEFAULT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message.role == "system" -%}
{{ message.content }}
{%- elif message.role == "user" -%}
{{ "" if loop.first else "\n" }}Question: {{ message.content }}
{%- else -%}
{{ "\n" }}Answer: {{ message.content }}
{%- endif -%}
{%- endfor -%}
{{ "\n" }}Answer:"""


@dataclass(frozen=True)
class BaseTemplate:
    """How a conversation looks to the base model: a plain transcript that ends where the answer begins.

    Args:
        template: Jinja text; it sees ``messages``, a list of ``role`` ("system", "user", "assistant") and ``content``.
            The result may not end in white space: a base model predicts badly after it.
        markers: strings with which the template begins a turn. Where the base model writes one, its run is cut.

    Raises:
        TemplateError: the template does not compile.

    Example:
        >>> BaseTemplate().render([{"role": "user", "content": "Why?"}])
        'Question: Why?\\nAnswer:'
    """

    template: str = DEFAULT_TEMPLATE
    markers: tuple[str, ...] = ("\nQuestion:", "\nAnswer:")

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
        return environment.from_string(self.template)

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The transcript.

        Raises:
            TemplateError: the template fails on these messages, or its result is empty or ends in white space.
        """
        try:
            text = self._compiled.render(messages=list(messages))
        except (jinja2.TemplateError, TypeError) as error:
            raise TemplateError(f"The base template fails on these messages: {error}") from None
        if not text or text[-1].isspace():
            raise TemplateError(
                f"The base template's result ends in {text[-1:]!r}: let it end right before the white space that the "
                "answer is joined with, for example in 'Answer:'."
            )
        return text


def read_messages(messages: Messages) -> list[dict[str, str]]:
    """Check messages, and bring them into the one form that templates see.

    A string is one user message. Leading system messages, and neighbours of one role, are joined by a blank line.

    Raises:
        MessageError: none at all, an unknown role, a system message after the start, or an assistant's message last.
        UnsupportedContentError: content other than text.
    """
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if not isinstance(messages, Sequence) or not messages:
        raise MessageError(f"messages={messages!r}: give a string or a non-empty list of messages.")
    merged: list[dict[str, str]] = []
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
            raise MessageError(f"message {i} is {message!r}: give {{'role': …, 'content': …}}.")
        role = message["role"]
        if role not in ROLES:
            raise MessageError(
                f"message {i} has the role {role!r}; known are {', '.join(ROLES)}.{nearest(str(role), ROLES)}"
            )
        if extra := set(message) - {"role", "content"}:
            raise MessageError(f"message {i} has {sorted(extra)} besides role and content, which no prompt would show.")
        if role == "system" and any(earlier["role"] != "system" for earlier in merged):
            raise MessageError(f"message {i} is a system message after the conversation began; put it first.")
        content = _text_of(message["content"], i)
        if merged and merged[-1]["role"] == role:
            merged[-1]["content"] += "\n\n" + content
        else:
            merged.append({"role": role, "content": content})
    if merged[-1]["role"] != "user":
        raise MessageError(
            f"The last message is the {merged[-1]['role']}'s: there is nothing to answer. Add a user message."
        )
    if not merged[-1]["content"].strip():
        raise MessageError("The user's message is empty.")
    return merged


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


def render_chat(tokenizer: Any, codec: TextCodec, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """Tokens of the nudging model's prompt: its chat template, up to where the answer begins.

    Every stretch of the messages that the tokenizer would read as a control token is put aside before the template is
    rendered and comes back as plain text, so the template's own control tokens are the only ones.

    Raises:
        TemplateError: the model has no chat template, or it fails on these messages.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise TemplateError(
            f"{codec.name} has no chat template. The nudging model must be an instruction-tuned model that has one; if "
            "yours should, set tokenizer.chat_template and pass (model, tokenizer)."
        )
    aside: list[str] = []
    mark = _unused_mark(messages)
    safe = [{**message, "content": _put_aside(codec, message["content"], mark, aside)} for message in messages]
    text = _apply(tokenizer, codec.name, safe)
    ids: list[int] = []
    for i, part in enumerate(re.split(f"{mark}(\\d+){mark}", text)):
        ids += codec.encode(aside[int(part)]) if i % 2 else codec.encode_control(part)
    return ids


def _apply(tokenizer: Any, name: str, messages: list[dict[str, str]]) -> str:
    """Render the chat template; fold the system message into the first user message where it knows no such role."""
    switches = {"enable_thinking": False} if "enable_thinking" in str(tokenizer.chat_template) else {}

    def render(conversation: list[dict[str, str]]) -> str:
        text: str = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True, **switches)
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
        raise TemplateError(f"The chat template of {name} fails on these messages: {error}") from None


def _put_aside(codec: TextCodec, content: str, mark: str, aside: list[str]) -> str:
    """``content`` with its control strings replaced by numbered marks; the strings go to ``aside``."""
    out, at = "", 0
    for start, stop in codec.control_spans(content):
        if start < at:
            continue
        out += f"{content[at:start]}{mark}{len(aside)}{mark}"
        aside.append(content[start:stop])
        at = stop
    return out + content[at:]


def _unused_mark(messages: Sequence[Mapping[str, str]]) -> str:
    """A private-use character that no message has."""
    everything = "".join(message["content"] for message in messages)
    return next(char for char in map(chr, range(0xE000, 0xF8FF)) if char not in everything)
