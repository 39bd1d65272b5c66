"""Pieces of two requests, made comparable.

Two requests take different times, and a forward of another shape adds its float32 numbers in another order. Everything
else about their pieces must be equal.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ..provenance import Piece


class Near(float):
    """A float32 probability: equal to another within what the shape of a forward changes in the order of its sums."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, float) and abs(float(self) - float(other)) < 1e-4

    __hash__ = None  # type: ignore[assignment]


def timeless(pieces: Iterable[Piece]) -> list[Piece]:
    """Pieces that can be compared across requests: without their times, and with probabilities that need only be near."""
    return [
        replace(p, elapsed_s=0.0, base_top_prob=None if p.base_top_prob is None else Near(p.base_top_prob))
        for p in pieces
    ]
