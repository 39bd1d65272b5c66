"""The README runs as written, type-checks as a user's code would, and importing costs no torch."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[2] / "README.md"


def program() -> str:
    return "\n".join(re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL))


def test_importing_loads_no_torch() -> None:
    code = "import sys, llama_index.llms.nudging; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.real
@pytest.mark.usefixtures("starter")
def test_the_readme_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program()], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "nudging opening" in done.stdout and "nudged " in done.stdout
    assert re.search(r"city='.*' days=\d+", done.stdout) and re.search(r"sunny in .* for \d+ days", done.stdout)
    assert re.search(r"\[\(0, '", done.stdout), "provenance_of found the answer"


def test_a_users_program_type_checks(tmp_path: Path) -> None:
    """Under mypy's strict mode, in a folder of its own; and a wrong argument is found."""
    right, wrong = tmp_path / "right.py", tmp_path / "wrong.py"
    right.write_text(f"{program()}\nnumber: int = len(get_pieces(response))\n", encoding="utf-8")
    wrong.write_text(
        "from llama_index.llms.nudging import NudgingLLM, get_pieces\n"
        "NudgingLLM.starter().with_options(threshold=0.3).provenance_of('x').text\n"
        "text: str = get_pieces(None)\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", os.devnull, "--no-error-summary"]
    done = subprocess.run(
        [*command, "right.py", "wrong.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert [line.split(":")[:2] for line in errors] == [["wrong.py", "2"], ["wrong.py", "3"]], done.stdout
