"""What may import what, and what the documents promise."""

from __future__ import annotations

import ast
import doctest
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import nudging_llm

PACKAGE = Path(nudging_llm.__file__).parent
FRAMEWORKS = {"langchain", "langchain_core", "llama_index"}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: path.name)
def test_the_core_imports_no_framework(path):
    assert not imports(path) & FRAMEWORKS


RULES = [
    *(PACKAGE / "decoding").glob("*.py"),
    *(PACKAGE / name for name in ("protocol.py", "provenance.py", "config.py")),
]


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_rules_and_records_know_no_engine(path):
    assert not imports(path) & {"torch", "transformers", "httpx", "tokenizers", "llguidance"}


def test_importing_the_package_does_not_load_torch():
    code = "import sys, nudging_llm; assert not {'torch', 'transformers', 'nudging_llm.testing'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_exists():
    for name in nudging_llm.__all__:
        assert getattr(nudging_llm, name)


@pytest.mark.parametrize("name", ["config", "text.prompts", "tools.definitions", "testing.scripted"])
def test_examples_in_docstrings_run(name):
    found = doctest.testmod(importlib.import_module(f"nudging_llm.{name}"))
    assert found.attempted
    assert not found.failed


def test_the_integrations_import_nothing_from_these_tests():
    files = [*(Path(__file__).parents[1] / "integrations").rglob("*.py")]
    assert files
    assert [path for path in files if "tests" in imports(path)] == []
