"""Types whose values pydantic checks more closely than its own JSON schema says: what is asked for fits them."""

from __future__ import annotations

import json
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any

import pytest
from pydantic import UUID4, BaseModel, Field, HttpUrl, TypeAdapter, ValidationError

from nudging_llm import NudgingConfig
from nudging_llm.structured.type_schemas import schema_of
from nudging_llm.testing.scripted import rules, scripted_pair

Price = Annotated[Decimal, Field(max_digits=4, decimal_places=2)]


class Nested(BaseModel):
    """In a definition of its own."""

    words: set[str]
    again: list[Nested] = []


@pytest.mark.parametrize(
    ("kind", "wanted", "value"),
    [
        (Decimal, "12.5", Decimal("12.5")),
        (Price, '"12.50"', Decimal("12.50")),
        (Annotated[Decimal, Field(gt=0)], "3.25", Decimal("3.25")),
        (set[int], "[1, 2, 2]", {1, 2}),
        (frozenset[str], '["a", "a"]', frozenset("a")),
        (timedelta, '"P1DT2H"', timedelta(days=1, hours=2)),
        (dict[int, str], '{"3": "c"}', {3: "c"}),
        (HttpUrl, '"https://example.org/a?b=c"', HttpUrl("https://example.org/a?b=c")),
        (UUID4, '"f47ac10b-58cc-4372-a567-0e02b2c3d479"', None),
        (Nested, '{"words": ["a"], "again": [{"words": ["b"], "again": []}]}', None),
        (float | str, '"three"', "three"),
    ],
    ids=str,
)
def test_what_fits_is_written_as_it_is(kind: Any, wanted: str, value: Any) -> None:
    found = scripted_pair(rules((".", wanted))).generate("a", json_schema=kind)
    assert found.text == wanted and found.parsed == (
        TypeAdapter(kind).validate_json(wanted) if value is None else value
    )


@pytest.mark.parametrize(
    ("kind", "unwanted"),
    [
        (Decimal, '"twelve euros"'),
        (Price, '"123456.789"'),
        (timedelta, '"P99999999999999W"'),
        (dict[int, str], '{"three": "c"}'),
        (HttpUrl, '"javascript:alert(1)"'),
        (UUID4, '"f47ac10b-58cc-1372-a567-0e02b2c3d479"'),
    ],
    ids=str,
)
def test_what_does_not_fit_cannot_be_written(kind: Any, unwanted: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(kind).validate_json(unwanted)
    found = scripted_pair(rules((".", unwanted)), NudgingConfig(max_tokens=300)).generate("a", json_schema=kind)
    assert TypeAdapter(kind).validate_json(found.text) == found.parsed


def test_a_class_that_writes_its_own_schema_is_heeded() -> None:
    class Own(BaseModel):
        """A class."""

        name: str

        @classmethod
        def model_json_schema(cls) -> dict[str, Any]:  # type: ignore[override]
            return {"type": "object", "properties": {"name": {"enum": ["x"]}}, "required": ["name"]}

    assert scripted_pair(rules((".", '{"name": "y"}'))).generate("a", json_schema=Own).parsed == Own(name="x")


def test_other_types_keep_pydantic_s_schema() -> None:
    class Plain(BaseModel):
        """A class."""

        name: str
        sizes: list[float] | None = None

    assert schema_of(Plain) == Plain.model_json_schema()
    assert json.dumps(schema_of(Nested)).count("uniqueItems") == 0
