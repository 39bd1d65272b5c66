"""What a model may do with tools: ``tool_choice``, in the ways in which OpenAI, Anthropic and others write it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import ToolError, nearest
from .definitions import Tool
from .json_values import short


@dataclass(frozen=True)
class Choice:
    """What the model may do: call or not (auto), must call (required; ``name`` alone if there is one), must not (none)."""

    mode: Literal["auto", "required", "none"] = "auto"
    name: str | None = None


_MODES: dict[str, Choice] = {
    "auto": Choice(),
    "none": Choice("none"),
    "required": Choice("required"),
    "any": Choice("required"),
}


def read_choice(choice: Any, tools: Sequence[Tool]) -> Choice:
    """What ``tool_choice`` asks for.

    Args:
        choice: None or "auto"; "none" or False; "required", "any" or True; a tool's name; a dict as OpenAI
            (``{"type": "function", "function": {"name": …}}``) or Anthropic (``{"type": "tool", "name": …}``,
            ``{"type": "any"}``) have it; or a ``Choice``.
        tools: those that there are.

    Raises:
        ToolError: it is none of these, names no tool, or asks for a call where there are no tools.
    """
    found = _wanted(choice)
    names = [tool.name for tool in tools]
    if found and found.mode == "required" and not tools:
        raise ToolError(f"tool_choice={short(choice)} asks for a call, and there are no tools: give some.")
    if found is None or (found.name is not None and found.name not in names):
        named = found.name if found and found.name else choice
        possible = ", ".join(map(repr, ["auto", "none", "required", *names]))
        hint = nearest(named, [*_MODES, *names]) if isinstance(named, str) else ""
        raise ToolError(f"tool_choice={short(choice)}: possible are {possible}.{hint}")
    return found


def is_forced(choice: Any) -> bool:
    """Whether ``tool_choice`` asks for a call."""
    found = _wanted(choice)
    return found is not None and found.mode == "required"


def _wanted(choice: Any) -> Choice | None:
    """A choice as it was written; None if it is written in no known way."""
    if isinstance(choice, Choice):
        return choice
    if choice is None or isinstance(choice, bool):
        return {None: Choice(), True: Choice("required"), False: Choice("none")}[choice]
    if isinstance(choice, str):
        return _MODES.get(choice) or Choice("required", choice)
    if not isinstance(choice, Mapping):
        return None
    kind, inner = choice.get("type"), choice.get("function")
    name = inner.get("name") if isinstance(inner, Mapping) else choice.get("name")
    if kind in ("function", "tool") and isinstance(name, str):
        return Choice("required", name)
    return _MODES.get(kind) if isinstance(kind, str) else None
