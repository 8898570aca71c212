"""Data sets that a world draws when they are asked for, by a name that may end in a share, `"gender@0.9"`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from caft_lens._support.errors import BadArgument, UnknownName, nearest
from caft_lens.text.documents import Text, Texts

Make = Callable[[int, int, float], list[Text]]
"""How many, the seed, the share that agrees -> the texts."""


@dataclass(frozen=True)
class Recipe:
    """How a data set is drawn.

    Attributes:
        make: Draws it.
        size: How many texts, unless told otherwise.
        what: What it is.
        dial: Whether the share of pages on which the intended and the spurious answer agree can be chosen.
    """

    make: Make
    size: int
    what: str
    dial: bool = False


def drawn(
    recipes: Mapping[str, Recipe],
    name: str,
    seed: int = 0,
    size: int | None = None,
    agree: float | None = None,
    aliases: Mapping[str, str] | None = None,
) -> Texts:
    """A data set by its name.

    Args:
        recipes: Name -> how it is drawn.
        name: A key of `recipes` or of `aliases`; where there is a dial, with a share or without, ``"gender@0.9"``.
        seed: Of the draw.
        size: How many texts; the recipe's by default.
        agree: Where there is a dial, the share of pages that agree; by default the one in the name, or all.
        aliases: Name -> what it stands for.

    Raises:
        UnknownName: There is no such data set.
        BadArgument: `agree` is no share, is given twice, or is given for a data set without that dial.

    Example:
        >>> recipes = {"pies": Recipe(lambda n, seed, agree: [Text(text=f"{seed} {agree}")] * n, 2, "pies", dial=True)}
        >>> drawn(recipes, "half", 7, aliases={"half": "pies@0.5"})[0].text
        '7 0.5'
    """
    aliases = aliases or {}
    base, at, share = aliases.get(name, name).partition("@")
    if base not in recipes:
        raise UnknownName(f'There is no data set "{name}".{nearest(base, [*recipes, *aliases])}')
    recipe = recipes[base]
    if at:
        if agree is not None:
            raise BadArgument(f'"{name}" says how many pages agree; leave agree={agree} out.')
        try:
            agree = float(share)
        except ValueError:
            raise BadArgument(
                f'"{name}": after the @ stands the share of pages that agree, such as 0.9, not "{share}".'
            ) from None
    if agree is not None and not recipe.dial:
        raise BadArgument(f'"{base}" has no dial: only of some training sets can it be chosen how many pages agree.')
    texts = recipe.make(recipe.size if size is None else size, seed, 1.0 if agree is None else agree)
    return Texts(texts, name=name)


def checked_task(name: str, tasks: Sequence[str]) -> None:
    """Refuse a name that is no task.

    Raises:
        UnknownName: There is no such task.
    """
    if name not in tasks:
        raise UnknownName(f'There is no task "{name}".{nearest(name, tasks)}')
