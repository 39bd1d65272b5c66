"""The local engine: a transformers causal language model with its key-value cache.

Traps, each seen on transformers 5.x:
- A ``DynamicCache()`` made *without* the model's config keeps full length for sliding-window layers, so that it can be
  cropped; one made with the config refuses to crop past the window. The model's masks are right either way.
- ``crop(-n)`` drops the last n positions.
- With bf16 the number of tokens in a forward changes rounding; argmax near-ties can flip. float32 does not show it.
"""

from __future__ import annotations

import copy
import inspect
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from ..errors import ModelError, ModelLoadError, OutOfMemoryError, TokenizerMismatchError
from ..gates import Prediction
from ..tokenization import TextCodec
from . import Sampling, Want

#: Cache layers that ``DynamicCache()`` without a config replaces by croppable full-length ones.
_CROPPABLE_LAYERS = frozenset({"DynamicLayer", "DynamicSlidingWindowLayer"})
_SHARED_WITH_TOKENIZER = frozenset({"revision", "trust_remote_code", "token", "cache_dir", "local_files_only"})
_TOO_LARGE = ("out of memory", "can't allocate memory", "not enough memory")


class TransformersEngine:
    """A loaded model, its tokenizer and its text codec.

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
        self.model, self.tokenizer = model.eval(), tokenizer
        self.revision: str | None = getattr(config, "_commit_hash", None)
        text_config = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
        self.context_length: int | None = getattr(text_config, "max_position_embeddings", None)
        self._embeddings = model.get_input_embeddings().weight
        self.codec = TextCodec(tokenizer, self.name, _end_tokens(model), owned)
        #: How many token ids the model knows; None if a quantiser has packed its embeddings.
        self.rows: int | None = self._embeddings.shape[0] if self._embeddings.ndim == 2 else None
        self._check_vocabulary()
        parameters = inspect.signature(model.forward).parameters
        self._keeps_logits = "logits_to_keep" in parameters
        self._cache_argument = "cache_params" if "cache_params" in parameters else "past_key_values"
        layers = _layer_names(text_config)
        self.can_crop = layers <= _CROPPABLE_LAYERS
        self._cache_config = None if self.can_crop else text_config
        self.lock = threading.Lock()

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
            raise ModelLoadError(
                f"{source} could not be loaded: {error}\nGive a hub id, or a local folder with config.json, "
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
        return DynamicCache(config=self._cache_config) if self._cache_config is not None else DynamicCache()

    def forward(self, cache: Any, tokens: Sequence[int], past: int, last: int, want: Want) -> list[Prediction]:
        with torch.inference_mode():
            try:
                ids = torch.tensor([tokens], device=self.device)  # [1, n]
                keep = {"logits_to_keep": last} if self._keeps_logits else {}
                output = self.model(input_ids=ids, use_cache=True, **{self._cache_argument: cache}, **keep)
                logits = output.logits[0, -last:].float()  # [last, vocabulary]
                return _statistics(logits, past + len(tokens) - last + 1, want)
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
            f"{self.name}: evaluating {len(tokens):,} tokens after {past:,} did not fit into memory on {self.device} "
            f"({detail}). Shorten the prompt, or load the model in a smaller dtype."
        )

    def crop(self, cache: Any, drop: int) -> None:
        cache.crop(-drop)

    def copy_cache(self, cache: Any) -> Any:
        with torch.inference_mode():
            return copy.deepcopy(cache)

    def _check_vocabulary(self) -> None:
        rows = self.rows
        if rows is None:
            return
        codec = self.codec
        beyond = [token for token in range(rows, codec.size) if token not in codec.control_tokens]
        if beyond or codec.size < 0.8 * rows:
            raise TokenizerMismatchError(
                f"The tokenizer has {codec.size:,} tokens and {self.name} has embeddings for {rows:,}: they do not belong "
                "together. Pass the tokenizer that this model was trained with."
            )


def _statistics(logits: torch.Tensor, position: int, want: Want) -> list[Prediction]:
    """Predictions from logits [n, vocabulary] (float32); the first one is for the token at index ``position``.

    One small transfer: everything is reduced on the logits' device to [n, 5] numbers (float64 holds ids exactly).
    """
    top_logit, top = logits.max(dim=-1)  # [n]
    log_total = torch.logsumexp(logits, dim=-1)  # [n]
    missing = torch.full_like(top_logit, float("nan"))
    entropy = margin = missing
    if "entropy" in want.needs:
        log_probs = logits - log_total[:, None]
        entropy = -(log_probs.exp() * log_probs).nan_to_num(0.0).sum(dim=-1)  # [n], nats
    if "margin" in want.needs:
        two = (logits.topk(2, dim=-1).values - log_total[:, None]).exp()  # [n, 2]
        margin = two[:, 0] - two[:, 1]
    chosen = top
    if want.sampling is not None:
        chosen = torch.stack([_sample(row, want.sampling, position + i) for i, row in enumerate(logits)])
    columns = [top, (top_logit - log_total).exp(), chosen, entropy, margin]
    rows = torch.stack([column.double() for column in columns], dim=-1).tolist()  # [n, 5]
    return [
        Prediction(
            int(top_id),
            prob,
            int(token),
            entropy_ if "entropy" in want.needs else None,
            margin_ if "margin" in want.needs else None,
        )
        for top_id, prob, token, entropy_, margin_ in rows
    ]


def _sample(logits: torch.Tensor, how: Sampling, position: int) -> torch.Tensor:
    """A token drawn from logits [vocabulary] by inverting the cumulative distribution of the most likely tokens."""
    ranked, ids = (logits / how.temperature).sort(descending=True, stable=True)
    if how.top_k is not None:
        ranked, ids = ranked[: how.top_k], ids[: how.top_k]
    cumulative = ranked.softmax(dim=-1).double().cumsum(dim=-1)
    kept = int((cumulative < how.top_p).sum()) + 1  # the token that reaches top_p is kept
    kept = min(kept, len(ids))
    drawn = how.number(position) * cumulative[kept - 1]
    at = torch.searchsorted(cumulative[:kept], drawn, right=True).clamp(max=kept - 1)
    return ids[at]


def _end_tokens(model: Any) -> list[int]:
    """Ids that end a text, from the generation config and the model's config."""
    found: list[int] = []
    for config in (getattr(model, "generation_config", None), model.config):
        value = getattr(config, "eos_token_id", None)
        found += [] if value is None else value if isinstance(value, list) else [value]
    return found


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
