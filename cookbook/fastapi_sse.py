"""Serve answers with their provenance as server-sent events: one per piece, then one with the whole record.

Start it and ask::

    python cookbook/fastapi_sse.py
    curl -N 'http://127.0.0.1:8000/answer?question=Why+is+the+sky+blue'

In a browser: ``new EventSource("/answer?question=…").addEventListener("piece", event => …)``; close it at ``record`` or
``failed``, as it would otherwise ask again. A client that goes away stops compute within one forward.

On a GPU with larger models, replace ``ChatNudging.starter(…)`` by, for example::

    ChatNudging(base_model="google/gemma-2-27b", nudging_model="google/gemma-2-2b-it", base_model_kwargs={"device_map": "auto"})

Clients that ask at the same time share forwards, so one process per GPU is right. Needs ``pip install fastapi sse-starlette
uvicorn``.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated

from fastapi import FastAPI, Query
from sse_starlette import EventSourceResponse, ServerSentEvent

from langchain_nudging import ChatNudging, get_pieces, get_provenance
from nudging_llm import NudgingError


async def events(model: ChatNudging, question: str, max_tokens: int) -> AsyncIterator[ServerSentEvent]:
    """The events of one answer.

    When the client goes away, the response cancels or closes this generator, wherever it waits; ``aclosing`` then closes the
    model's stream at once, and with it the computing.
    """
    try:
        async with aclosing(model.astream(question, max_tokens=max_tokens)) as chunks:
            async for chunk in chunks:
                if record := get_provenance(chunk):  # the last chunk
                    yield ServerSentEvent(record.to_json(), event="record")
                else:
                    for piece in get_pieces(chunk):
                        yield ServerSentEvent(json.dumps(piece.to_dict()), event="piece")
    except (NudgingError, TimeoutError) as error:  # the status has been sent: say it in an event
        yield ServerSentEvent(json.dumps({"error": type(error).__name__, "message": str(error)}), event="failed")


def create_app(model: ChatNudging) -> FastAPI:
    app = FastAPI(title="Nudging")

    @app.get("/answer")
    async def answer(
        question: Annotated[str, Query(min_length=1, max_length=4000)],
        max_tokens: Annotated[int, Query(ge=1, le=512)] = 64,
    ) -> EventSourceResponse:
        return EventSourceResponse(events(model, question, max_tokens))

    return app


def main() -> None:
    import uvicorn

    uvicorn.run(create_app(ChatNudging.starter(timeout=120)), host="127.0.0.1", port=8000)


if __name__ == "__main__":
    main()
