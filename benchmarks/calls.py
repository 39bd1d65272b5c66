"""Forced tool calls with one integer that the question names: who gets it right, and what the grammar costs and saves.

    python -m benchmarks.calls [--dtype bfloat16] [--markdown]

The models are small: this shows what a grammar guarantees (the form, always) and what it does not (the value).
"""

from __future__ import annotations

import argparse
from typing import Any

from rich.console import Console
from rich.table import Table
from transformers import logging

from nudging_llm import NudgingGenerator


def tool(name: str, argument: str, what: str, about: str) -> dict[str, Any]:
    """A function with one integer argument."""
    parameters = {
        "type": "object",
        "properties": {argument: {"type": "integer", "description": about}},
        "required": [argument],
    }
    return {"name": name, "description": what, "parameters": parameters}


SET_TIMER = tool("set_timer", "minutes", "Set a kitchen timer.", "how many minutes")
ORDER = tool("order_pizzas", "count", "Order pizzas.", "how many pizzas")
VOLUME = tool("set_volume", "level", "Set the volume of the speaker.", "the level, 0 to 100")
PAGE = tool("open_page", "number", "Open a page of the book.", "the page's number")
FLOOR = tool("go_to_floor", "floor", "Move the lift.", "the floor to go to")
BOOK = tool("book_table", "people", "Book a table.", "for how many people")

#: Question, function, the integer that it should be called with. The first group names it in digits.
CASES: list[tuple[str, str, dict[str, Any], int]] = [
    ("in digits", "Set a timer for 15 minutes.", SET_TIMER, 15),
    ("in digits", "Set the timer to 7 minutes, please.", SET_TIMER, 7),
    ("in digits", "Order 4 pizzas.", ORDER, 4),
    ("in digits", "I would like to order 12 pizzas for the party.", ORDER, 12),
    ("in digits", "Set the volume to 30.", VOLUME, 30),
    ("in digits", "Turn the volume up to 85", VOLUME, 85),
    ("in digits", "Open page 214.", PAGE, 214),
    ("in digits", "Go to page 99 of the book.", PAGE, 99),
    ("in digits", "Take me to floor 6.", FLOOR, 6),
    ("in digits", "Book a table for 8 people.", BOOK, 8),
    ("in words", "Set a timer for ten minutes.", SET_TIMER, 10),
    ("in words", "Order three pizzas.", ORDER, 3),
    ("in words", "Book a table for two.", BOOK, 2),
    ("in words", "Take me to the fifth floor.", FLOOR, 5),
    ("to be worked out", "Set a timer for half an hour.", SET_TIMER, 30),
    ("to be worked out", "Book a table for me, my wife and our two children.", BOOK, 4),
    ("to be worked out", "Set the volume to half of 60.", VOLUME, 30),
    ("among others", "There are 20 of us and 3 dogs. Order 9 pizzas.", ORDER, 9),
    ("among others", "At 6 o'clock set a timer for 25 minutes.", SET_TIMER, 25),
    ("among others", "I am on page 12, open page 40.", PAGE, 40),
]
WRITERS = ("nudged", "base alone", "nudging model alone")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options = parser.parse_args()
    logging.set_verbosity_error()
    generator = NudgingGenerator.starter(dtype=options.dtype)
    generator.generate("warm up", tools=[SET_TIMER], tool_choice="required", max_tokens=60)

    rows, right = [], dict.fromkeys(WRITERS, 0)
    tokens = forced = forwards = 0
    grammar = seconds = 0.0
    for kind, question, function, wanted in CASES:
        asked: dict[str, Any] = {"tools": [function], "tool_choice": function["name"], "max_tokens": 80}
        results = {
            "nudged": generator.generate(question, **asked),
            "base alone": generator.generate_alone("base", question, **asked),
            "nudging model alone": generator.generate_alone("nudging", question, **asked),
        }
        cells = []
        for writer, result in results.items():
            [call] = result.calls
            [value] = call.arguments.values()
            right[writer] += value == wanted
            cells.append(f"{value}" + ("" if value == wanted else " ✗"))
        record = results["nudged"].provenance
        tokens, forced = tokens + record.n_tokens, forced + record.grammar_tokens
        forwards += record.base.forwards + record.nudging.forwards
        grammar, seconds = grammar + record.grammar_s, seconds + record.base.seconds + record.nudging.seconds
        rows.append([kind, question, str(wanted), *cells])
    rows.append(["", "right", str(len(CASES)), *(str(right[writer]) for writer in WRITERS)])

    head = ["the number is", "question", "wanted", *WRITERS]
    if options.markdown:
        print("\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows]))
    else:
        table = Table(*head)
        for row in rows:
            table.add_row(*row)
        Console(width=140).print(table)
    print(
        f"Nudged: {tokens} tokens, {forced} of them by the grammar without a forward; {forwards} forwards; "
        f"grammar {1000 * grammar / tokens:.2f} ms per token, {grammar / seconds:.1%} of the time in forwards."
    )


if __name__ == "__main__":
    main()
