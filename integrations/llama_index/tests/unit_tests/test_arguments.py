"""What ``NudgingLLM`` takes, keeps and refuses."""

from __future__ import annotations

import copy
import inspect
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from llama_index.core import PromptTemplate
from llama_index.core.llms import ChatMessage
from llama_index.core.llms.loading import load_llm
from pydantic import ValidationError

import llama_index.llms.nudging
from llama_index.llms.nudging import NudgingLLM, get_provenance
from nudging_llm import (
    BaseTemplate,
    ConfigError,
    ContextOverflowError,
    EntropyGate,
    MessageError,
    NudgingConfig,
    NudgingGenerator,
    ToolError,
)
from nudging_llm.engines.transformers import TransformersEngine
from nudging_llm.testing.scripted import rules, scripted_pair
from nudging_llm.testing.tiny import tiny_model, tiny_tokenizer

QUESTION = [ChatMessage(content="Who wrote this?")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two models as folders."""
    found = {}
    for name, seed in (("base", 7), ("nudging", 57)):
        found[name] = tmp_path_factory.mktemp(name)
        tiny_model(seed, max_position_embeddings=2048).save_pretrained(found[name])
        tiny_tokenizer(name == "nudging").save_pretrained(found[name])
    return found


@pytest.fixture
def by_folder(folders: dict[str, Path]) -> NudgingLLM:
    return NudgingLLM(base_model=folders["base"], nudging_model=folders["nudging"], max_tokens=20, dtype="float32")


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Grows by one whenever a model is loaded."""
    seen: list[Any] = []
    real = TransformersEngine.load

    def load(source: Any, **options: Any) -> Any:
        seen.append(source)
        return real(source, **options)

    monkeypatch.setattr(TransformersEngine, "load", load)
    return seen


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"treshold": 0.3}, "Unknown argument 'treshold'. Did you mean 'threshold'"),
        ({"end_check": "sentence"}, r"give nudging_config=NudgingConfig\(end_check"),
        ({"threshold": -0.5}, "threshold"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages_to_prompt": lambda messages: "x"}, "messages_to_prompt would have no effect"),
        ({"completion_to_prompt": lambda prompt: "x"}, "completion_to_prompt would have no effect"),
        ({"query_wrapper_prompt": PromptTemplate("{query_str}")}, "query_wrapper_prompt would have no effect"),
        ({"base_model": "a"}, "base_model with generator="),
        ({"max_tokens": 15984}, "context_reserve keeps back 384"),
        ({"context_reserve": 20000}, "context_reserve keeps back 20,000"),
        (
            {"max_tokens": 20000},
            "max_tokens=20,000 leaves no room for a prompt: there are 16,368 tokens for prompt and answer",
        ),
    ],
)
def test_a_wrong_argument_is_refused(generator: NudgingGenerator, arguments: Any, message: str) -> None:
    with pytest.raises((ValidationError, ConfigError), match=message):
        NudgingLLM(generator=generator, **arguments)


def test_no_models_at_all_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"NudgingLLM\.starter"):
        NudgingLLM()


async def asked(made: Any) -> None:
    """Waits where there is something to wait for."""
    if inspect.isawaitable(made):
        await made


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_token": 5}, ConfigError, "Unknown option 'max_token'. Did you mean 'max_tokens'"),
        ({"threshold": -1}, ConfigError, "threshold"),
        ({"tool_required": True}, ConfigError, "there are no tools"),
        ({"tool_choice": "add"}, ToolError, "tool_choice"),
        ({"tools": [print], "tool_required": True, "tool_choice": "none"}, ConfigError, "contradict each other"),
        ({"max_tokens": 16380}, ContextOverflowError, "Shorten the messages"),
        ({"regex": "a+", "choices": ["a"]}, ConfigError, "different forms"),
    ],
)
@pytest.mark.parametrize("method", ["chat", "stream_chat", "achat", "astream_chat", "complete", "stream_complete"])
async def test_a_wrong_option_is_refused_at_once(
    llm: NudgingLLM, method: str, options: Any, error: type[Exception], message: str
) -> None:
    question = "Who?" if "complete" in method else QUESTION
    with pytest.raises(error, match=message):
        await asked(getattr(llm, method)(question, **options))  # not when the stream is read
    assert llm.complete("Who?", max_tokens=3).text


@pytest.mark.parametrize(
    "form", [{"regex": "[0-9]{3}"}, {"choices": ["left", "right"]}, {"json_schema": {"type": "integer"}}]
)
def test_forms_hold_the_text(llm: NudgingLLM, form: Any) -> None:
    found = llm.with_options(stop=["e", "1"]).complete("Which?", max_tokens=20, **form).text
    assert found.isdigit() or found in ("left", "right") or found.lstrip("-").isdigit()


def test_copies_share_the_weights(by_folder: NudgingLLM, loads: list[Any]) -> None:
    text = by_folder.complete("Who?").text
    assert len(loads) == 2
    for other in (
        by_folder.model_copy(),
        copy.copy(by_folder),
        copy.deepcopy(by_folder),
        by_folder.with_options(lookahead=8),
        NudgingLLM.from_dict(by_folder.to_dict()),
        pickle.loads(pickle.dumps(by_folder)),
    ):
        assert other._loaded().base is by_folder._loaded().base
        assert other.complete("Who?", lookahead=16).text == text
    assert len(loads) == 2


def test_with_options_keeps_the_rest(llm: NudgingLLM, by_folder: NudgingLLM, generator: NudgingGenerator) -> None:
    first = llm.with_options(system_prompt="Be brief.", threshold=0.2)
    second = first.with_options(threshold=0.5)
    assert (second.threshold, second.system_prompt, second.generator) == (0.5, "Be brief.", generator)
    assert second.callback_manager is llm.callback_manager and llm.threshold is None
    moved = llm.with_options(base_model=by_folder.base_model, nudging_model=by_folder.nudging_model)
    assert moved.generator is None and moved.with_options(generator=generator).base_model is None
    with pytest.raises((ValidationError, ConfigError), match="Did you mean 'threshold'"):
        llm.with_options(treshold=0.2)


def test_a_whole_configuration_for_one_call(generator: NudgingGenerator) -> None:
    llm = NudgingLLM(generator=generator, threshold=0.2, nudging_config=NudgingConfig(lookahead=3, max_tokens=9))

    def used(**options: Any) -> dict[str, Any]:
        record = get_provenance(llm.complete("Hi", **options))
        assert record is not None
        return record.config

    own, other = used(), NudgingConfig(max_tokens=7)
    assert (own["threshold"], own["lookahead"], own["max_tokens"]) == (0.2, 3, 9)
    assert used(config=other) == other.model_dump(mode="json"), "it replaces the object's own wholly"
    assert used(config=other, threshold=0.3) == other.updated({"threshold": 0.3}).model_dump(mode="json")
    with pytest.raises(ConfigError, match="of type dict: give a NudgingConfig"):
        used(config={"threshold": 0.3})


def test_a_gate_is_written_down_with_its_threshold() -> None:
    llm = NudgingLLM(base_model="a", nudging_model="b", nudging_config=NudgingConfig(gate=EntropyGate(1.5)))
    again = NudgingLLM.from_json(llm.to_json())._config()
    assert (again.gate, again.threshold) == ("entropy", 1.5)


def test_as_a_dict_and_back(folders: dict[str, Path]) -> None:
    llm = NudgingLLM(
        base_model=folders["base"],
        nudging_model=str(folders["nudging"]),
        threshold=0.3,
        system_prompt="Be brief.",
        nudging_config=NudgingConfig(end_check="lookahead", max_tokens=20),
        base_template=BaseTemplate("{{ messages[-1].content }} =", ("\n",)),
        stop=["."],
    )
    written = llm.to_json()
    again = NudgingLLM.from_json(written)
    assert again.to_json() == written
    assert again._config() == llm._config()
    assert again.complete("1").text == llm.complete("1").text
    assert isinstance(load_llm(llm.to_dict()), NudgingLLM) if "NudgingLLM" in _known() else True


def _known() -> set[str]:
    from llama_index.core.llms.loading import RECOGNIZED_LLMS

    return set(RECOGNIZED_LLMS)


def test_how_models_are_loaded_is_written_down_but_for_secrets() -> None:
    options = {"dtype": torch.float32, "token": "hf_secret", "revision": "v1"}
    llm = NudgingLLM(base_model="a", nudging_model="b", base_model_kwargs=options)
    assert llm.to_dict()["base_model_kwargs"] == {"dtype": "float32", "revision": "v1"}
    assert "hf_secret" not in llm.to_json() + repr(llm) + str(llm.to_payload())
    odd = NudgingLLM(base_model="a", nudging_model="b", nudging_model_kwargs={"quantization_config": object()})
    with pytest.raises(ConfigError, match=r"nudging_model_kwargs=.* cannot be written down"):
        odd.to_dict()


def test_loaded_models_cannot_be_written_down(llm: NudgingLLM) -> None:
    pair = NudgingLLM(
        base_model=(tiny_model(7), tiny_tokenizer(False)),
        nudging_model=(tiny_model(57), tiny_tokenizer(True)),
        max_tokens=20,
    )
    for loaded in (llm, pair.with_options(max_tokens=20)):
        for write in (loaded.to_dict, loaded.to_json, lambda loaded=loaded: pickle.dumps(loaded)):
            with pytest.raises(ConfigError, match="Loaded models cannot be written down"):
                write()
        assert loaded.complete("Who?", max_tokens=4).text


def test_metadata(llm: NudgingLLM, by_folder: NudgingLLM, loads: list[Any]) -> None:
    assert llm.metadata.context_window == 16384 - 16 - 384 and llm.metadata.num_output == 30
    assert by_folder.metadata.context_window == 2048 - 16 - (2048 - 16) // 8
    assert by_folder.with_options(context_reserve=0).metadata.context_window == 2048 - 16
    assert by_folder.metadata.is_chat_model and by_folder.metadata.is_function_calling_model
    assert by_folder.metadata.model_name.count(" + ") == 1
    assert by_folder.to_payload()["model_name"] == by_folder.metadata.model_name
    assert not loads, "a folder tells its length without being loaded"


def test_settings_tokenizer_counts_for_both(llm: NudgingLLM) -> None:
    assert len(llm.tokenizer_fn("Grüße")) == len("Grüße".encode())


def test_shown_short(llm: NudgingLLM) -> None:
    shown = repr(llm.with_options(threshold=0.2))
    assert shown == f"NudgingLLM(threshold=0.2, model_name={llm.model_name!r})"
    pair = NudgingLLM(
        base_model=(tiny_model(7), tiny_tokenizer(False)),
        nudging_model=(tiny_model(57), tiny_tokenizer(True)),
        max_tokens=9,
    )
    assert len(repr(pair)) < 300


def test_what_is_said_is_not_more_than_asked() -> None:
    llm = NudgingLLM(generator=scripted_pair(rules(("capital", "Paris."), otherwise="No.")), system_prompt="Be kind.")
    assert llm.complete("The capital?").text == "Paris."
    assert llm.complete("Be kind.\n\nThe capital?", formatted=True).text == "Paris."
    assert set(llama_index.llms.nudging.__all__) <= set(dir(llama_index.llms.nudging))


@pytest.mark.parametrize("method", ["complete", "stream_complete"])
def test_a_prompt_that_is_no_text_is_refused(llm: NudgingLLM, method: str) -> None:
    with pytest.raises(MessageError, match=r"prompt=3: give a text"):
        getattr(llm, method)(3)
