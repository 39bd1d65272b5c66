"""What can be given to the constructor and to a call, what is refused, and what a model says of itself."""

from __future__ import annotations

import asyncio
import copy
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage, trim_messages
from langchain_core.runnables import ConfigurableField
from langchain_core.tools import tool
from pydantic import BaseModel
from pydantic.v1 import BaseModel as BaseModelV1
from typing_extensions import TypedDict

from langchain_nudging import ChatNudging, get_pieces, get_provenance
from nudging_llm import (
    BaseTemplate,
    ConfigError,
    ContextOverflowError,
    GrammarError,
    ModelLoadError,
    NudgingConfig,
    NudgingGenerator,
    Prediction,
)
from nudging_llm.engines.transformers import TransformersEngine
from nudging_llm.testing.scripted import rules, scripted_pair
from nudging_llm.testing.tiny import tiny_model, tiny_tokenizer

TEXT = "One. Two! Three? Four; five, six."
Pair = tuple[Any, Any]
ROOM = 2048  # tokens of context of the random models


@pytest.fixture
def generator() -> NudgingGenerator:
    return scripted_pair(rules(("joke as JSON", '{"setup": "a"}'), otherwise=TEXT))


@pytest.fixture
def model(generator: NudgingGenerator) -> ChatNudging:
    return ChatNudging(generator=generator)


@pytest.fixture(scope="module")
def pair() -> Pair:
    """Two loaded random models."""
    return (roomy(7), tiny_tokenizer(False)), (roomy(57), tiny_tokenizer(True))


def roomy(seed: int) -> Any:
    return tiny_model(seed, max_position_embeddings=ROOM)


def save(folder: Path, seed: int) -> str:
    roomy(seed).save_pretrained(folder)
    tiny_tokenizer(True).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, str]:
    """Three models on disk, which no other test has loaded."""
    return {name: save(tmp_path / name, seed) for name, seed in (("base", 7), ("nudging", 57), ("other", 3))}


@pytest.fixture
def on_disk(folders: dict[str, str]) -> dict[str, Any]:
    """Arguments of a model over two of them."""
    return {"base_model": folders["base"], "nudging_model": folders["nudging"], "device": "cpu", "dtype": "float32"}


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that are loaded from disk from now on."""
    found: list[str] = []
    load = TransformersEngine.load

    def counted(source: Any, **options: Any) -> TransformersEngine:
        found.append(Path(source).name)
        return load(source, **options)

    monkeypatch.setattr(TransformersEngine, "load", counted)
    return found


def all_ways(model: Any, question: str = "Hi", /, **options: Any) -> Iterator[AIMessage]:
    """The answer, in the four ways to ask for one."""
    yield model.invoke(question, **options)
    yield reduce(add, model.stream(question, **options))
    yield asyncio.run(model.ainvoke(question, **options))

    async def astream() -> AIMessage:
        return reduce(add, [chunk async for chunk in model.astream(question, **options)])

    yield asyncio.run(astream())


# -- the constructor --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "nearest"), [("treshold", "threshold"), ("max_token", "max_tokens"), ("base_modle", "base_model")]
)
def test_an_unknown_argument_is_refused_with_the_nearest(generator, name, nearest):
    with pytest.raises(ValueError, match=f"Unknown argument '{name}'. Did you mean '{nearest}'"):
        ChatNudging(generator=generator, **{name: 1})


@pytest.mark.parametrize("name", ["gate", "prefix_rule", "repetition", "drafting", "end_check"])
def test_a_rarer_option_is_refused_with_the_place_where_it_goes(generator, name):
    with pytest.raises(ValueError, match=rf"nudging_config=NudgingConfig\({name}="):
        ChatNudging(generator=generator, **{name: True})


def test_rarer_options_go_in_a_config_and_arguments_win(generator):
    config = NudgingConfig(prefix_rule=False, threshold=0.2, lookahead=3)
    model = ChatNudging(generator=generator, nudging_config=config, threshold=0.95)
    used = get_provenance(model.invoke("Hi")).config
    assert (used["prefix_rule"], used["threshold"], used["lookahead"]) == (False, 0.95, 3)


class HalfSure:
    """A gate of a user's own."""

    default_threshold = 0.5

    def confident(self, prediction: Prediction, threshold: float) -> bool:
        return prediction.prob >= threshold


def test_another_gate_in_a_call_comes_with_its_own_threshold(generator):
    model = ChatNudging(generator=generator, threshold=0.3)
    for options, expected in (
        ({}, ("top1", 0.3)),
        ({"gate": "top1"}, ("top1", 0.3)),
        ({"gate": HalfSure()}, ("HalfSure", 0.5)),
        ({"gate": HalfSure(), "threshold": 0.6}, ("HalfSure", 0.6)),
    ):
        used = get_provenance(model.invoke("Hi", **options)).config
        assert (used["gate"], used["threshold"]) == expected


def test_a_generator_s_own_options_hold_unless_others_are_given():
    generator = scripted_pair(rules(otherwise=TEXT), NudgingConfig(lookahead=3, max_tokens=9))
    assert get_provenance(ChatNudging(generator=generator).invoke("Hi")).config["lookahead"] == 3
    model = ChatNudging(generator=generator, max_tokens=5)
    config = get_provenance(model.invoke("Hi")).config
    assert (config["lookahead"], config["max_tokens"]) == (3, 5)


@pytest.mark.parametrize("clash", ["base_model", "nudging_model", "device", "dtype", "base_template", "cache_slots"])
def test_a_generator_has_its_models_already(generator, clash):
    with pytest.raises(ValueError, match=f"{clash} with generator="):
        ChatNudging(generator=generator, **{clash: 1 if clash == "cache_slots" else "x"})


@pytest.mark.parametrize(
    "given", [{}, {"base_model": "x"}, {"nudging_model": "x"}, {"base_model": "", "nudging_model": "x"}]
)
def test_two_models_must_be_given(given):
    with pytest.raises(ValueError, match=r"base_model|nudging_model"):
        ChatNudging(**given)


@pytest.mark.parametrize("wrong", ["a string", 3, tiny_tokenizer])
def test_a_generator_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match="is no NudgingGenerator"):
        ChatNudging(generator=wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"threshold": 40},
        {"threshold": -0.1},
        {"threshold": float("nan")},
        {"max_tokens": 0},
        {"temperature": -1},
        {"top_p": 2},
        {"stop": [""]},
        {"timeout": 0},
        {"timeout": -1},
        {"lookahead": 0},
        {"seed": -1},
    ],
    ids=str,
)
def test_a_value_out_of_range_is_refused_by_name(generator, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ChatNudging(generator=generator, **wrong)


def test_a_percentage_is_told_apart_from_a_probability(generator):
    with pytest.raises(ValueError, match="not a percentage"):
        ChatNudging(generator=generator, threshold=40)


def test_arguments_that_have_no_effect_warn(generator):
    with pytest.warns(UserWarning, match="api_key has no effect"):
        ChatNudging(generator=generator, api_key="secret")
    with pytest.warns(UserWarning, match="max_retries has no effect"):
        ChatNudging(generator=generator, max_retries=2)


@pytest.mark.filterwarnings("ignore:ChatNudging")
def test_an_api_key_is_not_shown(generator):
    model = ChatNudging(generator=generator, api_key="secret")
    assert "secret" not in f"{model!r} {model} {model._get_llm_string()} {model.model_dump_json(include={'api_key'})}"


def test_the_usual_arguments_give_no_warning(generator, recwarn):
    ChatNudging(generator=generator, temperature=0.5, max_tokens=9, timeout=9, stop=["x"], streaming=True)
    assert not recwarn.list


# -- stop strings -----------------------------------------------------------------------------------------------------


def test_a_stop_string_is_a_stop_for_langchain(generator):
    for message in all_ways(ChatNudging(generator=generator, stop=("?", "never"))):
        assert message.text == "One. Two! Three"
        assert message.response_metadata["finish_reason"] == "stop"
        assert get_provenance(message).finish_reason == "stop_string"


def test_bound_stop_strings_hold(model):
    for message in all_ways(model.bind(stop=["Two"])):
        assert message.text == "One. "


# -- length and time --------------------------------------------------------------------------------------------------


def test_an_answer_that_is_cut_says_so_and_is_counted(generator):
    for message in all_ways(ChatNudging(generator=generator, max_tokens=7)):
        assert message.usage_metadata["output_tokens"] <= 7
        assert message.response_metadata["finish_reason"] == "length"
    assert ChatNudging(generator=generator, max_tokens=7).bind(max_tokens=100).invoke("Hi").text == TEXT


@pytest.mark.parametrize("ask", ["invoke", "stream", "ainvoke", "astream"])
def test_an_answer_that_takes_too_long_is_ended_and_the_model_can_be_asked_again(generator, ask):
    """A forward outlasts the time, which then is over."""
    model = ChatNudging(generator=generator, timeout=0.05)
    forward, pause = generator.base.engine.forward, threading.Event()

    def slow(rows: Any) -> Any:
        pause.wait(0.2)
        return forward(rows)

    async def astream() -> list[Any]:
        return [chunk async for chunk in model.astream("Hi")]

    generator.base.engine.forward = slow
    asked = {
        "invoke": lambda: model.invoke("Hi"),
        "stream": lambda: list(model.stream("Hi")),
        "ainvoke": lambda: asyncio.run(model.ainvoke("Hi")),
        "astream": lambda: asyncio.run(astream()),
    }[ask]
    with pytest.raises(TimeoutError, match=r"timeout=0.05.*max_tokens"):
        asked()
    generator.base.engine.forward, model.timeout = forward, 60
    assert model.invoke("Hi").text == TEXT


# -- other options of a call ------------------------------------------------------------------------------------------


def test_an_option_that_is_none_is_as_if_it_were_not_given(model):
    message = model.invoke("Hi", temperature=None, max_tokens=None, tools=None, tool_choice=None, response_format=None)
    assert message.text == TEXT


@pytest.mark.parametrize(
    "response_format",
    [
        {"type": "json_object"},
        {
            "type": "json_schema",
            "json_schema": {"name": "J", "schema": {"type": "object", "properties": {"setup": {}}}},
        },
        {"type": "object", "title": "J", "properties": {"setup": {"type": "string"}}, "required": ["setup"]},
    ],
    ids=["object", "schema", "bare schema"],
)
def test_a_response_format_is_honoured(model, response_format):
    for message in all_ways(model, "a joke as JSON", response_format=response_format):
        assert json.loads(message.text) == {"setup": "a"}
        assert any(piece.source == "grammar" for piece in get_pieces(message))


def test_a_response_format_of_text_asks_for_nothing(model):
    assert model.invoke("Hi", response_format={"type": "text"}).text == TEXT


@pytest.mark.parametrize(
    "wrong",
    [{"type": "xml"}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": {"name": "J"}}, "json", 3, {}],
    ids=repr,
)
def test_a_response_format_that_is_none_is_refused(model, generator, wrong):
    with pytest.raises(ConfigError):
        model.invoke("Hi", response_format=wrong)
    assert not generator.base.engine.forwards


def test_a_schema_that_cannot_be_met_is_refused_before_any_compute(model, generator):
    schema = {"type": "object", "properties": {"a": {"type": "integer", "minimum": 5, "maximum": 4}}, "required": ["a"]}
    with pytest.raises(GrammarError):
        model.invoke("Hi", json_schema=schema)
    assert not generator.base.engine.forwards


def test_streaming_can_be_switched_off(generator):
    model = ChatNudging(generator=generator, streaming=False)
    [chunk] = model.stream("Hi")
    assert chunk.text == TEXT and "".join(piece.text for piece in get_pieces(chunk)) == TEXT
    assert get_provenance(chunk).text == TEXT
    assert len(list(ChatNudging(generator=generator).stream("Hi"))) > 5


# -- another base model for a call ------------------------------------------------------------------------------------


def test_models_that_were_given_loaded_cannot_be_changed_for_a_call(model, generator):
    with pytest.raises(ConfigError, match="was given loaded models"):
        model.invoke("Hi", model="google/gemma")
    assert not generator.base.engine.forwards
    assert model.invoke("Hi", model=model.model_name).text == TEXT


def test_another_base_model_for_a_call_is_loaded_once_and_shares_the_nudging_model(on_disk, folders, loads):
    model = ChatNudging(**on_disk, max_tokens=20)
    plain = model.invoke("Hi")
    for message in all_ways(model, model=folders["other"]):
        assert get_provenance(message).base.name == folders["other"]
        assert get_provenance(message).nudging.name == folders["nudging"]
        assert folders["other"] in message.response_metadata["model_name"]
    assert sorted(loads) == ["base", "nudging", "other"]
    assert model.invoke("Hi").text == plain.text


# -- loading ----------------------------------------------------------------------------------------------------------


def test_nothing_is_loaded_before_the_first_answer(on_disk, loads):
    model = ChatNudging(**on_disk, max_tokens=5)
    bound = model.bind_tools([double], tool_choice="any").with_config(tags=["x"])
    structured = model.with_structured_output(Point)
    assert repr(model) and model.profile and model._get_llm_string() and bound and structured
    assert not loads
    model.invoke("Hi")
    assert sorted(loads) == ["base", "nudging"]


def test_sixteen_threads_that_ask_first_load_once(on_disk, loads):
    model, ready = ChatNudging(**on_disk, max_tokens=5), threading.Barrier(16)

    def ask(_: int) -> str:
        ready.wait(30)
        return model.invoke("Hi").text

    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(ask, range(16)))) == 1
    assert sorted(loads) == ["base", "nudging"]


async def test_sixteen_tasks_that_ask_first_load_once_and_leave_the_loop_free(on_disk, loads, monkeypatch):
    model = ChatNudging(**on_disk, max_tokens=5)
    load, loop_ran = TransformersEngine.load, threading.Event()

    def patient(source: Any, **options: Any) -> TransformersEngine:
        assert loop_ran.wait(30), "the event loop stood still while a model was loaded"
        return load(source, **options)

    monkeypatch.setattr(TransformersEngine, "load", patient)
    tasks = [asyncio.create_task(model.ainvoke("Hi")) for _ in range(16)]
    await asyncio.sleep(0.05)
    loop_ran.set()
    assert len({message.text for message in await asyncio.gather(*tasks)}) == 1
    assert sorted(loads) == ["base", "nudging"]


def test_configurable_fields_do_not_load_again(on_disk, loads):
    model = ChatNudging(**on_disk, max_tokens=12).configurable_fields(
        threshold=ConfigurableField(id="threshold"), max_tokens=ConfigurableField(id="max_tokens")
    )
    used = []
    for threshold in (0.1, 0.4, 0.95, 0.1):
        record = get_provenance(model.invoke("Hi", config={"configurable": {"threshold": threshold}}))
        used.append(record.config["threshold"])
    assert used == [0.1, 0.4, 0.95, 0.1]
    assert sorted(loads) == ["base", "nudging"]


def test_configurable_fields_work_with_loaded_models_and_with_a_generator(pair, generator):
    for model in (ChatNudging(base_model=pair[0], nudging_model=pair[1]), ChatNudging(generator=generator)):
        changing = model.configurable_fields(max_tokens=ConfigurableField(id="n"))
        message = changing.invoke("Hi", config={"configurable": {"n": 2}})
        assert message.usage_metadata["output_tokens"] <= 2


def test_copies_use_the_same_weights(on_disk, loads):
    model = ChatNudging(**on_disk, max_tokens=5)
    model.invoke("Hi")
    model.model_copy().invoke("Hi")
    copy.deepcopy(model).invoke("Hi")
    ChatNudging(**on_disk, threshold=0.9, max_tokens=5).invoke("Hi")
    assert sorted(loads) == ["base", "nudging"]


def test_a_folder_without_a_model_raises_and_can_be_filled(tmp_path, on_disk):
    model = ChatNudging(**{**on_disk, "base_model": tmp_path / "later"}, max_tokens=5)
    with pytest.raises(ModelLoadError):
        model.invoke("Hi")
    save(tmp_path / "later", 3)
    assert get_provenance(model.invoke("Hi")).n_tokens


def test_copies_of_models_that_were_given_loaded_copy_no_weights(pair, generator):
    model = ChatNudging(base_model=pair[0], nudging_model=pair[1], max_tokens=20)
    copied = copy.deepcopy(model)
    assert copied.base_model[0] is model.base_model[0]
    assert key(copied) == key(model) and copied.invoke("Hi").text == model.invoke("Hi").text
    assert copy.deepcopy(ChatNudging(generator=generator)).generator is generator


# -- what it is -------------------------------------------------------------------------------------------------------


def key(model: Any) -> str:
    return str(model._get_llm_string())


def test_the_cache_s_key_is_equal_for_equal_models(on_disk, pair, generator):
    loaded = {"base_model": pair[0], "nudging_model": pair[1]}
    for arguments in (on_disk, loaded, {"generator": generator}):
        assert key(ChatNudging(**arguments)) == key(ChatNudging(**arguments))
        assert key(ChatNudging(**arguments)) == key(ChatNudging(**arguments, threshold=0.4, timeout=9))


@pytest.mark.parametrize(
    "other",
    [
        {"threshold": 0.3},
        {"lookahead": 3},
        {"max_tokens": 9},
        {"temperature": 0.5},
        {"nudging_temperature": 0.5},
        {"top_p": 0.5},
        {"top_k": 5},
        {"seed": 1},
        {"stop": ["x"]},
        {"base_template": "{% for m in messages %}{{ m.content }}{% endfor %}"},
        {"base_template": BaseTemplate(markers=("\nQuestion:",))},
        {"base_model_kwargs": {"revision": "abc"}},
        {"nudging_model_kwargs": {"revision": "abc"}},
        {"dtype": "bfloat16"},
        {"nudging_config": NudgingConfig(prefix_rule=False)},
        {"nudging_config": NudgingConfig(gate="margin")},
    ],
    ids=str,
)
def test_the_cache_s_key_differs_by_whatever_may_change_the_text(on_disk, other):
    assert key(ChatNudging(**{**on_disk, **other})) != key(ChatNudging(**on_disk))
    assert key(ChatNudging(**{**on_disk, **other})) == key(ChatNudging(**{**on_disk, **other}))


def test_the_cache_s_key_differs_by_the_models(on_disk, folders, pair):
    keys = {
        key(ChatNudging(**on_disk)),
        key(ChatNudging(**{**on_disk, "base_model": folders["other"]})),
        key(ChatNudging(**{**on_disk, "nudging_model": folders["other"]})),
        key(ChatNudging(**{**on_disk, "base_model": folders["nudging"], "nudging_model": folders["base"]})),
        key(ChatNudging(base_model=pair[0], nudging_model=pair[1])),
        key(ChatNudging(base_model=(roomy(7), tiny_tokenizer(False)), nudging_model=pair[1])),
        key(ChatNudging(generator=scripted_pair(rules()))),
        key(ChatNudging(generator=scripted_pair(rules()))),
        key(ChatNudging.starter()),
    }
    assert len(keys) == 9


def test_the_cache_s_key_differs_by_a_generator_s_template(generator):
    other = NudgingGenerator(
        generator.base.engine, generator.nudging.engine, base_template="{{ messages[0].content }}\nAnswer:"
    )
    assert key(ChatNudging(generator=generator)) != key(ChatNudging(generator=other))


def test_the_cache_s_key_differs_by_a_call_s_tools_and_stop_strings(model):
    calls = [
        model._get_llm_string(stop=stop, **options) for stop, options in ((None, {}), (["x"], {}), (None, {"a": 1}))
    ]
    assert len(set(calls)) == 3


def test_its_text_is_short_however_large_the_models(pair):
    model = ChatNudging(
        base_model=pair[0], nudging_model=pair[1], threshold=0.3, base_template="{{ messages }}" * 500 + "."
    )
    model.profile  # noqa: B018 - it may be shown
    for text in (repr(model), str(model), repr(model.bind(stop=["x"])), repr(model | str)):
        assert len(text) < 2000 and "LlamaForCausalLM" in text and "Parameter" not in text
    assert len(key(model)) < 20_000


def test_a_trace_names_provider_model_and_options(model):
    params = model._get_ls_params(stop=["x"], temperature=0.5)
    assert params["ls_provider"] == "nudging" and params["ls_model_type"] == "chat"
    assert params["ls_model_name"] == "scripted-base + scripted-nudging" == model.model_name
    assert (params["ls_temperature"], params["ls_max_tokens"], params["ls_stop"]) == (0.5, 512, ["x"])
    assert model._get_ls_params(model="x")["ls_model_name"] == "x"
    assert model._get_ls_params(max_tokens=9)["ls_max_tokens"] == 9
    assert ChatNudging(generator=model.generator, stop="y")._get_ls_params()["ls_stop"] == ["y"]
    assert model._llm_type == "chat-nudging"


def test_the_profile_claims_what_is_there_and_no_more(on_disk, pair):
    for models in (on_disk, {"base_model": pair[0], "nudging_model": pair[1]}):
        profile = ChatNudging(**models, max_tokens=20, lookahead=6).profile
        assert profile["tool_calling"] and profile["structured_output"] and profile["text_inputs"]
        assert not (profile["image_inputs"] or profile["audio_inputs"] or profile["video_inputs"])
        assert not profile["reasoning_output"]
        assert (profile["max_input_tokens"], profile["max_output_tokens"]) == (ROOM - 20 - 6, 20)


def test_a_prompt_of_as_many_tokens_as_the_profile_says_is_answered(pair):
    model = ChatNudging(base_model=pair[0], nudging_model=pair[1], max_tokens=20)
    longest = model.profile["max_input_tokens"]
    text = "x" * (longest - get_provenance(model.invoke("x")).nudging.prompt_tokens + 1)
    assert get_provenance(model.invoke(text)).nudging.prompt_tokens == longest
    with pytest.raises(ContextOverflowError):
        model.invoke(text + "x")


def test_the_profile_follows_configurable_fields(on_disk):
    model = ChatNudging(**on_disk, max_tokens=20).configurable_fields(max_tokens=ConfigurableField(id="n"))
    changed, _ = model.prepare({"configurable": {"n": 9}})
    assert changed.profile["max_output_tokens"] == 9


def test_a_profile_of_the_user_s_own_is_kept(generator):
    assert ChatNudging(generator=generator, profile={"max_input_tokens": 7}).profile["max_input_tokens"] == 7


# -- tools ------------------------------------------------------------------------------------------------------------


def double(number: int) -> int:
    """Twice a number."""
    return 2 * number


@tool
def triple(number: int) -> int:
    """Three times a number."""
    return 3 * number


class Point(BaseModel):
    """A point."""

    x: int


class PointV1(BaseModelV1):
    """A point."""

    x: int


class PointDict(TypedDict):
    """A point."""

    x: int


class Tree(BaseModel):
    """A tree."""

    children: list[Tree] = []


NUMBER = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
TOOLS: dict[str, tuple[Any, str]] = {
    "function": (double, "double"),
    "tool": (triple, "triple"),
    "pydantic": (Point, "Point"),
    "pydantic v1": (PointV1, "PointV1"),
    "TypedDict": (PointDict, "PointDict"),
    "recursive": (Tree, "Tree"),
    "JSON schema": ({"title": "point", "description": "A point.", **NUMBER}, "point"),
    "OpenAI": ({"type": "function", "function": {"name": "point", "description": "", "parameters": NUMBER}}, "point"),
    "OpenAI's function": ({"name": "point", "description": "", "parameters": NUMBER}, "point"),
    "Anthropic": ({"name": "point", "description": "", "input_schema": NUMBER}, "point"),
}


@pytest.mark.parametrize("kind", TOOLS)
def test_tools_of_every_kind_can_be_called(model, kind):
    given, name = TOOLS[kind]
    [call] = model.bind_tools([given], tool_choice=name).invoke("Go on.", max_tokens=200).tool_calls
    assert call["name"] == name and isinstance(call["args"], dict)
    if "x" in str(given) and name.lower().startswith("point"):
        assert isinstance(call["args"]["x"], int)


@pytest.mark.filterwarnings("ignore:This API is in beta")
def test_a_chain_can_be_a_tool(model):
    ask = model.as_tool(name="ask", description="Asks.", arg_types={"question": str})
    [call] = model.bind_tools([ask], tool_choice="ask").invoke("Go on.", max_tokens=200).tool_calls
    assert set(call["args"]) == {"question"} and isinstance(call["args"]["question"], str)


@pytest.mark.parametrize(
    "choice",
    [
        "any",
        "required",
        True,
        "triple",
        {"type": "function", "function": {"name": "triple"}},
        {"type": "tool", "name": "triple"},
        {"type": "any"},
    ],
    ids=str,
)
def test_a_choice_that_forces_a_call_does(model, choice):
    message = model.bind_tools([double, triple], tool_choice=choice).invoke("Go on.", max_tokens=200)
    assert message.tool_calls and message.text == ""
    if "triple" in str(choice):
        assert [call["name"] for call in message.tool_calls] == ["triple"]


@pytest.mark.parametrize("choice", [None, "auto", "none", {"type": "auto"}, False], ids=str)
def test_a_choice_that_forces_none_does_not(model, choice):
    message = model.bind_tools([double, triple], tool_choice=choice).invoke("Go on.")
    assert message.text == TEXT and not message.tool_calls


# -- tokens -----------------------------------------------------------------------------------------------------------


def test_tokens_are_the_base_model_s(on_disk):
    model = ChatNudging(**on_disk)
    assert model.get_num_tokens("Zürich") == len("Zürich".encode())
    assert model.get_token_ids("ab") == tiny_tokenizer(False)("ab").input_ids


def test_a_conversation_is_counted_as_it_is_asked(model):
    messages = [SystemMessage("Be brief."), HumanMessage("Why?")]
    counted = model.get_num_tokens_from_messages(messages)
    assert counted == longer_prompt(model.invoke(messages))
    with_tools = model.get_num_tokens_from_messages(messages, tools=[double, Point])
    assert with_tools == longer_prompt(model.bind_tools([double, Point]).invoke(messages)) > counted


def longer_prompt(answer):
    """Of both models, in tokens."""
    record = get_provenance(answer)
    return max(record.base.prompt_tokens, record.nudging.prompt_tokens)


def test_a_part_of_a_conversation_can_be_counted(model):
    call = AIMessage("", tool_calls=[{"id": "1", "name": "double", "args": {"number": 1}}])
    parts = [[AIMessage("Sun.")], [call], [ToolMessage("2", tool_call_id="1")], [HumanMessage("a"), SystemMessage("b")]]
    counts = [model.get_num_tokens_from_messages(part) for part in parts]
    assert all(count > 0 for count in counts)
    assert model.get_num_tokens_from_messages([]) == 0


def test_messages_can_be_trimmed_to_a_number_of_tokens(model):
    messages = [SystemMessage("Be brief.")]
    for i in range(10):
        messages += [HumanMessage(f"Question {i}?"), AIMessage(f"Answer {i}.")]
    messages.append(HumanMessage("Last?"))
    limit = sum(map(model.get_num_tokens_from_messages, ([messages[0]], messages[-5:])))  # as LangChain adds them up
    trimmed = trim_messages(
        messages, max_tokens=limit, token_counter=model, strategy="last", include_system=True, start_on="human"
    )
    assert trimmed == [messages[0], *messages[-5:]]
    assert model.invoke(trimmed).usage_metadata["input_tokens"] <= limit
