"""Data frames that a notebook shows as they are: text with dollar signs is never typeset as mathematics.

Imported where a table is made, since pandas takes a while.
"""

from __future__ import annotations

from typing import Any

import pandas

from caft_lens.display import html


class Frame(pandas.DataFrame):
    """A data frame like any other, and what is derived from it too; only its display in a notebook differs."""

    @property
    def _constructor(self) -> Any:
        return Frame

    def _repr_html_(self) -> str | None:
        shown = super()._repr_html_()  # type: ignore[misc]
        return None if shown is None else str(html.element("div", html.made(shown), class_=html.NO_MATHS))
