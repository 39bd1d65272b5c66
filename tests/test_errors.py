"""Bad input: a clear error that names the value and the remedy, before any compute, and a generator that goes on."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest
import torch

import nudging_llm as n
from nudging_llm import NudgingConfig
from nudging_llm.testing.tiny import tiny_model, tiny_tokenizer


@pytest.fixture
def healthy(tiny):
    """A generator that must still answer, the same as before, when the test is over; and must not have computed."""
    before = tiny.generate("hello").text
    forwards = []
    forward = tiny.base.forward
    tiny.base.forward = lambda *args: (forwards.append(1), forward(*args))[1]
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


def test_no_chat_template(tiny_pair):
    base, (model, _) = tiny_pair
    generator = n.NudgingGenerator.from_pretrained(base, (model, tiny_tokenizer(False)), device="cpu")
    with pytest.raises(n.TemplateError, match="no chat template"):
        generator.generate("hello")
    assert generator.generate_raw("hello", "hello", max_tokens=4).provenance.finish_reason in ("stop", "length")


def test_chat_template_that_refuses(tiny_pair):
    base, (model, _) = tiny_pair
    tokenizer = tiny_tokenizer(True)
    tokenizer.chat_template = "{{ raise_exception('only poems') }}"
    generator = n.NudgingGenerator.from_pretrained(base, (model, tokenizer), device="cpu")
    with pytest.raises(n.TemplateError, match="only poems"):
        generator.generate("hello")


def test_base_template_mistakes(tiny_pair):
    with pytest.raises(n.TemplateError, match="line 1"):
        n.BaseTemplate("{% for %}")
    with pytest.raises(n.TemplateError, match="ends in"):
        n.BaseTemplate("Answer: ").render([{"role": "user", "content": "x"}])
    with pytest.raises(n.TemplateError, match="fails"):
        n.BaseTemplate("{{ nothing_there.x }}.").render([{"role": "user", "content": "x"}])


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


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("can't allocate memory: x")]
)
def test_out_of_memory_leaves_the_generator_usable(tiny, error):
    before = tiny.generate("hello").text
    model_forward = tiny.base.model.forward
    calls = []

    def failing(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise error
        return model_forward(*args, **kwargs)

    tiny.base.model.forward = failing
    try:
        stream = tiny.stream("another question", threshold=0)
        with pytest.raises(n.OutOfMemoryError, match="smaller dtype"):
            list(stream)
        assert stream.provenance.finish_reason == "error"
    finally:
        del tiny.base.model.forward
    assert tiny.generate("hello").text == before


# -- stopping in the middle ---------------------------------------------------------------------------------------------


@pytest.fixture
def counted(tiny):
    """A generator that counts its base and nudging forwards."""
    tiny.count = 0
    for engine in (tiny.base, tiny.nudging):

        def forward(*args, real=engine.forward):
            tiny.count += 1
            return real(*args)

        engine.forward = forward
    return tiny


def _still_right(generator):
    fresh = generator.generate("hello").text
    generator.clear_cache()
    assert generator.generate("hello").text == fresh


@pytest.mark.parametrize("how", ["close", "break", "with", "forget"])
def test_leaving_a_stream_stops_compute_at_once(counted, how):
    stream = counted.stream("hello", max_tokens=60)
    if how == "with":
        with stream:
            next(stream)
    else:
        for _ in stream:
            break
    at = counted.count
    if how == "close":
        stream.close()
        assert list(stream) == []
        assert stream.provenance.finish_reason == "cancelled"
        assert stream.text == stream.provenance.text
    if how == "forget":
        del stream
        gc.collect()
    assert counted.count == at
    _still_right(counted)


@pytest.mark.parametrize("model", ["base", "nudging"])
@pytest.mark.parametrize("when", [1, 3, 6])
def test_ctrl_c_in_a_forward_keeps_what_there_is(counted, when, model):
    engine = getattr(counted, model)
    real, calls = engine.model.forward, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        output = real(*args, **kwargs)  # the cache has grown, its session does not know yet
        if len(calls) == when:
            raise KeyboardInterrupt
        return output

    engine.model.forward = interrupted
    stream = counted.stream("hello", max_tokens=60)
    try:
        with pytest.raises(KeyboardInterrupt):
            list(stream)
    finally:
        del engine.model.forward
    assert stream.provenance.finish_reason == "cancelled"
    assert len(calls) == when
    _still_right(counted)


async def test_cancelling_a_task_stops_within_one_forward(counted):
    async def consume():
        async for _ in counted.astream("hello", max_tokens=200, repetition="off"):
            await asyncio.sleep(0)

    task = asyncio.create_task(consume())
    while counted.count < 5:
        await asyncio.sleep(0.001)
    task.cancel()
    at = counted.count
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.2)
    assert counted.count <= at + 1
    counted.generate("hello")
    assert all(len(batcher.pool._idle) <= 8 for batcher in counted._batchers.values())
    _still_right(counted)


async def test_the_event_loop_stays_free(tiny):
    ticks = 0

    async def clock():
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    ticking = asyncio.create_task(clock())
    async for _ in tiny.astream("hello"):
        pass
    ticking.cancel()
    assert ticks > 10


def test_closing_from_another_thread_waits_for_the_forward(tiny):
    """The session of a stream that is computing must not be handed to the next request."""
    inside, go_on = threading.Event(), threading.Event()
    real = tiny.base.forward

    def slow(*args):
        inside.set()
        assert go_on.wait(10)
        return real(*args)

    tiny.base.forward = slow
    stream = tiny.stream("hello", max_tokens=60)
    failures = []

    def consume():
        try:
            list(stream)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=consume)
    thread.start()
    assert inside.wait(10)
    stream.close()
    assert not tiny._batchers["base"].pool._idle, "the session was given back while it computes"
    tiny.base.forward = real
    go_on.set()
    thread.join(10)
    assert not failures
    assert stream.provenance.finish_reason == "cancelled"
    _still_right(tiny)


async def test_a_stream_whose_step_was_cancelled_has_ended(counted):
    stream = counted.astream("hello", max_tokens=60)
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(stream.__anext__(), 0.0001)
    with pytest.raises(StopAsyncIteration):
        await stream.__anext__()
    await asyncio.sleep(0.1)
    assert stream.provenance.finish_reason == "cancelled"
    _still_right(counted)


async def test_abatch_stops_the_others_when_one_fails(counted):
    real, calls = counted.base.model.forward, []

    def failing(*args, **kwargs):
        calls.append(1)
        if len(calls) > 1:
            raise ZeroDivisionError
        return real(*args, **kwargs)

    counted.base.model.forward = failing
    with pytest.raises(ZeroDivisionError):
        await counted.abatch(["one", "two", "three"], max_tokens=60)
    del counted.base.model.forward
    at = counted.count
    await asyncio.sleep(0.2)
    assert counted.count <= at + 3  # what was computed together is tried one by one
    _still_right(counted)


def test_abandoned_streams_in_cycles_do_not_deadlock(tiny):
    stream = tiny.stream("hello")
    next(stream)
    cycle = [stream]
    cycle.append(cycle)
    del stream, cycle
    with tiny._batchers["base"].pool._lock:
        gc.collect()
    assert tiny.generate("hello").text


@pytest.mark.parametrize("options", [dict(repetition="paper"), dict(repetition="guard"), dict(repetition="off")])
def test_length_is_bounded_between_rounds_too(tiny, options):
    config = NudgingConfig.paper(max_tokens=12, threshold=0.0, **options)
    settings = {name: getattr(config, name) for name in NudgingConfig.model_fields}
    assert tiny.generate("hello", **settings).provenance.n_tokens <= 12 + 2 * config.lookahead
    assert tiny.generate_alone("base", "hello", **settings).provenance.n_tokens <= 12


def test_asking_the_same_again_is_a_cache_hit(tiny):
    for _ in range(6):
        record = tiny.generate("again " * 20, max_tokens=4).provenance
        assert not any(warning.code == "cache_never_hit" for warning in record.warnings)
    assert record.base.prompt_tokens_reused > 100
    assert record.base.forwards == 0


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
    assert generator.base.dtype == torch.bfloat16


async def test_two_tasks_on_one_stream_are_refused_and_the_first_goes_on(tiny):
    expected = tiny.generate("hello").text
    tiny.clear_cache()
    stream = tiny.astream("hello")
    first = asyncio.ensure_future(stream.__anext__())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="another thread or task"):
        await stream.__anext__()
    begun = await first
    assert begun.text + "".join([piece.text async for piece in stream]) == expected
