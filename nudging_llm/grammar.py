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

from .errors import GrammarError

#: JSON as ``json.dumps`` spells it, so that spaces stand between its words.
_JSON: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer, or its part from ``trigger`` on, must look like.

    Attributes:
        text: the rule in llguidance's notation.
        what: how to call it in errors.
        trigger: the text from which on the rule holds, which is part of it; None: from the start.
    """

    text: str
    what: str
    trigger: str | None = None

    def __post_init__(self) -> None:
        failed, messages = LLMatcher.validate_grammar_with_warnings(self.text)
        if failed:
            raise GrammarError(f"{self.what} cannot be used: {messages[0].splitlines()[0]}")


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
    return Grammar(_compiled(_no_strangers(schema)), "The JSON schema")


def regex_grammar(pattern: str) -> Grammar:
    """Text that a regular expression matches from its start to its end (Rust's syntax: no look-around, no back-references).

    Raises:
        GrammarError: the pattern does not compile.
    """
    if not isinstance(pattern, str) or not pattern:
        raise GrammarError(f"regex={pattern!r}: give a pattern.")
    return Grammar(LLMatcher.grammar_from_regex(pattern), f"regex={pattern!r}")


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
    return Grammar(LLMatcher.grammar_from_regex("|".join(map(_escaped, choices))), "choices")


def calls_grammar(schema: Mapping[str, Any], begin: str, end: str, several: bool, trigger: str | None) -> Grammar:
    """Calls of tools, each between ``begin`` and ``end``, on lines of their own.

    Args:
        schema: of what stands between.
        begin, end: the frame.
        several: whether more than one call may be made.
        trigger: text, a part of ``begin`` from its start, from which on it holds; None: from the answer's start.
    """
    call = f"{json.dumps(begin)} body {json.dumps(end)}"
    more = f' ("\\n" {call})*' if several else ""
    body = json.dumps(_no_strangers(schema) | {"x-guidance": _JSON})
    return Grammar(f"start: {call}{more}\nbody: %json {body}\n", "The tools' parameters", trigger)


def _compiled(schema: Any) -> str:
    if schema is False:
        raise GrammarError("The JSON schema is false: no value fits it.")
    schema = {} if schema is True else schema
    try:
        written = json.dumps(schema)
    except (TypeError, ValueError) as error:
        raise GrammarError(f"The JSON schema is no JSON: {error}") from None
    return str(LLMatcher.grammar_from_json_schema(written, overrides=_JSON))


def _no_strangers(schema: Any) -> Any:
    """The schema with objects closed that declare properties and are silent about others; as it is if parts of it must hold
    together (``allOf``), where closing one would shut out another."""
    if "allOf" in _keywords(schema):
        return schema
    return _closed(schema)


_NAMED = frozenset({"properties", "$defs", "definitions", "patternProperties", "dependentSchemas"})
_DATA = frozenset({"enum", "const", "default", "examples", "required"})


def _keywords(schema: Any) -> Iterator[str]:
    if isinstance(schema, Mapping):
        for key, value in schema.items():
            yield key
            if key in _DATA:
                continue
            for part in value.values() if key in _NAMED and isinstance(value, Mapping) else [value]:
                yield from _keywords(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from _keywords(part)


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    out: dict[str, Any] = {
        key: value
        if key in _DATA
        else {name: _closed(part) for name, part in value.items()}
        if key in _NAMED and isinstance(value, Mapping)
        else _closed(value)
        for key, value in schema.items()
    }
    if "properties" in out and not {"additionalProperties", "patternProperties", "unevaluatedProperties"} & set(out):
        declared = set(out["properties"])
        if set(out.get("required", ())) <= declared and out.get("minProperties", 0) <= len(declared):
            out["additionalProperties"] = False
    return out


def _escaped(text: str) -> str:
    """``text`` as a regular expression that matches it alone."""
    return re.sub(r"[][\\.^$*+?{}()|/&~#-]", lambda found: "\\" + found[0], text)
