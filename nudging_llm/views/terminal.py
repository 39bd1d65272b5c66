"""The terminal view: text as it comes, nudged words marked by colour and underline, and a summary line (rich)."""

from __future__ import annotations

import re
import unicodedata

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from ..provenance import Piece, Provenance

#: Both a colour and an underline: the mark survives NO_COLOR and colour blindness.
NUDGED = "underline bright_magenta"
_STYLES = {"nudging": NUDGED, "grammar": "dim"}


class TerminalView:
    """Writes pieces to a console; plain text where that is not a terminal.

    Args:
        console: where to write.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._column = 0  # where the cursor stands

    def write(self, piece: Piece) -> None:
        """Show one piece at once; in a terminal lines break between words."""
        if not self._console.is_terminal:
            self._console.file.write(piece.text)
            self._console.file.flush()
            self._column = 0 if piece.text.endswith("\n") else 1
            return
        style = _STYLES.get(piece.source, "")
        for word in re.findall(r"\n| *[^ \n]+| +", _printable(piece.text)):
            if word.startswith(" ") and self._column + cell_len(word) > self._console.width:
                self._show("\n", style)
                word = word.lstrip(" ")
            gap = len(word) - len(word.lstrip(" "))
            self._show(word[:gap], "")  # the space before a word is not underlined
            self._show(word[gap:], style)

    def _show(self, text: str, style: str) -> None:
        if not text:
            return
        self._console.print(Text(text, style=style), end="", soft_wrap=True, highlight=False)
        self._column = 0 if text == "\n" else self._column + cell_len(text)
        if self._column > self._console.width:  # a word longer than a line
            self._column = self._column % self._console.width or self._console.width

    def end(self) -> None:
        """Finish the last line."""
        if self._column:
            self._console.file.write("\n")
            self._console.file.flush()
        self._column = 0


def summary(record: Provenance) -> Text:
    """One line of figures, and one for each warning."""
    parts = [f"{record.n_tokens} tokens"]
    if len(record.models) == 2:
        parts.append(f"nudged {record.nudge_ratio:.0%}")
    if record.grammar_tokens:
        parts.append(f"by the grammar {record.grammar_tokens / record.n_tokens:.0%}")
    parts.append(f"{record.tokens_per_second:.1f} tokens/s")
    per_token = [
        f"{use.forwards / record.n_tokens:.2f} {label}"
        for label, use in (("base", record.base), ("nudging", record.nudging))
        if use is not None and record.n_tokens
    ]
    if per_token:
        parts.append("forwards per token " + ", ".join(per_token))
    parts.append(f"ended: {record.finish_reason}")
    text = Text(" · ".join(parts), style="dim")
    for warning in record.warnings:
        text.append(f"\n! {warning.message}", style="yellow")
    return text


def _printable(text: str) -> str:
    """Control characters, which could move the cursor or worse, as visible stand-ins."""
    return "".join("\u2426" if unicodedata.category(char) == "Cc" and char not in "\n\t" else char for char in text)
