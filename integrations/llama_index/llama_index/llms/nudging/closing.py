"""Streams that end when they are left.

LlamaIndex's callbacks wrap what a streaming method returns and never close it: it ends when nothing refers to it any more, and an
event that a tracer keeps refers to it. So what is wrapped is noted where it is made, and closed with the wrapper.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from contextvars import ContextVar
from typing import Any, TypeVar

_Method = TypeVar("_Method", bound=Callable[..., Any])
_INNER: ContextVar[Any] = ContextVar("nudging_inner_stream")


def inner(stream: Any) -> Any:
    """Note a stream that a method decorated with ``closing`` is about to return; gives it back."""
    _INNER.set(stream)
    return stream


def _taken() -> Any:
    stream = _INNER.get()
    _INNER.set(None)
    return stream


def closing(method: _Method) -> _Method:
    """For a streaming method whose own decorator wraps what it returns: leaving the wrapper ends both."""

    @functools.wraps(method)
    def stream(*args: Any, **kwargs: Any) -> Any:
        return _responses(method(*args, **kwargs), _taken())

    @functools.wraps(method)
    async def astream(*args: Any, **kwargs: Any) -> Any:
        return _aresponses(await method(*args, **kwargs), _taken())

    found: Any = astream if inspect.iscoroutinefunction(method) else stream
    return found  # type: ignore[no-any-return]


def _responses(outer: Generator[Any, None, None], held: Generator[Any, None, None]) -> Generator[Any, None, None]:
    try:
        yield from outer
    finally:
        outer.close()
        held.close()


async def _aresponses(outer: AsyncGenerator[Any, None], held: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
    try:
        async for response in outer:
            yield response
    finally:
        await outer.aclose()
        await held.aclose()
