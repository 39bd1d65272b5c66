"""The carrier: how provenance travels on LangChain's messages, and how to read it there.

Each chunk carries its piece in ``additional_kwargs["nudging"]``, as a list of one, because LangChain joins lists when it adds
chunks. The last chunk carries the record in ``response_metadata["nudging"]``, again as a list of one, so that two messages can be
added. The record holds the pieces too, in short, for paths that drop ``additional_kwargs``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGeneration, LLMResult

from nudging_llm import Piece, Provenance, Reason

KEY = "nudging"
#: The record's pieces in short: one list for each.
_SHORT = ("text", "source", "reason", "round", "base_top_prob", "base_top_text", "n_tokens", "elapsed_s")


def carried_record(record: Provenance, invalid_calls: Sequence[Any] = ()) -> dict[str, Any]:
    """A whole record for ``response_metadata``."""
    found = record.to_dict()
    found["pieces"] = [[getattr(piece, name) for name in _SHORT] for piece in record.pieces]
    for piece in found["pieces"]:
        piece[2] = piece[2].value
    found.pop("text")
    if invalid_calls:
        found["invalid_calls"] = [{"id": call.id, "text": call.text, "error": call.error} for call in invalid_calls]
    return found


def get_pieces(message: Any) -> tuple[Piece, ...]:
    """The pieces that a message or chunk carries, in order; of a finished answer, all. A stream's last chunk has none of its own.

    Args:
        message: as for ``get_provenance``: of several answers, the last; of a list of chunks, those of all chunks.
    """
    messages = list(_messages(message))
    if messages and all(isinstance(one, AIMessageChunk) for one in messages):
        return tuple(piece for chunk in messages for piece in _carried_pieces(chunk))
    for found in reversed(messages):
        if pieces := _carried_pieces(found) or tuple(
            piece for record in get_provenances(found) for piece in record.pieces
        ):
            return pieces
    return ()


def get_provenance(message: Any) -> Provenance | None:
    """The record of one answer: who wrote what, and why. None if the message carries none, as a chunk before the last.

    Args:
        message: an ``AIMessage``, ``AIMessageChunk``, a generation, an ``LLMResult``, or an agent's state (a dict with
            ``messages``, or a list of messages): of several answers, the last.
    """
    return next(reversed(get_provenances(message)), None)


def get_provenances(messages: Any) -> list[Provenance]:
    """The records of all answers in a message, a list of messages, or an agent's state, in order."""
    return [
        _record(item)
        for message in _messages(messages)
        for item in _list(message.response_metadata)
        if isinstance(item, Mapping)
    ]


def _record(carried: Mapping[str, Any]) -> Provenance:
    pieces, start = [], 0
    for short in carried["pieces"]:
        piece = {**dict(zip(_SHORT, short, strict=True)), "start": start}
        pieces.append({**piece, "reason": Reason(piece["reason"])})
        start += len(piece["text"])
    rest = {key: value for key, value in carried.items() if key != "invalid_calls"}
    return Provenance.from_dict({**rest, "pieces": pieces})


def _list(carrier: Mapping[str, Any]) -> list[Any]:
    found = carrier.get(KEY)
    return found if isinstance(found, list) else []


def _carried_pieces(message: BaseMessage) -> tuple[Piece, ...]:
    return tuple(Piece.from_dict(item) for item in _list(message.additional_kwargs) if isinstance(item, Mapping))


def _messages(holder: Any) -> Iterator[BaseMessage]:
    """The messages in whatever holds them."""
    if isinstance(holder, BaseMessage):
        yield holder
    elif isinstance(holder, ChatGeneration):
        yield holder.message
    elif isinstance(holder, LLMResult):
        for generations in holder.generations:
            yield from _messages(generations)
    elif isinstance(holder, Mapping):
        for key in ("messages", "raw"):  # an agent's state; structured output with its message
            yield from _messages(holder.get(key))
    elif isinstance(holder, Sequence) and not isinstance(holder, str | bytes):
        for item in holder:
            yield from _messages(item)
