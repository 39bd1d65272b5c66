"""Fallbacks, retries, a cache and events: what LangChain wraps around a model, and provenance through each.

On a GPU with larger models, replace ``ChatNudging.starter(…)`` by, for example::

    ChatNudging(base_model="google/gemma-2-27b", nudging_model="google/gemma-2-2b-it", base_model_kwargs={"device_map": "auto"})

and let it fall back on a smaller pair.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from langchain_core.caches import InMemoryCache
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import Runnable, RunnableLambda

from langchain_nudging import ChatNudging, ProvenanceCallbackHandler, get_pieces, get_provenance
from nudging_llm import Piece

QUESTION = "Why do leaves change colour in autumn?"


def with_fallback(model: ChatNudging, seconds: float) -> Runnable[Any, AIMessage]:
    """A model that has so many seconds for an answer; if they are not enough, one that may write five tokens."""
    hurried = model.model_copy(update={"timeout": seconds})
    short = model.bind(max_tokens=5)
    return hurried.with_fallbacks([short], exceptions_to_handle=(TimeoutError,))


class Shelf:
    """Keeps answers. Is not to be reached the first time, as databases sometimes are."""

    def __init__(self) -> None:
        self.kept: list[str] = []
        self.calls = 0

    def keep(self, message: AIMessage) -> AIMessage:
        self.calls += 1
        if self.calls == 1:
            raise ConnectionError("the shelf is out of reach")
        self.kept.append(message.text)
        return message


def with_retry(model: ChatNudging, shelf: Shelf) -> Runnable[Any, AIMessage]:
    """Asks and keeps the answer; all of it again when that fails.

    Retry what can fail for a moment: a model in this process cannot.
    """
    chain = model | RunnableLambda(shelf.keep)
    return chain.with_retry(
        retry_if_exception_type=(ConnectionError,), stop_after_attempt=3, exponential_jitter_params={"max": 0.1}
    )


def with_cache(model: ChatNudging) -> ChatNudging:
    """Remembers whole answers, with their records. Models, threshold, seed and all else that changes the text are in the key.

    LangChain looks there in ``invoke``, not in ``stream``. What requests share without being equal, a long system prompt for
    example, is found again without any of this.
    """
    return model.model_copy(update={"cache": InMemoryCache()})


async def pieces_from_events(model: ChatNudging, question: str) -> list[Piece]:
    """The pieces of an answer inside a chain that gives plain text, from the chain's events."""
    chain = ChatPromptTemplate.from_template("{question}") | model | StrOutputParser()
    pieces: list[Piece] = []
    async for event in chain.astream_events({"question": question}, version="v2"):
        if event["event"] == "on_chat_model_stream" and not get_provenance(chunk := event["data"]["chunk"]):
            pieces.extend(get_pieces(chunk))
    return pieces


def main() -> None:
    model = ChatNudging.starter(max_tokens=32)
    model.invoke(QUESTION, max_tokens=1)  # loads the models, before anything is timed

    handler = ProvenanceCallbackHandler()
    message = with_fallback(model, seconds=0.05).invoke(QUESTION, config={"callbacks": [handler]})
    for answer in handler.answers:
        print(f"fallback: {answer.text!r} {'failed: ' + str(answer.error) if answer.error else 'finished'}")
    print(f"  the answer's own record: {get_provenance(message).n_tokens} tokens")

    handler = ProvenanceCallbackHandler()
    message = with_retry(model, Shelf()).invoke(QUESTION, config={"callbacks": [handler]})
    print(f"retry: {len(handler.answers)} answers were written, {get_provenance(message).nudge_ratio:.0%} nudged")

    cached = with_cache(model)
    for _ in range(2):
        started = time.perf_counter()
        record = get_provenance(cached.invoke(QUESTION))
        print(
            f"cache: {time.perf_counter() - started:.3f} s, {len(record.pieces)} pieces, {record.nudge_ratio:.0%} nudged"
        )

    pieces = asyncio.run(pieces_from_events(model, QUESTION))
    print("events:", "".join(f"[{piece.text}]" if piece.source == "nudging" else piece.text for piece in pieces))


if __name__ == "__main__":
    main()
