"""The HTML view: what stands in the page, without a browser."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from IPython.lib.pretty import pretty
from typer.testing import CliRunner

from nudging_llm import NudgingConfig, Piece, Provenance, Reason, Result
from nudging_llm.cli import app
from nudging_llm.provenance import ModelUse
from nudging_llm.views.html import component, page

NASTY = (
    '<script>alert("x")</script>&amp; </script> \x1b[31m red \x00 \u202eabc\u202c שלום "quoted" \'single\' ${x} {{ y }}'
)


def record(*texts: str, **changes: Any) -> Provenance:
    """The first piece is the nudging model's, then both in turn."""
    pieces, start = [], 0
    for i, text in enumerate(texts):
        source, reason = ("base", Reason.CONFIDENT) if i % 2 else ("nudging", Reason.UNCERTAIN)
        pieces.append(Piece(text, start, source, reason, i // 2 + 1, 0.9 if i % 2 else 0.2, text[::-1], 1, 0.1 * i))
        start += len(text)
    base, nudging = ModelUse(name="big <b>base</b>", tokens=len(texts) // 2), ModelUse(name="small")
    config = NudgingConfig().model_dump(mode="json")
    return Provenance(**{"pieces": tuple(pieces), "base": base, "nudging": nudging, "config": config} | changes)


class Reader(HTMLParser):
    """What a browser would make of a page: elements, and the text in those of one class."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self._open: list[tuple[str, str]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "br", "input"):
            self._open.append((tag, dict(attrs).get("class") or tag))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for _, name in self._open:
            self.texts[name] = self.texts.get(name, "") + data


def test_the_text_is_the_answers() -> None:
    answer = record("The", " ferry", " leaves\n", "\tat", "  9:40.")
    found = Reader(page(answer))
    assert found.texts["text"] == answer.text
    classes = [attrs.get("class") or "" for tag, attrs in found.elements if tag in ("span", "u")]
    assert [name for name in classes if name.startswith("p ")] == ["p n", "p b", "p n", "p b", "p n"]


@pytest.mark.parametrize("place", ["text", "choice", "name", "title", "warning"])
def test_whatever_models_write_is_text(place: str) -> None:
    answer = record(NASTY if place == "text" else "plain")
    if place == "choice":
        [piece] = answer.pieces
        answer = record("plain", pieces=(Piece(**{**piece.to_dict(), "base_top_text": NASTY, "reason": piece.reason}),))
    if place == "warning":
        answer = record("plain", warnings=({"code": "repetition", "message": NASTY},))
    name = NASTY if place == "name" else "Answer"
    html = page({name: answer}, NASTY if place == "title" else "Title")
    found, plain = Reader(html), Reader(page({"Answer": record("plain")}, "Title"))
    tags = [tag for tag, attrs in found.elements if attrs.get("class") != "c" and tag not in ("ul", "li")]
    assert tags == [tag for tag, _ in plain.elements]
    assert not any(name.startswith("on") for _, attrs in found.elements for name in attrs)
    shown = found.texts["text"] if place in ("text", "choice") else ""
    assert not set(shown) & {"\x1b", "\x00", "\u202e"}
    if place == "text":
        assert "<script>" in shown and "U+202E" in shown and "U+001B" in shown and "שלום" in shown


def test_the_script_reads_the_records() -> None:
    answer = record("One", " <two>", " three")
    [(gamma, whys, rows)] = [json.loads(text) for text in re.findall(r'class="data">(.*?)</script>', page(answer))]
    assert gamma == 0.4 and set(whys) == {"uncertain", "confident"}
    assert rows[1] == ["b", "confident", 1, 0.9, ">owt< ", 1]


@pytest.mark.parametrize(
    ("changes", "slider"),
    [
        ({}, True),
        ({"config": {"gate": "entropy", "threshold": 1.2}}, False),
        ({"base": None}, False),
        ({"config": {}}, False),
    ],
    ids=["nudged", "another gate", "alone", "no config"],
)
def test_what_if_is_asked_only_where_it_can_be_told(changes: Any, slider: bool) -> None:
    tags = [tag for tag, _ in Reader(page(record("One", " two", **changes))).elements]
    assert ("input" in tags) == slider == ("line" in tags)


def test_an_empty_answer_and_one_without_probabilities_are_shown() -> None:
    assert Reader(page(record())).texts["figures"].startswith("0 tokens")
    piece = Piece("x", 0, "nudging", Reason.ALONE, 1, None, None, 1, 0.0)
    found = Reader(page(record(pieces=(piece,), base=None)))
    assert "svg" not in [tag for tag, _ in found.elements] and found.texts["text"] == "x"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"gate": "top1", "threshold": 0.3}, "γ = 0.3"),
        ({"threshold": 0.3}, "γ = 0.3"),
        ({"gate": "entropy", "threshold": 2.5}, "gate entropy, threshold 2.5"),
    ],
)
def test_only_the_paper_s_gate_has_a_gamma(config: Any, said: str) -> None:
    figures = Reader(page(record("One", config=config))).texts["figures"]
    assert f"· {said} ·" in figures and figures.count("γ") == said.count("γ")


def test_several_answers_stand_side_by_side() -> None:
    found = Reader(page({"nudged": record("One"), "base alone": record("Two")}))
    assert found.texts["h2"] == "nudgedbase alone"
    assert [tag for tag, _ in found.elements].count("article") == 2


def test_a_page_asks_nobody_for_anything() -> None:
    html = page(record("One", " two"))
    assert not re.search(r"https?://|url\(|@import|src=|fetch\(", html)
    assert "default-src 'none'" in html


def test_a_long_answer_weighs_little() -> None:
    assert len(page(record(*[" wörd"] * 2000)).encode()) < 500_000


def test_every_reason_has_its_words() -> None:
    for reason in Reason:
        piece = Piece("x", 0, "base", reason, 1, 0.5, "x", 1, 0.0)
        assert reason.value in page(record(pieces=(piece,)))


def test_in_a_notebook_the_same_component_stands() -> None:
    answer = record("One", " two")
    html = answer._repr_html_()
    printed = pretty(answer)
    assert printed == "Provenance: 2 tokens, nudged 0%, ended: stop\nOne two" == pretty(Result(answer.text, answer))
    assert html == component({"Answer": answer}) and html in page(answer).replace("<h1>Who wrote this answer</h1>", "")


# -- nudging view -----------------------------------------------------------------------------------------------------


def view(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["view", *map(str, arguments)])


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    found = [tmp_path / "nudged.json", tmp_path / "other.json"]
    for file, answer in zip(found, (record("One", " two"), record("Three")), strict=True):
        file.write_text(answer.to_json(), encoding="utf-8")
    return found


def test_recorded_answers_are_shown_in_the_terminal(files: list[Path]) -> None:
    done = view(files[0])
    assert done.exit_code == 0 and done.stdout.startswith("One two\n2 tokens · nudged 0%")
    done = view(*files)
    assert done.exit_code == 0 and done.stdout.index("nudged.json:") < done.stdout.index("One two") < done.stdout.index(
        "Three"
    )


def test_recorded_answers_become_a_page(files: list[Path], tmp_path: Path) -> None:
    done = view(*files, "--html", tmp_path / "page.html")
    assert done.exit_code == 0 and done.stdout == ""
    found = Reader((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert found.texts["h2"] == f"{files[0]}{files[1]}" and found.texts["text"] == "One twoThree"


@pytest.mark.parametrize("text", ["", "[1]", '{"a": 1}', '"x"'])
def test_what_is_no_record_is_said(tmp_path: Path, text: str) -> None:
    file = tmp_path / "bad.json"
    file.write_text(text, encoding="utf-8")
    for wrong in (file, tmp_path / "missing.json"):
        done = view(wrong)
        assert done.exit_code == 2 and f"{wrong} is no record of an answer" in done.stderr


def test_a_page_that_cannot_be_written_is_said(files: list[Path], tmp_path: Path) -> None:
    done = view(files[0], "--html", tmp_path / "missing" / "page.html")
    assert done.exit_code == 2 and "--html" in done.stderr
