"""Instrumentation events, for tracers: one for each piece, one at an answer's end, beside LlamaIndex's own."""

from __future__ import annotations

from typing import Any

from llama_index_instrumentation.base import BaseEvent


class NudgePieceEvent(BaseEvent):
    """A piece was written.

    Attributes:
        nudging_id: of the call, as in ``message.additional_kwargs``.
        piece: as ``Piece.to_dict`` has it; text of tool calls says ``"channel": "tool_call"``.
    """

    nudging_id: str
    piece: dict[str, Any]

    @classmethod
    def class_name(cls) -> str:
        return "NudgePieceEvent"


class NudgeEndEvent(BaseEvent):
    """An answer has ended.

    Attributes:
        nudging_id: of the call.
        record: as ``Provenance.to_dict`` has it, without its pieces; its ``finish_reason`` is "cancelled" if it was left.
        nudge_ratio: share of the tokens that the nudging model wrote, 0 … 1.
    """

    nudging_id: str
    record: dict[str, Any]
    nudge_ratio: float

    @classmethod
    def class_name(cls) -> str:
        return "NudgeEndEvent"
