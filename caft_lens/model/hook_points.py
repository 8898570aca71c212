"""Hook points and their wiring: how a TransformerLens `HookPoint` comes to sit on a module of a transformers model."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any, cast

from einops import rearrange
from torch import Tensor, nn
from transformer_lens.ActivationCache import ActivationCache
from transformer_lens.hook_points import HookPoint

from caft_lens._support.blocks import Block
from caft_lens._support.errors import UnknownName, nearest
from caft_lens.model.hook_names import full_name
from caft_lens.model.turns import here

Edit = Callable[[Tensor], Tensor]


class Wire:
    """A function on a module of the model: put on and taken off by what it is, as an interrupt may lose a handle.

    Args:
        module: Gives the module, when it is put on.
        function: As `register_forward_hook` takes it; where `before`, `register_forward_pre_hook(with_kwargs=True)`.
        before: Whether it sees what goes into the module, rather than what comes out.
        last: Whether it comes after the other hooks of the module, rather than before.
    """

    def __init__(
        self, module: Callable[[], nn.Module], function: Callable[..., Any], *, before: bool, last: bool = False
    ) -> None:
        self._module, self._function, self._before, self._last = module, function, before, last
        self._wired: list[nn.Module] = []
        self._on = False
        function.__dict__[_OURS] = True

    def on(self) -> None:
        """Put it on, unless it is."""
        if self._on:
            return
        self.off()
        module = self._module()
        self._wired.append(module)
        if self._before:
            module.register_forward_pre_hook(self._function, prepend=not self._last, with_kwargs=True)
        else:
            module.register_forward_hook(self._function, prepend=not self._last)
        self._on = True

    def off(self) -> None:
        """Take it off, wherever it is."""
        self._on = False
        for module in self._wired:
            take_off(module, lambda one: one is self._function)
        self._wired.clear()


_OURS = "_caft_lens_wire"
"""Marks what is wired: a copy of a model takes hooks along, and lets go of these."""


def take_off(module: nn.Module, which: Callable[[Any], bool]) -> None:
    """Take hooks of the forward pass off a module."""
    for hooks, flags in (
        (module._forward_hooks, (module._forward_hooks_with_kwargs, module._forward_hooks_always_called)),
        (module._forward_pre_hooks, (module._forward_pre_hooks_with_kwargs,)),
    ):
        for key in [key for key, one in list(hooks.items()) if which(one)]:
            hooks.pop(key, None)
            for flag in flags:
                flag.pop(key, None)


def bare(model: nn.Module) -> None:
    """Take everything off that a wire put on: of a copy, whose original has it still."""
    for module in model.modules():
        if module._forward_hooks or module._forward_pre_hooks:
            take_off(module, lambda one: isinstance(one, FunctionType) and _OURS in one.__dict__)


class Attached(Block[None]):
    """A wire that is on while a block is open."""

    def __init__(self, wire: Wire) -> None:
        super().__init__()
        self._wire = wire

    def begin(self) -> None:
        self._wire.on()

    def undo(self, error: BaseException | None) -> None:
        self._wire.off()


class Site(HookPoint):
    """A hook point that is wired to the model, by what `wire` makes of it, only while a hook is attached to it."""

    def __init__(self, wire: Callable[[Edit], Wire]) -> None:
        super().__init__()
        self._wire = wire(self)

    def add_hook(self, *args: Any, **keywords: Any) -> None:
        self._wire.on()
        before = set(self._forward_hooks)
        try:
            super().add_hook(*args, **keywords)
        except BaseException:
            known = {handle.hook.id for handle in self.fwd_hooks}
            for key in set(self._forward_hooks) - before - known:  # put on, but not in the list yet
                self._forward_hooks.pop(key, None)
            raise

    def remove_hooks(self, *args: Any, **keywords: Any) -> None:
        super().remove_hooks(*args, **keywords)
        if not self.has_hooks():
            self._wire.off()


class Cache(ActivationCache):
    """Cached activations by hook name, layer number, or TransformerLens shorthand (`cache["resid_post", 1]`)."""

    def __getitem__(self, key: Any) -> Tensor:
        if isinstance(key, int):
            key = cast(Any, self.model).hook_name(key)
        elif isinstance(key, str) and key not in self.cache_dict:
            key = full_name(key)
        try:
            return super().__getitem__(key)
        except (KeyError, IndexError, TypeError) as error:
            raise UnknownName(f"{key!r} is not in the cache.{nearest(key, self.cache_dict)}") from error


# Ours come first among the hooks of a module, so that output_hidden_states, FSDP and the like see what hooks made of
# it. Modules inside a block are looked up when they are wired: PEFT replaces those on which it puts an adapter.


def at_input(block: nn.Module, site: Edit) -> Wire:
    """Wire a site to the residual stream that enters a block."""

    def hook(module: nn.Module, args: tuple, keywords: dict) -> tuple[tuple, dict]:
        _see(module)
        if args:
            return (site(args[0]), *args[1:]), keywords
        return args, {**keywords, "hidden_states": site(keywords["hidden_states"])}

    return Wire(lambda: block, hook, before=True)


def at_output(block: nn.Module, path: str, site: Edit) -> Wire:
    """Wire a site to the output of a block (`path=""`) or of a module inside it."""

    def hook(module: nn.Module, args: tuple, output: Any) -> Any:
        _see(module)
        return site(output) if isinstance(output, Tensor) else (site(output[0]), *output[1:])

    return Wire(lambda: block.get_submodule(path), hook, before=False)


def at_heads(block: nn.Module, path: str, n_heads: int, site: Edit) -> Wire:
    """Wire a site to the input of attention's output projection, as [batch, pos, head, d_head]."""

    def hook(module: nn.Module, args: tuple, keywords: dict) -> tuple[tuple, dict]:
        _see(module)
        heads = site(rearrange(args[0], "batch pos (head d_head) -> batch pos head d_head", head=n_heads))
        return (rearrange(heads, "batch pos head d_head -> batch pos (head d_head)"), *args[1:]), keywords

    return Wire(lambda: block.get_submodule(path), hook, before=True)


def _see(module: nn.Module) -> None:
    if "_is_replica" in module.__dict__:  # of DataParallel, whose threads act for the one that has hooks
        here().foreign = True
