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


def test_the_readme_example_runs(tmp_path, starter):
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Reason.OPENING" not in done.stdout
    assert "nudging opening" in done.stdout


def test_the_cookbook_runs(tmp_path, starter):
    for program in sorted((ROOT / "cookbook").glob("*.py")):
        done = subprocess.run([sys.executable, str(program)], cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "answer.json").read_text(encoding="utf-8"))
    assert record["text"]
