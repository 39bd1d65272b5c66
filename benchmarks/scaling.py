"""How the cost of nudging grows: with the answer, with requests at a time, with requests in a row. ``make bench`` runs it.

Four experiments on the starter pair, each a few lines of figures; every comparison is made within one run:

- *again*: time to the first piece of a prompt of 1,000 tokens, then of the same prompt again, and with another question;
- *long*: seconds per token around token 200 and around token 2,000 of one answer; cost of the record;
- *together*: tokens per second of ``batch`` against one request after the other;
- *flat*: the process's memory over 200 requests.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import psutil
from rich.console import Console

from benchmarks.questions import questions
from benchmarks.speed import machine
from nudging_llm import NudgingGenerator

_CONSOLE = Console(width=150)


def again(generator: NudgingGenerator) -> None:
    """A shared context of 1,000 tokens is evaluated once."""
    facts = (f"Room {n} of the museum shows {n * 7} paintings and {n + 3} statues." for n in itertools.count(1))
    context = ""
    while len(generator.base.tokenizer.encode(context)) < 1000:
        context += next(facts) + " "

    def first_piece(question: str) -> tuple[float, int]:
        messages = [{"role": "system", "content": context}, {"role": "user", "content": question}]
        with generator.stream(messages, max_tokens=8) as stream:
            next(stream)
            record = stream.provenance
        assert record.first_piece_s is not None
        return record.first_piece_s, record.base.prompt_tokens_reused

    rows: dict[str, list[float]] = {"first time": [], "again": [], "another question": []}
    for _ in range(3):
        generator.clear_cache()
        rows["first time"].append(first_piece("Which room has most statues?")[0])
        rows["again"].append(first_piece("Which room has most statues?")[0])
        seconds, reused = first_piece("How many paintings are in room 2?")
        rows["another question"].append(seconds)
    middle = {name: statistics.median(seconds) for name, seconds in rows.items()}
    shares = ", ".join(f"{name} {value:.3f} s ({value / middle['first time']:.1%})" for name, value in middle.items())
    _CONSOLE.print(f"again: to the first piece, prompt of 1,000 tokens: {shares}; {reused} base tokens reused")


def long(generator: NudgingGenerator) -> None:
    """One answer of 2,150 tokens, without guesses: small models go in circles, which guesses would make cheap."""
    generator.clear_cache()
    options = {"repetition": "off", "role_markers": False, "stop_on": "both", "threshold": 0.25, "drafting": False}
    stream = generator.stream("Tell a very long story about a river.", max_tokens=2150, **options)
    at: list[float] = []  # seconds when each token was written
    for piece in stream:
        at += [piece.elapsed_s] * piece.n_tokens
    started = time.perf_counter()
    record = stream.provenance
    text = record.to_json()
    recorded = time.perf_counter() - started
    windows = {
        middle: (at[middle + 100] - at[middle - 100]) / 200 for middle in (200, 1000, 2000) if len(at) > middle + 100
    }
    cost = ", ".join(f"{1000 * s:.1f} ms at {middle}" for middle, s in windows.items())
    ratio = f"; at 2,000 ÷ at 200: {windows[2000] / windows[200]:.2f}" if 2000 in windows else ""
    _CONSOLE.print(
        f"long: per token {cost}{ratio}; {record.n_tokens} tokens, overhead outside forwards "
        f"{record.overhead_s / record.total_s:.2%}; whole record and its JSON ({len(text):,} characters) "
        f"{1000 * recorded:.0f} ms = {recorded / record.total_s:.2%}"
    )


def together(generator: NudgingGenerator) -> None:
    """Requests at a time, against one after the other with and without drafts."""
    asked = questions(6)[:16]

    def speed(run: Callable[[], list]) -> float:
        generator.clear_cache()
        started = time.perf_counter()
        results = run()
        return sum(result.provenance.n_tokens for result in results) / (time.perf_counter() - started)

    def one_by_one(**options: object) -> list:
        found = []
        for messages in asked[:8]:
            generator.clear_cache()
            found.append(generator.generate(messages, max_tokens=64, **options))
        return found

    rows: dict[str, list[float]] = {}
    for _ in range(3):
        ways: dict[str, Callable[[], list]] = {
            "one by one": one_by_one,
            "one by one, no drafts": lambda: one_by_one(drafting=False),
            **{f"batch of {n}": lambda n=n: generator.batch(asked[:n], max_tokens=64) for n in (2, 4, 8, 16)},
        }
        for name, way in ways.items():
            rows.setdefault(name, []).append(speed(way))
    single = statistics.median(rows["one by one"])
    found = ((name, statistics.median(speeds)) for name, speeds in rows.items())
    _CONSOLE.print(
        "together: " + ", ".join(f"{name} {value:.1f} tok/s ({value / single:.2f} ×)" for name, value in found)
    )


def flat(generator: NudgingGenerator) -> None:
    """Resident memory after 20, 100 and 200 requests."""
    process = psutil.Process()
    seen = []
    for n in range(1, 201):
        generator.generate(f"Name something that comes {n} to a box.", max_tokens=16)
        if n in (20, 100, 200):
            seen.append(f"{process.memory_info().rss / 2**20:,.0f} MiB after {n}")
    _CONSOLE.print("flat: " + ", ".join(seen))


PARTS = {"again": again, "together": together, "long": long, "flat": flat}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16")
    parser.add_argument("--parts", default=",".join(PARTS), help=", ".join(PARTS))
    options = parser.parse_args()
    generator = NudgingGenerator.starter(dtype=options.dtype)
    generator.generate("Say hello.", max_tokens=16)
    _CONSOLE.print(f"Starter pair, {generator.base.engine.dtype}; {machine()}")
    for part in options.parts.split(","):
        PARTS[part](generator)


if __name__ == "__main__":
    main()
