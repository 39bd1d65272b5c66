"""A pair of models that predict what a script says, under the real decoder, grammar, parser and prompts.

For asserts on values that tiny models cannot be relied on to get right. Nothing of the product is replaced but the numbers
that a forward would give.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from nudging_llm import BaseTemplate, NudgingConfig, NudgingGenerator
from nudging_llm.text.tokenizer import TokenizerAdapter

from .conftest import tiny_tokenizer
from .fakes import FakeEngine

Script = Callable[[str], str]


class ScriptedModel:
    """Predicts, with probability ``prob``, the text that ``script`` gives for the prompt; its end after it."""

    seed = 0

    def __init__(self, kind: str, script: Script, prob: float, opener: str) -> None:
        self.kind, self._script, self._prob, self._opener = kind, script, prob, opener
        self.tokenizer = tiny_tokenizer(chat=True)
        self.codec = TokenizerAdapter(self.tokenizer, kind)
        self._end = self.tokenizer.eos_token_id

    def next(self, tokens: Sequence[int]) -> tuple[int, float]:
        text = self.codec.decode(tokens)
        at = text.rfind(self._opener) + len(self._opener)
        prompt, written = text[:at], text[at:]
        lead = " " if self._opener.endswith(":") else ""
        answer = lead + self._script(prompt)
        wanted, so_far = self.codec.encode(answer), self.codec.encode(written)
        if "\ufffd" in written:  # in the middle of a character
            so_far = list(tokens[-self._since(tokens, prompt) :])
        if wanted[: len(so_far)] != so_far or len(so_far) == len(wanted):
            return self._end, self._prob
        return wanted[len(so_far)], self._prob

    def _since(self, tokens: Sequence[int], prompt: str) -> int:
        return len(tokens) - len(self.codec.encode_control(prompt))


def scripted_pair(
    script: Script, config: NudgingConfig | None = None, prob: float = 0.9, opener: str = "Answer:"
) -> NudgingGenerator:
    """A generator of which both models follow ``script``, a function of the prompt's text.

    Args:
        prob: the base model's top-1 probability everywhere; below the threshold, the nudging model writes all.
        opener: what the base model's answer stands after, in the template; the script's answers may not hold it.
    """

    def engine(kind: str, opener: str, prob: float) -> Any:
        model = ScriptedModel(kind, script, prob, opener)
        made: Any = FakeEngine(model)  # type: ignore[arg-type]
        made.name, made.tokenizer = kind, model.codec
        return made

    template = BaseTemplate()
    if opener != "Answer:":
        template = replace(template, template=template.template.replace("Answer:", opener))
    base, nudging = engine("scripted-base", opener, prob), engine("scripted-nudging", "<|turn|>assistant\n", 0.9)
    return NudgingGenerator(base, nudging, config, template)


def rules(*pairs: tuple[str, str], otherwise: str = "Hello! How can I help you today?") -> Script:
    """A script: the answer of the first pattern that the prompt, from its last question on, matches."""

    def script(prompt: str) -> str:
        last = max(prompt.rfind("Question:"), prompt.rfind("<|turn|>user\n"))
        tail = prompt[max(last, 0) :]
        return next((answer for pattern, answer in pairs if re.search(pattern, tail, re.DOTALL)), otherwise)

    return script
