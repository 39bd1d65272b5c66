"""What a faster setting costs: the same questions at several settings, each compared with a reference setting.

Answers are paired by question, so that a difference between settings shows on few questions: which ones were gained and lost,
how likely that is by chance, and how far the texts agree. Knows the settings, the questions and the statistics. Leaves the
answering to ``NudgingGenerator``, the rules of IFEval to PyPI's ``if-verifiable`` (where it is installed), and seconds to
``benchmarks.speed``; forwards are counted here because they are exact.

Questions come from ``NUDGING_DATA`` (GSM8K, SVAMP, IFEval). IFEval's sentence and word rules need NLTK's ``punkt_tab``; the
copy inside llama-index-core is used where there is one.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import platform
import random
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from difflib import SequenceMatcher
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.table import Table
from transformers.utils import logging

from nudging_llm import NudgingConfig, NudgingError, NudgingGenerator, Result
from tests.conftest import data_folder

#: Options of ``NudgingConfig`` by name. The first setting, or the first that ``--settings`` names, is the reference.
SETTINGS: dict[str, dict[str, Any]] = {
    "K=16": {"lookahead": 16, "end_check": "lookahead"},
    "sentence": {"lookahead": 16, "end_check": "sentence"},
    "K=8": {"lookahead": 8, "end_check": "lookahead"},
    "K=4": {"lookahead": 4, "end_check": "lookahead"},
}

T = TypeVar("T")
Marks = tuple[bool, ...]  # one per thing asked: per instruction in IFEval, else a single one


class FidelityError(Exception):
    """This run cannot be made as asked; the message says why."""


class SkippedError(FidelityError):
    """One kind of question cannot be marked here."""


# -- questions --------------------------------------------------------------------------------------------------------


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


# -- answers ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """One answer, at one setting; ``forwards`` by model, ``n_tokens`` in tokens of the base model."""

    kind: str
    id: str
    setting: str
    text: str
    n_tokens: int
    forwards: dict[str, int]
    nudge_ratio: float
    finish_reason: str
    marks: Marks

    @classmethod
    def of(cls, question: Question, setting: str, result: Result) -> Answer:
        record = result.provenance
        return cls(
            kind=question.kind,
            id=question.id,
            setting=setting,
            text=result.text,
            n_tokens=record.n_tokens,
            forwards={"base": record.base.forwards, "nudging": record.nudging.forwards},
            nudge_ratio=record.nudge_ratio,
            finish_reason=record.finish_reason,
            marks=question.mark(result.text),
        )

    @property
    def correct(self) -> bool:
        return all(self.marks)


class Store:
    """The answers so far, and the JSON file that keeps them (none if ``path`` is None).

    Args:
        path: written whole after each batch, and never found half written.
        models: what answers: name, dtype and device by model.
        settings: the whole configuration by setting.
        resume: go on with the answers in the file.

    Raises:
        FidelityError: the file holds answers of another run.
    """

    def __init__(
        self,
        path: Path | None,
        models: dict[str, str],
        settings: Mapping[str, NudgingConfig],
        versions: str,
        resume: bool = False,
    ) -> None:
        self._path, self._models = path, models
        self._settings = {name: config.model_dump(mode="json") for name, config in settings.items()}
        self._answers: dict[tuple[str, str, str], Answer] = {}
        self.versions = [versions]
        if path is not None and path.exists():
            if not resume:
                raise FidelityError(f"{path} exists. Add --resume to go on with it, or name another file.")
            self._read(json.loads(path.read_text(encoding="utf-8")))

    def _read(self, stored: dict[str, Any]) -> None:
        if stored["models"] != self._models:
            raise FidelityError(f"{self._path} was made with {stored['models']}; this run has {self._models}.")
        for name, config in stored["settings"].items():
            now = self._settings.setdefault(name, config)
            if changed := [key for key in config if key in now and now[key] != config[key]]:
                old, new = ({key: values[key] for key in changed} for values in (config, now))
                raise FidelityError(f"{self._path} was made with {name} as {old}; this run has {new}.")
        self.versions = list(dict.fromkeys([*stored["versions"], *self.versions]))
        for item in stored["answers"]:
            del item["correct"]
            self.add(Answer(**item | {"marks": tuple(item["marks"])}))

    def add(self, answer: Answer) -> None:
        self._answers[answer.kind, answer.id, answer.setting] = answer

    def get(self, question: Question, setting: str) -> Answer | None:
        return self._answers.get((question.kind, question.id, setting))

    def save(self) -> None:
        if self._path is None:
            return
        answers = [asdict(answer) | {"correct": answer.correct} for answer in self._answers.values()]
        content = {"models": self._models, "versions": self.versions, "settings": self._settings, "answers": answers}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_name(self._path.name + ".part")
        part.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        os.replace(part, self._path)


def collect(
    generator: NudgingGenerator,
    questions: Sequence[Question],
    settings: Mapping[str, NudgingConfig],
    size: int,
    store: Store,
) -> dict[str, list[Answer]]:
    """Every question at every setting, by setting, in the order of the questions; what ``store`` holds is not asked again.

    All settings answer a batch before the next batch begins, so that a run that is cut off can be compared too.
    """
    found: dict[str, list[Answer]] = {name: [] for name in settings}
    for start in range(0, len(questions), size):
        batch = questions[start : start + size]
        for name, config in settings.items():
            if todo := [question for question in batch if store.get(question, name) is None]:
                began = time.perf_counter()
                generator.clear_cache()  # so that the forwards do not depend on what was asked before
                results = generator.batch([question.text for question in todo], **dict(config))
                for question, result in zip(todo, results, strict=True):
                    store.add(Answer.of(question, name, result))
                store.save()
                done, seconds = start + len(batch), time.perf_counter() - began
                print(f"{batch[0].kind} {done}/{len(questions)} {name}: {seconds:.1f} s", file=sys.stderr)
            for question in batch:
                answer = store.get(question, name)
                assert answer is not None
                found[name].append(replace(answer, marks=question.mark(answer.text)))  # by today's rules
    return found


# -- statistics -------------------------------------------------------------------------------------------------------


def wilson(correct: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's interval of a share; 95 % unless ``z`` says otherwise."""
    if not total:
        return 0.0, 1.0
    share, weight = correct / total, z * z / total
    centre = share + weight / 2
    half = math.sqrt(weight * (share * (1 - share) + weight / 4))
    return max(0.0, (centre - half) / (1 + weight)), min(1.0, (centre + half) / (1 + weight))


def sign_test(gained: int, lost: int) -> float:
    """McNemar's test, exact and two-sided: how often chance alone makes the two counts at least this unequal."""
    total = gained + lost
    tail = sum(math.comb(total, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**total)


def common_prefix(text: str, reference: str) -> float:
    """Length of the beginning that both share, ÷ length of the reference; 1 if both are empty."""
    if not reference:
        return float(not text)
    same = (a == b for a, b in zip(text, reference, strict=False))
    return sum(takewhile(bool, same)) / len(reference)


def similarity(text: str, reference: str) -> float:
    """difflib's ratio over words: 2 × words in common, in order, ÷ words in both."""
    return SequenceMatcher(None, reference.split(), text.split(), autojunk=False).ratio()


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


# -- report -----------------------------------------------------------------------------------------------------------


def mark_cells(answers: Sequence[Answer], reference: Sequence[Answer]) -> dict[str, str]:
    """How many are right, by column; what compares is empty for the reference itself."""
    correct, marks = sum(a.correct for a in answers), [mark for a in answers for mark in a.marks]
    low, high = wilson(correct, len(answers))
    instructions = len(marks) > len(answers) and len({a.kind for a in answers}) == 1  # IFEval, not pooled
    cells = {
        "correct": f"{correct}/{len(answers)}",
        "accuracy": f"{correct / len(answers):.1%}",
        "95 %": f"{low:.1%} … {high:.1%}",
        "instructions": f"{mean(marks):.1%} of {len(marks)}" if instructions else "",
    }
    if answers is reference:
        return cells | dict.fromkeys(("gained", "lost", "p (sign test)"), "")
    pairs = list(zip(answers, reference, strict=True))
    gained, lost = sum(a.correct > r.correct for a, r in pairs), sum(a.correct < r.correct for a, r in pairs)
    return cells | {"gained": f"+{gained}", "lost": f"−{lost}", "p (sign test)": f"{sign_test(gained, lost):.3f}"}


def text_cells(answers: Sequence[Answer], reference: Sequence[Answer]) -> dict[str, str]:
    """How the texts agree and what they cost, by column; what compares is empty for the reference itself."""
    cells = {}
    for name, compare in (("same text", str.__eq__), ("same start", common_prefix), ("similarity", similarity)):
        values = [compare(a.text, r.text) for a, r in zip(answers, reference, strict=True)]
        cells[name] = "" if answers is reference else f"{mean(values):.1%}"
    tokens = sum(a.n_tokens for a in answers)
    cells["nudge ratio"] = f"{mean([a.nudge_ratio for a in answers]):.1%}"
    cells["tokens"] = f"{tokens / len(answers):.1f}"
    for reason in ("stop", "length", "repetition"):
        cells[reason] = f"{mean([a.finish_reason == reason for a in answers]):.0%}"
    for model in ("base", "nudging"):
        cells[f"{model} fwd/token"] = f"{sum(a.forwards[model] for a in answers) / (tokens or 1):.2f}"
    return cells


def table(
    title: str,
    cells: Callable[[Sequence[Answer], Sequence[Answer]], dict[str, str]],
    groups: Mapping[str, Mapping[str, Sequence[Answer]]],
) -> Table:
    """One row per kind and setting; the first setting is the reference."""
    made = Table("", "setting", title=title)
    for kind, by_setting in groups.items():
        made.add_section()
        reference = next(iter(by_setting.values()))
        for name, answers in by_setting.items():
            row = cells(answers, reference)
            if not made.rows:
                for column in row:
                    made.add_column(column, justify="right")
            made.add_row(kind, name, *row.values())
    return made


def report(console: Console, title: str, groups: dict[str, dict[str, list[Answer]]]) -> None:
    """Both tables, with a pooled row per setting where there are several kinds."""
    if len(groups) > 1:
        names = next(iter(groups.values()))
        groups = groups | {"all": {name: [a for group in groups.values() for a in group[name]] for name in names}}
    console.print(table(f"{title}: marks", mark_cells, groups))
    console.print(table(f"{title}: text and cost", text_cells, groups))


def versions_line() -> str:
    """The machine and the software, as ``benchmarks.speed`` prints them."""
    cpu = getattr(torch.cpu, "get_capabilities", dict)()
    features = [name for name in ("avx2", "avx512_bf16", "amx_bf16") if cpu.get(name)]
    software = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    return f"{' '.join([platform.machine(), *features])}, {software} python {platform.python_version()}"


# -- command line -----------------------------------------------------------------------------------------------------


def positive(text: str) -> int:
    """An argparse type."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}: give a whole number from 1")
    return int(text)


def chosen(names: str) -> list[str]:
    """An argparse type: names of settings."""
    found = list(dict.fromkeys(name.strip() for name in names.split(",")))
    if unknown := [name for name in found if name not in SETTINGS]:
        raise argparse.ArgumentTypeError(f"no setting {', '.join(unknown)}; there are {', '.join(SETTINGS)}")
    return found


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=positive, default=20, help="of each kind, evenly spaced over its file")
    parser.add_argument("--tokens", type=positive, default=160, help="longest answer")
    parser.add_argument("--settings", type=chosen, default=list(SETTINGS), metavar="NAME,…", help=", ".join(SETTINGS))
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16")
    parser.add_argument("--batch", type=positive, default=8, metavar="SIZE", help="questions asked at once")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="keep every answer here")
    parser.add_argument("--resume", action="store_true", help="go on with the answers in --out")
    options = parser.parse_args()
    if options.resume and options.out is None:
        parser.error("--resume needs --out")
    return options


def run(options: argparse.Namespace) -> None:
    settings = {name: NudgingConfig(max_tokens=options.tokens, **SETTINGS[name]) for name in options.settings}
    kinds = list(read_questions(options.questions))
    generator = NudgingGenerator.starter(dtype=options.dtype)
    models = {
        part: f"{engine.name}, {engine.dtype}, {engine.device.type}".replace("torch.", "")
        for part, engine in (("base", generator.base.engine), ("nudging", generator.nudging.engine))
    }
    store = Store(options.out, models, settings, versions_line(), options.resume)
    groups = {questions[0].kind: collect(generator, questions, settings, options.batch, store) for questions in kinds}
    title = f"Starter pair, {generator.base.engine.dtype}, {options.tokens} tokens, reference {options.settings[0]}"
    report(Console(width=150), title, groups)
    print(*store.versions, sep="\n")


def main() -> None:
    logging.disable_progress_bar()
    try:
        run(read_options())
    except (FidelityError, NudgingError) as error:
        sys.exit(f"fidelity: {error}")
    except KeyboardInterrupt:
        sys.exit("fidelity: stopped; --resume goes on with what is in --out")


if __name__ == "__main__":
    main()
