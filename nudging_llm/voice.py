"""What the decoder asks for, and what it must know of a model's text: the border between rules and compute.

``Ask`` goes out of the decoder, a ``Prediction`` comes back. ``Voice`` is one model's way to spell its prompt and an
answer as tokens; ``PromptVoice`` is the implementation over a ``TextCodec``.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from .gates import Prediction
from .provenance import Piece
from .tokenization import AnswerPath, Detokenizer, TextCodec

Model = Literal["base", "nudging"]
#: For each position the tokens that may be chosen, one bit each from the lowest; None: any.
Masks = Sequence[bytes] | None


@dataclass(frozen=True, slots=True)
class Ask:
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
Asking = Generator["Ask | Piece", "Prediction | None", Any]


class TextStream(Protocol):
    """Turns tokens into text as soon as characters are whole."""

    @property
    def pending(self) -> bool: ...

    def feed(self, token: int) -> str: ...

    def copy(self) -> TextStream: ...


class Voice(Protocol):
    """One model's tokens for its prompt and an answer; no compute."""

    context_length: int | None

    def encode(self, answer: str) -> list[int]:
        """Tokens of the prompt followed by the answer."""
        ...

    def settle(self, answer: str) -> None:
        """The answer will only grow from here."""
        ...

    def token_text(self, token: int) -> str:
        """Text of one token inside a document; empty if it ends the text."""
        ...

    def is_end(self, token: int) -> bool:
        """Whether the token ends the text."""
        ...

    def opens_call(self, token: int) -> bool:
        """Whether the token is a control token with which the model begins a tool call."""
        ...

    def text_stream(self) -> TextStream:
        """A stream for tokens that begin at a whole character."""
        ...


class PromptVoice:
    """A ``Voice`` over a text codec.

    Args:
        codec: the model's tokenizer.
        prompt_ids: tokens that stand first (a rendered chat template, or just BOS).
        prompt_text: plain text after them that is tokenised together with the answer.
        context_length: the model's, in tokens; None if unlimited.
    """

    def __init__(
        self, codec: TextCodec, prompt_ids: Sequence[int], prompt_text: str, context_length: int | None
    ) -> None:
        self._codec = codec
        self._path = AnswerPath(codec, prompt_ids, prompt_text)
        self.context_length = context_length
        self.encode = self._path.encode
        self.settle = self._path.settle
        self.token_text = codec.token_text
        self.is_end = codec.is_end
        self.opens_call = codec.call_openers.__contains__
        #: Whether a space joins the prompt to an answer that begins with none.
        self.joins = bool(prompt_text) and not prompt_text[-1].isspace()

    def text_stream(self) -> Detokenizer:
        """A stream for tokens that begin at a whole character."""
        return Detokenizer(self._codec)
