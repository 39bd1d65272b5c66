"""A prompt and a growing answer as tokens: ``PromptEncoder`` over one model's tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

from .incremental import Detokenizer, IncrementalEncoder
from .tokenizer import TokenizerAdapter


class IncrementalPromptEncoder:
    """A ``PromptEncoder`` over a text codec.

    Args:
        codec: the model's tokenizer.
        prompt_ids: tokens that stand first (a rendered chat template, or just BOS).
        prompt_text: plain text after them that is tokenised together with the answer.
        context_length: the model's, in tokens; None if unlimited.
    """

    def __init__(
        self, codec: TokenizerAdapter, prompt_ids: Sequence[int], prompt_text: str, context_length: int | None
    ) -> None:
        self._codec = codec
        self._path = IncrementalEncoder(codec, prompt_ids, prompt_text)
        self.context_length = context_length
        self.encode = self._path.encode
        self.commit = self._path.commit
        self.token_text = codec.token_text
        self.is_end = codec.is_end
        self.starts_call = codec.call_start_tokens.__contains__
        #: Whether a space joins the prompt to an answer that begins with none.
        self.joins = bool(prompt_text) and not prompt_text[-1].isspace()

    def text_stream(self) -> Detokenizer:
        """A stream for tokens that begin at a whole character."""
        return Detokenizer(self._codec)
