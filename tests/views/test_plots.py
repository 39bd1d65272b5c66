"""Plots: the figures behind them, and that they show just these."""

from __future__ import annotations

from typing import Any

import pytest

from nudging_llm import NudgingConfig, Piece, Provenance, Reason
from nudging_llm.provenance import ModelUse
from nudging_llm.views import plots


def record(*rows: tuple[str, Reason, float | None, str | None], **config: Any) -> Provenance:
    """Of pieces by text, reason, base probability and base choice."""
    nudging = {Reason.OPENING, Reason.UNCERTAIN, Reason.ENDING}
    pieces, start = [], 0
    for text, reason, probability, choice in rows:
        source = "nudging" if reason in nudging else "base"
        pieces.append(Piece(text, start, source, reason, 1, probability, choice, 1, 0.0))
        start += len(text)
    return Provenance(
        pieces=tuple(pieces),
        base=ModelUse(name="base", seconds=2.0),
        nudging=ModelUse(name="nudging", seconds=1.0),
        total_s=3.5,
        config=NudgingConfig(**config).model_dump(mode="json"),
    )


ANSWER = record(
    ("The", Reason.OPENING, 0.1, "A"),
    (" ferry", Reason.HANDOVER_PREFIX, 0.35, " ferry"),
    (" leaves", Reason.CONFIDENT, 0.9, " leaves"),
    (" at $9", Reason.UNCERTAIN, 0.3, " at"),
    (" The", Reason.UNCERTAIN, 0.2, ""),
    (" end.", Reason.ENDING, None, None),
)


def test_a_score_has_a_line_for_each_model() -> None:
    figure = plots.score(ANSWER, width=17)
    written = [[(text.get_text(), text.get_position()) for text in axes.texts] for axes in figure.axes]
    assert written == [
        [("The", (0, 1.9)), ("ferry", (4, 1.3)), ("leaves", (10, 1.3))],
        [("at", (0, 1.9)), (r"\$9", (3, 1.9)), ("The", (6, 1.9)), ("end.", (10, 1.9))],
    ]
    bars = [[(bar.get_x(), bar.get_height(), bar.get_width()) for bar in axes.patches] for axes in figure.axes]
    assert bars[0] == [(0, 0.1, 3), (4, 0.35, 5), (10, 0.9, 6)] and bars[1] == [(0, 0.3, 2), (6, 0.2, 3)]
    assert [mark.get_text() for mark in figure.axes[0].get_yticklabels()] == ["base", "nudging", "γ"]
    assert len(plots.score(record()).axes) == 1
    long = plots.score(record((f"{'x' * 50}{'y' * 30}", Reason.OPENING, 0.5, "")), width=50)
    assert [axes.texts[0].get_text() for axes in long.axes] == ["x" * 50, "y" * 30]
    assert "γ" not in [mark.get_text() for mark in plots.score(record(gate="margin")).axes[0].get_yticklabels()]


def test_where_the_two_models_agree() -> None:
    assert plots.agreement(ANSWER) == {"disagreed": [0.1, 0.2], "agreed": [0.35, 0.3], "not asked": [0.9]}
    assert plots.agreement([ANSWER, ANSWER])["not asked"] == [0.9, 0.9]
    figure = plots.base_probabilities(ANSWER)
    [axes] = figure.axes
    assert sum(bar.get_height() for bar in axes.containers[0]) == 2
    [legend] = figure.legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts == ["nudging model disagreed (2)", "nudging model agreed (2)", "nudging model not asked (1)"]


def test_what_another_threshold_would_ask() -> None:
    gammas, shares = plots.unsure_shares(ANSWER, steps=10)
    assert gammas[::5] == [0.0, 0.5, 1.0] and shares[::5] == [0.0, 0.8, 1.0]
    assert shares == sorted(shares)
    [axes] = plots.gamma_sweep(ANSWER).axes
    assert list(axes.lines[0].get_xdata())[-1] == 1.0
    assert [text.get_text() for text in axes.texts] == ["γ = 0.4"]


@pytest.mark.parametrize("records", [[ANSWER, record(threshold=0.2)], record(gate="entropy", threshold=1.0)])
def test_a_threshold_is_marked_only_where_there_is_one(records: Any) -> None:
    [axes] = plots.gamma_sweep(records).axes
    assert not axes.texts


def test_which_words_the_nudging_model_wrote() -> None:
    assert plots.nudging_word_counts([ANSWER]) == {"The": 2, "at": 1, "$9": 1, "end.": 1}
    [axes] = plots.nudging_words(ANSWER, most=2).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["at", "The"]


def test_what_took_the_time() -> None:
    figure = plots.timings({"first": ANSWER, "second": ANSWER})
    [axes] = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["first", "second"]
    assert [[bar.get_width() for bar in bars] for bars in axes.containers] == [[2, 2], [1, 1], [0.5, 0.5]]
    assert [label.get_text() for label in plots.timings([ANSWER]).axes[0].get_yticklabels()] == ["1"]


@pytest.mark.parametrize("plot", [plots.base_probabilities, plots.gamma_sweep, plots.nudging_words, plots.timings])
@pytest.mark.parametrize("records", [ANSWER, [], [record()], record(("$x$ \\frac 東", Reason.OPENING, 0.5, None))])
def test_all_of_it_can_be_drawn(plot: Any, records: Any, tmp_path: Any) -> None:
    figure = plot(records)
    figure.savefig(tmp_path / "plot.png")
    assert figure._repr_png_().startswith(b"\x89PNG"), "a notebook shows it"
    assert (tmp_path / "plot.png").stat().st_size > 1000
