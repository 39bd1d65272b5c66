"""``config=``: every call of a generator takes a whole configuration, beside single options that win over it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from nudging_llm import ConfigError, NudgingConfig, NudgingGenerator, Provenance

DEFAULT = NudgingConfig(max_tokens=12, threshold=0.3, stop="zzz")
OTHER = NudgingConfig(max_tokens=7, lookahead=4)


async def _pieces(stream: Any) -> Any:
    async for _ in stream:
        pass
    return stream


def _run(stream: Any) -> Any:
    for _ in stream:
        pass
    return stream


CALLS: dict[str, Callable[..., Any]] = {
    "generate": lambda gen, **options: gen.generate("hello", **options),
    "stream": lambda gen, **options: _run(gen.stream("hello", **options)),
    "agenerate": lambda gen, **options: asyncio.run(gen.agenerate("hello", **options)),
    "astream": lambda gen, **options: asyncio.run(_pieces(gen.astream("hello", **options))),
    "batch": lambda gen, **options: gen.batch(["hello"], **options)[0],
    "abatch": lambda gen, **options: asyncio.run(gen.abatch(["hello"], **options))[0],
    "generate_raw": lambda gen, **options: gen.generate_raw("hello", "hi", **options),
    "stream_raw": lambda gen, **options: _run(gen.stream_raw("hello", "hi", **options)),
    "generate_alone": lambda gen, **options: gen.generate_alone("base", "hello", **options),
    "stream_alone": lambda gen, **options: _run(gen.stream_alone("base", "hello", **options)),
}


@pytest.fixture(scope="module")
def gen(tiny_pair: tuple) -> NudgingGenerator:
    return NudgingGenerator.from_pretrained(*tiny_pair, DEFAULT, dtype="float32", device="cpu")


@pytest.mark.parametrize("call", CALLS)
def test_every_call_takes_a_configuration(gen: NudgingGenerator, call: str) -> None:
    def asked(**options: Any) -> Provenance:
        return CALLS[call](gen, **options).provenance

    assert asked().config == DEFAULT.model_dump(mode="json")
    replaced = asked(config=OTHER)
    assert replaced.config == OTHER.model_dump(mode="json"), "wholly: threshold and stop are not the generator's"
    assert replaced.n_tokens <= 7
    both = asked(config=OTHER, threshold=0.2, max_tokens=9)
    assert both.config == OTHER.updated({"threshold": 0.2, "max_tokens": 9}).model_dump(mode="json")
    assert asked(config=None).config == DEFAULT.model_dump(mode="json")
    assert gen.config == DEFAULT


def test_the_paper_s_rules_for_one_call(gen: NudgingGenerator) -> None:
    record = gen.generate("hello", config=NudgingConfig.paper(max_tokens=8)).provenance
    assert record.config == NudgingConfig.paper(max_tokens=8).model_dump(mode="json")
    with pytest.raises(ConfigError, match="repetition='paper' reads base runs in chunks"):
        gen.generate("hello", config=NudgingConfig.paper(max_tokens=40), choices=["a", "b"])
    answer = gen.generate("hello", config=NudgingConfig.paper(max_tokens=40, repetition="guard"), choices=["yes", "no"])
    assert answer.text in ("yes", "no")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("wrong", [{"threshold": 0.3}, 0.3, "paper", NudgingConfig], ids=str)
def test_a_configuration_of_another_type_is_named(gen: NudgingGenerator, call: str, wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"config=.*is of type \w+: give a NudgingConfig") as caught:
        CALLS[call](gen, config=wrong)
    assert f"of type {type(wrong).__name__}" in str(caught.value)


def test_a_generator_refuses_one_too_before_it_loads_anything(gen: NudgingGenerator) -> None:
    wrong: Any = {"threshold": 0.3}
    for make in (
        lambda: NudgingGenerator(gen.base, gen.nudging, wrong),
        lambda: NudgingGenerator.from_pretrained("no/model", "nor/this", wrong),
        lambda: NudgingGenerator.starter(wrong),
    ):
        with pytest.raises(ConfigError, match=r"config=\{'threshold': 0.3\} is of type dict"):
            make()


def test_a_misspelt_configuration_is_recognised(gen: NudgingGenerator) -> None:
    with pytest.raises(ConfigError, match=r"Unknown option 'confg'. Did you mean 'config'"):
        gen.generate("hello", confg=OTHER)
