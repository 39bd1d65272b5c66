"""An answer that is nothing but the JSON of calls."""

from __future__ import annotations

import re

from ..calls import ToolCall
from .reading import strict_calls

_MAY_BE = re.compile(r"[\s\[,;]*(?:\{.*)?", re.DOTALL)


class Bare:
    """The whole text is calls of known tools."""

    control_tokens: frozenset[str] = frozenset()

    def find(self, text: str, at: int, names: frozenset[str]) -> tuple[int, int] | None:
        return (0, 0) if at == 0 and self.read(text, 0, names)[0] else None

    def read(self, text: str, at: int, names: frozenset[str]) -> tuple[list[ToolCall], int]:
        calls, end = strict_calls(text, 0, len(text), names)
        return (calls, end) if end == len(text) else ([], at)

    def held_from(self, text: str, at: int) -> int:
        return 0 if _MAY_BE.fullmatch(text) else len(text)
