"""Questions to measure with: of three kinds, from the evaluation data where there is some, else of our own.

The third kind is made from the first: a context of several texts, one of which is to be quoted, as RAG answers do.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from nudging_llm.text.messages import Messages

KINDS = ("GSM8K", "Vicuna", "quoting RAG")
_TEXTS = 4  # in a context

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


def questions(each: int) -> list[Messages]:
    """``each`` questions of each kind, kinds in turn."""
    sums, open_ones, texts = OWN_QUESTIONS[:each], OWN_QUESTIONS[each : 2 * each], OWN_QUESTIONS
    if data_folder().is_dir():
        sums, open_ones = read_questions("gsm8k_test.jsonl", each), read_questions("vicuna.jsonl", each)
        texts = read_questions("gsm8k_test.jsonl", each + _TEXTS)
    quoting = [_quote(texts[at : at + _TEXTS], at % _TEXTS) for at in range(each)]
    return [question for kinds in zip(sums, open_ones, quoting, strict=True) for question in kinds]


def data_folder() -> Path:
    """Where the evaluation files are: ``NUDGING_DATA``, or beside the checkout."""
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


def _quote(texts: list[str], which: int) -> Messages:
    context = "\n\n".join(f"[{number}] {text}" for number, text in enumerate(texts, start=1))
    start = " ".join(texts[which].split()[:4])
    return [
        {"role": "system", "content": f"Answer from this context.\n\n{context}"},
        {"role": "user", "content": f'Quote the text that begins with "{start}", word for word.'},
    ]
