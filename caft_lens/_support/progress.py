"""One progress bar for all long work: text, gone without a trace when it is done.

In a notebook it is a display of its own: a widget would be saved, and stderr left as a red strip. Work that ends within
a second shows nothing. Work inside other work is told at the end of the bar that is there, "caft, seed 1: fine-tuning
23/100 steps"; `telling` takes that line elsewhere. `CAFT_LENS_PROGRESS=0` silences all of it.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from weakref import WeakSet

from tqdm.std import tqdm

from caft_lens._support.blocks import Block

Tell = Callable[[str], None]

OFTEN = 0.3
"""Seconds between two times that work inside other work is told of."""
_TELL: ContextVar[Tell | None] = ContextVar("tell", default=None)
_WITHIN: ContextVar[tuple[_Within, ...]] = ContextVar("within", default=())


def progress(
    iterable: Iterable[Any] | None = None,
    *,
    total: float | None = None,
    desc: str = "",
    unit: str = "it",
    show: bool = True,
) -> tqdm:
    """A tqdm bar over `iterable`, or one to `update` by hand; `show=False` hides it, the rest is as in tqdm."""
    hidden = not show or silenced()
    outer = next((bar for bar in getattr(tqdm, "_instances", ()) if not getattr(bar, "disable", True)), None)
    tell = _TELL.get() or (None if outer is None else _at_the_end_of(outer))
    if tell is not None and not hidden:
        return _Within(tell, iterable, total=total, desc=desc, unit=unit)
    if not hidden:
        _WITHIN.set(())
    live = not hidden and _in_notebook()
    # In a log file each redraw is one more line: a terminal is redrawn often, a file seldom.
    interval = 0.5 if live else 0.1 if sys.stderr.isatty() else 15.0
    return _Bar(
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


def silenced() -> bool:
    """Whether nobody wants bars: `CAFT_LENS_PROGRESS=0`, and no `telling` around."""
    return os.environ.get("CAFT_LENS_PROGRESS") == "0" and _TELL.get() is None


@contextmanager
def telling(tell: Tell) -> Iterator[None]:
    """A block in which bars draw nothing, but tell a line of what is being done; an empty one when nothing is.

    Example:
        >>> with telling(print):
        ...     for _ in progress(range(2), desc="asking", unit="answer"):
        ...         pass
        asking 0/2 answers
        ...
    """
    before = _TELL.set(tell)
    try:
        yield
    finally:
        _TELL.reset(before)


if not hasattr(tqdm, "_instances"):  # one for all kinds of bars
    tqdm._instances = WeakSet()  # type: ignore[attr-defined]


class _Bar(Block["_Bar"], tqdm):
    """A bar that an interrupt cannot leave open."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        Block.__init__(self)
        tqdm.__init__(self, *args, **keywords)

    def begin(self) -> _Bar:
        return self

    def undo(self, error: BaseException | None) -> None:
        self.close()

    def __iter__(self) -> Iterator[Any]:
        with self:
            yield from tqdm.__iter__(self)


class _Within(_Bar):
    """A bar inside a bar: it draws nothing, and is told at the end of the other one."""

    def __init__(self, tell: Tell, iterable: Iterable[Any] | None, *, desc: str, unit: str, **given: Any) -> None:
        super().__init__(iterable, disable=True, **given)
        self.words, self.unit = desc, unit
        self._tell, self._last = tell, 0.0
        if iterable is None:
            self._begin()

    def _begin(self) -> None:
        _WITHIN.set((*_WITHIN.get(), self))
        self.say()

    def __iter__(self) -> Iterator[Any]:
        self._begin()
        with self:
            for one in self.iterable:
                yield one
                self.update()

    def update(self, n: float | None = 1) -> None:
        """As of any bar."""
        self.n += n or 0
        if time.monotonic() - self._last >= OFTEN or self.n == self.total:
            self.say()

    def set_description(self, desc: str | None = None, refresh: bool | None = True) -> None:
        """As of any bar."""
        self.words = desc or ""
        self.say()

    def close(self) -> None:
        """As of any bar."""
        within = _WITHIN.get()
        here = [place for place, one in enumerate(within) if one is self]  # bars are equal that stand at one place
        if here:
            _WITHIN.set(within[: here[0]])
            self.say()
        super().close()

    def say(self) -> None:
        """Tell what is being done: the outermost of the bars inside says for whom, and the innermost says what."""
        self._last = time.monotonic()
        within = _WITHIN.get()
        self._tell(": ".join(str(bar) for bar in (within if len(within) < 3 else (within[0], within[-1]))))

    def __str__(self) -> str:
        counted = "" if self.total is None else f" {self.n:.0f}/{self.total:.0f} {self.unit}s"
        return f"{self.words}{counted}"


def _at_the_end_of(outer: tqdm) -> Tell:
    def tell(words: str) -> None:
        outer.set_postfix_str(words, refresh=False)
        if time.time() - outer.start_t >= (outer.delay or 0):
            outer.refresh()

    return tell


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
