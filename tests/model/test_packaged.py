"""Models in packages: converted once, whole or not at all, and refused where they are something else."""

from __future__ import annotations

import importlib.util
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_models import tiny_model, tiny_tokenizer

import caft_lens as cl
from caft_lens._support.errors import BadFile, BadModel, MissingFile
from caft_lens._support.files import file_hash
from caft_lens.model import loading, packaged


@pytest.fixture
def conversions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """A package with a model called "small", whose file was converted so often."""
    package = tmp_path / "site" / "small_package"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "small.gguf").write_bytes(b"GGUF, as far as this test goes")
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setenv("CAFT_LENS_CACHE", str(tmp_path / "cache"))
    small = packaged.Packaged("small_package", "small.gguf", file_hash(package / "small.gguf"), "small==1", "org/small")
    monkeypatch.setitem(packaged.PACKAGED, "small", small)
    done: list[Path] = []

    def convert(file: Path):
        done.append(file)
        return tiny_model("llama"), tiny_tokenizer()

    monkeypatch.setattr(loading, "_from_gguf", convert)
    return done


def folder_of(tmp_path: Path) -> Path:
    (folder,) = (one for one in (tmp_path / "cache").iterdir() if one.is_dir())
    return folder


def test_a_packaged_model_is_converted_once_and_is_the_same_afterwards(conversions, tmp_path):
    first, second = cl.load("small"), cl.load("small")
    assert len(conversions) == 1
    assert first.name == "small"
    right = cl.load(tiny_model("llama"), tokenizer=tiny_tokenizer())
    assert (first.fingerprint, first.reading) == (second.fingerprint, second.reading)
    assert first.fingerprint == right.fingerprint
    assert cl.load("small", dtype="bfloat16").dtype == torch.bfloat16
    assert [one.name for one in (tmp_path / "cache").iterdir() if one.is_dir()] == [folder_of(tmp_path).name]


def test_those_who_ask_at_once_wait_for_one_conversion(conversions):
    folders = []
    threads = [
        threading.Thread(target=lambda: folders.append(packaged.converted("small", loading._from_gguf))) for _ in "abc"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(conversions) == 1
    assert len(set(folders)) == 1


def test_a_conversion_that_was_killed_leaves_nothing_that_is_taken_for_a_model(conversions, tmp_path, monkeypatch):
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(packaged, "file_hash", lambda path: killed() if "safetensors" in str(path) else file_hash(path))
        with pytest.raises(KeyboardInterrupt):
            cl.load("small")
    left = tmp_path / "cache" / f".small-{packaged.PACKAGED['small'].sha256[:12]}.new-killed"
    left.mkdir()
    cl.load("small")
    assert len(conversions) == 2
    assert not left.exists()


def test_a_converted_model_that_was_damaged_is_refused(conversions, tmp_path):
    cl.load("small")
    weights = folder_of(tmp_path) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)
    with pytest.raises(BadFile, match="remove the folder and load again"):
        cl.load("small")


def test_a_package_with_another_file_or_none_says_how_to_get_the_model(conversions, monkeypatch):
    small = packaged.PACKAGED["small"]
    monkeypatch.setitem(packaged.PACKAGED, "small", replace(small, sha256="0" * 64))
    with pytest.raises(BadFile, match=r"SHA-256 is another.*small==1"):
        cl.load("small")
    monkeypatch.setitem(packaged.PACKAGED, "small", replace(small, module="not_there"))
    with pytest.raises(MissingFile, match=r'small==1.*load\("org/small"\)'):
        cl.load("small")
    assert not conversions


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no POSIX permissions here")
def test_where_no_cache_can_be_written_the_file_itself_is_read(conversions, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CAFT_LENS_CACHE", str(tmp_path / "file" / "cache"))
    assert packaged.converted("small", loading._from_gguf).suffix == ".gguf"


def test_a_broken_or_other_gguf_is_one_clear_error(tmp_path):
    if importlib.util.find_spec("gguf") is None:
        pytest.skip("gguf is not installed: make pretrained")
    from gguf import GGUFWriter

    other = tmp_path / "other.gguf"
    writer = GGUFWriter(other, "clip")
    writer.add_name("eyes")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    files = {"empty.gguf": b"", "noise.gguf": bytes(range(256)) * 8, "cut.gguf": other.read_bytes()[:40]}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    for name in (*files, "other.gguf"):
        with pytest.raises(BadModel, match=rf"Cannot read .*{name}"):
            cl.load(tmp_path / name)
    with pytest.raises(BadModel, match="holds 4 GGUF files"):
        cl.load(tmp_path)
