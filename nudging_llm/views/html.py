"""The HTML view: a page of its own, or the same component inside a notebook. One file, no network, nothing to install.

Everything in it comes from records. Text of models is shown as text: it is escaped, control characters and those that turn the
direction of writing are shown by their number.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from ..provenance import Piece, Provenance, Reason

_MARKS = {"base": "b", "nudging": "n", "grammar": "g"}
#: Why a piece was written, as the page says it.
_WHYS: Mapping[Reason, str] = {
    Reason.OPENING: "which opens every answer",
    Reason.UNCERTAIN: "as the base model was unsure",
    Reason.LOOKAHEAD_CUT: "as far as it had looked ahead",
    Reason.ENDING: "which ends the answer",
    Reason.BASE_ENDED: "where the base model would have ended",
    Reason.HANDOVER_PREFIX: "as its choice begins the word that comes next",
    Reason.HANDOVER_CONFIDENT: "sure again",
    Reason.CONFIDENT: "sure",
    Reason.ALONE: "asked alone",
    Reason.FORCED: "which left no choice",
    Reason.CLOSING: "closing the answer",
}


def page(records: Provenance | Mapping[str, Provenance], title: str = "Who wrote this answer") -> str:
    """A whole HTML page.

    Args:
        records: one answer, or several by name, which stand side by side.
        title: of the page.
    """
    named = {"Answer": records} if isinstance(records, Provenance) else records
    body = component(named, Markup("<h1>{}</h1>").format(title))
    return _template("page.html.j2").render(title=title, component=Markup(body))


def component(records: Mapping[str, Provenance], head: str = "") -> str:
    """The part of a page that shows answers; it may stand in another page, as a notebook's."""
    cards = [_card(name, record) for name, record in records.items()]
    key = hashlib.sha256("".join(cards).encode()).hexdigest()[:12]
    root = f"nudging-{key}"
    script = _static("answer.js").replace('"ROOT"', json.dumps(root))
    return (
        f'<div class="nudging-view" id="{root}"><style>{_static("answer.css")}</style>{head}'
        f'<div class="answers">{"".join(cards)}</div></div><script>{script}</script>'
    )


def _card(name: str, record: Provenance) -> str:
    rows = [_row(piece) for piece in record.pieces]
    whys = {piece.reason.value: _WHYS[piece.reason] for piece in record.pieces}
    gamma = record.config.get("threshold") if record.config.get("gate") == "top1" else None
    alone = len(record.models) < 2
    gamma = None if alone or gamma is None else min(1.0, float(gamma))
    data = json.dumps([gamma, whys, rows], ensure_ascii=False, separators=(",", ":"))
    return _template("answer.html.j2").render(
        name=name,
        models=" + ".join(use.name for use in record.models),
        figures=" · ".join(_figures(record)),
        warnings=[warning.message for warning in record.warnings],
        pieces=[_shown(piece) for piece in record.pieces],
        probability=_bars(record.pieces),
        nudges="".join(f"M{i} 94h1v6h-1z" for i, piece in enumerate(record.pieces) if piece.source == "nudging"),
        gamma=gamma,
        data=Markup(data.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")),
    )


def _shown(piece: Piece) -> dict[str, Any]:
    """A piece's text; the space before a word is not marked."""
    word = piece.text.lstrip(" ") or piece.text
    return {
        "mark": _MARKS[piece.source],
        "tag": "u" if piece.source == "nudging" else "span",  # underlined also where a site takes styles away
        "gap": piece.text[: len(piece.text) - len(word)],
        "parts": list(_parts(word)),
    }


def _row(piece: Piece) -> list[Any]:
    """What the script knows of a piece."""
    probability = None if piece.base_top_prob is None else round(piece.base_top_prob, 4)
    choice = None if piece.base_top_text is None else "".join(part for part, _ in _parts(piece.base_top_text))
    return [_MARKS[piece.source], piece.reason.value, piece.round, probability, choice, piece.n_tokens]


def _bars(pieces: tuple[Piece, ...]) -> str:
    """The probabilities as one path: a bar for each piece, from the ground up."""
    return "".join(
        f"M{i} 100v-{100 * piece.base_top_prob:.1f}h1v{100 * piece.base_top_prob:.1f}z"
        for i, piece in enumerate(pieces)
        if piece.base_top_prob is not None
    )


def _figures(record: Provenance) -> Iterator[str]:
    yield f"{record.n_tokens:,} tokens"
    if len(record.models) == 2:
        yield f"nudged {record.nudge_ratio:.0%}"
    if record.grammar_tokens:
        yield f"by the grammar {record.grammar_tokens / record.n_tokens:.0%}"
    if record.total_s:
        yield f"{record.total_s:.1f} s"
    if "threshold" in record.config:
        gate, threshold = record.config.get("gate", "top1"), record.config["threshold"]
        yield f"γ = {threshold:g}" if gate == "top1" else f"gate {gate}, threshold {threshold:g}"
    yield f"ended: {record.finish_reason}"


def _parts(text: str) -> Iterator[tuple[str, bool]]:
    """Text, and between it the numbers of characters that cannot be seen: ``(part, whether it is a number)``."""
    for part in re.split(f"({_UNSEEN})", text):
        if part:
            unseen = re.fullmatch(_UNSEEN, part) is not None
            yield (f"U+{ord(part):04X}", True) if unseen else (part, False)


def _unseen() -> str:
    """Control characters but for line ends and tabs; what turns the direction of writing; line separators; lone surrogates."""
    found = [
        chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) == "Cc" and chr(code) not in "\n\t"
    ]
    found += [chr(code) for code in (0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F), *range(0x2066, 0x206A), 0xFEFF)]
    return "[" + re.escape("".join(found)) + "\ud800-\udfff]"


_UNSEEN = _unseen()


@cache
def _template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=False)
    return environment.from_string(_static(name))


@cache
def _static(name: str) -> str:
    return files(__package__).joinpath("static", name).read_text(encoding="utf-8")
