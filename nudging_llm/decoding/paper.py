"""A base run as the authors' released code reads it: in chunks of K tokens (``NudgingConfig.paper()``).

Knows the two rules against repetition that this makes possible; leaves asking and writing to ``decoder.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..protocol import Prediction, Steps, TextStream
from ..provenance import Reason

if TYPE_CHECKING:
    from .algorithm import Decoder


def run_in_chunks(decoder: Decoder, prediction: Prediction, reason: Reason) -> Steps:
    """A base run as the released code reads it: in chunks of K tokens, with two rules against repetition.

    The first chunk begins with the handed-over token. A chunk whose whole text already stands in this run, or whose
    accepted part is longer than five words and already stands in the answer, ends the run and is not written.
    """
    base, run_start = decoder.voices["base"], len(decoder.answer.text)
    tokens = base.encode(decoder.answer.text)
    stream = base.text_stream()
    pieces = _RunPieces()
    tokens = [*tokens, prediction.token]
    pieces.feed(stream, prediction, reason)
    yield from _write_run(decoder, pieces)
    size = decoder.config.lookahead - 1
    while not decoder.answer.finish_reason and not decoder.full:
        start = len(tokens)
        at_start: Prediction | None = None
        stopped: Prediction | None = None
        while len(tokens) - start < size and stopped is None:
            prediction = yield from decoder.predict("base", tokens, "", (yield from decoder.guess_of_run(tokens)))
            at_start = at_start or prediction
            if base.is_end(prediction.token) or not decoder.confident(prediction):
                stopped = prediction
            else:
                tokens = [*tokens, prediction.token]
                pieces.feed(stream, prediction, Reason.CONFIDENT)
        run, accepted = decoder.answer.text[run_start:], pieces.text
        repeated = len(accepted.split(" ")) > 5 and accepted in decoder.answer.text
        if not repeated and len(tokens) > start and accepted in run:
            rest = yield from _rest_of_chunk(decoder, tokens, stopped, size - (len(tokens) - start), stream)
            repeated = accepted + rest in run
        if repeated or size == 0:  # an empty chunk stands everywhere
            decoder.why, decoder.at_end = Reason.BASE_ENDED, at_start
            return
        yield from _write_run(decoder, pieces)
        if stopped is not None:
            if base.is_end(stopped.token):
                decoder.base_stopped(stopped)
            else:
                decoder.why, decoder.at_end = Reason.UNCERTAIN, stopped
            return
        size = decoder.config.lookahead


def _rest_of_chunk(
    decoder: Decoder, tokens: list[int], stopped: Prediction | None, left: int, stream: TextStream
) -> Steps:
    """The text of a chunk after its accepted part: what the base model would have written unsure."""
    base, stream, text = decoder.voices["base"], stream.copy(), ""
    prediction = stopped
    while left > 0 and prediction is not None and not base.is_end(prediction.token):
        text += stream.feed(prediction.token)
        tokens = [*tokens, prediction.token]
        left -= 1
        prediction = (yield from decoder.predict("base", tokens, "")) if left else None
    return text


def _write_run(decoder: Decoder, pieces: _RunPieces) -> Steps:
    for text, prediction, reason, length in pieces.take():
        if decoder.capped_by(length - 1):
            decoder.cut_at_length = True
            break
        decoder.writer.add(text, "base", prediction, reason, length)
    yield from decoder.answer.ready()


class _RunPieces:
    """Base tokens of a chunk on their way to pieces: text, prediction, reason, tokens; one piece per whole character."""

    def __init__(self) -> None:
        self._pieces: list[tuple[str, Prediction, Reason, int]] = []
        self._begun: tuple[Prediction, Reason] | None = None
        self._waiting = 0

    @property
    def text(self) -> str:
        return "".join(piece[0] for piece in self._pieces)

    def feed(self, stream: TextStream, prediction: Prediction, reason: Reason) -> None:
        self._begun = self._begun or (prediction, reason)
        self._waiting += 1
        text = stream.feed(prediction.token)
        if not stream.pending:
            self._pieces.append((text, *self._begun, self._waiting))
            self._begun, self._waiting = None, 0

    def take(self) -> list[tuple[str, Prediction, Reason, int]]:
        pieces, self._pieces = self._pieces, []
        return pieces
