"""Bad input: a clear error that names the value and the remedy, before any compute, and a generator that goes on."""

from __future__ import annotations

import pytest

import nudging_llm as n
from nudging_llm import NudgingConfig


@pytest.fixture
def healthy(tiny):
    """A generator that must still answer, the same as before, when the test is over; and must not have computed."""
    before = tiny.generate("hello").text
    forwards = []
    forward = tiny.base.engine.forward
    tiny.base.engine.forward = lambda *args: (forwards.append(1), forward(*args))[1]
    yield tiny
    assert not forwards, "computed before the error"
    assert tiny.generate("hello").text == before


BAD_OPTIONS = [
    (dict(threshold=-0.1), "threshold=-0.1"),
    (dict(threshold=40), "not a percentage"),
    (dict(threshold=float("nan")), "finite"),
    (dict(treshold=0.3), "Did you mean 'threshold'"),
    (dict(lookahead=0), "lookahead=0"),
    (dict(end_check="lazy"), "end_check='lazy'"),
    (dict(repetition="paper", end_check="sentence"), "needs end_check='lookahead'"),
    (dict(max_tokens=0), "max_tokens=0"),
    (dict(gate="top-1"), "Did you mean 'top1'"),
    (dict(gate=3), "confident"),
    (dict(stop=[""]), "empty stop string"),
    (dict(stop_on="me"), "stop_on='me'"),
    (dict(temperature=-1), "temperature=-1"),
    (dict(top_p=0), "top_p=0"),
]


@pytest.mark.parametrize(("options", "said"), BAD_OPTIONS, ids=str)
@pytest.mark.parametrize("call", ["generate", "stream", "astream"])
def test_bad_option(healthy, options, said, call):
    with pytest.raises(n.ConfigError, match=said) as caught:
        getattr(healthy, call)("hello", **options)
    assert isinstance(caught.value, n.NudgingError)
    assert isinstance(caught.value, ValueError)


BAD_MESSAGES = [
    ([], n.MessageError, "non-empty"),
    (7, n.MessageError, "messages=7"),
    ("", n.MessageError, "empty"),
    ([{"role": "bot", "content": "x"}], n.MessageError, "'bot'"),
    ([{"role": "users", "content": "x"}], n.MessageError, "Did you mean 'user'"),
    ([{"content": "x"}], n.MessageError, "role"),
    ([{"role": "user", "content": "x", "name": "Al"}], n.MessageError, "name"),
    ([{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], n.MessageError, "nothing to answer"),
    ([{"role": "user", "content": "x"}, {"role": "system", "content": "y"}], n.MessageError, "put it first"),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], n.UnsupportedContentError, "image_url"),
    ([{"role": "user", "content": None}], n.UnsupportedContentError, "NoneType"),
]


@pytest.mark.parametrize(("messages", "kind", "said"), BAD_MESSAGES, ids=str)
def test_bad_messages(healthy, messages, kind, said):
    with pytest.raises(kind, match=said):
        healthy.generate(messages)


def test_context_overflow_names_model_limit_and_excess(healthy):
    with pytest.raises(n.ContextOverflowError) as caught:
        healthy.generate("x" * 300)
    assert caught.value.limit == 256
    assert caught.value.excess == caught.value.needed - 256 > 0
    assert "256" in str(caught.value)


def test_answer_that_fills_the_context_ends_there_with_a_warning(tiny):
    """More tokens than characters cannot be foreseen, so this one is not an error: the nudging model's prompt is longer."""
    result = tiny.generate_raw("q" * 20, "<|turn|>" + "u" * 100, max_tokens=130, repetition="off", lookahead=8)
    assert result.provenance.finish_reason in ("length", "stop")


@pytest.mark.parametrize("options", [dict(repetition="paper"), dict(repetition="guard"), dict(repetition="off")])
def test_length_is_bounded_between_rounds_too(tiny, options):
    config = NudgingConfig.paper(max_tokens=12, threshold=0.0, **options)
    settings = {name: getattr(config, name) for name in NudgingConfig.model_fields}
    assert tiny.generate("hello", **settings).provenance.n_tokens <= 12 + 2 * config.lookahead
    assert tiny.generate_alone("base", "hello", **settings).provenance.n_tokens <= 12


@pytest.mark.parametrize("requests", ["hello", b"hello", {"role": "user", "content": "hello"}, None, 7])
async def test_a_batch_is_a_list(healthy, requests):
    with pytest.raises(n.MessageError, match="list of questions"):
        healthy.batch(requests)
    with pytest.raises(n.MessageError, match="list of questions"):
        await healthy.abatch(requests)
    assert healthy.batch([]) == [] == await healthy.abatch([])


def test_text_that_is_no_text(healthy):
    with pytest.raises(n.MessageError, match="no character"):
        healthy.generate("caf\udce9")
    with pytest.raises(n.ConfigError, match="stop"):
        healthy.generate("hello", stop=5)
