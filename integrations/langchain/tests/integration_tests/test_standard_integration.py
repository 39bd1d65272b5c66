"""LangChain's standard integration tests, sockets disabled, twice.

``TestScripted`` runs all of them: the real class, prompts, decoder, grammar and parser over scripted next-token predictions,
because some tests assert values (``{"input": 3}``, Chinese names, one call and no more) that need a capable model.

``TestRandomPair`` runs what holds by construction, on random models that are loaded from disk; the tests in its ``elsewhere``
are those that assert values. ``tests/peers/standard_suites.py`` runs the same on the starter pair.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from standard import ASSERT_VALUES, NudgingSuite

from nudging_llm.testing.scripted import rules, scripted_pair
from nudging_llm.testing.tiny import tiny_model, tiny_tokenizer

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


class TestScripted(NudgingSuite):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"generator": GENERATOR}

    @property
    def supports_model_override(self) -> bool:
        return False  # models that were given loaded cannot be changed for a call; see TestRandomPair


@pytest.mark.usefixtures("folders")
class TestRandomPair(NudgingSuite):
    elsewhere = ASSERT_VALUES
    paths: ClassVar[dict[str, str]]

    @pytest.fixture(scope="class")
    def folders(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        folder = tmp_path_factory.mktemp("models")
        type(self).paths = {name: save(folder / name, seed) for name, seed in (("base", 7), ("nudging", 57))}

    @property
    def chat_model_params(self) -> dict[str, Any]:
        models = {"base_model": self.paths["base"], "nudging_model": self.paths["nudging"]}
        return {**models, "dtype": "float32", "device": "cpu", "max_tokens": 160}

    @property
    def model_override_value(self) -> str:
        return self.paths["nudging"]


def save(folder: Path, seed: int) -> str:
    """A random model with its tokenizer, on disk."""
    tiny_model(seed, max_position_embeddings=16384).save_pretrained(folder)
    tiny_tokenizer(chat=True).save_pretrained(folder)
    return str(folder)
