"""LangChain's standard unit tests."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_tests.unit_tests import ChatModelUnitTests

from langchain_nudging import ChatNudging

pytestmark = pytest.mark.filterwarnings("ignore:ChatNudging. (api_key|max_retries) has no effect")


class TestStandardUnit(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[ChatNudging]:
        return ChatNudging

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"base_model": "some/base", "nudging_model": "some/instruct"}

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True
