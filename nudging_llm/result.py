"""``Result``: a finished answer, with its record and what was read from its text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .provenance import Provenance
from .tools.calls import InvalidToolCall, ToolCall


@dataclass(frozen=True, slots=True)
class Result:
    """A finished answer.

    Attributes:
        text: the answer, every character of it.
        provenance: who wrote what, and why.
        content: the text without tool calls.
        calls: the tool calls in it.
        invalid_calls: what was meant as a call and is none, as it stands in the text, with the reason.
        call_spans: where calls, valid or not, stand in the text, with their tags: start and end, in characters.
        parsed: the value of a JSON answer: of the type given as ``json_schema``, or plain; of a cancelled one, as far as it came.
        parsing_error: why ``parsed`` could not be made: a validator that the schema says nothing of.
    """

    text: str
    provenance: Provenance
    content: str = ""
    calls: tuple[ToolCall, ...] = ()
    invalid_calls: tuple[InvalidToolCall, ...] = ()
    call_spans: tuple[tuple[int, int], ...] = ()
    parsed: Any = None
    parsing_error: Exception | None = None

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """In a notebook or IPython, as text: as its record."""
        self.provenance._repr_pretty_(printer, cycle)

    def _repr_html_(self) -> str:
        """In a notebook: as its record."""
        return self.provenance._repr_html_()
