"""Write ``docs/ask.svg`` and ``docs/score.png``: one real answer as the terminal shows it, and as a score."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console
from transformers.utils import logging

from nudging_llm import NudgingGenerator
from nudging_llm.views import plots
from nudging_llm.views.terminal import TerminalView, summary

QUESTION = "How do vaccines protect us from disease?"


def main() -> None:
    logging.disable_progress_bar()
    console = Console(record=True, force_terminal=True, width=96, file=io.StringIO(), highlight=False)
    console.print(f'[bold]$ nudging ask "{QUESTION}" --threshold 0.3 --max-tokens 60[/]')
    stream = NudgingGenerator.starter().stream(QUESTION, threshold=0.3, max_tokens=60)
    view = TerminalView(console)
    for piece in stream:
        view.write(piece)
    console.print()
    console.print(summary(stream.provenance))
    docs = Path(__file__).parents[1] / "docs"
    console.save_svg(str(docs / "ask.svg"), title="nudging")
    plots.score(stream.provenance).savefig(docs / "score.png", dpi=130)
    print(stream.text, summary(stream.provenance), sep="\n\n")
    for piece in stream.pieces[:12]:
        print(
            f"{piece.text!r:16} {piece.source:8} {piece.reason:18} {piece.base_top_prob:.2f}  {piece.base_top_text!r}"
        )


if __name__ == "__main__":
    main()
