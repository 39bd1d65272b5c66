"""The form of an answer that a request asks for: free text, JSON, a pattern, choices or tool calls; and how to read it back.

Turns the per-call keywords ``json_schema``, ``regex``, ``choices``, ``tools``, ``tool_choice`` and ``parallel_tool_calls`` into
a ``ResponseFormat``: the grammar to hold the answer to, the tools that prompts show, and the reader of the finished text.
Knows no model.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError

from ..config import NudgingConfig
from ..errors import ConfigError, GrammarError, nearest
from ..provenance import Provenance
from ..result import Result
from ..tools.choice import Choice, read_choice
from ..tools.definitions import Tool, read_tools
from ..tools.json_values import partial_object
from ..tools.parser import parse_calls
from ..tools.streaming import ToolCallParser
from ..tools.styles.hermes import HERMES
from .grammar import Grammar, calls_grammar, choices_grammar, json_grammar, regex_grammar
from .json_schema import closed_objects, enforceable
from .type_schemas import schema_of

#: The per-call keywords that ask for a form.
KEYWORDS = ("json_schema", "regex", "choices", "tools", "tool_choice", "parallel_tool_calls")


@dataclass(frozen=True)
class ResponseFormat:
    """The form of one answer.

    Attributes:
        grammar: what the text is held to; None for free text.
        tools: those that the prompts show.
        choice: whether they may or must be called.
        load: makes a value of the JSON text; None if it is no JSON.
    """

    grammar: Grammar | None = None
    tools: tuple[Tool, ...] = ()
    choice: Choice | None = None
    load: Callable[[str], Any] | None = None

    def read(self, record: Provenance) -> Result:
        """A finished answer's text and what it says."""
        text = record.text
        if self.tools and (self.load is None or text.startswith(HERMES.begin)):
            answer = parse_calls(text, self.tools)
            return Result(text, record, answer.content, answer.calls, answer.invalid, answer.spans)
        if self.load is None:
            return Result(text, record, text)
        if record.finish_reason in ("cancelled", "error"):
            return Result(text, record, text, parsed=partial_object(text))
        try:
            return Result(text, record, text, parsed=self.load(text))
        except ValueError as error:  # a validator of the caller's own, of which the schema says nothing
            return Result(text, record, text, parsing_error=error)

    def tool_call_parser(self) -> ToolCallParser:
        """What takes the answer apart while it is written."""
        return ToolCallParser(bool(self.tools), ruled=self.grammar is not None and self.grammar.trigger is None)

    def check(self, config: NudgingConfig) -> None:
        """Refuse options that cannot hold together with the form.

        Raises:
            ConfigError: naming them.
        """
        if self.grammar is None:
            return
        if config.repetition == "paper":
            raise ConfigError(
                "repetition='paper' reads base runs in chunks, which no grammar can be held to. Use repetition='guard' with "
                "json_schema, regex, choices and tools."
            )
        if config.stop and self.grammar.trigger is None:
            raise ConfigError(
                f"stop={config.stop!r} could cut the answer before it is valid. Remove stop: a grammar ends the answer by itself."
            )


FREE_TEXT = ResponseFormat()


def read_response_format(options: Mapping[str, Any]) -> tuple[ResponseFormat, dict[str, Any]]:
    """The form that the keywords ask for, and the other options.

    Raises:
        ConfigError: two forms at once, or ``tool_choice`` without ``tools``.
        ToolError, GrammarError: what was given cannot be used.
    """
    asked = {name: options[name] for name in KEYWORDS if options.get(name) is not None}
    rest = {name: value for name, value in options.items() if name not in KEYWORDS}
    for name in rest:
        if name not in NudgingConfig.model_fields:
            raise ConfigError(
                f"Unknown option {name!r}.{nearest(name, [*NudgingConfig.model_fields, *KEYWORDS, 'config'])}"
            )
    if not asked:
        return FREE_TEXT, rest
    tools = read_tools(asked["tools"]) if "tools" in asked else ()
    choice = read_choice(asked.get("tool_choice"), tools)
    tools = () if choice.mode == "none" else tools  # not shown either: what may not be called should not tempt
    forms = [name for name in ("json_schema", "regex", "choices") if name in asked] + ["tools"] * bool(tools)
    calls_or_json = forms == ["json_schema", "tools"] and choice.mode == "auto"
    if len(forms) > 1 and not calls_or_json:
        raise ConfigError(
            f"{' and '.join(forms)} ask for different forms of answer: give one (or tool_choice='none'). Only json_schema and "
            "tools go together, with tool_choice='auto': calls, or else JSON."
        )
    if tools:
        schema, load = _schema(asked["json_schema"]) if calls_or_json else (None, None)
        several = bool(asked.get("parallel_tool_calls", choice.mode == "auto"))
        return _calls(tools, choice, several, schema, load), rest
    if "json_schema" in asked:
        schema, load = _schema(asked["json_schema"])
        return ResponseFormat(json_grammar(schema), load=load), rest
    if "regex" in asked:
        return ResponseFormat(regex_grammar(asked["regex"])), rest
    if "choices" in asked:
        return ResponseFormat(choices_grammar(asked["choices"])), rest
    return FREE_TEXT, rest


def _calls(
    tools: tuple[Tool, ...], choice: Choice, several: bool, schema: Any, load: Callable[[str], Any] | None
) -> ResponseFormat:
    free = choice.mode == "auto"
    callable_now = tuple(_held(tool, free) for tool in tools if choice.name in (None, tool.name))
    trigger = HERMES.begin.strip() if free and schema is None else None
    several = several and choice.name is None
    grammar = calls_grammar(HERMES.schema(callable_now), HERMES.begin, HERMES.end, several, trigger, schema)
    return ResponseFormat(grammar, tools, choice, load)


def _held(tool: Tool, free: bool) -> Tool:
    """A tool whose calls a grammar can be held to. In free choice, one that no grammar could hold may be called with any object.

    Raises:
        GrammarError: it must be callable exactly, and cannot.
    """
    try:
        json_grammar(tool.parameters)
        return replace(tool, parameters=closed_objects(enforceable(tool.parameters)))
    except GrammarError as error:
        if not free:
            raise GrammarError(f"The tool {tool.name!r}: {error}") from None
        message = f"The arguments of the tool {tool.name!r} are any object, not held to its schema: {error}"
        warnings.warn(message, UserWarning, stacklevel=2)
        return replace(tool, parameters={"type": "object"})


def _schema(asked: Any) -> tuple[Any, Callable[[str], Any]]:
    """A JSON schema, and what reads text that fits it."""
    if isinstance(asked, (Mapping, bool)):
        return asked, json.loads
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(asked)
        return schema_of(asked), adapter.validate_json
    except (PydanticUserError, AttributeError, TypeError, ValueError) as error:
        raise GrammarError(
            f"json_schema={asked!r}: give a JSON schema (a dict or a bool), or a type such as a pydantic model ({error})."
        ) from None
