"""Nudging (arXiv 2410.09300): align a base model at inference time with a few words from a small instruction-tuned one.

Everything a user needs is importable from here. Importing costs little: torch is loaded with the first generator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .config import NudgingConfig
from .decoding.gates import EntropyGate, Gate, MarginGate, Top1Gate
from .errors import (
    CapabilityError,
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
from .protocol import Prediction
from .provenance import ModelUse, Piece, Provenance, ProvenanceWarning, Reason, Span
from .tools.calls import InvalidToolCall, ToolCall

if TYPE_CHECKING:
    from .frameworks.lazy import STARTER, LazyGenerator, lazy_generator
    from .generator import NudgingGenerator
    from .result import Result
    from .runtime.streams import AsyncStream, Stream
    from .text.base_template import BaseTemplate
    from .tools.streaming import CallDelta, ParsedPiece, ToolCallParser

__version__ = "0.1.0"

#: Names that are loaded when they are first used, and the modules that have them.
_LAZY = {
    "AsyncStream": "runtime.streams",
    "BaseTemplate": "text.base_template",
    "CallDelta": "tools.streaming",
    "LazyGenerator": "frameworks.lazy",
    "NudgingGenerator": "generator",
    "ParsedPiece": "tools.streaming",
    "Result": "result",
    "STARTER": "frameworks.lazy",
    "Stream": "runtime.streams",
    "ToolCallParser": "tools.streaming",
    "lazy_generator": "frameworks.lazy",
}

__all__ = [
    "STARTER",
    "AsyncStream",
    "BaseTemplate",
    "CallDelta",
    "CapabilityError",
    "ConfigError",
    "ContextOverflowError",
    "EntropyGate",
    "Gate",
    "GrammarError",
    "InvalidToolCall",
    "LazyGenerator",
    "MarginGate",
    "MessageError",
    "ModelError",
    "ModelLoadError",
    "ModelUse",
    "NudgingConfig",
    "NudgingError",
    "NudgingGenerator",
    "OutOfMemoryError",
    "ParsedPiece",
    "Piece",
    "Prediction",
    "Provenance",
    "ProvenanceWarning",
    "Reason",
    "Result",
    "Span",
    "StarterError",
    "Stream",
    "TemplateError",
    "TokenizerMismatchError",
    "ToolCall",
    "ToolCallParser",
    "ToolError",
    "Top1Gate",
    "UnsupportedContentError",
    "lazy_generator",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_LAZY[name]}", __name__), name)
