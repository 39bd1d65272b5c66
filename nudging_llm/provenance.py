"""Which model wrote what, how sure the base model was, and why: the record of an answer.

``Piece`` is what streams; ``Provenance`` is the whole, with a versioned JSON form (``docs/provenance.schema.json``). Records of
earlier versions can be read. Knows no model and no framework.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

#: Version 1 wrote an empty name for a model that took no part; version 2 writes null in place of the model.
SCHEMA_VERSION: Literal[2] = 2

Source = Literal["base", "nudging", "grammar"]
FinishReason = Literal["stop", "length", "stop_string", "repetition", "cancelled", "error"]


class Reason(str, Enum):
    """Why this source wrote this piece."""

    OPENING = "opening"
    """Nudging: the nudging model writes the first word of every answer."""
    UNCERTAIN = "uncertain"
    """Nudging: the base model's gate failed here (top-1 probability below γ)."""
    LOOKAHEAD_CUT = "lookahead_cut"
    """Nudging: the lookahead ended before a hand-over could be tested here."""
    BASE_ENDED = "base_ended"
    """Nudging: the base run had ended by itself (end of text, another turn, a repeated chunk); the nudging model goes on."""
    ENDING = "ending"
    """Nudging: it reached its end of text within the lookahead, so these are the answer's last words."""
    HANDOVER_PREFIX = "handover_prefix"
    """Base: its top-1 token begins the word that the nudging model would have written, so it takes over."""
    HANDOVER_CONFIDENT = "handover_confident"
    """Base: it is sure enough again, or the nudging model has nothing to add (stop_on="both"), so it takes over."""
    CONFIDENT = "confident"
    """Base: within its run, the gate passed."""
    ALONE = "alone"
    """Either: the answer was asked of this model alone; no gate was applied."""
    FORCED = "forced"
    """Grammar: it left no choice."""
    CLOSING = "closing"
    """Grammar: a short way to a valid end, where max_tokens leaves no room for more or the answer went in circles."""

    __str__ = str.__str__


@dataclass(frozen=True, slots=True)
class Piece:
    """The smallest streamed unit of text, from one source.

    Attributes:
        text: never empty; the pieces of an answer, joined, are the answer.
        start: offset of the text in the answer, in characters.
        source: who wrote it.
        reason: why, see ``Reason``.
        round: number of the round, from 1.
        base_top_prob: the base model's top-1 probability where this piece begins; None if it was not asked.
        base_top_text: what the base model would have written there: for a nudge, the rejected choice. Empty where it
            would have ended its text; ``U+FFFD`` where its token is a part of a character.
        n_tokens: length in tokens of the base model.
        elapsed_s: seconds from the start of the request until the piece was settled.
    """

    text: str
    start: int
    source: Source
    reason: Reason
    round: int
    base_top_prob: float | None
    base_top_text: str | None
    n_tokens: int
    elapsed_s: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, as a ``Provenance``'s ``pieces`` has them."""
        return {**asdict(self), "reason": self.reason.value}

    @classmethod
    def from_dict(cls, piece: Mapping[str, Any]) -> Piece:
        """The inverse of ``to_dict``; further keys are let go.

        Raises:
            ValueError: a key is missing, or the reason is none.
        """
        try:
            found = {name: piece[name] for name in cls.__slots__}
        except KeyError as error:
            raise ValueError(f"a piece without {error}: {dict(piece)!r}") from None
        return cls(**{**found, "reason": Reason(found["reason"])})


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring pieces of one source, merged."""

    text: str
    start: int
    source: Source


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelUse(_Record):
    """One model's part in one answer."""

    name: str
    revision: str | None = None
    tokens: int = Field(0, description="Tokens of the answer that it wrote, in the base model's tokens.")
    forwards: int = Field(0, description="Calls of the model that it took part in; requests share them.")
    forward_tokens: int = Field(0, description="Tokens evaluated in them, prompt included.")
    drafted: int = Field(0, description="Tokens among those that were guesses.")
    accepted: int = Field(0, description="Guesses whose prediction was used.")
    prompt_tokens: int = Field(0, description="Length of its prompt.")
    prompt_tokens_reused: int = Field(0, description="Prompt tokens that another request had evaluated.")
    seconds: float = Field(0.0, description="Time in its forwards; of a shared one, its share.")


class ProvenanceWarning(_Record):
    """A known failure signature, and what to do about it."""

    code: Literal[
        "never_nudged",
        "nudged_too_much",
        "repetition",
        "role_marker",
        "cache_never_hit",
        "context_full",
        "closed_early",
        "call_left_out",
    ]
    message: str


class Provenance(_Record):
    """The whole record of one answer.

    Invariant, checked on construction: the pieces follow one another from offset 0 without a gap.
    """

    schema_version: Literal[2] = SCHEMA_VERSION
    pieces: tuple[Piece, ...] = ()
    finish_reason: FinishReason = "stop"
    rounds: int = 0
    base: ModelUse | None = Field(None, description="The base model's part; None if it took none.")
    nudging: ModelUse | None = Field(None, description="The nudging model's part; None if it took none.")
    first_piece_s: float | None = Field(None, description="Seconds until the first piece.")
    total_s: float = Field(
        0.0, description="Seconds that decoding took; time in which the consumer held it up is not counted."
    )
    grammar_tokens: int = Field(
        0, description="Tokens that the grammar left no choice about: written without a forward."
    )
    grammar_s: float = Field(0.0, description="Seconds spent on the grammar.")
    config: dict[str, Any] = Field(default_factory=dict, description="The NudgingConfig used.")
    warnings: tuple[ProvenanceWarning, ...] = ()

    @model_validator(mode="after")
    def _pieces_join(self) -> Provenance:
        at = 0
        for piece in self.pieces:
            if piece.start != at or not piece.text:
                raise ValueError(f"piece {piece.text!r} starts at {piece.start}, expected {at}")
            at += len(piece.text)
        return self

    @property
    def text(self) -> str:
        """The answer."""
        return "".join(piece.text for piece in self.pieces)

    @property
    def spans(self) -> tuple[Span, ...]:
        """The pieces, neighbours of one source merged."""
        return merge_spans(self.pieces)

    @property
    def models(self) -> tuple[ModelUse, ...]:
        """The models that took part: both, or the one that was asked alone."""
        return tuple(use for use in (self.base, self.nudging) if use is not None)

    @property
    def n_tokens(self) -> int:
        """Length of the answer in tokens of the base model."""
        return sum(piece.n_tokens for piece in self.pieces)

    @property
    def nudge_ratio(self) -> float:
        """Tokens from the nudging model ÷ all tokens, 0 … 1; 0 for an empty answer."""
        return self.nudging.tokens / self.n_tokens if self.nudging and self.n_tokens else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Of the whole request, prompt evaluation included."""
        return self.n_tokens / self.total_s if self.total_s else 0.0

    @property
    def overhead_s(self) -> float:
        """Seconds spent outside the models' forwards."""
        return max(0.0, self.total_s - sum(use.seconds for use in self.models))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values. Adds the derived ``text``, ``spans`` and ``nudge_ratio`` for readers in other languages."""
        record = self.model_dump(mode="json")
        record["text"], record["nudge_ratio"] = self.text, self.nudge_ratio
        record["spans"] = [{"text": span.text, "start": span.start, "source": span.source} for span in self.spans]
        return record

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Provenance:
        """The inverse of ``to_dict``. Reads records of schema version 1, too.

        Raises:
            ValueError: the record has a version that is not known, does not fit the schema, or its text is not its pieces joined.
        """
        stored = _current({key: value for key, value in record.items() if key not in _DERIVED})
        found = cls.model_validate(stored)
        if record.get("text", found.text) != found.text:
            raise ValueError("the record's text is not its pieces joined")
        return found

    def to_json(self, indent: int | None = None) -> str:
        """``to_dict`` as JSON text."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=indent)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """In a notebook or IPython, as text: a line of figures and the answer."""
        printer.text(
            f"Provenance: {self.n_tokens} tokens, nudged {self.nudge_ratio:.0%}, ended: {self.finish_reason}\n{self.text}"
        )

    def _repr_html_(self) -> str:
        """In a notebook: the answer, who wrote it, and why."""
        from .views.html import component

        return component({"Answer": self})

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """JSON schema of ``to_dict``'s result."""
        schema = cls.model_json_schema(mode="serialization")
        span = {
            "type": "object",
            "properties": {"text": {"type": "string"}, "start": {"type": "integer"}, "source": {"type": "string"}},
            "required": ["text", "start", "source"],
            "additionalProperties": False,
        }
        schema["properties"] |= {
            "text": {"type": "string", "description": "The pieces joined."},
            "nudge_ratio": {"type": "number", "minimum": 0, "maximum": 1},
            "spans": {"type": "array", "items": span, "description": "Neighbouring pieces of one source, merged."},
        }
        schema["required"] = sorted(schema["properties"])
        return schema


def _current(stored: dict[str, Any]) -> dict[str, Any]:
    """A stored record as the current version of the schema has it."""
    version = stored.get("schema_version", SCHEMA_VERSION)
    if version not in (1, SCHEMA_VERSION):
        raise ValueError(
            f"the record has schema_version {version!r}, and this version of nudging-llm reads 1 and {SCHEMA_VERSION}. If the "
            "record is newer, upgrade nudging-llm."
        )
    if version == 1:
        parts = {name: _part(stored, name) for name in ("base", "nudging")}
        return {**stored, **parts, "schema_version": SCHEMA_VERSION}
    return stored


def _part(stored: dict[str, Any], name: str) -> Mapping[str, Any] | None:
    """A model's part in a record of version 1; None if it took none."""
    part = stored.get(name)
    if not isinstance(part, Mapping):
        raise ValueError(f"{name}={part!r}: a record of schema_version 1 has both models' parts")
    return part if part.get("name") != "" else None


_DERIVED = frozenset({"text", "nudge_ratio", "spans"})


def merge_spans(pieces: Sequence[Piece]) -> tuple[Span, ...]:
    """Merge neighbouring pieces of one source."""
    spans: list[Span] = []
    start = 0
    for i, piece in enumerate(pieces):
        if i + 1 == len(pieces) or pieces[i + 1].source != piece.source:
            run = pieces[start : i + 1]
            spans.append(Span("".join(part.text for part in run), run[0].start, piece.source))
            start = i + 1
    return tuple(spans)
