"""What an answer must look like: a JSON schema, a pattern, choices or tool calls, as a grammar for llguidance.

Knows the notation of rules; following one while an answer is written is ``constraint.py``'s business.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llguidance import LLMatcher

from ..errors import GrammarError
from ..tools.definitions import MAPS_OF_SCHEMAS, PLAIN_DATA, plain_json

#: JSON as ``json.dumps`` spells it, so that spaces stand between its words. Escapes by number would spell one key in two ways,
#: and are let in only where a schema names a control character that has no other.
_JSON: Any = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "json_allowed_escapes": 'nrbtf\\"',
}
_NAMES_CONTROL = re.compile(r"\\u00(?:[01]|7f)")


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer, or its part from ``trigger`` on, must look like.

    Attributes:
        text: the rule in llguidance's notation.
        what: how to call it in errors.
        trigger: the text from which on the rule holds, which is part of it; None: from the start.
        joined: the same rule after a space that may be there: how an answer begins for a model whose prompt it is joined to.
        json: whether what it rules is JSON, in a frame perhaps.
    """

    text: str
    what: str
    trigger: str | None = None
    joined: str = ""
    json: bool = False

    def __post_init__(self) -> None:
        if problem := _problem(self.text):
            raise GrammarError(f"{self.what} cannot be used: {problem}")


def json_grammar(schema: Mapping[str, Any] | bool) -> Grammar:
    """JSON that fits a JSON schema.

    Objects that declare their properties and do not say whether others may come hold no others: what is written then fits
    the schema all the same, and a model cannot ramble.

    Raises:
        GrammarError: the schema is invalid, no value fits it, or it has a keyword that cannot be enforced.
    """
    if not isinstance(schema, (Mapping, bool)):
        raise GrammarError(
            f"json_schema={schema!r}: give a JSON schema (a dict or a bool), or a type such as a pydantic model."
        )
    rule = _value_rule(schema)
    return Grammar(f"start: {rule}", "The JSON schema", joined=f'start: " "? body\nbody: {rule}', json=True)


def _value_rule(schema: Mapping[str, Any] | bool) -> str:
    """The rule of a value that fits ``schema``, with objects closed where that leaves any."""
    plain = enforceable(schema)
    closed = _json_rule(closed_objects(plain))
    return closed if not _problem(f"start: {closed}") else _json_rule(plain)


def regex_grammar(pattern: str) -> Grammar:
    """Text that a regular expression matches from its start to its end (Rust's syntax: no look-around, no back-references).

    Raises:
        GrammarError: the pattern does not compile.
    """
    if not isinstance(pattern, str) or not pattern:
        raise GrammarError(f"regex={pattern!r}: give a pattern.")
    _check_characters(pattern)
    return _pattern(pattern, f"regex={pattern!r}")


def choices_grammar(choices: Sequence[str]) -> Grammar:
    """One of several texts.

    Raises:
        GrammarError: there is none, or one of them is empty or no text.
    """
    if isinstance(choices, (str, bytes)) or not isinstance(choices, Sequence) or not choices:
        raise GrammarError(f"choices={choices!r}: give a non-empty list of texts.")
    for choice in choices:
        if not isinstance(choice, str) or not choice:
            raise GrammarError(f"choices: {choice!r} is no text that could be written.")
        _check_characters(choice)
    return _pattern("|".join(map(_escaped, choices)), "choices")


def calls_grammar(
    schema: Mapping[str, Any],
    begin: str,
    end: str,
    several: bool,
    trigger: str | None,
    other: Mapping[str, Any] | bool | None = None,
) -> Grammar:
    """Calls of tools, each between ``begin`` and ``end``, on lines of their own.

    Args:
        schema: of what stands between.
        begin, end: the frame.
        several: whether more than one call may be made.
        trigger: text, a part of ``begin`` from its start, from which on it holds; None: from the answer's start.
        other: JSON schema of what may be written instead of calls.

    Raises:
        GrammarError: ``other`` is invalid, no value fits it, or it has a keyword that cannot be enforced.
    """
    call = f"{json.dumps(begin)} body {json.dumps(end)}"
    more = f' ("\\n" {call})*' if several else ""
    rules, what = f"calls: {call}{more}\nbody: {_json_rule(dict(schema))}", "The tools' parameters"
    answer = "calls"
    if other is not None:
        rules, what, answer = f"{rules}\nother: {_value_rule(other)}", f"{what} or the JSON schema", "(calls | other)"
    return Grammar(f"start: {answer}\n{rules}", what, trigger, f'start: " "? {answer}\n{rules}', json=True)


def _problem(grammar: str) -> str:
    """Why llguidance refuses a grammar; empty if it does not."""
    failed, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    return str(messages[0].splitlines()[0]) if failed else ""


def _check_characters(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise GrammarError(f"{text!a} holds half of a surrogate pair, which no text can hold.") from None


def _json_rule(schema: dict[str, Any]) -> str:
    options = dict(_JSON)
    if _NAMES_CONTROL.search(json.dumps(schema)):
        options |= {"json_allowed_escapes": 'nrbtfu\\"', "json_allow_general_unicode_escapes": False}
    return f"%json {json.dumps(schema | {'x-guidance': options})}"


def _pattern(pattern: str, what: str) -> Grammar:
    joined = LLMatcher.grammar_from_regex(f" ?(?:{pattern})")
    return Grammar(LLMatcher.grammar_from_regex(pattern), what, joined=joined)


def enforceable(schema: Any) -> Any:
    """A copy of a JSON schema, without ``format``s that llguidance does not know, which are annotations.

    Raises:
        GrammarError: it is no JSON, is malformed, or asks for what cannot be held to token by token.
    """
    if schema is False:
        raise GrammarError("The JSON schema is false: no value fits it.")
    try:
        plain = plain_json({} if schema is True else schema)
    except (ValueError, RecursionError) as error:
        raise GrammarError(f"The JSON schema is no JSON: {error}.") from None
    for part in _parts(plain):
        _check_part(part)
        named = {"type": "string", "format": part.get("format")}
        if isinstance(named["format"], str) and "Unknown format" in _problem(f"start: {_json_rule(named)}"):
            del part["format"]
    return plain


def _check_part(part: dict[str, Any]) -> None:
    """Refuse what llguidance takes and does not enforce, or chokes on."""
    properties, required, least = part.get("properties", {}), part.get("required", []), part.get("minProperties", 0)
    if not isinstance(properties, dict):
        raise GrammarError(f"The JSON schema: properties={properties!r} is no object.")
    if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
        raise GrammarError(f"The JSON schema: required={required!r} is no list of names.")
    if not isinstance(least, int) or least > len(required):
        raise GrammarError(
            f"The JSON schema: minProperties={least!r} cannot be enforced where keys may repeat. Require the properties by name."
        )
    if isinstance(part.get("multipleOf"), float) and not part["multipleOf"].is_integer():
        raise GrammarError(
            f"The JSON schema: multipleOf={part['multipleOf']} has no exact meaning in binary fractions. Use an integer."
        )


def closed_objects(schema: Any) -> Any:
    """The schema with objects closed that declare properties and are silent about others; as it is if parts of it must hold
    together (``allOf``, or properties beside a choice or reference), where closing one would shut out another."""
    for part in _parts(schema):
        if "allOf" in part or ("properties" in part and _TOGETHER & set(part)):
            return schema
    return _closed(schema)


_TOGETHER = frozenset({"$ref", "anyOf", "oneOf", "if", "then", "else", "dependentSchemas", "not"})


def _parts(schema: Any) -> Iterator[dict[str, Any]]:
    """Every schema in a schema, itself included."""
    if isinstance(schema, dict):
        yield schema
        for key, value in schema.items():
            if key not in PLAIN_DATA:
                for part in list(value.values()) if key in MAPS_OF_SCHEMAS and isinstance(value, dict) else [value]:
                    yield from _parts(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _parts(part)


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    out: dict[str, Any] = {
        key: value
        if key in PLAIN_DATA
        else {name: _closed(part) for name, part in value.items()}
        if key in MAPS_OF_SCHEMAS and isinstance(value, Mapping)
        else _closed(value)
        for key, value in schema.items()
    }
    silent = not {"additionalProperties", "patternProperties", "unevaluatedProperties"} & set(out)
    if silent and "properties" in out and set(out.get("required", ())) <= set(out["properties"]):
        out["additionalProperties"] = False
    return out


def _escaped(text: str) -> str:
    """``text`` as a regular expression that matches it alone."""
    return re.sub(r"[][\\.^$*+?{}()|/&~#-]", lambda found: "\\" + found[0], text)
