"""``ChatNudging`` for LangChain: a pretrained base model, aligned at inference time by a small instruction-tuned one.

``get_provenance`` and ``ProvenanceCallbackHandler`` say which model wrote what, how sure the base model was, and why.
"""

from __future__ import annotations

from .callbacks import AnswerProvenance, AsyncProvenanceCallbackHandler, ProvenanceCallbackHandler
from .chat_models import ChatNudging
from .provenance import get_pieces, get_provenance, get_provenances

__version__ = "0.1.0"

__all__ = [
    "AnswerProvenance",
    "AsyncProvenanceCallbackHandler",
    "ChatNudging",
    "ProvenanceCallbackHandler",
    "get_pieces",
    "get_provenance",
    "get_provenances",
]
