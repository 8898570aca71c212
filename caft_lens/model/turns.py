"""Who is running a model: threads that share one take turns, and each has hooks and roles of its own.

Threads that PyTorch makes itself (autograd's on an accelerator, those of `DataParallel`) act for the thread that has
hooks. A model runs one pass at a time, since transformers keeps state on its modules while it generates.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from caft_lens._support.blocks import Block


class Here:
    """A thread, told apart from all others, also from one that had its number before.

    Attributes:
        foreign: Whether PyTorch made it: it has no hooks of its own, and acts for the thread that waits for it.
        acts_for: The thread on whose behalf this one runs, if any.
    """

    def __init__(self) -> None:
        self.foreign = isinstance(threading.current_thread(), threading._DummyThread)
        self.acts_for: Here | None = None


_local = threading.local()
_turns: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()


def here() -> Here:
    """The thread that asks."""
    found = getattr(_local, "here", None)
    if found is None:
        found = _local.here = Here()
    return found


def turn(model: nn.Module) -> Any:
    """The lock of a model (without wrappers): `with Held(turn(model)):` waits until no other thread runs it."""
    found = _turns.get(model)
    return _turns.setdefault(model, threading.RLock()) if found is None else found


class Held(Block[None]):
    """A `threading.RLock`, held while a block is open; an interrupt does not leave it held."""

    def __init__(self, lock: Any) -> None:
        super().__init__()
        self._lock, self._mine = lock, False

    def begin(self) -> None:
        self._mine = True
        self._lock.acquire()

    def undo(self, error: BaseException | None) -> None:
        if self._mine:
            with suppress(RuntimeError):  # interrupted before it was taken, or after it was given back
                self._lock.release()
        self._mine = False
