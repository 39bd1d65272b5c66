"""How a ``NudgingLLM`` is written down and pickled: by its arguments; another process loads the models itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama_index.core.llms.function_calling import FunctionCallingLLM
from pydantic import SerializerFunctionWrapHandler, field_serializer, field_validator

from nudging_llm import BaseTemplate, ConfigError
from nudging_llm.frameworks.fields import NudgingFields


class Portable(NudgingFields, FunctionCallingLLM):
    """An LLM over two models that are named, so that another process can load them."""

    @field_validator("base_template", mode="before")
    @classmethod
    def _read_template(cls, given: Any) -> Any:
        """Also as ``to_dict`` writes it."""
        return BaseTemplate(given["template"], tuple(given["markers"])) if isinstance(given, Mapping) else given

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
