"""What the frameworks' layers cost: the same prompts through the core's ``stream``, ``ChatNudging`` and ``NudgingLLM``, side by
side.

    python -m benchmarks.integrations [--dtype bfloat16] [--questions 4] [--repeats 5] [--tokens 48]

Each repetition asks each question of every path, in an order that turns, with empty caches. The ratio is of whole times; "outside"
is exact for each answer: the time until the stream was used up, less the time that the decoder worked on it. Also the
time of importing each integration and what it stands on, each in a fresh process.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from langchain_core.messages import convert_to_messages
from llama_index.core.llms import ChatMessage
from rich.console import Console
from rich.table import Table
from transformers import logging

from langchain_nudging import ChatNudging, ProvenanceCallbackHandler, get_provenance
from llama_index.llms.nudging import NudgingLLM, collect_provenance
from llama_index.llms.nudging import get_provenance as get_raw_provenance
from nudging_llm import NudgingGenerator, Provenance

from .questions import questions


def paths(generator: NudgingGenerator, tokens: int) -> dict[str, Callable[[Any], Provenance]]:
    """Ways to have one question answered, each to its end."""
    model = ChatNudging(generator=generator, max_tokens=tokens)
    llm = NudgingLLM(generator=generator, max_tokens=tokens)

    def core(question: Any) -> Provenance:
        stream = generator.stream(question, max_tokens=tokens)
        for _ in stream:
            pass
        return stream.provenance

    def messages(question: Any) -> Any:
        return convert_to_messages([question] if isinstance(question, str) else question)

    def stream(question: Any) -> Provenance:
        for chunk in model.stream(messages(question)):
            last = chunk
        return _record(last)

    def handled(question: Any) -> Provenance:
        handler = ProvenanceCallbackHandler(lambda piece, answer: None)
        for chunk in model.stream(messages(question), config={"callbacks": [handler]}):
            last = chunk
        return _record(last)

    def invoke(question: Any) -> Provenance:
        return _record(model.invoke(messages(question)))

    def chat_messages(question: Any) -> list[ChatMessage]:
        asked = [{"role": "user", "content": question}] if isinstance(question, str) else question
        return [ChatMessage(role=message["role"], content=message["content"]) for message in asked]

    def stream_chat(question: Any) -> Provenance:
        for response in llm.stream_chat(chat_messages(question)):
            last = response
        return _present(get_raw_provenance(last))

    def collected(question: Any) -> Provenance:
        with collect_provenance(lambda piece, call: None) as calls:
            for _ in llm.stream_chat(chat_messages(question)):
                pass
        return _present(calls.last)

    def chat(question: Any) -> Provenance:
        return _present(get_raw_provenance(llm.chat(chat_messages(question))))

    return {
        "core, stream": core,
        "ChatNudging.stream": stream,
        "ChatNudging.stream with a ProvenanceCallbackHandler": handled,
        "ChatNudging.invoke": invoke,
        "NudgingLLM.stream_chat": stream_chat,
        "NudgingLLM.stream_chat within collect_provenance": collected,
        "NudgingLLM.chat": chat,
    }


def _record(message: Any) -> Provenance:
    return _present(get_provenance(message))


def _present(record: Provenance | None) -> Provenance:
    assert record is not None
    return record


def import_seconds(module: str) -> float:
    """Median of five fresh processes."""
    code = f"import sys, time; t = time.perf_counter(); import {module}; d = time.perf_counter() - t"
    code += "; assert not {'torch', 'transformers'} & set(sys.modules); print(d)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True) for _ in range(5)]
    return statistics.median(float(run.stdout) for run in runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--questions", type=int, default=4, help="of each kind")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=48)
    args = parser.parse_args()
    logging.disable_progress_bar()
    generator = NudgingGenerator.starter(dtype=args.dtype)
    ways = paths(generator, args.tokens)
    names = list(ways)
    times: dict[str, list[float]] = {name: [] for name in names}
    outside: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(args.repeats + 1):  # the first warms up
        for i, question in enumerate(questions(args.questions)):
            turn = (repeat + i) % len(names)
            for name in names[turn:] + names[:turn]:
                generator.clear_cache()
                began = time.perf_counter()
                record = ways[name](question)
                took = time.perf_counter() - began
                if repeat:
                    times[name].append(took)
                    outside[name].append((took - record.total_s) / took)
    first = names[0]
    table = Table(title=f"{args.dtype}, {len(times[first])} answers each, {args.tokens} tokens")
    for column in ("", "s per answer, median", "÷ core (quartiles)", "outside the decoder"):
        table.add_column(column, justify="left" if not column else "right")
    for name in names:
        low, middle, high = statistics.quantiles([a / b for a, b in zip(times[name], times[first], strict=True)], n=4)
        row = f"{middle:.3f} ({low:.3f} … {high:.3f})" if name != first else "1"
        table.add_row(name, f"{statistics.median(times[name]):.3f}", row, f"{statistics.median(outside[name]):.2%}")
    console = Console(width=120)
    console.print(table)
    for module in (
        "langchain_core.language_models.chat_models",
        "langchain_nudging",
        "llama_index.core.llms.function_calling",
        "llama_index.llms.nudging",
    ):
        console.print(f"import {module}: {import_seconds(module):.2f} s, without torch")


if __name__ == "__main__":
    main()
