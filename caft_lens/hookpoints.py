"""Hook points and their wiring: how a TransformerLens `HookPoint` comes to sit on a module of a transformers model.

`Site` is a hook point that is wired to the model only while something is attached to it; `at_input`, `at_output` and
`at_heads` are the three places where one can be. `Named` and `Cache` are TransformerLens's dictionaries of hook points and of
activations, with errors that name the nearest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import Tensor, nn
from transformer_lens.ActivationCache import ActivationCache
from transformer_lens.hook_points import HookPoint

from caft_lens.errors import BadArgument, UnknownName, nearest

Edit = Callable[[Tensor], Tensor]


class Site(HookPoint):
    """A hook point that is wired to the model only while a hook is attached to it.

    Args:
        wire: Puts a function (tensor to tensor) at its place in the model; returns the handle that takes it off.
    """

    def __init__(self, wire: Callable[[Edit], Any]) -> None:
        super().__init__()
        self._wire = wire
        self._handle: Any = None

    def add_hook(self, *args: Any, **keywords: Any) -> None:
        self.connect()
        super().add_hook(*args, **keywords)

    def remove_hooks(self, *args: Any, **keywords: Any) -> None:
        super().remove_hooks(*args, **keywords)
        if not self.has_hooks():
            self.disconnect()

    def connect(self) -> None:
        """Wire this hook point to the model, unless it is."""
        if self._handle is None:
            self._handle = self._wire(self)

    def disconnect(self) -> None:
        """Take it off the model again; hooks attached to the hook point stay attached."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None


class Cache(ActivationCache):
    """Cached activations by hook name (`cache["blocks.1.hook_resid_post"]`), layer number, or TransformerLens shorthand
    (`cache["resid_post", 1]`)."""

    def __getitem__(self, key: Any) -> Tensor:
        if isinstance(key, int):
            key = cast(Any, self.model).hook_name(key)
        try:
            return super().__getitem__(key)
        except (KeyError, IndexError, TypeError) as error:
            raise KeyError(f"{key!r} is not in the cache.{nearest(key, self.cache_dict)}") from error


class Named(dict[str, nn.Module]):
    """Hook points by name; a misspelt one is an error that names the nearest."""

    def __init__(self, model: str) -> None:
        super().__init__()
        self.model = model

    def __missing__(self, name: str) -> nn.Module:
        raise UnknownName(f'{self.model} has no hook point "{name}".{elsewhere(name) or nearest(name, self)}')


INSIDE = (
    *(f"attn.hook_{one}" for one in ("pattern", "attn_scores", "q", "k", "v", "rot_q", "rot_k", "result")),
    *("hook_q_input", "hook_k_input", "hook_v_input", "hook_attn_in", "hook_mlp_in", "hook_resid_mid"),
    *(
        "mlp.hook_pre",
        "mlp.hook_post",
        "ln1.hook_scale",
        "ln1.hook_normalized",
        "ln2.hook_scale",
        "ln2.hook_normalized",
    ),
)
"""What TransformerLens calls the inside of a block, which transformers' modules do not lay open."""
BRIDGE = " TransformerLens computes it, over the same weights: `lens.bridge().run_with_cache(...)`."


def elsewhere(name: str) -> str:
    """The end of an error about a hook point that TransformerLens's own model has: where to find it; else `""`.

    Example:
        >>> elsewhere("blocks.0.attn.hook_pattern")
        ' TransformerLens computes it, over the same weights: `lens.bridge().run_with_cache(...)`.'
        >>> elsewhere("blocks.0.hook_resid_pots")
        ''
    """
    last = str(name).rpartition(".")[2]
    return BRIDGE if last in {site.rpartition(".")[2] for site in INSIDE} else ""


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
    if callable(names) and any(
        names(f"blocks.{layer}.{site}") for layer in range(len(known)) for site in INSIDE
    ):
        hint = BRIDGE
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


def at_input(block: nn.Module, site: Edit) -> Any:
    """Wire a site to the residual stream that enters a block."""

    def hook(module: nn.Module, args: tuple, keywords: dict) -> tuple[tuple, dict]:
        if args:
            return (site(args[0]), *args[1:]), keywords
        return args, {**keywords, "hidden_states": site(keywords["hidden_states"])}

    return block.register_forward_pre_hook(hook, prepend=True, with_kwargs=True)


def at_output(block: nn.Module, path: str, site: Edit) -> Any:
    """Wire a site to the output of a block (`path=""`) or of a module inside it."""

    def hook(module: nn.Module, args: tuple, output: Any) -> Any:
        return site(output) if isinstance(output, Tensor) else (site(output[0]), *output[1:])

    return block.get_submodule(path).register_forward_hook(hook, prepend=True)


def at_heads(block: nn.Module, path: str, n_heads: int, site: Edit) -> Any:
    """Wire a site to the input of attention's output projection, as [batch, pos, head, d_head]."""

    def hook(module: nn.Module, args: tuple) -> tuple:
        return (site(args[0].unflatten(-1, (n_heads, -1))).flatten(-2), *args[1:])

    return block.get_submodule(path).register_forward_pre_hook(hook, prepend=True)
