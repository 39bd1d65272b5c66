"""Other ways to answer a question with the same two models, to hold nudging against.

Three are transformers' own ``generate`` on the base model (plain, with prompt lookup, with the nudging model as assistant), one
is ``generate`` on the nudging model. ``naive_nudging`` is the paper's loop as a user of transformers alone would write it.
``ensemble`` and ``proxy_tuning`` are the token-level rivals, which need one vocabulary. All are greedy, and each returns a
``Baseline`` with exact counts of forwards, or raises ``Unavailable`` with the reason.

Knows models, prompts and clocks; takes engines, codecs and prompts from a ``NudgingGenerator`` and nothing else of it: no session,
no decoder. Leaves questions, repetitions and tables to whoever calls.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import torch
from transformers import StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from nudging_llm import NudgingGenerator
from nudging_llm.engines.transformers import TransformersEngine
from nudging_llm.text.chat_template import render_chat
from nudging_llm.text.incremental import REPLACEMENT
from nudging_llm.text.messages import Messages, read_messages
from nudging_llm.text.tokenizer import TokenizerAdapter

LOOKUP_TOKENS = 10
#: Tokens by which a completion may be longer than K, so that its last character is whole (UTF-8 has at most 4 bytes).
REST_OF_CHARACTER = 3


class Unavailable(Exception):
    """This way of answering is not possible with these two models; the message says why."""


@dataclass(frozen=True)
class Baseline:
    """An answer and what it cost.

    Attributes:
        text: without the space that joins it to the prompt, and without a last character that is not whole.
        n_tokens: its length as written, end of text not counted; base tokens, the nudging model's own for ``nudging_generate``.
        seconds: from the prompts' tokens to the last token.
        first_s: until the first token (for ``naive_nudging``, the first words) of the answer; None if there was none.
        base_forwards, nudging_forwards: calls of each model. ``proxy_tuning`` counts its untuned model with the nudging model.
        base_forward_tokens, nudging_forward_tokens: tokens evaluated in them.
    """

    text: str
    n_tokens: int
    seconds: float
    first_s: float | None
    base_forwards: int
    base_forward_tokens: int
    nudging_forwards: int
    nudging_forward_tokens: int


# -- transformers' own loops --------------------------------------------------------------------------------------------


def base_generate(generator: NudgingGenerator, messages: Messages, max_tokens: int) -> Baseline:
    """``generate`` on the base model: exactly ``max_tokens`` tokens, as in ``benchmarks.speed``."""
    return _generate_base(generator, messages, max_tokens)


def base_prompt_lookup(generator: NudgingGenerator, messages: Messages, max_tokens: int) -> Baseline:
    """As ``base_generate``, with drafts copied from the text so far."""
    return _generate_base(generator, messages, max_tokens, prompt_lookup_num_tokens=LOOKUP_TOKENS)


def base_assisted(generator: NudgingGenerator, messages: Messages, max_tokens: int) -> Baseline:
    """As ``base_generate``, with drafts by the nudging model: the base model's text, not an aligned one.

    Where the vocabularies differ this is universal assisted decoding. transformers tells them apart by their size alone.

    Raises:
        Unavailable: two vocabularies of one size, or whatever transformers says.
    """
    base, nudging = generator.base.engine, generator.nudging.engine
    sizes = [engine.model.config.get_text_config().vocab_size for engine in (base, nudging)]
    options: dict[str, Any] = {"assistant_model": nudging.model}
    if sizes[0] != sizes[1]:
        options |= {"tokenizer": base.transformers_tokenizer, "assistant_tokenizer": nudging.transformers_tokenizer}
    elif difference := vocabulary_difference(base, nudging):
        raise Unavailable(f"transformers takes vocabularies of one size for one vocabulary, and {difference}")
    try:
        return _generate_base(generator, messages, max_tokens, **options)
    except Exception as error:
        raise Unavailable(f"transformers {version('transformers')}: {type(error).__name__}: {error}") from error


def nudging_generate(generator: NudgingGenerator, messages: Messages, max_tokens: int) -> Baseline:
    """``generate`` on the nudging model alone, until its text ends."""
    nudging = generator.nudging.engine
    prompt = _chat(generator, messages)
    with _Meter(generator) as meter:
        ids, _ = _generate(nudging, prompt, _until_end(nudging), max_new_tokens=max_tokens, streamer=_First(meter))
    return meter.baseline(nudging.tokenizer, ids)


def _generate_base(generator: NudgingGenerator, messages: Messages, tokens: int, **options: Any) -> Baseline:
    base = generator.base.engine
    prompt = _base_prompt(generator, messages)
    with _Meter(generator) as meter:
        exactly = {"min_new_tokens": tokens, "max_new_tokens": tokens}
        ids, _ = _generate(base, prompt, exactly, streamer=_First(meter), **options)
    return meter.baseline(base.tokenizer, ids)


def _until_end(engine: TransformersEngine) -> dict[str, Any]:
    return {"eos_token_id": sorted(engine.tokenizer.end_tokens) or None}


def _generate(
    engine: TransformersEngine, prompt: Sequence[int], until: dict[str, Any], **options: Any
) -> tuple[list[int], bool]:
    """New tokens by transformers' greedy loop, and whether it came to an end of text (which is not among them)."""
    ids = torch.tensor([prompt], device=engine.device)  # [1, n]
    greedy = {"do_sample": False, "repetition_penalty": 1.0, "pad_token_id": 0}  # some models' defaults are not greedy
    with torch.inference_mode():
        out = engine.model.generate(ids, attention_mask=torch.ones_like(ids), **greedy, **until, **options)
    new: list[int] = out[0, len(prompt) :].tolist()
    ended = bool(new) and new[-1] in (until.get("eos_token_id") or ())
    return (new[:-1] if ended else new), ended


# -- the paper's loop ---------------------------------------------------------------------------------------------------


def naive_nudging(
    generator: NudgingGenerator, messages: Messages, max_tokens: int, k: int = 16, gamma: float = 0.4
) -> Baseline:
    """Nudging (arXiv 2410.09300, Algorithm 1) written plainly: no guard, no role markers.

    Every round starts from the text alone: the nudging model completes it by ``generate``, without a cache from earlier rounds;
    the base model is asked word by word and then token by token, with a key-value cache that is dropped after the round.
    The text is that of ``generator.generate(…, lookahead=k, threshold=gamma, repetition="off", role_markers=False)``.
    """
    base, nudging = generator.base.engine, generator.nudging.engine
    chat, transcript = _chat(generator, messages), _transcript(generator, messages)

    def base_ids(text: str) -> list[int]:
        join = " " if text and not text[0].isspace() else ""
        return base.tokenizer.bos_ids + base.tokenizer.encode(transcript + join + text)

    answer, n = "", 0
    with _Meter(generator) as meter:
        while n < max_tokens:
            # 1. The nudging model completes the answer.
            words, ended = _complete(nudging, chat + nudging.tokenizer.encode(answer), k)
            words = words if answer else words.lstrip(" ")

            # 2. Its words are taken until the base model is sure or agrees.
            ask = _Cached(base)
            words, token = (words, None) if ended else _take_words(ask, base_ids, answer, words, gamma)
            before, after = base_ids(answer), base_ids(answer + words)
            new, room = after[len(before) :], max_tokens - n
            if full := len(new) > room:
                new = _whole(base.tokenizer, new[:room])
                words = base.tokenizer.decode(new) if answer else base.tokenizer.decode(new).lstrip(" ")
            answer, n = answer + words, n + len(new)
            if words:
                meter.first()
            if ended or full or not words or n == max_tokens:
                break

            # 3. The base model writes while it is sure.
            if token is not None:
                run = _run(ask, after, token, gamma, max_tokens - n)
                full = n + len(run) >= max_tokens
                run = _whole(base.tokenizer, run)
                answer, n = answer + base.tokenizer.decode(run), n + len(run)
                if full:
                    break
    return meter.result(answer, n)


def _complete(nudging: TransformersEngine, tokens: Sequence[int], k: int) -> tuple[str, bool]:
    """K tokens' text, and whether it ended within them."""
    enough = [_WholeAfter(k, nudging.tokenizer, len(tokens))]
    new, ended = _generate(
        nudging, tokens, _until_end(nudging), max_new_tokens=k + REST_OF_CHARACTER, stopping_criteria=enough
    )
    return _text(nudging.tokenizer, new), ended


def _take_words(
    ask: _Cached, base_ids: Callable[[str], list[int]], answer: str, text: str, gamma: float
) -> tuple[str, int | None]:
    """The words that the nudging model gets, and the base model's token that goes on from there, if one does."""
    lead = " " * (len(text) - len(text.lstrip(" ")))
    words = text[len(lead) :].split(" ")
    for i in range(1, len(words)):  # the first word is taken untested
        so_far = lead + " ".join(words[:i])
        if words[i]:  # between two spaces there is no word to test
            token, prob = ask.top(base_ids(answer + so_far))
            top = ask.tokenizer.token_text(token)
            if prob >= gamma or (top and f" {words[i]}".startswith(top)):
                return so_far, token
    return (lead + " ".join(words[:-1]) if len(words) > 1 else text), None  # K tokens may have cut the last word


def _run(ask: _Cached, tokens: list[int], token: int, gamma: float, room: int) -> list[int]:
    """Base tokens from ``token`` on, until one is unsure, the text ends or there is no more room."""
    run: list[int] = []
    prob = gamma  # the first has been tested
    while not ask.tokenizer.is_end(token) and prob >= gamma:
        run.append(token)
        if len(run) == room:
            break
        token, prob = ask.top(tokens + run)
    return run


class _WholeAfter(StoppingCriteria):
    """Stops after ``k`` new tokens, or as soon after that as the last character is whole."""

    def __init__(self, k: int, codec: TokenizerAdapter, prompt: int) -> None:
        self._k, self._codec, self._prompt = k, codec, prompt

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        new = input_ids[0, self._prompt :].tolist()
        done = len(new) >= self._k and len(_whole(self._codec, new)) == len(new)
        return torch.tensor([done], device=input_ids.device)


# -- token by token, with one vocabulary --------------------------------------------------------------------------------


def ensemble(generator: NudgingGenerator, messages: Messages, max_tokens: int) -> Baseline:
    """The token with the highest mean probability of both models, each after its own prompt.

    Raises:
        Unavailable: the vocabularies differ.
    """
    base, nudging = generator.base.engine, generator.nudging.engine
    _require_one_vocabulary(base, nudging)
    parts = [(base, _base_prompt(generator, messages)), (nudging, _chat(generator, messages))]
    return _token_by_token(generator, parts, max_tokens, lambda b, n: (b.softmax(-1) + n.softmax(-1)) / 2)


def proxy_tuning(
    generator: NudgingGenerator, messages: Messages, max_tokens: int, untuned: TransformersEngine | None = None
) -> Baseline:
    """Proxy tuning (arXiv 2401.08565): base logits + nudging logits − logits of the nudging model before its tuning.

    As in its authors' code the tuned model sees its chat prompt, the other two the base model's.

    Raises:
        Unavailable: the vocabularies differ, or there is no untuned model.
    """
    base, nudging = generator.base.engine, generator.nudging.engine
    _require_one_vocabulary(base, nudging)
    if untuned is None:
        raise Unavailable("needs the untuned version of the nudging model")
    _require_one_vocabulary(nudging, untuned)
    prompt = _base_prompt(generator, messages)
    parts = [(base, prompt), (nudging, _chat(generator, messages)), (untuned, prompt)]
    return _token_by_token(generator, parts, max_tokens, lambda b, tuned, plain: b + tuned - plain)


def vocabulary_difference(a: TransformersEngine, b: TransformersEngine) -> str:
    """How the token ids of two models differ in meaning; empty if they do not."""
    one, other = a.transformers_tokenizer.get_vocab(), b.transformers_tokenizer.get_vocab()
    if len(one) != len(other):
        return f"vocabularies differ: {len(one):,} and {len(other):,} tokens"
    moved = sum(other.get(token) != at for token, at in one.items())
    return f"vocabularies differ: {moved:,} of {len(one):,} tokens" if moved else ""


def _require_one_vocabulary(a: TransformersEngine, b: TransformersEngine) -> None:
    if difference := vocabulary_difference(a, b):
        raise Unavailable(difference)


def _token_by_token(
    generator: NudgingGenerator,
    parts: Sequence[tuple[TransformersEngine, list[int]]],
    max_tokens: int,
    combine: Callable[..., torch.Tensor],
) -> Baseline:
    """Greedy decoding of ``combine(logits, …)``, one key-value cache per model; ends where any of them knows an end."""
    base = generator.base.engine
    ends = set().union(*(engine.tokenizer.end_tokens for engine, _ in parts))
    size = max(base.transformers_tokenizer.get_vocab().values()) + 1  # rows beyond it are padding
    size = min(size, *(engine.vocabulary_size or size for engine, _ in parts))
    models = [(_Cached(engine), prompt) for engine, prompt in parts]
    new: list[int] = []
    with _Meter(generator, *(engine for engine, _ in parts)) as meter:
        while len(new) < max_tokens:
            logits = [model.logits(prompt + new)[:size].to(base.device) for model, prompt in models]
            token = int(combine(*logits).argmax())
            if token in ends:
                break
            new.append(token)
            meter.first()
    return meter.baseline(base.tokenizer, new)


# -- shared -------------------------------------------------------------------------------------------------------------


class _Cached:
    """A model with a key-value cache of the tokens it was asked about last."""

    def __init__(self, engine: TransformersEngine) -> None:
        self._model, self._device, self.tokenizer = engine.model, engine.device, engine.tokenizer
        self._seen: list[int] = []
        self._cache: Any = None

    def logits(self, tokens: list[int]) -> torch.Tensor:
        """Logits [vocabulary] after ``tokens``, in float32. Only what follows the tokens seen is evaluated, if they agree."""
        known = len(self._seen)
        if known >= len(tokens) or tokens[:known] != self._seen:  # re-tokenised differently: start over
            known, self._cache = 0, None
        ids = torch.tensor([tokens[known:]], device=self._device)
        with torch.inference_mode():
            out = self._model(input_ids=ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        self._seen, self._cache = list(tokens), out.past_key_values
        last: torch.Tensor = out.logits[0, -1].float()
        return last

    def top(self, tokens: list[int]) -> tuple[int, float]:
        """The most likely token after ``tokens``, and its probability."""
        prob, token = self.logits(tokens).softmax(-1).max(-1)
        return int(token), float(prob)


class _Meter:
    """Clock and forward counter of one answer: a context around the work.

    Args:
        generator: whose models are counted.
        more: other models, counted with the nudging model.
    """

    def __init__(self, generator: NudgingGenerator, *more: TransformersEngine) -> None:
        base, nudging = generator.base.engine.model, generator.nudging.engine.model
        if base is nudging:
            raise ValueError("both models are one object: whose forwards are whose?")
        self._models = {id(engine.model): (engine.model, "nudging") for engine in more}  # each model once
        self._models |= {id(nudging): (nudging, "nudging"), id(base): (base, "base")}
        self._forwards = {"base": 0, "nudging": 0}
        self._tokens = {"base": 0, "nudging": 0}
        self._first_s: float | None = None

    def __enter__(self) -> _Meter:
        self._hooks = [
            model.register_forward_pre_hook(self._counter(name), with_kwargs=True)
            for model, name in self._models.values()
        ]
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._seconds = time.perf_counter() - self._started
        for hook in self._hooks:
            hook.remove()

    def first(self) -> None:
        """A token of the answer is there; only the first call counts."""
        if self._first_s is None:
            self._first_s = time.perf_counter() - self._started

    def baseline(self, codec: TokenizerAdapter, tokens: Sequence[int]) -> Baseline:
        return self.result(_text(codec, tokens).lstrip(" "), len(tokens))

    def result(self, text: str, n_tokens: int) -> Baseline:
        forwards, tokens = self._forwards, self._tokens
        return Baseline(
            text,
            n_tokens,
            self._seconds,
            self._first_s,
            forwards["base"],
            tokens["base"],
            forwards["nudging"],
            tokens["nudging"],
        )

    def _counter(self, name: str) -> Callable[..., None]:
        def count(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            ids = args[0] if args else kwargs["input_ids"]
            self._forwards[name] += 1
            self._tokens[name] += ids.numel()

        return count


class _First(BaseStreamer):
    """Tells the meter when ``generate`` has its first token: what it is given first is the prompt."""

    def __init__(self, meter: _Meter) -> None:
        self._meter, self._prompt = meter, True

    def put(self, value: Any) -> None:
        if not self._prompt:
            self._meter.first()
        self._prompt = False

    def end(self) -> None:
        pass


def _transcript(generator: NudgingGenerator, messages: Messages) -> str:
    return generator.base_template.render(read_messages(messages))


def _base_prompt(generator: NudgingGenerator, messages: Messages) -> list[int]:
    codec = generator.base.tokenizer
    return codec.bos_ids + codec.encode(_transcript(generator, messages))


def _chat(generator: NudgingGenerator, messages: Messages) -> list[int]:
    return render_chat(generator.nudging.tokenizer, read_messages(messages))


def _whole(codec: TokenizerAdapter, tokens: Sequence[int]) -> list[int]:
    """``tokens`` without those of a last character that is not whole."""
    n = len(tokens)
    while n and codec.decode(tokens[:n]).endswith(REPLACEMENT):
        n -= 1
    return list(tokens[:n])


def _text(codec: TokenizerAdapter, tokens: Sequence[int]) -> str:
    return codec.decode(_whole(codec, tokens))
