"""What a ``ChatNudging`` says of itself: its profile, what identifies it to caches and traces, and lengths in its tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.language_models import ModelProfile
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.tools import BaseTool

from nudging_llm import ConfigError, LazyGenerator
from nudging_llm.frameworks.fields import NudgingFields
from nudging_llm.frameworks.lazy import serial

from .messages import to_core_messages
from .tool_calling import definitions

if TYPE_CHECKING:
    from nudging_llm import NudgingGenerator

#: Profiles that were worked out here, not given by a user.
_RESOLVED: set[str] = set()


class Profiled(NudgingFields, BaseChatModel):
    """A chat model over two models, which follows them where they change."""

    def _profile_is_ours(self) -> bool:
        """Whether the profile was worked out here, and not given by a user."""
        return _fingerprint(self.profile or {}) in _RESOLVED

    def _refresh_profile(self) -> None:
        """Work the profile out again, unless it is the user's own: a copy has other options, loaded models are known better."""
        if self.profile is None or self._profile_is_ours():
            self.profile = self._resolve_model_profile()

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in ("max_tokens", "lookahead", "nudging_config"):
            self._refresh_profile()

    def _loaded(self, lazy: LazyGenerator | None = None) -> NudgingGenerator:
        generator = super()._loaded(lazy)
        if lazy is None and "max_input_tokens" not in (self.profile or {}):
            self._refresh_profile()
        return generator

    def _resolve_model_profile(self) -> ModelProfile:
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
        if (room := self._prompt_room()) is not None:
            profile["max_input_tokens"] = room
        _RESOLVED.add(_fingerprint(profile))
        return profile

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

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        config = self._config()
        params = LangSmithParams(
            ls_provider="nudging",
            ls_model_name=str(kwargs.get("model") or self.model_name),
            ls_model_type="chat",
            ls_temperature=given(kwargs, "temperature", config.temperature),
            ls_max_tokens=given(kwargs, "max_tokens", config.max_tokens),
        )
        if found := stop or list(config.stop):
            params["ls_stop"] = found if isinstance(found, list) else [str(found)]  # what is none is refused later
        return params

    def get_token_ids(self, text: str) -> list[int]:
        """Tokens of a text, as the base model has them, or ``custom_get_token_ids``. Loads the models."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        return self._loaded().base.tokenizer.encode(text)

    def get_num_tokens_from_messages(
        self,
        messages: list[BaseMessage],
        tools: Sequence[Mapping[str, Any] | type | Callable[..., Any] | BaseTool] | None = None,
        **kwargs: Any,
    ) -> int:
        """Length of the prompt for these messages, which may be a part of a conversation, of that model which needs more tokens.

        What counts as no more than ``profile["max_input_tokens"]`` can be answered. Loads the models.
        """
        if kwargs:
            raise ConfigError(f"Unknown argument {next(iter(kwargs))!r}.")
        if not messages:
            return 0
        return self._loaded().count_tokens(to_core_messages(messages), definitions(tools or ()))


def _fingerprint(profile: ModelProfile) -> str:
    return repr(sorted(profile.items()))


def given(kwargs: Mapping[str, Any], name: str, default: Any) -> Any:
    """A call's keyword, or the default where it is missing or None."""
    return default if kwargs.get(name) is None else kwargs[name]
