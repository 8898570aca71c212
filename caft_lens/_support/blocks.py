"""Blocks (`with ...:`) that are undone for certain, also when Ctrl-C comes while they begin or end.

An interrupt may come after `__enter__` has done its work but before the block began, or before the first line of
`__exit__`: a context manager written in the ordinary way is then never left. What undoes a `Block` is called until it
came through, and at last when the interpreter lets go of the `with` itself. `block` makes one of a generator.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import weakref
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Generic, ParamSpec, TypeVar

import torch

T = TypeVar("T")
P = ParamSpec("P")


class _Exit:
    """`__exit__` of a block, looked up by `with` before it enters, and held by it alone until it has left.

    So what is handed out here is gone exactly when the `with` is over, and before anything uses the traceback.
    """

    def __get__(self, block: Block[Any] | None, owner: type) -> Callable[..., Any]:
        if block is None:
            return Block._left  # for ExitStack, which calls it as a function of the block
        leaving = functools.partial(Block._left, block)
        if not block._entered:
            # Only weakly known to the callback, lest a block that is never entered live on by itself.
            mine = weakref.ref(block)
            block._held.append(weakref.ref(leaving, lambda _: _abandoned(mine)))
        return leaving


def _abandoned(mine: weakref.ref[Block[Any]]) -> None:
    block = mine()
    if block is not None and block._entered and not any(one() is not None for one in block._held):
        block._finish(None)


class Block(contextlib.ContextDecorator, Generic[T]):
    """Something that holds while a block is open: `begin` does it, `undo` undoes it.

    `undo` is called again when an interrupt came in between, and also when `begin` did not come to its end: what it
    does twice, or for nothing, must do no harm. It is called in the state that it wants to restore things to, and must
    raise nothing of its own.
    """

    def __init__(self) -> None:
        self._entered = False
        self._held: list[weakref.ref[Any]] = []

    def begin(self) -> T:
        """Do it."""
        raise NotImplementedError

    def undo(self, error: BaseException | None) -> bool | None:
        """Undo it; a true value swallows the error that ended the block."""
        raise NotImplementedError

    def __enter__(self) -> T:
        self._held = [one for one in self._held if one() is not None]
        self._entered = True
        try:
            return self.begin()
        except BaseException as error:
            self._finish(error)
            raise

    __exit__ = _Exit()

    def _left(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._finish(error)

    def _finish(self, error: BaseException | None) -> bool | None:
        interrupt, swallowed = None, None
        while self._entered:
            try:
                swallowed = self.undo(error)
                self._entered = False
                self._held.clear()
            except KeyboardInterrupt as late:
                if late is error:
                    self._entered = False
                    raise
                interrupt = late  # once more from the beginning: what is undone twice does no harm
            except BaseException:
                self._entered = False
                raise
        if interrupt is not None:
            raise interrupt
        return swallowed

    def _recreate_cm(self) -> Any:
        twin = copy.copy(self)
        Block.__init__(twin)
        return twin


class _Generated(Block[T]):
    """A block made of a generator."""

    def __init__(self, make: Callable[[], Any]) -> None:
        super().__init__()
        self._make = make
        self._manager: Any = None

    def begin(self) -> T:
        self._manager = self._make()
        return self._manager.__enter__()

    def undo(self, error: BaseException | None) -> bool | None:
        manager = self._manager
        # A generator without a frame is over: it raised on its way in, or was interrupted on its way out.
        if manager is None or manager.gen.gi_frame is None:
            return None
        if error is None:
            return bool(manager.__exit__(None, None, None))
        return bool(manager.__exit__(type(error), error, error.__traceback__))

    def _recreate_cm(self) -> Any:
        return _Generated(self._make)


def block(function: Callable[P, Iterator[T]]) -> Callable[P, Block[T]]:
    """A function that gives a block, of a generator function that yields once; what it opens must be blocks themselves.

    Example:
        >>> @block
        ... def louder(log):
        ...     log.append("on")
        ...     try:
        ...         yield log
        ...     finally:
        ...         log.append("off")
        >>> with louder([]) as log:
        ...     log.append("music")
        >>> log
        ['on', 'music', 'off']
    """
    manager = contextlib.contextmanager(function)

    @functools.wraps(function)
    def make(*args: P.args, **keywords: P.kwargs) -> Block[T]:
        return _Generated(lambda: manager(*args, **keywords))

    return make


class Kept(Block[None]):
    """An attribute that has the value of before when the block is over."""

    def __init__(self, owner: Any, name: str) -> None:
        super().__init__()
        self._owner, self._name = owner, name

    def begin(self) -> None:
        self._before = getattr(self._owner, self._name)

    def undo(self, error: BaseException | None) -> None:
        if hasattr(self, "_before"):
            setattr(self._owner, self._name, self._before)


class inference(Block[None]):
    """`torch.inference_mode()`, which an interrupt cannot leave on."""

    _guard: Any = None

    def begin(self) -> None:
        self._guard = torch._C._InferenceMode(True)
        self._guard.__enter__()

    def undo(self, error: BaseException | None) -> None:
        if self._guard is not None:
            self._guard.__exit__(None, None, None)


class random_state(Block[None]):
    """torch's random numbers as they were before, at the end of a block; from a seed inside it, where one is given.

    Beside the CPU's, the generator of the device is kept, or those of all CUDA devices in use.
    """

    _states: tuple[tuple[Any, Any], ...] = ()

    def __init__(self, seed: int | None = None, device: torch.device | None = None) -> None:
        super().__init__()
        self._seed, self._device = seed, device

    def begin(self) -> None:
        self._states = tuple((restore, state()) for state, restore in _generators(self._device))
        if self._seed is not None:
            torch.manual_seed(self._seed)

    def undo(self, error: BaseException | None) -> None:
        for restore, state in self._states:
            restore(state)


def _generators(device: torch.device | None) -> Iterator[tuple[Callable[[], Any], Callable[[Any], None]]]:
    yield torch.get_rng_state, torch.set_rng_state
    if device is None and torch.cuda.is_available() and torch.cuda.is_initialized():
        yield torch.cuda.get_rng_state_all, torch.cuda.set_rng_state_all
    elif device is not None and device.type in ("cuda", "xpu"):
        module: Any = getattr(torch, device.type)
        yield (functools.partial(module.get_rng_state, device), functools.partial(module.set_rng_state, device=device))
    elif device is not None and device.type == "mps":
        yield torch.mps.get_rng_state, torch.mps.set_rng_state
