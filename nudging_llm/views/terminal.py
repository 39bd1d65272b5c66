"""The terminal view: text as it comes, nudged words marked by colour and underline, and a summary line (rich)."""

from __future__ import annotations

import unicodedata

from rich.console import Console
from rich.text import Text

from ..provenance import Piece, Provenance

#: Both a colour and an underline: the mark survives NO_COLOR and colour blindness.
NUDGED = "underline bright_magenta"


class TerminalView:
    """Writes pieces to a console; plain text where that is not a terminal.

    Args:
        console: where to write.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._column_open = False

    def write(self, piece: Piece) -> None:
        """Show one piece at once."""
        if not self._console.is_terminal:
            self._console.file.write(piece.text)
            self._console.file.flush()
        else:
            text = Text(_printable(piece.text), style=NUDGED if piece.source == "nudging" else "")
            self._console.print(text, end="", soft_wrap=True, highlight=False)
        self._column_open = not piece.text.endswith("\n")

    def end(self) -> None:
        """Finish the last line."""
        if self._column_open:
            self._console.file.write("\n")
            self._console.file.flush()
        self._column_open = False


def summary(record: Provenance) -> Text:
    """One line of figures, and one for each warning."""
    parts = [f"{record.n_tokens} tokens"]
    if record.base.name and record.nudging.name:
        parts.append(f"nudged {record.nudge_ratio:.0%}")
    parts.append(f"{record.tokens_per_second:.1f} tokens/s")
    per_token = [
        f"{use.forwards / record.n_tokens:.2f} {label}"
        for label, use in (("base", record.base), ("nudging", record.nudging))
        if use.name and record.n_tokens
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
