"""The local engine: a transformers causal language model with its key-value cache.

Traps, each seen on transformers 5.x:
- A cache made *without* the model's config keeps full length for sliding-window layers, so that it can be cropped; one
  made with the config refuses to crop past the window. The model's masks are right either way.
- ``crop(-n)`` drops the last n positions.
- With bf16 the number of tokens in a forward changes rounding; argmax near-ties can flip. float32 does not show it.
"""

from __future__ import annotations

import copy
import inspect
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from ..errors import ModelError, ModelLoadError, OutOfMemoryError, TokenizerMismatchError
from ..protocol import Prediction, Sampling
from ..text.tokenizer import TokenizerAdapter
from .base import CannotPackError, Row
from .kv import PackedRows, cache_bytes, copy_prefix, growing_cache, packed_attention

#: Cache layers that growing, croppable, full-length ones can stand in for.
_CROPPABLE_LAYERS = frozenset({"DynamicLayer", "DynamicSlidingWindowLayer"})
_SHARED_WITH_TOKENIZER = frozenset({"revision", "trust_remote_code", "token", "cache_dir", "local_files_only"})
_TOO_LARGE = ("out of memory", "can't allocate memory", "not enough memory")

#: One lock for each model, however many engines share it: a packed forward changes its attention meanwhile.
_LOCKS: WeakKeyDictionary[Any, threading.Lock] = WeakKeyDictionary()


class TransformersEngine:
    """A loaded model and its tokenizer.

    Args:
        model: a causal language model (``…ForCausalLM``), already on its device(s).
        tokenizer: its fast tokenizer.
        name: how to call it in records and errors; default: the model's ``name_or_path``.
        owned: True if the tokenizer belongs to this engine alone.

    Raises:
        ModelError: the model is not a decoder-only causal language model.
        TokenizerMismatchError: the tokenizer does not fit the model.
    """

    def __init__(self, model: Any, tokenizer: Any, name: str | None = None, owned: bool = False) -> None:
        self.name = name or str(getattr(model, "name_or_path", "") or type(model).__name__)
        config = getattr(model, "config", None)
        if config is None or not hasattr(model, "get_input_embeddings") or getattr(config, "is_encoder_decoder", False):
            raise ModelError(f"{self.name} ({type(model).__name__}) is not a decoder-only causal language model.")
        self.model, self.transformers_tokenizer = model.eval(), tokenizer
        self.revision: str | None = getattr(config, "_commit_hash", None)
        text_config = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
        self.context_length: int | None = getattr(text_config, "max_position_embeddings", None)
        self._embeddings = model.get_input_embeddings().weight
        self.tokenizer = TokenizerAdapter(tokenizer, self.name, _end_tokens(model), owned)
        #: How many token ids the model knows; None if a quantiser has packed its embeddings.
        self.vocabulary_size: int | None = self._embeddings.shape[0] if self._embeddings.ndim == 2 else None
        self._check_vocabulary()
        parameters = inspect.signature(model.forward).parameters
        self._keeps_logits = "logits_to_keep" in parameters
        self._cache_argument = "cache_params" if "cache_params" in parameters else "past_key_values"
        layers = _layer_names(text_config)
        self.can_crop = layers <= _CROPPABLE_LAYERS
        self._text_config = text_config
        self.can_pack = self.can_crop and "position_ids" in parameters and _attends_by_name(model, text_config)
        self._packing_checked = False
        self.lock = _LOCKS.setdefault(model, threading.Lock())

    @classmethod
    def load(
        cls,
        source: str | Path | tuple[Any, Any],
        *,
        device: str = "auto",
        dtype: str | torch.dtype = "auto",
        name: str | None = None,
        **kwargs: Any,
    ) -> TransformersEngine:
        """Load a hub id or local folder, or wrap a loaded ``(model, tokenizer)``.

        Args:
            source: what to load. Code inside a model folder is run only with ``trust_remote_code=True`` in ``kwargs``.
            device: "auto" (CUDA if there is one, else CPU), or a torch device. Not used if ``device_map`` is given. A
                loaded model stays on its device, in its dtype.
            dtype: "auto" (the checkpoint's; on a CPU without bfloat16 instructions float32 instead of bfloat16), or a
                torch dtype or its name: "float32", "bfloat16", "float16".
            kwargs: for ``AutoModelForCausalLM.from_pretrained``: ``device_map``, ``quantization_config``, ``revision``…

        Raises:
            ModelLoadError: it cannot be loaded; the reason is in the message.
        """
        if isinstance(source, tuple):
            if len(source) != 2:
                raise ModelLoadError("A loaded model is given as a pair (model, tokenizer).")
            if kwargs:
                raise ModelLoadError(
                    f"{', '.join(sorted(kwargs))}: options for loading have no effect on a loaded model. Drop them, or "
                    "give the model's folder instead."
                )
            return cls(*source, name=name)
        shared = {key: value for key, value in kwargs.items() if key in _SHARED_WITH_TOKENIZER}
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, **shared)
            torch_dtype = _torch_dtype(dtype)
            model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch_dtype, **kwargs)
            if "device_map" not in kwargs and getattr(model, "hf_quantizer", None) is None:
                model.to(_torch_device(device))
        except ModelLoadError:
            raise
        except Exception as error:  # transformers, safetensors and torch each have their own
            here = "" if Path(source).is_dir() else "there is no folder of that name, and as a hub id: "
            raise ModelLoadError(
                f"{source} could not be loaded: {here}{error}\nGive a hub id, or a local folder with config.json, "
                "safetensors and tokenizer.json."
            ) from error
        if dtype == "auto" and model.dtype == torch.bfloat16 and model.device.type == "cpu" and not _cpu_has_bfloat16():
            model.float()
        return cls(model, tokenizer, name=name or str(source), owned=True)

    @property
    def device(self) -> torch.device:
        """Where tokens go in (the embeddings' device)."""
        device: torch.device = self._embeddings.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    def new_cache(self) -> Any:
        return growing_cache() if self.can_crop else DynamicCache(config=self._text_config)

    def forward(self, rows: Sequence[Row]) -> list[list[Prediction]]:
        new, past = sum(len(row.tokens) for row in rows), sum(row.past for row in rows)
        with torch.inference_mode(), self._memory(f"evaluating {new:,} tokens after {past:,}"):
            logits = self._logits(rows[0]) if len(rows) == 1 else self._packed_logits(rows)
            return _statistics(logits, rows)

    @contextmanager
    def _memory(self, what: str) -> Iterator[None]:
        """Turns want of memory, which comes in several guises, into ``OutOfMemoryError``."""
        try:
            yield
            return
        except (RuntimeError, MemoryError) as error:
            if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and not any(
                words in str(error).lower() for words in _TOO_LARGE
            ):
                raise
            detail = str(error).splitlines()[0] if str(error) else type(error).__name__
            error.__traceback__ = None  # it holds the frames that hold the tensors
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        raise OutOfMemoryError(
            f"{self.name}: {what} did not fit into memory on {self.device} ({detail}). Shorten the prompt, or load the model "
            "in a smaller dtype."
        )

    def _logits(self, row: Row) -> torch.Tensor:
        """One text by itself: logits [last, vocabulary]."""
        keep = {"logits_to_keep": row.last} if self._keeps_logits else {}
        cache = {self._cache_argument: row.cache}
        logits = self.model(input_ids=self._ids([row.tokens]), use_cache=True, **cache, **keep).logits
        return logits[0, -row.last :].float()  # type: ignore[no-any-return]

    def _packed_logits(self, rows: Sequence[Row]) -> torch.Tensor:
        """Several texts in one row [1, n of all]: logits [last of all, vocabulary]."""
        lengths = [len(row.tokens) for row in rows]
        ends = list(accumulate(lengths))
        wanted = [at for row, end in zip(rows, ends, strict=True) for at in range(end - row.last, end)]
        positions = [at for row in rows for at in range(row.past, row.past + len(row.tokens))]
        inputs = {
            "input_ids": self._ids([[token for row in rows for token in row.tokens]]),
            "position_ids": self._ids([positions]),
            "past_key_values": PackedRows([row.cache for row in rows], lengths),
        }
        keep = {"logits_to_keep": self._ids(wanted)} if self._keeps_logits else {}
        with packed_attention(self._text_config):
            logits = self.model(**inputs, use_cache=True, **keep).logits[0]
        logits = logits if self._keeps_logits else logits[wanted]
        if not self._packing_checked:
            longest = max(range(len(rows)), key=lambda at: rows[at].past)
            end = sum(row.last for row in rows[: longest + 1])
            self._check_packing(rows[longest], logits[end - rows[longest].last : end])
        return logits.float()  # type: ignore[no-any-return]

    def _check_packing(self, row: Row, logits: torch.Tensor) -> None:
        """In the first packed forwards, up to one that goes on with a text: a row by itself must give what it gave there."""
        self._packing_checked = row.past > 0
        alone = self._logits(replace(row, cache=self.copy_prefix(row.cache, row.past)))
        apart = (alone.softmax(-1) - logits.float().softmax(-1)).abs().max()
        if not apart < (1e-3 if self.dtype == torch.float32 else 0.1):
            raise CannotPackError(f"probabilities differ by {apart:.3g} between one text and several in a forward")

    def _ids(self, values: Sequence[Any]) -> torch.Tensor:
        """Whole numbers as a tensor where the model takes its input; the copy to a GPU does not wait for it."""
        ids = torch.tensor(values)
        return ids.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else ids

    def crop(self, cache: Any, drop: int) -> None:
        cache.crop(-drop)

    def copy_cache(self, cache: Any) -> Any:
        with torch.inference_mode(), self._memory("a copy of the cache"):
            return copy.deepcopy(cache)

    def copy_prefix(self, cache: Any, length: int) -> Any:
        with torch.inference_mode(), self._memory(f"a copy of {length:,} tokens' keys and values"):
            return copy_prefix(cache, length)

    def cache_bytes(self, cache: Any) -> int:
        return cache_bytes(cache)

    def _check_vocabulary(self) -> None:
        rows = self.vocabulary_size
        if rows is None:
            return
        codec = self.tokenizer
        beyond = [token for token in range(rows, codec.size) if token not in codec.control_tokens]
        if beyond or codec.size < 0.8 * rows:
            raise TokenizerMismatchError(
                f"The tokenizer has {codec.size:,} tokens and {self.name} has embeddings for {rows:,}: they do not belong "
                "together. Pass the tokenizer that this model was trained with."
            )


def _statistics(logits: torch.Tensor, rows: Sequence[Row]) -> list[list[Prediction]]:
    """Predictions from the rows' logits [last of all, vocabulary] (float32).

    One small transfer: everything is reduced on the logits' device to [n, 6] numbers (float64 holds ids exactly).
    """
    needs = frozenset().union(*(row.params.needs for row in rows))
    top_logit, top = logits.max(dim=-1)  # [n]
    log_total = torch.logsumexp(logits, dim=-1)  # [n]
    missing = torch.full_like(top_logit, float("nan"))
    entropy = margin = missing
    if "entropy" in needs:
        log_probs = logits - log_total[:, None]
        entropy = -(log_probs.exp() * log_probs).nan_to_num(0.0).sum(dim=-1)  # [n], nats
    if "margin" in needs:
        two = (logits.topk(2, dim=-1).values - log_total[:, None]).exp()  # [n, 2]
        margin = two[:, 0] - two[:, 1]
    starts = [0, *accumulate(row.last for row in rows)]
    chosen, allowed = top.clone(), torch.ones_like(top_logit)
    for row, start, stop in zip(rows, starts, starts[1:], strict=False):
        if row.masks is not None:
            may = _bits(row.masks, logits)
            allowed[start:stop] = may.gather(1, top[start:stop, None])[:, 0].to(allowed.dtype)
            logits[start:stop].masked_fill_(~may, float("-inf"))
            chosen[start:stop] = logits[start:stop].argmax(dim=-1)
        if (how := row.params.sampling) is not None:
            first = row.past + len(row.tokens) - row.last + 1  # index in the text of the first token to choose
            chosen[start:stop] = torch.stack([sample(logits[at], how, first + at - start) for at in range(start, stop)])
    columns = [top, (top_logit - log_total).exp(), chosen, entropy, margin, allowed]
    numbers = torch.stack([column.double() for column in columns], dim=-1).tolist()  # [n, 6]
    return [
        [
            Prediction(
                int(top_id),
                prob,
                int(token),
                entropy_ if "entropy" in row.params.needs else None,
                margin_ if "margin" in row.params.needs else None,
                bool(may_),
            )
            for top_id, prob, token, entropy_, margin_, may_ in numbers[start:stop]
        ]
        for row, start, stop in zip(rows, starts, starts[1:], strict=False)
    ]


def _bits(masks: Sequence[bytes], logits: torch.Tensor) -> torch.Tensor:
    """Bit masks as booleans [n, vocabulary], on the logits' device; tokens beyond a mask are not allowed."""
    width = logits.shape[-1]
    packed = torch.frombuffer(bytearray(b"".join(masks)), dtype=torch.uint8).view(len(masks), -1)
    packed = packed[:, : -(-width // 8)].to(logits.device, non_blocking=True)
    each = torch.arange(8, device=logits.device, dtype=torch.uint8)
    bits = ((packed[:, :, None] >> each) & 1).bool().flatten(1)[:, :width]  # lowest bit first
    return torch.nn.functional.pad(bits, (0, width - bits.shape[1]))


#: How many of the most likely tokens are looked at first for ``top_p``.
_NUCLEUS = 256


def sample(logits: torch.Tensor, how: Sampling, position: int) -> torch.Tensor:
    """A token drawn from logits [vocabulary] by inverting the cumulative distribution.

    ``top_k`` and ``top_p`` look at as many of the most likely tokens as they need, on a CPU; without them the order of the
    ids serves as well as any.
    """
    scaled = logits / how.temperature
    if how.top_k is None and how.top_p >= 1:
        return _draw(scaled.double().softmax(dim=-1).cumsum(dim=-1), how, position)
    if how.top_k is not None:
        ranked, ids = scaled.topk(min(how.top_k, len(scaled)))
        return ids.gather(0, _draw(ranked.double().softmax(dim=-1).cumsum(dim=-1), how, position)[None])[0]
    log_total = scaled.double().logsumexp(dim=-1)
    size = min(len(scaled), _NUCLEUS) if scaled.device.type == "cpu" else len(scaled)  # elsewhere: never wait to look
    while True:
        ranked, ids = scaled.topk(size)
        cumulative = (ranked.double() - log_total).exp().cumsum(dim=-1)
        if size == len(scaled) or float(cumulative[-1]) >= how.top_p:
            return ids.gather(0, _draw(cumulative, how, position)[None])[0]
        size = min(8 * size, len(scaled))


def _draw(cumulative: torch.Tensor, how: Sampling, position: int) -> torch.Tensor:
    """Index drawn from a cumulative distribution [n], as far as it reaches ``top_p``; nothing is moved off its device."""
    last = (cumulative < how.top_p).sum().clamp(max=len(cumulative) - 1)  # the token that reaches top_p is kept
    number = how.number(position) * cumulative.gather(0, last[None])
    return torch.minimum(torch.searchsorted(cumulative, number, right=True)[0], last)


def _end_tokens(model: Any) -> list[int]:
    """Ids that end a text, from the generation config and the model's config."""
    found: list[int] = []
    for config in (getattr(model, "generation_config", None), model.config):
        value = getattr(config, "eos_token_id", None)
        found += [] if value is None else value if isinstance(value, list) else [value]
    return found


def _attends_by_name(model: Any, text_config: Any) -> bool:
    """Whether attention is looked up by name at every forward, and is of a kind that can be done text by text."""
    kinds = set(getattr(text_config, "layer_types", None) or ())
    return (
        bool(getattr(model, "_supports_attention_backend", False))
        and kinds <= {"full_attention", "sliding_attention"}
        and not _rope_types(text_config)
        & {"longrope", "dynamic"}  # their angles depend on the longest text in a forward
        and getattr(text_config, "attn_logit_softcapping", None) is None
        and hasattr(text_config, "_attn_implementation")
    )


def _rope_types(text_config: Any) -> set[str]:
    """Kinds of rotary embeddings; newer configs have one for each type of layer."""
    found = getattr(text_config, "rope_parameters", None) or getattr(text_config, "rope_scaling", None) or {}
    entries = [found, *(value for value in found.values() if isinstance(value, dict))]
    return {str(entry.get("rope_type", entry.get("type", ""))) for entry in entries}


def _layer_names(text_config: Any) -> frozenset[str]:
    """Class names of the cache layers that the model would use."""
    return frozenset(type(layer).__name__ for layer in DynamicCache(config=text_config).layers) or frozenset(
        {"DynamicLayer"}
    )


def _torch_dtype(dtype: str | torch.dtype) -> torch.dtype | Literal["auto"]:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        return "auto"
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype):
        raise ModelLoadError(f"dtype={dtype!r} is unknown; use 'auto', 'float32', 'bfloat16' or 'float16'.")
    return found


def _torch_device(device: str) -> torch.device:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise ModelLoadError(f"device={device!r} is unknown: {error}") from None


def _cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 in hardware; without it bfloat16 is slower than float32."""
    try:
        found = torch.cpu.get_capabilities()
    except AttributeError:  # older torch
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return bool(found.get("avx512_bf16") or found.get("amx_bf16") or found.get("bf16"))
