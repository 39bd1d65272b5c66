"""What cannot be answered: the same error in every layer, before any compute. What fails in the middle can be asked again."""

from __future__ import annotations

from typing import Any

import pytest

from nudging_llm import (
    ConfigError,
    ContextOverflowError,
    MessageError,
    NudgingGenerator,
    OutOfMemoryError,
    UnsupportedContentError,
)
from nudging_llm.testing.scripted import rules, scripted_pair

from .asking import Watch, asked, user
from .layers import Layer

TEXT = "One. Two! Three?"
IMAGE = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.org/x.png"}}]}]


@pytest.fixture
def scripted() -> NudgingGenerator:
    return scripted_pair(rules(otherwise=TEXT))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"treshold": 0.5}, "'treshold'. Did you mean 'threshold'"),
        ({"threshold": -1}, "threshold"),
        ({"temperature": -1}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stop": [""]}, "stop"),
        ({"top_p": 0}, "top_p"),
    ],
    ids=str,
)
async def test_a_wrong_option_is_refused(
    layer: type[Layer], way: str, scripted: NudgingGenerator, options: dict[str, Any], said: str
) -> None:
    await refused(layer(scripted), scripted, way, user("Hi"), ConfigError, said, options)


@pytest.mark.parametrize(
    ("messages", "error", "said"),
    [
        ([], MessageError, "non-empty"),
        (user(" "), MessageError, "empty"),
        ([*user("Why?"), {"role": "assistant", "content": "So."}], MessageError, "nothing to answer"),
        (IMAGE, UnsupportedContentError, "image"),
    ],
    ids=["nothing", "an empty question", "the model last", "an image"],
)
async def test_what_cannot_be_answered_is_refused(
    layer: type[Layer], way: str, scripted: NudgingGenerator, messages: Any, error: type[Exception], said: str
) -> None:
    await refused(layer(scripted), scripted, way, messages, error, said, {})


async def test_a_prompt_that_is_too_long_is_refused_and_nothing_is_cut(
    layer: type[Layer], way: str, scripted: NudgingGenerator
) -> None:
    for engine in (scripted.base.engine, scripted.nudging.engine):
        engine.context_length = 1100  # room for LlamaIndex's reserve, too
    question = user("word " * 250)
    found = await refused(layer(scripted, max_tokens=20), scripted, way, question, ContextOverflowError, "1,?100", {})
    assert found.limit == 1100 and found.excess == found.needed - found.limit > 0


async def refused(
    model: Layer, generator: NudgingGenerator, way: str, messages: Any, error: type[Exception], said: str, options: Any
) -> Any:
    """The error; nothing was computed before it, and the next question is answered."""
    watch = Watch(generator)
    with pytest.raises(error, match=said) as caught:
        await asked(model, way, messages, **options)
    assert not watch.forwards, "before any compute"
    assert (await asked(model, way, user("Hi"))).text == TEXT
    return caught.value


async def test_an_answer_that_failed_can_be_asked_for_again(
    layer: type[Layer], way: str, scripted: NudgingGenerator
) -> None:
    def fail(count: int) -> None:
        if count == 5:
            raise OutOfMemoryError("no room")

    model, watch = layer(scripted), Watch(scripted)
    watch.before = fail
    with pytest.raises(OutOfMemoryError, match="no room"):
        await asked(model, way, user("Hi"))
    assert len(watch.forwards) == 5
    assert (await asked(model, way, user("Hi"))).text == TEXT


async def test_the_callers_messages_stay_as_they_are(layer: type[Layer], way: str, scripted: NudgingGenerator) -> None:
    messages, options = user("Hi"), {"stop": ["Two"], "max_tokens": 30}
    await asked(layer(scripted), way, messages, **options)
    assert messages == user("Hi") and options == {"stop": ["Two"], "max_tokens": 30}
