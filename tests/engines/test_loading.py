"""Models that cannot be loaded, or do not belong together: told when they are given, before any compute."""

from __future__ import annotations

import pytest
import torch

import nudging_llm as n
from nudging_llm.testing.tiny import tiny_model, tiny_tokenizer


def test_tokenizer_of_another_model(tiny_pair):
    (model, _), nudging = tiny_pair
    with pytest.raises(n.TokenizerMismatchError, match="do not belong"):
        n.NudgingGenerator.from_pretrained((tiny_model(vocab_size=500), tiny_tokenizer(False)), nudging)
    with pytest.raises(n.TokenizerMismatchError, match="do not belong"):
        n.NudgingGenerator.from_pretrained((tiny_model(vocab_size=100, eos_token_id=1), tiny_tokenizer(False)), nudging)
    assert n.NudgingGenerator.from_pretrained((model, tiny_tokenizer(False)), nudging, device="cpu")


def test_models_that_cannot_be_loaded(tmp_path, tiny_pair):
    with pytest.raises(n.ModelLoadError, match="safetensors"):
        n.NudgingGenerator.from_pretrained(str(tmp_path), str(tmp_path))
    with pytest.raises(n.ModelLoadError, match="pair"):
        n.NudgingGenerator.from_pretrained((1, 2, 3), (4, 5, 6))
    with pytest.raises(n.ModelLoadError, match="device_map"):
        n.NudgingGenerator.from_pretrained(*tiny_pair, base_model_kwargs={"device_map": "auto"})
    with pytest.raises(n.ModelError, match="decoder-only"):
        n.NudgingGenerator.from_pretrained((object(), tiny_tokenizer(False)), tiny_pair[1])
    with pytest.raises(n.ModelLoadError, match="dtype='float99'"):
        n.NudgingGenerator.from_pretrained(
            "x" if False else _saved(tmp_path, tiny_pair[0]), tiny_pair[1], dtype="float99"
        )


def _saved(folder, pair):
    for part in pair:
        part.save_pretrained(folder / "saved")
    return str(folder / "saved")


def test_code_in_a_model_folder_is_not_run(tmp_path, tiny_pair):
    import json

    folder = tmp_path / "saved"
    _saved(tmp_path, tiny_pair[0])
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "evil.Evil", "AutoConfig": "evil.EvilConfig"}
    config["model_type"] = "evil"
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(n.ModelLoadError):
        n.NudgingGenerator.from_pretrained(str(folder), tiny_pair[1])
    assert not (tmp_path / "ran").exists()


def test_damaged_weights_and_missing_devices(tmp_path, tiny_pair):
    folder = _saved(tmp_path, tiny_pair[0])
    with pytest.raises(n.ModelLoadError):
        n.NudgingGenerator.from_pretrained(folder, tiny_pair[1], device="nonsense")
    if not torch.cuda.is_available():
        with pytest.raises(n.ModelLoadError, match="CUDA"):
            n.NudgingGenerator.from_pretrained(folder, tiny_pair[1], device="cuda")
    weights = tmp_path / "saved" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    with pytest.raises(n.ModelLoadError, match="could not be loaded"):
        n.NudgingGenerator.from_pretrained(folder, tiny_pair[1])


def test_tokens_beyond_the_model_are_refused_before_compute(tiny_pair):
    nudging = tiny_model(vocab_size=256, eos_token_id=1), tiny_tokenizer(True)
    generator = n.NudgingGenerator.from_pretrained(tiny_pair[0], nudging, device="cpu")
    with pytest.raises(n.TokenizerMismatchError, match="extended"):
        generator.generate("hi", max_tokens=8)


def test_each_model_can_have_its_own_dtype(tmp_path, tiny_pair):
    folder = _saved(tmp_path, tiny_pair[0])
    generator = n.NudgingGenerator.from_pretrained(
        folder, tiny_pair[1], dtype="float32", base_model_kwargs={"dtype": torch.bfloat16}
    )
    assert generator.base.engine.dtype == torch.bfloat16
