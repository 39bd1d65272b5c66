"""Numbers that Python can read. JSON's grammar lets an exponent have any number of digits; a float does not."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

#: Digits of a number, and of its exponent: below 1e299, so that a float can hold it.
_DIGITS, _EXPONENT = 200, 2
_NUMBER = re.compile(rb"[0-9][0-9.]*(?:[eE][+-]?[0-9]*)?\Z")
_ESCAPED = re.compile(rb"\\.", re.DOTALL)
_GOES_ON = re.compile(rb"[0-9.eE+-]*")
_ENDLESS = re.compile(rb"[0-9.]{%d}|[eE][+-]?[0-9]{%d}" % (_DIGITS + 1, _EXPONENT + 1))


def number_at_end(json: bytes) -> bytes:
    """The number that is being written at the end of a JSON text: its shape, with a zero for each digit. Empty if none is."""
    found = _NUMBER.search(json[-2 * _DIGITS :])
    if found is None or _ESCAPED.sub(b"", json).count(b'"') % 2:  # inside a string
        return b""
    return re.sub(rb"[1-9]", b"0", found[0])


def endless(number: bytes, spellings: Iterable[tuple[bytes, int]]) -> Iterator[int]:
    """The tokens, by their spelling, with which ``number`` would become one that no float can hold."""
    for spelling, token in spellings:
        goes_on = _GOES_ON.match(spelling)
        if goes_on and goes_on[0] and _ENDLESS.search(number + goes_on[0]):
            yield token
