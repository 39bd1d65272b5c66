"""The cookbook's notebooks run from top to bottom, and are stored with what they show."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.real
COOKBOOK = Path(__file__).parents[2] / "cookbook"
#: Tokens of an answer: a call must fit in, and the last agent must come to its end. Of the other notebooks 16.
SHORT = {"03_langchain_agent": 48, "05_llama_index_agents": 60}
NOTEBOOKS = sorted(path.stem for path in COOKBOOK.glob("*.ipynb"))


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_the_cookbook_lists_them() -> None:
    listed = re.findall(r"`(\d\d_\w+)\.ipynb`", (COOKBOOK / "README.md").read_text(encoding="utf-8"))
    assert listed == NOTEBOOKS and len(NOTEBOOKS) == 7


@pytest.mark.usefixtures("starter")  # fetched, and in the cache
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs(name: str) -> None:
    """With shorter answers than it is stored with: it runs the same cells."""
    notebook = nbformat.read(COOKBOOK / f"{name}.ipynb", as_version=4)
    for cell in code_cells(notebook):
        cell.source = re.sub(r"(max_tokens\"?[=:] ?)(40|60)\b", rf"\g<1>{SHORT.get(name, 16)}", cell.source)
    NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(COOKBOOK)}}
    ).execute()
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert [output for output in outputs if output.output_type != "stream" or output.name == "stdout"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_stored_with_its_outputs(name: str) -> None:
    text = (COOKBOOK / f"{name}.ipynb").read_text(encoding="utf-8")
    notebook = nbformat.reads(text, as_version=4)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run it from top to bottom"
    assert any(cell.outputs for cell in cells)
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert "device_map" in text, "it says what to change for a GPU and larger models"
    said = json.dumps([cell.get("outputs") for cell in cells])
    assert not re.search(r"(/home/|/root/|/work/|/tmp/|site-packages|Warning:)", said)
