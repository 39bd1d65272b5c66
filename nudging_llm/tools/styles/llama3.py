"""Llama 3's calls: ``<|python_tag|>{"name": …, "parameters": …}``."""

from __future__ import annotations

from .tagged import Tagged


class Llama3(Tagged):
    """See the module's docstring."""

    opener = "<|python_tag|>"
    control_tokens = frozenset({opener})
