"""Nudging (arXiv 2410.09300) for LlamaIndex: a base model, aligned at inference time by a small instruction-tuned one."""

from .base import NudgingLLM
from .events import NudgeEndEvent, NudgePieceEvent
from .provenance import (
    CallProvenance,
    CollectedCalls,
    TextProvenance,
    collect_provenance,
    get_pieces,
    get_provenance,
)

__all__ = [
    "CallProvenance",
    "CollectedCalls",
    "NudgeEndEvent",
    "NudgePieceEvent",
    "NudgingLLM",
    "TextProvenance",
    "collect_provenance",
    "get_pieces",
    "get_provenance",
]
