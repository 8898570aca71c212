"""Modules that load late and packages that read as verbs.

`exports` gives a package its `__getattr__` and `__dir__`: each public name is imported from its module on first use,
so that `import caft_lens` costs milliseconds though torch, transformers and TransformerLens stand behind it.
`callable_module` lets a module whose main function has its name be called like that function, in any import order:
`cl.finetune(...)` and `import caft_lens.finetune.trainer` both work.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

from caft_lens._support.errors import nearest


def exports(
    package: str, names: Mapping[str, str], modules: tuple[str, ...] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """The `__getattr__`, `__dir__` and `__all__` of a package whose public names load on first use.

    Args:
        package: Its `__name__`.
        names: Public name to the full name of the module that defines it.
        modules: Submodules that are public themselves.

    Example:
        >>> getattr_, dir_, all_ = exports("caft_lens", {"nearest": "caft_lens._support.errors"})
        >>> getattr_("nearest").__name__, all_
        ('nearest', ['nearest'])
    """
    public = sorted({*names, *modules})

    def __getattr__(name: str) -> Any:
        if name in names:
            value = getattr(import_module(names[name]), name)
            # A module that is called like its function stays a module: `import` has bound it already.
            return sys.modules[package].__dict__.setdefault(name, value)
        if name in modules:
            return import_module(f"{package}.{name}")
        raise AttributeError(f'"{package}" has no "{name}".{nearest(name, public)}')

    def __dir__() -> list[str]:
        return sorted({*public, *vars(sys.modules[package])})

    return __getattr__, __dir__, public


def callable_module(name: str, function: str, source: str | None = None) -> None:
    """Let the module `name` be called like one of its functions, and be documented like it: `help(cl.finetune)`, `cl.finetune?`.

    Args:
        name: The module's `__name__`.
        function: The function that a call of the module calls.
        source: The module that defines the function, imported at the first call; `name` itself when `None`.
    """

    def target() -> Callable[..., Any]:
        return getattr(import_module(source or name), function)

    class CallableModule(ModuleType):
        # A property, which is no text, so that the class has no documentation of its own to be shown beside the function's.
        @property
        def __doc__(self) -> str | None:  # type: ignore[override]
            return inspect.getdoc(target())

        @property
        def __signature__(self) -> inspect.Signature:
            return inspect.signature(target())

        @property
        def __call__(self) -> Callable[..., Any]:
            # No more than the call itself: whoever asks how it is called is told by `__signature__`, once.
            def call(*args: Any, **keywords: Any) -> Any:
                return target()(*args, **keywords)

            call.__signature__ = self.__signature__  # type: ignore[attr-defined]
            return call

    sys.modules[name].__class__ = CallableModule
