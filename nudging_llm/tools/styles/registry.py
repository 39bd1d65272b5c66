"""The styles that there are: the package's own, which ``__init__.py`` puts in, and those from outside.

Imports no style, so that a style may ask about the others.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from .base import CallStyle

_LOCK = threading.Lock()
_STYLES: tuple[CallStyle, ...] = ()


def styles() -> tuple[CallStyle, ...]:
    """All styles, in the order in which they are asked: of two that open a call at one place, the first reads it."""
    return _STYLES


def register(*added: CallStyle) -> None:
    """Add styles, after the others. Takes effect for the next answer; control tokens, for models loaded afterwards."""
    global _STYLES
    with _LOCK:
        _STYLES = (*_STYLES, *added)


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
