"""The generator over tiny random models: parity of the ways to ask, concurrency, records, other cache kinds."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path

import jsonschema
import pytest
import torch
from transformers import Lfm2Config, Lfm2ForCausalLM

from nudging_llm import NudgingConfig, NudgingGenerator, Piece, Prediction, Provenance
from nudging_llm.engines.base import Row
from nudging_llm.engines.transformers import sample
from nudging_llm.protocol import PredictionParams, Sampling
from nudging_llm.testing.tiny import tiny_model, tiny_tokenizer

SCHEMA = Path(__file__).parents[1] / "docs" / "provenance.schema.json"


def plain(pieces):
    return [(p.text, p.start, p.source, p.reason, p.n_tokens) for p in pieces]


async def test_all_ways_of_asking_agree(tiny):
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "hello"}]
    expected = plain(tiny.generate(messages).provenance.pieces)
    assert plain(tiny.stream(messages)) == expected
    assert plain([p async for p in tiny.astream(messages)]) == expected
    assert plain((await tiny.agenerate(messages)).provenance.pieces) == expected
    assert [plain(r.provenance.pieces) for r in tiny.batch([messages, messages])] == [expected, expected]
    assert [plain(r.provenance.pieces) for r in await tiny.abatch([messages, messages])] == [expected, expected]
    base_prompt = tiny.base_template.render(messages)
    nudging_prompt = tiny.nudging.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    markers_off = plain(tiny.generate(messages, role_markers=False).provenance.pieces)
    assert plain(tiny.generate_raw(base_prompt, nudging_prompt).provenance.pieces) == markers_off


async def test_forty_concurrent_calls_from_tasks_and_threads(tiny):
    questions = [f"question {i}" for i in range(20)]
    expected = [tiny.generate(q, max_tokens=16).text for q in questions]
    found: dict[int, str] = {}
    threads = [
        threading.Thread(target=lambda i=i, q=q: found.update({i: tiny.generate(q, max_tokens=16).text}))
        for i, q in enumerate(questions)
    ]
    for thread in threads:
        thread.start()
    awaited = await asyncio.gather(*(tiny.agenerate(q, max_tokens=16) for q in questions))
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert [result.text for result in awaited] == expected
    assert [found[i] for i in range(20)] == expected


def test_a_slow_consumer_stalls_nobody(tiny):
    slow = tiny.stream("hello")
    next(slow)
    assert tiny.generate("another").provenance.finish_reason
    first = slow.pieces[0].text
    assert first + "".join(p.text for p in slow) == tiny.generate("hello").text


def test_max_tokens_is_a_hard_limit(tiny):
    for limit in (1, 2, 7, 20):
        record = tiny.generate("hello", max_tokens=limit).provenance
        assert record.n_tokens <= limit
    assert record.finish_reason == "length"


@pytest.mark.parametrize("gate", ["top1", "entropy", "margin"])
def test_gates(tiny, gate):
    always, never = (0.0, 20.0) if gate == "entropy" else (2.0, 0.0)
    nudged = tiny.generate("hello", gate=gate, threshold=always, prefix_rule=False).provenance
    free = tiny.generate("hello", gate=gate, threshold=never, prefix_rule=False).provenance
    assert nudged.nudge_ratio == 1
    assert free.nudge_ratio < 1


def test_own_gate_object(tiny):
    class EverySecond:
        needs = frozenset({"entropy", "margin"})
        seen: list[Prediction] = []

        def confident(self, prediction: Prediction, threshold: float) -> bool:
            self.seen.append(prediction)
            return len(self.seen) % 2 == 0

    gate = EverySecond()
    record = tiny.generate("hello", gate=gate).provenance
    assert record.config["gate"] == "EverySecond"
    assert all(p.entropy >= 0 and 0 <= p.margin <= p.prob for p in gate.seen)
    json.dumps(record.to_dict())


def test_statistics_are_those_of_the_raw_distribution(tiny):
    tokens = tiny.base.codec.encode("Question: hello")
    with torch.inference_mode():
        probs = tiny.base.model(torch.tensor([tokens])).logits[0, -1].double().softmax(-1)
    want = PredictionParams(Sampling(0.7, 0.9, 5, 3), frozenset({"entropy", "margin"}))
    [[found]] = tiny.base.forward([Row(tiny.base.new_cache(), tokens, 0, 1, want)])
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


# -- provenance -------------------------------------------------------------------------------------------------------


def test_record_round_trip_and_schema(tiny):
    record = tiny.generate("hello", stop=["zzz"]).provenance
    plain_json = json.loads(record.to_json())
    assert Provenance.from_dict(plain_json) == record
    jsonschema.validate(plain_json, json.loads(SCHEMA.read_text()))
    assert plain_json["text"] == record.text == "".join(span.text for span in record.spans)


def test_stored_schema_is_current():
    assert json.loads(SCHEMA.read_text()) == Provenance.json_schema(), "run 'make docs'"


def test_record_with_a_gap_is_refused(tiny):
    record = tiny.generate("hello").provenance.to_dict()
    record["pieces"] = record["pieces"][1:]
    with pytest.raises(ValueError, match="expected 0"):
        Provenance.from_dict(record)


def test_reasons_agree_with_probabilities(tiny):
    for question in ("hello", "another question", "x y z"):
        for piece in tiny.stream(question, threshold=0.3):
            if piece.reason in ("uncertain", "handover_prefix"):
                assert piece.base_top_prob < 0.3
            if piece.reason in ("confident", "handover_confident"):
                assert piece.base_top_prob >= 0.3


def test_counts_add_up(tiny):
    record = tiny.generate("hello").provenance
    assert record.base.tokens + record.nudging.tokens == record.n_tokens
    assert record.base.accepted <= record.base.drafted <= record.base.forward_tokens
    assert 0 < record.first_piece_s <= record.total_s
    assert record.base.seconds + record.nudging.seconds + record.overhead_s == pytest.approx(record.total_s)


def test_warnings_name_the_failure(tiny):
    codes = {w.code for w in tiny.generate("hello", threshold=2.0, prefix_rule=False).provenance.warnings}
    assert "nudged_too_much" in codes
    codes = {w.code for w in tiny.generate("hello", threshold=0.0, role_markers=False).provenance.warnings}
    assert "never_nudged" in codes


def test_warns_when_a_shared_prompt_never_hits_the_cache(tiny_pair):
    generator = NudgingGenerator.from_pretrained(*tiny_pair, NudgingConfig(max_tokens=2), device="cpu", cache_slots=0)
    found = [generator.generate("shared " * 12 + str(i)).provenance.warnings for i in range(5)]
    assert [any(w.code == "cache_never_hit" for w in warnings) for warnings in found] == [
        False,
        False,
        False,
        True,
        True,
    ]
    with_cache = NudgingGenerator.from_pretrained(*tiny_pair, NudgingConfig(max_tokens=2), device="cpu")
    for i in range(5):
        record = with_cache.generate("shared " * 12 + str(i)).provenance
        assert not any(w.code == "cache_never_hit" for w in record.warnings)
    assert record.base.prompt_tokens_reused > 80


def test_one_model_alone(tiny):
    for model in ("base", "nudging"):
        record = tiny.generate_alone(model, "hello", max_tokens=10).provenance
        assert {p.source for p in record.pieces} == {model}
        engine = getattr(tiny, model)
        tokens = (
            [*engine.codec.bos_ids, *engine.codec.encode("Question: hello\nAnswer:")]
            if model == "base"
            else engine.codec.encode_control("<|turn|>user\nhello<|end|>\n<|turn|>assistant\n")
        )
        ids = torch.tensor([tokens])
        out = engine.model.generate(ids, max_new_tokens=10, do_sample=False, pad_token_id=0)[0, len(tokens) :].tolist()
        out = out[: out.index(256)] if 256 in out else out
        assert engine.codec.decode(out).lstrip(" ").startswith(record.text)
        assert record.text


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
        assert not (generator.base.can_crop and generator.nudging.can_crop)
        found = generator.generate("hello")
        refs = []
        for engine, ids, text in (
            (generator.base, [], "Question: hello\nAnswer:"),
            (
                generator.nudging,
                generator.nudging.codec.encode_control("<|turn|>user\nhello<|end|>\n<|turn|>assistant\n"),
                "",
            ),
        ):

            def predict(tokens, model=engine.model):
                with torch.inference_mode():
                    prob, token = model(torch.tensor([tokens]), use_cache=False).logits[0, -1].softmax(-1).max(-1)
                return int(token), float(prob)

            codec = engine.codec
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
        assert str(generator.base.dtype).endswith(str(dtype).split(".")[-1])
        assert isinstance(next(generator.stream("hello", max_tokens=5)), Piece)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu(tiny_pair):
    generator = NudgingGenerator.from_pretrained(*tiny_pair, device="cuda")
    assert generator.generate("hello").text
