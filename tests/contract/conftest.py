"""The layers and the ways to ask them: every test of the contract runs over all that it names."""

from __future__ import annotations

import pytest

from nudging_llm import NudgingConfig, NudgingGenerator
from nudging_llm.testing.tiny import tiny_model, tiny_tokenizer
from tests.sampling import SAMPLE

from .layers import LAYERS, Layer

#: A sample asks for the whole answer, and awaits its parts: the two ways that have least in common.
WAYS = ("ask", "astream") if SAMPLE else ("ask", "stream", "aask", "astream")


@pytest.fixture(params=LAYERS)
def layer(request: pytest.FixtureRequest) -> type[Layer]:
    """The core, LangChain, LlamaIndex."""
    return LAYERS[request.param]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """The whole answer or its parts, waited for or awaited."""
    return str(request.param)


@pytest.fixture(scope="session")
def random_pair() -> NudgingGenerator:
    """Two random models, of which both write. Nothing is kept between answers, so equal questions have equal records."""
    base = tiny_model(7, max_position_embeddings=16384), tiny_tokenizer(False)
    nudging = tiny_model(57, max_position_embeddings=16384), tiny_tokenizer(True)
    config = NudgingConfig(max_tokens=20, threshold=0.3)
    return NudgingGenerator.from_pretrained(base, nudging, config, dtype="float32", device="cpu", cache_slots=0)
