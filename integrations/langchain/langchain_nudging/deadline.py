"""Most seconds for one answer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nudging_llm import AsyncStream, Stream


class Deadline:
    """Ends an answer that takes too long."""

    def __init__(self, timeout: float | None) -> None:
        self._timeout = timeout
        self._began = time.monotonic()

    def check(self, stream: Stream | AsyncStream) -> None:
        if self._timeout is not None and time.monotonic() - self._began > self._timeout:
            raise TimeoutError(
                f"timeout={self._timeout:g}: the answer had {len(stream.text)} characters by then. Raise it, or lower max_tokens."
            )
