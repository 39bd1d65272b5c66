"""The engine over transformers: its distributions, its caches, its devices."""

from __future__ import annotations

import pytest
import torch
from transformers import Lfm2Config, Lfm2ForCausalLM

from nudging_llm import NudgingConfig, NudgingGenerator, Piece
from nudging_llm.engines.base import Row
from nudging_llm.engines.transformers import sample
from nudging_llm.protocol import PredictionParams, Sampling
from nudging_llm.testing.tiny import tiny_model, tiny_tokenizer


def test_statistics_are_those_of_the_raw_distribution(tiny):
    tokens = tiny.base.tokenizer.encode("Question: hello")
    with torch.inference_mode():
        probs = tiny.base.engine.model(torch.tensor([tokens])).logits[0, -1].double().softmax(-1)
    want = PredictionParams(Sampling(0.7, 0.9, 5, 3), frozenset({"entropy", "margin"}))
    [[found]] = tiny.base.engine.forward([Row(tiny.base.engine.new_cache(), tokens, 0, 1, want)])
    top = probs.sort(descending=True)
    assert found.top == int(top.indices[0])
    assert found.prob == pytest.approx(float(top.values[0]), abs=1e-5)
    assert found.margin == pytest.approx(float(top.values[0] - top.values[1]), abs=1e-5)
    assert found.entropy == pytest.approx(float(-(probs * probs.log()).sum()), abs=1e-4)
    assert found.token in top.indices[:5].tolist()


def drawn(logits: torch.Tensor, *how, count: int = 300) -> list[int]:
    return [int(sample(logits, Sampling(*how, seed), 5)) for seed in range(count)]


def test_sampling_follows_the_distribution():
    logits = torch.tensor([2.0, 0.0, 1.0, -1.0])
    found = drawn(logits, 1.0, 1.0, None, count=4000)
    shares = [found.count(token) / 4000 for token in range(4)]
    assert shares == pytest.approx(logits.softmax(-1).tolist(), abs=0.03)
    assert set(drawn(logits, 1.0, 0.8, None)) == {0, 2}
    assert set(drawn(logits, 2.0, 1.0, 3)) == {0, 1, 2}


@pytest.mark.slow
@pytest.mark.parametrize(("temperature", "top_p", "top_k"), [(0.7, 0.95, None), (1.5, 0.999, None), (1.0, 0.9, 500), (3.0, 1.0, 40)])  # fmt: skip
def test_sampling_of_a_part_of_the_vocabulary_is_that_of_the_sorted_whole(temperature, top_p, top_k):
    """The sets that may be drawn, and how often, against sorting everything."""
    torch.manual_seed(1)
    logits = torch.randn(5000) * 2
    probs, ids = (logits / temperature).double().softmax(-1).sort(descending=True)
    probs, ids = probs[:top_k] / probs[:top_k].sum(), ids[:top_k]
    kept = int((probs.cumsum(-1) < top_p).sum()) + 1
    probs, ids = probs[:kept] / probs[:kept].sum(), ids[:kept].tolist()
    found = drawn(logits, temperature, top_p, top_k, count=3000)
    assert set(found) <= set(ids)
    half = int((probs.cumsum(-1) < 0.5).sum()) + 1
    share = sum(token in set(ids[:half]) for token in found) / len(found)
    assert share == pytest.approx(float(probs[:half].sum()), abs=0.04)


def test_a_model_with_a_recurrent_state_works():
    """LFM2 has convolution layers, whose state cannot be cropped: no drafts, and the text of an uncached evaluation."""
    from tests.reference import Ref, Rules, Slow

    torch.manual_seed(3)
    config = Lfm2Config(
        vocab_size=258, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        layer_types=["conv", "full_attention"], max_position_embeddings=256, bos_token_id=None, eos_token_id=256, pad_token_id=0,
        initializer_range=0.6,
    )  # fmt: skip
    hybrid = Lfm2ForCausalLM(config).eval()
    pair = (tiny_model(7), tiny_tokenizer(False)), (hybrid, tiny_tokenizer(True))
    for base, nudging in (pair, ((hybrid, tiny_tokenizer(False)), (tiny_model(57), tiny_tokenizer(True)))):
        generator = NudgingGenerator.from_pretrained(base, nudging, NudgingConfig(max_tokens=30), device="cpu")
        assert not (generator.base.engine.can_crop and generator.nudging.engine.can_crop)
        found = generator.generate("hello")
        refs = []
        for engine, ids, text in (
            (generator.base.engine, [], "Question: hello\nAnswer:"),
            (
                generator.nudging.engine,
                generator.nudging.tokenizer.encode_control("<|turn|>user\nhello<|end|>\n<|turn|>assistant\n"),
                "",
            ),
        ):

            def predict(tokens, model=engine.model):
                with torch.inference_mode():
                    prob, token = model(torch.tensor([tokens]), use_cache=False).logits[0, -1].softmax(-1).max(-1)
                return int(token), float(prob)

            codec = engine.tokenizer
            refs.append(Ref(ids, text, codec.encode, codec.decode, set(codec.end_tokens), predict))
        expected = Slow(*refs, Rules(max_tokens=30, markers=generator.base_template.markers)).run()
        assert found.text == expected.y


def test_device_map_and_dtypes(tmp_path, tiny_pair):
    for part in tiny_pair[0]:
        part.save_pretrained(tmp_path / "base")
    for part in tiny_pair[1]:
        part.save_pretrained(tmp_path / "nudging")
    paths = str(tmp_path / "base"), str(tmp_path / "nudging")
    expected = NudgingGenerator.from_pretrained(*paths, dtype="float32").generate("hello", max_tokens=20).text
    mapped = NudgingGenerator.from_pretrained(
        *paths,
        dtype="float32",
        base_model_kwargs={"device_map": "auto"},
        nudging_model_kwargs={"device_map": {"": "cpu"}},
    )
    assert mapped.generate("hello", max_tokens=20).text == expected
    for dtype in ("bfloat16", "float16", torch.bfloat16):
        generator = NudgingGenerator.from_pretrained(*paths, dtype=dtype)
        assert str(generator.base.engine.dtype).endswith(str(dtype).split(".")[-1])
        assert isinstance(next(generator.stream("hello", max_tokens=5)), Piece)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu(tiny_pair):
    generator = NudgingGenerator.from_pretrained(*tiny_pair, device="cuda")
    assert generator.generate("hello").text
