"""The command line: ``nudging ask``, ``nudging chat``, ``nudging view``, ``nudging fetch``.

The answer goes to stdout, everything else to stderr. Exit codes: 0 done, 1 an error of ours, 2 wrong usage, 130 Ctrl-C.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

try:
    import typer
    from rich.console import Console
except ImportError as error:
    sys.exit(f"The command line needs {error.name}: pip install 'nudging-llm[cli]'")

from .config import NudgingConfig
from .decoding.gates import GATES, default_threshold, gate_name
from .errors import NudgingError
from .provenance import Provenance

app = typer.Typer(
    add_completion=False, no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False, help=__doc__
)

_DEFAULT = NudgingConfig()
_GATE = gate_name(_DEFAULT.gate)
System = Annotated[str | None, typer.Option(help="System message.")]
_OWN = ", ".join(f"{default_threshold(gate):g} for {gate}" for gate in GATES)
GateName = Annotated[
    str, typer.Option("--gate", help=f"How the base model's certainty is measured: {', '.join(GATES)}.")
]
Threshold = Annotated[
    float | None,
    typer.Option(
        "--threshold", "-t", help="The gate's, γ for top1: nudge where the base model is less sure.", show_default=_OWN
    ),
]
Lookahead = Annotated[
    int, typer.Option("--lookahead", "-k", help="K: tokens that the nudging model completes per round.")
]
MaxTokens = Annotated[int, typer.Option("--max-tokens", "-n", help="Longest answer, in tokens.")]
Base = Annotated[str | None, typer.Option(help="Base model: hub id or folder. Default: the starter pair's.")]
Nudging = Annotated[str | None, typer.Option(help="Nudging model: hub id or folder. Default: the starter pair's.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")]
DType = Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")]
Paper = Annotated[bool, typer.Option("--paper", help="The released code's rules, heuristics included.")]
Html = Annotated[
    Path | None, typer.Option("--html", help="Write the answer, who wrote it and why, to this page.", dir_okay=False)
]
NoColor = Annotated[bool, typer.Option("--no-color", help="No colours; nudged words stay underlined.")]


@app.command()
def ask(
    question: Annotated[
        str | None, typer.Argument(help="The question. Text on stdin, unless that is a terminal, is added below it.")
    ] = None,
    system: System = None,
    gate: GateName = _GATE,
    threshold: Threshold = None,
    lookahead: Lookahead = _DEFAULT.lookahead,
    max_tokens: MaxTokens = _DEFAULT.max_tokens,
    base: Base = None,
    nudging: Nudging = None,
    device: Device = "auto",
    dtype: DType = "auto",
    paper: Paper = False,
    alone: Annotated[Literal["base", "nudging"] | None, typer.Option(help="That model alone, for comparison.")] = None,
    json_schema: Annotated[
        Path | None, typer.Option(help="File with a JSON schema: the answer is JSON that fits it.", dir_okay=False)
    ] = None,
    choice: Annotated[list[str] | None, typer.Option(help="The answer is one of these: give it several times.")] = None,
    regex: Annotated[str | None, typer.Option(help="Pattern that the whole answer matches.")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the whole record as JSON instead of the text.")
    ] = False,
    html: Html = None,
    no_color: NoColor = False,
) -> None:
    """Ask one question."""
    if sum(map(bool, (json_schema, choice, regex))) > 1:
        raise typer.BadParameter("--json-schema, --choice and --regex each ask for a form of answer: give one of them.")
    messages = _messages(system, _question(question))
    form = {"json_schema": _schema(json_schema), "choices": choice or None, "regex": regex}
    generator = _generator(base, nudging, device, dtype, _config(paper, gate, threshold, lookahead, max_tokens))
    record = _answer(generator, messages, alone, no_color, as_json, form)
    if as_json:
        print(record.to_json(indent=2))
    if html:
        _write_page(html, {messages[-1]["content"]: record})
    if record.finish_reason == "cancelled":
        raise typer.Exit(130)


@app.command()
def chat(
    system: System = None,
    gate: GateName = _GATE,
    threshold: Threshold = None,
    lookahead: Lookahead = _DEFAULT.lookahead,
    max_tokens: MaxTokens = _DEFAULT.max_tokens,
    base: Base = None,
    nudging: Nudging = None,
    device: Device = "auto",
    dtype: DType = "auto",
    paper: Paper = False,
    no_color: NoColor = False,
) -> None:
    """Talk: one line at a time; an empty line or Ctrl-D ends. Ctrl-C stops an answer."""
    generator = _generator(base, nudging, device, dtype, _config(paper, gate, threshold, lookahead, max_tokens))
    messages = [{"role": "system", "content": system}] if system else []
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "")
        except (EOFError, KeyboardInterrupt, RuntimeError, AttributeError):  # the last two: stdin is closed
            return
        if not line.strip():
            return
        messages.append({"role": "user", "content": line})
        record = _answer(generator, messages, None, no_color)
        messages.append({"role": "assistant", "content": record.text})


@app.command()
def view(
    files: Annotated[list[Path], typer.Argument(help="Records, as 'nudging ask --json' prints them.", dir_okay=False)],
    html: Html = None,
    no_color: NoColor = False,
) -> None:
    """Show recorded answers: in the terminal, or with --html on one page, side by side."""
    records = {str(file): _record(file) for file in files}
    if html:
        _write_page(html, records)
        return
    from .views.terminal import TerminalView, summary

    console = Console(no_color=no_color or None, highlight=False)
    terminal = TerminalView(console)
    for name, record in records.items():
        if len(records) > 1:
            console.print(f"{name}:", markup=False, soft_wrap=True)
        for piece in record.pieces:
            terminal.write(piece)
        terminal.end()
        console.print(summary(record), soft_wrap=not console.is_terminal)


@app.command()
def fetch() -> None:
    """Download, verify and convert the starter pair (about 330 MB; 0.8 GB on disk)."""
    from .starter import fetch as fetch_pair

    try:
        pair = fetch_pair()
    except NudgingError as error:
        _fail(error)
    print(f"base     {pair.base}\nnudging  {pair.nudging}")


def main() -> None:
    """Entry point of the ``nudging`` command."""
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        # Bytes and characters that the locale cannot express are no reason to stop.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)


def _answer(
    generator: Any,
    messages: list[dict[str, str]],
    alone: str | None,
    no_color: bool,
    silent: bool = False,
    form: Mapping[str, Any] | None = None,
) -> Provenance:
    """Stream one answer to the terminal; Ctrl-C stops it and keeps what there is."""
    from .views.terminal import TerminalView, summary

    view = TerminalView(Console(no_color=no_color or None, highlight=False))
    try:
        asked = form or {}
        stream = generator.stream_alone(alone, messages, **asked) if alone else generator.stream(messages, **asked)
        try:
            for piece in stream:
                if not silent:
                    view.write(piece)
        except KeyboardInterrupt:
            pass  # the stream has ended itself; what was written stays
        finally:
            view.end()
    except NudgingError as error:
        _fail(error)
    record: Provenance = stream.provenance
    notes = Console(stderr=True, no_color=no_color or None, highlight=False)
    notes.print(summary(record), soft_wrap=not notes.is_terminal)
    return record


def _question(argument: str | None) -> str:
    piped = "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.read().strip()
    question = "\n\n".join(part for part in (argument, piped) if part)
    if not question:
        print("Ask something: nudging ask 'What is the capital of France?', or pipe the question in.", file=sys.stderr)
        raise typer.Exit(2)
    return question


def _schema(file: Path | None) -> Any:
    if file is None:
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        print(f"nudging: --json-schema {file}: {error}", file=sys.stderr)
        raise typer.Exit(2) from None


def _record(file: Path) -> Provenance:
    try:
        return Provenance.from_dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        print(f"nudging: {file} is no record of an answer: {error}", file=sys.stderr)
        raise typer.Exit(2) from None


def _write_page(file: Path, records: Mapping[str, Provenance]) -> None:
    from .views.html import page

    try:
        file.write_text(page(records), encoding="utf-8")
    except OSError as error:
        print(f"nudging: --html {file}: {error}", file=sys.stderr)
        raise typer.Exit(2) from None
    print(f"written: {file}", file=sys.stderr)


def _messages(system: str | None, question: str) -> list[dict[str, str]]:
    start = [{"role": "system", "content": system}] if system else []
    return [*start, {"role": "user", "content": question}]


def _config(paper: bool, gate: str, threshold: float | None, lookahead: int, max_tokens: int) -> NudgingConfig:
    make = NudgingConfig.paper if paper else NudgingConfig
    try:
        return make(gate=gate, threshold=threshold, lookahead=lookahead, max_tokens=max_tokens)
    except NudgingError as error:
        _fail(error, code=2)


def _generator(base: str | None, nudging: str | None, device: str, dtype: str, config: NudgingConfig) -> Any:
    if bool(base) != bool(nudging):
        print("Give both --base and --nudging, or neither for the starter pair.", file=sys.stderr)
        raise typer.Exit(2)
    from transformers.utils import logging

    from .generator import NudgingGenerator

    logging.disable_progress_bar()
    try:
        if base and nudging:
            return NudgingGenerator.from_pretrained(base, nudging, config, device=device, dtype=dtype)
        return NudgingGenerator.starter(config, device=device, dtype=dtype)
    except NudgingError as error:
        _fail(error)


def _fail(error: NudgingError, code: int = 1) -> NoReturn:
    print(f"nudging: {error}", file=sys.stderr)
    raise typer.Exit(code) from None


if __name__ == "__main__":
    main()
