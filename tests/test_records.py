"""Versions of the record: what version 1 wrote can be read, what nobody wrote is refused, the schema describes it all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from typer.testing import CliRunner

from nudging_llm import ModelUse, Piece, Provenance, ProvenanceWarning, Reason
from nudging_llm.cli import app
from nudging_llm.provenance import SCHEMA_VERSION
from nudging_llm.views import plots
from nudging_llm.views.html import page

DATA = Path(__file__).parent / "data" / "provenance_v1"
#: Records that version 1 wrote, by the models that took part.
OLD = {
    "nudged": ("gemma-3-270m (Q4_K_M)", "SmolLM2-135M-Instruct (Q4_1)"),
    "base_alone": ("gemma-3-270m (Q4_K_M)",),
    "nudging_alone": ("SmolLM2-135M-Instruct (Q4_1)",),
    "json": ("gemma-3-270m (Q4_K_M)", "SmolLM2-135M-Instruct (Q4_1)"),
    "entropy": ("gemma-3-270m (Q4_K_M)", "SmolLM2-135M-Instruct (Q4_1)"),
}


def old(name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    assert record["schema_version"] == 1
    return record


def alone(model: str) -> Provenance:
    piece = Piece("Hi", 0, "base" if model == "base" else "nudging", Reason.ALONE, 1, None, None, 1, 0.1)
    return Provenance(pieces=(piece,), total_s=1.0, **{model: ModelUse(name="one", tokens=1, seconds=0.75)})


@pytest.mark.parametrize("name", OLD)
def test_records_of_version_1_are_read(name: str) -> None:
    written = old(name)
    record = Provenance.from_dict(written)
    assert tuple(use.name for use in record.models) == OLD[name]
    assert (record.base is None) == (name == "nudging_alone") and (record.nudging is None) == (name == "base_alone")
    now = record.to_dict()
    assert now["schema_version"] == SCHEMA_VERSION == 2
    for key in written.keys() - {"schema_version", "base", "nudging"}:
        assert now[key] == written[key], key
    for part in ("base", "nudging"):
        assert now[part] == (written[part] if written[part]["name"] else None)
    assert Provenance.from_dict(now) == record
    assert record.overhead_s <= record.total_s


def test_the_samples_hold_what_version_1_could_say() -> None:
    sources = {piece["source"] for name in OLD for piece in old(name)["pieces"]}
    assert sources == {"base", "nudging", "grammar"}
    assert [warning.code for warning in Provenance.from_dict(old("nudged")).warnings] == ["nudged_too_much"]
    assert [old(name)["base"]["name"] for name in ("nudging_alone", "nudged")] == ["", OLD["nudged"][0]]


@pytest.mark.parametrize("name", OLD)
def test_records_of_version_1_are_shown(name: str) -> None:
    record = Provenance.from_dict(old(name))
    assert " + ".join(OLD[name]) in page(record)
    assert plots.timings(record).axes
    done = CliRunner().invoke(app, ["view", str(DATA / f"{name}.json")])
    assert done.exit_code == 0 and record.text in done.stdout
    assert ("nudged" in done.stdout) == (len(OLD[name]) == 2)


@pytest.mark.parametrize("version", [0, 3, "2", None, [1]])
def test_an_unknown_version_is_one_clear_error(version: Any, tmp_path: Path) -> None:
    record = {**old("nudged"), "schema_version": version, "something_new": 1}
    with pytest.raises(ValueError) as caught:
        Provenance.from_dict(record)
    said = str(caught.value)
    assert said.startswith(f"the record has schema_version {version!r}, and this version of nudging-llm reads 1 and 2.")
    assert "something_new" not in said
    (tmp_path / "record.json").write_text(json.dumps(record), encoding="utf-8")
    done = CliRunner().invoke(app, ["view", str(tmp_path / "record.json")])
    assert done.exit_code == 2 and said in done.stderr


@pytest.mark.parametrize("base", [None, "model", 3, {}])
def test_a_damaged_record_of_version_1_is_a_value_error(base: Any) -> None:
    with pytest.raises(ValueError):
        Provenance.from_dict({**old("nudged"), "base": base})


@pytest.mark.parametrize("model", ["base", "nudging"])
def test_a_model_that_took_no_part_is_none(model: str) -> None:
    record = alone(model)
    other = "nudging" if model == "base" else "base"
    assert getattr(record, other) is None and record.models == (getattr(record, model),)
    assert record.nudge_ratio == (1.0 if model == "nudging" else 0.0)
    assert record.overhead_s == pytest.approx(0.25)
    assert record.to_dict()[other] is None
    assert Provenance.from_dict(json.loads(record.to_json())) == record


@pytest.mark.parametrize("model", ["base", "nudging"])
def test_the_generator_records_none_for_it(tiny: Any, model: str) -> None:
    record = tiny.generate_alone(model, "hello", max_tokens=8).provenance
    assert [use.name for use in record.models] == [getattr(tiny, model).name]
    assert len(tiny.generate("hello", max_tokens=8).provenance.models) == 2


def test_the_schema_describes_what_is_written() -> None:
    schema = Provenance.json_schema()
    warning = ProvenanceWarning(code="repetition", message="Again.")
    written = [alone("base"), alone("nudging"), *(Provenance.from_dict(old(name)) for name in OLD)]
    for record in [*written, written[0].model_copy(update={"warnings": (warning,)})]:
        jsonschema.validate(json.loads(record.to_json()), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(old("nudged"), schema)
