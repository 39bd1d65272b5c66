"""Public and private names, examples in docstrings, and what stands beside the package. Which part imports which: test_layers.py."""

from __future__ import annotations

import ast
import builtins
import doctest
import importlib
from pathlib import Path

import pytest

import nudging_llm

PACKAGE = Path(nudging_llm.__file__).parent


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add((node.module or "").split(".")[0])
    return found


def test_programs_beside_the_package_import_no_tests():
    files = [path for folder in ("benchmarks", "scripts") for path in (PACKAGE.parent / folder).rglob("*.py")]
    assert {"demo.py", "speed.py"} <= {path.name for path in files}
    assert [path for path in files if "tests" in imports(path)] == []


SHIPPED = [
    *PACKAGE.rglob("*.py"),
    *(PACKAGE.parent / "integrations" / "langchain" / "langchain_nudging").rglob("*.py"),
    *(PACKAGE.parent / "integrations" / "llama_index" / "llama_index").rglob("*.py"),
]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(PACKAGE.parent)))
def test_a_private_name_stays_in_its_file_and_no_public_one_is_a_builtin_s(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = [name.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for name in node.names]
    assert [name for name in imported if name.startswith("_") and not name.startswith("__")] == []
    defined = {node.name for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    assert not defined & set(dir(builtins))


@pytest.mark.parametrize("module", ["nudging_llm", "langchain_nudging", "llama_index.llms.nudging"])
def test_every_public_name_exists_and_is_public(module):
    found = pytest.importorskip(module)
    for name in found.__all__:
        assert not name.startswith("_")
        what = getattr(found, name)
        assert what and not getattr(what, "__name__", "").startswith("_"), f"{name} is private under another name"


@pytest.mark.parametrize(
    "name", ["config", "decoding.gates", "text.base_template", "tools.prompts", "testing.scripted"]
)
def test_examples_in_docstrings_run(name):
    found = doctest.testmod(importlib.import_module(f"nudging_llm.{name}"))
    assert found.attempted
    assert not found.failed


def test_the_integrations_import_nothing_from_these_tests():
    files = [*(Path(__file__).parents[1] / "integrations").rglob("*.py")]
    assert files
    assert [path for path in files if "tests" in imports(path)] == []
