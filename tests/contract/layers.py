"""What the contract needs of a layer: the core, or a framework's class over it. One adapter for each, and thin.

The tests speak the core's language: messages are the core's dicts, options have the core's names, tools are functions. An
adapter says the same in its framework's words, and reads what comes back. It decides nothing else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, Protocol

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from llama_index.core.base.llms.types import ToolCallBlock
from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from llama_index.core.llms import ChatResponse as LlamaIndexResponse
from llama_index.core.llms import MessageRole as Role
from llama_index.core.tools import FunctionTool

import langchain_nudging
import llama_index.llms.nudging as llama_index_nudging
from langchain_nudging import ChatNudging
from llama_index.llms.nudging import NudgingLLM
from nudging_llm import NudgingGenerator, Piece, Provenance

Messages = Sequence[dict[str, Any]]


@dataclass
class Answer:
    """What an answer says in every layer: the text that is no call, the calls, the pieces, the record."""

    text: str
    calls: list[tuple[str, dict[str, Any]]]
    pieces: tuple[Piece, ...]
    record: Provenance | None


@dataclass
class Part:
    """A part of a stream: its text, its pieces, and the layer's own object."""

    text: str
    pieces: tuple[Piece, ...]
    own: Any


class Layer(Protocol):
    """An object of a layer over ``generator``; ``options`` are its constructor's."""

    def __init__(self, generator: NudgingGenerator, **options: Any) -> None: ...
    def ask(self, messages: Messages, **options: Any) -> Answer: ...
    def stream(self, messages: Messages, **options: Any) -> Iterator[Part]: ...
    async def aask(self, messages: Messages, **options: Any) -> Answer: ...
    def astream(self, messages: Messages, **options: Any) -> AsyncIterator[Part]: ...
    def join(self, parts: Sequence[Part]) -> Answer: ...
    def structured(self, messages: Messages, kind: type[Any]) -> Any: ...


class Core:
    def __init__(self, generator: NudgingGenerator, **options: Any) -> None:
        self._generator, self._options = generator, options

    def ask(self, messages: Messages, **options: Any) -> Answer:
        return self._read(self._generator.generate(messages, **self._options | options))

    def stream(self, messages: Messages, **options: Any) -> Iterator[Part]:
        with closing(self._generator.stream(messages, **self._options | options)) as stream:
            for piece in stream:
                yield Part(piece.text, (piece,), None)
            yield Part("", (), stream.result)

    async def aask(self, messages: Messages, **options: Any) -> Answer:
        return self._read(await self._generator.agenerate(messages, **self._options | options))

    async def astream(self, messages: Messages, **options: Any) -> AsyncIterator[Part]:
        async with aclosing(self._generator.astream(messages, **self._options | options)) as stream:
            async for piece in stream:
                yield Part(piece.text, (piece,), None)
            yield Part("", (), stream.result)

    def join(self, parts: Sequence[Part]) -> Answer:
        found = self._read(parts[-1].own)
        assert tuple(piece for part in parts for piece in part.pieces) == found.pieces
        return found

    def structured(self, messages: Messages, kind: type[Any]) -> Any:
        return self._generator.generate(messages, json_schema=kind, **self._options).parsed

    def _read(self, result: Any) -> Answer:
        calls = [(call.name, call.arguments) for call in result.calls]
        return Answer(result.content, calls, result.provenance.pieces, result.provenance)


class LangChain:
    def __init__(self, generator: NudgingGenerator, **options: Any) -> None:
        self._model = ChatNudging(generator=generator, **options)

    def ask(self, messages: Messages, **options: Any) -> Answer:
        model, options = self._with_tools(options)
        return self._read(model.invoke(self._messages(messages), **options))

    def stream(self, messages: Messages, **options: Any) -> Iterator[Part]:
        model, options = self._with_tools(options)
        with closing(model.stream(self._messages(messages), **options)) as stream:
            for chunk in stream:
                yield Part(chunk.text, langchain_nudging.get_pieces(chunk), chunk)

    async def aask(self, messages: Messages, **options: Any) -> Answer:
        model, options = self._with_tools(options)
        return self._read(await model.ainvoke(self._messages(messages), **options))

    async def astream(self, messages: Messages, **options: Any) -> AsyncIterator[Part]:
        model, options = self._with_tools(options)
        async with aclosing(model.astream(self._messages(messages), **options)) as stream:
            async for chunk in stream:
                yield Part(chunk.text, langchain_nudging.get_pieces(chunk), chunk)

    def join(self, parts: Sequence[Part]) -> Answer:
        return self._read(reduce(add, [part.own for part in parts]))

    def structured(self, messages: Messages, kind: type[Any]) -> Any:
        return self._model.with_structured_output(kind).invoke(self._messages(messages))

    def _with_tools(self, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        bound = {name: options.pop(name) for name in ("tool_choice", "parallel_tool_calls") if name in options}
        tools = options.pop("tools", None)
        return (self._model if tools is None else self._model.bind_tools(tools, **bound)), options

    def _messages(self, messages: Messages) -> list[BaseMessage]:
        return [self._message(message) for message in messages]

    def _message(self, message: dict[str, Any]) -> BaseMessage:
        match message["role"]:
            case "system":
                return SystemMessage(message["content"])
            case "user":
                return HumanMessage(message["content"])
            case "tool":
                return ToolMessage(message["content"], tool_call_id=message["tool_call_id"])
        calls = [{"id": c["id"], "name": c["name"], "args": c["arguments"]} for c in message.get("tool_calls", ())]
        return AIMessage(message["content"], tool_calls=calls)

    def _read(self, message: Any) -> Answer:
        calls = [(call["name"], call["args"]) for call in message.tool_calls]
        record = langchain_nudging.get_provenance(message)
        return Answer(message.text, calls, langchain_nudging.get_pieces(message), record)


class LlamaIndex:
    def __init__(self, generator: NudgingGenerator, **options: Any) -> None:
        self._llm = NudgingLLM(generator=generator, **options)

    def ask(self, messages: Messages, **options: Any) -> Answer:
        return self._read(self._call("chat", messages, options))

    def stream(self, messages: Messages, **options: Any) -> Iterator[Part]:
        with closing(self._call("stream_chat", messages, options)) as stream:
            for response in stream:
                yield Part(response.delta or "", llama_index_nudging.get_pieces(response), response)

    async def aask(self, messages: Messages, **options: Any) -> Answer:
        return self._read(await self._call("achat", messages, options))

    async def astream(self, messages: Messages, **options: Any) -> AsyncIterator[Part]:
        async with aclosing(await self._call("astream_chat", messages, options)) as stream:
            async for response in stream:
                yield Part(response.delta or "", llama_index_nudging.get_pieces(response), response)

    def join(self, parts: Sequence[Part]) -> Answer:
        found = self._read(parts[-1].own)
        assert "".join(part.text for part in parts) == found.text
        found.pieces = tuple(piece for part in parts for piece in part.pieces)
        return found

    def structured(self, messages: Messages, kind: type[Any]) -> Any:
        return self._llm.as_structured_llm(kind).chat(self._messages(messages)).raw

    def _call(self, method: str, messages: Messages, options: dict[str, Any]) -> Any:
        if "tools" not in options:
            return getattr(self._llm, method)(self._messages(messages), **options)
        tools = [FunctionTool.from_defaults(tool) for tool in options.pop("tools")]
        choice = options.pop("tool_choice", "auto")
        return getattr(self._llm, f"{method}_with_tools")(
            tools,
            chat_history=self._messages(messages),
            tool_required=choice == "required",
            tool_choice=None if choice in ("auto", "required") else choice,
            allow_parallel_tool_calls=options.pop("parallel_tool_calls", True),
            **options,
        )

    def _messages(self, messages: Messages) -> list[ChatMessage]:
        return [self._message(message) for message in messages]

    def _message(self, message: dict[str, Any]) -> ChatMessage:
        content = message["content"]
        if isinstance(content, list):  # the one kind that these tests know
            return ChatMessage(role=Role.USER, blocks=[ImageBlock(url=part["image_url"]["url"]) for part in content])
        known = {"tool_call_id": message["tool_call_id"]} if message["role"] == "tool" else {}
        calls = [
            ToolCallBlock(tool_call_id=call["id"], tool_name=call["name"], tool_kwargs=call["arguments"])
            for call in message.get("tool_calls", ())
        ]
        return ChatMessage(
            role=Role(message["role"]), blocks=[TextBlock(text=content), *calls], additional_kwargs=known
        )

    def _read(self, response: LlamaIndexResponse) -> Answer:
        selected = self._llm.get_tool_calls_from_response(response, error_on_no_tool_call=False)
        calls = [(call.tool_name, call.tool_kwargs) for call in selected]
        record = llama_index_nudging.get_provenance(response)
        return Answer(response.message.content or "", calls, llama_index_nudging.get_pieces(response), record)


LAYERS: dict[str, type[Layer]] = {"core": Core, "langchain": LangChain, "llama_index": LlamaIndex}
