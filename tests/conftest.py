"""Fixtures: tiny random models for errors and plumbing, the starter pair for everything that claims to work."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nudging_llm import NudgingConfig, NudgingGenerator
from nudging_llm.testing.tiny import tiny_model, tiny_tokenizer


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


#: Questions of our own, for machines without the evaluation data.
OWN_QUESTIONS = [
    "Why do leaves change colour in autumn?",
    "A train leaves at 9:40 and arrives at 11:05. How long does it take?",
    "Write a short note to a neighbour about a lost cat.",
    "What is the difference between weather and climate?",
    "I have 3 boxes with 12 pencils each and give away 7 pencils. How many are left?",
    "Name three uses of salt besides cooking.",
    "How does a bicycle stay upright?",
    "Translate 'good morning' into French and Spanish.",
    "What should I check before buying a used car?",
    "Explain what a vector database does.",
    "List the planets of the solar system in order.",
    "Is a tomato a fruit or a vegetable?",
    "How many minutes are there in a week?",
    "Give me two ideas for a rainy afternoon with children.",
    "What causes the tides?",
    "Which is heavier, a kilogram of iron or a kilogram of feathers?",
    "How do I boil an egg?",
    "Who writes the laws in a parliamentary democracy?",
    "Suggest a name for a bakery near a river.",
    "What is the capital of Australia?",
    "Summarise the water cycle in two sentences.",
]


def data_folder() -> Path:
    return Path(os.environ.get("NUDGING_DATA", Path(__file__).parents[2] / "shared" / "data"))


def read_questions(file: str, count: int) -> list[str]:
    """The first questions of an evaluation file."""
    found = []
    with (data_folder() / file).open(encoding="utf-8") as lines:
        for line in lines:
            record = json.loads(line)
            text = record["question"] if "question" in record else record["prompt"]
            found.append(text)
            if len(found) == count:
                break
    return found
