"""One answer from its beginning to its end: the algorithm, and what holds however it ends.

``decode`` and ``decode_alone`` are generators as ``algorithm.py`` describes them; they return an ``Outcome``.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass

from ..config import NudgingConfig
from ..protocol import Model, Prediction, PromptEncoder, Query, Steps
from ..provenance import FinishReason, Piece, Reason
from .algorithm import base_run, nudged
from .answer import Answer
from .constraint import UNCONSTRAINED, AnswerConstraint
from .costs import ForwardCosts
from .reader import BaseReader, ModelReader, NudgingReader
from .rules import Rules
from .turn import AnswerEnded, Turn


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a decode ended.

    Attributes:
        finish_reason: why.
        rounds: how many there were.
        cut_at_marker: whether a base run was cut where it began another turn of the transcript.
        context_full: the model whose context was full, if that ended it.
        closed_early: whether the constraint brought the text to a valid end that no model had written.
        call_left_out: whether a call was begun for whose shortest end max_tokens left no room.
    """

    finish_reason: FinishReason
    rounds: int
    cut_at_marker: bool
    context_full: Model | None
    closed_early: bool = False
    call_left_out: bool = False


Decode = Generator["Query | Piece", "Prediction | None", Outcome]


def decode(
    base: PromptEncoder,
    nudging: PromptEncoder,
    config: NudgingConfig,
    markers: Sequence[str],
    clock: Callable[[], float],
    costs: Mapping[Model, ForwardCosts] | None = None,
    constraint: AnswerConstraint = UNCONSTRAINED,
) -> Decode:
    """A nudged answer.

    Args:
        base, nudging: the two models' encoders, each with its prompt inside.
        config: the rules' options.
        markers: strings with which the base prompt's template begins a turn.
        clock: seconds since the request began.
        costs: of the models' forwards: how many guesses are worth evaluating.
        constraint: what the answer must look like.

    Yields:
        ``Query``, to be answered by ``send``-ing a ``Prediction``; and ``Piece``, in order.

    Returns:
        How it ended.
    """
    costs = costs or {"base": ForwardCosts(), "nudging": ForwardCosts()}
    answer = Answer({"base": base, "nudging": nudging}, config, clock, constraint)
    base_reader = BaseReader(base, answer, config, costs["base"])
    nudging_reader = NudgingReader(nudging, answer, config, costs["nudging"])
    steps = nudged(base_reader, nudging_reader, answer, Rules.of(config, markers))
    return (yield from _to_the_end(steps, answer))


def decode_alone(
    model: Model,
    encoder: PromptEncoder,
    config: NudgingConfig,
    markers: Sequence[str],
    clock: Callable[[], float],
    costs: Mapping[Model, ForwardCosts] | None = None,
    constraint: AnswerConstraint = UNCONSTRAINED,
) -> Decode:
    """An answer by one model alone, for comparison: no gate, no rounds; tokens are counted with its own tokenizer."""
    answer = Answer({model: encoder}, config, clock, constraint)
    reader = ModelReader(model, encoder, answer, config, costs[model] if costs else ForwardCosts())
    rules = Rules.of(config, markers if model == "base" else (), alone=True)
    return (yield from _to_the_end(_alone(reader, answer, rules), answer))


def _alone(reader: ModelReader, answer: Answer, rules: Rules) -> Steps:
    yield from answer.write_forced(reader.model)
    first = yield from reader.predict(reader.encode(answer.text), answer.text)
    yield from base_run(reader, None, answer, rules, Turn(reader.model, Reason.ALONE, first))
    raise AnswerEnded("stop")


def _to_the_end(steps: Steps, answer: Answer) -> Decode:
    """Run ``steps`` to the end of the answer; bring it to a valid end, and let go what was held back."""
    reason: FinishReason = "stop"
    full: Model | None = None
    try:
        yield from steps
    except AnswerEnded as end:
        reason, full = end.reason, end.full
    closed = answer.close(cut=reason == "length")
    yield from answer.flush()
    reason = "length" if closed and reason == "stop" else reason
    return Outcome(reason, answer.round, answer.cut_at_marker, full, closed, answer.call_left_out)
