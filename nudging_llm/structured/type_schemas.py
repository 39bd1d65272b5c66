"""JSON schemas of Python types, as answers are held to them.

Where pydantic takes several spellings of a value, or checks more than its own schema says, the schema here asks for a spelling
that a grammar can hold and pydantic reads.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import signature
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

#: ISO 8601, with as many digits as a ``timedelta`` has room for.
_TIME = "(?:[0-9]{1,5}H(?:[0-9]{1,2}M)?(?:[0-9]{1,2}S)?|[0-9]{1,5}M(?:[0-9]{1,2}S)?|[0-9]{1,6}S)"
_DURATION = f"^P(?:[0-9]{{1,5}}D(?:T{_TIME})?|T{_TIME})$"
_URL = "^(?:{})://[A-Za-z0-9]+(?:[.-][A-Za-z0-9]+)*(?:/[A-Za-z0-9._~%/?#&=+-]*)?$"
_INTEGER = "^(?:0|-?[1-9][0-9]{0,14})$"
_UUID = "^[0-9a-f]{{8}}-[0-9a-f]{{4}}-{}[0-9a-f]{{3}}-[89ab][0-9a-f]{{3}}-[0-9a-f]{{12}}$"


def schema_of(type_: Any) -> dict[str, Any]:
    """The schema of what pydantic will make into a ``type_``. A class that writes its own knows best.

    Raises:
        pydantic.errors.PydanticUserError: it has none.
    """
    if isinstance(type_, type) and issubclass(type_, BaseModel):
        write: Callable[..., dict[str, Any]] = type_.model_json_schema
        try:
            signature(write).bind(schema_generator=_Spelling)
        except TypeError:
            return write()
        return write(schema_generator=_Spelling)
    return TypeAdapter(type_).json_schema(schema_generator=_Spelling)


class _Spelling(GenerateJsonSchema):
    def set_schema(self, schema: Any) -> JsonSchemaValue:
        return _without_uniqueness(super().set_schema(schema))  # pydantic makes the set itself

    def frozenset_schema(self, schema: Any) -> JsonSchemaValue:
        return _without_uniqueness(super().frozenset_schema(schema))

    def decimal_schema(self, schema: Any) -> JsonSchemaValue:
        """A number; as text where its digits are counted, which a schema of a number cannot say."""
        digits, places = schema.get("max_digits"), schema.get("decimal_places")
        bounded = {"ge", "gt", "le", "lt", "multiple_of"} & set(schema)
        if (digits is not None or places is not None) and not bounded:
            before = 15 if digits is None else max(1, digits - (places or 0))
            after = rf"(?:\.[0-9]{{1,{places}}})?" if places else ""
            return {"type": "string", "pattern": f"^-?(?:0|[1-9][0-9]{{0,{before - 1}}}){after}$"}
        found = super().decimal_schema(schema)
        return next((option for option in found.get("anyOf", ()) if option.get("type") == "number"), found)

    def uuid_schema(self, schema: Any) -> JsonSchemaValue:
        version = schema.get("version")
        return {"type": "string", "pattern": _UUID.format(version)} if version else super().uuid_schema(schema)

    def url_schema(self, schema: Any) -> JsonSchemaValue:
        found = super().url_schema(schema)
        schemes = schema.get("allowed_schemes")
        if not schemes:
            return found
        return {"type": "string", "pattern": _URL.format("|".join(schemes)), **_lengths(found)}

    def dict_schema(self, schema: Any) -> JsonSchemaValue:
        found = super().dict_schema(schema)
        if schema.get("keys_schema", {}).get("type") != "int" or self.mode != "validation":
            return found
        value = found.pop("additionalProperties", {})
        return {**found, "patternProperties": {_INTEGER: {} if value is True else value}, "additionalProperties": False}

    def timedelta_schema(self, schema: Any) -> JsonSchemaValue:
        found = super().timedelta_schema(schema)
        return {"type": "string", "pattern": _DURATION} if found.get("format") == "duration" else found


def _lengths(schema: JsonSchemaValue) -> JsonSchemaValue:
    return {key: value for key, value in schema.items() if key in ("minLength", "maxLength")}


def _without_uniqueness(schema: JsonSchemaValue) -> JsonSchemaValue:
    return {key: value for key, value in schema.items() if key != "uniqueItems"}
