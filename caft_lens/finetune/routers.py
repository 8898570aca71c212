"""`Routers`: what weighs the experts that the adapter of an MLP is parted into, token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from caft_lens._support.blocks import block
from caft_lens._support.errors import BadArgument
from caft_lens.finetune.adapters import adapted_modules, wired
from caft_lens.model.architectures import MLP

if TYPE_CHECKING:
    from caft_lens.model.lens import Lens


class Routers(nn.Module):
    """A router `[n_experts, d_in]` for every adapted layer of an MLP."""

    def __init__(self, lens: Lens, experts: int) -> None:
        super().__init__()
        self._experts = experts
        modules = {name: one for name, one in adapted_modules(lens).items() if any(f".{m}." in name for m in MLP)}
        for one in modules.values():
            if (rank := one.r["default"]) % experts:
                raise BadArgument(f"lora_moe shares the rank of the adapter, {rank}, among {experts} experts evenly.")
        self._keys = {name: name.replace(".", "/") for name in modules}
        self.of = nn.ModuleDict(
            {
                self._keys[name]: nn.Linear(one.in_features, experts, bias=False, device=lens.device)
                for name, one in modules.items()
            }
        )

    @block
    def open(self, lens: Lens, routed: dict[str, Tensor] | None = None) -> Iterator[Lens]:
        """While a block is open, the experts of each layer count as its router says; `routed` is told how much."""
        modules: Mapping[str, Any] = adapted_modules(lens)
        parts = {name: modules[name].lora_A["default"] for name in self._keys}
        with wired(parts, {name: self._weighing(name, routed) for name in parts}):
            yield lens

    def _weighing(self, name: str, routed: dict[str, Tensor] | None) -> Callable[..., Tensor]:
        def weigh(module: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            gates = self.of[self._keys[name]](args[0]).softmax(-1)
            if routed is not None:
                routed[name] = gates
            return output * gates.repeat_interleave(output.shape[-1] // self._experts, dim=-1)

        return weigh
