"""What the documents show runs as written."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.real
ROOT = Path(__file__).parents[2]


def programs(document: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.DOTALL)


def test_the_readme_example_runs(tmp_path, starter):
    code = "\n".join(programs("README.md"))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Reason.OPENING" not in done.stdout
    assert "nudging opening" in done.stdout
    assert "ToolCall(" in done.stdout and "days=" in done.stdout


def test_the_cookbook_runs(tmp_path, starter):
    for program in [ROOT / "cookbook" / "first_nudge.py"]:  # those on a framework are tested with its package
        done = subprocess.run([sys.executable, str(program)], cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "answer.json").read_text(encoding="utf-8"))
    assert record["text"]


def test_the_example_of_forms_runs(starter):
    [code] = programs("docs/forms.md")
    names: dict = {"gen": starter}
    exec(compile(code, "docs/forms.md", "exec", dont_inherit=True), names)
    assert names["call"].name == "get_weather"
