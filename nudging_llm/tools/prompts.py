"""Tools in prompts: a section of a system text for chat models, a line each for a base model's transcript."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .choice import Choice
from .definitions import Tool, resolve_reference
from .json_values import write_json
from .styles.hermes import HERMES


def tools_section(tools: Sequence[Tool], choice: Choice | None = None) -> str:
    """A part of a system text that offers tools to a chat model whose template cannot; empty if it may call none."""
    if not tools or (choice and choice.mode == "none"):
        return ""
    signatures = "\n".join(write_json(tool.definition) for tool in tools)
    body = f'{{"{HERMES.name_key}": <function name>, "{HERMES.arguments_key}": <object with the arguments>}}'
    parts = [
        "# Functions",
        f"You can call functions to help with the user's request. Their signatures, one per line:\n<tools>\n{signatures}\n"
        "</tools>",
        f"To call a function, write one such block, with nothing but JSON in it:\n{HERMES.begin}{body}{HERMES.end}",
    ]
    if choice and choice.mode == "required":
        what = f"the function {choice.name}" if choice.name else "at least one function"
        parts.append(f"This time you must call {what}.")
    else:
        parts.append("If no function is needed, answer in plain words.")
    return "\n\n".join(parts)


def transcript_tools(tools: Sequence[Tool]) -> str:
    """Tools in plain text, for a base model's transcript: one line each, as a signature. Empty if there are none.

    Examples:
        >>> print(transcript_tools([Tool("roll", "Roll dice.", {"properties": {"sides": {"type": "integer"}}})]))
        Functions:
        - roll(sides?: integer): Roll dice.
    """
    return "\n".join(["Functions:", *map(_signature, tools)]) if tools else ""


def _signature(tool: Tool) -> str:
    required = tool.parameters.get("required", [])
    arguments = []
    for name, schema in tool.parameters.get("properties", {}).items():
        kind = _type_text(schema, tool.parameters)
        if isinstance(schema, dict) and "default" in schema:
            arguments.append(f"{name}: {kind} = {write_json(schema['default'])}")
        else:
            arguments.append(f"{name}{'' if name in required else '?'}: {kind}")
    line = f"- {tool.name}({', '.join(arguments)})" + (f": {tool.description}" if tool.description else "")
    return " ".join(line.split())  # one line, so that no description begins a turn of the transcript


def _type_text(schema: Any, root: dict[str, Any], depth: int = 4) -> str:
    """A schema's type in words, such as "string", "array of integer" or "1 | 2"."""
    if not isinstance(schema, dict) or depth == 0:
        return "any"
    if isinstance(reference := schema.get("$ref"), str):
        return _type_text(resolve_reference(root, reference), root, depth - 1)
    if "const" in schema:
        return write_json(schema["const"])
    if isinstance(values := schema.get("enum"), list):
        return " | ".join(map(write_json, values))
    for key in ("anyOf", "oneOf"):
        if isinstance(options := schema.get(key), list):
            return " or ".join(dict.fromkeys(_type_text(option, root, depth - 1) for option in options))
    kind = schema.get("type", "any")
    if kind == "array" and "items" in schema:
        return f"array of {_type_text(schema['items'], root, depth - 1)}"
    return " or ".join(map(str, kind)) if isinstance(kind, list) else str(kind)
