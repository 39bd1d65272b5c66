"""An answer's pieces as LangChain's chunks: one for each piece, then a last one with the figures."""

from __future__ import annotations

from collections.abc import Iterator

from langchain_core.messages import AIMessageChunk
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGenerationChunk

from nudging_llm import ParsedPiece, Piece, Provenance, Result, ToolCallParser
from nudging_llm.tools.streaming import finish_word

from .provenance import KEY, carried_record


class ChunkWriter:
    """Makes the chunks of one answer; added up, they are its message.

    Args:
        tool_call_parser: of the answer's stream.
        model_name: for ``response_metadata``.
    """

    def __init__(self, tool_call_parser: ToolCallParser, model_name: str) -> None:
        self._sorter = tool_call_parser
        self._model_name = model_name
        self._called = False
        self._said = False

    def piece(self, piece: Piece) -> Iterator[ChatGenerationChunk]:
        """The chunks that a piece settles: mostly one."""
        return map(self._chunk, self._sorter.feed(piece))

    def end(self, result: Result) -> Iterator[ChatGenerationChunk]:
        """The remaining chunks. The last has no text: usage, and the record."""
        yield from map(self._chunk, self._sorter.end(result))
        record = result.provenance
        yield _generation(
            AIMessageChunk(
                content="",
                chunk_position="last",
                usage_metadata=_usage(record),
                response_metadata={
                    "model_name": self._model_name,
                    "model_provider": "nudging",
                    "finish_reason": finish_word(record, self._called),
                    KEY: [carried_record(record, result.invalid_calls)],
                },
            )
        )

    def _chunk(self, found: ParsedPiece) -> ChatGenerationChunk:
        self._called = self._called or bool(found.calls)
        self._said = self._said or (found.channel == "content" and not self._called)
        return _generation(
            AIMessageChunk(
                content=found.piece.text if found.channel == "content" else "",
                additional_kwargs={KEY: [found.to_dict()]},
                tool_call_chunks=[
                    tool_call_chunk(
                        # as it was written, tag and all: LangChain reads its arguments again whenever chunks are added
                        name=delta.name,
                        args=delta.arguments if delta.error is None else f"<tool_call>{delta.arguments}",
                        id=delta.id,
                        index=delta.index + self._said,  # content blocks are numbered too: the text before it is one
                    )
                    for delta in found.calls
                ],
            )
        )


def _generation(message: AIMessageChunk) -> ChatGenerationChunk:
    return ChatGenerationChunk(message=message)


def _usage(record: Provenance) -> UsageMetadata:
    """Tokens of the prompt and answer, as the base model counts them."""
    read, reused = (record.base.prompt_tokens, record.base.prompt_tokens_reused) if record.base else (0, 0)
    written, details = record.n_tokens, InputTokenDetails(cache_read=reused)
    return UsageMetadata(
        input_tokens=read, output_tokens=written, total_tokens=read + written, input_token_details=details
    )
