"""Gates: when is the base model sure enough to write by itself?

A gate looks at one ``Prediction`` (always the raw distribution, temperature 1) and a threshold. The paper's gate
(arXiv 2410.09300, section 3.1) is the top-1 probability; entropy and margin are the obvious rivals, offered for comparison.
A gate owns its threshold: which values it may have, which one is used where the user names none, and whether a higher one
means more nudging or less.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Protocol, runtime_checkable

from ..errors import ConfigError, nearest
from ..protocol import Prediction

#: The threshold of a gate that names none: the paper's.
PAPER_THRESHOLD = 0.4


@runtime_checkable
class Gate(Protocol):
    """Anything with this one method can be ``NudgingConfig.gate``. A gate may also have any of these attributes.

    Attributes:
        needs: names of the statistics that it reads besides ``prob``: "entropy", "margin". Default: none.
        default_threshold: used where the configuration names no threshold. Default: 0.4.
        threshold_range: the lowest and the highest threshold that make sense. Default: 0 and infinity.
        threshold_help: a sentence that says what the threshold is; errors quote it.
        higher_nudges_more: whether a higher threshold means more nudging. Default: True.
        name: under which records name the gate. Default: the name of its class.

    Examples:
        >>> class SureOrLate:
        ...     default_threshold = 0.3
        ...     threshold_range = (0.0, 1.0)
        ...
        ...     def confident(self, prediction, threshold):
        ...         return prediction.prob >= threshold
        >>> from nudging_llm import NudgingConfig
        >>> NudgingConfig(gate=SureOrLate()).threshold
        0.3
    """

    def confident(self, prediction: Prediction, threshold: float) -> bool:
        """Whether the base model may write here by itself."""
        ...


class BuiltInGate(ABC):
    """What the built-in gates share: a threshold of their own, and equality by it.

    Args:
        threshold: in place of the gate's usual one.

    Raises:
        ConfigError: it is no number, or outside the gate's range.
    """

    name: str
    needs: frozenset[str] = frozenset()
    default_threshold: float
    threshold_range: tuple[float, float]
    threshold_help: str
    higher_nudges_more = True

    def __init__(self, threshold: float | None = None) -> None:
        if threshold is not None:
            if not isinstance(threshold, (int, float)):
                raise ConfigError(f"{type(self).__name__}(threshold={threshold!r}): give a number.")
            check_threshold(self, threshold)
            self.default_threshold = float(threshold)

    @abstractmethod
    def confident(self, prediction: Prediction, threshold: float) -> bool:
        """See ``Gate``."""

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.default_threshold == self.default_threshold

    def __hash__(self) -> int:
        return hash((type(self), self.default_threshold))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.default_threshold:g})"


class Top1Gate(BuiltInGate):
    """The paper's gate: sure where the top-1 probability is at least γ."""

    name = "top1"
    default_threshold = PAPER_THRESHOLD
    threshold_range = (0.0, 2.0)
    threshold_help = "It is a probability, not a percentage."

    def confident(self, prediction: Prediction, threshold: float) -> bool:
        return prediction.prob >= threshold


class EntropyGate(BuiltInGate):
    """Sure where the entropy, in nats, is at most the threshold: a *lower* threshold nudges more."""

    name = "entropy"
    needs = frozenset({"entropy"})
    default_threshold = 2.5  # on the starter pair as many places are above it as are below γ = 0.4 (docs/decisions.md)
    threshold_range = (0.0, 20.0)
    threshold_help = "It is an entropy in nats, and a lower one nudges more."
    higher_nudges_more = False

    def confident(self, prediction: Prediction, threshold: float) -> bool:
        assert prediction.entropy is not None
        return prediction.entropy <= threshold


class MarginGate(BuiltInGate):
    """Sure where the top-1 probability leads the second by at least the threshold."""

    name = "margin"
    needs = frozenset({"margin"})
    default_threshold = 0.2
    threshold_range = (0.0, 2.0)
    threshold_help = "It is a difference of two probabilities, not of percentages."

    def confident(self, prediction: Prediction, threshold: float) -> bool:
        assert prediction.margin is not None
        return prediction.margin >= threshold


GATES: dict[str, Gate] = {"top1": Top1Gate(), "entropy": EntropyGate(), "margin": MarginGate()}


def resolve_gate(gate: Any) -> Gate:
    """The gate object for a name or an object.

    Raises:
        ConfigError: an unknown name, a class in place of a gate, or an object without ``confident``.
    """
    if isinstance(gate, str):
        if gate not in GATES:
            raise ConfigError(f"gate={gate!r} is unknown; one of {', '.join(GATES)}.{nearest(gate, GATES)}")
        return GATES[gate]
    if isinstance(gate, type) and hasattr(gate, "confident"):
        raise ConfigError(f"gate={gate.__name__} is a class: give a gate, such as {gate.__name__}().")
    if isinstance(gate, Gate):
        return gate
    raise ConfigError(
        f"gate={gate!r} must be one of {', '.join(GATES)} or have a method confident(prediction, threshold)"
    )


def gate_name(gate: str | Gate) -> str:
    """The name under which a gate is recorded."""
    name = gate if isinstance(gate, str) else getattr(gate, "name", None)
    return name if isinstance(name, str) else type(gate).__name__


def default_threshold(gate: str | Gate) -> float:
    """The threshold that is used where the configuration names none."""
    return float(getattr(resolve_gate(gate), "default_threshold", PAPER_THRESHOLD))


def higher_nudges_more(gate: str | Gate) -> bool:
    """Whether a higher threshold means more nudging."""
    return bool(getattr(resolve_gate(gate), "higher_nudges_more", True))


def check_threshold(gate: str | Gate, threshold: float) -> None:
    """Refuse a threshold that the gate cannot have.

    Raises:
        ConfigError: naming the value, the range and the gate.
    """
    low, high = getattr(resolve_gate(gate), "threshold_range", (0.0, math.inf))
    if not low <= threshold <= high:
        said = getattr(resolve_gate(gate), "threshold_help", "")
        raise ConfigError(
            f"threshold={threshold:g} is outside {low:g} … {high:g} for gate {gate_name(gate)!r}. {said}".rstrip()
        )
