"""Records: complete, consistent, and the same after a round trip."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from nudging_llm import Provenance

SCHEMA = Path(__file__).parents[1] / "docs" / "provenance.schema.json"


def test_record_round_trip_and_schema(tiny):
    record = tiny.generate("hello", stop=["zzz"]).provenance
    plain_json = json.loads(record.to_json())
    assert Provenance.from_dict(plain_json) == record
    jsonschema.validate(plain_json, json.loads(SCHEMA.read_text()))
    assert plain_json["text"] == record.text == "".join(span.text for span in record.spans)


def test_stored_schema_is_current():
    assert json.loads(SCHEMA.read_text()) == Provenance.json_schema(), "run 'make docs'"


def test_record_with_a_gap_is_refused(tiny):
    record = tiny.generate("hello").provenance.to_dict()
    record["pieces"] = record["pieces"][1:]
    with pytest.raises(ValueError, match="expected 0"):
        Provenance.from_dict(record)


def test_reasons_agree_with_probabilities(tiny):
    for question in ("hello", "another question", "x y z"):
        for piece in tiny.stream(question, threshold=0.3):
            if piece.reason in ("uncertain", "handover_prefix"):
                assert piece.base_top_prob < 0.3
            if piece.reason in ("confident", "handover_confident"):
                assert piece.base_top_prob >= 0.3


def test_counts_add_up(tiny):
    record = tiny.generate("hello").provenance
    assert record.base.tokens + record.nudging.tokens == record.n_tokens
    assert record.base.accepted <= record.base.drafted <= record.base.forward_tokens
    assert 0 < record.first_piece_s <= record.total_s
    assert record.base.seconds + record.nudging.seconds + record.overhead_s == pytest.approx(record.total_s)


def test_warnings_name_the_failure(tiny):
    codes = {w.code for w in tiny.generate("hello", threshold=2.0, prefix_rule=False).provenance.warnings}
    assert "nudged_too_much" in codes
    codes = {w.code for w in tiny.generate("hello", threshold=0.0, role_markers=False).provenance.warnings}
    assert "never_nudged" in codes
