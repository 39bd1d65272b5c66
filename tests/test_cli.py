"""What the command line refuses before it loads anything."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nudging_llm import NudgingConfig
from nudging_llm.cli import _config, app
from nudging_llm.decoding.gates import GATES, default_threshold


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--choice", "A", "--regex", "B"], "give one of them"),
        (["--alone", "foo"], "--alone"),
        (["--threshold", "nan"], "threshold"),
        (["--gate", "entropie"], "one of top1, entropy, margin. Did you mean 'entropy'"),
        (["--gate", "margin", "--threshold", "3"], "threshold=3 is outside 0 … 2 for gate 'margin'"),
    ],
    ids=["two forms", "no model", "no number", "no gate", "no threshold of this gate"],
)
def test_wrong_usage_is_told_by_the_option_s_name(arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["ask", "hello", *arguments])
    assert done.exit_code == 2 and said in done.stderr


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    there = str(tmp_path / "nothing" / "here")
    done = CliRunner().invoke(app, ["ask", "hello", "--base", there, "--nudging", there])
    assert done.exit_code == 1 and f"{there} could not be loaded: there is no folder of that name" in done.stderr


def test_each_gate_s_own_threshold_is_shown_and_used() -> None:
    shown = " ".join(CliRunner().invoke(app, ["ask", "--help"]).stdout.split())
    assert "[default: (0.4 for top1, 2.5 for entropy, 0.2 for margin)]" in shown
    for paper, gate, threshold in product((False, True), GATES, (None, 0.7)):
        config = _config(paper, gate, threshold, 4, 10)
        wanted = NudgingConfig.paper if paper else NudgingConfig
        assert config == wanted(gate=gate, threshold=threshold, lookahead=4, max_tokens=10)
        assert config.threshold == (threshold or default_threshold(gate))
