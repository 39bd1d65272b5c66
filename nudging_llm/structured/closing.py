"""Ways from the middle of a grammar to a valid end: straight ahead, or at random where that is long."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

#: Bytes after which a text is sooner over, best first: between values, and within a string, where a letter may stand; and which
#: to try first where none of them may stand.
_CLOSERS, _STRING_CLOSERS, _FIRST = b'}]",', b'"', b"0aAn "
#: Random ways to the end that are tried where the straight one does not fit; how long any may be, and a random one, in bytes.
WALKS, _LONGEST, _LONGEST_WALK = 24, 20_000, 2_000


def way_to_end(matcher: Any, rng: random.Random | None) -> bytes | None:
    """Bytes that lead a matcher over bytes to an end; None if it was not found. Without ``rng``: straight ahead."""
    out = bytearray()
    while not matcher.is_accepting():
        step: bytes = matcher.compute_ff_bytes()
        if not step:
            mask = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)[:32], bitorder="little")
            allowed = np.nonzero(mask)[0].astype(np.uint8).tobytes()
            if not allowed or matcher.is_error():
                return None
            step = _step(allowed, rng)
        if not matcher.consume_tokens(list(step)):
            return None
        out += step
        if len(out) > (_LONGEST_WALK if rng else _LONGEST):
            return None
    return bytes(out)


def _step(allowed: bytes, rng: random.Random | None) -> bytes:
    if rng is None or rng.random() < 0.7:
        closers = _STRING_CLOSERS if b"a" in allowed else _CLOSERS
        for byte in closers if rng else closers + _FIRST:
            if byte in allowed:
                return bytes([byte])
    plain = bytes(byte for byte in allowed if 32 <= byte < 127 and byte != 92) or allowed  # no escapes, if possible
    return bytes([rng.choice(plain) if rng else plain[0]])
