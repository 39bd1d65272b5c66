"""Gates: when is the base model sure enough to write by itself?

A gate looks at one ``Prediction`` (always the raw distribution, temperature 1) and a threshold. The paper's gate
(section 3.1) is the top-1 probability; entropy and margin are the obvious rivals, offered for comparison.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from ..errors import ConfigError, nearest
from ..protocol import Prediction


@runtime_checkable
class Gate(Protocol):
    """Anything with this one method can be ``NudgingConfig.gate``.

    A gate that reads ``entropy`` or ``margin`` says so in an attribute ``needs``, a set of those names.
    """

    def confident(self, prediction: Prediction, threshold: float) -> bool:
        """Whether the base model may write here by itself."""
        ...


class Top1Gate:
    """The paper's gate: sure where the top-1 probability is at least γ."""

    def confident(self, prediction: Prediction, threshold: float) -> bool:
        return prediction.prob >= threshold


class EntropyGate:
    """Sure where the entropy, in nats, is at most the threshold (so a *lower* threshold nudges more)."""

    needs = frozenset({"entropy"})

    def confident(self, prediction: Prediction, threshold: float) -> bool:
        assert prediction.entropy is not None
        return prediction.entropy <= threshold


class MarginGate:
    """Sure where the top-1 probability leads the second by at least the threshold."""

    needs = frozenset({"margin"})

    def confident(self, prediction: Prediction, threshold: float) -> bool:
        assert prediction.margin is not None
        return prediction.margin >= threshold


GATES: dict[str, Gate] = {"top1": Top1Gate(), "entropy": EntropyGate(), "margin": MarginGate()}


def resolve_gate(gate: Any) -> Gate:
    """The gate object for a name or an object.

    Raises:
        ConfigError: an unknown name, or an object without ``confident``.
    """
    if isinstance(gate, str):
        if gate not in GATES:
            raise ConfigError(f"gate={gate!r} is unknown; one of {', '.join(GATES)}.{nearest(gate, GATES)}")
        return GATES[gate]
    if isinstance(gate, Gate):
        return gate
    raise ConfigError(
        f"gate={gate!r} must be one of {', '.join(GATES)} or have a method confident(prediction, threshold)"
    )


def gate_name(gate: str | Gate) -> str:
    """The name under which a gate is recorded."""
    return gate if isinstance(gate, str) else type(gate).__name__
