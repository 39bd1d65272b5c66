"""The ways in which models write calls of tools, one file each; others can be added from outside.

``styles()`` are those that the parser, the streaming parser and the tokenizers ask, in order. ``register`` adds one::

    from nudging_llm.tools.styles import register

    register(MyStyle())  # see ``CallStyle``

The way in which models are *asked* to write calls, which a grammar can hold them to, is ``hermes.py``'s.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .bare import Bare
from .base import CallStyle
from .fenced import Fenced
from .hermes import Hermes
from .llama3 import Llama3
from .mistral import Mistral

_LOCK = threading.Lock()
_STYLES: tuple[CallStyle, ...] = (Bare(), Hermes(), Mistral(), Llama3(), Fenced())


def styles() -> tuple[CallStyle, ...]:
    """All styles, in the order in which they are asked: of two that open a call at one place, the first reads it."""
    return _STYLES


def register(style: CallStyle) -> None:
    """Add a style, after the others. Takes effect for the next answer; its control tokens, for models loaded afterwards."""
    global _STYLES
    with _LOCK:
        _STYLES = (*_STYLES, style)


def unregister(style: CallStyle) -> None:
    """Remove a style that was added.

    Raises:
        ValueError: it is not there.
    """
    global _STYLES
    with _LOCK:
        kept = list(_STYLES)
        kept.remove(style)
        _STYLES = tuple(kept)


@contextmanager
def registered(style: CallStyle) -> Iterator[None]:
    """A style is there within the block: for tests."""
    register(style)
    try:
        yield
    finally:
        unregister(style)


def control_tokens() -> frozenset[str]:
    """Control tokens with which models begin calls, in any style."""
    return frozenset().union(*(style.control_tokens for style in _STYLES))
