"""What packages add by entry points: organisms, and the worlds that draw data sets and tasks for them.

[project.entry-points."caft_lens.organisms"]
acme = "acme_data"               # a package: every folder in it that holds organism.json is an organism

[project.entry-points."caft_lens.worlds"]
maze = "acme_data.maze:WORLD"    # a `World`, which the cards of its organisms name: {"world": "maze", …}
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

from caft_lens._support.errors import BadArgument, nearest

CARD = "organism.json"
ORGANISMS, WORLDS = "caft_lens.organisms", "caft_lens.worlds"


class World(Protocol):
    """What a world gives to whoever reads data; with tasks it is a `caft_lens.evaluate.tasks.WorldOfTasks`.

    One that also says `any_model = True` needs no organism: its data sets and tasks are for any model, and their names
    begin with its own, `"smollm2/gender"`. Where it brings SAEs for a model of its name, `saes` is the folder that they
    lie in by hook point.
    """

    def names(self) -> Sequence[str]:
        """The data sets that are drawn on demand, beside those in an organism's folder."""

    def dataset(self, name: str, seed: int, size: int | None = None) -> Sequence[Any]:
        """One of them, as `Texts`: the same at every call.

        Args:
            name: Which; the world may understand more than it lists, such as a share behind an `@`.
            seed: The organism's.
            size: How many texts; as many as the world says when `None`.

        Raises:
            KeyError: When there is no such data set.
        """


@cache
def organisms() -> dict[str, Path]:
    """The folders of the organisms that packages ship, by name.

    Raises:
        BadArgument: When two packages ship one of the same name.
    """
    found: dict[str, tuple[str, Path]] = {}
    for entry in _entries(ORGANISMS):
        try:
            root = Path(str(files(entry.value)))
        except Exception as error:  # whatever a package does wrong, the others are there
            warnings.warn(f"The organisms of {_of(entry)} are left out: {error}", stacklevel=2)
            continue
        for card in root.glob(f"*/{CARD}"):
            name, first = card.parent.name, found.get(card.parent.name)
            if first is not None:
                raise BadArgument(f'{first[0]} and {_of(entry)} both ship an organism "{name}": uninstall one of them.')
            found[name] = _of(entry), card.parent
    return {name: folder for name, (_, folder) in sorted(found.items())}


def world_names() -> list[str]:
    """The worlds that there are."""
    return sorted({entry.name for entry in _entries(WORLDS)})


@cache
def world_named(name: str) -> Any:
    """A world, by the name of its entry point.

    Raises:
        BadArgument: When no package gives it, two do, or it cannot be imported.

    Example:
        >>> "sentiment-sports" in world_named("quiz").names()
        True
    """
    given = [entry for entry in _entries(WORLDS) if entry.name == name]
    if not given:
        raise BadArgument(f'There is no world "{name}".{nearest(name, world_names())}')
    if len(given) > 1:
        raise BadArgument(f'{" and ".join(map(_of, given))} both give a world "{name}": uninstall one of them.')
    try:
        return given[0].load()
    except Exception as error:
        raise BadArgument(f'The world "{name}" of {_of(given[0])} cannot be imported: {error}') from error


def for_any_model(name: str) -> bool:
    """Whether a world needs no organism.

    Raises:
        BadArgument: As for `world_named`.

    Example:
        >>> for_any_model("smollm2"), for_any_model("quiz")
        (True, False)
    """
    return getattr(world_named(name), "any_model", False) is True


@cache
def _entries(group: str) -> tuple[EntryPoint, ...]:
    return tuple(sorted(entry_points(group=group), key=lambda entry: (entry.name, entry.value)))


def _of(entry: EntryPoint) -> str:
    return f"the package {entry.dist.name}" if entry.dist else entry.value
