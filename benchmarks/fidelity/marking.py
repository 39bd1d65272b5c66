"""Questions of the evaluation data, and how an answer to each is marked: by its last number, or by IFEval's instructions.

Knows texts only; leaves the answering to ``runs.py``.
"""

from __future__ import annotations

import importlib.util
import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.questions import data_folder

from . import FidelityError, SkippedError

T = TypeVar("T")
Marks = tuple[bool, ...]  # one per thing asked: per instruction in IFEval, else a single one


@dataclass(frozen=True)
class Question:
    """A question and how its answer is marked."""

    kind: str
    id: str
    text: str
    mark: Callable[[str], Marks]


def read_questions(count: int) -> Iterator[list[Question]]:
    """``count`` questions of each kind; a kind that cannot be marked here is left out, and a printed line says so."""
    for kind, (file, read) in KINDS.items():
        path = data_folder() / file
        if not path.is_file():
            raise FidelityError(f"{path} does not exist. Set NUDGING_DATA to the folder of the evaluation files.")
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        try:
            yield read(kind, spaced(rows, count))
        except SkippedError as error:
            print(f"{kind} skipped: {error}")


def spaced(rows: Sequence[T], count: int) -> list[T]:
    """``count`` rows, evenly spaced over all; all of them if there are fewer."""
    count = min(count, len(rows))
    return [rows[i * len(rows) // count] for i in range(count)]


def last_number_questions(kind: str, rows: Sequence[Mapping[str, Any]]) -> list[Question]:
    """Questions whose answer is right if the last number in it is the expected one."""

    def marker(expected: Decimal | None) -> Callable[[str], Marks]:
        return lambda text: (last_number(text) == expected,)

    return [Question(kind, row["id"], row["question"], marker(last_number(row["answer"]))) for row in rows]


# A minus sign after a digit, letter or bracket is a subtraction or a hyphen.
_NUMBER = re.compile(
    r"(?P<sign>(?<![\w)])[-−])?\$?(?P<digits>(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|(?<!\w)\.[0-9]+)"
)


def last_number(text: str) -> Decimal | None:
    """The last number in a text, without ``$`` and the commas between thousands; None if there is none."""
    numbers = list(_NUMBER.finditer(text))
    if not numbers:
        return None
    number = Decimal(numbers[-1]["digits"].replace(",", ""))
    return -number if numbers[-1]["sign"] else number


def ifeval_questions(kind: str, rows: Sequence[Mapping[str, Any]]) -> list[Question]:
    """Questions marked by strict IFEval: one mark per instruction.

    Raises:
        SkippedError: the checkers or their data are not installed.
    """
    check = ifeval_checker()

    def marker(row: Mapping[str, Any]) -> Callable[[str], Marks]:
        return lambda text: check(row, text)

    return [Question(kind, str(row["key"]), row["prompt"], marker(row)) for row in rows]


def ifeval_checker() -> Callable[[Mapping[str, Any], str], Marks]:
    """if-verifiable's strict marks of a text, given a row of ``ifeval.jsonl``; the same text has always the same marks.

    Raises:
        SkippedError: the checkers or their data are not installed.
    """
    try:
        import langdetect
        import nltk
        from if_verifiable import IFEvalSample, evaluate_output_for_sample
    except ImportError as error:
        raise SkippedError(f"no if-verifiable ({error}). With Python ≥ 3.11: pip install if-verifiable") from error
    if (packaged := packaged_nltk_data()) is not None:
        nltk.data.path.append(str(packaged))
    try:
        nltk.word_tokenize("One. Two.")
    except LookupError as error:
        raise SkippedError(
            "NLTK has no punkt_tab. Install llama-index-core, which holds it, or set NLTK_DATA."
        ) from error
    langdetect.DetectorFactory.seed = 0  # it samples

    def check(row: Mapping[str, Any], text: str) -> Marks:
        fields = ("key", "prompt", "instruction_id_list", "kwargs")
        random.seed(row["key"])  # two prompts ask for "#" and "!", for which the checker draws a letter
        results, _ = evaluate_output_for_sample("ifeval", IFEvalSample(**{name: row[name] for name in fields}), text)
        if not results:  # an empty answer: the package returns no marks
            return (False,) * len(row["instruction_id_list"])
        return tuple(result.strict_pass for result in results)

    return check


def packaged_nltk_data() -> Path | None:
    """The NLTK data inside llama-index-core, found without importing it; None if it is not installed."""
    try:
        spec = importlib.util.find_spec("llama_index.core")
    except ModuleNotFoundError:
        return None
    folder = Path(spec.origin).parent / "_static" / "nltk_cache" if spec and spec.origin else None
    return folder if folder and folder.is_dir() else None


KINDS: dict[str, tuple[str, Callable[[str, Sequence[Mapping[str, Any]]], list[Question]]]] = {
    "gsm8k": ("gsm8k_test.jsonl", last_number_questions),
    "svamp": ("svamp.jsonl", last_number_questions),
    "ifeval": ("ifeval.jsonl", ifeval_questions),
}
