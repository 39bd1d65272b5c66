"""Run a stream of the core to LlamaIndex's responses, synchronously and on an event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Generator, Iterator
from typing import TYPE_CHECKING

from .responses import Response, ResponseWriter

if TYPE_CHECKING:
    from nudging_llm import AsyncStream, Stream


def responses(stream: Stream, writer: ResponseWriter[Response]) -> Generator[Response, None, None]:
    """The responses of one answer; its end, its failure or that it was left is recorded."""
    writer.recorder.begin()
    try:
        with stream:
            for piece in stream:
                yield from writer.piece(piece)
            yield from writer.end(stream.result)
    except GeneratorExit:
        writer.left(stream.provenance)
        raise
    except BaseException as error:
        writer.recorder.failed(error)
        raise


async def aresponses(stream: AsyncStream, writer: ResponseWriter[Response]) -> AsyncGenerator[Response, None]:
    """As ``responses``."""
    writer.recorder.begin()
    try:
        async with stream:
            async for piece in stream:
                for response in writer.piece(piece):
                    yield response
            for response in writer.end(stream.result):
                yield response
    except (GeneratorExit, asyncio.CancelledError):
        writer.left(stream.provenance)
        raise
    except BaseException as error:
        writer.recorder.failed(error)
        raise


def last(responses: Iterator[Response]) -> Response:
    """The complete response, as one that was not streamed."""
    [found] = deque(responses, maxlen=1)
    found.delta = None
    return found


async def alast(responses: AsyncGenerator[Response, None]) -> Response:
    """As ``last``."""
    kept: deque[Response] = deque(maxlen=1)
    async for response in responses:
        kept.append(response)
    return last(iter(kept))
