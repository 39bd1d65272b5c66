"""What users of LangChain take for granted and no standard suite asks for."""

from __future__ import annotations

import copy
import pickle
import warnings
from datetime import timedelta
from decimal import Decimal
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, Generic, TypeVar

import langchain_core.exceptions
import pytest
import torch
from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langchain.agents.structured_output import ToolStrategy
from langchain_core.messages import AIMessage, HumanMessage, trim_messages
from langchain_core.runnables import ConfigurableField
from langchain_core.tools import Tool, tool
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import UUID4, BaseModel, HttpUrl, ValidationError
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from langchain_nudging import ChatNudging, ProvenanceCallbackHandler, get_pieces, get_provenance
from nudging_llm import ConfigError, ContextOverflowError, GrammarError, NudgingConfig, NudgingGenerator, ToolError
from nudging_llm.engines.transformers import TransformersEngine
from nudging_llm.testing.scripted import rules, scripted_pair
from nudging_llm.testing.tiny import tiny_model, tiny_tokenizer


def call(city: str) -> str:
    return f'<tool_call>\n{{"name": "get_weather", "arguments": {{"city": "{city}"}}}}\n</tool_call>'


@tool
def get_weather(city: str) -> str:
    """Weather in a city."""
    return f"sunny in {city}"


def scripted(*pairs: tuple[str, str], **options: Any) -> ChatNudging:
    return ChatNudging(generator=scripted_pair(rules(*pairs), NudgingConfig(max_tokens=300)), **options)


# -- calls ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("choice", ["any", "required", True, {"type": "any"}])
def test_a_forced_choice_is_one_call_unless_several_are_wanted(choice: Any) -> None:
    model = scripted((".", f"{call('Rome')}\n{call('Rome')}"))
    asked = model.bind_tools([get_weather], tool_choice=choice)
    assert len(asked.invoke("Rome?").tool_calls) == 1
    several = model.bind_tools([get_weather], tool_choice=choice, parallel_tool_calls=True)
    assert len(several.invoke("Rome?").tool_calls) == 2
    assert len(model.bind_tools([get_weather]).invoke("Rome?").tool_calls) == 2


class Weather(BaseModel):
    """Weather."""

    city: str
    degrees: int


def test_a_tool_strategy_ends_with_a_model_that_would_say_it_twice() -> None:
    text = '<tool_call>\n{"name": "Weather", "arguments": {"city": "Rome", "degrees": 21}}\n</tool_call>'
    agent = create_agent(scripted((".", f"{text}\n{text}")), [], response_format=ToolStrategy(Weather))
    state = agent.invoke({"messages": [("human", "In Rome it is 21 degrees.")]}, config={"recursion_limit": 5})
    assert state["structured_response"] == Weather(city="Rome", degrees=21)


@pytest.mark.parametrize("way", ["invoke", "handler", "stream"])
def test_version_one_keeps_text_and_calls_apart(way: str) -> None:
    model = scripted(("mix", f"Let me look. {call('Rome')}\n{call('Bari')}"), output_version="v1").bind_tools(
        [get_weather]
    )
    if way == "stream":
        message: Any = reduce(add, model.stream("mix"))
    else:
        handlers = [ProvenanceCallbackHandler()] if way == "handler" else []
        message = model.invoke("mix", config={"callbacks": handlers})
    assert message.text.strip() == "Let me look."
    blocks = message.content_blocks
    assert [block["type"].removesuffix("_chunk") for block in blocks] == ["text", "tool_call", "tool_call"]
    assert [made["args"] for made in message.tool_calls] == [{"city": "Rome"}, {"city": "Bari"}]


def test_a_classic_tool_takes_one_text() -> None:
    search = Tool(name="search", description="Search the web.", func=lambda query: f"results for {query}")
    text = '<tool_call>\n{"name": "search", "arguments": {"__arg1": "Rome"}}\n</tool_call>'
    model = scripted((".", text)).bind_tools([search], tool_choice="search")
    assert model.kwargs["tools"][0]["function"]["parameters"]["properties"].keys() == {"__arg1"}
    [made] = model.invoke("Rome?").tool_calls
    assert search.invoke(made).content == "results for Rome"


LABEL = {
    "name": "label",
    "description": "Label it.",
    "input_schema": {"type": "object", "properties": {"tags": {"type": "array", "uniqueItems": True}}},
}


def test_a_tool_that_no_grammar_can_hold_does_not_stop_the_others() -> None:
    model = scripted(("[Rr]ome", call("Rome")))
    with pytest.warns(UserWarning, match=r"arguments of the tool 'label' are any object.*uniqueItems"):
        assert model.bind_tools([LABEL, get_weather]).invoke("hello").text.startswith("Hello!")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        [made] = model.bind_tools([LABEL, get_weather]).invoke("Rome?").tool_calls
    assert made["args"] == {"city": "Rome"}
    with pytest.raises(GrammarError, match=r"The tool 'label': .*uniqueItems"):
        model.bind_tools([LABEL, get_weather], tool_choice="any").invoke("hello")


@pytest.mark.parametrize("choice", [None, "auto", "none", False, {"type": "auto"}, {"type": "none"}])
def test_the_constructors_stop_holds_where_no_call_is_forced(choice: Any) -> None:
    model = scripted((".", "One. Two. Three."), stop=["Two"])
    assert model.bind_tools([get_weather], tool_choice=choice).invoke("Count.").text == "One. "


# -- states and lists -------------------------------------------------------------------------------------------------


def test_pieces_are_of_the_answer_that_the_record_is_of() -> None:
    model = scripted(("first", "One."), ("second", "Two words."))
    one, two = model.invoke("first"), model.invoke("second")
    for state in (
        {"messages": [HumanMessage("first"), one, HumanMessage("second"), two]},
        [one, HumanMessage("second"), two],
        [one, two, HumanMessage("third")],
        list(model.stream("second")),
        two,
    ):
        record = get_provenance(state)
        assert record is not None and record.text == "Two words."
        assert "".join(piece.text for piece in get_pieces(state)) == "Two words."
    assert get_pieces([HumanMessage("first"), AIMessage("another model's")]) == ()


# -- lengths ----------------------------------------------------------------------------------------------------------


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Words, where ``tiny_tokenizer`` has bytes: far fewer tokens."""
    words = ["<unk>", "<|end|>", *"Question: Answer: ferry leaves at the".split()]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="<|end|>")


def test_what_is_counted_as_fitting_fits() -> None:
    """Two tokenizers of which the nudging model's needs more tokens, and the shorter context is its."""
    base = tiny_model(7, vocab_size=8, eos_token_id=1, max_position_embeddings=4096), word_tokenizer()
    nudging = tiny_model(57, max_position_embeddings=1024), tiny_tokenizer(True)
    generator = NudgingGenerator.from_pretrained(
        base, nudging, NudgingConfig(max_tokens=8), dtype="float32", device="cpu"
    )
    model = ChatNudging(generator=generator)
    turns = [kind(f"the ferry leaves at {i}") for i in range(60) for kind in (HumanMessage, AIMessage)][:-1]
    limit = model.profile["max_input_tokens"]
    kept = trim_messages(turns, max_tokens=limit, token_counter=model, strategy="last", start_on="human")
    assert len(kept) > 5
    assert model.invoke(kept).text is not None
    with pytest.raises(ContextOverflowError):
        model.invoke(turns)


def test_a_length_that_is_not_known_is_not_claimed(tmp_path: Path) -> None:
    tiny_model(57, max_position_embeddings=512).save_pretrained(tmp_path)
    tiny_tokenizer(True).save_pretrained(tmp_path)
    model = ChatNudging(base_model="acme/hub-id", nudging_model=str(tmp_path), max_tokens=20)
    assert "max_input_tokens" not in model.profile


def test_what_is_too_long_is_langchains_error_too() -> None:
    theirs = getattr(langchain_core.exceptions, "ContextOverflowError", None)
    if theirs is None:
        pytest.skip("this langchain-core has no such error")
    base, nudging = (tiny_model(7), tiny_tokenizer(False)), (tiny_model(57), tiny_tokenizer(True))
    model = ChatNudging(base_model=base, nudging_model=nudging, max_tokens=8)
    for ask in (model.invoke, lambda text: list(model.stream(text))):
        with pytest.raises(theirs) as caught:
            ask("x" * 300)
        assert isinstance(caught.value, ContextOverflowError) and caught.value.limit == 256
    with pytest.raises(langchain_core.exceptions.ModelInvalidRequestError) as refused:
        model.invoke("x", treshold=1)
    assert isinstance(refused.value, ConfigError) and refused.value.is_retryable is False


def test_a_summarising_agent_recovers_from_a_summary_that_is_too_long() -> None:
    base = tiny_model(7, max_position_embeddings=5000), tiny_tokenizer(False)
    nudging = tiny_model(57, max_position_embeddings=5000), tiny_tokenizer(True)
    model = ChatNudging(base_model=base, nudging_model=nudging, max_tokens=8)
    summary = SummarizationMiddleware(
        model, trigger=("messages", 8), keep=("messages", 2), trim_tokens_to_summarize=None
    )
    agent = create_agent(model, [], middleware=[summary], checkpointer=InMemorySaver())
    messages = [kind("the ferry " * 20) for _ in range(8) for kind in (HumanMessage, AIMessage)][:-1]
    state = agent.invoke({"messages": messages}, config={"configurable": {"thread_id": "1"}})
    assert len(state["messages"]) <= 5 and isinstance(state["messages"][-1], AIMessage)


# -- which models -----------------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, str]:
    for name, seed in (("base", 7), ("other", 3), ("nudging", 57)):
        tiny_model(seed, max_position_embeddings=2048).save_pretrained(tmp_path / name)
        tiny_tokenizer(True).save_pretrained(tmp_path / name)
    return {name: str(tmp_path / name) for name in ("base", "other", "nudging")}


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    seen: list[str] = []
    real = TransformersEngine.load

    def load(source: Any, **options: Any) -> Any:
        seen.append(Path(source).name)
        return real(source, **options)

    monkeypatch.setattr(TransformersEngine, "load", load)
    return seen


def test_a_copy_with_another_model_uses_it(folders: dict[str, str]) -> None:
    model = ChatNudging(base_model=folders["base"], nudging_model=folders["nudging"], max_tokens=20, dtype="float32")
    fresh = ChatNudging(base_model=folders["other"], nudging_model=folders["nudging"], max_tokens=20, dtype="float32")
    before, expected = model.invoke("hi").text, fresh.invoke("hi").text
    assert before != expected
    copy = model.model_copy(update={"base_model": folders["other"]})
    assert copy.invoke("hi").text == expected and "other" in copy.model_name
    assert model.invoke("hi").text == before
    model.base_model = folders["other"]
    assert model.invoke("hi").text == expected


def test_one_spelling_of_what_is_the_same_is_enough(folders: dict[str, str], loads: list[str]) -> None:
    first = ChatNudging(base_model=folders["base"], nudging_model=folders["nudging"], max_tokens=5, dtype="float32")
    second = ChatNudging(
        base_model=folders["base"] + "/", nudging_model=Path(folders["nudging"]), max_tokens=5, dtype=torch.float32
    )
    assert first.invoke("hi").text == second.invoke("hi").text
    assert sorted(loads) == ["base", "nudging"]


def test_a_cache_knows_an_edited_template(folders: dict[str, str]) -> None:
    def key() -> Any:
        return ChatNudging(base_model=folders["base"], nudging_model=folders["nudging"], max_tokens=5)._get_llm_string()

    before = key()
    assert key() == before
    template = Path(folders["nudging"]) / "chat_template.jinja"
    template.write_text(template.read_text(encoding="utf-8") + " ", encoding="utf-8")
    assert key() != before


def test_a_configurable_threshold_loads_nothing(folders: dict[str, str], loads: list[str]) -> None:
    model = ChatNudging(base_model=folders["base"], nudging_model=folders["nudging"], max_tokens=5)
    asked = model.configurable_fields(threshold=ConfigurableField(id="threshold"))
    for threshold in (0.2, 0.3, 0.4):
        asked.invoke("hi", config={"configurable": {"threshold": threshold}})
    assert sorted(loads) == ["base", "nudging"]


# -- options that other models have -----------------------------------------------------------------------------------


def test_tokens_may_be_counted_by_ones_own_function() -> None:
    model = scripted(custom_get_token_ids=lambda text: [1] * 7)
    assert model.get_token_ids("hello") == [1] * 7 and model.get_num_tokens("hello") == 7


def test_a_timeout_may_be_given_for_a_call() -> None:
    model = scripted((".", "One. Two. " * 40))
    assert model.invoke("x", timeout=60).text
    with pytest.raises(TimeoutError, match="timeout=1e-09"):
        model.bind(timeout=1e-9).invoke("x")
    with pytest.raises(ConfigError, match="timeout=-1"):
        model.invoke("x", timeout=-1)


class Tagged(BaseModel):
    """Tags."""

    tags: set[str]


@pytest.mark.parametrize("method", ["function_calling", "json_schema", "json_mode"])
def test_sets_are_made_by_pydantic(method: Any) -> None:
    arguments = '{"tags": ["a", "b", "a"]}'
    text = arguments
    if method == "function_calling":
        text = f'<tool_call>\n{{"name": "Tagged", "arguments": {arguments}}}\n</tool_call>'
    model = scripted((".", text)).with_structured_output(Tagged, method=method)
    assert model.invoke("Tag it.") == Tagged(tags={"a", "b"})


@tool
def tag(words: set[str]) -> str:
    """Tag it."""
    return " ".join(sorted(words))


def test_a_tool_may_take_a_set() -> None:
    asked = '<tool_call>\n{"name": "tag", "arguments": {"words": ["b", "a", "b"]}}\n</tool_call>'
    [made] = scripted((".", asked)).bind_tools([tag], tool_choice="any").invoke("hello").tool_calls
    assert tag.invoke(made).content == "a b"


class Priced(BaseModel):
    """A thing and its price."""

    price: Decimal
    link: HttpUrl
    id: UUID4
    lasts: timedelta
    rooms: dict[int, str]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["function_calling", "json_schema", "json_mode"])
def test_types_that_check_more_than_their_schema_are_met(method: Any) -> None:
    """Random models write whatever the grammar lets them."""
    size = dict(max_position_embeddings=4096)
    models = [(tiny_model(seed, **size), tiny_tokenizer(True)) for seed in (7, 57)]
    model = ChatNudging(base_model=models[0], nudging_model=models[1], max_tokens=400)
    for question in ("a", "b", "c"):
        found = model.with_structured_output(Priced, method=method).invoke(question)
        assert isinstance(found, Priced) and found.price.is_finite()


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
def test_generic_classes_and_titles_with_spaces_are_asked_for(method: Any) -> None:
    T = TypeVar("T")

    class Box(BaseModel, Generic[T]):
        item: T

    model = scripted((".", '<tool_call>\n{"name": "Box_int_", "arguments": {"item": 3}}\n</tool_call>'))
    found = model.with_structured_output(Box[int], method=method).invoke("a")
    assert isinstance(found, Box)
    spaced = {"title": "A box", "type": "object", "properties": {"item": {"type": "integer"}}, "required": ["item"]}
    assert isinstance(model.with_structured_output(spaced, method=method).invoke("a")["item"], int)


# -- what does not fit, what was made elsewhere -----------------------------------------------------------------------


@pytest.mark.parametrize("tokens", [20, 40])
def test_a_call_for_which_there_is_no_room_is_told(tokens: int) -> None:
    model = scripted((".", call("word " * 100)), max_tokens=tokens)
    answer = model.bind_tools([get_weather]).invoke("hello")
    record = get_provenance(answer)
    assert answer.text == "" and answer.tool_calls == [] and record is not None
    assert record.finish_reason == "length" and "call_left_out" in [warning.code for warning in record.warnings]
    whole = get_provenance(model.bind_tools([get_weather]).invoke("hello", max_tokens=300))
    said = get_provenance(scripted((".", "word " * 100), max_tokens=tokens).bind_tools([get_weather]).invoke("hello"))
    assert said is not None and said.finish_reason == "length", "an ordinary text that is cut left no call out"
    assert "call_left_out" not in [warning.code for warning in said.warnings]
    assert whole is not None and "call_left_out" not in [warning.code for warning in whole.warnings]


def test_an_answer_that_leaves_no_room_for_a_prompt_is_refused_when_the_model_is_made(folders: dict[str, str]) -> None:
    named = {"base_model": folders["base"], "nudging_model": folders["nudging"]}
    with pytest.raises(ValidationError, match=r"max_tokens=100,000 leaves no room for a prompt: there are"):
        ChatNudging(**named, max_tokens=100_000)


def test_the_profile_learns_from_loaded_models_and_from_options(tmp_path: Path) -> None:
    """Folders that are not there yet stand for hub ids that are not downloaded."""
    named = {name: str(tmp_path / name) for name in ("base_model", "nudging_model")}
    model = ChatNudging(**named, max_tokens=8)
    given = ChatNudging(**named, max_tokens=8, profile={"max_input_tokens": 17})
    assert "max_input_tokens" not in model.profile
    for seed, folder in enumerate(named.values()):
        tiny_model(seed, max_position_embeddings=512).save_pretrained(folder)
        tiny_tokenizer(True).save_pretrained(folder)
    model.invoke("a")
    assert model.profile["max_input_tokens"] == 512 - 16 - 8 and model.profile["structured_output"]
    SummarizationMiddleware(model, trigger=("fraction", 0.5))
    model.max_tokens = 20
    assert model.profile["max_output_tokens"] == 20 and model.profile["max_input_tokens"] == 512 - 16 - 20
    given.invoke("a")
    assert given.profile == {"max_input_tokens": 17}


def test_a_downloaded_hub_model_s_length_is_known_before_it_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def cached(repo: str, name: str, **where: Any) -> str:
        asked.append((repo, name, where))
        (tmp_path / name).write_text('{"max_position_embeddings": 900}')
        return str(tmp_path / name)

    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", cached)
    model = ChatNudging(
        base_model="some/base", nudging_model="some/small", base_model_kwargs={"revision": "r"}, max_tokens=84
    )
    assert model.profile["max_input_tokens"] == 900 - 16 - 84
    assert ("some/base", "config.json", {"revision": "r"}) in asked


def test_models_and_errors_can_be_pickled() -> None:
    model = ChatNudging(base_model="some/base", nudging_model="some/small", threshold=0.3, max_tokens=9, stop=["x"])
    again = pickle.loads(pickle.dumps(model))
    assert again._identifying_params == model._identifying_params and again.profile == model.profile
    with pytest.raises(ConfigError, match="Loaded models cannot be written down"):
        pickle.dumps(scripted())
    small = [(tiny_model(seed), tiny_tokenizer(True)) for seed in (7, 57)]
    with pytest.raises(ContextOverflowError) as caught:
        ChatNudging(base_model=small[0], nudging_model=small[1], max_tokens=8).invoke("word " * 100)
    for error in (copy.copy(caught.value), pickle.loads(pickle.dumps(caught.value))):
        assert isinstance(error, ContextOverflowError) and str(error) == str(caught.value)
        assert error.excess == caught.value.excess > 0


@pytest.mark.parametrize(
    ("option", "value"), [("temperature", "hot"), ("max_tokens", "ten"), ("stop", 5), ("timeout", "5")]
)
def test_a_wrong_value_in_a_call_is_named(option: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{option}={value!r}"):
        scripted((".", "x")).invoke("a", **{option: value})


def test_another_vendor_s_tool_is_refused_by_its_type() -> None:
    served = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}
    with pytest.raises(ToolError, match=r"of the type 'web_search_20250305'; only functions can be offered"):
        scripted((".", "x")).bind_tools([served]).invoke("a")


SERVED: list[list[dict[str, Any]]] = [
    [{"type": "web_search_call", "id": "ws_1", "status": "completed"}],
    [
        {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "x"}},
        {"type": "web_search_tool_result", "tool_use_id": "s1", "content": []},
    ],
    [{"type": "server_tool_call", "id": "s1", "name": "web_search", "args": {"query": "x"}}],
]


@pytest.mark.parametrize("blocks", SERVED, ids=lambda blocks: blocks[0]["type"])
def test_what_another_vendor_s_server_did_is_left_out(blocks: list[dict[str, Any]]) -> None:
    said = AIMessage([*blocks, {"type": "text", "text": "Found it."}])
    assert scripted((".", "Fine.")).invoke([HumanMessage("a"), said, HumanMessage("b")]).text == "Fine."
