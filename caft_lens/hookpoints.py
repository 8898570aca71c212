"""Hook points and their wiring: how a TransformerLens `HookPoint` comes to sit on a module of a transformers model.

`Site` is a hook point that is wired to the model only while something is attached to it; `at_input`, `at_output` and
`at_heads` are the three places where one can be. `Named` and `Cache` are TransformerLens's dictionaries of hook points and of
activations, with errors that name the nearest.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, cast

from torch import Tensor, nn
from transformer_lens.ActivationCache import ActivationCache
from transformer_lens.hook_points import HookPoint

from caft_lens.errors import UnknownName, nearest

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


def canonical(name: str) -> str:
    """The name under which a hook point is known here, for that one or a synonym of TransformerLens's bridge.

    Example:
        >>> canonical("blocks.1.hook_out"), canonical("blocks.1.hook_resid_post")
        ('blocks.1.hook_resid_post', 'blocks.1.hook_resid_post')
    """
    found = re.fullmatch(r"(blocks\.\d+)\.(.+)", name)
    return f"{found[1]}.{SYNONYMS.get(found[2], found[2])}" if found else name


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
        elif isinstance(key, str) and key not in self.cache_dict:
            key = canonical(key)
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
        inside = re.match(r"blocks\.\d+\.", name) and any(part in name for part in INSIDE)
        bridge = (
            " Attention patterns, single heads and the inside of an MLP are hook points of lens.bridge(), TransformerLens's own model over "
            f'the same weights: lens.bridge().run_with_cache(texts, names_filter="{name}").'
            if inside
            else ""
        )
        raise UnknownName(f'{self.model} has no hook point "{name}".{bridge or nearest(name, self)}')


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
