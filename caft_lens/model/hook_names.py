"""Hook names as TransformerLens writes them, `blocks.3.hook_resid_post`: read, written, and told from misspelt ones.

A layer number is short for the residual stream after that block.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn

from caft_lens._support.errors import BadArgument, UnknownName, nearest

RESIDUAL, HEADS = "hook_resid_post", "attn.hook_z"
PATTERN = r"blocks\.(\d{1,6})\.(.+)"
SYNONYMS = {
    "hook_in": "hook_resid_pre",
    "hook_out": "hook_resid_post",
    "attn.hook_out": "hook_attn_out",
    "mlp.hook_out": "hook_mlp_out",
    "attn.o.hook_in": "attn.hook_z",
}
"""Names that TransformerLens's bridge gives to the same places."""
# Parts of names that lie inside attention or the MLP, which only the bridge takes apart.
INSIDE = (
    "pattern", "attn_scores", "hook_q", "hook_k", "hook_v", "hook_rot", "hook_result", "hook_resid_mid", "hook_pre",
    "hook_post", "hook_scale", "hook_normalized", ".ln1", ".ln2", "attn.", "mlp.", "attn_in", "mlp_in",
)  # fmt: skip
SITES = (
    "attn.hook_pattern", "attn.hook_attn_scores", "attn.hook_q", "attn.hook_k", "attn.hook_v", "attn.hook_rot_q",
    "attn.hook_rot_k", "attn.hook_result", "hook_q_input", "hook_k_input", "hook_v_input", "hook_attn_in",
    "hook_mlp_in", "hook_resid_mid", "mlp.hook_pre", "mlp.hook_post", "ln1.hook_scale", "ln1.hook_normalized",
    "ln2.hook_scale", "ln2.hook_normalized",
)  # fmt: skip


class Place(NamedTuple):
    """Where a hook point is.

    Attributes:
        layer: The block, from 0.
        site: The hook point within it, such as `"hook_resid_post"`.
    """

    layer: int
    site: str


def written(layer: int, site: str = RESIDUAL) -> str:
    """The name of a hook point.

    Example:
        >>> written(3), written(0, "hook_mlp_out")
        ('blocks.3.hook_resid_post', 'blocks.0.hook_mlp_out')
    """
    return f"blocks.{layer}.{site}"


def place_of(hook: str) -> Place:
    """What a name says.

    Raises:
        BadArgument: For a name that is no hook point of a block; a `ValueError`.

    Example:
        >>> place_of("blocks.3.attn.hook_z")
        Place(layer=3, site='attn.hook_z')
    """
    found = re.fullmatch(PATTERN, hook)
    if found is None:
        raise BadArgument(
            f'"{hook}" is no hook point of a block; expected "blocks.<layer>.<site>", such as "{written(1)}".'
        )
    return Place(int(found[1]), found[2])


def full_name(hook: int | str) -> str:
    """The name of a hook point that was given by its layer number, that name or a synonym; `Lens.hook_name` checks it.

    Example:
        >>> full_name(1), full_name("blocks.1.hook_out")
        ('blocks.1.hook_resid_post', 'blocks.1.hook_resid_post')
    """
    if isinstance(hook, int):
        return written(hook)
    found = re.fullmatch(PATTERN, hook)
    return written(int(found[1]), SYNONYMS.get(found[2], found[2])) if found else hook


def short_name(hook: str) -> str:
    """A hook point in a label, and what names of concepts there begin with.

    Example:
        >>> short_name("blocks.1.hook_resid_post"), short_name("blocks.1.hook_mlp_out")
        ('L1', 'L1.mlp_out')
    """
    layer, site = place_of(hook)
    return f"L{layer}" if site == RESIDUAL else f"L{layer}.{site.replace('hook_', '')}"


def of_heads(hook: str) -> bool:
    """Whether a hook point holds the outputs of single heads, `[batch, pos, head, d_head]`."""
    return hook.endswith(HEADS)


def in_stream(hook: str) -> bool:
    """Whether a hook point is the residual stream itself, before or after a block, rather than what is added to it."""
    return hook.rpartition(".")[2].startswith("hook_resid")


class Named(dict[str, nn.Module]):
    """Hook points by name; a misspelt one is an error that names the nearest."""

    def __init__(self, model: str) -> None:
        super().__init__()
        self.model = model

    def __missing__(self, name: str) -> nn.Module:
        inside = re.match(r"blocks\.\d+\.", name) and any(part in name for part in INSIDE)
        raise UnknownName(f'{self.model} has no hook point "{name}".{bridge(name) if inside else nearest(name, self)}')


def bridge(name: str) -> str:
    """The end of an error about a hook point that TransformerLens's own model has."""
    return (
        " Attention patterns, single heads and the inside of an MLP are hook points of lens.bridge(), "
        "TransformerLens's own model over the same weights: `lens.bridge().run_with_cache(texts, "
        f'names_filter="{name}")`.'
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
    sites = list(dict.fromkeys(place_of(name).site for name in known))
    inside = callable(names) and [name for name in (written(0, site) for site in SITES) if names(name)]
    if inside:
        hint = bridge(inside[0])
    else:  # what a predicate looks for is as a rule a string in it
        constants = getattr(getattr(names, "__code__", None), "co_consts", ())
        sought = [one for one in constants if isinstance(one, str) and len(one) > 3]
        hint = nearest(re.sub(r"^\.?(blocks\.\d+\.)?", "", sought[0]), sites) if sought else ""
    raise BadArgument(f"{what} matches no hook point: there are blocks.<layer>. with {', '.join(sites)}.{hint}")
