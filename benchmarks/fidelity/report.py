"""Compares the answers of several settings with those of the first: statistics of paired answers, and two tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher
from itertools import takewhile

from rich.console import Console
from rich.table import Table

from .runs import Answer

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


# -- tables -----------------------------------------------------------------------------------------------------------


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
