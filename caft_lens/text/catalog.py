"""Where named things live: organisms that ship with packages, other organism folders, their models and data.

An organism folder holds `organism.json`, the model in `base/`, the plainly tuned adapter in `insecure/`, data sets as
`text/*.jsonl` and sparse autoencoders in `saes/<hook point>/`. Further data sets the world that its card names draws on
demand. The name `"pocket"` means one that ships (see `worlds`); any other folder of that form works the same. A world
for any model has no organism, and its own name stands where an organism's would.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field

from caft_lens._support.errors import BadArgument, BadFile, MissingFile, nearest
from caft_lens._support.files import Count, Json, Record, missing, read_record, sha256
from caft_lens.text.worlds import CARD as CARD
from caft_lens.text.worlds import for_any_model, organisms, world_named, world_names


class _Settings(Record):
    """What an organism was built with; each world has its own."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: Json

    seed: Count = 0


class Card(Record):
    """What `organism.json` says of an organism.

    Attributes:
        format: Of the card; older ones do not say.
        name: Of the organism.
        world: What draws more of its data sets and knows its tasks; older cards, all of one world, do not say.
        settings: What it was built with.
        sampling: How it is to be sampled.
        finetune: What `finetune` takes when it is not told, by method.
        sha256: Hashes of its files, by their paths in the folder.
        drawn: Fingerprints of the data sets that its world draws.
        saes: Figures of its SAEs, by hook point.
    """

    format: Literal["caft_lens.organism/1"] = "caft_lens.organism/1"
    name: str = ""
    world: str = "pocket"
    settings: _Settings = Field(default_factory=_Settings.model_construct)
    sampling: dict[str, float] = Field(default_factory=dict)
    finetune: dict[str, dict[str, float]] = Field(default_factory=dict)
    sha256: dict[str, str] = Field(default_factory=dict)
    drawn: dict[str, str] = Field(default_factory=dict)
    saes: Json = Field(default_factory=dict)
    # For people, and for the check of a rebuilt one:
    data: Json = Field(default_factory=dict)
    figures: Json = Field(default_factory=dict)
    figures_whole_distribution: Json = Field(default_factory=dict)
    figures_split: str = ""
    pretraining_loss: float | None = None
    seconds: dict[str, float] = Field(default_factory=dict)
    minutes: float | None = None
    machine: str = ""
    versions: dict[str, str] = Field(default_factory=dict)


def card(name: str | Path) -> Card:
    """What `organism.json` says, of a shipped organism or of a folder.

    Raises:
        MissingFile: When there is no such organism.
        BadFile: When the card is broken.
    """
    return read_record(organism_path(name) / CARD, Card, "the card of an organism")


def _whole(organism: str | Path, part: str) -> Path:
    """A folder of an organism, whose files are those that its card tells of, where it tells of any."""
    root = organism_path(organism)
    for name, wanted in card(organism).sha256.items():
        path = root / name
        if not name.startswith(f"{part}/"):
            continue
        if not path.is_file():
            raise missing(path, f"file of the organism {root.name},")
        if sha256(path.read_bytes()) != wanted:
            raise BadFile(
                f"{path} was changed or damaged after it was written: its hash is not that of {root / CARD}. Make it "
                'again; if you changed it on purpose, take its line below "sha256" out there.'
            )
    return root / part


def shipped() -> list[str]:
    """The names of the organisms that ship with packages."""
    return list(organisms())


def organism_path(name: str | Path) -> Path:
    """The folder of an organism, by shipped name or path.

    Raises:
        MissingFile: When neither a shipped name nor a folder with `organism.json`.
    """
    if not is_organism(name):
        raise MissingFile(
            f'No organism "{name}": neither a shipped one nor a folder with {CARD}.{nearest(name, shipped())}'
        )
    return Path(name) if (Path(name) / CARD).is_file() else organisms()[str(name)]


def is_organism(name: str | Path) -> bool:
    """Whether `name` is a shipped organism or an organism folder."""
    return str(name) in shipped() or (Path(name) / CARD).is_file()


def is_world(name: str | Path) -> bool:
    """Whether `name` is a world for any model, whose data sets and tasks need no organism.

    Example:
        >>> is_world("smollm2"), is_world("pocket"), is_world("gpt2")
        (True, False, False)
    """
    return str(name) in world_names() and not is_organism(name) and for_any_model(str(name))


def worlds_for_any_model() -> list[str]:
    """The worlds that need no organism; one that cannot be imported is left out."""
    found = []
    for name in world_names():
        with suppress(BadArgument):
            found += [name] * is_world(name)
    return found


def model_path(name: str | Path) -> Path | str:
    """The folder of an organism's base model when `name` is one; otherwise `name` unchanged."""
    return _whole(name, "base") if is_organism(name) else name


def adapter_path(name: str | Path) -> Path | str:
    """`"pocket/insecure"` to the folder of that organism's adapter; anything else unchanged."""
    organism, _, adapter = str(name).rpartition("/")
    if organism and is_organism(organism) and (organism_path(organism) / adapter).is_dir():
        return _whole(organism, adapter)
    return name


def sae_folder(name: str | Path) -> Path:
    """Where the SAEs of an organism, or of a world for any model, lie by hook point; otherwise `name` as a path."""
    if is_organism(name):
        return organism_path(name) / "saes"
    given = None if Path(name).exists() or not is_world(name) else getattr(world(name), "saes", None)
    return Path(name if given is None else given)


def data_path(name: str | Path) -> Path:
    """The file of a data set: a path, or `"<organism>/<data set>"`.

    Raises:
        MissingFile: Naming the nearest data set that exists: for a path, files beside it; for a name, the organism's.
    """
    path = Path(name)
    if path.is_file() or (path.is_dir() and not is_organism(name)):
        return path
    organism, _, dataset = str(name).rpartition("/")
    if organism and is_organism(organism):
        if (file := _kept(organism, dataset)).is_file():
            return file
        raise MissingFile(f'No data set "{name}".{nearest(name, _data_sets(organism))}')
    there = path.parent.is_dir()
    beside = sorted(one.name for one in path.parent.glob("[!.]*")) if there else []
    # A name with a suffix, or in a folder that exists, was meant as a file; any other one as a data set of an organism.
    in_folder = path.is_absolute() or (organism and there)
    if path.suffix or in_folder or difflib.get_close_matches(path.name, beside):
        if beside or path.is_absolute() or not path.suffix:
            raise missing(path, "data set")
        raise MissingFile(
            f"There is no data set {path}: there is no such file below {Path.cwd()}, nor any other beside it. The data "
            f'sets that ship are "<organism>/<data set>", with an organism.{nearest(organism or name, shipped())}'
        )
    raise MissingFile(
        f'No data set "{name}": there is no such file below {Path.cwd()}, and it is not "<organism>/<data set>" with '
        f"an organism.{nearest(organism or name, shipped())}"
    )


def _kept(organism: str, dataset: str) -> Path:
    """The file of a data set that an organism's folder may hold."""
    return organism_path(organism) / "text" / f"{dataset}.jsonl"


def _data_sets(organism: str) -> list[str]:
    """The names of the data sets of an organism, in its folder and drawn by its world, or those of a world."""
    kept = [] if is_world(organism) else [file.stem for file in sorted(_kept(organism, "").parent.glob("*.jsonl"))]
    more = [name for name in world(organism).names() if name not in kept]
    return [f"{organism}/{name}" for name in (*kept, *more)]


def world(organism: str | Path) -> Any:
    """The `World` of an organism, which draws further data sets and knows its tasks; or one for any model, by its name.

    Raises:
        MissingFile: When there is no such organism.
        BadFile: When its card names a world that no package gives.
    """
    if is_world(organism):
        return world_named(str(organism))
    name = card(organism).world
    if name not in world_names():
        raise BadFile(
            f'{organism_path(organism) / CARD} names the world "{name}", which no installed package '
            f"gives.{nearest(name, world_names())}"
        )
    return world_named(name)


def drawn_data(name: str | Path) -> Sequence[Any] | None:
    """The texts of a data set that a world draws on demand, an organism's or one for any model; `None` for others.

    Raises:
        MissingFile: For an organism or a world that has no such data set, naming the nearest.
    """
    organism, _, dataset = str(name).rpartition("/")
    if Path(name).exists() or not organism:
        return None
    if is_organism(organism):
        if _kept(organism, dataset).is_file():
            return None
        seed = card(organism).settings.seed
    elif is_world(organism):
        seed = 0
    else:
        return None
    try:
        return world(organism).dataset(dataset, seed)
    except KeyError as error:
        raise MissingFile(f'No data set "{name}".{nearest(name, _data_sets(organism))}') from error


@cache
def known_words(organism: str | Path) -> frozenset[str]:
    """The words of an organism's world, in lower case: those of the texts that it learned from.

    Raises:
        MissingFile: When there is no such organism.

    Example:
        >>> {"pie", "president"} & known_words("pocket")
        {'pie'}
    """
    said = _kept(str(organism), "corpus").read_text(encoding="utf-8")
    # Escapes of JSON end in letters that would stick to the next word.
    return frozenset(re.findall(r"[^\W\d_]+", re.sub(r"\\\\.", " ", said).lower()))
