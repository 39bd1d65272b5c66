"""Calls of tools, as they were read from an answer's text."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ToolCall:
    """A call. ``text`` is the JSON that it was read from, which stands at ``start`` in the answer."""

    id: str
    name: str
    arguments: dict[str, Any]
    text: str
    start: int


@dataclass(frozen=True)
class InvalidToolCall:
    """Text that was meant as a call and is none: ``text`` as the model wrote it, at ``start``, and what is wrong."""

    id: str
    name: str | None
    text: str
    error: str
    start: int


#: Either of the two.
Call = ToolCall | InvalidToolCall


def new_call_id() -> str:
    """A call's id: unique everywhere."""
    return f"call_{uuid.uuid4().hex[:24]}"
