"""The guides say what is there: files that they name exist, modules and names can be imported, examples run."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
GUIDES = ["README.md", "docs/contributing.md", "docs/how-it-works.md", "docs/api/core.md", "integrations/README.md"]
PACKAGE = ROOT / "nudging_llm"


def guide(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", GUIDES)
def test_files_that_a_guide_names_exist(name: str) -> None:
    named = re.findall(r"`((?:[\w.-]+/)*[\w-]+(?:\.py|/))`", guide(name))
    places = (ROOT, PACKAGE, (ROOT / name).parent)
    missing = [path for path in named if not any((place / path).exists() for place in places)]
    assert not [path for path in missing if "NAME" not in path]


@pytest.mark.parametrize("name", GUIDES)
def test_names_of_the_package_that_a_guide_gives_can_be_imported(name: str) -> None:
    named = re.findall(r"\bnudging_llm(?:\.\w+)+", guide(name))
    for path in (path for path in named if not path.endswith(".py")):
        module, attributes = path, []
        while True:
            try:
                found: Any = importlib.import_module(module)
                break
            except ModuleNotFoundError:
                module, _, attribute = module.rpartition(".")
                attributes.insert(0, attribute)
        for attribute in attributes:
            found = getattr(found, attribute)


def test_the_examples_of_where_to_add_what_run() -> None:
    namespace: dict[str, Any] = {}
    blocks = re.findall(r"^```python\n(.*?)^```", guide("docs/contributing.md"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        exec(block, namespace)
