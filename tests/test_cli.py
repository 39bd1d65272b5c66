"""What the command line refuses before it loads anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from nudging_llm.cli import app


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--choice", "A", "--regex", "B"], "give one of them"),
        (["--alone", "foo"], "--alone"),
        (["--threshold", "nan"], "threshold"),
    ],
    ids=["two forms", "no model", "no number"],
)
def test_wrong_usage_is_told_by_the_option_s_name(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["ask", "hello", *arguments])
    assert done.exit_code == 2 and said in done.stderr


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    there = str(tmp_path / "nothing" / "here")
    done = CliRunner().invoke(app, ["ask", "hello", "--base", there, "--nudging", there])
    assert done.exit_code == 1 and f"{there} could not be loaded: there is no folder of that name" in done.stderr
