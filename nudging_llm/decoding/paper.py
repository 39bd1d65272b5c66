"""What only ``NudgingConfig.paper()`` does: the authors' released code reads base runs in chunks, and looks for equal nudges.

Knows the two rules against repetition that this makes possible; leaves asking to ``reader.py`` and writing to ``answer.py``.
"""

from __future__ import annotations

from ..protocol import Prediction, Steps
from ..provenance import Reason
from .answer import Answer, RunPiece
from .reader import BaseReader, NudgingReader, TokenRun
from .rules import Rules
from .turn import AnswerEnded, Turn


class EqualNudges:
    """A nudge identical to the last one four times running ends the answer, and is not written."""

    def __init__(self) -> None:
        self._last, self._repeats = "", 0

    def ends_with(self, nudge: str) -> bool:
        """Whether ``nudge`` is the fourth."""
        self._repeats = self._repeats + 1 if nudge == self._last else 0
        self._last = nudge
        return self._repeats >= 3


def base_run_in_chunks(base: BaseReader, nudging: NudgingReader, answer: Answer, rules: Rules, turn: Turn) -> Steps:
    """A base run in chunks of K tokens, with two rules against repetition. Returns the next turn.

    The first chunk begins with the handed-over token. A chunk whose whole text already stands in this run, or whose
    accepted part is longer than five words and already stands in the answer, ends the run and is not written.
    """
    prediction = turn.evidence
    assert prediction is not None
    if base.is_end(prediction.token):
        return Turn("nudging", Reason.BASE_ENDED, prediction, base_ended=True)
    run_start, size = len(answer.text), rules.config.lookahead - 1
    run = TokenRun(base.encoder, base.encode(answer.text))
    yield from _write(answer, [run.take(prediction, turn.why)])
    while answer.has_room:
        start, at_start, stopped = len(run.tokens), None, None
        chunk: list[RunPiece | None] = []
        while len(run.tokens) - start < size and stopped is None:
            yield from base.expect_run(run.tokens, nudging)
            prediction = yield from base.predict(run.tokens, "")
            at_start = at_start or prediction
            if base.is_end(prediction.token) or not rules.sure(prediction):
                stopped = prediction
            else:
                chunk.append(run.take(prediction, Reason.CONFIDENT))
        written, accepted = answer.text[run_start:], "".join(piece.text for piece in chunk if piece)
        repeated = len(accepted.split(" ")) > 5 and accepted in answer.text
        if not repeated and len(run.tokens) > start and accepted in written:
            rest = yield from _rest_of_chunk(base, run, stopped, size - (len(run.tokens) - start))
            repeated = accepted + rest in written
        if repeated or size == 0:  # an empty chunk stands everywhere
            return Turn("nudging", Reason.BASE_ENDED, at_start)
        yield from _write(answer, chunk)
        if stopped is not None and base.is_end(stopped.token):
            return Turn("nudging", Reason.BASE_ENDED, stopped, base_ended=True)
        if stopped is not None:
            return Turn("nudging", Reason.UNCERTAIN, stopped)
        size = rules.config.lookahead
    raise AnswerEnded("length")


def _rest_of_chunk(base: BaseReader, run: TokenRun, stopped: Prediction | None, left: int) -> Steps:
    """Returns the text of a chunk after its accepted part: what the base model would have written unsure."""
    stream, tokens, text, prediction = run.stream.copy(), run.tokens, "", stopped
    while left > 0 and prediction is not None and not base.is_end(prediction.token):
        base.expect_nothing()  # the run ends with this chunk
        text += stream.feed(prediction.token)
        tokens = [*tokens, prediction.token]
        left -= 1
        prediction = (yield from base.predict(tokens, "")) if left else None
    return text


def _write(answer: Answer, pieces: list[RunPiece | None]) -> Steps:
    for piece in pieces:
        if piece is not None and answer.capped(piece.n_tokens):
            raise AnswerEnded("length")
        if piece is not None:
            yield from answer.write_run(piece, "base")
