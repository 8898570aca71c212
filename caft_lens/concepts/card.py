"""A concept set as files: `directions.safetensors`, `card.json` with everything else, and a README for people."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field, JsonValue, model_validator
from safetensors.torch import save as dump_tensors

from caft_lens._support import renamed
from caft_lens._support.errors import BadData, BadFile, MissingFile
from caft_lens._support.files import (
    Count,
    Json,
    Named,
    Record,
    absent,
    atomic_path,
    check_tensor,
    naming,
    parse_tensors,
    parsed,
    read_together,
    sha256,
    write_together,
)
from caft_lens.concepts.concept import Concept
from caft_lens.display.markdown import code, plain
from caft_lens.model.hook_names import PATTERN

FORMAT = "caft_lens.concepts/1"
DIRECTIONS, CARD = "directions.safetensors", "card.json"


def write(folder: Path, concepts: Sequence[Concept], provenance: Mapping[str, Any]) -> None:
    """Write a set over whatever set lies there, so that whoever reads finds the one or the other, whole.

    Raises:
        BadData: When `provenance` or the `meta` of a concept holds what JSON does not have; nothing is written then.
    """
    directions = dump_tensors({"directions": torch.stack([c.direction for c in concepts])}, {"format": "pt"})
    card = {
        "format": FORMAT,
        "provenance": provenance,
        "concepts": [
            {f.name: getattr(c, f.name) for f in dataclasses.fields(c) if f.name != "direction"} for c in concepts
        ],
        "directions": {"file": DIRECTIONS, "sha256": sha256(directions)},
    }
    write_together(folder / DIRECTIONS, directions, folder / CARD, card)
    with atomic_path(folder / "README.md") as path:
        path.write_text(_readme(concepts, provenance), encoding="utf-8")


def read(folder: Path) -> tuple[list[Concept], dict[str, Any]]:
    """The concepts and the provenance of a set that `write` wrote.

    Raises:
        MissingFile: When a file is missing.
        BadFile: When a file is truncated, changed or of another kind, or the directions are not those of the card.
    """
    if not (folder / CARD).is_file():
        raise _no_set(folder, CARD)

    def described(card: Any) -> tuple[dict[str, Any], str]:
        if not isinstance(card, dict) or card.get("format") != FORMAT:
            raise BadFile(f"{folder / CARD} is no card of a concept set ({FORMAT}).")
        card = renamed.card(card)
        return card, parsed(card, _Card, str(folder / CARD), "the card of a concept set").directions.sha256

    try:
        card, data = read_together(folder / DIRECTIONS, folder / CARD, described)
    except FileNotFoundError:
        raise _no_set(folder, DIRECTIONS) from None
    described_concepts, provenance = card["concepts"], card["provenance"]
    shape = (len(described_concepts), provenance.get("d_model"))
    directions = check_tensor(parse_tensors(data, folder / DIRECTIONS), "directions", shape, folder / DIRECTIONS)
    lengths = directions.double().norm(dim=1)
    if bool(((lengths - 1).abs() > 1e-3).any()):
        length = lengths[(lengths - 1).abs().argmax()]
        raise BadFile(f"{folder / DIRECTIONS}: a direction has length {length:.4g}; expected 1.")
    with naming(folder / CARD):
        found = [Concept(direction=row, **c) for row, c in zip(directions, described_concepts, strict=True)]
    return found, provenance


def _no_set(folder: Path, name: str) -> MissingFile:
    return absent(folder, name, "holds no concept set", "`ConceptSet.save(folder)` writes it.")


def origin(provenance: Mapping[str, Any]) -> str:
    """The model that concepts were found on, in words."""
    return f"{provenance.get('model', 'an unnamed model')} ({provenance.get('fingerprint', 'no fingerprint')})"


def how_many(number: int, provenance: Mapping[str, Any]) -> str:
    """The number of concepts in words; of a part of a set with that of the whole.

    Example:
        >>> how_many(1, {}), how_many(3, {"part_of": 10})
        ('1 concept', '3 of 10 concepts')
    """
    whole = provenance.get("part_of")
    if isinstance(whole, int) and whole > number:
        return f"{number} of {whole} concepts"
    return f"{number} concept{'' if number == 1 else 's'}"


# -- for people -------------------------------------------------------------------------------------------------------


def _readme(concepts: Sequence[Concept], provenance: Mapping[str, Any]) -> str:
    rows = [
        [plain(c.name), code(c.hook), *map(plain, (f"{c.score:.4g} {c.score_name}".strip(), c.label, c.reason))]
        for c in concepts
    ]
    methods = provenance.get("method", "hand")
    by = " and ".join(map(str, methods)) if isinstance(methods, list) else str(methods)
    lines = [
        f"# {how_many(len(concepts), provenance)}",
        "",
        f"Found on {plain(origin(provenance))}, by {plain(by)}.",
        "",
        "| name | hook point | score | label | reason |",
        "|---|---|---|---|---|",
        *(f"| {' | '.join(row)} |" for row in rows),
        "",
        *(line for choice in provenance.get("choices", []) for line in _told(choice)),
        'Unit directions in `directions.safetensors`, everything else in `card.json`; `ConceptSet.load("<this '
        'folder>")`.',
    ]
    return "\n".join(lines) + "\n"


def _told(choice: Mapping[str, Any]) -> Iterator[str]:
    """One choice on record, as lines of Markdown."""
    rest = f"; {choice['not_considered']} not considered" if choice["not_considered"] else ""
    who, ablated = f"{plain(choice['at'])} by {plain(choice['by'])}", plain(", ".join(choice["ablate"]))
    blind = ", who read blind" if choice.get("blind") else ""
    yield f"Chosen at {who}{blind}, to ablate: {ablated}{rest}."
    yield ""
    if choice["leave"]:
        yield "| left in the model | why |"
        yield "|---|---|"
        yield from (f"| {plain(name)} | {plain(why)} |" for name, why in choice["leave"].items())
        yield ""


# -- the schema -------------------------------------------------------------------------------------------------------


class _Chosen(Record):
    """One choice on record."""

    by: str
    at: str
    ablate: list[Named]
    leave: dict[Named, Named]
    not_considered: Count
    read_by: dict[str, str] | None = None
    blind: bool = False


class _Provenance(Record):
    """Where concepts came from; more may be told."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: Json

    d_model: Annotated[int, Field(gt=0, le=2**31)]
    created: str
    versions: dict[str, str]
    model: str | list[str] | None = None
    fingerprint: str | None = None
    reading: str | list[str] | None = None
    choices: tuple[_Chosen, ...] = ()


class _Described(Record):
    """A concept but its direction."""

    name: Named
    hook: Annotated[str, Field(pattern=f"^{PATTERN}$")]
    source: str
    rank: int
    score: float
    score_name: str
    sign: Literal[1, -1]
    label: str
    reason: str
    meta: dict[str, JsonValue]

    @model_validator(mode="after")
    def _reasoned(self) -> _Described:
        if "chosen_by" in self.meta and not self.reason.strip():
            raise BadData(f"{self.name} is chosen without a reason")
        return self


class _Directions(Record):
    file: Literal["directions.safetensors"]
    sha256: str


class _Card(Record):
    format: Literal["caft_lens.concepts/1"]
    provenance: _Provenance
    concepts: Annotated[list[_Described], Field(min_length=1)]
    directions: _Directions
