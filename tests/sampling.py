"""How many of the random cases run: all of them in ``make test``, a tenth in ``make test-fast``."""

from __future__ import annotations

import os

SAMPLE = os.environ.get("NUDGING_TESTS") == "sample"


def cases(count: int) -> int:
    """How many of ``count`` random cases run."""
    return max(1, count // 10) if SAMPLE else count
