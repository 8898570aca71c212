"""Hook points and their wiring: how a TransformerLens `HookPoint` comes to sit on a module of a transformers model.

`Site` is a hook point that is wired to the model only while something is attached to it; `at_input`, `at_output` and
`at_heads` are the three places where one can be. A `Wire` is a function on a module that comes off again for certain, whatever
interrupts. `Named` and `Cache` are TransformerLens's dictionaries of hook points and of activations, with errors that name the nearest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, cast

from torch import Tensor, nn
from transformer_lens.ActivationCache import ActivationCache
from transformer_lens.hook_points import HookPoint

from caft_lens._support.blocks import Block
from caft_lens._support.errors import BadArgument, UnknownName, nearest
from caft_lens.model.turns import here

# Names that TransformerLens's bridge gives to the same places.
SYNONYMS = {
    "hook_in": "hook_resid_pre",
    "hook_out": "hook_resid_post",
    "attn.hook_out": "hook_attn_out",
    "mlp.hook_out": "hook_mlp_out",
    "attn.o.hook_in": "attn.hook_z",
}
# Parts of names that lie inside attention or the MLP, which only the bridge takes apart.
INSIDE = (
    "pattern", "attn_scores", "hook_q", "hook_k", "hook_v", "hook_rot", "hook_result", "hook_resid_mid", "hook_pre", "hook_post",
    "hook_scale", "hook_normalized", ".ln1", ".ln2", "attn.", "mlp.", "attn_in", "mlp_in",
)  # fmt: skip

SITES = (
    "attn.hook_pattern", "attn.hook_attn_scores", "attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_rot_q", "attn.hook_rot_k",
    "attn.hook_result", "hook_q_input", "hook_k_input", "hook_v_input", "hook_attn_in", "hook_mlp_in", "hook_resid_mid", "mlp.hook_pre",
    "mlp.hook_post", "ln1.hook_scale", "ln1.hook_normalized", "ln2.hook_scale", "ln2.hook_normalized",
)  # fmt: skip


def canonical(name: str) -> str:
    """The name under which a hook point is known here, for that one or a synonym of TransformerLens's bridge.

    Example:
        >>> canonical("blocks.1.hook_out"), canonical("blocks.1.hook_resid_post")
        ('blocks.1.hook_resid_post', 'blocks.1.hook_resid_post')
    """
    found = re.fullmatch(r"(blocks\.\d+)\.(.+)", name)
    return f"{found[1]}.{SYNONYMS.get(found[2], found[2])}" if found else name


Edit = Callable[[Tensor], Tensor]


class Wire:
    """A function on a module of the model: put on and taken off by what it is, not by a handle that an interrupt may lose.

    Args:
        module: Gives the module, when it is put on.
        function: As `register_forward_pre_hook(with_kwargs=True)` takes it where `before`, else as `register_forward_hook` does.
        before: Whether it sees what goes into the module, rather than what comes out.
        last: Whether it comes after the other hooks of the module, rather than before.
    """

    def __init__(
        self,
        module: Callable[[], nn.Module],
        function: Callable[..., Any],
        *,
        before: bool,
        last: bool = False,
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
    """A hook point that is wired to the model only while a hook is attached to it.

    Args:
        wire: Given a function (tensor to tensor), the wire of it to a place in the model.
    """

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
    """Cached activations by hook name (`cache["blocks.1.hook_resid_post"]`), layer number, or TransformerLens shorthand
    (`cache["resid_post", 1]`)."""

    def __getitem__(self, key: Any) -> Tensor:
        if isinstance(key, int):
            key = cast(Any, self.model).hook_name(key)
        elif isinstance(key, str) and key not in self.cache_dict:
            key = canonical(key)
        try:
            return super().__getitem__(key)
        except (KeyError, IndexError, TypeError) as error:
            raise UnknownName(f"{key!r} is not in the cache.{nearest(key, self.cache_dict)}") from error


class Named(dict[str, nn.Module]):
    """Hook points by name; a misspelt one is an error that names the nearest."""

    def __init__(self, model: str) -> None:
        super().__init__()
        self.model = model

    def __missing__(self, name: str) -> nn.Module:
        inside = re.match(r"blocks\.\d+\.", name) and any(part in name for part in INSIDE)
        raise UnknownName(
            f'{self.model} has no hook point "{name}".{bridge(name) if inside else nearest(name, self)}'
        )


def bridge(name: str) -> str:
    """The end of an error about a hook point that TransformerLens's own model has."""
    return (
        " Attention patterns, single heads and the inside of an MLP are hook points of lens.bridge(), TransformerLens's own model over "
        f'the same weights: `lens.bridge().run_with_cache(texts, names_filter="{name}")`.'
    )


def matching(names: Any, known: Mapping[str, Any], what: str) -> list[str]:
    """The hook points that a predicate, or several names, stand for; none is an error.

    Args:
        names: A predicate on names, or names.
        known: The hook points there are.
        what: What asked for them, for the error.

    Raises:
        BadArgument: When there is none, with the names that there are.
    """
    found = [name for name in known if names(name)] if callable(names) else list(names)
    if found:
        return found
    sites = list(dict.fromkeys(re.sub(r"blocks\.\d+\.", "", name) for name in known))
    inside = callable(names) and [f"blocks.0.{site}" for site in SITES if names(f"blocks.0.{site}")]
    if inside:
        hint = bridge(inside[0])
    else:  # what a predicate looks for is as a rule a string in it
        sought = [
            one
            for one in getattr(getattr(names, "__code__", None), "co_consts", ())
            if isinstance(one, str) and len(one) > 3
        ]
        hint = nearest(re.sub(r"^\.?(blocks\.\d+\.)?", "", sought[0]), sites) if sought else ""
    raise BadArgument(
        f"{what} matches no hook point: there are blocks.<layer>. with {', '.join(sites)}.{hint}"
    )


# Ours come first among the hooks of a module, so that output_hidden_states, FSDP and the like see what hooks made of it.
# Modules inside a block are looked up when they are wired: PEFT replaces those on which it puts an adapter.


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
        return (site(args[0].unflatten(-1, (n_heads, -1))).flatten(-2), *args[1:]), keywords

    return Wire(lambda: block.get_submodule(path), hook, before=True)


def _see(module: nn.Module) -> None:
    if "_is_replica" in module.__dict__:  # of DataParallel, whose threads act for the one that has hooks
        here().foreign = True
