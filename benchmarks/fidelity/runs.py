"""Asks every question at every setting, and keeps the answers in a file, so that a run that was cut off goes on where it was."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nudging_llm import NudgingConfig, NudgingGenerator, Result

from . import FidelityError
from .marking import Marks, Question

#: Options of ``NudgingConfig`` by name. The first setting, or the first that ``--settings`` names, is the reference.
SETTINGS: dict[str, dict[str, Any]] = {
    "K=16": {"lookahead": 16, "end_check": "lookahead"},
    "sentence": {"lookahead": 16, "end_check": "sentence"},
    "K=8": {"lookahead": 8, "end_check": "lookahead"},
    "K=4": {"lookahead": 4, "end_check": "lookahead"},
}


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
                results = generator.batch([question.text for question in todo], config=config)
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
