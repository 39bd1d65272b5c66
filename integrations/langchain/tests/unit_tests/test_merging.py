"""How an answer's chunks add up, and that every way to ask gives the same answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from functools import reduce
from operator import add
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, message_chunk_to_message
from langchain_core.tracers.context import collect_runs

from langchain_nudging import ChatNudging, get_pieces, get_provenance, get_provenances
from nudging_llm import Provenance
from nudging_llm.testing.comparing import timeless
from nudging_llm.testing.scripted import rules, scripted_pair
from nudging_llm.testing.tiny import tiny_model, tiny_tokenizer
from nudging_llm.tools.definitions import read_tools
from nudging_llm.tools.parser import parse_calls

pytestmark = pytest.mark.filterwarnings("ignore:.*is in beta")

QUESTION = "What is there to see by the sea?"


def get_weather(city: str, days: int = 1) -> str:
    """Weather of a city."""
    return f"{city}: sun for {days} days"


def get_time(city: str) -> str:
    """Time in a city."""
    return f"{city}: noon"


TOOLS = [get_weather, get_time]
ONE = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Rome", "days": 3}}\n</tool_call>'
TWO = f'{ONE}\n<tool_call>\n{{"name": "get_time", "arguments": {{"city": "東京"}}}}\n</tool_call>'
BARE = '[{"name": "get_time", "arguments": {"city": "Oslo"}}]'
SCRIPT = rules(
    ("two things", f"Let me look.\n{TWO}"),
    ("only calls", TWO),
    ("one thing", f"Let me look.\n{ONE}"),
    ("no tags", BARE),
    ("not a call", "Let me <tool, [1] and {see}: 東京🙂."),
    ("letters", "Ciò è très 東京 🙂 fin."),
)
ARGUMENTS = {
    "two things": [("get_weather", {"city": "Rome", "days": 3}), ("get_time", {"city": "東京"})],
    "only calls": [("get_weather", {"city": "Rome", "days": 3}), ("get_time", {"city": "東京"})],
    "one thing": [("get_weather", {"city": "Rome", "days": 3})],
    "no tags": [("get_time", {"city": "Oslo"})],
}


@pytest.fixture(scope="module")
def model() -> ChatNudging:
    """Two random models, of which both write; nothing is kept between answers, so that usage is always the same."""
    base, nudging = (tiny_model(7), tiny_tokenizer(False)), (tiny_model(57), tiny_tokenizer(True))
    return ChatNudging(base_model=base, nudging_model=nudging, threshold=0.3, max_tokens=40, cache_slots=0)


@pytest.fixture(scope="module")
def chunks(model: ChatNudging) -> list[AIMessageChunk]:
    found = list(model.stream(QUESTION))
    assert len({piece.source for chunk in found for piece in get_pieces(chunk)}) == 2, "both models should write here"
    return found


@pytest.fixture(scope="module")
def caller() -> Any:
    """A model with tools, which writes what the script says."""
    return ChatNudging(generator=scripted_pair(SCRIPT)).bind_tools(TOOLS)


def outcome(record: Provenance | None) -> dict[str, Any]:
    """What a record says apart from times, and from the number of guesses, which depends on times."""
    assert record is not None
    found = record.model_dump(exclude={"pieces", "first_piece_s", "total_s", "grammar_s"})
    for model in ("base", "nudging"):
        for name in ("forwards", "forward_tokens", "drafted", "accepted", "seconds"):
            found[model].pop(name)
    return found


def answer(message: AIMessage) -> dict[str, Any]:
    """What an answer says apart from its ids and times, and from the form of its content, which is LangChain's choice."""
    metadata = {k: v for k, v in message.response_metadata.items() if k not in ("nudging", "output_version")}
    return {
        "text": message.text,
        "pieces": timeless(get_pieces(message)),
        "channels": [piece.get("channel", "content") for piece in message.additional_kwargs["nudging"]],
        "record": outcome(get_provenance(message)),
        "record's pieces": timeless(get_provenance(message).pieces),  # type: ignore[union-attr]
        "metadata": metadata,
        "usage": message.usage_metadata,
        "calls": [(call["name"], call["args"]) for call in message.tool_calls],
        "invalid calls": [(call["name"], call["args"]) for call in message.invalid_tool_calls],
    }


def grouped(chunks: Sequence[AIMessageChunk], cuts: Sequence[int]) -> list[AIMessageChunk]:
    """Neighbours added up; ``cuts`` say where a new group begins."""
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(chunks)}), len(chunks)]
    return [reduce(add, chunks[a:b]) for a, b in zip(edges, edges[1:], strict=False)]


CUTS = st.lists(st.integers(1, 80), max_size=20)


@given(cuts=CUTS, again=CUTS)
@settings(max_examples=60, deadline=None)
def test_chunks_add_up_to_the_same_message_in_any_grouping(chunks, cuts, again):
    whole = reduce(add, grouped(grouped(chunks, cuts), again))
    assert whole == reduce(add, chunks)
    assert "".join(piece.text for piece in get_pieces(whole)) == whole.text == get_provenance(whole).text


@given(cuts=CUTS)
@settings(max_examples=30, deadline=None)
def test_every_group_of_chunks_carries_exactly_its_own_pieces(chunks, cuts):
    groups = grouped(chunks, cuts)
    assert all("".join(piece.text for piece in get_pieces(group)) == group.text for group in groups[:-1])
    carried = [piece for group in groups for piece in group.additional_kwargs.get("nudging", [])]
    assert [piece["text"] for piece in carried] == [piece.text for piece in get_provenance(chunks[-1]).pieces]


@pytest.mark.slow
@given(cuts=CUTS)
@settings(max_examples=30, deadline=None)
@pytest.mark.parametrize("question", [*ARGUMENTS, "not a call"])
def test_chunks_with_calls_add_up_in_any_grouping(caller, question, cuts):
    chunks = list(caller.stream(question))
    whole = reduce(add, grouped(chunks, cuts))
    assert whole == reduce(add, chunks)
    assert [(call["name"], call["args"]) for call in whole.tool_calls] == ARGUMENTS.get(question, [])


def test_there_is_a_chunk_for_each_piece_and_one_with_the_figures(chunks):
    assert [len(get_pieces(chunk)) for chunk in chunks[:-1]] == [1] * (len(chunks) - 1)
    assert [chunk.text for chunk in chunks[:-1]] == [piece.text for piece in get_provenance(chunks[-1]).pieces]
    assert chunks[-1].text == "" and not chunks[-1].additional_kwargs
    assert [chunk.chunk_position for chunk in chunks] == [None] * (len(chunks) - 1) + ["last"]


def test_names_reasons_and_usage_are_there_once(chunks):
    for key in ("model_name", "model_provider", "finish_reason", "nudging"):
        assert [key in chunk.response_metadata for chunk in chunks].count(True) == 1
    assert [chunk.usage_metadata is not None for chunk in chunks].count(True) == 1
    whole = reduce(add, chunks)
    assert whole.response_metadata["model_name"] == "LlamaForCausalLM + LlamaForCausalLM"
    assert whole.response_metadata["model_provider"] == "nudging"
    assert whole.response_metadata["finish_reason"] in ("stop", "length", "repetition")
    assert len(whole.response_metadata["nudging"]) == 1


def test_usage_counts_the_prompt_once_and_every_token_of_the_answer(model, chunks):
    usage, record = reduce(add, chunks).usage_metadata, get_provenance(chunks[-1])
    assert usage["input_tokens"] == record.base.prompt_tokens
    longer = max(record.base.prompt_tokens, record.nudging.prompt_tokens)
    assert model.get_num_tokens_from_messages([HumanMessage(QUESTION)]) == longer
    assert usage["output_tokens"] == sum(piece.n_tokens for piece in record.pieces) > 1
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


def test_the_merged_message_has_one_block_of_text(chunks):
    whole = reduce(add, chunks)
    assert isinstance(whole.content, str)
    assert [block["type"] for block in whole.content_blocks] == ["text"]


def test_two_finished_messages_can_be_added(model, chunks):
    first, second = reduce(add, chunks), reduce(add, model.stream("And in the mountains?"))
    both = first + second
    assert both.text == first.text + second.text
    assert [record.text for record in get_provenances(both)] == [first.text, second.text]
    assert both.usage_metadata["input_tokens"] == (
        first.usage_metadata["input_tokens"] + second.usage_metadata["input_tokens"]
    )
    assert [piece.text for piece in get_pieces(both)] == [p.text for p in (*get_pieces(first), *get_pieces(second))]


def test_no_key_means_something_to_langchain(chunks):
    """It joins list items by ``index``, and compares ``id``, ``created`` and ``timestamp``."""
    keys = {key for chunk in chunks for piece in chunk.additional_kwargs.get("nudging", ()) for key in piece}
    assert keys and not keys & {"index", "id", "created", "timestamp"}


def test_chunks_survive_json(chunks):
    again = [AIMessageChunk.model_validate(json.loads(chunk.model_dump_json())) for chunk in chunks]
    assert answer(reduce(add, again)) == answer(reduce(add, chunks))


# -- every way to ask -------------------------------------------------------------------------------------------------


def by_stream(model: Any, question: str) -> AIMessage:
    return reduce(add, model.stream(question))


def by_ainvoke(model: Any, question: str) -> AIMessage:
    return asyncio.run(model.ainvoke(question))


def by_astream(model: Any, question: str) -> AIMessage:
    async def run() -> AIMessage:
        return reduce(add, [chunk async for chunk in model.astream(question)])

    return asyncio.run(run())


def by_batch(model: Any, question: str) -> AIMessage:
    return model.batch(["Another one?", question])[1]


def by_abatch(model: Any, question: str) -> AIMessage:
    return asyncio.run(model.abatch(["Another one?", question]))[1]


def by_batch_as_completed(model: Any, question: str) -> AIMessage:
    return dict(model.batch_as_completed(["Another one?", question]))[1]


def by_events_v2(model: Any, question: str) -> AIMessage:
    async def run() -> AIMessage:
        events = [event async for event in model.astream_events(question, version="v2")]
        chunks = [event["data"]["chunk"] for event in events if event["event"] == "on_chat_model_stream"]
        [end] = [event["data"]["output"] for event in events if event["event"] == "on_chat_model_end"]
        assert answer(reduce(add, chunks)) == answer(end)
        return end

    return asyncio.run(run())


def by_events_v3(model: Any, question: str) -> AIMessage:
    return model.stream_events(question, version="v3").output


def by_async_events_v3(model: Any, question: str) -> AIMessage:
    async def run() -> AIMessage:
        stream = await model.astream_events(question, version="v3")
        return await stream.output

    return asyncio.run(run())


def by_tracer(model: Any, question: str) -> AIMessage:
    with collect_runs() as runs:
        model.invoke(question)
    [run] = runs.traced_runs
    return AIMessage(**run.outputs["generations"][0][0]["message"]["kwargs"])


WAYS = [
    by_stream,
    by_ainvoke,
    by_astream,
    by_batch,
    by_abatch,
    by_batch_as_completed,
    by_events_v2,
    by_events_v3,
    by_async_events_v3,
    by_tracer,
]
each_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)


@each_way
def test_every_way_to_ask_gives_the_answer_that_invoke_gives(model, way: Callable[..., AIMessage]):
    assert answer(way(model, QUESTION)) == answer(model.invoke(QUESTION))


@each_way
@pytest.mark.parametrize("question", [*ARGUMENTS, "not a call"])
def test_every_way_to_ask_gives_the_same_calls(question, way: Callable[..., AIMessage]):
    caller = ChatNudging(generator=scripted_pair(SCRIPT)).bind_tools(TOOLS)
    caller.batch([question, "Another one?"])  # so that each way finds the same in the cache
    invoked = answer(caller.invoke(question))
    assert invoked["calls"] == ARGUMENTS.get(question, [])
    assert answer(way(caller, question)) == invoked


def test_generate_and_agenerate_give_the_answer_that_invoke_gives(model):
    invoked = answer(model.invoke(QUESTION))
    for result in (
        model.generate([[HumanMessage(QUESTION)]]),
        asyncio.run(model.agenerate([[HumanMessage(QUESTION)]])),
    ):
        [[generation]] = result.generations
        assert generation.text == invoked["text"]
        assert answer(generation.message) == invoked


def test_a_finished_stream_is_a_message_like_any_other(model):
    message = message_chunk_to_message(reduce(add, model.stream(QUESTION)))
    assert type(message) is AIMessage
    assert answer(message) == answer(model.invoke(QUESTION))


@each_way
def test_content_in_the_form_of_version_one_has_the_same_text_and_record(way: Callable[..., AIMessage]):
    plain = ChatNudging(generator=scripted_pair(SCRIPT)).invoke("letters")
    model = ChatNudging(generator=scripted_pair(SCRIPT), output_version="v1")
    message = way(model, "letters")
    assert message.text == plain.text
    assert [block["type"] for block in message.content_blocks] == ["text"]
    assert timeless(get_pieces(message)) == timeless(get_pieces(plain))
    assert get_provenance(message).text == plain.text
    assert message.response_metadata["finish_reason"] == "stop"


def test_version_one_has_blocks_of_text_and_calls():
    model = ChatNudging(generator=scripted_pair(SCRIPT), output_version="v1").bind_tools(TOOLS)
    message = model.invoke("two things")
    assert [block["type"] for block in message.content] == ["text", "tool_call", "tool_call"]
    assert [block["args"] for block in message.content[1:]] == [{"city": "Rome", "days": 3}, {"city": "東京"}]


# -- calls ------------------------------------------------------------------------------------------------------------


def test_the_text_of_calls_has_a_channel_of_its_own(caller):
    message = caller.invoke("two things")
    assert message.text.strip() == "Let me look."
    by_channel: dict[str, str] = {}
    for piece in message.additional_kwargs["nudging"]:
        channel = piece.get("channel", "content")
        by_channel[channel] = by_channel.get(channel, "") + piece["text"]
    assert by_channel == {"content": message.text, "tool_call": TWO}
    assert "".join(piece.text for piece in get_pieces(message)) == get_provenance(message).text


@pytest.mark.parametrize("question", ARGUMENTS)
def test_the_parts_of_a_call_joined_are_the_call(caller, question):
    parts: dict[int, list[Any]] = {}
    for chunk in caller.stream(question):
        for part in chunk.tool_call_chunks:
            parts.setdefault(part["index"], []).append(part)
    first = min(parts)  # text before the calls is a block too, and has its number
    assert sorted(parts) == list(range(first, first + len(ARGUMENTS[question])))
    for index, (name, arguments) in enumerate(ARGUMENTS[question], first):
        assert [part["name"] for part in parts[index] if part["name"]] == [name]
        assert len([part["id"] for part in parts[index] if part["id"]]) == 1
        assert json.loads("".join(part["args"] for part in parts[index])) == arguments


def test_arguments_come_while_they_are_written(caller):
    parts = [part for chunk in caller.stream("one thing") for part in chunk.tool_call_chunks]
    assert len(parts) > 5
    assert parts[0]["name"] == "get_weather"


@pytest.mark.parametrize("question", ARGUMENTS)
def test_streamed_calls_are_those_that_are_read_out_of_the_whole_text(caller, question):
    message = reduce(add, caller.stream(question))
    read = parse_calls(get_provenance(message).text, read_tools(TOOLS))
    assert [(call.name, call.arguments) for call in read.calls] == ARGUMENTS[question]
    assert [(call["name"], call["args"]) for call in message.tool_calls] == ARGUMENTS[question]
    assert message.text.strip() == read.content


def test_each_call_has_an_id_of_its_own_that_stays_the_same(caller):
    chunks = list(caller.stream("two things"))
    streamed = [part["id"] for chunk in chunks for part in chunk.tool_call_chunks if part["id"]]
    assert [call["id"] for call in reduce(add, chunks).tool_calls] == streamed
    again = [call["id"] for call in caller.invoke("two things").tool_calls]
    assert len({*streamed, *again}) == 4


def test_an_answer_with_calls_says_so_and_one_without_does_not(caller):
    reasons = [caller.invoke(question).response_metadata["finish_reason"] for question in ("only calls", "not a call")]
    assert reasons == ["tool_calls", "stop"]


def test_what_only_looks_like_a_call_is_text(caller):
    message = caller.invoke("not a call")
    assert message.text == "Let me <tool, [1] and {see}: 東京🙂."
    assert not message.tool_calls and not message.invalid_tool_calls


@pytest.mark.parametrize("way", [lambda m, q: m.invoke(q), by_stream, by_astream, by_events_v2, by_events_v3])
def test_a_call_that_is_none_comes_back_as_an_invalid_call_word_for_word(way):
    text = '[TOOL_CALLS] [{"name": "get_moon", "arguments": {"phase": 1}}]'
    caller = ChatNudging(generator=scripted_pair(rules(("moon", text)))).bind_tools(TOOLS)
    message = way(caller, "the moon")
    assert not message.tool_calls
    [invalid] = message.invalid_tool_calls
    assert invalid["name"] == "get_moon"
    assert '{"name": "get_moon", "arguments": {"phase": 1}}' in invalid["args"]
    [said] = message.response_metadata["nudging"][0]["invalid_calls"]
    assert "get_moon" in said["error"]
    assert message.text == ""
