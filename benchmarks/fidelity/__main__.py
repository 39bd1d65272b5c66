"""``python -m benchmarks.fidelity``: reads the options, makes the run, prints the report."""

from __future__ import annotations

import argparse
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console
from transformers.utils import logging

from benchmarks import fidelity
from nudging_llm import NudgingConfig, NudgingError, NudgingGenerator

from . import FidelityError
from .marking import read_questions
from .report import report
from .runs import SETTINGS, Store, collect


def versions_line() -> str:
    """The machine and the software, as ``benchmarks.speed`` prints them."""
    cpu = getattr(torch.cpu, "get_capabilities", dict)()
    features = [name for name in ("avx2", "avx512_bf16", "amx_bf16") if cpu.get(name)]
    software = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    return f"{' '.join([platform.machine(), *features])}, {software} python {platform.python_version()}"


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
    parser = argparse.ArgumentParser(
        "python -m benchmarks.fidelity",
        description=fidelity.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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
