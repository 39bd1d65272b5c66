"""Draws what ``speed.py`` wrote: speed against the base model alone, and forwards per answer token. ``make bench`` runs it.

Knows pictures only: one horizontal bar for each way, in the order of the measurement.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

BASE, NUDGING, PLAIN = "#4c72b0", "#dd8452", "#555555"


def draw(records: list[dict[str, Any]], out: Path) -> None:
    """One row of two panels for each measurement, written to ``out``."""
    figure, panels = plt.subplots(len(records), 2, figsize=(12, 0.5 + 3.6 * len(records)), squeeze=False, sharey="row")
    for (speed, forwards), record in zip(panels, records, strict=True):
        figures = {name: found for name, found in record["figures"].items() if "unavailable" not in found}
        names = list(figures)[::-1]
        at = range(len(names))
        ratios = [figures[name]["ratio"] for name in names]
        spread = [figures[name]["ratio_quartiles"] or [ratio] * 3 for name, ratio in zip(names, ratios, strict=True)]
        error = [
            [max(0.0, r - q[0]) for r, q in zip(ratios, spread, strict=True)],
            [max(0.0, q[2] - r) for r, q in zip(ratios, spread, strict=True)],
        ]
        speed.barh(at, ratios, xerr=error, color=PLAIN, height=0.6, capsize=3)
        speed.axvline(1.0, color="black", linewidth=1, linestyle="--")
        speed.set_yticks(at, names)
        speed.set_xlabel("tokens per second ÷ base model alone (median, quartiles)")
        for row, ratio in zip(at, ratios, strict=True):
            speed.text(max(ratio, error[1][row] + ratio) + 0.02, row, f"{ratio:.2f}", va="center", fontsize=9)
        base = [figures[name]["base_forwards"] for name in names]
        nudging = [figures[name]["nudging_forwards"] for name in names]
        forwards.barh(at, base, color=BASE, height=0.6, label="base model")
        forwards.barh(at, nudging, left=base, color=NUDGING, height=0.6, label="nudging model")
        forwards.set_xlabel("forwards per answer token")
        forwards.legend(loc="lower right", frameon=False)
        speed.set_title(record["title"], loc="left", fontsize=10, x=-0.4)
        for panel in (speed, forwards):
            panel.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(out, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="what benchmarks.speed --out wrote")
    parser.add_argument("--out", type=Path, required=True, help="picture to write")
    options = parser.parse_args()
    draw([json.loads(file.read_text(encoding="utf-8")) for file in options.files], options.out)


if __name__ == "__main__":
    main()
