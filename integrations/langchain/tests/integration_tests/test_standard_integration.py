"""LangChain's standard integration tests, sockets disabled, twice.

``TestScripted`` runs all of them: the real class, prompts, decoder, grammar and parser over scripted next-token predictions,
because some tests assert values (``{"input": 3}``, Chinese names, one call and no more) that need a capable model.

``TestStarterPair`` runs what holds by construction, on the real models; the tests in its ``elsewhere`` are those that assert
values.
"""

from __future__ import annotations

from typing import Any

import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests

from langchain_nudging import ChatNudging
from nudging_llm import starter
from nudging_llm.testing.scripted import rules, scripted_pair

pytestmark = pytest.mark.filterwarnings("ignore:ChatNudging. (api_key|max_retries) has no effect")


def call(name: str, arguments: str) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


SCRIPT = rules(
    (r"It's sunny", "It is sunny in San Francisco."),
    (r"weather in San Francisco", call("get_weather", '{"location": "San Francisco, CA"}')),
    (r"magic_function_no_args", call("magic_function_no_args", "{}")),
    (r"magic_function\(3\)", call("magic_function", '{"input": 3}')),
    (r"Pirate greeting", call("greeting_generator", '{"answer_style": "Pirate"}')),
    (r"你好啊集团", call("unicode_customer", '{"customer_name": "你好啊集团", "description": "A technology company"}')),
    (
        r"こんにちは株式会社",
        call("unicode_customer", '{"customer_name": "こんにちは株式会社", "description": "A company"}'),
    ),
    (r"What is 1 \+ 2|What is 3 \+ 4", "3"),
    (r"JSON with", '{"setup": "Why did the cat sit down?", "punchline": "It was tired."}'),
    (r"joke about cats", call("Joke", '{"setup": "Why did the cat sit down?", "punchline": "It was tired."}')),
)
GENERATOR = scripted_pair(SCRIPT)


class _Nudging(ChatModelIntegrationTests):
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


class TestScripted(_Nudging):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"generator": GENERATOR}

    @property
    def supports_model_override(self) -> bool:
        return False  # models that were given loaded cannot be changed for a call; see TestStarterPair


@pytest.mark.real
@pytest.mark.usefixtures("starter", "other_base")
class TestStarterPair(_Nudging):
    elsewhere = (
        "test_tool_calling",
        "test_tool_calling_async",
        "test_tool_calling_with_no_arguments",  # one call and no more
        "test_agent_loop",
        "test_bind_runnables_as_tools",
        "test_unicode_tool_call_integration",
    )

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "base_model": "starter",
            "nudging_model": "starter",
            "dtype": "float32",
            "device": "cpu",
            "max_tokens": 64,
        }

    @property
    def model_override_value(self) -> str:
        return str(starter.folders().base)
