"""Structured output: what is asked for as a call that the grammar forces, and objects that grow while it is written."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from llama_index.core.base.llms.types import ChatResponse
from llama_index.core.program.utils import FlexibleModel, create_flexible_model
from pydantic import BaseModel, ValidationError

from nudging_llm import ConfigError
from nudging_llm.structured.type_schemas import schema_of
from nudging_llm.tools.json_values import partial_object

from .responses import DELTAS

#: What LlamaIndex's programs decide, not their callers.
_DECIDED = ("tools", "tool_required", "tool_choice", "allow_parallel_tool_calls", "parallel_tool_calls")


def structured_options(output_cls: Any, llm_kwargs: Mapping[str, Any] | None) -> dict[str, Any]:
    """The keywords of a call whose answer is an ``output_cls``.

    Raises:
        ConfigError: it is no pydantic class.
    """
    if not (isinstance(output_cls, type) and issubclass(output_cls, BaseModel)):
        raise ConfigError(f"output_cls={output_cls!r}: give a pydantic class.")
    schema = schema_of(output_cls)
    name = re.sub(r"[^a-zA-Z0-9_-]", "_", str(schema.pop("title", output_cls.__name__)))[:64]
    function = {"name": name, "description": schema.pop("description", ""), "parameters": {"type": "object", **schema}}
    rest = {key: value for key, value in (llm_kwargs or {}).items() if key not in _DECIDED}
    tool = {"type": "function", "function": function}
    return {**rest, "tools": [tool], "tool_choice": name, "allow_parallel_tool_calls": False}


class StructuredReader:
    """Objects from the responses of such a call, as far as they have come."""

    def __init__(self, output_cls: type[BaseModel]) -> None:
        self._cls = output_cls
        self._flexible = create_flexible_model(output_cls)
        self._text = ""
        self._given: dict[str, Any] | None = None
        self._last: BaseModel | None = None

    def more(self, response: ChatResponse) -> Iterator[BaseModel | FlexibleModel]:
        """What a streamed response makes of the object: one of ``output_cls`` if it fits already, else a flexible one.

        The last response gives the whole object.

        Raises:
            ValueError: it does not fit, as the class checks what its schema does not say.
        """
        if response.message.additional_kwargs:  # the last
            if (found := self.whole(response)) != self._last:
                yield found
            return
        self._text += "".join(delta["arguments"] for delta in response.additional_kwargs.get(DELTAS, ()))
        value = partial_object(self._text) if self._text else None
        if isinstance(value, dict) and value and value != self._given:
            self._given = value
            try:
                self._last = self._cls.model_validate(value)
            except ValidationError:
                self._last = self._flexible.model_validate(value)
            yield self._last

    def whole(self, response: ChatResponse) -> BaseModel:
        """The object of a finished answer.

        Raises:
            ValueError: as above, or the answer was left unfinished.
        """
        calls = [block for block in response.message.blocks if block.block_type == "tool_call"]
        if not calls:
            raise ValueError(
                f"The answer holds no whole {self._cls.__name__}: it was left, or a number in it is none that Python can read: "
                f"{response.message.content!r:.500}."
            )
        arguments = calls[0].tool_kwargs
        try:
            return self._cls.model_validate_json(json.dumps(arguments))
        except ValidationError as error:
            raise ValueError(
                f"The answer fits the schema of {self._cls.__name__}, which says less than the class checks: {error}"
            ) from error
