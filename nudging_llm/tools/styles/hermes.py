"""Calls in ``<tool_call>`` tags, as Hermes and Qwen models write them; and how all models are asked to write theirs.

``CallFormat`` writes such a call, and gives the schema that a grammar holds it to; calls that a grammar rules are read while they
are written (``RuledCalls``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..definitions import MAPS_OF_SCHEMAS, PLAIN_DATA, Tool
from ..json_values import write_json
from .tagged import Tagged

_HEAD = re.compile(r'\s*\{"name": ("(?:[^"\\]|\\.)*"), "arguments": ')
_DECODER = json.JSONDecoder()


class Hermes(Tagged):
    """See the module's docstring."""

    opener, closer = "<tool_call>", "</tool_call>"
    control_tokens = frozenset({opener})


#: The style that grammars rule: its calls are handed on while they are written, those of all others once the answer is whole.
RULED_STYLE = Hermes()


class RuledCalls:
    """Reads calls as the grammar has them written, from text that grows.

    Args:
        start: where the first opener stands.
    """

    def __init__(self, start: int) -> None:
        self._at = start  # where the next call, or the rest of its arguments, begins
        self._begin = 0  # of the arguments, while within them
        self._inside = False

    def read(self, text: str) -> Iterator[tuple[str | None, str]]:
        """What the text has more than before: a tool's name where a call begins, else None; and JSON text of arguments."""
        while True:
            name = None
            if not self._inside:
                opener = text.find(Hermes.opener, self._at)
                head = _HEAD.match(text, opener + len(Hermes.opener)) if opener >= 0 else None
                if head is None:
                    return
                self._inside = True
                self._at = self._begin = head.end()
                name = str(json.loads(head[1]))
            stop = self._arguments_end(text)
            end = len(text) if stop is None else stop
            if name is not None or end > self._at:
                yield name, text[self._at : end]
            self._at = end
            if stop is None:
                return
            self._inside = False

    def _arguments_end(self, text: str) -> int | None:
        """Where the arguments' object ends, if it has."""
        if "}" not in text[self._at :]:
            return None
        try:
            return int(_DECODER.raw_decode(text, self._begin)[1])
        except ValueError:
            return None


@dataclass(frozen=True)
class CallFormat:
    """How a call is written: what stands around its JSON object, and the object's two keys."""

    begin: str
    end: str
    name_key: str
    arguments_key: str

    def write(self, name: str, arguments: Mapping[str, Any]) -> str:
        """The text of a call."""
        return f"{self.begin}{write_json({self.name_key: name, self.arguments_key: arguments})}{self.end}"

    def schema(self, tools: Sequence[Tool]) -> dict[str, Any]:
        """The JSON schema of a call's object: the name first, then arguments that fit that tool.

        Parameters with references inside move to ``$defs`` under the tool's name, where the references still hold.
        """
        shared: dict[str, Any] = {}
        bodies = [self._body(tool, shared) for tool in tools]
        schema = bodies[0] if len(bodies) == 1 else {"anyOf": bodies}
        return {**schema, "$defs": shared} if shared else schema

    def _body(self, tool: Tool, shared: dict[str, Any]) -> dict[str, Any]:
        own = {key: value for key, value in tool.parameters.items() if key not in ("$schema", "$id")}
        place = f"#/$defs/{tool.name}"
        moved = _rebased(own, place)
        if moved != own:
            shared[tool.name] = moved
        return {
            "type": "object",
            "properties": {
                self.name_key: {"const": tool.name},
                self.arguments_key: own if moved == own else {"$ref": place},
            },
            "required": [self.name_key, self.arguments_key],
            "additionalProperties": False,
        }


HERMES = CallFormat("<tool_call>\n", "\n</tool_call>", "name", "arguments")


def _rebased(schema: Any, place: str) -> Any:
    """``schema`` with its references to itself (``#…``) as references to ``place``."""
    if isinstance(schema, list):
        return [_rebased(item, place) for item in schema]
    if not isinstance(schema, dict):
        return schema
    out: dict[str, Any] = {}
    for key, value in schema.items():
        if key == "$ref" and isinstance(value, str) and value.startswith("#"):
            out[key] = place + value[1:]
        elif key in MAPS_OF_SCHEMAS and isinstance(value, dict):  # its keys are names, even one called "$ref" or "enum"
            out[key] = {name: _rebased(item, place) for name, item in value.items()}
        else:
            out[key] = value if key in PLAIN_DATA else _rebased(value, place)
    return out
