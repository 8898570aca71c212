"""A result that holds one thing a concept, found by its name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, TypeVar

from caft_lens._support.errors import UnknownName, nearest

Item = TypeVar("Item")


class ByName(Mapping[str, Item]):
    """A mapping from names, in order, in which a name that is none is told the nearest.

    A subclass says in `_what` what it has of each, and keeps it in `_items`.
    """

    _what: ClassVar[str]
    _items: Mapping[str, Item]

    def __getitem__(self, name: str) -> Item:
        if name not in self._items:
            raise UnknownName(f'No {self._what} of "{name}".{nearest(name, self._items)}')
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)
