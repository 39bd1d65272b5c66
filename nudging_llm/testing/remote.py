"""A backend that answers from afar: later, in another order than asked, and with faults that it mends itself.

For tests of what stands above a ``ModelBackend``, and an example of one that is no engine: one thread plays the server. It keeps
no cache. Where it is told to, it also predicts a few tokens ahead of each query, as servers that stream do, so that later queries
are known already.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field

from ..decoding.costs import ForwardCosts
from ..engines.base import Capabilities, Counts
from ..protocol import Prediction, PredictionParams, Query
from ..text.tokenizer import TokenizerAdapter
from .fake_models import NextTokenModel


class ConnectionLost(Exception):
    """The server did not answer. The backend asks again."""


@dataclass
class _Waiting:
    """A query on its way."""

    source: FakeRemoteSource
    query: Query
    future: Future[Prediction] = field(default_factory=Future)
    tries: int = 0


class FakeRemoteBackend:
    """See ``ModelBackend``.

    Args:
        model: what predicts.
        seed: of the order in which queries are answered, and of the faults.
        faults: share of queries that are lost on their way and asked again, 0 … 1.
        ahead: how many tokens are predicted beyond each query, as the model itself would go on.
        capabilities: what it claims to be able to do. It never samples, nor follows a grammar.
        fails_after: so many queries are answered; the next ones end with ``ConnectionLost``. None: never.

    Attributes:
        queries: how many have been answered.
        most_waiting: how many waited at once, at most.
    """

    revision: str | None = None
    context_length: int | None = None
    vocabulary_size: int | None = None
    worker = None

    def __init__(
        self,
        model: NextTokenModel,
        seed: int = 0,
        faults: float = 0.0,
        ahead: int = 0,
        capabilities: Capabilities | None = None,
        fails_after: int | None = None,
    ) -> None:
        self.model, self.faults, self.ahead, self.fails_after = model, faults, ahead, fails_after
        self.name = f"remote-{model.kind}-{model.seed}"
        self.tokenizer: TokenizerAdapter = model.codec
        self.capabilities = capabilities or Capabilities(
            drafts=False, masks=False, sampling=False, statistics=frozenset()
        )
        self.costs = ForwardCosts(can_draft=self.capabilities.drafts)
        self.queries = self.most_waiting = 0
        self._rng = random.Random(seed)
        self._waiting: list[_Waiting] = []
        self._changed = threading.Condition()
        self._closed = False
        self._server: threading.Thread | None = None

    def open(self, prompt: Sequence[int], params: PredictionParams) -> FakeRemoteSource:
        """Begin a request."""
        return FakeRemoteSource(self)

    def clear(self) -> None:
        """Nothing is kept for later requests."""

    def close(self) -> None:
        """End the server's thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._server is not None:
            self._server.join()

    def _put(self, waiting: _Waiting) -> None:
        with self._changed:
            if self._server is None:
                self._server = threading.Thread(target=self._serve, name=self.name, daemon=True)
                self._server.start()
            self._waiting.append(waiting)
            self.most_waiting = max(self.most_waiting, len(self._waiting))
            self._changed.notify_all()

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                waiting = self._waiting.pop(self._rng.randrange(len(self._waiting)))
            self._answer(waiting)

    def _answer(self, waiting: _Waiting) -> None:
        if waiting.tries == 0 and not waiting.future.set_running_or_notify_cancel():
            return
        if waiting.tries < 3 and self._rng.random() < self.faults:  # lost: ask again
            waiting.tries += 1
            self._put(waiting)
            return
        self.queries += 1
        if self.fails_after is not None and self.queries > self.fails_after:
            waiting.future.set_exception(ConnectionLost(f"{self.name} does not answer. Is it running?"))
            return
        tokens, found = list(waiting.query.tokens), []
        for _ in range(1 + self.ahead):
            token, prob = self.model.next(tokens)
            found.append(Prediction(token, prob, token))
            tokens.append(token)
        waiting.source.keep(waiting.query.tokens, found)
        waiting.future.set_result(found[0])


class FakeRemoteSource:
    """One request's queries. See ``PredictionSource``."""

    def __init__(self, backend: FakeRemoteBackend) -> None:
        self.counts = Counts()
        self._backend = backend
        self._known: dict[tuple[int, ...], Prediction] = {}

    def keep(self, tokens: Sequence[int], predictions: Sequence[Prediction]) -> None:
        """The server predicted these after ``tokens``, each after the choice before it."""
        prefix = tuple(tokens)
        for prediction in predictions:
            self._known[prefix] = prediction
            prefix = (*prefix, prediction.token)

    def known(self, query: Query) -> Prediction | None:
        return self._known.get(tuple(query.tokens))

    def submit(self, query: Query) -> Future[Prediction]:
        waiting = _Waiting(self, query)
        self.counts.forwards += 1
        self.counts.forward_tokens += len(query.tokens)
        self._backend._put(waiting)
        return waiting.future

    def withdraw(self, future: Future[Prediction]) -> None:
        if not future.cancel():
            wait([future])

    def close(self) -> None:
        self._known = {}
