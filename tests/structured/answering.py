"""Answers of fake pairs under a grammar: what the tests of this folder share."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema

from nudging_llm import NudgingConfig
from nudging_llm.decoding.decode import decode
from nudging_llm.protocol import GREEDY
from nudging_llm.result import Result
from nudging_llm.runtime.local import LocalBackend
from nudging_llm.runtime.request import ModelPart, Request
from nudging_llm.runtime.scheduler import Scheduler
from nudging_llm.runtime.streams import Stream
from nudging_llm.structured.constraint import Constraint
from nudging_llm.structured.grammar import Grammar
from nudging_llm.testing.fake_models import KINDS, FakeEngine, FakeModel
from nudging_llm.text.prompt_encoder import IncrementalPromptEncoder

WHOLE = {"type": "integer"}


def models_for(seed: int, end: int = 8) -> list[FakeModel]:
    rng = random.Random(seed)
    language = rng.randrange(4)
    return [FakeModel(rng.choice(KINDS), rng.randrange(2**20) * 4 + language, end=end) for _ in range(2)]


def answer(grammar: Grammar, models: list[FakeModel], config: NudgingConfig, crop: bool = True) -> Result:
    backends = {
        model: LocalBackend(FakeEngine(fake, crop)) for model, fake in zip(("base", "nudging"), models, strict=True)
    }
    voices = {
        "base": IncrementalPromptEncoder(models[0].codec, models[0].codec.bos_ids, "Question: why?\nAnswer:", None),
        "nudging": IncrementalPromptEncoder(models[1].codec, models[1].codec.encode("user says"), "", None),
    }
    constraint = Constraint(grammar, {name: fake.codec for name, fake in zip(voices, models, strict=True)}, ["base"])
    parts = {
        name: ModelPart(backends[name], GREEDY, voice.encode("")).held_to(grammar) for name, voice in voices.items()
    }

    def start(clock):
        return decode(voices["base"], voices["nudging"], config, ("\nQuestion:",), clock, None, constraint)

    scheduler = Scheduler([backend.worker for backend in backends.values()])
    stream = Stream(Request(parts, scheduler, start, config, constraint=constraint))
    for _ in stream:
        pass
    return stream.result


def valid(schema: Any, text: str) -> None:
    jsonschema.validate(json.loads(text), schema, jsonschema.Draft202012Validator)


class Scripted(FakeModel):
    """A model that would write one text, whatever the grammar makes of it."""

    def __init__(self, kind: str, prompt: str, script: str, prob: float) -> None:
        super().__init__(kind, 1)
        self.prompt, self.script, self.prob = prompt, script, prob

    def next(self, tokens: Any) -> tuple[int, float]:
        text = self.codec.decode([token for token in tokens if not self.codec.is_end(token)])
        written = text.partition(self.prompt)[2].lstrip(" ")
        rest = self.codec.encode(self.script[len(written) :])
        return (rest[0] if rest else self.codec._backend.token_to_id("<end>")), self.prob


CALL = {"name": "add", "parameters": {"type": "object", "properties": {"n": WHOLE}, "required": ["n"]}}
