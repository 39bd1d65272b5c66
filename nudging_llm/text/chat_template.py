"""The nudging model's prompt: its own chat template, with tools, calls and their results.

Text from outside never becomes a control token in it (``outside_text.py``). Knows messages as ``messages.py`` reads them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2

from ..errors import TemplateError
from ..tools.choice import Choice
from ..tools.definitions import Tool
from ..tools.prompts import tools_section
from ..tools.styles.hermes import HERMES
from .messages import as_text, joined, mentions
from .outside_text import OutsideText
from .tokenizer import TokenizerAdapter


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
    aside = OutsideText(codec, [messages, [tool.definition for tool in tools]])
    if mentions(source, "tools"):
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
    shown = as_text(messages, HERMES.write, "<tool_response>\n{}\n</tool_response>")
    if not section:
        return shown
    at = 1 if shown[0]["role"] == "system" else 0
    return joined([*shown[:at], {"role": "system", "content": section}, *shown[at:]])


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
