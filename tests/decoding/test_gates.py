"""Gates: the rule that says where the base model is uncertain."""

from __future__ import annotations

import json

import pytest

from nudging_llm import Prediction


@pytest.mark.parametrize("gate", ["top1", "entropy", "margin"])
def test_gates(tiny, gate):
    always, never = (0.0, 20.0) if gate == "entropy" else (2.0, 0.0)
    nudged = tiny.generate("hello", gate=gate, threshold=always, prefix_rule=False).provenance
    free = tiny.generate("hello", gate=gate, threshold=never, prefix_rule=False).provenance
    assert nudged.nudge_ratio == 1
    assert free.nudge_ratio < 1


def test_own_gate_object(tiny):
    class EverySecond:
        needs = frozenset({"entropy", "margin"})
        seen: list[Prediction] = []

        def confident(self, prediction: Prediction, threshold: float) -> bool:
            self.seen.append(prediction)
            return len(self.seen) % 2 == 0

    gate = EverySecond()
    record = tiny.generate("hello", gate=gate).provenance
    assert record.config["gate"] == "EverySecond"
    assert all(p.entropy >= 0 and 0 <= p.margin <= p.prob for p in gate.seen)
    json.dumps(record.to_dict())
