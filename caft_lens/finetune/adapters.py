"""LoRA adapters as pairs of matrices: taken off a model, put on, added beside its own, and made one of several."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from caft_lens._support.blocks import block
from caft_lens._support.errors import BadArgument
from caft_lens.finetune.targets import trained
from caft_lens.model.hook_points import Attached, Wire

if TYPE_CHECKING:
    from caft_lens.model.lens import Lens


class Pair(NamedTuple):
    """What an adapter has for one matrix: A `[r, d_in]` and B `[d_out, r]`, of which s B A is added."""

    a: Tensor
    b: Tensor


Pairs = dict[str, Pair]


def adapted_modules(lens: Lens) -> dict[str, Any]:
    """The layers that the adapter of a model is on, by name."""
    return {name: one for name, one in lens.model.named_modules() if hasattr(one, "lora_A") and "default" in one.lora_A}


def check_adapter(method: str, tune: str) -> None:
    """Refuse, for a method that is about adapters, to tune every parameter."""
    if tune != "lora":
        raise BadArgument(f'The method "{method}" is about an adapter: give tune="lora", not "{tune}".')


def check_linear(method: str, lens: Lens) -> None:
    """Refuse an adapter on experts that are one parameter, which has no pair a matrix."""
    if experts := trained(lens.hf).parameters:
        raise BadArgument(f'The method "{method}" knows no adapter on experts ({experts[0]}): give other lora.targets.')


def pairs_of(lens: Lens) -> Pairs:
    """A copy of the adapter of a model."""
    return {
        name: Pair(*(part["default"].weight.detach().clone() for part in (one.lora_A, one.lora_B)))
        for name, one in adapted_modules(lens).items()
    }


@torch.no_grad()
def put(lens: Lens, pairs: Mapping[str, Pair]) -> None:
    """Write pairs into the adapter of a model."""
    for name, one in adapted_modules(lens).items():
        one.lora_A["default"].weight.copy_(pairs[name].a)
        one.lora_B["default"].weight.copy_(pairs[name].b)


def state(lens: Lens) -> Pairs | list[Tensor]:
    """A copy of what is trained: the pairs of an adapter, or parameters."""
    return pairs_of(lens) if lens.has_adapter else [p.detach().clone() for p in lens.model.parameters()]


@torch.no_grad()
def restore(lens: Lens, to: Pairs | list[Tensor]) -> None:
    """Put what is trained back to what it was."""
    if isinstance(to, dict):
        put(lens, to)
        return
    for parameter, value in zip(lens.model.parameters(), to, strict=True):
        parameter.copy_(value)


@block
def beside(lens: Lens, pairs: Mapping[str, Pair], sign: float = 1.0) -> Iterator[None]:
    """While a block is open, every adapted layer also adds (or subtracts) what other pairs add."""
    added = {name: _adding(pairs[name], sign * one.scaling["default"]) for name, one in adapted_modules(lens).items()}
    with wired(adapted_modules(lens), added):
        yield


def _adding(pair: Pair, scale: float) -> Callable[..., Tensor]:
    def add(module: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = args[0].to(pair.a.dtype)
        return output + (scale * linear(linear(x, pair.a), pair.b)).to(output.dtype)

    return add


@block
def wired(modules: Mapping[Any, nn.Module], functions: Mapping[Any, Callable[..., Tensor]]) -> Iterator[None]:
    """Functions of the output of modules, as `register_forward_hook` takes them, while a block is open."""
    with ExitStack() as wires:
        for name, function in functions.items():
            wires.enter_context(Attached(Wire(partial(modules.__getitem__, name), function, before=False)))
        yield


def join(lens: Lens, parts: Sequence[tuple[float, Pairs]]) -> None:
    """Make the adapter of a model the weighted sum of several: Σ w B A, of the sum of their ranks.

    Args:
        lens: The model.
        parts: Weights and pairs, all of the shape of the model's own.
    """
    for name, one in adapted_modules(lens).items():
        a = torch.cat([pairs[name].a for _, pairs in parts])
        b = torch.cat([weight * pairs[name].b for weight, pairs in parts], dim=1)
        for part, weight in ((one.lora_A["default"], a), (one.lora_B["default"], b)):
            part.weight = nn.Parameter(weight, part.weight.requires_grad)
            part.out_features, part.in_features = weight.shape
        one.r["default"] = len(a)
    config, wider = lens.model.peft_config["default"], len(parts)
    # With a higher rank the same scale is that of a larger alpha.
    config.lora_alpha *= math.sqrt(wider) if config.use_rslora else wider
    config.r *= wider


def as_module(pairs: Mapping[str, Pair]) -> nn.ParameterDict:
    """Pairs as a module, whose state a run folder can keep."""
    return nn.ParameterDict(
        {
            f"{name.replace('.', '/')}/{part}": nn.Parameter(getattr(pair, part), requires_grad=False)
            for name, pair in pairs.items()
            for part in Pair._fields
        }
    )


def with_pairs(tuned: Lens, state: Mapping[str, Tensor] | None) -> Lens:
    """A model over the same base with another adapter: that of a state of `as_module`, or without any for `None`."""
    lens = tuned.fork()
    for name, one in adapted_modules(lens).items():
        key = name.replace(".", "/")
        for field, part in (("a", one.lora_A["default"]), ("b", one.lora_B["default"])):
            value = torch.zeros_like(part.weight) if state is None else state[f"{key}/{field}"].to(part.weight)
            part.weight = nn.Parameter(value, requires_grad=False)
    return lens
