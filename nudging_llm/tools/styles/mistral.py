"""Mistral's calls: ``[TOOL_CALLS][{"name": …, "arguments": …}]``, and ``[TOOL_CALLS]name[ARGS]{…}`` of later models."""

from __future__ import annotations

import re

from .tagged import Tagged


class Mistral(Tagged):
    """See the module's docstring."""

    opener = "[TOOL_CALLS]"
    name_before = re.compile(r"\s*([A-Za-z0-9_.-]{1,64})\s*(?:\[CALL_ID\]\s*\w+\s*)?(?:\[ARGS\]\s*)?(?=\{)")
    control_tokens = frozenset({opener})
