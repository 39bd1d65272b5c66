"""LangChain's standard suites on the starter pair, and on ``ChatHuggingFace`` over a local pipeline. No part of ``make test``.

cd integrations/langchain && python -m pytest tests/peers/standard_suites.py
"""

from __future__ import annotations

from typing import Any

import pytest
from langchain_huggingface import ChatHuggingFace
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from peers import hugging_face
from standard import ASSERT_VALUES, NudgingSuite

from nudging_llm.starter import folders


class _HuggingFace:
    """What it says that it can do, as far as a local pipeline goes."""

    @property
    def chat_model_class(self) -> type[ChatHuggingFace]:
        return ChatHuggingFace

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"llm": hugging_face().chat.llm}


class TestUnit(_HuggingFace, ChatModelUnitTests):
    pass


class TestIntegration(_HuggingFace, ChatModelIntegrationTests):
    pass


@pytest.mark.filterwarnings("ignore:ChatNudging. (api_key|max_retries) has no effect")
@pytest.mark.usefixtures("starter", "other_base")
class TestStarterPair(NudgingSuite):
    elsewhere = ASSERT_VALUES

    @property
    def chat_model_params(self) -> dict[str, Any]:
        models = {"base_model": "starter", "nudging_model": "starter"}
        return {**models, "dtype": "float32", "device": "cpu", "max_tokens": 64}

    @property
    def model_override_value(self) -> str:
        return str(folders().base)
