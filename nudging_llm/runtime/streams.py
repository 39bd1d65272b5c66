"""Drivers: run a request to its pieces and its result: synchronously, on an event loop, or many together.

``Stream``, ``AsyncStream`` and ``run_batch`` differ in how they wait for an answer; who computes it is the backends' business.
Streams are pulled: nothing computes unless the consumer asks for the next piece, so leaving a loop, ``close()`` or
cancelling a task stops compute within one forward.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

from ..engines.base import QueryInterrupted
from ..protocol import Prediction, Query
from ..provenance import FinishReason, Piece, Provenance
from ..result import Result
from ..tools.json_values import partial_object
from ..tools.streaming import ToolCallParser
from .request import Request


class _Streaming:
    """What both kinds of stream share."""

    def __init__(self, request: Request) -> None:
        self._request = request

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """The pieces so far."""
        return tuple(self._request.pieces)

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(piece.text for piece in self._request.pieces)

    def tool_call_parser(self) -> ToolCallParser:
        """Takes the answer apart, as it comes, into what is said and what is called: feed it each piece, then end it."""
        return self._request.tool_call_parser()

    @property
    def partial(self) -> Any:
        """The value of a JSON answer as far as it has come; None before it begins."""
        return partial_object(self.text)

    @property
    def provenance(self) -> Provenance:
        """The record so far; complete once the stream has ended."""
        return self._request.provenance()

    @property
    def result(self) -> Result:
        """Text and record."""
        return self._request.result

    def __del__(self) -> None:
        request: Request | None = getattr(self, "_request", None)
        if request is not None:
            self._end("cancelled")

    def _end(self, reason: FinishReason) -> None:
        self._request.end(reason)


class Stream(_Streaming, Iterator[Piece]):
    """An answer as it is written: iterate for ``Piece``s, then read ``provenance``. A context manager that closes."""

    def __next__(self) -> Piece:
        with self._request:
            try:
                event = self._request.advance()
                while isinstance(event, Query):
                    event = self._request.advance(self._request.known(event) or self._request.compute(event))
            except BaseException as error:
                self._end(self._request.failed(error))
                raise
        if event is None:
            raise StopIteration
        return event

    def close(self) -> None:
        """Stop. What was written stays in ``pieces``."""
        self._request.end("cancelled")

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncStream(_Streaming, AsyncIterator[Piece]):
    """As ``Stream``, with ``async for``. Forwards run in a worker thread; the event loop stays free."""

    def __init__(self, request: Request, executor: ThreadPoolExecutor) -> None:
        super().__init__(request)
        self._executor = executor
        self._forward: Future[Prediction] | None = None

    async def __anext__(self) -> Piece:
        with self._request:
            try:
                if (prepare := self._request.preparation) is not None:
                    await asyncio.wrap_future(self._executor.submit(prepare))
                event = self._request.advance()
                while isinstance(event, Query):
                    event = self._request.advance(self._request.known(event) or await self._compute(event))
            except BaseException as error:
                self._end(self._request.failed(error))
                raise
        if event is None:
            raise StopAsyncIteration
        return event

    async def _compute(self, query: Query) -> Prediction:
        while True:
            future = self._forward = self._request.submit(query)
            future.add_done_callback(self._forward_done)
            if self._request.needs_worker(query):
                self._executor.submit(self._request.scheduler.finish, [future], gather=True)
            try:
                return await asyncio.wrap_future(future)
            except QueryInterrupted:
                continue

    def _forward_done(self, _: Future[Prediction]) -> None:
        self._forward = None  # it may hold a session, and the session its cache

    def _end(self, reason: FinishReason) -> None:
        """End the request once the forward under way, if any, is done."""
        forward = self._forward
        if forward is None or forward.done():
            self._request.end(reason)
        elif not self._request.over:
            self._request.leave(reason, forward)

    async def aclose(self) -> None:
        """Stop. What was written stays in ``pieces``."""
        self._end("cancelled")

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(self, *_: Any) -> None:
        await self.aclose()


def run_batch(requests: Sequence[Request], at_once: int) -> None:
    """Run requests to their ends side by side, ``at_once`` at a time, so that they share forwards."""
    left = deque((request, _steps(request)) for request in requests)
    asking: dict[_Steps, tuple[Request, Future[Prediction]]] = {}
    try:
        while left or asking:
            ready = [(request, steps) for steps, (request, future) in asking.items() if future.done()]
            ready += [left.popleft() for _ in range(min(len(left), at_once - len(asking)))]
            for request, steps in ready:
                asking.pop(steps, None)
                if (future := next(steps, None)) is not None:
                    asking[steps] = request, future
            if asking:
                [(request, _), *_] = asking.values()
                request.scheduler.finish([future for _, future in asking.values()])
    finally:
        for steps in (*asking, *(steps for _, steps in left)):
            steps.close()


_Steps = Generator[Future[Prediction], None, None]


def _steps(request: Request) -> _Steps:
    """A request, paused wherever it waits for an answer; to be resumed when the future is done."""
    with request:
        try:
            event = request.advance()
            while event is not None:
                reply = None
                if isinstance(event, Query) and (reply := request.known(event)) is None:
                    future = request.submit(event)
                    try:
                        yield future
                        reply = future.result()
                    except QueryInterrupted:
                        continue
                    finally:
                        request.withdraw(event, future)
                event = request.advance(reply)
        except BaseException as error:
            request.end(request.failed(error))
            raise
