"""One progress bar for all long work: text, gone without a trace when it is done.

Plain text rather than a widget, so that saved notebooks hold no widget state; in a notebook a display of its own rather than stderr,
which JupyterLab would leave as a red strip. Work that ends within a second shows nothing, nor
does work inside other work that has a bar of its own; `CAFT_LENS_PROGRESS=0` silences all of it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm.std import tqdm


def progress(
    iterable: Iterable[Any] | None = None,
    *,
    total: float | None = None,
    desc: str = "",
    unit: str = "it",
    show: bool = True,
) -> tqdm:
    """A tqdm bar over `iterable`, or one to `update` by hand.

    Args:
        iterable: What to go through; `None` for a bar that is updated by hand.
        total: How many units there are, when `iterable` does not know.
        desc: What is being done.
        unit: What is counted.
        show: False hides it.
    """
    inside = any(not getattr(bar, "disable", True) for bar in getattr(tqdm, "_instances", ()))
    hidden = not show or inside or os.environ.get("CAFT_LENS_PROGRESS") == "0"
    live = not hidden and _in_notebook()
    # In a log file each redraw is one more line: a terminal is redrawn often, a file seldom.
    interval = 0.5 if live else 0.1 if sys.stderr.isatty() else 15.0
    return tqdm(
        iterable,
        total=total,
        desc=desc,
        unit=unit,
        leave=False,
        delay=1.0,
        mininterval=interval,
        disable=hidden,
        **({"file": _Display(), "ncols": 100} if live else {"dynamic_ncols": True}),
    )


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython.core.getipython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None


class _Display:
    """Shows the newest line that is written to it, as one output of a cell, and nothing once the line is blank."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self._handle: Any = None
        self._shown = ""

    def write(self, text: str) -> int:
        """Show what was written last."""
        line = text.rpartition("\r")[2].strip() if text.strip() else ""
        # tqdm moves to the beginning of a line before it writes, and that is no line.
        if line != self._shown and (line or "\r " in text):
            self._shown = line
            self._show(line)
        return len(text)

    def flush(self) -> None:
        """Nothing is held back."""

    def _show(self, line: str) -> None:
        from IPython.display import display

        data = {"text/plain": line}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)
        else:
            self._handle.update(data, raw=True)
