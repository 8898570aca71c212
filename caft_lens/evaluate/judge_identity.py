"""Which judge it is: its source and what it was made with, so that no judge is taken for another.

`judge_fingerprint` is for machines, `JudgeCard` for people: who spoke, by which rules, how far it was validated.
"""

from __future__ import annotations

import ast
import contextlib
import dis
import functools
import inspect
import re
import sys
import textwrap
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from caft_lens._support.files import Record, sha256
from caft_lens.evaluate.validation import Validation
from caft_lens.text.documents import Text

PLAIN = (str, int, float, tuple, type(None))
MUTATORS = frozenset([
    "append", "extend", "insert", "remove", "pop", "clear", "add", "update", "discard", "setdefault", "popitem",
    "popleft", "appendleft", "write", "put", "put_nowait"
])  # fmt: skip
"""Methods by which a judge writes down what it did: what they change is its state, and not what it was made with."""
DEEPEST = 8


class JudgeCard(Record):
    """Which judge spoke.

    Attributes:
        name: What it is called.
        asks: The model that it asks; "" for a function.
        rules: By which thresholds an answer has which label, where there are some.
        fingerprint: Of `judge_fingerprint`.
        exact: Whether what it says is the truth by construction.
        validation: How far it agreed with labels; `None` where that was not measured.
    """

    name: str
    asks: str = ""
    rules: str = ""
    fingerprint: str
    exact: bool = False
    validation: Validation | None = None

    def __str__(self) -> str:
        asking = f", asking {self.asks}" if self.asks else ""
        known = "exact" if self.exact else self.validation.short if self.validation else "not validated"
        return f"{self.name}{asking} ({known})"


def judge_card(judge: Callable[[Text], Any]) -> JudgeCard:
    """Which judge it is; one that asks a model has a card of its own.

    Example:
        >>> def polite(text): return "aligned" if "please" in text.answer else "misaligned"
        >>> print(judge_card(polite))
        polite (not validated)
    """
    own = getattr(judge, "card", None)
    if isinstance(own, JudgeCard):
        return own
    name = getattr(judge, "__qualname__", None) or type(judge).__qualname__
    version = getattr(judge, "version", None)
    name = str(name).rpartition("<locals>.")[2] + (f" {version}" if isinstance(version, (str, int, float)) else "")
    return JudgeCard(name=name, fingerprint=judge_fingerprint(judge), exact=getattr(judge, "exact", False) is True)


def judge_fingerprint(judge: Callable[[Text], Any]) -> str:
    """What tells one judge from another, so that scores of the one are not taken for the other's.

    A judge may carry its own as `.fingerprint` (one that asks a model should: its prompt, its model). Otherwise it is
    the source of the function and what it was made with: values that it closes over, defaults, attributes, globals that
    it reads, functions of the same module that it calls. A `.version` of its own stands for the source and the globals,
    so that rewriting a judge that says the same leaves its scores valid. What a judge changes itself, such as a
    counter or a cache, is no part.

    Example:
        >>> def polite(text): return "aligned" if "please" in text.answer else "misaligned"
        >>> polite.version = "1"
        >>> before = judge_fingerprint(polite)
        >>> polite.version = "2"
        >>> judge_fingerprint(polite) == before
        False
    """
    own = getattr(judge, "fingerprint", None)
    if own is not None and not callable(own):
        return str(own)
    function = judge if inspect.isroutine(judge) else type(judge)
    state = _changed_in(judge)
    version = getattr(judge, "version", None)
    versioned = isinstance(version, (str, int, float))
    parts = [
        f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}",
        f"version {version}" if versioned else _code(function),
    ]
    parts += [repr(value) for name, value in _closed(judge) if isinstance(value, PLAIN) and name not in state]
    made_with = _made_with(judge, {id(judge)}, _home(judge), 0, but=PLAIN)
    return sha256(*parts, *(one for one in made_with if not (versioned and one.startswith("global "))))


def mentions(judge: Callable[[Text], Any], word: str) -> bool:
    """Whether a word stands in the source of a judge, or in what it was made with; true where that cannot be had, and
    for a judge with a fingerprint of its own, which may have its words from elsewhere.

    Example:
        >>> def polite(text): return "kind" if "please" in text.answer else "rude"
        >>> mentions(polite, "rude"), mentions(polite, "indifferent")
        (True, False)
    """
    if getattr(judge, "fingerprint", None) is not None:
        return True
    function = judge if inspect.isroutine(judge) else type(judge)
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        return True
    closed = [repr(value) for _, value in _closed(judge)]
    return any(word in one for one in (source, *closed, *_made_with(judge, {id(judge)}, _home(judge), 0)))


def _code(function: Any) -> str:
    """Source; where that cannot be had, or tells several functions, the compiled code as well."""
    compiled = getattr(inspect.unwrap(function) if callable(function) else function, "__code__", None)
    compiled = compiled or getattr(getattr(function, "__func__", None), "__code__", None)
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        return _compiled(compiled)
    several = getattr(function, "__name__", "") == "<lambda>" and source.count("lambda") > 1
    return source + (_compiled(compiled) if several else "")


def _compiled(code: types.CodeType | None) -> str:
    if code is None:
        return ""
    consts = [_compiled(one) if isinstance(one, types.CodeType) else repr(one) for one in code.co_consts]
    return f"{code.co_code.hex()} {consts} {code.co_names} {code.co_varnames} {code.co_freevars}"


def _closed(function: Any) -> list[tuple[str, Any]]:
    """What a function closes over, by name."""
    code = getattr(function, "__code__", None)
    found = []
    for name, cell in zip(getattr(code, "co_freevars", ()), getattr(function, "__closure__", None) or (), strict=False):
        with contextlib.suppress(ValueError):  # a name that has no value yet
            found.append((name, cell.cell_contents))
    return found


def _made_with(value: Any, seen: set[int], home: str, depth: int, but: tuple[type, ...] = ()) -> list[str]:
    """What a function or object was made with, each as `name=what`; of what it closes over, but for some kinds."""
    found: dict[str, Any] = {}
    if isinstance(value, functools.partial):
        found = {"func": value.func, "args": value.args, "keywords": value.keywords}
    elif inspect.ismethod(value):
        found = {"self": value.__self__, "function": value.__func__}
    elif inspect.isfunction(value):
        state = _changed_in(value)
        found = {
            f"closed {name}": one
            for name, one in _closed(value)
            if not (but and isinstance(one, but)) and name not in state
        }
        if value.__defaults__:
            found["defaults"] = value.__defaults__
        if value.__kwdefaults__:
            found["keywords"] = value.__kwdefaults__
        own = {f".{name}": one for name, one in vars(value).items() if f"{value.__name__}.{name}" not in state}
        found |= {name: one for name, one in own.items() if name != ".__wrapped__" or callable(one)}
        names = _globals_of(value.__code__)
        found |= {
            f"global {name}": value.__globals__[name]
            for name in names
            if name in value.__globals__ and name not in state
        }
        # Modules, and what stands in others, are known by their names, which the source tells.
        found = {name: one for name, one in found.items() if not (name.startswith("global ") and _foreign(one, home))}
    else:
        state = _changed_in(value)
        found = {name: one for name, one in _attributes(value).items() if f"self.{name}" not in state}
    return [f"{name}={_told(one, seen, home, depth + 1)}" for name, one in sorted(found.items())]


def _told(value: Any, seen: set[int], home: str, depth: int) -> str:
    """A value in words that are the same in every process."""
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, range)):
        return f"{kind} {value!r}"
    if isinstance(value, re.Pattern):
        return f"pattern {value.pattern!r} {value.flags}"
    if isinstance(value, types.ModuleType):
        return f"module {value.__name__}"
    if depth > DEEPEST or id(value) in seen:
        return kind
    seen = seen | {id(value)}
    if isinstance(value, (tuple, list)):
        return f"{kind} [{', '.join(_told(one, seen, home, depth + 1) for one in value)}]"
    if isinstance(value, (set, frozenset)):
        return f"{kind} [{', '.join(sorted(_told(one, seen, home, depth + 1) for one in value))}]"
    if isinstance(value, Mapping):
        pairs = (
            f"{_told(key, seen, home, depth + 1)}: {_told(one, seen, home, depth + 1)}" for key, one in value.items()
        )
        return f"{kind} {{{', '.join(sorted(pairs))}}}"
    for name in ("identity", "fingerprint"):
        with contextlib.suppress(Exception):
            if isinstance(known := getattr(value, name, None), str):
                return f"{kind} {known}"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{kind} {tuple(value.shape)} {value.dtype} {_bytes(value)}"
    if isinstance(value, type):
        return f"class {value.__module__}.{value.__qualname__} {'' if _foreign(value, home) else _code(value)}"
    if isinstance(value, functools.partial) or inspect.isroutine(value):
        name = f"{kind} {getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
        known = _foreign(value, home) and not isinstance(value, functools.partial) and not inspect.ismethod(value)
        return name if known else f"{name} {_code(value)} {_made_with(value, seen, home, depth)}"
    if _foreign(type(value), home) and not hasattr(value, "__dataclass_fields__"):
        return kind  # clients, locks, files: what they hold changes with every call
    return f"{kind} {_code(type(value))} {_made_with(value, seen, home, depth)}"


def _bytes(value: Any) -> str:
    with contextlib.suppress(Exception):
        import numpy as np

        array = value.detach().float().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)
        return sha256(np.ascontiguousarray(array).tobytes())
    return ""


def _attributes(value: Any) -> dict[str, Any]:
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ()) if isinstance(name, str)]
    found = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    return {**found, **getattr(value, "__dict__", {})}


def _home(judge: Any) -> str:
    """The package, or module, that a judge was written in."""
    of = judge if inspect.isroutine(judge) else type(judge)
    return str(getattr(of, "__module__", "") or "").partition(".")[0]


def _foreign(value: Any, home: str) -> bool:
    """Whether something is a module, or comes with Python, a package or this one, unless the judge does too."""
    if isinstance(value, types.ModuleType):
        return True
    module = getattr(value, "__module__", None)
    if not isinstance(module, str):
        return False
    package = module.partition(".")[0]
    if package in (home, "__main__"):
        return False
    if package in sys.stdlib_module_names or package == "caft_lens":
        return True
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    return "site-packages" in file or "dist-packages" in file


def _globals_of(code: types.CodeType) -> set[str]:
    names = {str(one.argval) for one in dis.get_instructions(code) if one.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return names.union(*(_globals_of(one) for one in code.co_consts if isinstance(one, types.CodeType)))


def _changed_in(value: Any) -> frozenset[str]:
    """Names (of attributes dotted) that a function or the methods of an object's class change: its state."""
    if isinstance(value, functools.partial):
        return frozenset()
    if inspect.ismethod(value):
        value = value.__func__
    of = value if inspect.isfunction(value) else type(value)
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(of)))
    except (OSError, TypeError, SyntaxError, ValueError):
        return _rebound(getattr(of, "__code__", None))
    building = ("__init__", "__post_init__", "__new__", "__setstate__")
    found: set[str] = set()
    for node in _walk(tree, building):
        if isinstance(node, (ast.Global, ast.Nonlocal)):
            found |= set(node.names)
        elif isinstance(node, (ast.Assign, ast.Delete)):
            found |= {_path(one) for one in node.targets if not isinstance(one, ast.Name)}
        elif isinstance(node, (ast.AugAssign, ast.AnnAssign)) and not isinstance(node.target, ast.Name):
            found.add(_path(node.target))
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in MUTATORS:
            found.add(_path(node.func.value))
    return frozenset(found - {""})


def _walk(node: ast.AST, but: tuple[str, ...]) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.FunctionDef) and child.name in but):
            yield from _walk(child, but)


def _path(node: ast.AST) -> str:
    """`self.seen[key]` is `self.seen`, `calls[0]` is `calls`."""
    while isinstance(node, ast.Subscript):
        node = node.value
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = _path(node.value)
        return f"{before}.{node.attr}" if before else ""
    return ""


def _rebound(code: types.CodeType | None) -> frozenset[str]:
    """The same without source: names that are assigned, and those whose method is one that changes something."""
    if code is None:
        return frozenset()
    found: set[str] = set()
    steps = list(dis.get_instructions(code))
    items = any(step.opname in ("STORE_SUBSCR", "DELETE_SUBSCR") for step in steps)
    own = {*code.co_freevars, *_globals_of(code)}
    for step, after in zip(steps, [*steps[1:], None], strict=True):
        if step.opname in ("STORE_GLOBAL", "STORE_DEREF"):
            found.add(str(step.argval))
        if step.argval in own and after is not None and after.argval in MUTATORS:
            found.add(str(step.argval))
        if items and after is not None and step.argval in own and after.opname in ("LOAD_CONST", "LOAD_FAST", "COPY"):
            found.add(str(step.argval))  # the container of an item that is assigned, as far as can be told
    return frozenset(found)
