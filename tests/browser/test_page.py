"""The HTML page in a real browser: what can be seen, clicked and reached by keyboard; and that it asks nobody for anything."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nudging_llm import Provenance
from nudging_llm.views.html import page as html_page
from tests.views.test_html import NASTY, record

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
playwright = pytest.importorskip("playwright.sync_api")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: on Debian, apt install chromium")

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield found
        found.close()


class Opened:
    """A page that is open, and what went wrong in it."""

    def __init__(self, browser: Any, folder: Path, html: str, width: int = 1200, scheme: str = "light") -> None:
        file = folder / "page.html"
        file.write_text(html, encoding="utf-8")
        self.tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.tab.on("console", lambda message: self.complaints.append(message.text))
        self.tab.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.tab.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.goto(file.as_uri())

    def detail(self) -> str:
        return str(self.tab.locator(".detail").inner_text())

    def close(self) -> None:
        assert self.complaints == []
        assert [url for url in self.requests if not url.startswith(("file:", "data:"))] == []
        self.tab.close()


@pytest.fixture
def open_page(browser: Any, tmp_path: Path) -> Iterator[Any]:
    opened: list[Opened] = []

    def make(records: Any, **options: Any) -> Opened:
        opened.append(Opened(browser, tmp_path, html_page(records), **options))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


ANSWER = record("The", " ferry", " leaves", " at", " 9:40.", " Be", " early.")


def test_hovering_tells_who_wrote_it_and_why(open_page: Any) -> None:
    page = open_page(ANSWER)
    page.tab.locator(".p").nth(2).hover()
    assert page.detail() == (
        "leaves — nudging model, as the base model was unsure\n"
        "round 2, 1 token, the base model was 20.0 % sure of sevael , which was rejected"
    )
    page.tab.locator(".p").nth(3).hover()
    assert page.detail().startswith("at — base model, sure") and "rejected" not in page.detail()


def test_the_keyboard_reaches_everything(open_page: Any) -> None:
    page = open_page(ANSWER)
    focused = "document.activeElement.textContent"
    page.tab.keyboard.press("Tab")
    assert page.tab.evaluate(focused) == "The"
    assert page.tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    for key, text in [
        ("ArrowRight", "ferry"),
        ("ArrowDown", "leaves"),
        ("ArrowDown", "9:40."),
        ("ArrowUp", "leaves"),
        ("End", "early."),
        ("ArrowRight", "early."),
        ("Home", "The"),
        ("ArrowLeft", "The"),
    ]:
        page.tab.keyboard.press(key)
        assert page.tab.evaluate(focused) == text
        assert page.detail().startswith(f"{text}")
    page.tab.keyboard.press("Tab")
    assert page.tab.evaluate("document.activeElement.type") == "range"


def test_a_click_on_the_ribbon_finds_the_piece(open_page: Any) -> None:
    page = open_page(ANSWER)
    box = page.tab.locator("svg.ribbon").bounding_box()
    page.tab.mouse.click(box["x"] + box["width"] * 4.5 / 7, box["y"] + 10)
    assert page.tab.evaluate("document.activeElement.textContent") == "9:40."


def test_the_slider_tells_what_would_be_nudged(open_page: Any) -> None:
    page = open_page(ANSWER)
    slider = page.tab.locator("input[type=range]")
    assert page.tab.locator(".would").count() == page.tab.locator(".spared").count() == 0
    slider.fill("0.95")
    assert page.tab.locator(".would").count() == 3 and page.tab.locator(".spared").count() == 0
    estimate = page.tab.locator(".estimate").inner_text()
    assert estimate.startswith(
        "Estimate: at γ = 0.95 the base model would be unsure at 7 of 7 places (written with γ = 0.40)"
    )
    slider.fill("0.1")
    assert page.tab.locator(".would").count() == 0 and page.tab.locator(".spared").count() == 4
    assert page.tab.locator("output").inner_text() == "0.10"
    assert page.tab.locator(".gamma").get_attribute("y1") == "90"
    slider.fill("0.4")
    assert page.tab.locator(".would").count() == page.tab.locator(".spared").count() == 0


def test_what_models_write_is_text(open_page: Any) -> None:
    page = open_page({NASTY: record(NASTY, NASTY)})
    page.tab.locator(".p").first.hover()
    assert '<script>alert("x")</script>' in page.tab.locator(".text").inner_text()
    assert "U+202E" in page.detail() and page.tab.locator("h2").inner_text().startswith("<script>")


@pytest.mark.parametrize("width", [400, 1200])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_can_be_read(open_page: Any, width: int, scheme: str) -> None:
    answer = record("Donaudampfschifffahrtsgesellschaft" * 5, " ferry", " 東京特許許可局" * 9)
    page = open_page({"nudged": answer, "base alone": ANSWER}, width=width, scheme=scheme)
    assert page.tab.evaluate("document.documentElement.scrollWidth") <= width
    for selector in (".n", ".b", ".models", ".detail", ".key"):
        assert contrast(page.tab, selector) >= 4.5, selector


def contrast(tab: Any, selector: str) -> float:
    """Of an element's text against what is behind it, as WCAG has it; 4.5 is asked for."""
    colours = tab.evaluate(
        """selector => {
            let node = document.querySelector(selector);
            const ink = getComputedStyle(node).color;
            while (node && getComputedStyle(node).backgroundColor === "rgba(0, 0, 0, 0)") node = node.parentElement;
            return [ink, getComputedStyle(node).backgroundColor].map(c => c.match(/[0-9.]+/g).slice(0, 3).map(Number));
        }""",
        selector,
    )

    def luminance(colour: list[float]) -> float:
        parts = [c / 255 for c in colour]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    dark, light = sorted(map(luminance, colours))
    return (light + 0.05) / (dark + 0.05)


def test_a_long_answer_opens_at_once(open_page: Any) -> None:
    answer: Provenance = record(*[" wörd", " and"] * 1000)
    began = time.monotonic()
    page = open_page(answer)
    page.tab.locator(".p").nth(1999).hover()
    took = time.monotonic() - began
    assert page.detail().startswith("and")
    print(f"2,000 pieces: {len(html_page(answer).encode()):,} bytes, open and hovered over in {took:.2f} s")
