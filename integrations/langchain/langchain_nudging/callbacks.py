"""Provenance through callbacks: for chains whose value is plain text by the time it reaches the caller.

``config={"callbacks": [handler]}`` is all that a chain needs: the handler sees every answer of a ``ChatNudging`` in it, piece
by piece while it is written, tells the answers apart, and keeps their records.
"""

from __future__ import annotations

import asyncio
import inspect
import queue
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk, GenerationChunk, LLMResult

from nudging_llm import Piece
from nudging_llm.frameworks.collectors import Collected, CollectedAnswer, emitter

from .provenance import get_pieces, get_provenance


@dataclass
class AnswerProvenance(CollectedAnswer):
    """One answer of a chain.

    Attributes:
        run_id: LangChain's id of the model's run.
        parent_run_id: of what called it.
        tags: of the run.
        metadata: of the run: an agent's or graph's node is in ``metadata["langgraph_node"]``.
        pieces: so far.
        provenance: the whole record, once the answer is finished; None before, and if it failed or came from no ``ChatNudging``.
        error: what ended it, if it failed.
    """

    run_id: UUID = field(kw_only=True)
    parent_run_id: UUID | None = field(default=None, kw_only=True)
    tags: list[str] = field(default_factory=list, kw_only=True)
    metadata: dict[str, Any] = field(default_factory=dict, kw_only=True)


class Listening(Collected[AnswerProvenance]):
    """The answers that a handler has seen. Where one listens, ``ChatNudging`` streams in ``invoke`` too."""

    def _begin(self, run_id: UUID, parent: UUID | None, tags: Any, metadata: Any) -> None:
        with self._lock:
            self._answers[run_id] = AnswerProvenance(
                run_id=run_id, parent_run_id=parent, tags=list(tags or ()), metadata=dict(metadata or {})
            )

    def _answer(self, run_id: UUID) -> AnswerProvenance:
        with self._lock:
            return self._answers.setdefault(run_id, AnswerProvenance(run_id=run_id))

    def _more(self, chunk: Any, run_id: UUID) -> tuple[AnswerProvenance, Sequence[Piece]]:
        answer = self._answer(run_id)
        new = () if getattr(chunk.message, "chunk_position", None) == "last" else get_pieces(chunk)
        answer.pieces.extend(new)
        return answer, new

    def _end(self, response: LLMResult, run_id: UUID) -> tuple[AnswerProvenance, Sequence[Piece]]:
        """The record, and the pieces that nobody has seen: those of an answer that was not streamed."""
        answer = self._answer(run_id)
        answer.provenance = get_provenance(response)
        unseen: Sequence[Piece] = ()
        if answer.provenance is not None:
            unseen = () if answer.pieces else answer.provenance.pieces
            answer.pieces = list(answer.provenance.pieces)
        else:
            with self._lock:
                self._answers.pop(run_id, None)  # another model's
        return answer, unseen

    def _fail(self, error: BaseException, run_id: UUID) -> AnswerProvenance:
        answer = self._answer(run_id)
        answer.error = error
        return answer


class ProvenanceCallbackHandler(Listening, BaseCallbackHandler):
    """Collects the provenance of every ``ChatNudging`` answer in a chain, and hands on each piece as it is written.

    Works in chains that are called with or without ``async``, streamed or not.

    Args:
        on_piece: called with each piece and its answer, from whatever thread writes it: a function, or a queue, in which
            ``(piece, answer)`` is put and, when an answer has ended, ``(None, answer)``. Anything with a ``write(piece)``
            and an ``end()`` works too, such as ``nudging_llm.views.terminal.TerminalView``.

    Examples:
        >>> handler = ProvenanceCallbackHandler()                              # doctest: +SKIP
        >>> chain.invoke(question, config={"callbacks": [handler]})            # doctest: +SKIP
        >>> handler.last.nudge_ratio, handler.answers[0].tags                  # doctest: +SKIP
    """

    def __init__(self, on_piece: Callable[[Piece, AnswerProvenance], Any] | queue.Queue[Any] | Any = None) -> None:
        super().__init__()
        if inspect.iscoroutinefunction(getattr(on_piece, "put", on_piece)):
            raise TypeError(f"on_piece={on_piece!r} wants an event loop: use AsyncProvenanceCallbackHandler.")
        self._emit = emitter(on_piece)

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._begin(run_id, parent_run_id, tags, metadata)

    def on_llm_new_token(
        self,
        token: str | list[str | dict[str, Any]],
        *,
        chunk: GenerationChunk | ChatGenerationChunk | None = None,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(chunk, ChatGenerationChunk):
            self._hand_on(*self._more(chunk, run_id))

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        answer, unseen = self._end(response, run_id)
        self._hand_on(answer, unseen)
        if answer.provenance is not None:
            self._emit(None, answer)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        self._emit(None, self._fail(error, run_id))

    def _hand_on(self, answer: AnswerProvenance, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            self._emit(piece, answer)


class AsyncProvenanceCallbackHandler(Listening, AsyncCallbackHandler):
    """As ``ProvenanceCallbackHandler``, on the event loop that runs the chain.

    Args:
        on_piece: a function, which may be a coroutine function, or an ``asyncio.Queue``.
    """

    def __init__(
        self, on_piece: Callable[[Piece, AnswerProvenance], Awaitable[Any] | Any] | asyncio.Queue[Any] | Any = None
    ) -> None:
        super().__init__()
        self._emit = emitter(on_piece)

    async def on_chat_model_start(
        self,
        serialized: dict[str, Any],
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        metadata: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._begin(run_id, parent_run_id, tags, metadata)

    async def on_llm_new_token(
        self,
        token: str | list[str | dict[str, Any]],
        *,
        chunk: GenerationChunk | ChatGenerationChunk | None = None,
        run_id: UUID,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(chunk, ChatGenerationChunk):
            await self._hand_on(*self._more(chunk, run_id))

    async def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        answer, unseen = self._end(response, run_id)
        await self._hand_on(answer, unseen)
        if answer.provenance is not None:
            await _done(self._emit(None, answer))

    async def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        await _done(self._emit(None, self._fail(error, run_id)))

    async def _hand_on(self, answer: AnswerProvenance, pieces: Sequence[Piece]) -> None:
        for piece in pieces:
            await _done(self._emit(piece, answer))


async def _done(result: Any) -> None:
    if hasattr(result, "__await__"):
        await result
