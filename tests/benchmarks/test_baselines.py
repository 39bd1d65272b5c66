"""The other ways to answer, on tiny random models: their texts where they are known, their counts, their refusals."""

from __future__ import annotations

import json

import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from benchmarks.baselines import (
    Unavailable,
    base_assisted,
    base_generate,
    base_prompt_lookup,
    ensemble,
    naive_nudging,
    nudging_generate,
    proxy_tuning,
)
from nudging_llm import NudgingGenerator
from nudging_llm.engines.transformers import TransformersEngine
from nudging_llm.testing.tiny import tiny_model, tiny_tokenizer
from nudging_llm.text.chat_template import render_chat
from nudging_llm.text.messages import read_messages

QUESTION = "Why is the sky blue?"
N = 20
#: A chat prompt that is, token for token, the base model's.
PLAIN = "{% for m in messages %}Question: {{ m.content }}{% endfor %}{{ '\\n' }}Answer:"


def plain_tokenizer():
    tokenizer = tiny_tokenizer(True)
    tokenizer.chat_template = PLAIN
    return tokenizer


def one_prompt(base_seed: int, nudging_seed: int) -> NudgingGenerator:
    """Two models that see the same prompt."""
    return NudgingGenerator.from_pretrained(
        (tiny_model(base_seed), tiny_tokenizer(False)), (tiny_model(nudging_seed), plain_tokenizer())
    )


def pair_with(tokenizer, **changes) -> NudgingGenerator:
    """The tiny pair with another tokenizer for the nudging model."""
    return NudgingGenerator.from_pretrained(
        (tiny_model(7), tiny_tokenizer(False)), (tiny_model(57, **changes), tokenizer)
    )


def extended_pair() -> NudgingGenerator:
    """The nudging model knows one token more."""
    tokenizer = tiny_tokenizer(True)
    tokenizer.add_tokens(["more"])
    return pair_with(tokenizer, vocab_size=259)


def swapped_pair() -> NudgingGenerator:
    """Vocabularies of one size in which two ids have changed places."""
    tokenizer = tiny_tokenizer(True)
    layout = json.loads(tokenizer.backend_tokenizer.to_str())
    vocab = layout["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    swapped = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(layout)), eos_token="<|end|>")
    swapped.chat_template = tokenizer.chat_template
    return pair_with(swapped)


def prompt_length(generator: NudgingGenerator, model: str) -> int:
    conversation = read_messages(QUESTION)
    if model == "base":
        return len(generator.base.tokenizer.encode(generator.base_template.render(conversation)))
    return len(render_chat(generator.nudging.tokenizer, conversation))


# -- transformers' own loops --


def test_generate_costs_one_forward_per_token(tiny):
    found = base_generate(tiny, QUESTION, N)
    assert (found.n_tokens, found.base_forwards, found.nudging_forwards) == (N, N, 0)
    assert (found.base_forward_tokens, found.nudging_forward_tokens) == (prompt_length(tiny, "base") + N - 1, 0)
    assert 0 < found.first_s < found.seconds


@pytest.mark.slow
@pytest.mark.parametrize("way", [base_prompt_lookup, base_assisted])
def test_drafts_leave_the_text_of_generate(tiny, way):
    plain, drafted = base_generate(tiny, QUESTION, N), way(tiny, QUESTION, N)
    assert (drafted.text, drafted.n_tokens) == (plain.text, N)
    assert drafted.base_forwards <= N
    assert drafted.base_forward_tokens > plain.base_forward_tokens
    assert bool(drafted.nudging_forwards) == (way is base_assisted)
    assert 0 < drafted.first_s < drafted.seconds


def test_universal_assisted_decoding_leaves_the_text_of_generate():
    generator = extended_pair()
    found = base_assisted(generator, QUESTION, N)
    assert found.text == base_generate(generator, QUESTION, N).text
    assert found.nudging_forwards > 0


def test_assisted_refuses_what_transformers_would_mix_up():
    with pytest.raises(Unavailable, match=r"one size.*2 of 258 tokens"):
        base_assisted(swapped_pair(), QUESTION, N)


def test_assisted_passes_on_what_transformers_says(tiny, monkeypatch):
    def fail(*_, **__):
        raise ValueError("no such thing")

    monkeypatch.setattr(tiny.base.engine.model, "generate", fail)
    with pytest.raises(Unavailable, match=r"transformers .*: ValueError: no such thing"):
        base_assisted(tiny, QUESTION, N)
    assert not tiny.base.engine.model._forward_pre_hooks


def test_nudging_generate_is_the_nudging_model_alone(tiny):
    found = nudging_generate(tiny, QUESTION, N)
    assert found.text == tiny.generate_alone("nudging", QUESTION, max_tokens=N, repetition="off").text
    assert (found.base_forwards, found.nudging_forwards) == (0, N)
    assert found.nudging_forward_tokens == prompt_length(tiny, "nudging") + N - 1


def test_the_end_of_text_is_no_token_of_the_answer(tiny, monkeypatch):
    whole = nudging_generate(tiny, QUESTION, N)
    third = tiny.nudging.tokenizer.encode(whole.text[2])
    monkeypatch.setattr(tiny.nudging.tokenizer, "end_tokens", set(third))
    found = nudging_generate(tiny, QUESTION, N)
    assert whole.text.startswith(found.text)
    assert found.nudging_forwards == found.n_tokens + 1 < N


# -- the paper's loop --


@pytest.mark.parametrize("question", [QUESTION, "Say hello.", "1 + 1?"])
@pytest.mark.parametrize(("k", "gamma"), [(16, 0.4), (8, 0.2), (4, 0.1), (1, 0.4), (6, 0.0), (6, 1.1)])
def test_naive_nudging_writes_the_generator_s_text(tiny, question, k, gamma):
    found = naive_nudging(tiny, question, 40, k=k, gamma=gamma)
    options = dict(lookahead=k, threshold=gamma, max_tokens=40, repetition="off", role_markers=False)
    expected = tiny.generate(question, **options)
    assert found.text == expected.text
    if found.n_tokens != expected.provenance.n_tokens:  # there, a last character that max_tokens cuts short counts
        assert found.n_tokens < expected.provenance.n_tokens == 40
    assert found.nudging_forward_tokens > prompt_length(tiny, "nudging")
    assert 0 < found.first_s <= found.seconds


def test_naive_nudging_pays_for_every_round_again(tiny):
    options = dict(lookahead=8, threshold=0.2, max_tokens=40, repetition="off", role_markers=False)
    record = tiny.generate(QUESTION, **options).provenance
    found = naive_nudging(tiny, QUESTION, 40, k=8, gamma=0.2)
    assert record.rounds > 1
    assert found.base_forward_tokens > record.base.forward_tokens
    assert found.nudging_forward_tokens > record.nudging.forward_tokens


# -- token by token, with one vocabulary --


def test_ensemble_of_a_model_with_itself_is_the_model_alone():
    generator = one_prompt(7, 7)
    found, alone = ensemble(generator, QUESTION, N), nudging_generate(generator, QUESTION, N)
    assert (found.text, found.n_tokens) == (alone.text, alone.n_tokens)
    assert (found.base_forwards, found.nudging_forwards) == (N, N)
    assert found.base_forward_tokens == found.nudging_forward_tokens == alone.nudging_forward_tokens


def test_ensemble_of_two_models_is_neither():
    generator = one_prompt(7, 57)
    found = ensemble(generator, QUESTION, N)
    assert found.text not in (base_generate(generator, QUESTION, N).text, nudging_generate(generator, QUESTION, N).text)


def test_ensemble_is_greedy_in_the_mean_probability():
    """The same again without a cache."""
    generator = one_prompt(7, 57)
    codec = generator.base.tokenizer
    tokens = codec.encode(f"Question: {QUESTION}\nAnswer:")
    new: list[int] = []
    for _ in range(8):
        ids = torch.tensor([tokens + new])
        with torch.inference_mode():
            probs = [
                engine.model(ids).logits[0, -1].softmax(-1)
                for engine in (generator.base.engine, generator.nudging.engine)
            ]
        new.append(int((probs[0] + probs[1]).argmax()))
    assert ensemble(generator, QUESTION, 8).text == codec.decode(new).rstrip("\ufffd").lstrip(" ")


def test_proxy_tuning_without_a_difference_is_the_base_model_alone():
    generator = one_prompt(7, 57)
    untuned = TransformersEngine(tiny_model(57), tiny_tokenizer(False))
    found, alone = proxy_tuning(generator, QUESTION, N, untuned), base_generate(generator, QUESTION, N)
    assert (found.text, found.n_tokens) == (alone.text, N)
    assert (found.base_forwards, found.nudging_forwards) == (N, 2 * N)  # the untuned model's are counted with it
    same = proxy_tuning(
        generator, QUESTION, N, generator.nudging.engine
    )  # one object in both parts is counted once per forward
    assert (same.text, same.base_forwards) == (alone.text, N)


def test_proxy_tuning_of_the_untuned_model_is_the_tuned_one():
    generator = one_prompt(7, 57)
    untuned = TransformersEngine(tiny_model(7), tiny_tokenizer(False))
    assert proxy_tuning(generator, QUESTION, N, untuned).text == nudging_generate(generator, QUESTION, N).text


def test_vocabularies_are_compared_token_by_token():
    for way in (ensemble, proxy_tuning):
        with pytest.raises(Unavailable, match="vocabularies differ: 258 and 259 tokens"):
            way(extended_pair(), QUESTION, N)
        with pytest.raises(Unavailable, match="vocabularies differ: 2 of 258 tokens"):
            way(swapped_pair(), QUESTION, N)


def test_proxy_tuning_needs_a_third_model_of_the_same_vocabulary(tiny):
    with pytest.raises(Unavailable, match="untuned version of the nudging model"):
        proxy_tuning(tiny, QUESTION, N)
    with pytest.raises(Unavailable, match="258 and 259"):
        proxy_tuning(tiny, QUESTION, N, extended_pair().nudging.engine)


def test_models_that_are_one_object_cannot_be_counted(tiny_pair):
    model = tiny_pair[1]
    with pytest.raises(ValueError, match="one object"):
        base_generate(NudgingGenerator.from_pretrained(model, model), QUESTION, N)
