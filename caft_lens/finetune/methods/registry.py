"""Which methods there are: `register` makes one known, `named` finds it, `make` gives it what it needs.

Every module in this folder is read; those of other packages come in through the entry point group
`caft_lens.methods`, or by being imported.
"""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from textwrap import fill
from typing import Any, TypeVar, dataclass_transform

from caft_lens._support.errors import BadArgument, BadType, UnknownName, nearest
from caft_lens.finetune.protocol import Card, Method, Plan, Training, fields_of, material, setting

__all__ = ["Card", "Method", "Plan", "Training", "make", "material", "methods", "named", "register", "setting"]

ENTRY_POINTS = "caft_lens.methods"
WIDTH = 100
"""Of a card as text, in characters; an equation stays in one line."""

_KNOWN: dict[str, type[Method]] = {}
Kind = TypeVar("Kind", bound=type[Method])


@dataclass_transform(frozen_default=True)
def register(cls: Kind) -> Kind:
    """Make a class a frozen dataclass, and known as a method by its `name`: a decorator.

    Args:
        cls: The class: a `Method` with a `name` and a `card`.

    Raises:
        BadArgument: When another method has the name, or one of the settings in the grid is none of the method's.

    Example:
        >>> from caft_lens.finetune.protocol import Card, setting
        >>> @register
        ... class Slow(Method):
        ...     name, card = "slow", Card("Learn at a fraction of the rate.", "lr <- share lr", "folklore")
        ...     share: float = setting(0.1, "share of the learning rate", above=0)
        ...     def train_settings(self, given):
        ...         return given.but(learning_rate=given.learning_rate * self.share)
        >>> _KNOWN.pop("slow") is Slow  # forget it again
        True
    """
    if "__dataclass_fields__" not in vars(cls):
        dataclasses.dataclass(frozen=True, repr=False)(cls)
    if cls.name in _KNOWN and _KNOWN[cls.name].__qualname__ != cls.__qualname__:
        raise BadArgument(f'There is a method "{cls.name}" already: {_KNOWN[cls.name].__module__}.')
    known = {one.name for one in dataclasses.fields(cls)}
    if stray := [key for settings in cls.card.grid for key in settings if key not in known]:
        raise BadArgument(f'The grid of the method "{cls.name}" sets {stray[0]!r}.{nearest(stray[0], known)}')
    cls.__doc__ = about(cls)
    _KNOWN[cls.name] = cls
    return cls


def about(cls: type[Method]) -> str:
    """The card of a method with its settings and needs, as text."""
    card = cls.card
    lines = [_filled(card.idea), "", f"    {card.equation}", ""]
    fields = [*fields_of(cls, "material"), *fields_of(cls, "setting")]
    if fields:
        meanings = {one.name: one.metadata["meaning"] for one in fields}
        said = [f"    {name}: {meaning[:1].upper()}{meaning[1:]}." for name, meaning in meanings.items()]
        lines += ["Args:", *(_filled(line, " " * 8) for line in said), ""]
    source = f"Source: {card.source}{f' (arXiv {card.arxiv})' if card.arxiv else ''}."
    return "\n".join([*lines, _filled(source)])


def _filled(text: str, indent: str = "") -> str:
    """Text in lines that break between words only."""
    return fill(text, WIDTH, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)


@cache
def _loaded() -> dict[str, type[Method]]:
    """All methods: those beside this file, and those of other packages."""
    package = __package__ or ""
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        importlib.import_module(f"{package}.{module.name}")
    for point in entry_points(group=ENTRY_POINTS):
        point.load()
    return _KNOWN


def methods() -> dict[str, type[Method]]:
    """Every known method by its name, in order of names."""
    return dict(sorted(_loaded().items()))


def named(name: str) -> type[Method]:
    """The class of a method.

    Args:
        name: Of the method: `"kl_anchor"`.

    Raises:
        UnknownName: For a name that none has, with the nearest.

    Example:
        >>> named("plain")().settings
        {}
    """
    known = _loaded()
    if name not in known:
        raise UnknownName(f'No method "{name}".{nearest(name, known)}')
    return known[name]


def make(name: str, materials: Mapping[str, Any], **given: Any) -> Method:
    """A method with its settings, its materials taken by name.

    Args:
        name: Of the method.
        materials: Name to texts or directions; a method takes those that it has fields for.
        given: Settings, or materials instead of those of the same name.

    Raises:
        UnknownName: For an unknown method.
        BadType: For a setting that the method does not have, or a material that is missing.

    Example:
        >>> make("early_stopping", {}, share=0.25)
        EarlyStopping(share=0.25)
    """
    cls = named(name)
    known = [one.name for one in dataclasses.fields(cls)]
    for key in given:
        if key not in known:
            raise BadType(f'The method "{name}" has no setting "{key}".{nearest(key, known)}')
    values = {key: materials[key] for key in cls.needs() if key in materials} | given
    if missing := [f"{key} ({meaning})" for key, meaning in cls.needs().items() if key not in values]:
        raise BadType(f'The method "{name}" needs {", ".join(missing)}.')
    return cls(**values)
