"""``ChatNudging`` and ``ChatHuggingFace`` in the same checks: what is seen is what the documentation says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from behaviours import CHECKS
from peers import hugging_face, nudging

#: Check → what is seen to go wrong (a pattern), and what it means, for the table. The others pass.
FAILS = {
    "ainvoke": ("NotImplementedError", "`NotImplementedError`"),
    "astream": ("AttributeError.*async_client", "`AttributeError`"),
    "the_event_loop_is_free": ("NotImplementedError", "there is no `ainvoke`"),
    "max_tokens": ("characters with max_tokens=3", "ignored"),
    "stop": ("it goes on", "ignored by `invoke`"),
    "usage": ("TypeError.*NoneType", "`usage_metadata` is None"),
    "a_call_can_be_forced": ("ValueError", "tools do not reach the model"),
    "structured_output": ("NotImplementedError", "`NotImplementedError` for a pydantic class"),
    "a_misspelt_option_is_refused": ("it is taken", "taken without a word"),
    "caches_tell_models_apart": ("one key", "one key for all: another model's answer comes out of the cache"),
    "a_stream_that_is_left_computes_no_more": ("forwards after it was left", "its thread computes to the end"),
}
DOCUMENT = Path(__file__).parents[4] / "docs" / "comparison.md"
NAMES = {check.__name__: check for check in CHECKS}


def table() -> str:
    rows = ["| check | ChatNudging | ChatHuggingFace 1.2.3 | what it does instead |", "|---|---|---|---|"]
    for name, check in NAMES.items():
        outcome, instead = ("fails", FAILS[name][1]) if name in FAILS else ("passes", "")
        rows.append(f"| {check.__doc__} | passes | {outcome} | {instead} |")
    return "\n".join(rows) + "\n"


@pytest.mark.real
@pytest.mark.parametrize("name", NAMES)
def test_ours_passes(name: str) -> None:
    NAMES[name](nudging())


@pytest.mark.real
@pytest.mark.parametrize("name", NAMES)
def test_theirs_does_what_the_table_says(name: str) -> None:
    problem = ""
    try:
        NAMES[name](hugging_face())
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    expected = FAILS.get(name, ("", ""))[0]
    assert bool(problem) == bool(expected) and re.search(expected, problem), problem


def test_the_document_has_this_table() -> None:
    assert table() in DOCUMENT.read_text(encoding="utf-8")


if __name__ == "__main__":  # python tests/peers/test_behaviours.py
    print(table(), end="")
