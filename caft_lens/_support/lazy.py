"""Modules that load late and packages that read as verbs.

With `attach` each public name of a package is imported on first use, so that `import caft_lens` costs milliseconds.
With `callable_module` both `cl.finetune(...)` and `import caft_lens.finetune.trainer` work, in any order.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

import lazy_loader

from caft_lens._support.errors import UnknownAttribute, nearest


def attach(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """The `__getattr__`, `__dir__` and `__all__` of a package whose stub (`__init__.pyi`) says what it exports.

    As `lazy_loader.attach_stub`; beside it a misspelt name is told the nearest, and a module that is called like its
    function stays a module, however it was come by.
    """
    load, _, names = lazy_loader.attach_stub(package, file)

    def __getattr__(name: str) -> Any:
        if name not in names:
            raise UnknownAttribute(f'"{package}" has no "{name}".{nearest(name, names)}')
        value = load(name)
        here = vars(sys.modules[package])
        here[name] = sys.modules.get(f"{package}.{name}", value)
        return here[name]

    def __dir__() -> list[str]:
        return sorted({*names, *vars(sys.modules[package])})

    return __getattr__, __dir__, names


def callable_module(name: str, function: str, source: str | None = None) -> None:
    """Let the module `name` be called like one of its functions, and be documented like it (`help(cl.finetune)`).

    The function is imported from the module `source` at the first call, where it is not defined in `name` itself.
    """

    def target() -> Callable[..., Any]:
        return getattr(import_module(source or name), function)

    class CallableModule(ModuleType):
        # A property, which is no text, so that the class has no documentation to be shown beside the function's.
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
