"""An answer's pieces as LlamaIndex's responses: one for each piece, then a last one that is complete."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    ContentBlock,
    MessageRole,
    TextBlock,
    ToolCallBlock,
)

from nudging_llm import CallDelta, ParsedPiece, Piece, Provenance, Result, ToolCall, ToolCallParser
from nudging_llm.tools.json_values import partial_object
from nudging_llm.tools.streaming import finish_word

from .provenance import ID, KEY, Recorder

#: In a streamed chat response's own ``additional_kwargs``: what it adds to tool calls.
DELTAS = "tool_call_deltas"


@dataclass(frozen=True)
class Written:
    """What a response says, of whatever kind it is.

    Attributes:
        text: all of the message's text so far.
        delta: what it has more than the last.
        raw: what ``raw`` shall be.
        deltas: what it adds to calls.
        calls: of a last one, all calls; None before.
        growing: for LlamaIndex's programs, the call as far as it has come.
        id: of a last one, the call of the model; None before.
    """

    text: str
    delta: str
    raw: dict[str, Any]
    deltas: tuple[CallDelta, ...] = ()
    calls: tuple[ToolCall, ...] | None = None
    growing: tuple[ToolCall, ...] = ()
    id: str | None = None


Response = TypeVar("Response", ChatResponse, CompletionResponse)


class ResponseWriter(Generic[Response]):
    """Makes the responses of one answer.

    Args:
        tool_call_parser: of the answer's stream.
        recorder: told of everything.
        make: makes a response of the kind asked for.
        model_name: for ``raw``.
        single: whether more than one call is one too many.
        growing: whether a program reads along, which wants the call on every response.
    """

    def __init__(
        self,
        tool_call_parser: ToolCallParser,
        recorder: Recorder,
        make: Callable[[Written], Response],
        model_name: str,
        single: bool = False,
        growing: bool = False,
    ) -> None:
        self._sorter, self.recorder = tool_call_parser, recorder
        self._make: Callable[[Written], Response] = make
        self._model_name, self._single = model_name, single
        self._growing: _Growing | None = _Growing() if growing else None
        self._text = ""
        self._begun: list[Piece] = []  # of calls, of which it is not known whether they become any

    def piece(self, piece: Piece) -> Iterator[Response]:
        """The responses that a piece settles: mostly one."""
        return map(self._response, self._sorter.feed(piece))

    def end(self, result: Result) -> Iterator[Response]:
        """The remaining responses. The last is complete: text, calls, record, usage."""
        yield from map(self._response, self._sorter.end(result))
        delta = ""
        for piece in self._meant(result):  # what was to be a call and is none is text: nothing is dropped
            self.recorder.shown(piece)
            delta += piece.text
        self._text += delta
        record = result.provenance
        calls = result.calls[:1] if self._single else result.calls
        self.recorder.end(record)
        raw = {
            KEY: {"id": self.recorder.call.id, "record": record.to_dict()},
            "model": self._model_name,
            "usage": usage(record),
            "finish_reason": finish_word(record, bool(calls)),
        }
        growing = calls if self._growing else ()
        yield self._make(Written(self._text, delta, raw, calls=calls, growing=growing, id=self.recorder.call.id))

    def left(self, record: Provenance) -> None:
        """Nobody reads on: the call ends with what there is."""
        if self.recorder.call.provenance is None:
            self.recorder.end(record)

    def _response(self, found: ParsedPiece) -> Response:
        self.recorder.piece(found)
        delta = ""
        if found.channel == "content":
            delta = found.piece.text
            self.recorder.shown(found.piece)
        else:
            self._begun.append(found.piece)
        self._text += delta
        raw = {KEY: {"id": self.recorder.call.id, "piece": found.to_dict()}}
        growing = self._growing.more(found.calls) if self._growing else ()
        return self._make(Written(self._text, delta, raw, found.calls, growing=growing))

    def _meant(self, result: Result) -> Iterator[Piece]:
        """The pieces in which stands what was meant as a call and is none, without the calls' own."""
        for piece in self._begun:
            for start, end in _invalid_spans(result):
                a, b = max(start, piece.start), min(end, piece.start + len(piece.text))
                if a < b:
                    yield replace(piece, text=piece.text[a - piece.start : b - piece.start])


class _Growing:
    """The first call of an answer, as far as it has come."""

    def __init__(self) -> None:
        self._id = self._name = self._arguments = ""

    def more(self, deltas: Iterable[CallDelta]) -> tuple[ToolCall, ...]:
        for delta in deltas:
            if delta.index == 0:
                self._id, self._name = self._id or delta.id or "", self._name or delta.name or ""
                self._arguments += delta.arguments
        value = partial_object(self._arguments) if self._arguments else None
        return (ToolCall(self._id, self._name, value, self._arguments, 0),) if isinstance(value, dict) and value else ()


def _invalid_spans(result: Result) -> list[tuple[int, int]]:
    """Where in the answer stands what was meant as a call and is none: with its tags, unless a call shares them."""
    found = []
    for start, end in result.call_spans:
        invalid = [call for call in result.invalid_calls if start <= call.start < end]
        if any(start <= call.start < end for call in result.calls):
            found += [(call.start, call.start + len(call.text)) for call in invalid]
        elif invalid:
            found.append((start, end))
    return found


def chat_response(written: Written) -> ChatResponse:
    """As a chat response."""
    calls = written.calls or written.growing
    blocks: list[ContentBlock] = [] if calls and not written.text else [TextBlock(text=written.text)]
    blocks += [ToolCallBlock(tool_call_id=call.id, tool_name=call.name, tool_kwargs=call.arguments) for call in calls]
    deltas = [{"index": d.index, "id": d.id, "name": d.name, "arguments": d.arguments} for d in written.deltas]
    kept: dict[str, Any] = {ID: written.id} if written.id else {}
    if written.growing:  # a program looks for calls where older versions of LlamaIndex had them
        kept["tool_calls"] = [{"id": call.id, "name": call.name} for call in written.growing]
    return ChatResponse(
        message=ChatMessage(role=MessageRole.ASSISTANT, blocks=blocks, additional_kwargs=kept),
        delta=written.delta,
        raw=written.raw,
        additional_kwargs={DELTAS: deltas} if deltas else {},
    )


def completion_response(written: Written) -> CompletionResponse:
    """As a completion response."""
    return CompletionResponse(
        text=written.text,
        delta=written.delta,
        raw=written.raw,
        additional_kwargs={ID: written.id} if written.id else {},
    )


def usage(record: Provenance) -> dict[str, int]:
    """Tokens of prompt and answer, as the base model counts them."""
    read, written = record.base.prompt_tokens if record.base else 0, record.n_tokens
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
