"""Which callbacks can change what is trained, and what is recorded of those that can.

One that only watches is no part of what a run is found again by: one that says so (`changes_training = False`), the
loggers of transformers, and any whose events read nothing but `args` and `state`. Of every other one its class, code
and settings are; where a setting is no JSON value, the run is not found again unless there is a `fingerprint`.
"""

from __future__ import annotations

import dis
import json
from collections.abc import Callable, Sequence
from types import CodeType, ModuleType
from typing import Any

import torch
from transformers import TrainerCallback

from caft_lens._support.errors import BadType
from caft_lens._support.files import sha256
from caft_lens._support.redaction import redact

EVENTS = tuple(name for name in dir(TrainerCallback) if name.startswith("on_"))
LOGGERS = ("transformers.integrations", "transformers.trainer_callback.P", "transformers.utils.notebook")
ACTORS = (torch.nn.Module, torch.optim.Optimizer, torch.nn.Parameter)


def recorded(callbacks: Sequence[TrainerCallback]) -> list[dict[str, Any]]:
    """What a run's configuration holds of its callbacks: one entry for each that can change what is trained.

    Args:
        callbacks: As given to `finetune`.

    Raises:
        BadType: When one is no `TrainerCallback`.

    Example:
        >>> class Stop(TrainerCallback):
        ...     def __init__(self, step):
        ...         self.step = step
        ...     def on_step_end(self, args, state, control, **others):
        ...         control.should_training_stop |= state.global_step >= self.step
        >>> recorded([Stop(2)])[0]["settings"]
        {'step': 2}
    """
    for one in callbacks:
        if not isinstance(one, TrainerCallback):
            raise BadType(f"callbacks= takes instances of transformers.TrainerCallback, not {type(one).__name__}.")
    return [_record(one) for one in callbacks if not watches(one)]


def watches(callback: TrainerCallback) -> bool:
    """Whether a callback cannot change what is trained.

    Example:
        >>> class Count(TrainerCallback):
        ...     steps = 0
        ...     def on_step_end(self, args, state, control, **others):
        ...         self.steps = state.global_step
        >>> watches(Count())
        True
    """
    said = getattr(callback, "changes_training", None)
    if said is not None:
        return not said
    if f"{type(callback).__module__}.{type(callback).__qualname__}".startswith(LOGGERS):
        return True
    held = any(isinstance(value, ACTORS) for value in vars(callback).values())
    return not held and not any(_acts(function) for function in _events(callback))


def _events(callback: TrainerCallback) -> list[Callable[..., Any]]:
    """The events that a callback handles, as plain functions or whatever was put in their place."""
    found = [getattr(callback, name) for name in EVENTS]
    plain = [getattr(one, "__func__", one) for one in found]
    return [one for name, one in zip(EVENTS, plain, strict=True) if one is not getattr(TrainerCallback, name)]


def _acts(function: Callable[..., Any]) -> bool:
    """Whether an event does more than read fields of `args` and `state`."""
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType):
        return True
    named = code.co_argcount + code.co_kwonlyargcount
    named += bool(code.co_flags & 0x04) + bool(code.co_flags & 0x08)  # *args and **kwargs
    given = code.co_varnames[:named]
    own = given[:1] if given[:1] == ("self",) else ()
    read = set(given[len(own) : code.co_argcount][:2])  # args and state
    others = set(given) - set(own) - read
    if set(code.co_cellvars) & (others | read):
        return True
    if any(isinstance(value, ACTORS) for value in _reached(function).values()):
        return True
    steps = [one for one in dis.get_instructions(code) if one.opname not in ("CACHE", "RESUME", "NOP")]
    for one, after in zip(steps, [*steps[1:], None], strict=True):
        if after is not None and after.opname in ("STORE_ATTR", "DELETE_ATTR") and one.argval not in own:
            return True
        if not one.opname.startswith("LOAD_FAST"):
            continue
        names = one.argval if isinstance(one.argval, tuple) else (one.argval,)
        follows = after.opname if after is not None else ""
        for name in names:
            if name in others and follows != "RETURN_VALUE":
                return True
            if name in read and (name != names[-1] or follows != "LOAD_ATTR"):
                return True
    return False


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not cell
    except ValueError:
        return False


def _record(callback: TrainerCallback) -> dict[str, Any]:
    name = f"{type(callback).__module__}.{type(callback).__qualname__}"
    if (given := getattr(callback, "fingerprint", None)) is not None:
        return {"class": name, "fingerprint": str(given)}
    settings: dict[str, Any] = {}
    unknown = []
    for key, value in sorted({**_around(callback), **vars(callback)}.items()):
        if key in EVENTS:
            continue
        try:
            settings[key] = json.loads(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError):
            unknown.append(key)
    record = {"class": name, "code": _code(callback), "settings": redact(settings)}
    return {**record, "unknown": unknown} if unknown else record


def _around(callback: TrainerCallback) -> dict[str, Any]:
    """What the events of a callback read from around them, but for modules, classes and functions."""
    reached = [pair for function in _events(callback) for pair in _reached(function).items()]
    return {name: value for name, value in reached if not isinstance(value, ModuleType | type) and not callable(value)}


def _reached(function: Any) -> dict[str, Any]:
    """The variables of the function or notebook around a function, as far as it reads them."""
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType):
        return {}
    cells = zip(code.co_freevars, function.__closure__ or (), strict=True)
    closed = {name: cell.cell_contents for name, cell in cells if _filled(cell)}
    return closed | {name: function.__globals__[name] for name in code.co_names if name in function.__globals__}


def _code(callback: TrainerCallback) -> str:
    """A hash of what the methods of a callback do: a class that was edited in a notebook is another one."""
    functions = [getattr(one, "__code__", None) for one in _events(callback)]
    for cls in type(callback).__mro__:
        if cls in (TrainerCallback, object):
            break
        functions += [getattr(one, "__code__", None) for _, one in sorted(vars(cls).items())]
    return sha256(*(part for code in functions if code is not None for part in _parts(code)))


def _parts(code: CodeType) -> list[bytes | str]:
    found: list[bytes | str] = [code.co_code, *code.co_names, *code.co_varnames]
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found += _parts(constant)
        else:  # the order of a set is another one in every process
            found.append(repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant))
    return found
