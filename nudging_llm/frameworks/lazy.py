"""Generators that are loaded when first used, once per process, and shared by all who ask for the same.

For frameworks, which build and copy their model objects freely: such an object holds a ``LazyGenerator``, costs nothing until
its first answer, and a copy with another threshold uses the same weights. Knows no framework; torch is loaded with the weights.
"""

from __future__ import annotations

import hashlib
import json
import threading
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from ..engines.load import ModelSource, load_engine
from ..errors import ConfigError, StarterError
from ..text.base_template import BaseTemplate

if TYPE_CHECKING:
    from ..engines.base import Engine
    from ..generator import NudgingGenerator

#: In place of a model: the starter pair's model for that part.
STARTER = "starter"

_LOCK = threading.RLock()
_ENGINES: WeakValueDictionary[str, LazyEngine] = WeakValueDictionary()
_GENERATORS: WeakValueDictionary[str, LazyGenerator] = WeakValueDictionary()
_SERIALS: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


class LazyEngine:
    """One model, loaded when first used.

    Attributes:
        name: how records call it, as far as that is known before it is loaded.
        key: says what it is: equal keys, equal weights. That of a loaded model is good for this process only.
    """

    def __init__(self, source: ModelSource, starter: str, options: Mapping[str, Any], key: str) -> None:
        self.key = key
        self._source, self._starter, self._options = source, starter, dict(options)
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self.name = _name(source, starter)

    def get(self) -> Engine:
        """The model. Loads it in the first call; others wait.

        Raises:
            ModelLoadError, TokenizerMismatchError, StarterError: it cannot be loaded; the next call tries again.
        """
        with self._lock:
            if self._engine is None:
                if self._source == STARTER:
                    from .. import starter

                    folder = getattr(starter.fetch(), self._starter)
                    options = {**self._options, "local_files_only": True}
                    self._engine = load_engine(folder, name=self.name, **options)
                else:
                    self._engine = load_engine(self._source, **self._options)
            return self._engine

    @property
    def context_length(self) -> int | None:
        """In tokens; None if it is unlimited, or not known before the model is loaded."""
        if self._engine is not None:
            return self._engine.context_length
        if isinstance(self._source, tuple):
            config: Any = getattr(self._source[0], "config", None)
            text_config = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
            return getattr(text_config, "max_position_embeddings", None)
        if self._source != STARTER:
            folder = Path(self._source)
            return _context_length(folder if folder.is_dir() else _downloaded(str(self._source), self._options))
        from .. import starter

        try:
            return _context_length(getattr(starter.folders(), self._starter))
        except StarterError:  # nothing says where it would be
            return None


class LazyGenerator:
    """A base model and a nudging model, loaded when first used. A deep copy of what holds it shares it."""

    def __init__(self, base: LazyEngine, nudging: LazyEngine, options: Mapping[str, Any], key: str) -> None:
        self.base, self.nudging, self.key = base, nudging, key
        self._options = dict(options)
        self._lock = threading.Lock()
        self._generator: NudgingGenerator | None = None

    def __deepcopy__(self, memo: Any) -> LazyGenerator:
        return self

    @property
    def loaded(self) -> bool:
        """Whether ``get`` returns at once."""
        return self._generator is not None

    def get(self) -> NudgingGenerator:
        """The generator. Errors as for ``NudgingGenerator.from_pretrained``."""
        if self._generator is None:
            with self._lock:
                if self._generator is None:
                    from ..generator import NudgingGenerator

                    self._generator = NudgingGenerator(self.base.get(), self.nudging.get(), **self._options)
        return self._generator


def lazy_generator(
    base_model: ModelSource,
    nudging_model: ModelSource,
    *,
    device: str = "auto",
    dtype: Any = "auto",
    base_model_kwargs: Mapping[str, Any] | None = None,
    nudging_model_kwargs: Mapping[str, Any] | None = None,
    base_template: BaseTemplate | str | None = None,
    cache_slots: int = 8,
    cache_bytes: int = 2**30,
    batch_size: int = 8,
) -> LazyGenerator:
    """As ``NudgingGenerator.from_pretrained``, but nothing is loaded, and who asks for the same gets the same.

    Weights stay in memory while anybody holds what this returns.

    Args:
        base_model: as there, or ``STARTER``.
        nudging_model: as there, or ``STARTER``.

    Raises:
        ConfigError: a model is none that could be loaded.
        TemplateError: ``base_template`` does not compile.
    """
    shared = {"device": device, "dtype": dtype}
    with _LOCK:
        base = _lazy_engine(base_model, "base", shared, base_model_kwargs)
        nudging = _lazy_engine(nudging_model, "nudging", shared, nudging_model_kwargs)
        template = BaseTemplate(base_template) if isinstance(base_template, str) else base_template or BaseTemplate()
        options = {
            "base_template": template,
            "cache_slots": cache_slots,
            "cache_bytes": cache_bytes,
            "batch_size": batch_size,
        }
        key = _key(base=base.key, nudging=nudging.key, **options)
        found = _GENERATORS.get(key)
        if found is None:
            found = _GENERATORS[key] = LazyGenerator(base, nudging, options, key)
        return found


def serial(thing: Any) -> str:
    """A name for a live object, for as long as it lives; no other, in this process or another, has it."""
    with _LOCK:
        return _SERIALS.setdefault(thing, f"loaded-{uuid.uuid4().hex[:12]}")


def _lazy_engine(
    source: ModelSource, part: str, shared: Mapping[str, Any], kwargs: Mapping[str, Any] | None
) -> LazyEngine:
    if isinstance(source, tuple) and len(source) == 2:
        options, what = dict(kwargs or {}), [serial(part) for part in source]
    elif isinstance(source, (str, Path)) and str(source):
        where = str(Path(source).resolve()) if Path(source).is_dir() else str(source)
        options, what = {**shared, **(kwargs or {})}, [where, *_folder_state(source)]
    else:
        raise ConfigError(
            f"{part}_model={source!r}: give a hub id, a local folder, a loaded (model, tokenizer), or {STARTER!r}."
        )
    if source == STARTER:
        what.append(part)
    key = _key(source=what, **options)
    found = _ENGINES.get(key)
    if found is None:
        found = _ENGINES[key] = LazyEngine(source, part, options, key)
    return found


def _folder_state(source: str | Path) -> list[str]:
    """When a local folder's files were written: a model trained further, or with another chat template, is another one."""
    folder = Path(source)
    if not folder.is_dir():
        return []
    kinds = (".safetensors", ".json", ".jinja", ".model", ".txt", ".py")  # weights, tokenizer, templates, code
    stats = [(path.name, path.stat()) for path in sorted(folder.iterdir()) if path.suffix in kinds]
    return [f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats]


def _key(**parts: Any) -> str:
    """One short text for all of this. It goes into traces: an access token is no part of it, and nothing can be read from it."""
    parts.pop("token", None)
    if "dtype" in parts:  # "float32" and torch.float32 are one
        parts["dtype"] = str(parts["dtype"]).removeprefix("torch.")
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=repr).encode()).hexdigest()[:32]


def _name(source: ModelSource, part: str) -> str:
    if source == STARTER:
        from .. import starter

        return starter.BASE_NAME if part == "base" else starter.NUDGING_NAME
    if isinstance(source, tuple):
        return str(getattr(source[0], "name_or_path", "") or type(source[0]).__name__)
    return str(source)


def _downloaded(hub_id: str, options: Mapping[str, Any]) -> Path | None:
    """The folder of a hub's model in this machine's cache; None if it is not there. Asks no network."""
    try:
        from huggingface_hub import try_to_load_from_cache

        where = {name: options[name] for name in ("cache_dir", "revision") if options.get(name) is not None}
        found = try_to_load_from_cache(hub_id, "config.json", **where)
    except (ImportError, ValueError):  # the latter: no hub id, such as the path of a folder that is not there yet
        return None
    return Path(found).parent if isinstance(found, str) else None


def _context_length(folder: Path | None) -> int | None:
    """As a model folder's config.json has it."""
    if folder is None:
        return None
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    found = (config.get("text_config") or config).get("max_position_embeddings")
    return found if isinstance(found, int) else None
