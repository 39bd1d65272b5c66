"""The border to models: what a request needs of one, whoever computes.

``ModelBackend`` is that border. Above it nobody knows where a prediction comes from. Two ways lead to it:

- an ``Engine``, which evaluates tokens in this process over a cache of its own, becomes one with the prefix cache and the
  scheduler of ``runtime/`` (``runtime/local.py``);
- a server that predicts elsewhere implements ``ModelBackend`` directly.

Knows tokens and predictions; nothing of text, of nudging or of answers.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ..decoding.costs import ForwardCosts
from ..protocol import Prediction, PredictionParams, Query

if TYPE_CHECKING:
    from ..text.tokenizer import TokenizerAdapter


# -- what a request needs of a model ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a model can do besides predicting its most likely token. What it cannot is refused before any compute.

    Attributes:
        drafts: whether guesses are evaluated together with a query, so that right ones save time.
        masks: whether its choice can be held to a grammar.
        sampling: whether it samples with the request's own random numbers (``Sampling``).
        statistics: further statistics of its distribution that it gives: "entropy", "margin".
    """

    drafts: bool = True
    masks: bool = True
    sampling: bool = True
    statistics: frozenset[str] = frozenset({"entropy", "margin"})


@dataclass(slots=True)
class Counts:
    """What one request cost on one model.

    Attributes:
        forwards: calls of the model that it took part in.
        forward_tokens: tokens of its own evaluated in them.
        drafted: tokens among those that were guesses.
        accepted: guesses whose prediction was asked for afterwards.
        reused: prompt tokens that another request had evaluated.
        seconds: time inside the model's forwards, statistics included; of a shared forward, its share.
    """

    forwards: int = 0
    forward_tokens: int = 0
    drafted: int = 0
    accepted: int = 0
    reused: int = 0
    seconds: float = 0.0


class QueryInterrupted(Exception):
    """Whoever was answering a query was interrupted (Ctrl-C) and has not answered it: ask again."""


class PredictionSource(Protocol):
    """One model's answers to the queries of one request, which come one at a time."""

    @property
    def counts(self) -> Counts:
        """What the request has cost so far."""
        ...

    def known(self, query: Query) -> Prediction | None:
        """The answer, if it takes no compute and no waiting."""
        ...

    def submit(self, query: Query) -> Future[Prediction]:
        """The answer, later. Where the backend has a ``worker``, somebody must let it work until the future is done.

        The future raises ``QueryInterrupted`` if the query must be asked again; any other error ends the request.
        """
        ...

    def withdraw(self, future: Future[Prediction]) -> None:
        """Nobody waits for this answer any more. Returns when nobody computes it; at once if it is there."""
        ...

    def close(self) -> None:
        """The request is over, nothing is computed for it. Never waits: an abandoned stream may call this while the garbage is
        collected."""
        ...


class Worker(Protocol):
    """Compute that runs in the threads of those who wait for it."""

    @property
    def lock(self) -> threading.Lock:
        """Held by whoever lets it work."""
        ...

    @property
    def device(self) -> str:
        """Where it computes: workers on one device only wait for each other."""
        ...

    @property
    def waiting(self) -> int:
        """Queries that nobody has begun to answer."""
        ...

    @property
    def urgency(self) -> tuple[bool, float]:
        """Whether a query has waited too long; answers per second, if the waiting ones were answered now."""
        ...

    def work(self) -> int:
        """Answer queries that wait, as many as one forward holds; returns how many. The caller holds ``lock``."""
        ...


class ModelBackend(Protocol):
    """One model, as requests see it. Used from any thread.

    Attributes:
        name: how to call it in records and errors.
        revision: of its weights, if known.
        context_length: tokens of prompt and answer that it holds; None if unlimited.
        capabilities: what it can do.
        tokenizer: text to tokens and back, and the chat template.
        vocabulary_size: token ids that the model knows; None if not known.
        costs: what its forwards take, so that as many guesses are made as pay.
        worker: what computes, if that runs in the threads of those who wait; None if answers come by themselves.
    """

    @property
    def name(self) -> str: ...

    @property
    def revision(self) -> str | None: ...

    @property
    def context_length(self) -> int | None: ...

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def tokenizer(self) -> TokenizerAdapter: ...

    @property
    def vocabulary_size(self) -> int | None: ...

    @property
    def costs(self) -> ForwardCosts: ...

    @property
    def worker(self) -> Worker | None: ...

    def open(self, prompt: Sequence[int], params: PredictionParams) -> PredictionSource:
        """Begin a request.

        Args:
            prompt: its prompt's tokens, with which every query will begin.
            params: how its predictions are made.
        """
        ...

    def clear(self) -> None:
        """Forget what is kept for later requests, and free its memory."""
        ...

    def close(self) -> None:
        """No more requests will come: let go what the backend holds."""
        ...


# -- models in this process -------------------------------------------------------------------------------------------


class CannotPackError(RuntimeError):
    """The model does not evaluate several rows in one forward. Never reaches a user: rows go one by one then."""


@dataclass(frozen=True, slots=True)
class Row:
    """One text's part in a forward.

    Attributes:
        cache: of the text; it grows by ``tokens``.
        tokens: to evaluate, at least one.
        past: how many tokens the cache holds already.
        last: after how many of ``tokens``, counted from the end, predictions are wanted.
        params: how they are made.
        masks: for each of these predictions the tokens that may be chosen, one bit each from the lowest; None: any.
    """

    cache: Any
    tokens: Sequence[int]
    past: int
    last: int
    params: PredictionParams
    masks: Sequence[bytes] | None = None


class Engine(Protocol):
    """One loaded model. Whoever calls ``forward`` or touches a cache, from any thread, holds ``lock``.

    An engine can do all that ``Capabilities`` name: ``forward`` keeps to a row's masks, samples as its parameters say, and gives
    the entropy and margin where they ask for them. A model that cannot is a ``ModelBackend`` that says so.
    """

    name: str
    revision: str | None
    context_length: int | None  # tokens, None if unlimited
    tokenizer: TokenizerAdapter
    vocabulary_size: int | None  # token ids that the model knows, None if not known
    lock: threading.Lock
    can_crop: bool  # whether ``crop`` and ``copy_prefix`` restore a cache exactly
    can_pack: bool  # whether one forward evaluates several rows

    @property
    def device(self) -> Any:
        """Where it computes; printed in records, and compared."""
        ...

    def new_cache(self) -> Any:
        """An empty cache."""
        ...

    def forward(self, rows: Sequence[Row]) -> list[list[Prediction]]:
        """Evaluate the rows in one forward; several only if ``can_pack``.

        Returns, for each row, the predictions after each of its last ``last`` tokens, in order.

        Raises:
            OutOfMemoryError: as any error, it leaves the caches of the rows in no known state.
            CannotPackError: the model turned out not to evaluate several rows.
        """
        ...

    def crop(self, cache: Any, drop: int) -> None:
        """Remove the last ``drop`` tokens from ``cache``. Only called if ``can_crop``."""
        ...

    def copy_cache(self, cache: Any) -> Any:
        """A copy that later forwards leave alone. Only called unless ``can_crop``."""
        ...

    def copy_prefix(self, cache: Any, length: int) -> Any:
        """A cache of its own with the first ``length`` tokens. Only called if ``can_crop``."""
        ...

    def cache_bytes(self, cache: Any) -> int:
        """Memory that a cache holds."""
        ...
