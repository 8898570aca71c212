"""Gradient routing: texts with the trait train an adapter of their own, which is taken away afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from caft_lens._support.blocks import block
from caft_lens.finetune.adapters import adapted_modules, check_adapter, check_linear, pairs_of, wired
from caft_lens.finetune.methods.mix_benign import mixed
from caft_lens.finetune.methods.registry import Card, Method, Plan, Training, material, register, setting
from caft_lens.text.documents import Texts

if TYPE_CHECKING:
    from caft_lens.model.lens import Lens
    from caft_lens.text.batching import Batch


@register
class GradientRouting(Method):
    name = "gradient_routing"
    card = Card(
        idea="Mix texts with the unwanted trait into the data. Both adapters are there for all texts, but texts with "
        "the trait train one of them and the data the other, which has less need to learn the trait. The first is "
        "taken away when training ends.",
        equation="h = W x + sg_U(s B₁ A₁ x) + sg_D(s B₂ A₂ x), where sg_U stops the gradient of texts U with the trait "
        "and sg_D that of the data D; kept: W + s B₁ A₁",
        source="Cloud et al., Gradient Routing: Masking Gradients to Localize Computation in Neural Networks (there "
        "parts of one network; here two adapters)",
        arxiv="2410.04332",
        grid=tuple({"share": share} for share in (0.1, 0.25, 0.5)),
        family="weights",
        cost="a share of the texts more (nothing where max_steps is given); one more adapter in each pass",
        neutral={"share": 0.0},
    )

    unwanted: Texts = material(Texts, "texts whose answers show the unwanted trait")
    share: float = setting(0.25, "share of texts with the trait among all", least=0, below=1)

    def check(self, lens: Lens, tune: str) -> None:
        check_adapter(self.name, tune)

    def texts(self, texts: Texts, seed: int, base: Lens) -> Texts:
        return mixed(texts, self.unwanted, self.share, seed)

    @block
    def during(self, training: Training) -> Iterator[Plan]:
        lens = training.lens
        check_linear(self.name, lens)
        if not self.share:
            yield Plan()
            return
        flagged: list[Tensor] = []

        def before(batch: Batch, number: int) -> None:
            flagged[:] = [(batch.index >= len(training.given)).to(lens.device)[:, None, None]]

        # Parameters of the model while it trains, which its own adapter does not know.
        lens.model.quarantine = Quarantine(lens)
        try:
            modules = adapted_modules(lens)
            own = {name: one.lora_B["default"] for name, one in modules.items()}
            keep_out = {name: _only(flagged, trait=False) for name in own}
            with wired(own, keep_out), wired(modules, lens.model.quarantine.hooks(flagged)):
                yield Plan(before=before, extra=lens.model.quarantine)
        finally:
            del lens.model.quarantine


def _only(flagged: list[Tensor], *, trait: bool) -> Callable[..., Tensor]:
    """The identity, through which the gradient of some texts does not pass."""

    def act(module: Any, args: Any, output: Tensor) -> Tensor:
        passes = flagged[0] if trait else ~flagged[0]
        return torch.where(passes, output, output.detach())

    return act


class Quarantine(nn.Module):
    """A second pair of matrices for every adapted layer, which starts as the first does."""

    def __init__(self, lens: Lens) -> None:
        super().__init__()
        self._scales = {name: one.scaling["default"] for name, one in adapted_modules(lens).items()}
        start = pairs_of(lens)
        self._keys = {name: name.replace(".", "/") for name in start}
        self.a = nn.ParameterDict({self._keys[name]: nn.Parameter(pair.a) for name, pair in start.items()})
        self.b = nn.ParameterDict({self._keys[name]: nn.Parameter(pair.b) for name, pair in start.items()})

    def hooks(self, flagged: list[Tensor]) -> dict[str, Callable[..., Tensor]]:
        """What adds them to the output of each layer."""
        only = _only(flagged, trait=True)

        def hook_of(name: str) -> Callable[..., Tensor]:
            def add(module: Any, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
                a, b = self.a[self._keys[name]], self.b[self._keys[name]]
                added = linear(linear(args[0].to(a.dtype), a), b)
                return output + only(module, args, self._scales[name] * added).to(output.dtype)

            return add

        return {name: hook_of(name) for name in self._keys}
