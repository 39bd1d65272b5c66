"""A model in this process as a ``ModelBackend``: an engine, with a prefix cache and a batcher."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, wait
from typing import cast

from ..decoding.costs import ForwardCosts
from ..engines.base import Capabilities, Counts, Engine, ModelBackend
from ..protocol import Prediction, PredictionParams, Query
from ..text.tokenizer import TokenizerAdapter
from .batcher import Batcher, Job
from .prefix_cache import PrefixCache


class LocalBackend:
    """See ``ModelBackend``.

    Args:
        engine: the model.
        cache_slots: most idle sessions kept for later requests.
        cache_bytes: most memory of their key-value caches; the least recently used goes first.
        batch_size: most requests that share a forward.
    """

    def __init__(self, engine: Engine, cache_slots: int = 8, cache_bytes: int = 2**30, batch_size: int = 8) -> None:
        self.engine = engine
        self.worker = Batcher(PrefixCache(engine, cache_slots, cache_bytes), batch_size)

    @property
    def name(self) -> str:
        return self.engine.name

    @property
    def revision(self) -> str | None:
        return self.engine.revision

    @property
    def context_length(self) -> int | None:
        return self.engine.context_length

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(drafts=self.engine.can_crop)

    @property
    def tokenizer(self) -> TokenizerAdapter:
        return self.engine.tokenizer

    @property
    def vocabulary_size(self) -> int | None:
        return self.engine.vocabulary_size

    @property
    def costs(self) -> ForwardCosts:
        return self.worker.costs

    def open(self, prompt: Sequence[int], params: PredictionParams) -> LocalSource:
        """Begin a request; nothing is computed before its first query."""
        return LocalSource(self.worker, params)

    def clear(self) -> None:
        """Drop all idle sessions and their memory."""
        self.worker.cache.clear()

    def close(self) -> None:
        """Drop all idle sessions; the engine belongs to whoever made it."""
        self.clear()


class LocalSource:
    """One request's session. See ``PredictionSource``."""

    def __init__(self, batcher: Batcher, params: PredictionParams) -> None:
        self._batcher, self._params = batcher, params
        self._session = batcher.cache.acquire()

    @property
    def counts(self) -> Counts:
        return self._session.counts

    def known(self, query: Query) -> Prediction | None:
        return self._session.remembered(query.tokens, self._params)

    def submit(self, query: Query) -> Job:
        return self._batcher.submit(self._session, query, self._params)

    def withdraw(self, future: Future[Prediction]) -> None:
        if not future.cancel():
            wait([future])

    def close(self) -> None:
        self._batcher.cache.release(self._session)


def as_backend(model: ModelBackend | Engine, cache_slots: int, cache_bytes: int, batch_size: int) -> ModelBackend:
    """A backend as it is; an engine as a backend with the given cache and batches."""
    if hasattr(model, "open"):
        return cast(ModelBackend, model)
    return LocalBackend(model, cache_slots, cache_bytes, batch_size)
