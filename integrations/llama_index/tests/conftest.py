"""What all of these tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from llama_index.core import Settings
from llama_index.core.embeddings import MockEmbedding

from llama_index.llms.nudging import NudgingLLM
from nudging_llm import NudgingConfig, NudgingGenerator
from nudging_llm.testing.tiny import tiny_model, tiny_tokenizer


@pytest.fixture(scope="session")
def generator() -> NudgingGenerator:
    """Two random models, of which both write; room for the prompts of engines and agents, one token a byte."""
    base = tiny_model(7, max_position_embeddings=16384), tiny_tokenizer(False)
    nudging = tiny_model(57, max_position_embeddings=16384), tiny_tokenizer(True)
    config = NudgingConfig(max_tokens=30, threshold=0.3)
    return NudgingGenerator.from_pretrained(base, nudging, config, dtype="float32", device="cpu")


@pytest.fixture
def llm(generator: NudgingGenerator) -> NudgingLLM:
    return NudgingLLM(generator=generator)


@pytest.fixture
def settings(llm: NudgingLLM) -> Iterator[NudgingLLM]:
    """LlamaIndex's global settings use ``llm`` and embeddings that cost nothing."""
    before = Settings._llm, Settings._embed_model, Settings._tokenizer
    Settings.llm, Settings.embed_model, Settings.tokenizer = llm, MockEmbedding(8), llm.tokenizer_fn
    yield llm
    Settings._llm, Settings._embed_model, Settings._tokenizer = before


@pytest.fixture(scope="session")
def starter() -> NudgingLLM:
    """The starter pair; while it lives, every other object over the pair uses the same weights."""
    return NudgingLLM.starter(max_tokens=24, dtype="float32", device="cpu")
