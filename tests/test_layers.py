"""The structure of the package: which folder may import which, no circles, no file or class too long to read, a light import."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import nudging_llm

PACKAGE = Path(nudging_llm.__file__).parent
REPOSITORY = PACKAGE.parent
MODULES = {".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__"): path for path in PACKAGE.rglob("*.py")}  # fmt: skip

#: What each part of the package may import besides itself and what stands before it in this list. A dot: a single module.
LAYERS = [
    "errors", "provenance", "protocol", "tools.calls", "result", "structured.type_schemas", "decoding.gates", "decoding.costs", "decoding.drafts", "config", "decoding",
    "tools", "text", "structured", "engines", "runtime", "starter", "generator", "views", "frameworks", "testing", "cli",
]  # fmt: skip
#: Imports within functions that go up, each for a reason.
UPWARD = {
    ("nudging_llm.provenance", "nudging_llm.views.html"): "a record shows itself in a notebook",
}
#: Libraries that only these parts may import.
LIBRARIES = {
    "torch": {"engines", "testing", "starter"},
    "transformers": {"engines", "testing", "starter", "cli"},
    "llguidance": {"structured"},
    "langchain": set(),
    "langchain_core": set(),
    "httpx": {"engines"},
    "llama_index": set(),
}


def imports(module: str) -> Iterator[str]:
    """What a module imports, wherever in it; of this package, the modules themselves."""
    path = MODULES[module]
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            found = ".".join([*base, *(node.module.split(".") if node.module else [])])
            for name in node.names:
                yield f"{found}.{name.name}" if f"{found}.{name.name}" in MODULES else found


def layer(module: str) -> int:
    """The place of a module in ``LAYERS``."""
    name = module.removeprefix("nudging_llm.")
    return LAYERS.index(name if name in LAYERS else name.split(".")[0])


INNER = sorted(module for module in MODULES if module != "nudging_llm")


@pytest.mark.parametrize("module", INNER)
def test_arrows_point_one_way(module):
    for found in imports(module):
        if found.startswith("nudging_llm.") and (module, found) not in UPWARD:
            assert layer(found) <= layer(module), f"{module} imports {found}"


def test_there_are_no_circles():
    arrows = {
        module: {found for found in imports(module) if found in MODULES and (module, found) not in UPWARD}
        for module in INNER
    }
    while free := [module for module, targets in arrows.items() if not targets & arrows.keys() - {module}]:
        for module in free:
            del arrows[module]
    assert not arrows, "these import each other: " + ", ".join(sorted(arrows))


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_is_imported_where_it_belongs(library):
    allowed = LIBRARIES[library]
    users = {module for module in INNER if any(found.split(".")[0] == library for found in imports(module))}
    assert {module.split(".")[1] for module in users} <= allowed


def test_the_rules_import_no_library_that_computes():
    for module in INNER:
        if module.startswith("nudging_llm.decoding"):
            used = {found.split(".")[0] for found in imports(module)} - {"nudging_llm"}
            assert used <= set(sys.stdlib_module_names), f"{module} imports {used - set(sys.stdlib_module_names)}"


PRODUCT = [
    path
    for folder in ("nudging_llm", "integrations/langchain/langchain_nudging", "integrations/llama_index/llama_index")
    for path in sorted((REPOSITORY / folder).rglob("*.py"))
]


@pytest.mark.parametrize("path", PRODUCT, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_files_and_classes_can_be_read(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 450
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            assert node.end_lineno - node.lineno < 250, (
                f"class {node.name} has {node.end_lineno - node.lineno + 1} lines"
            )


def test_the_algorithm_is_a_page():
    text = (PACKAGE / "decoding" / "algorithm.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 120
    functions = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
    assert list(functions) == ["nudged", "nudge", "base_run"]
    assert all(node.end_lineno - node.lineno < 35 for node in functions.values())


def test_importing_the_package_is_light():
    """What takes seconds is loaded with the first model."""
    heavy = "{'torch', 'transformers', 'llguidance', 'numpy', 'matplotlib', 'rich', 'nudging_llm.testing'}"
    code = f"import sys, nudging_llm; found = {heavy} & set(sys.modules); assert not found, found"
    subprocess.run([sys.executable, "-c", code], check=True)
