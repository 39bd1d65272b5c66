"""The arithmetic of ``benchmarks.fidelity``, and that a run can be cut off and resumed."""

from __future__ import annotations

import json
import sys
from decimal import Decimal

import pytest
from rich.console import Console

from benchmarks.fidelity import FidelityError, SkippedError
from benchmarks.fidelity.marking import ifeval_checker, last_number, last_number_questions, spaced
from benchmarks.fidelity.report import common_prefix, mark_cells, report, sign_test, similarity, wilson
from benchmarks.fidelity.runs import SETTINGS, Answer, Store, collect
from nudging_llm import NudgingConfig


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("He pays $1,234.50.", "1234.50"),
        ("so it is -3", "-3"),
        ("so it is −3.", "-3"),
        ("a loss of -$5", "-5"),
        ("18.0", "18"),
        ("18 eggs, then 20 eggs. **18**", "18"),
        ("10-3", "3"),
        ("(4)-3", "3"),
        ("1,2,3", "3"),
        ("1,2345", "2345"),
        ("1,234,567 people", "1234567"),
        ("$.50", "0.5"),
        ("It grew by .25", "0.25"),
        ("50%", "50"),
        ("3 times\n4 = 12.\n", "12"),
    ],
)
def test_last_number(text, number):
    assert last_number(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "none at all", "twelve", "$", "-", "."])
def test_no_number(text):
    assert last_number(text) is None


def test_a_maths_answer_is_marked_by_its_last_number():
    [question] = last_number_questions("gsm8k", [{"id": "q", "question": "?", "answer": "1,018"}])
    assert question.mark("9 × 2, so $1018.00.") == (True,)
    assert question.mark("1018, or 18") == (False,)
    assert question.mark("I do not know") == (False,)


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [(10, 20, 0.2993, 0.7007), (0, 20, 0.0, 0.1611), (20, 20, 0.8389, 1.0), (1, 10, 0.0179, 0.4042), (0, 0, 0.0, 1.0)],
)
def test_wilson(correct, total, low, high):
    assert wilson(correct, total) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [(0, 0, 1), (3, 3, 1), (1, 0, 1), (5, 0, 0.0625), (0, 6, 0.03125), (1, 9, 22 / 1024), (6, 2, 74 / 256)],
)
def test_sign_test(gained, lost, p):
    assert sign_test(gained, lost) == sign_test(lost, gained) == p


@pytest.mark.parametrize(
    ("text", "reference", "share"),
    [
        ("abcd", "abcd", 1),
        ("abxd", "abcd", 0.5),
        ("abcd and more", "abcd", 1),
        ("ab", "abcd", 0.5),
        ("x", "abcd", 0),
        ("", "abcd", 0),
        ("", "", 1),
        ("x", "", 0),
    ],
)
def test_common_prefix(text, reference, share):
    assert common_prefix(text, reference) == share


def test_similarity_is_over_words():
    assert similarity("a b c", "a b c") == 1
    assert similarity("a  b\nc", "a b c") == 1
    assert similarity("a x c d", "a b c d") == 0.75
    assert similarity("", "a") == 0
    assert similarity("", "") == 1


def test_spaced():
    assert spaced(range(10), 5) == [0, 2, 4, 6, 8]
    assert spaced(range(10), 3) == [0, 3, 6]
    assert spaced(range(3), 9) == [0, 1, 2]


def answer(id: str, *marks: bool) -> Answer:
    return Answer("ifeval", id, "K=4", "text", 4, {"base": 2, "nudging": 1}, 0.5, "stop", marks)


def test_marks_are_compared_question_by_question():
    reference = [answer("1", True, True), answer("2", True), answer("3", False, True), answer("4", False)]
    faster = [answer("1", True, False), answer("2", True), answer("3", True, True), answer("4", True)]
    cells = mark_cells(faster, reference)
    assert list(cells.values()) == ["3/4", "75.0%", "30.1% … 95.4%", "83.3% of 6", "+2", "−1", "1.000"]
    assert list(mark_cells(reference, reference).values())[4:] == ["", "", ""]


def test_the_settings_are_options():
    assert all(NudgingConfig(**options) for options in SETTINGS.values())


def test_without_checkers_the_reason_is_given(monkeypatch):
    monkeypatch.setitem(sys.modules, "if_verifiable", None)
    with pytest.raises(SkippedError, match="pip install if-verifiable"):
        ifeval_checker()


QUESTIONS = last_number_questions(
    "gsm8k", [{"id": str(i), "question": f"How much is {i} + 1?", "answer": str(i + 1)} for i in range(3)]
)


def configs(**changes):
    return {name: NudgingConfig(max_tokens=12, **SETTINGS[name], **changes) for name in ("K=8", "K=4")}


def test_a_run_is_resumed_where_it_was_cut_off(tiny, tmp_path, monkeypatch):
    path = tmp_path / "out.json"
    first = collect(tiny, QUESTIONS[:2], configs(), 2, Store(path, {}, configs(), "one machine"))
    asked = []
    batch = tiny.batch
    monkeypatch.setattr(tiny, "batch", lambda texts, **options: asked.append(texts) or batch(texts, **options))
    store = Store(path, {}, configs(), "another machine", resume=True)
    both = collect(tiny, QUESTIONS, configs(), 2, store)
    assert asked == [[QUESTIONS[2].text]] * 2
    assert {name: answers[:2] for name, answers in both.items()} == first
    stored = json.loads(path.read_text())
    assert stored["versions"] == ["one machine", "another machine"]
    assert [item["id"] for item in stored["answers"]] == ["0", "1", "0", "1", "2", "2"]
    assert all(item["correct"] == all(item["marks"]) for item in stored["answers"])
    assert [item.name for item in tmp_path.iterdir()] == ["out.json"]


def test_answers_of_another_run_are_refused(tmp_path):
    path = tmp_path / "out.json"
    Store(path, {"base": "a"}, configs(), "").save()
    with pytest.raises(FidelityError, match="--resume"):
        Store(path, {"base": "a"}, configs(), "")
    with pytest.raises(FidelityError, match="'base': 'b'"):
        Store(path, {"base": "b"}, configs(), "", resume=True)
    with pytest.raises(FidelityError, match=r"K=8 as {'threshold': 0.4}; this run has {'threshold': 0.3}"):
        Store(path, {"base": "a"}, configs(threshold=0.3), "", resume=True)


def test_the_report_has_a_row_per_kind_and_setting(capsys):
    group = {"K=8": [answer("1", True), answer("2", False)], "K=4": [answer("1", False), answer("2", False)]}
    report(Console(width=150), "Title", {"gsm8k": group, "svamp": group})
    out = capsys.readouterr().out
    assert out.count("K=4") == 2 * 3
    assert "−2" in out  # pooled
