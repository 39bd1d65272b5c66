"""From what a user asks to a request: the two prompts, the parameters of predictions, the constraint. All checks come here,
before any compute.

Knows backends by their protocol; leaves waiting to ``streams.py``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..config import NudgingConfig
from ..decoding.constraint import UNCONSTRAINED, AnswerConstraint
from ..decoding.decode import Decode, decode, decode_alone
from ..decoding.gates import resolve_gate
from ..engines.base import Counts, ModelBackend
from ..errors import (
    CapabilityError,
    ConfigError,
    ContextOverflowError,
    GrammarError,
    MessageError,
    TemplateError,
    TokenizerMismatchError,
)
from ..protocol import Model, PredictionParams, Sampling
from ..provenance import ProvenanceWarning
from ..structured.constraint import Constraint
from ..structured.response_format import ResponseFormat
from ..text.base_template import BaseTemplate
from ..text.chat_template import render_chat
from ..text.messages import Messages, check_text, read_messages
from ..text.prompt_encoder import IncrementalPromptEncoder
from ..tools.definitions import read_tools
from .record import CacheWatch
from .request import ModelPart, Request
from .scheduler import Scheduler


class RequestMaker:
    """Makes requests of one generator.

    Args:
        backends: the two models.
        base_template: how a conversation looks to the base model.
    """

    def __init__(self, backends: Mapping[Model, ModelBackend], base_template: BaseTemplate) -> None:
        self._backends, self.base_template = backends, base_template
        workers = [worker for backend in backends.values() if (worker := backend.worker) is not None]
        self._scheduler = Scheduler(workers)
        self._cache_watch = CacheWatch()

    def request(self, messages: Messages, response_format: ResponseFormat, config: NudgingConfig) -> Request:
        """A nudged answer to messages."""
        return self._made(self._encoders(messages, response_format), config, response_format)

    def alone_request(
        self, model: Model, messages: Messages, response_format: ResponseFormat, config: NudgingConfig
    ) -> Request:
        """An answer to messages by one model alone.

        Raises:
            ConfigError: there is no such model.
        """
        if model not in self._backends:
            raise ConfigError(f"model={model!r}: one of 'base', 'nudging'.")
        encoder = self._encoders(messages, response_format)[model]
        return self._made({model: encoder}, config, response_format)

    def raw_request(
        self, base_prompt: str, nudging_prompt: str, response_format: ResponseFormat, config: NudgingConfig
    ) -> Request:
        """A nudged answer to two prompts given as text.

        Raises:
            MessageError: a prompt is empty, or holds what is no text.
            ConfigError: tools are given: a raw prompt says itself what may be called.
        """
        if not base_prompt or not nudging_prompt:
            raise MessageError("Both prompts must be non-empty text.")
        check_text(base_prompt + nudging_prompt)
        if response_format.tools:
            raise ConfigError("tools: a raw prompt says itself what may be called. Use generate(messages, tools=…).")
        encoders: dict[Model, IncrementalPromptEncoder] = {
            "base": _raw_encoder(self._backends["base"], base_prompt, keep_text=True),
            "nudging": _raw_encoder(self._backends["nudging"], nudging_prompt, keep_text=False),
        }
        return self._made(encoders, config, response_format, markers=())

    def count_tokens(self, messages: Messages, tools: Sequence[Any] = ()) -> int:
        """Length of the prompt for messages or a part of a conversation; see ``NudgingGenerator.count_tokens``."""
        conversation, offered = read_messages(messages, part=True), read_tools(tools)
        transcript = self.base_template.render(conversation, offered)
        base, nudging = self._backends["base"].tokenizer, self._backends["nudging"].tokenizer
        counted = len(base.bos_ids) + len(base.encode(transcript))
        try:
            return max(counted, len(render_chat(nudging, conversation, offered)))
        except TemplateError:
            return max(counted, len(nudging.encode(transcript)))

    def _encoders(self, messages: Messages, response_format: ResponseFormat) -> dict[Model, IncrementalPromptEncoder]:
        conversation = read_messages(messages)
        base, nudging = self._backends["base"], self._backends["nudging"]
        transcript = self.base_template.render(conversation, response_format.tools)
        chat = render_chat(nudging.tokenizer, conversation, response_format.tools, response_format.choice)
        return {
            "base": IncrementalPromptEncoder(base.tokenizer, base.tokenizer.bos_ids, transcript, base.context_length),
            "nudging": IncrementalPromptEncoder(nudging.tokenizer, chat, "", nudging.context_length),
        }

    def _made(
        self,
        encoders: Mapping[Model, IncrementalPromptEncoder],
        config: NudgingConfig,
        response_format: ResponseFormat,
        markers: Sequence[str] | None = None,
    ) -> Request:
        markers = self.base_template.markers if markers is None else markers
        if config.seed is None and (config.temperature or config.nudging_temperature):
            config = config.updated({"seed": random.SystemRandom().randrange(2**31)})
        params = _params(config)
        parts = {
            model: ModelPart(self._backends[model], params[model], encoder.encode(""))
            for model, encoder in encoders.items()
        }
        for model, part in parts.items():
            _check_capabilities(part, masks=response_format.grammar is not None)
            _check_tokens(part)
            _check_context(part, config.max_tokens, config.lookahead if model == "nudging" else 0)
        constraint: AnswerConstraint = UNCONSTRAINED
        if response_format.grammar is not None:
            joined = [model for model, encoder in encoders.items() if encoder.joins]
            tokenizers = {model: self._backends[model].tokenizer for model in encoders}
            constraint = Constraint(response_format.grammar, tokenizers, joined)
            _check_closing(constraint, next(iter(encoders.values())), config.max_tokens)
            parts = {model: part.held_to(response_format.grammar) for model, part in parts.items()}
        earlier = self._cache_watch.last

        def start(clock: Callable[[], float]) -> Decode:
            costs = {model: part.backend.costs for model, part in parts.items()}
            if len(encoders) == 2:
                return decode(encoders["base"], encoders["nudging"], config, markers, clock, costs, constraint)
            [(model, encoder)] = encoders.items()
            return decode_alone(model, encoder, config, markers, clock, costs, constraint)

        def done(counts: Mapping[Model, Counts]) -> tuple[ProvenanceWarning, ...]:
            [first, *_] = parts
            return self._cache_watch.note(parts[first].prompt, counts[first].reused, earlier)

        return Request(parts, self._scheduler, start, config, done, constraint, response_format)


def _params(config: NudgingConfig) -> dict[Model, PredictionParams]:
    """How the two models' predictions are made."""
    needs: frozenset[str] = frozenset(getattr(resolve_gate(config.gate), "needs", ()))
    return {
        "base": PredictionParams(_sampling(config, config.temperature), needs),
        "nudging": PredictionParams(_sampling(config, config.nudging_temperature)),
    }


def _sampling(config: NudgingConfig, temperature: float) -> Sampling | None:
    if not temperature:
        return None
    assert config.seed is not None
    return Sampling(temperature, config.top_p, config.top_k, config.seed)


def _raw_encoder(backend: ModelBackend, prompt: str, keep_text: bool) -> IncrementalPromptEncoder:
    """For a prompt given as text. ``keep_text``: what follows its last control token is tokenised with the answer."""
    tokenizer = backend.tokenizer
    cut = max((stop for _, stop in tokenizer.control_spans(prompt)), default=0) if keep_text else len(prompt)
    tail = prompt[cut:]
    if tail.endswith(" ") and tail.strip():
        tail = tail[:-1]  # the join puts it back; a base model is not evaluated after a trailing space
    ids = tokenizer.encode_control(prompt[:cut])
    if ids[: len(tokenizer.bos_ids)] != tokenizer.bos_ids:
        ids = tokenizer.bos_ids + ids
    return IncrementalPromptEncoder(tokenizer, ids, tail, backend.context_length)


# -- checks -----------------------------------------------------------------------------------------------------------


def _check_capabilities(part: ModelPart, masks: bool) -> None:
    """That the model can do what is asked of it."""
    name, can, params = part.backend.name, part.backend.capabilities, part.params
    if masks and not can.masks:
        raise CapabilityError(
            f"{name} cannot be held to a grammar: json_schema, regex, choices and tools need masks on its tokens. Load the model "
            "in this process, or ask in words and read the answer leniently."
        )
    if params.sampling is not None and not can.sampling:
        raise CapabilityError(
            f"{name} does not sample with a seed of ours. Set temperature=0 (nudging_temperature=0 for the nudging model), or "
            "load the model in this process."
        )
    if missing := params.needs - can.statistics:
        raise CapabilityError(
            f"{name} does not give the {' and '.join(sorted(missing))} of its distribution, which the gate reads. Use "
            "gate='top1', or load the model in this process."
        )


def _check_tokens(part: ModelPart) -> None:
    size = part.backend.vocabulary_size
    if size is not None and part.prompt and (highest := max(part.prompt)) >= size:
        raise TokenizerMismatchError(
            f"The prompt holds token {highest} and {part.backend.name} has embeddings for {size:,}: its tokenizer was extended "
            "and the model was not. Call model.resize_token_embeddings, or use the model's own tokenizer."
        )


def _check_context(part: ModelPart, max_tokens: int, lookahead: int) -> None:
    limit, prompt = part.backend.context_length, len(part.prompt)
    needed = prompt + max_tokens + lookahead
    if limit is not None and needed > limit:
        detail = f"prompt {prompt:,} + max_tokens {max_tokens:,}" + (f" + lookahead {lookahead}" if lookahead else "")
        raise ContextOverflowError(part.backend.name, limit, needed, detail)


def _check_closing(constraint: Constraint, encoder: IncrementalPromptEncoder, max_tokens: int) -> None:
    """That an answer which keeps to the grammar can be written within ``max_tokens``."""
    if constraint.trigger is not None:
        return
    found: list[int] = []

    def fits(way: str) -> bool:
        found.append(len(encoder.encode(way)) - len(encoder.encode("")))
        return found[-1] <= max_tokens

    if constraint.closing("", fits) is None:
        if not found:
            raise GrammarError(
                f"{constraint.what}: no text that fits was found. Look for parts that demand themselves without end."
            )
        raise GrammarError(
            f"{constraint.what}: the shortest text found that fits has {min(found):,} tokens and max_tokens is {max_tokens:,}: "
            "raise it to several times that."
        )
