"""The ways in which models write calls of tools, one file each; others can be added from outside.

``styles()`` are those that the parser, the streaming parser and the tokenizers ask, in order. ``register`` adds one::

    from nudging_llm.tools.styles import register

    register(MyStyle())  # see ``CallStyle``

The way in which models are *asked* to write calls, which a grammar can hold them to, is ``hermes.py``'s.
"""

from __future__ import annotations

from .bare import Bare
from .base import CallStyle
from .fenced import Fenced
from .hermes import RULED_STYLE
from .llama3 import Llama3
from .mistral import Mistral
from .registry import control_tokens, register, registered, styles, unregister

__all__ = ["CallStyle", "control_tokens", "register", "registered", "styles", "unregister"]

register(Bare(), RULED_STYLE, Mistral(), Llama3(), Fenced())
