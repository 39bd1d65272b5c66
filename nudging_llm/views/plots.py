"""Plots of one record or many: who wrote what, how sure the base model was, another γ, which words, what took time.

Each function gives a ``matplotlib.figure.Figure``: ``figure.savefig("plot.png")``; a notebook shows it by itself. Needs
``pip install 'nudging-llm[plots]'``.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from ..provenance import ModelUse, Piece, Provenance, Reason

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Colours that colour-blind readers can tell apart, on white as on black.
BASE, NUDGED, REST = "#4C78A8", "#D6478B", "#9AA2AF"
COLOURS = {"base": BASE, "nudging": NUDGED, "grammar": REST}


def score(record: Provenance, width: int = 80) -> Figure:
    """An answer as a score: a line for each model's words, the base model's probability below them, a stroke at each round.

    Args:
        record: one answer; short ones can be read best.
        width: characters in a line.
    """
    notes = list(_notes(record.pieces, width))
    lines = max((note.line for note in notes), default=0) + 1
    left, letter, tall = 0.8, 0.602 * 10 / 72, 0.95  # inches: the margin, a letter of ten points, a line
    wide = left + letter * (width + 1)
    figure = _figure_class()(figsize=(wide, tall * lines))
    axes = [figure.add_axes((left / wide, 1 - (i + 0.95) / lines, 1 - left / wide, 0.85 / lines)) for i in range(lines)]
    gamma = record.config.get("threshold") if record.config.get("gate") == "top1" else None
    for part in axes:
        part.set_xlim(-0.5, width + 0.5)
        part.set_ylim(0, 2.3)
        part.set_xticks([])
        marks = {"base": 1.3, "nudging": 1.9} | ({"γ": gamma} if gamma is not None and gamma <= 1 else {})
        part.set_yticks(list(marks.values()), list(marks))
        part.tick_params(length=0)
        part.spines[:].set_visible(False)
        part.axhline(0, color=REST, linewidth=0.8)
        if "γ" in marks:
            part.axhline(marks["γ"], color="black", linestyle=":", linewidth=0.8)
    for note in notes:
        part, piece = axes[note.line], note.piece
        height = {"base": 1.3, "nudging": 1.9}.get(piece.source, 1.6)
        part.text(
            note.column,
            height,
            _plain(note.text),
            family="monospace",
            fontsize=10,
            va="center",
            color=COLOURS[piece.source],
        )
        if piece.base_top_prob is not None and note.begins:
            part.bar(
                note.column, piece.base_top_prob, len(note.text), align="edge", color=COLOURS[piece.source], alpha=0.45
            )
        if note.opens_round:
            part.axvline(note.column - 0.5, color=REST, linewidth=0.8)
    return figure


def base_probabilities(records: Provenance | Iterable[Provenance]) -> Figure:
    """How sure the base model was where the nudging model agreed with it, where it did not, and where it was not asked.

    After Figure 2 of the paper: where the base model is unsure, the two disagree.
    """
    groups = agreement(records)
    figure, axes = _axes("The base model's top-1 probability", "places")
    bins = [i / 20 for i in range(21)]
    names = {"disagreed": NUDGED, "agreed": BASE, "not asked": REST}
    axes.hist(
        [groups[name] for name in names],
        bins=bins,
        stacked=True,
        color=list(names.values()),
        label=[f"nudging model {name} ({len(groups[name])})" for name in names],
    )
    axes.set_xlim(0, 1)
    _mark_gamma(axes, records)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    return figure


def gamma_sweep(records: Provenance | Iterable[Provenance]) -> Figure:
    """Share of the recorded places at which the base model would be unsure, for every γ.

    An estimate: text after the first change would differ.
    """
    gammas, shares = unsure_shares(records)
    figure, axes = _axes("γ", "share of places below γ (estimate)")
    axes.plot(gammas, shares, color=NUDGED)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    _mark_gamma(axes, records)
    return figure


def nudging_words(records: Provenance | Iterable[Provenance], most: int = 20) -> Figure:
    """The words that the nudging model wrote most often."""
    from matplotlib.ticker import MaxNLocator

    counted = nudging_word_counts(records).most_common(most)
    figure, axes = _axes("times", "")
    words = [_shown(word) for word, _ in reversed(counted)]
    axes.barh(range(len(words)), [count for _, count in reversed(counted)], color=NUDGED)
    axes.set_yticks(range(len(words)), words)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.set_figheight(max(2.0, 0.25 * len(words) + 1))
    return figure


def timings(records: Mapping[str, Provenance] | Iterable[Provenance] | Provenance) -> Figure:
    """Seconds of each answer in the base model's forwards, the nudging model's, and elsewhere."""
    found = _list(records.values() if isinstance(records, Mapping) else records)
    names = list(records) if isinstance(records, Mapping) else [str(i + 1) for i in range(len(found))]
    figure, axes = _axes("seconds", "")
    left = [0.0] * len(found)
    parts = {
        "base model": ([_seconds(record.base) for record in found], BASE),
        "nudging model": ([_seconds(record.nudging) for record in found], NUDGED),
        "elsewhere": ([record.overhead_s for record in found], REST),
    }
    for label, (seconds, colour) in parts.items():
        axes.barh(range(len(found)), seconds, left=left, color=colour, label=label)
        left = [a + b for a, b in zip(left, seconds, strict=True)]
    axes.set_yticks(range(len(found)), [_shown(name) for name in names])
    axes.invert_yaxis()
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    figure.set_figheight(max(2.0, 0.3 * len(found) + 1))
    return figure


# -- the figures behind them ------------------------------------------------------------------------------------------


def agreement(records: Provenance | Iterable[Provenance]) -> dict[str, list[float]]:
    """The base model's probabilities at places where the nudging model "agreed", "disagreed", or was "not asked".

    They agree where the base model's choice begins the word that the nudging model had ready.
    """
    groups: dict[str, list[float]] = {"disagreed": [], "agreed": [], "not asked": []}
    for record in _list(records):
        for piece in record.pieces:
            if piece.base_top_prob is not None:
                groups[_agreed(piece)].append(piece.base_top_prob)
    return groups


def unsure_shares(records: Provenance | Iterable[Provenance], steps: int = 100) -> tuple[list[float], list[float]]:
    """For γ from 0 to 1, the share of recorded places at which the base model's probability is below it."""
    found = [piece.base_top_prob for record in _list(records) for piece in record.pieces]
    known = [probability for probability in found if probability is not None]
    gammas = [i / steps for i in range(steps + 1)]
    return gammas, [sum(p < gamma for p in known) / max(1, len(known)) for gamma in gammas]


def nudging_word_counts(records: Provenance | Iterable[Provenance]) -> Counter[str]:
    """How often the nudging model wrote each word."""
    pieces = (piece for record in _list(records) for piece in record.pieces)
    return Counter(word for piece in pieces if piece.source == "nudging" for word in piece.text.split())


def _agreed(piece: Piece) -> str:
    if piece.source != "nudging":
        return "agreed" if piece.reason == Reason.HANDOVER_PREFIX else "not asked"
    choice = (piece.base_top_text or "").strip()
    return "agreed" if choice and piece.text.strip().startswith(choice) else "disagreed"


class _Note(NamedTuple):
    """A piece, or a stretch of one, and where it stands in a score."""

    piece: Piece
    text: str
    line: int
    column: int
    begins: bool  # the piece begins here
    opens_round: bool


def _notes(pieces: Iterable[Piece], width: int) -> Iterator[_Note]:
    line = column = last = 0
    for piece in pieces:
        begins = True
        for word in re.findall(rf" *[^ ]{{1,{width}}}| +", piece.text.replace("\n", "⏎")):
            gap = len(word) - len(word.lstrip(" "))
            if column and column + len(word) > width:
                line, column = line + 1, 0
            text = word[gap:]
            column += gap if column else 0
            if text:
                yield _Note(piece, text, line, column, begins, piece.round != last)
                begins, last = False, piece.round
            column += len(text)


def _list(records: Any) -> Sequence[Provenance]:
    return [records] if isinstance(records, Provenance) else list(records)


def _mark_gamma(axes: Axes, records: Any) -> None:
    """A line at γ, if all of the records have the same."""
    gammas = {float(r.config.get("threshold", 0)) for r in _list(records) if r.config.get("gate") == "top1"}
    if len(gammas) == 1:
        [gamma] = gammas
        axes.axvline(gamma, color="black", linestyle="--", linewidth=1)
        axes.annotate(
            f"γ = {gamma:g}", (gamma, 1), xycoords=("data", "axes fraction"), xytext=(3, 3), textcoords="offset points"
        )


def _seconds(use: ModelUse | None) -> float:
    return use.seconds if use is not None else 0.0


def _shown(text: str) -> str:
    """One short line."""
    line = " ".join(text.split())
    line = line if len(line) <= 40 else f"{line[:39]}…"
    return _plain(line)


def _plain(text: str) -> str:
    """What matplotlib does not take for mathematics."""
    return text.replace("$", r"\$")


@cache
def _figure_class() -> type[Figure]:
    """A figure that notebooks show without any magic."""
    from matplotlib.figure import Figure

    class Plot(Figure):
        def _repr_png_(self) -> bytes:
            image = io.BytesIO()
            self.savefig(image, format="png", dpi=100)
            return image.getvalue()

    return Plot


def _axes(x: str, y: str) -> tuple[Figure, Axes]:
    figure = _figure_class()(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
