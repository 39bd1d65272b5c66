"""Gates own their thresholds: defaults, ranges and direction; a gate of a user's own, from outside the package, decides."""

from __future__ import annotations

from typing import Any

import pytest

from nudging_llm import ConfigError, EntropyGate, Gate, MarginGate, NudgingConfig, Prediction, Reason, Top1Gate
from nudging_llm.decoding.gates import GATES, gate_name
from nudging_llm.testing.scripted import scripted_pair

ANSWER = "One two three four five six seven eight nine ten and so on."


class Contrary:
    """As a user would write it, with every attribute that a gate may have: sure where the paper's gate is not."""

    name = "contrary"
    default_threshold = 0.8
    threshold_range = (0.5, 1.0)
    threshold_help = "Give at least a half."
    higher_nudges_more = False

    def confident(self, prediction: Prediction, threshold: float) -> bool:
        return prediction.prob <= threshold


class Bare:
    """With the one method that a gate must have."""

    def __init__(self) -> None:
        self.thresholds: list[float] = []

    def confident(self, prediction: Prediction, threshold: float) -> bool:
        self.thresholds.append(threshold)
        return True


# -- thresholds -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gate", "threshold"),
    [
        ("top1", 0.4),
        ("entropy", 2.5),
        ("margin", 0.2),
        (Top1Gate(0.3), 0.3),
        (EntropyGate(2), 2.0),
        (MarginGate(threshold=0.1), 0.1),
        (Contrary(), 0.8),
        (Bare(), 0.4),
    ],
    ids=lambda value: str(value) if not isinstance(value, (Contrary, Bare)) else type(value).__name__,
)
def test_a_gate_comes_with_its_threshold(gate: Any, threshold: float) -> None:
    assert NudgingConfig(gate=gate).threshold == threshold == NudgingConfig(gate=gate, threshold=None).threshold
    assert NudgingConfig.paper(gate=gate).threshold == threshold
    assert NudgingConfig(gate=gate, threshold=0.9).threshold == 0.9, "a threshold that is given wins"


def test_the_paper_s_threshold_is_the_default() -> None:
    assert NudgingConfig().threshold == 0.4 == NudgingConfig.paper().threshold


@pytest.mark.parametrize(
    ("changes", "threshold"),
    [
        ({"gate": "margin"}, 0.2),
        ({"gate": "margin", "threshold": 0.5}, 0.5),
        ({"gate": EntropyGate(1.5)}, 1.5),
        ({"gate": "top1"}, 0.3),
        ({"lookahead": 4}, 0.3),
        ({"threshold": None}, 0.4),
    ],
    ids=str,
)
def test_a_threshold_belongs_to_its_gate(changes: dict[str, Any], threshold: float) -> None:
    assert NudgingConfig(threshold=0.3).updated(changes).threshold == threshold


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: NudgingConfig(threshold=2.5), r"threshold=2.5 is outside 0 … 2 for gate 'top1'.*not a percentage"),
        (lambda: NudgingConfig(gate="entropy", threshold=21), r"21 is outside 0 … 20 for gate 'entropy'.*nats"),
        (lambda: NudgingConfig(gate="margin", threshold=-1), r"-1 is outside 0 … 2 for gate 'margin'"),
        (
            lambda: NudgingConfig(gate=Contrary(), threshold=0.4),
            r"0.4 is outside 0.5 … 1 for gate 'contrary'. Give at l",
        ),
        (lambda: NudgingConfig(gate=Bare(), threshold=-1), r"-1 is outside 0 … inf for gate 'Bare'\.$"),
        (lambda: EntropyGate(-1), r"-1 is outside 0 … 20 for gate 'entropy'"),
        (lambda: Top1Gate(float("nan")), "nan is outside"),
        (lambda: MarginGate("high"), r"MarginGate\(threshold='high'\): give a number"),
        (lambda: NudgingConfig(gate=EntropyGate), r"EntropyGate is a class: give a gate, such as EntropyGate\(\)"),
        (lambda: NudgingConfig(gate="entropie"), r"Did you mean 'entropy'\?$"),
    ],
)
def test_a_threshold_that_a_gate_cannot_have_is_refused(make: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


def test_built_in_gates_are_equal_by_their_threshold() -> None:
    assert EntropyGate(2) == EntropyGate(2.0) != EntropyGate() and EntropyGate(2) != MarginGate(2)
    assert len({Top1Gate(), Top1Gate(0.4), Top1Gate(0.3)}) == 2
    assert repr(EntropyGate(2)) == "EntropyGate(2)"
    assert all(isinstance(gate, Gate) and gate_name(gate) == name for name, gate in GATES.items())


@pytest.mark.parametrize(("gate", "surer"), [(Top1Gate(), 1), (EntropyGate(), -1), (MarginGate(), 1)], ids=str)
def test_the_direction_that_a_gate_names_is_the_one_in_which_it_decides(gate: Any, surer: int) -> None:
    prediction = Prediction(0, 0.5, 0, entropy=0.5, margin=0.5)
    assert gate.confident(prediction, 0.5), "the threshold itself is sure enough"
    assert not gate.confident(prediction, 0.5 + surer * 0.1) and gate.confident(prediction, 0.5 - surer * 0.1)
    assert gate.higher_nudges_more == (surer == 1)


# -- answers ----------------------------------------------------------------------------------------------------------


def test_a_gate_from_outside_decides_who_writes() -> None:
    paper = scripted_pair(lambda prompt: ANSWER, prob=0.9).generate("count").provenance
    nudged = (
        scripted_pair(lambda prompt: ANSWER, prob=0.9).generate("count", gate=Contrary(), prefix_rule=False).provenance
    )
    assert paper.text == nudged.text == ANSWER
    assert {piece.source for piece in paper.pieces if piece.start} == {"base"}
    assert {piece.source for piece in nudged.pieces} == {"nudging"}
    assert {piece.reason for piece in nudged.pieces} >= {Reason.OPENING, Reason.UNCERTAIN}
    assert (nudged.config["gate"], nudged.config["threshold"]) == ("contrary", 0.8)


def test_a_gate_with_nothing_but_its_method_gets_the_threshold_of_the_call() -> None:
    gate = Bare()
    pair = scripted_pair(lambda prompt: ANSWER, NudgingConfig(gate=gate), prob=0.01)
    record = pair.generate("count").provenance
    assert record.text == ANSWER and set(gate.thresholds) == {0.4}
    assert (record.config["gate"], record.config["threshold"]) == ("Bare", 0.4)
    pair.generate("count", threshold=7)
    assert set(gate.thresholds) == {0.4, 7.0}


def test_the_record_names_the_gate_and_the_threshold_that_were_used(tiny: Any) -> None:
    for gate, threshold in (("entropy", 2.5), (EntropyGate(1.5), 1.5)):
        config = tiny.generate("hello", gate=gate, max_tokens=8).provenance.config
        assert (config["gate"], config["threshold"]) == ("entropy", threshold)


def test_advice_on_the_threshold_goes_the_gate_s_way() -> None:
    def warned(**options: Any) -> list[tuple[str, str]]:
        record = scripted_pair(lambda prompt: ANSWER * 2, prob=0.9).generate("count", **options).provenance
        return [(warning.code, warning.message) for warning in record.warnings]

    [(code, message)] = warned()
    assert code == "never_nudged" and message.endswith("If the answer strays, raise the threshold.")
    [(code, message)] = warned(gate=Contrary(), threshold=0.95)
    assert code == "never_nudged" and message.endswith("If the answer strays, lower the threshold.")
    [(code, message)] = warned(gate=Contrary(), prefix_rule=False)
    assert code == "nudged_too_much" and "than its own answer alone: raise the threshold" in message
