"""Requests that share forwards: packed rows, batches, threads and tasks. Tiny random models."""

from __future__ import annotations

import asyncio
import threading
import time

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

from nudging_llm import ConfigError, NudgingConfig, NudgingGenerator
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
    before = tiny.base.model.config._attn_implementation
    tiny.batch(["one", "two", "three"], max_tokens=8)
    assert tiny.base.model.config._attn_implementation == before


def test_growing_layers_equal_transformers_own(tiny):
    ids = torch.randint(0, 250, (1, 90))
    model, ours, theirs = tiny.base.model, tiny.base.new_cache(), DynamicCache()
    with torch.inference_mode():
        for start, stop in ((0, 70), (70, 71), (71, 90)):
            a = model(ids[:, start:stop], past_key_values=ours).logits
            b = model(ids[:, start:stop], past_key_values=theirs).logits
            assert torch.equal(a, b)
        for layer, other in zip(ours.layers, theirs.layers, strict=True):
            keys, values = layer.update(*[torch.zeros(1, 1, 0, 16)] * 2)
            assert torch.equal(keys, other.keys) and torch.equal(values, other.values)


QUESTIONS = [f"question {i} " + "about the river " * (i % 4) for i in range(20)]


def plain(result):
    return [(p.text, p.source, p.reason, p.n_tokens) for p in result.provenance.pieces]


@pytest.mark.parametrize("options", [{}, {"temperature": 0.8, "seed": 3}, {"end_check": "sentence", "lookahead": 8}])
async def test_batches_write_what_single_requests_write(tiny, options):
    options = {"max_tokens": 40, **options}
    alone = []
    for question in QUESTIONS:
        tiny.clear_cache()
        alone.append(plain(tiny.generate(question, **options)))
    tiny.clear_cache()
    assert [plain(result) for result in tiny.batch(QUESTIONS, **options)] == alone
    tiny.clear_cache()
    assert [plain(result) for result in await tiny.abatch(QUESTIONS, **options)] == alone
    tiny.clear_cache()
    found: dict[str, list] = {}
    threads = [
        threading.Thread(target=lambda q=question: found.update({q: plain(tiny.generate(q, **options))}))
        for question in QUESTIONS
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [found[question] for question in QUESTIONS] == alone


def count_forwards(generator) -> list[list[int]]:
    """Rows of each forward, base and nudging, from now on."""
    rows: list[list[int]] = [[], []]
    for seen, engine in zip(rows, (generator.base, generator.nudging), strict=True):

        def forward(batch, real=engine.forward, seen=seen):
            seen.append(len(batch))
            return real(batch)

        engine.forward = forward
    return rows


async def test_batches_share_forwards(tiny):
    rows = count_forwards(tiny)
    tiny.batch(QUESTIONS[:8], max_tokens=30)
    shared = [sum(seen) / len(seen) for seen in rows]
    assert min(shared) > 2, rows
    for seen in rows:
        seen.clear()
    tiny.clear_cache()
    await tiny.abatch(QUESTIONS[:8], max_tokens=30)
    assert max(map(max, rows)) >= 4 and max(map(max, rows)) <= 8, rows


def test_a_model_that_cannot_be_packed_runs_one_by_one(tiny_pair, caplog):
    generator = NudgingGenerator.from_pretrained(*tiny_pair, NudgingConfig(max_tokens=20))
    expected = [generator.generate(question).text for question in QUESTIONS[:4]]
    generator.clear_cache()

    def refuse(rows):
        raise CannotPackError("this one cannot")

    generator.base._packed_logits = refuse
    assert [result.text for result in generator.batch(QUESTIONS[:4])] == expected
    assert not generator.base.can_pack and generator.nudging.can_pack
    assert caplog.text.count("one by one") == 1


def test_a_wrong_packed_forward_is_noticed(tiny_pair):
    """Some model whose attention is not what its config says: the first packed forward is checked against a single one."""
    generator = NudgingGenerator.from_pretrained(*tiny_pair, NudgingConfig(max_tokens=20))
    expected = [generator.generate(question).text for question in QUESTIONS[:4]]
    generator.clear_cache()
    real = generator.base.model.forward

    def broken(*args, position_ids=None, **kwargs):
        return real(*args, position_ids=None if position_ids is None else position_ids * 0, **kwargs)

    generator.base.model.forward = broken
    try:
        assert [result.text for result in generator.batch(QUESTIONS[:4])] == expected
    finally:
        del generator.base.model.forward
    assert not generator.base.can_pack


async def test_more_requests_than_rows(tiny_pair):
    generator = NudgingGenerator.from_pretrained(*tiny_pair, NudgingConfig(max_tokens=12), batch_size=3)
    rows = count_forwards(generator)
    expected = [generator.generate(question).text for question in QUESTIONS]
    assert [result.text for result in generator.batch(QUESTIONS)] == expected
    assert [result.text for result in await generator.abatch(QUESTIONS)] == expected
    assert max(map(max, rows)) <= 3


def test_bad_sizes(tiny_pair):
    for name, value in (("batch_size", 0), ("cache_slots", -1), ("cache_bytes", -5)):
        with pytest.raises(ConfigError, match=name):
            NudgingGenerator.from_pretrained(*tiny_pair, **{name: value})


async def test_a_cancelled_abatch_leaves_the_generator_usable(tiny):
    expected = tiny.generate("hello").text
    task = asyncio.create_task(tiny.abatch(QUESTIONS, max_tokens=60, repetition="off"))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await tiny.agenerate("hello")).text == expected
    assert not any(batcher.waiting for batcher in tiny._batchers.values())
    assert not any(batcher.pool._working for batcher in tiny._batchers.values())


# -- threads and tasks at once ----------------------------------------------------------------------------------------


def slowly(generator, seconds=0.004):
    """Forwards take a while, as real ones do."""
    for engine in (generator.base, generator.nudging):

        def forward(rows, real=engine.forward):
            time.sleep(seconds)
            return real(rows)

        engine.forward = forward


def in_threads(generator, questions) -> dict[str, str]:
    found: dict[str, str] = {}
    threads = [
        threading.Thread(target=lambda q=question: found.update({q: generator.generate(q, max_tokens=24).text}))
        for question in questions
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def test_threads_share_forwards(tiny):
    slowly(tiny)
    rows = count_forwards(tiny)
    assert len(in_threads(tiny, QUESTIONS[:8])) == 8
    assert sum(map(sum, rows)) > 2 * sum(map(len, rows)), rows


async def test_no_question_is_lost_where_others_hold_the_engine(tiny):
    """Threads, tasks and somebody else on the same engines: every question is answered."""
    expected = {question: tiny.generate(question, max_tokens=24).text for question in QUESTIONS[:8]}
    tiny.clear_cache()
    stop = threading.Event()

    def somebody_else():
        while not stop.is_set():
            for engine in (tiny.base, tiny.nudging):
                with engine.lock:
                    time.sleep(0.003)
                time.sleep(0.001)

    other = threading.Thread(target=somebody_else)
    other.start()
    try:
        threads = asyncio.get_running_loop().run_in_executor(None, in_threads, tiny, QUESTIONS[:4])
        results = await asyncio.wait_for(tiny.abatch(QUESTIONS[4:8], max_tokens=24), 60)
        found = await asyncio.wait_for(threads, 60)
    finally:
        stop.set()
        other.join(10)
    assert found | {q: r.text for q, r in zip(QUESTIONS[4:8], results, strict=True)} == expected


def test_one_model_in_two_roles(tiny_pair):
    """The same weights as base and as nudging model, in threads: a packed forward of one role does not disturb the other."""
    (model, _), (_, tokenizer) = tiny_pair
    generator = NudgingGenerator.from_pretrained((model, tokenizer), (model, tokenizer), NudgingConfig(max_tokens=24))
    assert generator.base.lock is generator.nudging.lock
    expected = {question: generator.generate(question, max_tokens=24).text for question in QUESTIONS[:12]}
    generator.clear_cache()
    assert in_threads(generator, QUESTIONS[:12]) == expected


async def test_a_stream_closed_by_another_task_ends(tiny):
    slowly(tiny, 0.02)
    stream = tiny.astream("hello", max_tokens=200, repetition="off")

    async def consume():
        return [piece async for piece in stream]

    for _ in range(3):
        consumer = asyncio.create_task(consume())
        await asyncio.sleep(0.1)
        await stream.aclose()
        pieces = await asyncio.wait_for(consumer, 10)  # no CancelledError: nobody cancelled it
        assert len(pieces) < 200
    assert stream.provenance.finish_reason == "cancelled"


async def test_finished_streams_hold_no_cache(tiny):
    streams = [tiny.astream(question, max_tokens=8) for question in QUESTIONS[:4]]
    for stream in streams:
        _ = [piece async for piece in stream]
    assert all(stream._forward is None and not stream._run._sessions for stream in streams)


# -- models that cannot share -----------------------------------------------------------------------------------------


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
    assert not generator.base.can_pack


def test_want_of_memory_makes_smaller_batches(tiny):
    expected = [result.text for result in tiny.batch(QUESTIONS[:8], max_tokens=16)]
    tiny.clear_cache()
    real, refused = tiny.base.model.forward, []

    def small(*args, past_key_values=None, **kwargs):
        if len(getattr(past_key_values, "lengths", [])) > 3:
            refused.append(1)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(*args, past_key_values=past_key_values, **kwargs)

    tiny.base.model.forward = small
    try:
        results = tiny.batch(QUESTIONS[:8], max_tokens=16)
    finally:
        del tiny.base.model.forward
    assert [result.text for result in results] == expected
    assert 1 <= len(refused) <= 3, "it is tried again and again"
    assert tiny._batchers["base"].max_rows < 4 and tiny.base.can_pack


def test_want_of_memory_for_a_copy_costs_only_time(tiny, caplog):
    questions = [f"{'the same long beginning of a question ' * 4}{i}" for i in range(3)]
    expected = [tiny.generate(question, max_tokens=8).text for question in questions]

    def refuse(cache, length):
        raise torch.OutOfMemoryError("CUDA out of memory")

    tiny.clear_cache()
    tiny.base.copy_prefix = tiny.nudging.copy_prefix = refuse
    assert [tiny.generate(question, max_tokens=8).text for question in questions] == expected
    assert "nothing is reused" in caplog.text
