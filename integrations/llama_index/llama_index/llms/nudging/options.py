"""From the keywords of a LlamaIndex call to the core's options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nudging_llm import BaseTemplate, ConfigError
from nudging_llm.frameworks.fields import NudgingFields

from .messages import is_react, react_options, tool_definition
from .prediction import PROGRAM


def core_options(
    llm: NudgingFields, conversation: Sequence[Mapping[str, Any]], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The core's options for one call.

    Raises:
        ConfigError: a call is required and cannot be made.
    """
    asked = {name: value for name, value in kwargs.items() if value is not None and name != PROGRAM}
    if (parallel := asked.pop("allow_parallel_tool_calls", None)) is not None:
        asked.setdefault("parallel_tool_calls", parallel)
    required = asked.pop("tool_required", False)
    if tools := asked.pop("tools", None):
        asked["tools"] = [tool_definition(tool) for tool in tools]
        if required and asked.get("tool_choice") == "none":
            raise ConfigError("tool_required=True and tool_choice='none' contradict each other: give one of them.")
        if required and asked.get("tool_choice", "auto") == "auto":
            asked["tool_choice"] = "required"
    elif required:
        raise ConfigError("tool_required=True asks for a call, and there are no tools: give some.")
    options = llm._call_options(asked)
    if is_react(conversation) and not asked.keys() & {"tools", "json_schema", "regex", "choices"}:
        template = llm.base_template if llm.generator is None else llm.generator.base_template
        markers = (BaseTemplate(template) if isinstance(template, str) else template or BaseTemplate()).markers
        stop = options["stop"]
        options |= react_options([stop] if isinstance(stop, str) else stop, markers if options["role_markers"] else ())
    return options
