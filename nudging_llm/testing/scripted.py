"""A generator whose two models write what a script says, under the real decoder, grammar, parser and prompts.

A script is a function: it takes a model's prompt as text and returns the answer. Use it where a test needs a certain
answer, for example a tool call. Only the numbers that a forward would give are replaced.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ..config import NudgingConfig
from ..generator import NudgingGenerator
from ..text.base_template import BaseTemplate
from ..text.tokenizer import TokenizerAdapter
from .fake_models import FakeEngine
from .tiny import tiny_tokenizer

#: From the prompt's text to the answer.
Script = Callable[[str], str]


class ScriptedModel:
    """Predicts, with probability ``prob``, the text that ``script`` gives for the prompt, and then the end.

    Args:
        kind: its name.
        opener: the text at the end of each prompt, after which the answer begins.
    """

    seed = 0

    def __init__(self, kind: str, script: Script, prob: float, opener: str) -> None:
        self.kind, self._script, self._prob, self._opener = kind, script, prob, opener
        self.tokenizer = tiny_tokenizer(chat=True)
        self.codec = TokenizerAdapter(self.tokenizer, kind)
        self._end = self.tokenizer.eos_token_id

    def next(self, tokens: Sequence[int]) -> tuple[int, float]:
        """The next token of the script's answer; the end where the text is no beginning of it."""
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


class ScriptedEngine(FakeEngine):
    """An engine over a ``ScriptedModel``, with the tokenizer that a generator asks an engine for."""

    def __init__(self, model: ScriptedModel) -> None:
        super().__init__(model)
        self.name, self.tokenizer = model.kind, model.codec


def scripted_pair(
    script: Script, config: NudgingConfig | None = None, prob: float = 0.9, opener: str = "Answer:"
) -> NudgingGenerator:
    """A generator whose two models both follow ``script``.

    Args:
        script: see ``rules`` for the usual way to make one.
        config: default options, as a generator's.
        prob: the base model's top-1 probability everywhere; below the threshold, the nudging model writes all.
        opener: what the base model's answer stands after, in the template; the script's answers may not hold it.
    """

    template = BaseTemplate()
    if opener != "Answer:":
        template = replace(template, template=template.template.replace("Answer:", opener))
    base: Any = ScriptedEngine(ScriptedModel("scripted-base", script, prob, opener))
    nudging: Any = ScriptedEngine(ScriptedModel("scripted-nudging", script, 0.9, "<|turn|>assistant\n"))
    return NudgingGenerator(base, nudging, config, template)


def rules(*pairs: tuple[str, str], otherwise: str = "Hello! How can I help you today?") -> Script:
    """A script: the answer of the first pattern found in the prompt, from its last question on.

    Args:
        pairs: regular expressions and their answers, in the order in which they are tried.
        otherwise: the answer where none is found.

    Example:
        >>> rules(("capital", "Paris."), otherwise="Who knows?")("Question: What is the capital of France?")
        'Paris.'
    """

    def script(prompt: str) -> str:
        last = max(prompt.rfind("Question:"), prompt.rfind("<|turn|>user\n"))
        tail = prompt[max(last, 0) :]
        return next((answer for pattern, answer in pairs if re.search(pattern, tail, re.DOTALL)), otherwise)

    return script


def tool_call(name: str, **arguments: Any) -> str:
    """The text of a tool call, for a script: written as the package asks models to write it.

    Example:
        >>> tool_call("weather", city="Oslo")
        '<tool_call>\\n{"name": "weather", "arguments": {"city": "Oslo"}}\\n</tool_call>'
    """
    written = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>\n{written}\n</tool_call>"
