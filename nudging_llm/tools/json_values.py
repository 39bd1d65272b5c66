"""Values of JSON: plain copies, text, and the part of an object that has come so far."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

#: Deepest nesting of arguments and schemas. Far beyond any real one, and safe for everything here that recurses.
MAX_DEPTH = 64


def plain_json(value: Any, depth: int = MAX_DEPTH) -> Any:
    """A copy of ``value`` made of what JSON knows: dicts with string keys, lists, strings, finite numbers, bool, None.

    Raises:
        ValueError: anything else in it, half a surrogate pair, or more than ``depth`` levels.
    """
    if depth < 0:
        raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, str):
        value.encode("utf-8")  # its error is a ValueError
        return value
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, Mapping):
        if odd := [key for key in value if not isinstance(key, str)]:
            raise ValueError(f"the key {short(odd[0])} is no string")
        return {plain_json(key): plain_json(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(item, depth - 1) for item in value]
    raise ValueError(f"{short(value)} cannot be written as JSON")


def write_json(value: Any) -> str:
    """``value`` as JSON on one line, in the characters that it has."""
    return json.dumps(value, ensure_ascii=False)


def partial_object(text: str) -> Any:
    """The value of a JSON text as far as it has come; None if nothing has, or what is there is no JSON."""
    try:
        return from_json(text, allow_partial="trailing-strings")
    except (ValueError, TypeError):  # TypeError: half a surrogate pair
        return None


def short(value: Any) -> str:
    """A value as errors show it: its repr, of at most 80 characters."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deep; an integer of thousands of digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "…"
