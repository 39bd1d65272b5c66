"""Text from outside (messages, documents, results of tools) in a rendered template: it stays plain text, character for character.

Knows a tokenizer's notion of control tokens; no message and no template.
"""

from __future__ import annotations

import json
import re
from typing import Any

from ..tools.json_values import write_json
from .tokenizer import TokenizerAdapter


class OutsideText:
    """Control strings in text from outside, kept away from a template and from the tokenizer's notion of control.

    In the text stands a mark instead: a private-use character that the text has nowhere else, a number, a quotation mark
    and the character again. The quotation mark shows how often the template has written the text as JSON, as each time
    doubles its backslashes; so the string comes back as JSON, or as JSON in JSON, where it has to be.

    Args:
        values: everything that will be put aside from.
    """

    def __init__(self, codec: TokenizerAdapter, values: Any) -> None:
        self._codec = codec
        self._kept: list[str] = []
        everything = write_json(values)
        chars = map(chr, range(0xE000, 0xF8FF))
        self._mark = next(char for char in chars if char not in everything and _escape(char) not in everything)
        mark = f"(?:{self._mark}|{re.escape(_escape(self._mark))})"
        self._pattern = re.compile(rf'{mark}(\d+)(\\*)"{mark}')

    def put(self, value: Any) -> Any:
        """``value`` with marks for its control strings, also in the keys of its dicts."""
        if isinstance(value, str):
            return self._put_text(value)
        if isinstance(value, list):
            return [self.put(item) for item in value]
        if isinstance(value, dict):
            return {self._put_text(key): self.put(item) for key, item in value.items()}
        return value

    def _put_text(self, text: str) -> str:
        out, at = "", 0
        for start, stop in self._codec.control_spans(text):
            if start < at:
                continue
            out += f'{text[at:start]}{self._mark}{len(self._kept)}"{self._mark}'
            self._kept.append(text[start:stop])
            at = stop
        return out + text[at:]

    def encode(self, text: str) -> list[int]:
        """Tokens of a rendered template: its own control tokens count, what was put aside is plain text."""
        ids: list[int] = []
        at = 0
        for found in self._pattern.finditer(text):
            ids += self._codec.encode_control(text[at : found.start()])
            ids += self._codec.encode(self._restored(found))
            at = found.end()
        return ids + self._codec.encode_control(text[at:])

    def _restored(self, found: re.Match[str]) -> str:
        """The string of a mark, written as the mark was."""
        text, escaped = self._kept[int(found[1])], found[0].startswith("\\")
        times = (len(found[2]) + 1).bit_length() - 1  # 0, 1, 3, 7 backslashes
        if escaped and not times:
            return repr(text)[1:-1]  # a template that prints a dict
        for i in range(times):
            text = json.dumps(text, ensure_ascii=escaped and i == times - 1)[1:-1]
        return text


def _escape(char: str) -> str:
    """A character as JSON in ASCII has it: a backslash, "u" and four digits."""
    return json.dumps(char)[1:-1]
