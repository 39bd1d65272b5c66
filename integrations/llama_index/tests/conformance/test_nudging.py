"""``NudgingLLM`` in the suite: it passes every check. Then what the suite cannot ask of every LLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from models import pair, save
from suite import LLMConformance

from llama_index.llms.nudging import NudgingLLM
from nudging_llm import NudgingConfig, NudgingGenerator


class TestNudgingLLM(LLMConformance):
    """Over two random models, of which both write."""

    def make(self, **options: Any) -> NudgingLLM:
        config = NudgingConfig(max_tokens=30, threshold=0.3)
        generator = NudgingGenerator.from_pretrained(
            pair(2, False), pair(57, True), config, dtype="float32", device="cpu"
        )
        return NudgingLLM(generator=generator, **options)

    def make_from_files(self, folder: Path) -> NudgingLLM:
        return NudgingLLM(
            base_model=save(folder, 2, False),
            nudging_model=save(folder, 57, True),
            max_tokens=30,
            threshold=0.3,
            dtype="float32",
            device="cpu",
        )

    def models(self, llm: Any) -> list[tuple[Any, Any]]:
        generator = llm._loaded()
        return [(engine.model, engine.tokenizer) for engine in (generator.base, generator.nudging)]
