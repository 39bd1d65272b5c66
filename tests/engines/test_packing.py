"""Several rows in one forward: each gets what it gets alone, or the model says that it cannot."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PhimoeConfig,
    PhimoeForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.cache_utils import DynamicCache

from nudging_llm import NudgingConfig, NudgingGenerator
from nudging_llm.engines.base import CannotPackError, Row
from nudging_llm.engines.transformers import TransformersEngine
from nudging_llm.protocol import GREEDY
from nudging_llm.testing.tiny import tiny_model, tiny_tokenizer

SHAPE = dict(
    vocab_size=258, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
    max_position_embeddings=512, bos_token_id=None, eos_token_id=256, pad_token_id=None, initializer_range=0.5,
)  # fmt: skip


def models():
    torch.manual_seed(3)
    yield "llama", tiny_model(3)
    gemma = Gemma3TextConfig(**SHAPE, num_key_value_heads=2, head_dim=8, sliding_window=12, query_pre_attn_scalar=8)
    gemma.layer_types = ["sliding_attention", "full_attention", "sliding_attention"]
    yield "gemma3, window 12", Gemma3ForCausalLM(gemma)
    yield "mistral, window 9", MistralForCausalLM(MistralConfig(**SHAPE, num_key_value_heads=2, sliding_window=9))
    yield "qwen3", Qwen3ForCausalLM(Qwen3Config(**SHAPE, num_key_value_heads=1, head_dim=8))
    yield "gpt-neox", GPTNeoXForCausalLM(GPTNeoXConfig(**SHAPE))
    yield "phi", PhiForCausalLM(PhiConfig(**SHAPE))


@pytest.mark.parametrize(("name", "model"), list(models()), ids=[name for name, _ in models()])
def test_packed_rows_give_what_each_gives_alone(name, model):
    """Rows of different lengths, prompts and single tokens, after roll-backs; windows shorter than the texts."""
    engine = TransformersEngine(model.eval(), tiny_tokenizer(False), name)
    assert engine.can_crop and engine.can_pack
    torch.manual_seed(1)
    texts = [torch.randint(0, 250, (n,)).tolist() for n in (40, 3, 21, 60)]
    caches = [engine.new_cache() for _ in texts]
    done = [0] * len(texts)
    packed: list[list] = [[] for _ in texts]
    for step in ([20, 1, 1, 45], [5, 1, 12, 1], [15, 1, 8, 14]):
        with engine.lock:
            for row, cache in enumerate(caches):  # two tokens too many, and back
                if done[row]:
                    engine.forward([Row(cache, [7, 8], done[row], 2, GREEDY)])
                    engine.crop(cache, 2)
            rows = [Row(c, t[d : d + n], d, n, GREEDY) for c, t, d, n in zip(caches, texts, done, step, strict=True)]
            for out, found in zip(packed, engine.forward(rows), strict=True):
                out += found
        done = [d + n for d, n in zip(done, step, strict=True)]
    assert engine.can_pack
    for text, found in zip(texts, packed, strict=True):
        with torch.inference_mode():  # one uncached forward
            probs = model(torch.tensor([text]), use_cache=False).logits[0].softmax(-1)
        assert [p.top for p in found] == probs.argmax(-1).tolist()
        assert [p.prob for p in found] == pytest.approx(probs.max(-1).values.tolist(), abs=1e-5)


def test_the_model_s_own_attention_is_restored(tiny):
    before = tiny.base.engine.model.config._attn_implementation
    tiny.batch(["one", "two", "three"], max_tokens=8)
    assert tiny.base.engine.model.config._attn_implementation == before


def test_growing_layers_equal_transformers_own(tiny):
    ids = torch.randint(0, 250, (1, 90))
    model, ours, theirs = tiny.base.engine.model, tiny.base.engine.new_cache(), DynamicCache()
    with torch.inference_mode():
        for start, stop in ((0, 70), (70, 71), (71, 90)):
            a = model(ids[:, start:stop], past_key_values=ours).logits
            b = model(ids[:, start:stop], past_key_values=theirs).logits
            assert torch.equal(a, b)
        for layer, other in zip(ours.layers, theirs.layers, strict=True):
            keys, values = layer.update(*[torch.zeros(1, 1, 0, 16)] * 2)
            assert torch.equal(keys, other.keys) and torch.equal(values, other.values)


QUESTIONS = [f"question {i} " + "about the river " * (i % 4) for i in range(20)]


def test_a_model_that_cannot_be_packed_runs_one_by_one(tiny_pair, caplog):
    generator = NudgingGenerator.from_pretrained(*tiny_pair, NudgingConfig(max_tokens=20))
    expected = [generator.generate(question).text for question in QUESTIONS[:4]]
    generator.clear_cache()

    def refuse(rows):
        raise CannotPackError("this one cannot")

    generator.base.engine._packed_logits = refuse
    assert [result.text for result in generator.batch(QUESTIONS[:4])] == expected
    assert not generator.base.engine.can_pack and generator.nudging.engine.can_pack
    assert caplog.text.count("one by one") == 1


def test_a_wrong_packed_forward_is_noticed(tiny_pair):
    """Some model whose attention is not what its config says: the first packed forward is checked against a single one."""
    generator = NudgingGenerator.from_pretrained(*tiny_pair, NudgingConfig(max_tokens=20))
    expected = [generator.generate(question).text for question in QUESTIONS[:4]]
    generator.clear_cache()
    real = generator.base.engine.model.forward

    def broken(*args, position_ids=None, **kwargs):
        return real(*args, position_ids=None if position_ids is None else position_ids * 0, **kwargs)

    generator.base.engine.model.forward = broken
    try:
        assert [result.text for result in generator.batch(QUESTIONS[:4])] == expected
    finally:
        del generator.base.engine.model.forward
    assert not generator.base.engine.can_pack


def test_rotary_angles_that_depend_on_the_longest_text_are_not_packed():
    model = tiny_model(
        3, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}, vocab_size=258
    )
    assert not TransformersEngine(model, tiny_tokenizer(False)).can_pack
    assert TransformersEngine(tiny_model(3), tiny_tokenizer(False)).can_pack


def test_windows_told_by_the_mask_only_are_not_packed(tiny_pair):
    config = PhimoeConfig(**SHAPE, num_key_value_heads=2, sliding_window=9, num_local_experts=2)
    base = PhimoeForCausalLM(config).eval(), tiny_tokenizer(False)
    generator = NudgingGenerator.from_pretrained(base, tiny_pair[1], NudgingConfig(max_tokens=16))
    expected = [generator.generate(question).text for question in QUESTIONS[:4]]
    generator.clear_cache()
    assert [result.text for result in generator.batch(QUESTIONS[:4])] == expected
    assert not generator.base.engine.can_pack
