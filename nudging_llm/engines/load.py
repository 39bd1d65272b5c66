"""From what a user names (a hub id, a folder, a loaded pair) to an engine. Loading an engine loads its libraries, not before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .base import Engine

#: A hub id, a local folder, or a loaded ``(model, tokenizer)``.
ModelSource = str | Path | tuple[Any, Any]


def load_engine(source: ModelSource, **options: Any) -> Engine:
    """Load a model with transformers; see ``TransformersEngine.load`` for the options and errors."""
    from .transformers import TransformersEngine

    return TransformersEngine.load(source, **options)
