"""Our errors as LangChain's too, so that its middlewares know them: what is too long to answer, what no repetition would mend."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from langchain_core import exceptions

from nudging_llm import ContextOverflowError, NudgingError

#: LangChain's classes; its older versions lack some.
_OVERFLOW: Any = getattr(exceptions, "ContextOverflowError", None)
_INVALID: Any = getattr(exceptions, "ModelInvalidRequestError", None)


@contextmanager
def langchain_errors() -> Iterator[None]:
    """Errors of ours that pass through here are LangChain's as well; what caught them before still does."""
    try:
        yield
    except NudgingError as error:
        theirs = (
            _OVERFLOW
            if isinstance(error, ContextOverflowError)
            else _INVALID
            if isinstance(error, ValueError)
            else None
        )
        if theirs is not None and not isinstance(error, theirs):
            error.__class__ = _both(type(error), theirs)
        raise


def _both(ours: type[NudgingError], theirs: type[Exception]) -> Any:
    """The class that is both: always the same."""
    if (ours, theirs) not in _CLASSES:
        members = {"__module__": ours.__module__, "__doc__": ours.__doc__, "_named": ours}
        _CLASSES[ours, theirs] = type(ours.__name__, (ours, theirs), members)
    return _CLASSES[ours, theirs]


_CLASSES: dict[tuple[type, type], Any] = {}
