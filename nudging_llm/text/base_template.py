"""The base model's prompt: a plain transcript, as a base model has never seen a chat template (Jinja, sandboxed).

Knows messages as ``messages.py`` reads them; leaves tokens to others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ..errors import TemplateError
from ..tools.definitions import Tool
from ..tools.json_values import write_json
from ..tools.prompts import transcript_tools
from .messages import as_text, mentions

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
        if mentions(self.template, "tool_calls"):
            shown = [{"tool_calls": [], **item} if item["role"] == "assistant" else item for item in messages]
        else:
            shown = as_text(messages, _transcript_call, "Function result: {}")
        try:
            text = self._compiled.render(messages=shown, tools=offered)
            if offered and not mentions(self.template, "tools"):
                text = f"{offered}\n\n{text}"
        except (jinja2.TemplateError, TypeError) as error:
            raise TemplateError(f"The base template fails on these messages: {error}") from None
        if not text or text[-1].isspace():
            raise TemplateError(
                f"The base template's result ends in {text[-1:]!r}: let it end right before the white space that the "
                "answer is joined with, for example in 'Answer:'."
            )
        return text


def _transcript_call(name: str, arguments: dict[str, Any]) -> str:
    return f"Function call: {name}({write_json(arguments)})"
