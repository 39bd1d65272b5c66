"""What all of these tests share."""

from __future__ import annotations

from collections.abc import Iterator

import llama_index.core
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


@pytest.fixture(autouse=True)
def _same_settings() -> Iterator[None]:
    """Every test finds LlamaIndex's global settings as the first one did, the tokenizer that its utilities count with included."""
    before = dict(vars(Settings)), llama_index.core.global_tokenizer
    yield
    vars(Settings).clear()
    vars(Settings).update(before[0])
    llama_index.core.global_tokenizer = before[1]


@pytest.fixture
def settings(llm: NudgingLLM) -> NudgingLLM:
    """LlamaIndex's global settings use ``llm`` and embeddings that cost nothing."""
    Settings.llm, Settings.embed_model, Settings.tokenizer = llm, MockEmbedding(8), llm.tokenizer_fn
    return llm


@pytest.fixture(scope="session")
def starter() -> NudgingLLM:
    """The starter pair; while it lives, every other object over the pair uses the same weights."""
    return NudgingLLM.starter(max_tokens=24, dtype="float32", device="cpu")
