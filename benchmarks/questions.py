"""Questions to measure with: of three kinds, from the evaluation data where there is some, else of our own.

The third kind is made from the first: a context of several texts, one of which is to be quoted, as RAG answers do.
"""

from __future__ import annotations

from nudging_llm.text.messages import Messages
from tests.conftest import OWN_QUESTIONS, data_folder, read_questions

KINDS = ("GSM8K", "Vicuna", "quoting RAG")
_TEXTS = 4  # in a context


def questions(each: int) -> list[Messages]:
    """``each`` questions of each kind, kinds in turn."""
    sums, open_ones, texts = OWN_QUESTIONS[:each], OWN_QUESTIONS[each : 2 * each], OWN_QUESTIONS
    if data_folder().is_dir():
        sums, open_ones = read_questions("gsm8k_test.jsonl", each), read_questions("vicuna.jsonl", each)
        texts = read_questions("gsm8k_test.jsonl", each + _TEXTS)
    quoting = [_quote(texts[at : at + _TEXTS], at % _TEXTS) for at in range(each)]
    return [question for kinds in zip(sums, open_ones, quoting, strict=True) for question in kinds]


def _quote(texts: list[str], which: int) -> Messages:
    context = "\n\n".join(f"[{number}] {text}" for number, text in enumerate(texts, start=1))
    start = " ".join(texts[which].split()[:4])
    return [
        {"role": "system", "content": f"Answer from this context.\n\n{context}"},
        {"role": "user", "content": f'Quote the text that begins with "{start}", word for word.'},
    ]
