"""One progress bar for all long work: text on stderr, gone when it is done.

Plain text rather than a widget, so that saved notebooks hold no widget state. Work that ends within a second shows nothing, nor
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
    # In a log file each redraw is one more line: a terminal is redrawn often, a file seldom.
    interval = 0.1 if sys.stderr.isatty() else 0.5 if "ipykernel" in sys.modules else 15.0
    return tqdm(
        iterable,
        total=total,
        desc=desc,
        unit=unit,
        leave=False,
        delay=1.0,
        mininterval=interval,
        disable=hidden,
        dynamic_ncols=True,
    )
