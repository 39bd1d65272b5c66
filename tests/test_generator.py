"""The generator over tiny random models: parity of the ways to ask, and concurrency."""

from __future__ import annotations

import torch


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
    nudging_prompt = tiny.nudging.tokenizer.apply_chat_template(messages)
    markers_off = plain(tiny.generate(messages, role_markers=False).provenance.pieces)
    assert plain(tiny.generate_raw(base_prompt, nudging_prompt).provenance.pieces) == markers_off


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


def test_one_model_alone(tiny):
    for model in ("base", "nudging"):
        record = tiny.generate_alone(model, "hello", max_tokens=10).provenance
        assert {p.source for p in record.pieces} == {model}
        engine = getattr(tiny, model).engine
        tokens = (
            [*engine.tokenizer.bos_ids, *engine.tokenizer.encode("Question: hello\nAnswer:")]
            if model == "base"
            else engine.tokenizer.encode_control("<|turn|>user\nhello<|end|>\n<|turn|>assistant\n")
        )
        ids = torch.tensor([tokens])
        out = engine.model.generate(ids, max_new_tokens=10, do_sample=False, pad_token_id=0)[0, len(tokens) :].tolist()
        out = out[: out.index(256)] if 256 in out else out
        assert engine.tokenizer.decode(out).lstrip(" ").startswith(record.text)
        assert record.text
