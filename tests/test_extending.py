"""What others add from outside, without touching the package: a gate, a draft source, a call style, a backend for a model.

docs/contributing.md says for each which protocol it follows; what is defined here is all that it takes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import pytest

from nudging_llm import NudgingConfig, NudgingGenerator, Prediction
from nudging_llm.decoding.costs import ForwardCosts
from nudging_llm.engines.base import Capabilities, Counts
from nudging_llm.protocol import Query
from nudging_llm.provenance import Piece, Reason
from nudging_llm.testing.comparing import timeless
from nudging_llm.testing.fake_models import FakeEngine, FakeModel
from nudging_llm.testing.scripted import scripted_pair
from nudging_llm.tools.calls import ToolCall, new_call_id
from nudging_llm.tools.definitions import Tool
from nudging_llm.tools.parser import parse_calls
from nudging_llm.tools.streaming import ToolCallParser
from nudging_llm.tools.styles import registered, styles

TEXT = "One two three four five six seven eight nine ten and so on, one two three four five six seven eight."
PROMPTS = {"base_prompt": "Question: why?\nAnswer:", "nudging_prompt": "user says"}


# -- a gate -----------------------------------------------------------------------------------------------------------


class EveryOther:
    """Sure at every second token."""

    def __init__(self) -> None:
        self.asked = 0

    def confident(self, prediction: Prediction, threshold: float) -> bool:
        self.asked += 1
        return self.asked % 2 == 0


def test_a_gate():
    gate = EveryOther()
    record = scripted_pair(lambda prompt: TEXT, prob=0.0).generate("Count.", gate=gate, prefix_rule=False).provenance
    assert gate.asked and {piece.source for piece in record.pieces} == {"base", "nudging"}
    assert record.config["gate"] == "EveryOther"


# -- a draft source ---------------------------------------------------------------------------------------------------


class Oracle:
    """Knows the whole text, as somebody may who has a cache of answers."""

    name, prior = "oracle", 0.9

    def __init__(self, tokens: list[int]) -> None:
        self._tokens = tokens
        self.seen = 0

    def propose(self, tokens: list[int]) -> Sequence[int] | None:
        for length in range(min(len(tokens), len(self._tokens)), 3, -1):  # what of the text stands at the end
            if tokens[-length:] == self._tokens[:length]:
                return self._tokens[length:]
        return None

    def observe(self, tokens: Sequence[int], in_text: bool = True) -> None:
        self.seen += 1


def test_a_draft_source():
    made: list[tuple[str, Oracle]] = []

    def oracle(model: str) -> Oracle:
        made.append((model, Oracle(pair.base.tokenizer.encode(TEXT))))
        return made[-1][1]

    pair = scripted_pair(lambda prompt: TEXT)
    for backend in (pair.base, pair.nudging):
        backend.worker.costs = ForwardCosts.fixed((1, 1.0), (64, 1.1))
    plain = pair.generate("Count.")
    pair.clear_cache()
    drafted = pair.generate("Count.", draft_sources=(oracle,))
    assert drafted.text == plain.text == TEXT
    assert timeless(drafted.provenance.pieces) == timeless(plain.provenance.pieces)
    assert [model for model, _ in made] == ["base", "nudging"] and all(source.seen for _, source in made)
    forwards = [result.provenance.base.forwards + result.provenance.nudging.forwards for result in (plain, drafted)]
    assert forwards[1] < forwards[0] / 2
    assert drafted.provenance.config["draft_sources"] == ["oracle"]


# -- a way of writing calls -------------------------------------------------------------------------------------------


class Angled:
    """``<<name {"argument": value}>>``"""

    control_tokens: frozenset[str] = frozenset()
    _WHOLE = re.compile(r"<<([\w.]+) (\{.*?\})>>")

    def find(self, text: str, at: int, names: frozenset[str]) -> tuple[int, int] | None:
        found = self._WHOLE.search(text, at)
        return (found.start(), found.start()) if found else None

    def read(self, text: str, at: int, names: frozenset[str]) -> tuple[list[ToolCall], int]:
        found = self._WHOLE.match(text, at)
        if found is None or found[1] not in names:
            return [], at
        return [ToolCall(new_call_id(), found[1], json.loads(found[2]), found[0], at)], found.end()

    def held_from(self, text: str, at: int) -> int:
        start = text.find("<<", at)
        return start if start >= 0 else len(text) - text.endswith("<")


CALLING = 'Let me see. <<add {"n": 3}>> So there.'
TOOLS = [Tool("add", "Add.", {"type": "object", "properties": {"n": {"type": "integer"}}})]


def test_a_call_style():
    before = styles()
    assert not parse_calls(CALLING, TOOLS).calls
    with registered(Angled()):
        [call] = parse_calls(CALLING, TOOLS).calls
        assert (call.name, call.arguments, call.start) == ("add", {"n": 3}, 12)
        result = scripted_pair(lambda prompt: CALLING).generate("Add.", tools=TOOLS)
        assert [(call.name, call.arguments) for call in result.calls] == [("add", {"n": 3})]
        assert result.content == "Let me see.  So there."
    assert styles() == before


@pytest.mark.parametrize("size", [1, 3, 40])
def test_a_call_style_in_a_stream(size):
    with registered(Angled()):
        result = scripted_pair(lambda prompt: CALLING).generate("Add.", tools=TOOLS)
        parser, found = ToolCallParser(True), []
        for at in range(0, len(CALLING), size):
            found += parser.feed(Piece(CALLING[at : at + size], at, "base", Reason.CONFIDENT, 1, 0.9, "", 1, 0.0))
        settled = "".join(part.piece.text for part in found)
        assert "Let me see. ".startswith(settled) and (size == 40 or settled)
        found += parser.end(result)
    assert "".join(part.piece.text for part in found if part.channel == "content") == "Let me see.  So there."
    [delta] = [delta for part in found for delta in part.calls]
    assert (delta.name, json.loads(delta.arguments)) == ("add", {"n": 3})


# -- a backend --------------------------------------------------------------------------------------------------------


class Instant:
    """A model that answers at once, without an engine, a cache or a thread."""

    revision = context_length = vocabulary_size = worker = None
    capabilities = Capabilities(drafts=False, masks=False, sampling=False, statistics=frozenset())

    def __init__(self, model: FakeModel) -> None:
        self.name, self.tokenizer, self.costs, self.model = "instant", model.codec, ForwardCosts(can_draft=False), model

    def open(self, prompt: Sequence[int], params: Any) -> InstantSource:
        return InstantSource(self.model)

    def clear(self) -> None: ...

    def close(self) -> None: ...


class InstantSource:
    def __init__(self, model: FakeModel) -> None:
        self.counts, self._model = Counts(), model

    def known(self, query: Query) -> Prediction | None:
        return None

    def submit(self, query: Query) -> Future[Prediction]:
        self.counts.forwards += 1
        token, prob = self._model.next(query.tokens)
        answer: Future[Prediction] = Future()
        answer.set_result(Prediction(token, prob, token))
        return answer

    def withdraw(self, future: Future[Prediction]) -> None: ...

    def close(self) -> None: ...


@pytest.mark.parametrize("seed", range(5))
async def test_a_backend(seed):
    models = [
        FakeModel("gpt_bpe", 4 * seed + 4, agree=240, low=20),
        FakeModel("bytes", 4 * seed + 8, agree=240, low=20),
    ]
    config = NudgingConfig(max_tokens=60)
    engines = NudgingGenerator(FakeEngine(models[0]), FakeEngine(models[1]), config)
    backends = NudgingGenerator(Instant(models[0]), Instant(models[1]), config)
    mixed = NudgingGenerator(FakeEngine(models[0]), Instant(models[1]), config)
    expected = engines.generate_raw(**PROMPTS)
    for generator in (backends, mixed):
        found = generator.generate_raw(**PROMPTS)
        assert timeless(found.provenance.pieces) == timeless(expected.provenance.pieces)
        assert found.provenance.nudging.name == "instant" and found.provenance.nudging.forwards
