"""``NudgingGenerator``: two models, and every way to ask them for an answer.

Knows the two models and how to wait. ``runtime/prepare.py`` checks what is asked and makes a request of it,
``runtime/streams.py`` runs it, and the rules are in ``decoding/``.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

from .config import NudgingConfig, config_of_call, read_config
from .engines.base import Engine, ModelBackend
from .engines.load import ModelSource, load_engine
from .errors import ConfigError, MessageError, ModelLoadError, StarterError
from .protocol import Model
from .result import Result
from .runtime.local import as_backend
from .runtime.prepare import RequestMaker
from .runtime.streams import AsyncStream, Stream, run_batch
from .structured.response_format import ResponseFormat, read_response_format
from .text.base_template import BaseTemplate
from .text.messages import Messages


class NudgingGenerator:
    """A base model and a nudging model that write answers together.

    Concurrent calls, from threads or tasks, interleave forward by forward.

    Args:
        base: the base model: an engine in this process, or any other backend.
        nudging: the same for the nudging model; its tokenizer must have a chat template, unless only ``*_raw`` is used.
        config: defaults of every call.
        base_template: how a conversation looks to the base model.
        cache_slots: idle sessions kept per engine, so that a request which shares a prefix starts faster. These three are for
            engines; a backend has its own.
        cache_bytes: most memory of the idle sessions' key-value caches, per engine; the least recently used goes first.
        batch_size: most requests that share a forward, in ``batch``, ``abatch`` and among concurrent calls.

    Examples:
        >>> gen = NudgingGenerator.starter()                     # doctest: +SKIP
        >>> gen.generate("What is the capital of France?").text  # doctest: +SKIP
    """

    def __init__(
        self,
        base: ModelBackend | Engine,
        nudging: ModelBackend | Engine,
        config: NudgingConfig | None = None,
        base_template: BaseTemplate | str | None = None,
        cache_slots: int = 8,
        cache_bytes: int = 2**30,
        batch_size: int = 8,
    ) -> None:
        for name, value, least in (
            ("cache_slots", cache_slots, 0),
            ("cache_bytes", cache_bytes, 0),
            ("batch_size", batch_size, 1),
        ):
            if value < least:
                raise ConfigError(f"{name}={value}: give {least} or more.")
        local = {"cache_slots": cache_slots, "cache_bytes": cache_bytes, "batch_size": batch_size}
        self.base, self.nudging = as_backend(base, **local), as_backend(nudging, **local)
        self.config = read_config(config)
        template = BaseTemplate(base_template) if isinstance(base_template, str) else base_template or BaseTemplate()
        self.batch_size = batch_size
        self._maker = RequestMaker({"base": self.base, "nudging": self.nudging}, template)
        self._executor: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    @property
    def base_template(self) -> BaseTemplate:
        """How a conversation looks to the base model. Can be changed between calls."""
        return self._maker.base_template

    @base_template.setter
    def base_template(self, template: BaseTemplate) -> None:
        self._maker.base_template = template

    def __deepcopy__(self, memo: Any) -> NudgingGenerator:
        """Itself: a deep copy of what holds a generator shares its models."""
        return self

    @classmethod
    def from_pretrained(
        cls,
        base_model: ModelSource,
        nudging_model: ModelSource,
        config: NudgingConfig | None = None,
        *,
        device: str = "auto",
        dtype: Any = "auto",
        base_model_kwargs: Mapping[str, Any] | None = None,
        nudging_model_kwargs: Mapping[str, Any] | None = None,
        base_template: BaseTemplate | str | None = None,
        cache_slots: int = 8,
        cache_bytes: int = 2**30,
        batch_size: int = 8,
    ) -> NudgingGenerator:
        """Load both models.

        Args:
            base_model: a hub id, a local folder, or a loaded ``(model, tokenizer)``.
            nudging_model: the same. Its tokenizer must have a chat template.
            config: defaults of every call.
            device: "auto" (CUDA if there is one, else CPU) or a torch device. Loaded models stay where they are.
            dtype: "auto" (the checkpoint's, or float32 on a CPU without bfloat16 instructions), "float32", "bfloat16",
                "float16" or a torch dtype.
            base_model_kwargs: for transformers' ``from_pretrained``: ``device_map="auto"``, ``quantization_config``,
                ``revision``, ``trust_remote_code`` (False unless given)…
            nudging_model_kwargs: the same for the nudging model.
            base_template: see the class.
            cache_slots: see the class.
            cache_bytes: see the class.
            batch_size: see the class.

        Raises:
            ModelLoadError: a model cannot be loaded.
            TokenizerMismatchError: a tokenizer does not fit its model.
        """
        config = read_config(config)
        shared: dict[str, Any] = {"device": device, "dtype": dtype}
        base = load_engine(base_model, **{**shared, **(base_model_kwargs or {})})
        nudging = load_engine(nudging_model, **{**shared, **(nudging_model_kwargs or {})})
        return cls(base, nudging, config, base_template, cache_slots, cache_bytes, batch_size)

    @classmethod
    def starter(
        cls, config: NudgingConfig | None = None, *, device: str = "auto", dtype: Any = "auto"
    ) -> NudgingGenerator:
        """The starter pair: Gemma 3 270M as base model, SmolLM2 135M Instruct as nudging model; fetched once.

        Needs ``pip install "nudging-llm[starter]"``. First call: about 330 MB of download and a minute of conversion.

        Raises:
            StarterError: it cannot be fetched, verified or converted.
        """
        from .starter import BASE_NAME, NUDGING_NAME, fetch

        config = read_config(config)
        pair = fetch()
        shared: dict[str, Any] = {"device": device, "dtype": dtype, "local_files_only": True}
        try:
            base = load_engine(pair.base, name=BASE_NAME, **shared)
            nudging = load_engine(pair.nudging, name=NUDGING_NAME, **shared)
        except ModelLoadError as error:
            raise StarterError(
                f"{error}\nIf the files are damaged, delete {pair.base.parent} and try again."
            ) from error
        return cls(base, nudging, config)

    # -- ask ----------------------------------------------------------------------------------------------------------

    def generate(self, messages: Messages, **options: Any) -> Result:
        """An answer, whole.

        Args:
            messages: the question, or chat messages (``role``: system, user, assistant; ``content``: text).
            options: ``config``, a ``NudgingConfig`` in place of the generator's; single fields of ``NudgingConfig``, which win
                over it; and what form the answer must have, one of

                - ``json_schema``: a JSON schema or a type (pydantic model, TypedDict, …): the text is JSON that fits it,
                  ``Result.parsed`` its value;
                - ``regex``: a pattern that matches the whole text;
                - ``choices``: a list of texts, one of which is written;
                - ``tools``: functions, pydantic models or OpenAI-style dicts that may be called, with ``tool_choice``
                  ("auto", "required", "none" or a name) and ``parallel_tool_calls`` (by default only where the models choose
                  freely, with "auto"): ``Result.calls``.

        Raises:
            ConfigError, MessageError, TemplateError, ToolError, GrammarError, ContextOverflowError: before any compute.
            OutOfMemoryError: during a forward.
        """
        return _collect(self.stream(messages, **options))

    def stream(self, messages: Messages, **options: Any) -> Stream:
        """An answer, piece by piece. Arguments and errors as for ``generate``; they are checked at once."""
        return Stream(self._maker.request(messages, *self._asked(options)))

    async def agenerate(self, messages: Messages, **options: Any) -> Result:
        """As ``generate``, without blocking the event loop."""
        return await _acollect(self.astream(messages, **options))

    def astream(self, messages: Messages, **options: Any) -> AsyncStream:
        """As ``stream``, for ``async for``."""
        return AsyncStream(self._maker.request(messages, *self._asked(options)), self._threads())

    def batch(self, requests: Sequence[Messages], **options: Any) -> list[Result]:
        """Several answers, in the order of the requests: written side by side, ``batch_size`` at a time, in shared forwards.

        All requests are checked before the first computes. If one fails, the others stop.
        """
        asked = self._asked(options)
        made = [self._maker.request(messages, *asked) for messages in _several(requests)]
        run_batch(made, self.batch_size)
        return [request.result for request in made]

    async def abatch(self, requests: Sequence[Messages], **options: Any) -> list[Result]:
        """As ``batch``, without blocking the event loop."""
        asked, threads = self._asked(options), self._threads()
        streams = [AsyncStream(self._maker.request(messages, *asked), threads) for messages in _several(requests)]
        gate = asyncio.Semaphore(self.batch_size)
        tasks = [asyncio.ensure_future(_acollect(stream, gate)) for stream in streams]
        try:
            return list(await asyncio.gather(*tasks))
        finally:  # one has failed, or this call was cancelled: the others stop too
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def generate_raw(self, base_prompt: str, nudging_prompt: str, **options: Any) -> Result:
        """An answer to two prompts given as text: no template is applied, and control tokens in them count.

        A beginning-of-text token is put before a prompt whose tokenizer wants one and that does not begin with it.
        """
        return _collect(self.stream_raw(base_prompt, nudging_prompt, **options))

    def stream_raw(self, base_prompt: str, nudging_prompt: str, **options: Any) -> Stream:
        """As ``generate_raw``, piece by piece."""
        return Stream(self._maker.raw_request(base_prompt, nudging_prompt, *self._asked(options)))

    def generate_alone(self, model: Model, messages: Messages, **options: Any) -> Result:
        """An answer by one of the two models alone, for comparison."""
        return _collect(self.stream_alone(model, messages, **options))

    def stream_alone(self, model: Model, messages: Messages, **options: Any) -> Stream:
        """As ``generate_alone``, piece by piece."""
        return Stream(self._maker.alone_request(model, messages, *self._asked(options)))

    def count_tokens(self, messages: Messages, tools: Sequence[Any] = ()) -> int:
        """Length of the prompt for these messages, or for a part of a conversation: of that model which needs more tokens for it.

        Args:
            messages: as for ``generate``; the last may be anybody's, and a call may be without its result. A part that the
                nudging model's template refuses counts as its text.
            tools: those on offer.

        Raises:
            MessageError, TemplateError, ToolError: as for ``generate``.
        """
        return self._maker.count_tokens(messages, tools)

    def clear_cache(self) -> None:
        """Forget what is kept for later requests, and free its memory."""
        for backend in (self.base, self.nudging):
            backend.clear()

    def _asked(self, options: Mapping[str, Any]) -> tuple[ResponseFormat, NudgingConfig]:
        """The form of the answer, and the rules."""
        config, single = config_of_call(options, self.config)
        response_format, rest = read_response_format(single)
        config = config.updated(rest)
        response_format.check(config)
        return response_format, config

    def _threads(self) -> ThreadPoolExecutor:
        """One thread for each device: models on one would only wait for each other, and so would torch's threads."""
        with self._lock:
            if self._executor is None:
                workers = [backend.worker for backend in (self.base, self.nudging)]
                devices = {worker.device for worker in workers if worker is not None}
                self._executor = ThreadPoolExecutor(max(1, len(devices)), thread_name_prefix="nudging-forward")
            return self._executor


def _several(requests: Sequence[Messages]) -> Sequence[Messages]:
    if isinstance(requests, (str, bytes, Mapping)) or not hasattr(requests, "__iter__"):
        raise MessageError(f"requests={requests!r}: give a list of questions, each a text or a list of messages.")
    return requests


def _collect(stream: Stream) -> Result:
    for _ in stream:
        pass
    return stream.result


async def _acollect(stream: AsyncStream, gate: asyncio.Semaphore | None = None) -> Result:
    async with gate or nullcontext():
        async for _ in stream:
            pass
    return stream.result
