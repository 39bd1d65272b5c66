"""``NudgingLLM`` in the suite: it passes every check. Then what the suite cannot ask of every LLM."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers.base import BaseEventHandler
from llama_index.core.tools import FunctionTool
from models import pair, save
from suite import MULTIPLIED, WAYS, LLMConformance, aresponses, begun, calling, multiply, responses, result, user

from llama_index.llms.nudging import NudgingLLM, collect_provenance, get_provenance
from nudging_llm import BaseTemplate, ConfigError, NudgingConfig, NudgingGenerator
from nudging_llm.testing.scripted import scripted_pair

pytestmark = pytest.mark.slow


class TestNudgingLLM(LLMConformance):
    """Over two random models, of which both write."""

    def make(self, **options: Any) -> NudgingLLM:
        config = NudgingConfig(max_tokens=30, threshold=0.3)
        generator = NudgingGenerator.from_pretrained(
            pair(2, False), pair(57, True), config, dtype="float32", device="cpu"
        )
        return NudgingLLM(generator=generator, **options)

    def make_from_files(self, folder: Path) -> NudgingLLM:
        return NudgingLLM(
            base_model=save(folder, 2, False),
            nudging_model=save(folder, 57, True),
            max_tokens=30,
            threshold=0.3,
            dtype="float32",
            device="cpu",
        )

    def models(self, llm: Any) -> list[tuple[Any, Any]]:
        generator = llm._loaded()
        return [(part.engine.model, part.engine.transformers_tokenizer) for part in (generator.base, generator.nudging)]


@pytest.fixture
def llm() -> NudgingLLM:
    return TestNudgingLLM().make()


def test_both_models_write(llm: NudgingLLM) -> None:
    record = get_provenance(llm.chat([user()]))
    assert record is not None and {piece.source for piece in record.pieces} == {"base", "nudging"}


@pytest.mark.parametrize("way", ["chat", "stream_chat", "achat", "astream_chat"])
def test_the_calls_that_models_write(way: str) -> None:
    text = '<tool_call>\n{"name": "multiply", "arguments": {"a": 23, "b": 47}}\n</tool_call>'
    llm = NudgingLLM(generator=scripted_pair(lambda prompt: text, NudgingConfig(max_tokens=200)))
    last = responses(llm, way, tools=[FunctionTool.from_defaults(multiply)])[-1]
    [found] = llm.get_tool_calls_from_response(last)
    assert (found.tool_name, multiply(**found.tool_kwargs)) == ("multiply", 1081)


def test_a_template_sees_the_name_of_a_results_tool(llm: NudgingLLM) -> None:
    llm.generator.base_template = BaseTemplate(
        "{% for m in messages %}{{ m.tool_calls and '' if m.role == 'assistant' else m.name if m.role == 'tool' else m.role }}"
        ": {{ m.content }}\n{% endfor %}Answer:"
    )
    with TestNudgingLLM().watch(llm) as watched:
        llm.chat([user(), calling(MULTIPLIED), result("c1", "1081")])
    assert "multiply: 1081" in watched.texts[0]


class Tracer(BaseEventHandler):
    """Keeps all events, and with an exception its traceback."""

    kept: list[Any] = []

    @classmethod
    def class_name(cls) -> str:
        return "Tracer"

    def handle(self, event: Any, **_: Any) -> None:
        self.kept.append(event)


async def leave(llm: NudgingLLM, way: str, how: str) -> None:
    """Begin an answer and leave it."""
    if how == "cancel":
        task = asyncio.create_task(aresponses(llm, way))
        await asyncio.sleep(0.02)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        return
    stream = begun(llm, way)
    stream = await stream if way.startswith("a") else stream
    if how != "unread":
        await anext(stream) if way.startswith("a") else next(stream)
    if how != "drop":
        await stream.aclose() if way.startswith("a") else stream.close()
    del stream
    await asyncio.sleep(0.05)


@pytest.mark.parametrize("traced", [False, True], ids=["", "traced"])
@pytest.mark.parametrize(
    ("way", "how"),
    [(way, how) for way in WAYS if "stream" in way for how in ("close", "drop")]
    + [(way, "cancel") for way in WAYS if way.startswith("a")],
)
async def test_an_answer_that_is_left_has_ended(way: str, how: str, traced: bool) -> None:
    """Also where a tracer keeps the exception that leaving it raised: those who listen are told, and nothing is held."""
    llm = TestNudgingLLM().make(max_tokens=2000)
    tracer, told = Tracer(), []
    dispatcher = get_dispatcher()
    if traced:
        dispatcher.add_event_handler(tracer)
    try:
        with collect_provenance(lambda piece, call: told.append(piece)) as calls:
            await leave(llm, way, how)
        [call] = calls
        assert call.provenance is not None and call.provenance.finish_reason == "cancelled"
    finally:
        if traced:
            dispatcher.event_handlers.remove(tracer)


@pytest.mark.parametrize("way", [way for way in WAYS if "stream" in way])
async def test_a_stream_that_nobody_reads_is_no_call(way: str, llm: NudgingLLM) -> None:
    with collect_provenance() as calls:
        await leave(llm, way, "unread")
    assert list(calls) == []


def test_options_of_loading_are_json_or_refused() -> None:
    llm = NudgingLLM(base_model="a", nudging_model="b", base_model_kwargs={"dtype": torch.float32})
    try:
        written = llm.to_dict()
    except ConfigError:
        return
    assert json.dumps(written)
