"""The documentation as a site: it builds without a complaint, names everything that is public, and asks nobody for anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import nudging_llm

pytestmark = pytest.mark.slow

pytest.importorskip("mkdocs")
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # ruff formats signatures
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stderr
    return folder


class Resources(HTMLParser):
    """What a page loads by itself."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source") and given.get("src"):
            self.found.append(given["src"])
        if tag == "link" and given.get("rel") in ("stylesheet", "icon", "preconnect", "preload"):
            self.found.append(given["href"])


def test_everything_public_is_in_the_reference(site: Path) -> None:
    page = (site / "docs" / "api" / "core.html").read_text(encoding="utf-8")
    ids = set(re.findall(r'id="([\w.]+)"', page))
    names = [name for name in nudging_llm.__all__ if name != "STARTER"]
    missing = [name for name in names if not any(found.endswith(f".{name}") for found in ids)]
    assert not missing


@pytest.mark.parametrize(
    ("page", "module"), [("langchain", "langchain_nudging"), ("llama_index", "llama_index.llms.nudging")]
)
def test_everything_public_of_the_integrations_is_too(site: Path, page: str, module: str) -> None:
    names = pytest.importorskip(module).__all__
    text = (site / "docs" / "api" / f"{page}.html").read_text(encoding="utf-8")
    assert [name for name in names if f'id="{module}.{name}"' not in text] == []


def test_every_page_is_there_and_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    names = {page.relative_to(site).as_posix() for page in pages}
    assert {"index.html", "docs/faq.html", "cookbook/07_auditing.html", "integrations/langchain/index.html"} <= names
    assert "docs/layout.html" not in names
    for page in pages:
        for resource in Resources(page.read_text(encoding="utf-8")).found:
            assert not re.match(r"(https?:)?//", resource), f"{page}: {resource}"
