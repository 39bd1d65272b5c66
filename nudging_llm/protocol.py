"""What crosses the border between rules and compute.

A ``Query`` goes out of the decoder, a ``Prediction`` comes back; ``PredictionParams`` say how a prediction is made. A
``PromptEncoder`` is one model's way to spell its prompt and an answer as tokens. Knows no model, no tokenizer and no rule.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from .provenance import Piece

Model = Literal["base", "nudging"]
#: For each position the tokens that may be chosen, one bit each from the lowest; None: any.
Masks = Sequence[bytes] | None


@dataclass(frozen=True, slots=True)
class Prediction:
    """One model's prediction of one next token.

    Attributes:
        top: id of the most likely token.
        prob: its raw probability, 0 … 1.
        token: id of the token chosen: ``top``, a sample if sampling was asked for, or the best that a grammar allows.
        entropy: of the raw distribution, in nats; None unless a gate asked for it.
        margin: ``prob`` minus the second highest probability; None unless a gate asked for it.
        allowed: whether a grammar, if there is one, allows ``top``.
    """

    top: int
    prob: float
    token: int
    entropy: float | None = None
    margin: float | None = None
    allowed: bool = True


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose a token where it is not simply the most likely one.

    One random number per position, made from the seed and the position alone, so that neither drafting nor the order
    of evaluation can change a sampled text.
    """

    temperature: float
    top_p: float
    top_k: int | None
    seed: int

    def number(self, position: int) -> float:
        """The random number, 0 … 1, for the token at ``position`` (its index in the sequence)."""
        return random.Random(self.seed * 1_000_003 + position).random()


@dataclass(frozen=True, slots=True)
class PredictionParams:
    """What a prediction must hold: the way of choosing, and statistics beyond the top-1 probability.

    ``grammar`` names what the choice is held to; predictions made for another one are of no use.
    """

    sampling: Sampling | None = None
    needs: frozenset[str] = frozenset()
    grammar: str | None = None


GREEDY = PredictionParams()


@dataclass(frozen=True, slots=True)
class Query:
    """A request for the prediction after ``tokens``.

    Attributes:
        model: whose prediction.
        tokens: the whole sequence, prompt included.
        stable: how many of ``tokens`` will not be taken back.
        guess: makes a guess at the tokens that follow, to be called only if a forward is needed: evaluated with it, the
            guess may answer later asks.
        masks: which tokens may be chosen after ``tokens`` and after each guess, as bits; leaves out guesses that may not. None if
            all may be chosen, always.
    """

    model: Model
    tokens: list[int]
    stable: int
    guess: Callable[[], list[int]] = list
    masks: Callable[[list[int]], tuple[list[int], Masks]] | None = None


#: What a decode is made of: asks and pieces go out, predictions come in.
Steps = Generator["Query | Piece", "Prediction | None", Any]


class TextStream(Protocol):
    """Turns tokens into text as soon as characters are whole."""

    @property
    def pending(self) -> bool: ...

    def feed(self, token: int) -> str: ...

    def copy(self) -> TextStream: ...


class PromptEncoder(Protocol):
    """One model's tokens for its prompt and an answer; no compute."""

    context_length: int | None

    def encode(self, answer: str) -> list[int]:
        """Tokens of the prompt followed by the answer."""
        ...

    def commit(self, answer: str) -> None:
        """The answer will only grow from here."""
        ...

    def token_text(self, token: int) -> str:
        """Text of one token inside a document; empty if it ends the text."""
        ...

    def is_end(self, token: int) -> bool:
        """Whether the token ends the text."""
        ...

    def starts_call(self, token: int) -> bool:
        """Whether the token is a control token with which the model begins a tool call."""
        ...

    def text_stream(self) -> TextStream:
        """A stream for tokens that begin at a whole character."""
        ...
