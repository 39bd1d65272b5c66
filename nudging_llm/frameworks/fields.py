"""What a framework's model object has in common with every other over this package: fields, their checks, the models behind them.

A pydantic mixin, as both LangChain's and LlamaIndex's model classes are pydantic's. Nothing is loaded before the first answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, model_validator
from typing_extensions import Self

from ..config import NudgingConfig, config_of_call
from ..errors import ConfigError, nearest
from ..tools.choice import is_forced
from .lazy import STARTER, LazyGenerator, lazy_generator

if TYPE_CHECKING:
    from ..generator import NudgingGenerator

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


#: Fields that say which models they are.
_MODELS = frozenset({"base_model", "nudging_model", "generator", *_LOADING})


class NudgingFields(BaseModel):
    """Two models by name or loaded, and the decoder's options; a copy with other options uses the same weights."""

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

    _unshown: ClassVar[frozenset[str]] = frozenset()
    """Fields that ``repr`` leaves out."""
    _lazy: LazyGenerator | None = PrivateAttr(default=None)

    @classmethod
    def starter(cls, **options: Any) -> Self:
        """The starter pair: Gemma 3 270M as base model, SmolLM2 135M Instruct as nudging model; fetched at the first answer.

        Args:
            options: any other argument of the class.
        """
        return cls(base_model=STARTER, nudging_model=STARTER, **options)

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
            raise ConfigError(
                f"Give base_model and nudging_model, or generator=, or use {type(self).__name__}.starter()."
            )
        else:
            self._lazy = self._lazy_with(self.base_model)
        self._config()

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy that uses the same models, unless ``update`` names others."""
        copy = super().model_copy(update=update)
        if not _MODELS.isdisjoint(update or ()):
            copy._models_changed()
        return copy

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in _MODELS:
            self._models_changed()

    def _models_changed(self) -> None:
        """Look for the models anew, as a field that says which they are was changed."""
        self._lazy = None if self.generator is not None else self._lazy_with(self.base_model)

    def _config(self) -> NudgingConfig:
        """The decoder's options, without those of a call."""
        config = self.nudging_config or (self.generator.config if self.generator is not None else NudgingConfig())
        return config.updated({name: value for name in _OPTIONS if (value := getattr(self, name)) is not None})

    def _engines(self) -> tuple[Any, Any]:
        """The base model and the nudging model, loaded or not: each has a ``name`` and a ``context_length``."""
        models: Any = self.generator if self._lazy is None else self._lazy
        return models.base, models.nudging

    def _room(self) -> int | None:
        """Tokens of prompt and answer that both models have room for; None if not known before they are loaded, or unlimited."""
        lengths: list[int | None] = [engine.context_length for engine in self._engines()]
        known = [length for length in lengths if length is not None]
        if not known or (len(known) < len(lengths) and self._lazy is not None and not self._lazy.loaded):
            return None
        return max(1, min(known) - self._config().lookahead)

    def _prompt_room(self, reserve: int = 0, kept_by: str = "") -> int | None:
        """Tokens of prompt beside an answer of ``max_tokens``, less ``reserve``, an option's; None where ``_room`` is.

        Raises:
            ConfigError: there are none.
        """
        room, wanted = self._room(), self._config().max_tokens
        if room is None:
            return None
        if wanted >= room - reserve:
            kept = f", of which {kept_by} keeps back {reserve:,}" if kept_by else ""
            raise ConfigError(
                f"max_tokens={wanted:,} leaves no room for a prompt: there are {room:,} tokens for prompt and answer{kept}. "
                "Lower max_tokens."
            )
        return room - reserve - wanted

    def _lazy_with(self, base_model: Any) -> LazyGenerator:
        return lazy_generator(base_model, self.nudging_model, **{name: getattr(self, name) for name in _LOADING})

    def _loaded(self, lazy: LazyGenerator | None = None) -> NudgingGenerator:
        """The generator, that of ``lazy`` if it is given; loads it when it is first needed."""
        lazy = lazy or self._lazy
        generator: NudgingGenerator = self.generator if lazy is None else lazy.get()
        return generator

    async def _aloaded(self, lazy: LazyGenerator | None = None) -> NudgingGenerator:
        """As ``_loaded``; the event loop stays free."""
        wanted = lazy or self._lazy
        if wanted is not None and not wanted.loaded:
            await asyncio.to_thread(wanted.get)
        return self._loaded(lazy)

    def _call_options(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """All of the core's options for one call, of which ``asked`` are the call's own."""
        config, asked = config_of_call(asked, self._config())
        config = config.updated({name: value for name, value in asked.items() if name in NudgingConfig.model_fields})
        options = {name: getattr(config, name) for name in NudgingConfig.model_fields} | asked
        forced = "tools" in asked and is_forced(asked.get("tool_choice"))
        if forced or any(asked.get(form) is not None for form in ("json_schema", "regex", "choices")):
            # the constructor's is for free text: a grammar ends the answer by itself
            options["stop"] = asked.get("stop", ())
        return options

    @property
    def model_name(self) -> str:
        """Both models' names."""
        return pair_name(*self._engines())

    def _check_portable(self) -> None:
        """Whether another process could load the same models.

        Raises:
            ConfigError: it could not, as they were given loaded.
        """
        if self.generator is not None or any(isinstance(m, tuple) for m in (self.base_model, self.nudging_model)):
            raise ConfigError(
                "Loaded models cannot be written down: name the models by hub id or folder (base_model=, nudging_model=)."
            )

    def __deepcopy__(self, memo: Any = None) -> Self:
        """A copy that uses the same models."""
        return self.model_copy()

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for name, value in super().__repr_args__():
            if name in ("base_model", "nudging_model") and isinstance(value, tuple):
                value = type(value[0]).__name__
            if value is not None and name in self.model_fields_set - self._unshown:
                yield name, value
        yield "model_name", self.model_name


def pair_name(base: Any, nudging: Any) -> str:
    """How two models together are called."""
    return f"{base.name} + {nudging.name}"


def _check_generator(generator: Any) -> None:
    wanted = ("stream", "astream", "base", "nudging", "config", "count_tokens")
    if missing := [name for name in wanted if not hasattr(generator, name)]:
        raise ConfigError(f"generator={generator!r} is no NudgingGenerator: it has no {missing[0]!r}.")
