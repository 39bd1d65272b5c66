"""Speed of nudging on the starter pair, side by side in one run. ``make bench`` runs it.

For every question, in turn and several times over: the base model alone by transformers' ``generate``, the base model alone
by our sessions, the nudging model alone, and nudged at several settings. Prints medians over questions and repetitions,
tokens per second and their ratio to ``generate``; and the exact counts: forwards and evaluated tokens per answer token.
Questions come from ``NUDGING_DATA`` (GSM8K and Vicuna) or, where there is none, from a list of our own.
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import time
from dataclasses import dataclass, field
from importlib.metadata import version

import torch
from rich.console import Console
from rich.table import Table

from nudging_llm import NudgingGenerator, Provenance
from nudging_llm.prompts import read_messages
from tests.conftest import OWN_QUESTIONS, data_folder, read_questions


@dataclass
class Row:
    """What one way of answering cost, over all questions and repetitions."""

    speed: list[float] = field(default_factory=list)  # tokens per second
    ratio: list[float] = field(default_factory=list)  # to ``generate``, same question, same repetition
    records: list[Provenance] = field(default_factory=list)


def base_generate(generator: NudgingGenerator, question: str, tokens: int) -> tuple[int, float]:
    """transformers' own loop on the base model: tokens written, seconds."""
    engine = generator.base
    prompt = engine.codec.bos_ids + engine.codec.encode(generator.base_template.render(read_messages(question)))
    ids = torch.tensor([prompt])
    started = time.perf_counter()
    with torch.inference_mode():
        out = engine.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False
        )
    return out.shape[1] - len(prompt), time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16")
    options = parser.parse_args()
    half = options.questions // 2
    questions = OWN_QUESTIONS[: options.questions]
    if data_folder().is_dir():
        questions = read_questions("gsm8k_test.jsonl", half) + read_questions("vicuna.jsonl", options.questions - half)

    generator = NudgingGenerator.starter(dtype=options.dtype)
    common = {"max_tokens": options.tokens}
    ways = {
        "base alone, sessions": lambda q: generator.stream_alone(
            "base", q, role_markers=False, repetition="off", **common
        ),
        "nudging model alone": lambda q: generator.stream_alone("nudging", q, **common),
        "nudged, K = 16 (default)": lambda q: generator.stream(q, **common),
        "nudged, K = 16, no drafts": lambda q: generator.stream(q, drafting=False, **common),
        "nudged, K = 8": lambda q: generator.stream(q, lookahead=8, **common),
        "nudged, K = 4": lambda q: generator.stream(q, lookahead=4, **common),
    }
    rows = {"base alone, generate": Row()} | {way: Row() for way in ways}
    base_generate(generator, questions[0], 8)  # warm up
    generator.generate(questions[0], max_tokens=8)
    for _ in range(options.repeat):
        for question in questions:
            tokens, seconds = base_generate(generator, question, options.tokens)
            plain = tokens / seconds
            rows["base alone, generate"].speed.append(plain)
            rows["base alone, generate"].ratio.append(1.0)
            for way, start in ways.items():
                generator.clear_cache()
                stream = start(question)
                for _ in stream:
                    pass
                record = stream.provenance
                rows[way].speed.append(record.tokens_per_second)
                rows[way].ratio.append(record.tokens_per_second / plain)
                rows[way].records.append(record)

    table = Table(
        title=f"Starter pair, {generator.base.dtype}, {len(questions)} questions × {options.repeat}, {options.tokens} tokens"
    )
    columns = (
        "",
        "tokens/s",
        "÷ generate",
        "base fwd/token",
        "nudging fwd/token",
        "drafted",
        "accepted",
        "overhead",
        "first piece s",
    )
    for column in columns:
        table.add_column(column, justify="left" if not column else "right")
    for way, row in rows.items():
        tokens = sum(r.n_tokens for r in row.records) or 1
        exact = [
            f"{sum(r.base.forwards for r in row.records) / tokens:.2f}",
            f"{sum(r.nudging.forwards for r in row.records) / tokens:.2f}",
            str(sum(r.base.drafted for r in row.records)),
            str(sum(r.base.accepted for r in row.records)),
            f"{sum(r.overhead_s for r in row.records) / (sum(r.total_s for r in row.records) or 1):.1%}",
            f"{statistics.median(r.first_piece_s or 0 for r in row.records):.2f}" if row.records else "",
        ]
        speed, ratio = statistics.median(row.speed), statistics.median(row.ratio)
        table.add_row(way, f"{speed:.1f}", f"{ratio:.2f}", *(exact if row.records else [""] * 6))
    Console(width=150).print(table)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    cpu = getattr(torch.cpu, "get_capabilities", dict)()
    features = [name for name in ("avx2", "avx512_bf16", "amx_bf16") if cpu.get(name)]
    print(f"{platform.machine()} {' '.join(features)}, {torch.get_num_threads()} threads, peak memory {peak:,.0f} MiB")
    print(
        ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers")),
        f"python {platform.python_version()}",
    )


if __name__ == "__main__":
    main()
