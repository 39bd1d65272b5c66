"""Fixtures: tiny random models for errors and plumbing, the starter pair for everything that claims to work."""

from __future__ import annotations

import pytest

from benchmarks.questions import OWN_QUESTIONS, data_folder, read_questions
from nudging_llm import NudgingConfig, NudgingGenerator
from nudging_llm.testing.tiny import tiny_model, tiny_tokenizer

__all__ = ["OWN_QUESTIONS", "data_folder", "read_questions"]  # also from here, for tests


@pytest.fixture(scope="session")
def tiny_pair() -> tuple:
    return (tiny_model(7), tiny_tokenizer(False)), (tiny_model(57), tiny_tokenizer(True))


@pytest.fixture
def tiny(tiny_pair) -> NudgingGenerator:
    return NudgingGenerator.from_pretrained(*tiny_pair, NudgingConfig(max_tokens=60), dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def starter() -> NudgingGenerator:
    """The starter pair in float32, where identity is exact."""
    return NudgingGenerator.starter(dtype="float32", device="cpu")
