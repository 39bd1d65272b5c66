"""Nudging (arXiv 2410.09300): align a base model at inference time with a few words from a small instruction-tuned one.

Everything a user needs is importable from here. Importing costs little: torch is loaded with the first generator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .calls import InvalidToolCall, ToolCall
from .channels import CallDelta, SortedPiece, Sorter
from .config import NudgingConfig
from .errors import (
    ConfigError,
    ContextOverflowError,
    GrammarError,
    MessageError,
    ModelError,
    ModelLoadError,
    NudgingError,
    OutOfMemoryError,
    StarterError,
    TemplateError,
    TokenizerMismatchError,
    ToolError,
    UnsupportedContentError,
)
from .gates import Gate, Prediction
from .prompts import BaseTemplate
from .provenance import Piece, Provenance, Reason, Span
from .shared import STARTER, LazyGenerator, lazy_generator

if TYPE_CHECKING:
    from .generator import NudgingGenerator
    from .running import AsyncStream, Result, Stream

__version__ = "0.1.0"

_LAZY = {"NudgingGenerator": "generator", "AsyncStream": "running", "Result": "running", "Stream": "running"}

__all__ = [
    "STARTER",
    "AsyncStream",
    "BaseTemplate",
    "CallDelta",
    "ConfigError",
    "ContextOverflowError",
    "Gate",
    "GrammarError",
    "InvalidToolCall",
    "LazyGenerator",
    "MessageError",
    "ModelError",
    "ModelLoadError",
    "NudgingConfig",
    "NudgingError",
    "NudgingGenerator",
    "OutOfMemoryError",
    "Piece",
    "Prediction",
    "Provenance",
    "Reason",
    "Result",
    "SortedPiece",
    "Sorter",
    "Span",
    "StarterError",
    "Stream",
    "TemplateError",
    "TokenizerMismatchError",
    "ToolCall",
    "ToolError",
    "UnsupportedContentError",
    "lazy_generator",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_LAZY[name]}", __name__), name)
