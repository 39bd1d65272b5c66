"""Generators that are loaded when first used, once, and shared by all who ask for the same."""

from __future__ import annotations

import gc
import os
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from nudging_llm import STARTER, ConfigError, LazyGenerator, ModelLoadError, TemplateError, lazy_generator, starter
from nudging_llm.engines.transformers import TransformersEngine
from nudging_llm.frameworks.lazy import serial
from nudging_llm.testing.tiny import tiny_model, tiny_tokenizer

OPTIONS: dict[str, Any] = {"device": "cpu", "dtype": "float32"}


def save(folder: Path, seed: int, chat: bool) -> Path:
    tiny_model(seed).save_pretrained(folder)
    tiny_tokenizer(chat).save_pretrained(folder)
    return folder


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two models on disk."""
    return save(tmp_path / "base", 7, chat=False), save(tmp_path / "nudging", 57, chat=True)


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that are loaded from now on."""
    found: list[str] = []
    load = TransformersEngine.load

    def counted(source: Any, **options: Any) -> TransformersEngine:
        found.append(source if isinstance(source, str) else getattr(source, "name", "loaded"))
        return load(source, **options)

    monkeypatch.setattr(TransformersEngine, "load", counted)
    return found


def test_who_asks_for_the_same_gets_the_same(pair):
    assert lazy_generator(*pair, **OPTIONS) is lazy_generator(*map(str, pair), **OPTIONS)


def test_loaded_models_are_the_same_when_they_are_the_same_objects(tiny_pair):
    assert lazy_generator(*tiny_pair) is lazy_generator(*tiny_pair)
    (model, tokenizer), nudging = tiny_pair
    assert lazy_generator((model, tiny_tokenizer(False)), nudging) is not lazy_generator(*tiny_pair)
    assert lazy_generator((tiny_model(7), tokenizer), nudging) is not lazy_generator(*tiny_pair)


@pytest.mark.parametrize(
    "other",
    [
        {"dtype": "bfloat16"},
        {"device": "auto"},
        {"base_model_kwargs": {"revision": "a"}},
        {"nudging_model_kwargs": {"revision": "a"}},
        {"base_template": "{% for m in messages %}{{ m.content }}{% endfor %}"},
        {"cache_slots": 3},
        {"cache_bytes": 2**20},
        {"batch_size": 2},
    ],
    ids=lambda other: next(iter(other)),
)
def test_other_options_make_another(pair, other):
    one, two = lazy_generator(*pair, **OPTIONS), lazy_generator(*pair, **{**OPTIONS, **other})
    assert one is not two and one.key != two.key
    assert two is lazy_generator(*pair, **{**OPTIONS, **other})


def test_base_and_nudging_model_are_not_mixed_up(pair):
    one, two = lazy_generator(*pair, **OPTIONS), lazy_generator(*reversed(pair), **OPTIONS)
    assert one is not two and one.key != two.key
    assert one.base is two.nudging and one.nudging is two.base, "but the weights are the same"


def test_nothing_is_loaded_before_it_is_used(pair, loads):
    lazy = lazy_generator(*pair, **OPTIONS)
    assert not lazy.loaded and not loads
    assert lazy.base.context_length == 256 and lazy.base.name == str(pair[0])
    assert not loads
    generator = lazy.get()
    assert lazy.loaded and len(loads) == 2
    assert generator.generate("Hi", max_tokens=20).text
    assert lazy.get() is generator and len(loads) == 2


def test_generators_of_different_templates_share_their_engines(pair, loads):
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    one, two = lazy_generator(*pair, **OPTIONS), lazy_generator(*pair, **OPTIONS, base_template=template)
    assert one.get() is not two.get()
    for model in ("base", "nudging"):
        assert getattr(one.get(), model).engine is getattr(two.get(), model).engine
    assert len(loads) == 2
    assert one.get().base_template != two.get().base_template


def test_sixteen_threads_load_once_and_get_the_same(pair, loads):
    lazy, ready = lazy_generator(*pair, **OPTIONS), threading.Barrier(16)

    def get(_: int) -> Any:
        ready.wait(30)
        return lazy.get()

    with ThreadPoolExecutor(16) as pool:
        found = set(pool.map(get, range(16)))
    assert len(found) == 1 and len(loads) == 2


def test_sixteen_threads_that_ask_get_the_same(pair):
    ready = threading.Barrier(16)

    def ask(_: int) -> LazyGenerator:
        ready.wait(30)
        return lazy_generator(*pair, **OPTIONS)

    with ThreadPoolExecutor(16) as pool:
        assert len(set(pool.map(ask, range(16)))) == 1


def test_weights_go_when_nobody_holds_them(pair, loads):
    lazy = lazy_generator(*pair, **OPTIONS)
    lazy.get().generate("Hi", max_tokens=20)
    generator, weights = weakref.ref(lazy.get()), weakref.ref(lazy.get().base.engine.model)
    del lazy
    gc.collect()
    assert generator() is None and weights() is None
    lazy_generator(*pair, **OPTIONS).get()
    assert len(loads) == 4


def test_weights_stay_while_one_of_two_holds_them(pair, loads):
    one = lazy_generator(*pair, **OPTIONS)
    two = lazy_generator(*pair, **OPTIONS, cache_slots=3)
    one.get()
    del one
    gc.collect()
    two.get()
    assert len(loads) == 2


def test_a_model_that_was_given_loaded_goes_too():
    lazy = lazy_generator((tiny_model(1), tiny_tokenizer(False)), (tiny_model(2), tiny_tokenizer(True)))
    weights = weakref.ref(lazy.get().base.engine.model)
    del lazy
    gc.collect()
    assert weights() is None


def test_a_model_that_was_trained_further_is_another(pair):
    before = lazy_generator(*pair, **OPTIONS)
    written = before.get().generate("Hi", max_tokens=20).text
    save(pair[0], 8, chat=False)
    [weights] = pair[0].glob("*.safetensors")
    os.utime(weights, ns=(1, 1))  # however coarse the disk's clock is
    after = lazy_generator(*pair, **OPTIONS)
    assert after is not before and after.key != before.key
    assert after.nudging is before.nudging
    assert after.get().generate("Hi", max_tokens=20).text != written


def test_a_load_that_failed_can_be_tried_again(pair, tmp_path):
    config = pair[0] / "config.json"
    text = config.read_text()
    config.unlink()
    lazy = lazy_generator(*pair, **OPTIONS)
    for _ in range(2):
        with pytest.raises(ModelLoadError):
            lazy.get()
    assert not lazy.loaded
    config.write_text(text)
    assert lazy.get().generate("Hi", max_tokens=20).text


def test_a_folder_that_is_not_there_yet_can_be_asked_for(tmp_path, pair):
    lazy = lazy_generator(tmp_path / "later", pair[1], **OPTIONS)
    with pytest.raises(ModelLoadError):
        lazy.get()
    save(tmp_path / "later", 3, chat=False)
    assert lazy.get().generate("Hi", max_tokens=20).text


@pytest.mark.parametrize("wrong", [None, "", 3, ("model",), [1, 2]], ids=repr)
def test_what_could_not_be_a_model_is_refused_at_once(pair, wrong):
    with pytest.raises(ConfigError, match=r"base_model="):
        lazy_generator(wrong, pair[1])
    with pytest.raises(ConfigError, match=r"nudging_model="):
        lazy_generator(pair[0], wrong)


def test_a_template_that_does_not_compile_is_refused_at_once(pair):
    with pytest.raises(TemplateError):
        lazy_generator(*pair, base_template="{% for")


def test_a_model_of_the_starter_pair_goes_with_a_folder(pair, loads, tmp_path, monkeypatch):
    """The pair's files are stood in for by tiny ones; that it can be fetched is tested elsewhere."""
    monkeypatch.setattr(starter, "fetch", lambda: starter.StarterPair(*pair))
    lazy = lazy_generator(STARTER, save(tmp_path / "own", 3, chat=True), **OPTIONS)
    assert lazy.base.name == starter.BASE_NAME and lazy.nudging.name == str(tmp_path / "own")
    assert lazy.get().base.name == starter.BASE_NAME
    assert lazy.get().generate("Hi", max_tokens=20).text
    both = lazy_generator(STARTER, STARTER, **OPTIONS)
    assert both.base is lazy.base and both.nudging is not both.base
    assert both.nudging.key != both.base.key


def test_a_live_object_keeps_its_serial_and_has_it_alone():
    class Thing:
        pass

    one, two = Thing(), Thing()
    assert serial(one) == serial(one) != serial(two)
    first = serial(one)
    del one
    gc.collect()
    assert all(serial(Thing()) != first for _ in range(50)), "not even when its place in memory is taken again"
