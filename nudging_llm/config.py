"""``NudgingConfig``: every knob of the decoder, its default, its range and where it comes from.

Knows names and ranges only; what an option does is in ``decoding/``. A threshold's range and default are its gate's
(``decoding/gates.py``). "Paper" is arXiv 2410.09300; "released code" is its authors' public implementation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from .decoding.drafts import DraftSource
from .decoding.gates import PAPER_THRESHOLD, Gate, check_threshold, default_threshold, gate_name, resolve_gate
from .errors import ConfigError, nearest


def _threshold_of_gate(values: dict[str, Any]) -> float:
    return default_threshold(values["gate"])


class NudgingConfig(BaseModel):
    """How to nudge. Immutable; every per-call keyword of the generator is a field of this class.

    Raises:
        ConfigError: an unknown name (the nearest known one is suggested) or a value out of range.

    Examples:
        >>> NudgingConfig(threshold=0.3).threshold
        0.3
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    gate: str | Gate = Field(
        "top1", description="'top1' (paper), 'entropy', 'margin', or an object with confident(prediction, threshold)."
    )
    threshold: float = Field(
        default_factory=_threshold_of_gate,
        description="γ: nudge where the base model's top-1 probability is below it. 0 never nudges after the opening; above 1 "
        "always. Paper: 0.4 (Llama-2), 0.3 (Gemma-2, OLMo). Of another gate: what that gate says. None: the gate's own, 0.4 "
        "for 'top1'.",
    )
    lookahead: int = Field(
        16, ge=1, le=256, description="K: tokens the nudging model completes at the start of a round. Paper: 16."
    )
    max_tokens: int = Field(512, ge=1, description="Longest answer, in tokens of the base model's tokenizer.")
    max_rounds: int | None = Field(None, ge=1, description="Most rounds in one answer. Released code: 150.")
    length_check: Literal["token", "round"] = Field(
        "token",
        description="'token': max_tokens is a hard limit. 'round': checked only between rounds and chunks of the base "
        "run, as in the released code, so that an answer may be longer.",
    )
    prefix_rule: bool = Field(
        True, description="Also hand over where the base model's top-1 token begins the nudging model's next word."
    )
    stop: tuple[str, ...] = Field((), description="Strings that end the answer; they are not part of it.")
    stop_on: Literal["nudging", "either", "both"] = Field(
        "nudging", description="Whose end of text ends the answer. Paper: the nudging model's."
    )
    role_markers: bool = Field(
        True, description="Cut a base run where it begins a new turn of the transcript. Off in the paper."
    )
    repetition: Literal["guard", "paper", "off"] = Field(
        "guard",
        description="'guard': end when a block of 30 characters or a line stands three times in a row. 'paper': the "
        "released code's two rules (four equal nudges; repeated chunks end the base run).",
    )
    temperature: float = Field(0.0, ge=0, description="Sampling temperature of the base model's tokens; 0 is greedy.")
    top_p: float = Field(1.0, gt=0, le=1, description="Nucleus sampling: keep the smallest set with this probability.")
    top_k: int | None = Field(None, ge=1, description="Sample among this many most likely tokens.")
    seed: int | None = Field(None, ge=0, description="Seed of the sampling; None draws one and records it.")
    nudging_temperature: float = Field(0.0, ge=0, description="As temperature, for the nudging model's tokens.")
    end_check: Literal["lookahead", "sentence"] = Field(
        "sentence",
        description="When the nudging model's end of text ends the answer. 'lookahead' (paper): wherever it comes within "
        "K tokens at the start of a round. 'sentence': where it comes before the base model takes over, or where a base run "
        "has ended a sentence or line; the lookahead need not be computed to its end, which costs less.",
    )
    draft_sources: tuple[Callable[[Any], DraftSource], ...] = Field(
        (),
        description="Further sources of guesses, asked before look-up: each makes a DraftSource, given 'base' or 'nudging', for "
        "every request. Change the cost, never the text.",
    )
    drafting: bool = Field(True, description="Evaluate guessed tokens ahead. Changes the cost, never the text.")

    def __init__(self, /, **values: Any) -> None:
        if unknown := [name for name in values if name not in type(self).model_fields]:
            name = unknown[0]
            raise ConfigError(f"Unknown option {name!r}.{nearest(name, type(self).model_fields)}")
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _readable(error) from None

    @classmethod
    def paper(cls, **values: Any) -> NudgingConfig:
        """The released code's rules, heuristics included (paper section 3 and appendix; K = 16, γ = 0.4).

        Differs from the default in: the end looked for within all K tokens of every round, both repetition rules of the
        released code instead of the guard, no role markers, at most 150 rounds, length checked between rounds.
        """
        return cls(
            **{
                "max_rounds": 150,
                "length_check": "round",
                "role_markers": False,
                "repetition": "paper",
                "end_check": "lookahead",
                **values,
            }
        )

    def updated(self, changes: Mapping[str, Any]) -> NudgingConfig:
        """A copy with ``changes`` applied, validated like a new one. Another gate comes with its own threshold, unless
        ``changes`` names one."""
        if not changes:
            return self
        kept = {name: getattr(self, name) for name in type(self).model_fields}
        if changes.get("gate", self.gate) != self.gate:
            del kept["threshold"]
        return NudgingConfig(**kept | dict(changes))

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop_or_many(cls, value: Any) -> Any:
        if value is None:
            return ()
        return (value,) if isinstance(value, str) else value

    @field_validator("stop")
    @classmethod
    def _no_empty_stop(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "" in value:
            raise ValueError("an empty stop string would end every answer at once; remove it")
        return value

    @field_validator("gate", mode="before")
    @classmethod
    def _known_gate(cls, value: Any) -> Any:
        resolve_gate(value)
        return value

    @field_validator("threshold", mode="before")
    @classmethod
    def _none_is_the_gate_s(cls, value: Any, info: ValidationInfo) -> Any:
        if value is None:
            return default_threshold(info.data["gate"]) if "gate" in info.data else PAPER_THRESHOLD
        return value

    @field_validator("threshold", "temperature", "nudging_temperature")
    @classmethod
    def _finite(cls, value: float) -> float:
        if not math.isfinite(value):
            raise ValueError("must be a finite number")
        return value

    @model_validator(mode="after")
    def _threshold_fits_gate(self) -> NudgingConfig:
        check_threshold(self.gate, self.threshold)
        return self

    @model_validator(mode="after")
    def _chunks_are_not_sentences(self) -> NudgingConfig:
        if self.repetition == "paper" and self.end_check != "lookahead":
            raise ValueError("repetition='paper' reads base runs in chunks: it needs end_check='lookahead'")
        return self

    @field_serializer("draft_sources")
    def _draft_sources_as_text(self, sources: tuple[Callable[[Any], DraftSource], ...]) -> list[str]:
        return [getattr(source, "__name__", type(source).__name__) for source in sources]

    @field_serializer("gate")
    def _gate_as_text(self, gate: str | Gate) -> str:
        return gate_name(gate)


def config_of_call(options: Mapping[str, Any], default: NudgingConfig) -> tuple[NudgingConfig, dict[str, Any]]:
    """What a call's single options change: the ``config`` among its options, else ``default``; and the other options.

    Raises:
        ConfigError: ``config`` is no configuration.
    """
    others = {name: value for name, value in options.items() if name != "config"}
    return read_config(options.get("config"), default), others


def read_config(config: Any, default: NudgingConfig | None = None) -> NudgingConfig:
    """A configuration that a user gave; ``default``, or the package's own, in place of None.

    Raises:
        ConfigError: it is none.
    """
    if config is None:
        return default or NudgingConfig()
    if not isinstance(config, NudgingConfig):
        raise ConfigError(
            f"config={config!r} is of type {type(config).__name__}: give a NudgingConfig, such as NudgingConfig(threshold=0.3)."
        )
    return config


def _readable(error: ValidationError) -> ConfigError:
    """Pydantic's report as one line per wrong value, naming the value."""
    lines = []
    for item in error.errors():
        if item["type"] == "default_factory_not_called":  # the threshold's, where the gate is wrong
            continue
        where = ".".join(str(part) for part in item["loc"][:1])
        what = item["msg"].removeprefix("Value error, ")
        lines.append(f"{where}={item['input']!r}: {what}" if where else what)
    return ConfigError("; ".join(dict.fromkeys(lines)))
