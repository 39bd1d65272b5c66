"""Key-value caches of the local engine: one that grows in place, and a forward over several of them at once.

``GrowingLayer`` writes new keys and values into storage with room to spare, so that a token costs the same at any length
(``DynamicCache`` copies everything at every token), and going back is a change of one number.

``PackedRows`` evaluates several texts in one forward without padding: their new tokens stand in one row [1, n], every
linear layer sees them all at once, and attention, which alone must keep them apart, is done text by text over each
one's own cache. transformers takes such an attention by name (its ``AttentionInterface``).

Knows tensors and transformers' cache protocol; leaves tokens and predictions to ``transformers.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.cache_utils import Cache, DynamicLayer

from .base import CannotPackError

#: Name under which transformers finds ``_packed_attention``.
PACKED = "nudging_packed"
#: Queries of one text that are attended at once: bounds the size of the mask.
_QUERIES = 1024
_LEAST_SPARE, _MOST_SPARE = 64, 2048  # positions


class GrowingLayer(DynamicLayer):
    """One layer's keys and values, [1, heads, capacity, head size] of which the first ``length`` positions count."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.length = 0
        self._keys: torch.Tensor | None = None
        self._values: torch.Tensor | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append [1, heads, n, head size] of each; returns everything so far, as views."""
        end = self.length + key_states.shape[-2]
        self._keys = self._with_room(self._keys, key_states, end)
        self._values = self._with_room(self._values, value_states, end)
        self._keys[..., self.length : end, :] = key_states
        self._values[..., self.length : end, :] = value_states
        self.length, self.is_initialized = end, True
        return self._keys[..., :end, :], self._values[..., :end, :]

    def get_seq_length(self) -> int:
        return self.length

    def crop(self, tokens_to_remove: int) -> None:
        """Drop ``-tokens_to_remove`` positions (transformers' sign)."""
        self.length += tokens_to_remove

    def prefix(self, length: int) -> GrowingLayer:
        """A copy of the first ``length`` positions."""
        copy = GrowingLayer()
        if self._keys is not None and self._values is not None:
            copy.update(self._keys[..., :length, :], self._values[..., :length, :])
        return copy

    def _with_room(self, store: torch.Tensor | None, like: torch.Tensor, end: int) -> torch.Tensor:
        if store is not None and store.shape[-2] >= end:
            return store
        spare = max(_LEAST_SPARE, min(end // 4, _MOST_SPARE))
        grown = like.new_empty(*like.shape[:-2], end + spare, like.shape[-1])
        if store is not None:
            grown[..., : self.length, :] = store[..., : self.length, :]
        return grown


def growing_cache() -> Cache:
    """An empty cache of growing layers, one for each layer that a model brings."""
    return Cache(layer_class_to_replicate=GrowingLayer)


def copy_prefix(cache: Cache, length: int) -> Cache:
    """A cache of its own with the first ``length`` positions of ``cache``."""
    copy = growing_cache()
    copy.layers = [layer.prefix(length) for layer in cache.layers if isinstance(layer, GrowingLayer)]
    return copy


def cache_bytes(cache: Any) -> int:
    """Memory of all tensors that a cache's layers hold, of whatever kind they are."""
    layers = getattr(cache, "layers", [cache])
    return sum(value.nbytes for layer in layers for value in vars(layer).values() if isinstance(value, torch.Tensor))


class PackedRows:
    """Stands in for the cache in a packed forward: hands each text's keys and values to its own cache.

    Args:
        caches: one for each text.
        lengths: how many new tokens each text has, in the order in which they stand in the input.
    """

    is_compileable = False

    def __init__(self, caches: Sequence[Cache], lengths: Sequence[int]) -> None:
        self._caches, self.lengths = caches, lengths
        self._masks: dict[tuple[int, int, int | None, torch.device], torch.Tensor] = {}

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[PackedRows, list[tuple[torch.Tensor, torch.Tensor]]]:
        """Append; returns itself in place of the keys, and each text's keys and values in place of the values."""
        parts = zip(key_states.split(self.lengths, dim=-2), value_states.split(self.lengths, dim=-2), strict=True)
        return self, [
            cache.update(keys, values, layer_idx) for cache, (keys, values) in zip(self._caches, parts, strict=True)
        ]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Not the length of any one text: positions are given with the input."""
        return 0

    def mask(self, queries: int, keys: int, window: int | None, device: torch.device) -> torch.Tensor:
        """Which of ``keys`` positions the last ``queries`` of them may see, [queries, keys]."""
        name = (queries, keys, window, device)
        if name not in self._masks:
            key = torch.arange(keys, device=device)
            query = torch.arange(keys - queries, keys, device=device)[:, None]
            allowed = key <= query
            self._masks[name] = allowed if window is None else allowed & (key > query - window)
        return self._masks[name]


def _packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: PackedRows,
    value: list[tuple[torch.Tensor, torch.Tensor]],
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention, text by text. Shapes: query [1, heads, n of all texts, size]; result [1, n of all texts, heads, size]."""
    if any(kwargs.get(name) is not None for name in ("softcap", "s_aux", "position_bias")):
        raise CannotPackError("this model's attention is not packed")
    if sliding_window is None and _slides(module):
        raise CannotPackError("this model tells its window by the mask only")
    found = []
    for mine, (keys, values) in zip(query.split(key.lengths, dim=2), value, strict=True):
        left = mine.shape[2]
        for part in mine.split(_QUERIES, dim=2):
            left -= part.shape[2]
            found.append(_attend(part, keys, values, key, scaling, sliding_window, left))
    return torch.cat(found, dim=2).transpose(1, 2).contiguous(), None


def _attend(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    rows: PackedRows,
    scaling: float | None,
    window: int | None,
    after: int,
) -> torch.Tensor:
    """Attention of a part of one text's queries, after which ``after`` more tokens of it follow."""
    n, stop = query.shape[2], keys.shape[2] - after
    start = 0 if window is None else max(0, stop - n + 1 - window)
    keys, values = keys[:, :, start:stop], values[:, :, start:stop]
    heads, groups = query.shape[1], query.shape[1] // keys.shape[1]
    if n == 1:  # heads that share their keys stand side by side as queries: no mask, nothing repeated
        shared = query.reshape(1, keys.shape[1], groups, -1)
        return scaled_dot_product_attention(shared, keys, values, scale=scaling).reshape(1, heads, 1, -1)
    if query.device.type != "cpu" and groups > 1:  # with a mask, kernels that share keys fall back to a slow one there
        keys, values = keys.repeat_interleave(groups, dim=1), values.repeat_interleave(groups, dim=1)
    fresh = n == stop and (window is None or n <= window)  # plainly causal: no mask to make
    mask = None if fresh else rows.mask(n, stop - start, window, query.device)
    gqa = heads != keys.shape[1]
    return scaled_dot_product_attention(
        query, keys, values, attn_mask=mask, is_causal=fresh, scale=scaling, enable_gqa=gqa
    )


def _slides(module: torch.nn.Module) -> bool:
    """Whether the config says that this layer has a sliding window."""
    config = getattr(module, "config", None)
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return bool(kinds[getattr(module, "layer_idx", 0)] == "sliding_attention")
    return getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)


AttentionInterface.register(PACKED, _packed_attention)


@contextmanager
def packed_attention(config: Any) -> Iterator[None]:
    """The model with this (text) config attends text by text meanwhile."""
    before = config._attn_implementation
    config._attn_implementation = PACKED
    try:
        yield
    finally:
        config._attn_implementation = before
