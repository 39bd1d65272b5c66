"""Speed of nudging on the starter pair against every other way to use its two models. ``make bench`` runs it.

For every question, several times over and in turn: the base model alone by transformers' ``generate`` (plain, with prompt
look-up, with the nudging model as its assistant), the nudging model alone, a plain nudging loop, ours at each setting, and
the token-level baselines where they can be had. Prints medians over questions and repetitions of the speed, of its ratio
to ``generate`` on the same question in the same repetition, and of the time to the first piece; and exact counts: forwards and
evaluated tokens per answer token. Speeds computed for a base model ten times as dear use those counts and say so.

Knows how to measure; leaves the other ways to ``baselines.py``, questions to ``questions.py``, drawing to ``plot.py``.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from transformers.utils import logging

from benchmarks import baselines
from benchmarks.questions import KINDS, questions
from nudging_llm import NudgingGenerator
from nudging_llm.text.messages import Messages

#: Settings of ours that are measured; the first is the default.
SETTINGS: dict[str, dict[str, Any]] = {
    "nudged, default": {},
    "nudged, default, no drafts": {"drafting": False},
    "nudged, end_check=lookahead": {"end_check": "lookahead"},
    "nudged, end_check=lookahead, no drafts": {"end_check": "lookahead", "drafting": False},
    "nudged, K = 4, end_check=lookahead": {"lookahead": 4, "end_check": "lookahead"},
}
PLAIN = "base alone, generate"
#: Ways that are measured in the first repetition only.
SLOW = {"nudged, naive loop, K = 16", "nudged, end_check=lookahead, no drafts"}


@dataclass(frozen=True)
class Answer:
    """What one answer cost."""

    tokens: int
    seconds: float
    first_s: float
    base_forwards: int = 0
    base_tokens: int = 0
    nudging_forwards: int = 0
    nudging_tokens: int = 0
    drafted: int = 0
    accepted: int = 0
    overhead_s: float | None = None


@dataclass
class Row:
    """What one way of answering cost, over all questions and repetitions; or why it could not be measured."""

    answers: list[Answer] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)  # of tokens per second, to PLAIN
    unavailable: str = ""


Way = Callable[[NudgingGenerator, Messages, int], Answer]


def theirs(way: Callable[[NudgingGenerator, Messages, int], baselines.Baseline]) -> Way:
    """A baseline as a way."""

    def answer(generator: NudgingGenerator, messages: Messages, tokens: int) -> Answer:
        found = way(generator, messages, tokens)
        return Answer(
            found.n_tokens,
            found.seconds,
            found.first_s or found.seconds,
            found.base_forwards,
            found.base_forward_tokens,
            found.nudging_forwards,
            found.nudging_forward_tokens,
        )

    return answer


def ours(alone: str | None = None, **options: Any) -> Way:
    """One of our settings as a way; from empty caches."""

    def answer(generator: NudgingGenerator, messages: Messages, tokens: int) -> Answer:
        generator.clear_cache()
        if alone:
            stream = generator.stream_alone(alone, messages, max_tokens=tokens, **options)  # type: ignore[arg-type]
        else:
            stream = generator.stream(messages, max_tokens=tokens, **options)
        for _ in stream:
            pass
        record = stream.provenance
        base, nudging = record.base, record.nudging
        return Answer(
            record.n_tokens,
            record.total_s,
            record.first_piece_s or record.total_s,
            base.forwards,
            base.forward_tokens,
            nudging.forwards,
            nudging.forward_tokens,
            base.drafted + nudging.drafted,
            base.accepted + nudging.accepted,
            record.overhead_s,
        )

    return answer


WAYS: dict[str, Way] = {
    PLAIN: theirs(baselines.base_generate),
    "base alone, generate, prompt look-up": theirs(baselines.base_prompt_lookup),
    "base alone, generate, assisted": theirs(baselines.base_assisted),
    "base alone, ours, no drafts": ours("base", drafting=False, role_markers=False, repetition="off"),
    "nudging model alone, generate": theirs(baselines.nudging_generate),
    "nudged, naive loop, K = 16": theirs(baselines.naive_nudging),
    **{name: ours(**options) for name, options in SETTINGS.items()},
    "ensemble, token by token": theirs(baselines.ensemble),
    "proxy tuning": theirs(baselines.proxy_tuning),
}


def measure(generator: NudgingGenerator, asked: list[Messages], repeat: int, tokens: int) -> dict[str, Row]:
    """All ways on all questions, in turn, ``repeat`` times; after one round to warm up."""
    rows = {name: Row() for name in WAYS}
    for name, way in WAYS.items():
        try:
            way(generator, asked[0], 8)
        except baselines.Unavailable as reason:
            rows[name].unavailable = str(reason)
    for number, messages in enumerate(track(asked * repeat, console=Console(stderr=True))):
        plain = 0.0
        for name, way in WAYS.items():
            if rows[name].unavailable or (name in SLOW and number >= len(asked)):
                continue
            answer = way(generator, messages, tokens)
            speed = answer.tokens / answer.seconds
            plain = speed if name == PLAIN else plain
            rows[name].answers.append(answer)
            rows[name].ratios.append(speed / plain)
    return rows


def summary(row: Row, generator: NudgingGenerator) -> dict[str, Any]:
    """One row's figures."""
    answers = row.answers
    if not answers:
        return {"unavailable": row.unavailable}
    total = sum(a.tokens for a in answers)
    per_token = {
        name: sum(getattr(a, name) for a in answers) / total
        for name in ("base_forwards", "base_tokens", "nudging_forwards", "nudging_tokens")
    }
    overheads = [a.overhead_s for a in answers if a.overhead_s is not None]
    return {
        "tokens_per_second": statistics.median(a.tokens / a.seconds for a in answers),
        "ratio": statistics.median(row.ratios),
        "ratio_quartiles": statistics.quantiles(row.ratios, n=4) if len(row.ratios) > 1 else None,
        **per_token,
        "drafted": sum(a.drafted for a in answers) / total,
        "accepted": sum(a.accepted for a in answers) / total,
        "overhead": sum(overheads) / sum(a.seconds for a in answers) if overheads else None,
        "first_s": statistics.median(a.first_s for a in answers),
        "tokens": total,
    }


def machine() -> str:
    """What the figures were measured on."""
    cpu = getattr(torch.cpu, "get_capabilities", dict)()
    features = " ".join(name for name in ("avx2", "avx512_bf16", "amx_bf16") if cpu.get(name))
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    return (
        f"{platform.machine()} {features}, {torch.get_num_threads()} threads; {versions}, python "
        f"{platform.python_version()}"
    )


_COLUMNS = (
    ("tokens/s", "tokens_per_second", ".1f"),
    ("÷ generate", "ratio", ".2f"),
    ("base fwd", "base_forwards", ".2f"),
    ("base tok", "base_tokens", ".2f"),
    ("nudging fwd", "nudging_forwards", ".2f"),
    ("nudging tok", "nudging_tokens", ".2f"),
    ("drafted", "drafted", ".2f"),
    ("accepted", "accepted", ".2f"),
    ("overhead", "overhead", ".1%"),
    ("first s", "first_s", ".2f"),
)


def table(figures: dict[str, dict[str, Any]], title: str) -> Table:
    """The figures to look at; forwards, evaluated tokens, drafted and accepted are per answer token."""
    found = Table(title=title)
    found.add_column("")
    for head, *_ in _COLUMNS:
        found.add_column(head, justify="right")
    for name, figure in figures.items():
        if "unavailable" in figure:
            found.add_row(name, f"not to be had: {figure['unavailable']}")
        else:
            cells = (("" if figure[key] is None else format(figure[key], form)) for _, key, form in _COLUMNS)
            found.add_row(name, *cells)
    return found


def computed(figures: dict[str, dict[str, Any]], dear: float = 10.0) -> dict[str, float]:
    """Ratio to the base model alone if one of its forwards cost ``dear`` forwards of the nudging model, whatever their
    lengths: from the counted forwards, at the draft lengths chosen for *this* pair."""
    return {
        name: dear / (figure["base_forwards"] * dear + figure["nudging_forwards"])
        for name, figure in figures.items()
        if name.startswith("nudged") and "unavailable" not in figure
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=4, help="of each kind")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16")
    parser.add_argument("--out", type=Path, help="write the figures here, as JSON")
    options = parser.parse_args()
    logging.set_verbosity_error()
    generator = NudgingGenerator.starter(dtype=options.dtype)
    asked = questions(options.questions)
    rows = measure(generator, asked, options.repeat, options.tokens)
    figures = {name: summary(row, generator) for name, row in rows.items()}
    title = (
        f"Starter pair, {generator.base.engine.dtype}, {len(asked)} questions ({', '.join(KINDS)}) × {options.repeat}, "
        f"{options.tokens} tokens"
    )
    console = Console(width=150)
    console.print(table(figures, title))
    ten = ", ".join(f"{name}: {ratio:.2f}" for name, ratio in computed(figures).items())
    console.print(f"Computed, not measured: ÷ base alone if a base forward cost ten nudging forwards. {ten}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    console.print(f"{machine()}; peak memory {peak:,.0f} MiB (the whole process, both models)")
    if options.out:
        record = {"title": title, "machine": machine(), "peak_mib": peak, "figures": figures}
        record["answers"] = {name: [asdict(answer) for answer in row.answers] for name, row in rows.items()}
        options.out.write_text(json.dumps(record, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
