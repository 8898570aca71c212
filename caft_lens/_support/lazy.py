"""Modules that load late and packages that read as verbs.

`attach` gives a package its `__getattr__` and `__dir__`: each public name is imported from its module on first use, so
that `import caft_lens` costs milliseconds though torch, transformers and TransformerLens stand behind it.
`callable_module` lets a module whose main function has its name be called like that function, in any import order:
`cl.finetune(...)` and `import caft_lens.finetune.trainer` both work.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

import lazy_loader

from caft_lens._support.errors import nearest


def attach(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """The `__getattr__`, `__dir__` and `__all__` of a package whose stub (`__init__.pyi`) says what it exports.

    As `lazy_loader.attach_stub`; beside it a misspelt name is told the nearest, and a module that is called like its
    function stays a module, however it was come by.

    Args:
        package: Its `__name__`.
        file: Its `__file__`.
    """
    load, _, names = lazy_loader.attach_stub(package, file)

    def __getattr__(name: str) -> Any:
        if name not in names:
            raise AttributeError(f'"{package}" has no "{name}".{nearest(name, names)}')
        value = load(name)
        here = vars(sys.modules[package])
        here[name] = sys.modules.get(f"{package}.{name}", value)
        return here[name]

    def __dir__() -> list[str]:
        return sorted({*names, *vars(sys.modules[package])})

    return __getattr__, __dir__, names


def callable_module(name: str, function: str, source: str | None = None) -> None:
    """Let the module `name` be called like one of its functions, and be documented like it: `help(cl.finetune)`,
    `cl.finetune?`.

    Args:
        name: The module's `__name__`.
        function: The function that a call of the module calls.
        source: The module that defines the function, imported at the first call; `name` itself when `None`.
    """

    def target() -> Callable[..., Any]:
        return getattr(import_module(source or name), function)

    class CallableModule(ModuleType):
        # A property, which is no text, so that the class has no documentation of its own to be shown beside the
        # function's.
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
