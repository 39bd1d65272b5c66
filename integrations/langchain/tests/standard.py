"""LangChain's standard integration tests for ``ChatNudging``: what it says that it can do, over whatever models."""

from __future__ import annotations

from typing import Any

from langchain_tests.integration_tests import ChatModelIntegrationTests

from langchain_nudging import ChatNudging

#: Tests that assert what an answer says: they need capable models, or scripted ones.
ASSERT_VALUES = (
    "test_tool_calling",
    "test_tool_calling_async",
    "test_tool_calling_with_no_arguments",  # one call and no more
    "test_agent_loop",
    "test_bind_runnables_as_tools",
    "test_unicode_tool_call_integration",
)


class NudgingSuite(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[ChatNudging]:
        return ChatNudging

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def supported_usage_metadata_details(self) -> dict[Any, list[Any]]:
        return {"invoke": ["cache_read_input"], "stream": ["cache_read_input"]}

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> Any:
        model = self.chat_model_class(**self.chat_model_params)
        question = "What is there to see in a town by the sea, on a day with a lot of wind?"
        model.invoke(question)
        if not stream:
            return model.invoke(question)
        full: Any = None
        for chunk in model.stream(question):
            full = chunk if full is None else full + chunk
        return full
