"""What the command line refuses before it loads anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from nudging_llm import NudgingGenerator
from nudging_llm.cli import app


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--choice", "A", "--regex", "B"], "give one of them"),
        (["--alone", "foo"], "--alone"),
        (["--threshold", "nan"], "threshold"),
        (["--threshold", "7"], "threshold"),
        (["--base", "only-one"], "--nudging"),
        (["--json-schema", "/no/such/schema.json"], "schema.json"),
    ],
    ids=["two forms", "no model", "no number", "not a probability", "one model", "no schema"],
)
def test_wrong_usage_is_told_by_the_option_s_name(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["ask", "hello", *arguments])
    assert done.exit_code == 2 and said in done.stderr


def test_no_question_is_wrong_usage() -> None:
    done = CliRunner().invoke(app, ["ask"], input="")
    assert done.exit_code == 2 and done.stderr.strip()


def test_a_schema_that_cannot_be_met_is_told(tmp_path: Path, tiny: NudgingGenerator, monkeypatch: Any) -> None:
    monkeypatch.setattr(NudgingGenerator, "starter", lambda *_, **__: tiny)
    (tmp_path / "bad.json").write_text('{"type": "frob"}', encoding="utf-8")
    done = CliRunner().invoke(app, ["ask", "Why?", "--json-schema", str(tmp_path / "bad.json")])
    assert done.exit_code == 1 and "frob" in done.stderr


def test_colours_are_left_out_where_nobody_wants_them(tiny: NudgingGenerator, monkeypatch: Any) -> None:
    monkeypatch.setattr(NudgingGenerator, "starter", lambda *_, **__: tiny)
    for env in ({"FORCE_COLOR": "1"}, {"FORCE_COLOR": "1", "NO_COLOR": "1"}):
        done = CliRunner().invoke(app, ["ask", "Why?", "-n", "8"], env=env)
        assert done.exit_code == 0 and ("95m" in done.stdout) == ("NO_COLOR" not in env)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    there = str(tmp_path / "nothing" / "here")
    done = CliRunner().invoke(app, ["ask", "hello", "--base", there, "--nudging", there])
    assert done.exit_code == 1 and f"{there} could not be loaded: there is no folder of that name" in done.stderr
