"""What went wrong once, or would have, when models are held to a grammar: each case by itself."""

from __future__ import annotations

import asyncio
import gc
import json
import time
import weakref
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

import nudging_llm.structured.vocabulary as vocabulary_module
from nudging_llm import GrammarError, NudgingConfig, NudgingGenerator
from nudging_llm.provenance import Reason
from nudging_llm.structured.constraint import Constraint
from nudging_llm.structured.grammar import calls_grammar, choices_grammar, json_grammar, regex_grammar
from nudging_llm.structured.vocabulary import vocabulary
from nudging_llm.testing.fake_models import FakeModel, codec, tokenizer
from nudging_llm.testing.tiny import CHAT_TEMPLATE, tiny_model, tiny_tokenizer
from nudging_llm.text.tokenizer import TokenizerAdapter
from nudging_llm.tools.definitions import read_tools
from nudging_llm.tools.parser import parse_calls
from nudging_llm.tools.styles.hermes import HERMES
from tests.structured.answering import CALL, Scripted, answer, valid

TOOLS = read_tools([CALL, {**CALL, "name": "frob"}])
FREE_CALLS = calls_grammar(HERMES.schema(TOOLS), HERMES.begin, HERMES.end, True, "<tool_call>")
ONLY_CALLS = calls_grammar(HERMES.schema(TOOLS), HERMES.begin, HERMES.end, True, None)


def call_text(name: str, n: int) -> str:
    return HERMES.write(name, {"n": n})


def scripted(script: str, base: float = 0.1, kind: str = "gpt_bpe") -> list[FakeModel]:
    return [Scripted(kind, "Answer:", script, base), Scripted(kind, "user says", script, 0.9)]


class Stubborn(FakeModel):
    """Would write 'Z' for a name, surely; after a 'Z', surely an 'f'."""

    def __init__(self) -> None:
        super().__init__("gpt_bpe", 1)

    def next(self, tokens: Any) -> tuple[int, float]:
        text = self.codec.decode([token for token in tokens if not self.codec.is_end(token)])
        sure = text.endswith("Z") or '"name": "' in text
        return self.codec.encode("f" if text.endswith("Z") else "Z")[0], 0.95 if sure else 0.1


def test_a_guess_beyond_the_opener_is_not_chosen_freely() -> None:
    for models in (
        [Stubborn(), Scripted("gpt_bpe", "user says", call_text("add", 12), 0.9)],
        scripted("Earlier: " + call_text("zap", 12) + " and " + call_text("zap", 12)),
    ):
        config = NudgingConfig(max_tokens=150, end_check="lookahead", lookahead=64)
        found, plain = (
            answer(FREE_CALLS, models, config),
            answer(FREE_CALLS, models, config.updated({"drafting": False})),
        )
        assert found.text == plain.text
        assert parse_calls(found.text, TOOLS).calls
        assert [piece.source for piece in found.provenance.pieces] == [
            piece.source for piece in plain.provenance.pieces
        ]


@pytest.mark.parametrize("base", [0.1, 0.9])
def test_equal_rows_are_no_circle(base: float) -> None:
    row = {"sensor_name": "left", "ok": True, "note": "none"}
    properties = {
        "sensor_name": {"enum": ["left", "right"]},
        "ok": {"type": "boolean"},
        "note": {"enum": ["none", "some"]},
    }
    schema = {"type": "array", "items": {"type": "object", "properties": properties, "required": list(row)}}
    for rows in ({}, {"minItems": 5, "maxItems": 5}):
        text = json.dumps([row] * 5)
        found = answer(json_grammar(schema | rows), scripted(text, base), NudgingConfig(max_tokens=600))
        assert (found.text, found.provenance.finish_reason) == (text, "stop")
    zeros = json.dumps([0] * 60)
    found = answer(
        json_grammar({"type": "array", "items": {"type": "integer"}}), scripted(zeros, base), NudgingConfig()
    )
    assert found.text == zeros


@pytest.mark.parametrize(
    "schema", [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "integer"}]
)
def test_a_circle_in_one_value_is_ended(schema: dict[str, Any]) -> None:
    value: Any = 10**400 if schema["type"] == "integer" else "and the water runs, and so on, " * 40
    text = json.dumps([value, value] if schema["type"] == "array" else value)
    found = answer(json_grammar(schema), scripted(text, 0.9), NudgingConfig())
    valid(schema, found.text)
    assert found.provenance.finish_reason == "repetition" and len(found.text) < 200
    assert {warning.code for warning in found.provenance.warnings} >= {"repetition"}


@pytest.mark.parametrize("stop", ["\n\n", "Sure", "."])
def test_a_stop_string_just_before_a_call_counts(stop: str) -> None:
    script = "Well. Sure.\n\n" + call_text("add", 12)
    found = answer(FREE_CALLS, scripted(script), NudgingConfig(max_tokens=150, stop=[stop], lookahead=64))
    assert found.text == script[: script.index(stop)]
    assert found.provenance.finish_reason == "stop_string"


@pytest.mark.parametrize("stop_on", ["nudging", "either", "both"])
def test_after_a_call_the_nudging_model_says_whether_there_is_another(stop_on: str) -> None:
    script = "\n".join(call_text("add", n) for n in (12, 13, 14, 15))
    found = answer(ONLY_CALLS, scripted(script, 0.9), NudgingConfig(max_tokens=400, stop_on=stop_on))
    assert found.text == script and found.provenance.finish_reason == "stop"
    assert Reason.BASE_ENDED not in {piece.reason for piece in found.provenance.pieces}


def test_no_beginning_of_a_call_is_left_behind() -> None:
    script = "Let me see. " + call_text("add", 12)
    found = answer(FREE_CALLS, scripted(script, 0.9), NudgingConfig(max_tokens=24))
    assert found.text.rstrip() == "Let me see." and found.provenance.finish_reason == "length"
    assert found.provenance.text == found.text
    almost = "1 <tool and 2 <tool_c"
    assert answer(FREE_CALLS, scripted(almost, 0.9), NudgingConfig()).text == almost


def test_a_base_model_alone_may_begin_with_the_space_of_its_prompt() -> None:
    script = " Paris"
    models = [Scripted("bytes", "Answer:", script, 0.95), Scripted("bytes", "user says", "Rome", 0.9)]
    both = answer(choices_grammar(["Paris", "Rome"]), models, NudgingConfig())
    assert both.text == "Rome"  # the nudging model opens
    led = Constraint(choices_grammar(["Paris", "Rome", " lead"]), {"base": codec("bytes")}, ["base"])
    [space] = codec("bytes").encode(" ")
    _, masks = led.masks("base", "", (), codec("bytes").encode(" Par"))
    assert masks is not None and len(masks) == 5 and masks[0][space // 8] >> space % 8 & 1
    odd = regex_grammar(r"( yes(1|2)!|yes(3|4)\?)")
    for first, second in ((" yes1!", "yes3?"), ("yes3?", " yes1!")):
        for drafting in (True, False):
            pair = [Scripted("gpt_bpe", "Answer:", first, 0.9), Scripted("gpt_bpe", "user says", second, 0.9)]
            assert answer(odd, pair, NudgingConfig(drafting=drafting)).text in (" yes1!", " yes2!", "yes3?", "yes4?")


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int


def test_a_key_is_spelt_in_one_way() -> None:
    held = Constraint(json_grammar(Open.model_json_schema()), {})
    assert held.clip('{"a": 1, "\\u0061": "x"}') != '{"a": 1, "\\u0061": "x"}'
    assert held.clip('{"a": 1, "b": "x"}') == '{"a": 1, "b": "x"}'
    held = Constraint(json_grammar({"type": "string"}), {})
    assert held.clip('"line\\nbreak \\"quoted\\" \\\\ tab\\t"') == '"line\\nbreak \\"quoted\\" \\\\ tab\\t"'


def test_objects_that_hold_together_are_not_closed() -> None:
    outer = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    branch = {"properties": {"b": {"type": "integer"}}, "required": ["b"]}
    for schema in (
        outer | {"anyOf": [branch]},
        outer | {"$ref": "#/$defs/b", "$defs": {"b": {"type": "object", **branch}}},
    ):
        try:
            held = Constraint(json_grammar(schema), {})
        except GrammarError as error:
            assert "nsatisfiable" not in str(error)  # not understood, and said so
            continue
        way = held.closing("", lambda way: True)
        assert way is not None
        valid(schema, way)
    several = HERMES.schema(read_tools([{"name": "f", "parameters": {"allOf": [outer]} | {"type": "object"}}, CALL]))
    assert several


def test_formats_that_are_only_notes_are_let_go() -> None:
    schema = {
        "type": "object",
        "properties": {"path": {"type": "string", "format": "path"}, "d": {"type": "string", "format": "date"}},
        "required": ["path", "d"],
    }
    found = answer(json_grammar(schema), scripted('{"path": "x/y", "d": "2020-01-31"}'), NudgingConfig())
    assert json.loads(found.text) == {"path": "x/y", "d": "2020-01-31"}
    assert schema["properties"]["path"]["format"] == "path"  # the caller's own is as it was


def test_vocabularies_go_with_their_tokenizers() -> None:
    mine = TokenizerAdapter(tokenizer("bytes"), "mine")
    words = vocabulary(mine)
    words.goes_on(b"\xff" * 40, b" ")
    gone = weakref.ref(words)
    del mine, words
    for _ in range(2):  # first the tokenizer, then what was kept for it
        gc.collect()
    assert gone() is None


# -- on tiny models ---------------------------------------------------------------------------------------------------


def look_up(word: str) -> str:
    """Look a word up."""


def test_calls_keep_their_ids(tiny_pair: tuple) -> None:
    size = dict(max_position_embeddings=2048)
    models = (tiny_model(7, **size), tiny_tokenizer(False)), (tiny_model(57, **size), tiny_tokenizer(True))
    pair = NudgingGenerator.from_pretrained(*models, NudgingConfig(max_tokens=150), dtype="float32", device="cpu")
    stream = pair.stream("a", tools=[look_up], tool_choice="required")
    for _ in stream:
        pass
    assert stream.result is stream.result
    made = list(stream.result.calls)
    messages = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "", "tool_calls": made},
        *({"role": "tool", "tool_call_id": call.id, "content": "1"} for call in stream.result.calls),
    ]
    assert pair.generate(messages, tools=[look_up], tool_choice="none", max_tokens=5).text


def test_a_call_begun_with_a_control_token_is_a_call(monkeypatch: Any) -> None:
    from dataclasses import replace

    from tokenizers import AddedToken
    from transformers import PreTrainedTokenizerFast

    size = dict(max_position_embeddings=2048)
    backend = tiny_tokenizer(True).backend_tokenizer
    backend.add_special_tokens([AddedToken("[TOOL_CALLS]", special=True, normalized=False)])
    mistral = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")
    mistral.chat_template = CHAT_TEMPLATE
    pair = NudgingGenerator.from_pretrained(
        (tiny_model(7, **size), tiny_tokenizer(False)),
        (tiny_model(57, vocab_size=259, **size), mistral),
        NudgingConfig(max_tokens=120),
        dtype="float32",
        device="cpu",
    )
    opener, forward = mistral.convert_tokens_to_ids("[TOOL_CALLS]"), pair.nudging.engine.forward

    def always_calls(rows: Any) -> Any:
        found = forward(rows)
        return [
            [replace(one, top=opener, token=opener) for one in part] if row.masks is None else part
            for row, part in zip(rows, found, strict=True)
        ]

    monkeypatch.setattr(pair.nudging.engine, "forward", always_calls)
    result = pair.generate("a", tools=[look_up])
    assert result.calls and not result.invalid_calls
    assert pair.generate("a", max_tokens=10).text == ""  # without tools it is the end of the text, as any control token


def test_reading_a_vocabulary_does_not_hold_up_the_event_loop(tiny_pair: tuple, monkeypatch: Any) -> None:
    pair = NudgingGenerator.from_pretrained(*tiny_pair, NudgingConfig(max_tokens=20), dtype="float32", device="cpu")
    read = vocabulary_module.Vocabulary

    def slowly(codec: TokenizerAdapter) -> Any:
        time.sleep(0.3)
        return read(codec)

    monkeypatch.setattr(vocabulary_module, "Vocabulary", slowly)

    async def ask() -> tuple[str, int]:
        task, ticks = asyncio.ensure_future(pair.agenerate("a", choices=["one", "two"])), 0
        while not task.done():
            await asyncio.sleep(0.01)
            ticks += 1
        return (await task).text, ticks

    text, ticks = asyncio.run(ask())
    assert text in ("one", "two") and ticks > 10
