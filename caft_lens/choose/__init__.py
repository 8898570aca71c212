"""Choosing which concepts to ablate, on record, by hand, by examples or by a sentence; and the session behind a panel.

choosing   `choose(concepts, {name: reason})`, `choose.by_examples`, `choose.by_sentence`
session    a choice in the making: undone, redone, saved
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from caft_lens._support import lazy

if TYPE_CHECKING:
    from caft_lens.choose.choosing import Choice as Choice
    from caft_lens.choose.choosing import by_examples as by_examples
    from caft_lens.choose.choosing import by_sentence as by_sentence

_CHOOSING = "caft_lens.choose.choosing"

__getattr__, __dir__, __all__ = lazy.exports(
    __name__, dict.fromkeys(("Choice", "by_examples", "by_sentence"), _CHOOSING)
)
lazy.callable_module(__name__, "choose", source=_CHOOSING)
