"""Structured answers and tool calls of ``NudgingLLM``, as LlamaIndex's programs and agents ask for them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Sequence
from typing import TYPE_CHECKING, Any, cast

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, MessageRole, ToolCallBlock
from llama_index.core.instrumentation.events.llm import LLMStructuredPredictEndEvent, LLMStructuredPredictStartEvent
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.types import Model, PydanticProgramMode
from llama_index_instrumentation import get_dispatcher

from .messages import is_program_tool, tool_definition
from .structured import StructuredReader, structured_options

if TYPE_CHECKING:
    from llama_index.core.prompts import BasePromptTemplate
    from llama_index.core.tools import BaseTool

dispatcher = get_dispatcher(__name__)
#: A keyword of calls that LlamaIndex's programs make, which read the call while it is written.
PROGRAM = "of_program"
#: The modes of structured output that the grammar serves; the others are LlamaIndex's own, by text.
_RULED = (PydanticProgramMode.DEFAULT, PydanticProgramMode.FUNCTION)


class Predicting(FunctionCallingLLM):
    """An LLM whose calls and structured answers a grammar holds to their schema."""

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        if isinstance(user_msg, str):
            user_msg = ChatMessage(role=MessageRole.USER, content=user_msg)
        messages = [*(chat_history or ()), *([user_msg] if user_msg is not None else ())]
        program = len(tools) == 1 and is_program_tool(tools[0])
        asked = {
            "tools": [tool_definition(tool) for tool in tools] or None,  # plain, so that events can be written down
            "tool_required": tool_required or program or None,
            PROGRAM: program or None,
            "allow_parallel_tool_calls": allow_parallel_tool_calls if tools else None,
        }
        return {"messages": messages, **{key: value for key, value in asked.items() if value is not None}, **kwargs}

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """The calls of a finished response; a streamed one before the last has none.

        Raises:
            ValueError: there is none, and ``error_on_no_tool_call``.
        """
        calls = [block for block in response.message.blocks if isinstance(block, ToolCallBlock)]
        if not calls and error_on_no_tool_call:
            raise ValueError(f"Expected a tool call; the answer has none: {response.message.content!r:.500}.")
        return [
            ToolSelection(
                tool_id=call.tool_call_id or "",
                tool_name=call.tool_name,
                tool_kwargs=cast("dict[str, Any]", call.tool_kwargs),
            )
            for call in calls
        ]

    # -- structured output --------------------------------------------------------------------------------------------

    @dispatcher.span
    def structured_predict(
        self,
        output_cls: type[Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """An object of a pydantic class. Whatever the models, it fits the schema: a grammar holds them.

        Args:
            output_cls: the class; both prompts show its names and descriptions.
            prompt: a prompt template.
            llm_kwargs: options of the call, see the class.
            prompt_args: for the template.

        Raises:
            ValueError: the class checks more than its schema says, and refuses the answer.
            GrammarError, ToolError: the schema cannot be enforced; before any compute.
        """
        if self.pydantic_program_mode not in _RULED:
            return cast("Model", super().structured_predict(output_cls, cast("Any", prompt), llm_kwargs, **prompt_args))
        _structured_begun(output_cls, prompt, prompt_args)
        messages = prompt.format_messages(llm=self, **prompt_args)
        response = self.chat(messages, **structured_options(output_cls, llm_kwargs))
        return _structured_ended(output_cls, response)

    @dispatcher.span
    async def astructured_predict(
        self,
        output_cls: type[Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Model:
        """As ``structured_predict``; the event loop stays free."""
        if self.pydantic_program_mode not in _RULED:
            found = await super().astructured_predict(output_cls, cast("Any", prompt), llm_kwargs, **prompt_args)
            return cast("Model", found)
        _structured_begun(output_cls, prompt, prompt_args)
        messages = prompt.format_messages(llm=self, **prompt_args)
        response = await self.achat(messages, **structured_options(output_cls, llm_kwargs))
        return _structured_ended(output_cls, response)

    def _structured_stream_call(
        self,
        output_cls: type[Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> Generator[Any, None, None]:
        if self.pydantic_program_mode not in _RULED:
            return super()._structured_stream_call(output_cls, cast("Any", prompt), llm_kwargs, **prompt_args)
        messages = prompt.format_messages(llm=self, **prompt_args)
        responses = self.stream_chat(messages, **structured_options(output_cls, llm_kwargs))
        reader = StructuredReader(output_cls)
        return (found for response in responses for found in reader.more(response))

    async def _structured_astream_call(
        self,
        output_cls: type[Model],
        prompt: BasePromptTemplate,
        llm_kwargs: dict[str, Any] | None = None,
        **prompt_args: Any,
    ) -> AsyncGenerator[Any, None]:
        if self.pydantic_program_mode not in _RULED:
            return await super()._structured_astream_call(output_cls, cast("Any", prompt), llm_kwargs, **prompt_args)
        messages = prompt.format_messages(llm=self, **prompt_args)
        responses = await self.astream_chat(messages, **structured_options(output_cls, llm_kwargs))
        reader = StructuredReader(output_cls)
        return (found async for response in responses for found in reader.more(response))


def _structured_begun(output_cls: Any, prompt: Any, prompt_args: dict[str, Any]) -> None:
    dispatcher.event(LLMStructuredPredictStartEvent(output_cls=output_cls, template=prompt, template_args=prompt_args))


def _structured_ended(output_cls: type[Model], response: ChatResponse) -> Model:
    found = cast("Model", StructuredReader(output_cls).whole(response))
    dispatcher.event(LLMStructuredPredictEndEvent(output=found))
    return found
