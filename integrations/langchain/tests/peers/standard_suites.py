"""LangChain's standard suites on ``ChatHuggingFace`` over a local pipeline. No part of ``make test``: it is there to be compared with.

cd integrations/langchain && python -m pytest tests/peers/standard_suites.py
"""

from __future__ import annotations

from typing import Any

from langchain_huggingface import ChatHuggingFace
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from peers import hugging_face


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
