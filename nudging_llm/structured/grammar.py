"""What an answer must look like: a JSON schema, a pattern, choices or tool calls, as a grammar for llguidance.

Knows the notation of rules; following one while an answer is written is ``constraint.py``'s business.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llguidance import LLMatcher

from ..errors import GrammarError
from .json_schema import closed_objects, enforceable, grammar_problem, json_rule


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
        if problem := grammar_problem(self.text):
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
    closed = json_rule(closed_objects(plain))
    return closed if not grammar_problem(f"start: {closed}") else json_rule(plain)


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
    rules, what = f"calls: {call}{more}\nbody: {json_rule(dict(schema))}", "The tools' parameters"
    answer = "calls"
    if other is not None:
        rules, what, answer = f"{rules}\nother: {_value_rule(other)}", f"{what} or the JSON schema", "(calls | other)"
    return Grammar(f"start: {answer}\n{rules}", what, trigger, f'start: " "? {answer}\n{rules}', json=True)


def _check_characters(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise GrammarError(f"{text!a} holds half of a surrogate pair, which no text can hold.") from None


def _pattern(pattern: str, what: str) -> Grammar:
    joined = LLMatcher.grammar_from_regex(f" ?(?:{pattern})")
    return Grammar(LLMatcher.grammar_from_regex(pattern), what, joined=joined)


def _escaped(text: str) -> str:
    """``text`` as a regular expression that matches it alone."""
    return re.sub(r"[][\\.^$*+?{}()|/&~#-]", lambda found: "\\" + found[0], text)
