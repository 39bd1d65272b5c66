"""Everything that can go wrong, as one tree.

    NudgingError                        base of all; catch this to catch everything of ours
    ├── ConfigError (ValueError)        an option is unknown or out of range
    ├── MessageError (ValueError)       the messages cannot be turned into a prompt
    │   └── UnsupportedContentError     a message holds something other than text
    ├── TemplateError (ValueError)      a prompt template is missing, broken or refuses the messages
    ├── ToolError (ValueError)          a tool or ``tool_choice`` cannot be used as it was given
    ├── GrammarError (ValueError)       a schema, pattern or list of choices cannot be met
    ├── CapabilityError (ValueError)    a model's backend cannot do what is asked
    ├── ContextOverflowError (ValueError)   prompt and answer do not fit a model's context
    ├── ModelError                      a model cannot be used as it was given
    │   ├── ModelLoadError              it could not be loaded
    │   └── TokenizerMismatchError      model and tokenizer do not belong together
    ├── StarterError                    the starter pair could not be fetched, verified or converted
    └── OutOfMemoryError (MemoryError)  a forward did not fit into memory

Each message names the value that was wrong and says what to do about it. All but the last are raised
before any model computes; after each of them the generator can be used as before.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class NudgingError(Exception):
    """Base class of every error that this package raises on purpose. Can be copied and pickled."""

    #: The class to pickle, where this one is made on the fly.
    _named: type[NudgingError] | None = None

    def __reduce__(self) -> Any:
        return _restored, (self._named or type(self), self.args, dict(self.__dict__))


class ConfigError(NudgingError, ValueError):
    """An option is unknown, has the wrong type or lies outside its range."""


class MessageError(NudgingError, ValueError):
    """The messages are empty, in an impossible order, or have an unknown role."""


class UnsupportedContentError(MessageError):
    """A message carries an image, audio or another kind of content that a text model cannot read."""


class TemplateError(NudgingError, ValueError):
    """A chat or base template is missing, does not compile, or fails on these messages."""


class ToolError(NudgingError, ValueError):
    """A tool's definition is unusable, two have one name, or ``tool_choice`` names none of them."""


class GrammarError(NudgingError, ValueError):
    """What an answer should look like (a JSON schema, a pattern, choices) is invalid, cannot be met at all, or not within
    ``max_tokens``."""


class CapabilityError(NudgingError, ValueError):
    """A model's backend cannot do what is asked: sample, follow a grammar, or give a statistic that the gate reads."""


class ContextOverflowError(NudgingError, ValueError):
    """Prompt plus answer exceed a model's context.

    Attributes:
        model: name of the model that is too short.
        limit: its context length in tokens.
        needed: tokens that the request asks for.
        excess: ``needed - limit``.
    """

    def __init__(self, model: str, limit: int, needed: int, detail: str) -> None:
        self.model, self.limit, self.needed = model, limit, needed
        self.excess = needed - limit
        super().__init__(
            f"{model} holds {limit:,} tokens and this request needs {needed:,} ({detail}): "
            f"{self.excess:,} too many. Shorten the messages or lower max_tokens; nothing was cut."
        )


class ModelError(NudgingError):
    """A model cannot be used as it was given."""


class ModelLoadError(ModelError):
    """A model or its tokenizer could not be loaded."""


class TokenizerMismatchError(ModelError):
    """The tokenizer does not belong to the model: their vocabularies do not fit."""


class StarterError(NudgingError):
    """The starter pair could not be downloaded, verified or converted."""


class OutOfMemoryError(NudgingError, MemoryError):
    """A forward did not fit into memory. The session was emptied; the next request can run."""


def _restored(kind: type[NudgingError], args: tuple[Any, ...], attributes: dict[str, Any]) -> NudgingError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the known name closest to ``name``, else an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {close[0]!r}?" if close else ""
