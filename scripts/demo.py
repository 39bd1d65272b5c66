"""Three real questions, three ways: nudged, the base model alone, the nudging model alone. ``make demo`` runs it."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.rule import Rule
from transformers.utils import logging

from nudging_llm import NudgingConfig, NudgingError, NudgingGenerator
from nudging_llm.views.terminal import TerminalView, summary

#: From NASA's page "Mars: Facts" (public domain), shortened: what a retriever would put into the prompt.
PARAGRAPH = (
    "Mars has two small moons, Phobos and Deimos, that may be captured asteroids. They are potato-shaped because they have "
    "too little mass for gravity to make them spherical. The moons get their names from the horses that pulled the chariot "
    "of the Greek god of war, Ares. Phobos, the innermost and larger moon, is heavily cratered, with deep grooves on its "
    "surface. It is slowly moving towards Mars and will crash into the planet or break apart in about 50 million years."
)
QUESTIONS = [
    ("A question", "How do vaccines protect us from disease?"),
    ("A small sum", "A farmer has 12 hens. Each hen lays 5 eggs a week. How many eggs does he collect in 2 weeks?"),
    ("A question about a retrieved paragraph", f"{PARAGRAPH}\n\nWhat will happen to Phobos?"),
]


def main() -> None:
    console = Console(highlight=False)
    logging.disable_progress_bar()
    try:
        generator = NudgingGenerator.starter(NudgingConfig(max_tokens=72))
    except NudgingError as error:
        sys.exit(f"demo: {error}")
    console.print(f"base model     {generator.base.name}, {generator.base.engine.dtype}".replace("torch.", ""))
    console.print(f"nudging model  {generator.nudging.name}, {generator.nudging.engine.dtype}".replace("torch.", ""))
    console.print("Words of the nudging model are [underline bright_magenta]underlined[/].")
    for title, question in QUESTIONS:
        console.print()
        console.print(Rule(title, align="left"))
        console.print(question, style="bold", markup=False)
        for label, stream in (
            ("nudged", generator.stream(question)),
            ("base model alone", generator.stream_alone("base", question)),
            ("nudging model alone", generator.stream_alone("nudging", question)),
        ):
            generator.clear_cache()  # so that the speeds can be compared
            console.print(f"\n[bold cyan]{label}[/]")
            view = TerminalView(console)
            for piece in stream:
                view.write(piece)
            view.end()
            console.print(summary(stream.provenance), soft_wrap=not console.is_terminal)
    console.print("\nTry your own: .venv/bin/nudging ask 'Why is the sky blue?'", markup=False)


if __name__ == "__main__":
    main()
