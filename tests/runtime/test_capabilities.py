"""What a backend cannot do is refused before any compute, and says what to do instead."""

from __future__ import annotations

import pytest

from nudging_llm import CapabilityError, NudgingGenerator
from nudging_llm.testing.fake_models import FakeEngine, FakeModel
from nudging_llm.testing.remote import FakeRemoteBackend

PROMPTS = {"base_prompt": "Question: why?\nAnswer:", "nudging_prompt": "user says"}


@pytest.fixture(params=["base", "nudging"])
def generator(request):
    """One of the two models answers from afar and can do nothing but predict."""
    models = [FakeModel("gpt_bpe", 4, agree=240, low=20), FakeModel("gpt_bpe", 8, agree=240, low=20)]
    remote = FakeRemoteBackend(models[request.param == "nudging"])
    pair = (remote, FakeEngine(models[1])) if request.param == "base" else (FakeEngine(models[0]), remote)
    made = NudgingGenerator(*pair)
    made.remote = remote
    yield made
    remote.close()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"json_schema": {"type": "integer"}}, "cannot be held to a grammar"),
        ({"regex": "[a-z]+"}, "cannot be held to a grammar"),
        ({"choices": ["a", "b"]}, "cannot be held to a grammar"),
        ({"temperature": 0.7, "nudging_temperature": 0.7}, "temperature=0"),
    ],
)
def test_what_a_backend_cannot_do_is_refused(generator, options, words):
    with pytest.raises(CapabilityError, match=words):
        generator.generate_raw(**PROMPTS, **options)
    assert generator.remote.queries == 0
    assert generator.generate_raw(**PROMPTS, max_tokens=20).text


@pytest.mark.parametrize("gate", ["entropy", "margin"])
def test_a_gate_needs_what_the_base_model_gives(gate):
    models = [FakeModel("bytes", 4), FakeModel("bytes", 8)]
    remote = FakeRemoteBackend(models[0])
    with pytest.raises(CapabilityError, match=f"does not give the {gate}.*gate='top1'"):
        NudgingGenerator(remote, FakeEngine(models[1])).generate_raw(**PROMPTS, gate=gate, threshold=0.5)
    assert remote.queries == 0


def test_sampling_by_the_other_model_is_no_matter():
    models = [FakeModel("bytes", 4), FakeModel("bytes", 8)]
    remote = FakeRemoteBackend(models[1])
    found = NudgingGenerator(FakeEngine(models[0]), remote).generate_raw(**PROMPTS, temperature=0.7, max_tokens=10)
    assert found.provenance.base.name and found.provenance.nudging.name == remote.name
    remote.close()
