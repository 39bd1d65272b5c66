"""Write the documentation's pictures: real answers as the terminal shows them, as a score and as a page.

``docs/ask.svg``, ``docs/score.png`` and, with Chromium, ``docs/view-*.png``.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright
from rich.console import Console
from transformers.utils import logging

from nudging_llm import NudgingGenerator
from nudging_llm.views import plots
from nudging_llm.views.html import page
from nudging_llm.views.terminal import TerminalView, summary

QUESTION = "How do vaccines protect us from disease?"
ANOTHER = "Why do leaves change colour in autumn?"
DOCS = Path(__file__).parents[1] / "docs"


def main() -> None:
    logging.disable_progress_bar()
    console = Console(record=True, force_terminal=True, width=96, file=io.StringIO(), highlight=False)
    console.print(f'[bold]$ nudging ask "{QUESTION}" --threshold 0.3 --max-tokens 60[/]')
    generator = NudgingGenerator.starter()
    stream = generator.stream(QUESTION, threshold=0.3, max_tokens=60)
    view = TerminalView(console)
    for piece in stream:
        view.write(piece)
    console.print()
    console.print(summary(stream.provenance))
    console.save_svg(str(DOCS / "ask.svg"), title="nudging")
    plots.score(stream.provenance).savefig(DOCS / "score.png", dpi=130)
    print(stream.text, summary(stream.provenance), sep="\n\n")
    for piece in stream.pieces[:12]:
        print(
            f"{piece.text!r:16} {piece.source:8} {piece.reason:18} {piece.base_top_prob:.2f}  {piece.base_top_text!r}"
        )
    pages(generator)


def pages(generator: NudgingGenerator) -> None:
    """The HTML view: three answers side by side, and one on a phone with the slider moved; light and dark."""
    generator.clear_cache()
    nudged = generator.generate(ANOTHER, max_tokens=80).provenance
    alone = {
        f"{name} alone": generator.generate_alone(model, ANOTHER, max_tokens=80).provenance for model, name in NAMES
    }
    folder = Path(tempfile.mkdtemp())
    (folder / "wide.html").write_text(page({"nudged": nudged, **alone}, ANOTHER), encoding="utf-8")
    (folder / "narrow.html").write_text(page(nudged, ANOTHER), encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            for name, width, gamma in (("wide", 1200, None), ("narrow", 400, "0.6")):
                tab: Page = browser.new_page(viewport={"width": width, "height": 700}, color_scheme=scheme)
                tab.goto((folder / f"{name}.html").as_uri())
                if gamma is not None:
                    tab.locator("input[type=range]").fill(gamma)
                tab.locator("article").first.locator(".n").nth(3).hover()
                target = f"view-{scheme}.png" if name == "wide" else f"view-narrow-{scheme}.png"
                tab.screenshot(path=DOCS / target, full_page=True)
        browser.close()


NAMES = (("base", "base model"), ("nudging", "nudging model"))


if __name__ == "__main__":
    main()
