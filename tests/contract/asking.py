"""Asking a layer in one of the ways, watching what is computed meanwhile, and comparing what comes back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from nudging_llm import NudgingGenerator, Provenance
from nudging_llm.engines.base import Row
from nudging_llm.protocol import Prediction

from .layers import Answer, Layer, Messages


async def asked(model: Layer, way: str, messages: Messages, **options: Any) -> Answer:
    """The answer, in one of the ways."""
    if way == "ask":
        return model.ask(messages, **options)
    if way == "stream":
        return model.join(list(model.stream(messages, **options)))
    if way == "aask":
        return await model.aask(messages, **options)
    return model.join([part async for part in model.astream(messages, **options)])


def user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


class Watch:
    """Sees each forward of a pair, as the texts of its rows; can be told to do something before each."""

    def __init__(self, generator: NudgingGenerator) -> None:
        self.forwards: list[list[str]] = []
        self.before: Callable[[int], None] = lambda count: None
        for engine in (generator.base.engine, generator.nudging.engine):
            engine.forward = self._watched(engine, engine.forward)

    def _watched(self, engine: Any, forward: Any) -> Any:
        def watched(rows: Sequence[Row]) -> list[list[Prediction]]:
            self.forwards.append([engine.tokenizer.decode([*row.cache, *row.tokens]) for row in rows])
            self.before(len(self.forwards))
            return forward(rows)

        return watched

    def about(self, text: str) -> int:
        """How many forwards a prompt with this text took part in."""
        return sum(any(text in row for row in rows) for rows in self.forwards)


def outcome(record: Provenance | None) -> dict[str, Any]:
    """What a record says apart from its pieces, its times, and the number of guesses, which depends on times."""
    assert record is not None
    found = record.model_dump(exclude={"pieces", "first_piece_s", "total_s", "grammar_s"})
    for model in ("base", "nudging"):
        for name in ("forwards", "forward_tokens", "drafted", "accepted", "seconds"):
            found[model].pop(name)
    return found
