"""The decoder, its sessions and its tokenisation against the slow reference, on random fake model pairs."""

from __future__ import annotations

import asyncio
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from nudging_llm.config import NudgingConfig
from nudging_llm.decoding.costs import ForwardCosts
from nudging_llm.decoding.decode import decode
from nudging_llm.protocol import GREEDY
from nudging_llm.provenance import Piece
from nudging_llm.runtime.local import LocalBackend
from nudging_llm.runtime.request import ModelPart, Request
from nudging_llm.runtime.scheduler import Scheduler
from nudging_llm.runtime.streams import AsyncStream, Stream, run_batch
from nudging_llm.testing.fake_models import KINDS, FakeEngine, FakeModel
from nudging_llm.testing.remote import ConnectionLost, FakeRemoteBackend
from nudging_llm.text.prompt_encoder import IncrementalPromptEncoder
from tests.reference import Ref, Rules, Slow
from tests.sampling import cases

MARKERS = ("\nQuestion:", "\nAnswer:")
PROMPTS = ["Question: why?\nAnswer:", "the  cat", "\u65e5\u672c?", "a", "Say: one two\n"]


def random_case(seed: int):
    """Two fake models, their prompts, and rules: the same for both implementations."""
    rng = random.Random(seed)
    kinds = rng.choice(KINDS), rng.choice(KINDS)
    shape = dict(agree=rng.choice([120, 200, 240, 252]), end=rng.choice([0, 2, 8, 30]), low=rng.choice([10, 40, 80]))
    language = rng.randrange(4)
    models = [FakeModel(kind, rng.randrange(2**20) * 4 + language, **shape) for kind in kinds]
    paper = rng.random() < 0.4
    rules = Rules(
        gamma=rng.choice([0.0, 0.2, 0.4, 0.4, 0.7, 1.1]),
        k=rng.choice([1, 2, 4, 8, 16]),
        max_tokens=rng.choice([1, 5, 40, 90]),
        max_rounds=150 if paper else rng.choice([3, 10**9]),
        prefix_rule=rng.random() < 0.8,
        paper=paper,
        guard=not paper and rng.random() < 0.8,
        markers=() if paper else MARKERS,
        stop=rng.choice([(), (), (".",), ("at.", "t"), ("\n\n", " the the")]),
        stop_on="nudging" if paper else rng.choice(["nudging", "nudging", "either", "both"]),
        sentence=not paper and rng.random() < 0.5,
    )
    return models, rng.choice(PROMPTS), rules


def config_for(rules: Rules, drafting: bool) -> NudgingConfig:
    return NudgingConfig(
        threshold=rules.gamma,
        lookahead=rules.k,
        max_tokens=rules.max_tokens,
        max_rounds=None if rules.max_rounds > 10**6 else int(rules.max_rounds),
        length_check="round" if rules.paper else "token",
        prefix_rule=rules.prefix_rule,
        stop=rules.stop,
        stop_on=rules.stop_on,
        role_markers=not rules.paper,
        end_check="sentence" if rules.sentence else "lookahead",
        repetition="paper" if rules.paper else "guard" if rules.guard else "off",
        drafting=drafting,
    )


def voices(models, prompt):
    base, nudging = models
    return (
        IncrementalPromptEncoder(base.codec, base.codec.bos_ids, prompt, None),
        IncrementalPromptEncoder(nudging.codec, nudging.codec.encode("user says"), "", None),
    )


def backends_for(models, can_crop=True) -> list[LocalBackend]:
    return [LocalBackend(FakeEngine(model, can_crop)) for model in models]


def run_for(models, prompt, rules, drafting, backends, costs=None) -> Request:
    base, nudging = voices(models, prompt)
    config = config_for(rules, drafting)
    parts = {
        "base": ModelPart(backends[0], GREEDY, base.encode("")),
        "nudging": ModelPart(backends[1], GREEDY, nudging.encode("")),
    }
    costs = costs or {model: part.backend.costs for model, part in parts.items()}
    return Request(
        parts,
        Scheduler([backend.worker for backend in backends if backend.worker is not None]),
        lambda clock: decode(base, nudging, config, MARKERS, clock, costs),
        config,
    )


def remote_for(models, seed=0, **options) -> list[FakeRemoteBackend]:
    return [FakeRemoteBackend(model, seed + at, **options) for at, model in enumerate(models)]


def fast(
    models, prompt, rules, drafting=True, can_crop=True, backends=None, costs=None
) -> tuple[list[Piece], str, list[FakeEngine]]:
    backends = backends or backends_for(models, can_crop)
    stream = Stream(run_for(models, prompt, rules, drafting, backends, costs))
    pieces = list(stream)
    return pieces, stream.provenance.finish_reason, [backend.engine for backend in backends]


def slow(models, prompt, rules) -> Slow:
    refs = []
    for model, prompt_ids, prompt_text in (
        (models[0], models[0].codec.bos_ids, prompt),
        (models[1], models[1].codec.encode("user says"), ""),
    ):
        codec = model.codec
        refs.append(Ref(list(prompt_ids), prompt_text, codec.encode, codec.decode, set(codec.end_tokens), model.next))
    return Slow(*refs, rules).run()


def essence(pieces: list[Piece]):
    return [
        (p.text, p.source, p.reason.value, p.round, round(p.base_top_prob, 9), p.base_top_text, p.n_tokens)
        for p in pieces
    ]


def reference_essence(found: Slow):
    return [(p.text, p.source, p.reason, p.round, round(p.prob, 9), p.top, p.n) for p in found.out]


@pytest.mark.parametrize("block", range(cases(25)))
def test_same_text_and_pieces_as_the_reference(block):
    for seed in range(block * 100, block * 100 + 100):
        models, prompt, rules = random_case(seed)
        expected = slow(models, prompt, rules)
        for drafting in (True, False):
            pieces, finish, _ = fast(models, prompt, rules, drafting)
            case = f"seed {seed} {models[0].kind}/{models[1].kind} {rules} drafting={drafting}"
            assert "".join(p.text for p in pieces) == expected.y, case
            assert essence(pieces) == reference_essence(expected), case
            assert finish == expected.finish, case
            at = 0
            for piece in pieces:
                assert piece.start == at and piece.text, case
                at += len(piece.text)


@pytest.mark.slow
def test_cases_are_varied():
    """The random pairs reach every reason, every ending and multi-byte text: otherwise the test above proves little."""
    reasons, finishes, characters = set(), set(), set()
    for seed in range(600):
        pieces, finish, _ = fast(*random_case(seed))
        reasons |= {p.reason.value for p in pieces}
        finishes.add(finish)
        characters |= set("".join(p.text for p in pieces))
    assert reasons == {
        "opening", "uncertain", "lookahead_cut", "base_ended", "ending", "handover_prefix", "handover_confident", "confident",
    }  # fmt: skip
    assert finishes == {"stop", "length", "stop_string", "repetition"}
    assert {"\u00e9", "\u65e5", "\U0001f642", "\n", " "} <= characters


@pytest.mark.parametrize("block", range(8))
def test_backends_far_away_write_the_same(block):
    """Answers that come later, in another order, some lost on the way and asked for again; some known before they are asked."""
    for seed in range(block * 50, block * 50 + 50):
        models, prompt, rules = random_case(seed)
        expected = slow(models, prompt, rules)
        backends = remote_for(models, seed, faults=0.2, ahead=seed % 4)
        if seed % 3 == 1:
            backends[0].close()
            backends[0] = backends_for(models)[0]
        elif seed % 3 == 2:
            backends[1].close()
            backends[1] = backends_for(models)[1]
        stream = Stream(run_for(models, prompt, rules, True, backends))
        pieces = list(stream)
        assert essence(pieces) == reference_essence(expected), f"seed {seed}"
        assert stream.provenance.finish_reason == expected.finish
        for backend in backends:
            backend.close()


@pytest.mark.parametrize("block", range(4))
async def test_many_requests_to_backends_far_away(block):
    """Side by side, and as tasks: the pieces of each are those it has alone."""
    models = random_case(block * 7)[0]
    cases = [random_case(seed)[1:] for seed in range(block * 12, block * 12 + 12)]
    expected = [reference_essence(slow(models, prompt, rules)) for prompt, rules in cases]
    backends = remote_for(models, block, faults=0.1, ahead=block)
    runs = [run_for(models, prompt, rules, True, backends) for prompt, rules in cases]
    run_batch(runs, at_once=5)
    assert [essence(run.pieces) for run in runs] == expected
    assert max(backend.most_waiting for backend in backends) > 1

    async def collected(prompt, rules):
        stream = AsyncStream(run_for(models, prompt, rules, True, backends), ThreadPoolExecutor(1))
        return [piece async for piece in stream]

    found = await asyncio.gather(*(collected(prompt, rules) for prompt, rules in cases))
    assert [essence(pieces) for pieces in found] == expected
    for backend in backends:
        backend.close()


def test_a_backend_that_fails_ends_the_request_and_no_other():
    models, prompt, rules = next(case for case in map(random_case, range(99)) if len(fast(*case)[0]) > 20)
    whole = essence(fast(models, prompt, rules)[0])
    base, nudging = remote_for(models, fails_after=6)
    stream = Stream(run_for(models, prompt, rules, True, [base, nudging]))
    with pytest.raises(ConnectionLost, match="Is it running"):
        list(stream)
    assert stream.provenance.finish_reason == "error"
    assert essence(stream.pieces) == whole[: len(stream.pieces)]
    base.fails_after = nudging.fails_after = None
    again = Stream(run_for(models, prompt, rules, True, [base, nudging]))
    assert essence(list(again)) == whole


@pytest.mark.parametrize("seed", range(cases(60)))
def test_caches_that_cannot_be_cropped_give_the_same_text(seed):
    models, prompt, rules = random_case(seed)
    assert essence(fast(models, prompt, rules)[0]) == essence(fast(models, prompt, rules, can_crop=False)[0])


@pytest.mark.parametrize("seed", range(cases(60)))
def test_a_warm_session_gives_the_same_text(seed):
    models, prompt, rules = random_case(seed)
    backends = backends_for(models)
    cold = essence(fast(models, prompt, rules, backends=backends)[0])
    other = random.Random(seed).choice(PROMPTS)
    fast(models, other, rules, backends=backends)
    assert essence(fast(models, prompt, rules, backends=backends)[0]) == cold


#: Costs with which every source of guesses is used: base forwards are dear, whatever their length.
AHEAD = {"base": ForwardCosts.fixed((1, 100.0), (64, 101.0)), "nudging": ForwardCosts.fixed((1, 1.0), (64, 1.1))}


@pytest.mark.parametrize("block", range(cases(8)))
def test_no_guess_changes_the_text(block):
    """Also where the nudging model writes ahead for the base model, in base runs of every kind."""
    ahead = 0
    for seed in range(block * 100, block * 100 + 100):
        models, prompt, rules = random_case(seed)
        plain, plain_finish, plain_engines = fast(models, prompt, rules, drafting=False)
        pieces, finish, engines = fast(models, prompt, rules, costs=AHEAD)
        assert essence(pieces) == essence(plain), f"seed {seed} {rules}"
        assert finish == plain_finish
        ahead += engines[1].forwards > plain_engines[1].forwards
        assert engines[0].forwards <= plain_engines[0].forwards
    assert ahead > 2


@pytest.mark.parametrize("block", range(8))
def test_requests_that_share_forwards_write_the_same(block):
    """Many different requests to one pair of models, side by side: the pieces of each are those it has alone."""
    rng = random.Random(block)
    models = random_case(block * 7)[0]
    cases = [random_case(seed)[1:] for seed in range(block * 12, block * 12 + 12)]
    alone = [fast(models, prompt, rules)[:2] for prompt, rules in cases]
    forwards = [sum(engine.forwards for engine in fast(models, *case)[2]) for case in cases]
    backends = backends_for(models)
    runs = [run_for(models, prompt, rules, True, backends) for prompt, rules in cases]
    run_batch(runs, at_once=rng.choice([2, 5, 12]))
    for run, (pieces, finish) in zip(runs, alone, strict=True):
        assert essence(run.pieces) == essence(pieces)
        assert run.result.provenance.finish_reason == finish
    together = sum(backend.engine.forwards for backend in backends)
    assert together < sum(forwards)
    assert 2 <= max(backend.engine.most_rows for backend in backends) <= 8


def test_drafts_save_base_forwards():
    saved = 0
    for seed in range(40):
        models, prompt, rules = random_case(seed)
        with_drafts = fast(models, prompt, rules, True)[2][0].forwards
        without = fast(models, prompt, rules, False)[2][0].forwards
        saved += without - with_drafts
    assert saved > 0


@pytest.mark.parametrize("seed", range(cases(80)))
def test_threshold_above_one_without_prefix_rule_is_the_nudging_model_alone(seed):
    """Word for word, up to re-tokenisation at the joins: so with one tokenizer in which text and tokens agree."""
    nudging = FakeModel("bytes", seed * 4, agree=240, end=3, low=40)
    base = FakeModel("gpt_bpe", seed * 4 + 4, agree=240, end=3, low=40)
    rules = Rules(gamma=1.1, prefix_rule=False, k=8, max_tokens=80, guard=False)
    pieces, _, _ = fast((base, nudging), "a", rules)
    alone, tokens = [], nudging.codec.encode("user says")
    while len(alone) < 400:
        token, _ = nudging.next(tokens + alone)
        if nudging.codec.is_end(token):
            break
        alone.append(token)
    text = "".join(p.text for p in pieces)
    expected = nudging.codec.decode(alone).lstrip(" ")
    if "\ufffd" not in expected and not nudging.codec.decode(alone).startswith(" "):
        assert expected.startswith(text) and (
            text == expected or sum(p.n_tokens for p in pieces) >= 80 or len(alone) == 400
        )
    assert all(p.source == "nudging" for p in pieces)


@pytest.mark.parametrize("seed", range(cases(80)))
def test_threshold_zero_is_the_base_model_between_its_own_ends(seed):
    models, prompt, _ = random_case(seed)
    rules = Rules(gamma=0.0, k=8, max_tokens=80, guard=False, markers=())
    pieces, _, _ = fast(models, prompt, rules)
    for before, piece in zip(pieces, pieces[1:], strict=False):
        if piece.source == "nudging" and before.source == "base":
            assert piece.reason.value in ("base_ended", "ending"), essence(pieces)
    assert not any(p.source == "nudging" and p.reason.value == "uncertain" for p in pieces)


@pytest.mark.slow
def test_cost_per_token_stays_flat():
    """Forwards and evaluated tokens grow in proportion to the answer."""
    models = [FakeModel("gpt_bpe", 4, agree=250, end=0, low=20), FakeModel("byte_bpe", 8, agree=250, end=0, low=20)]
    costs = {}
    for length in (200, 800):
        rules = Rules(max_tokens=length, guard=False)
        backends = backends_for(models)
        started = time.perf_counter()
        fast(models, "a", rules, backends=backends)
        costs[length] = sum(backend.engine.forwards for backend in backends), time.perf_counter() - started
    assert costs[800][0] < 5.2 * costs[200][0]
