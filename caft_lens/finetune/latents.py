"""`Watch`: latents of SAEs at the tokens that training learns, in the pass in flight and in another model's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from caft_lens._support.blocks import block
from caft_lens.concepts.concept_set import ConceptSet
from caft_lens.concepts.latents import Latents
from caft_lens.finetune.step import Pass
from caft_lens.model.hook_names import place_of
from caft_lens.model.lens import Lens
from caft_lens.model.passes import run_until

ByHook = dict[str, Tensor]


class Watch:
    """Latents in the passes of a model that is being trained; attention sinks are left out."""

    def __init__(self, concepts: ConceptSet, lens: Lens) -> None:
        self.latents, self._lens = Latents(concepts, lens), lens
        self._acts: ByHook = {}
        self._last = max(place_of(hook).layer for hook in self.latents.hooks)

    @block
    def open(self) -> Iterator[None]:
        """Keep what the hook points of the latents hold in every pass of the model while a block is open."""
        with self._lens.hooks(self._keeping(self._acts)):
            yield

    def here(self, step: Pass) -> ByHook:
        """By hook point the latents at the answer tokens of a pass, `[n_tokens, n_latents]`; gradients flow."""
        return self._read(self._acts, step)

    @torch.no_grad()
    def of(self, lens: Lens, step: Pass) -> ByHook:
        """The same in another model, at the same tokens."""
        acts: ByHook = {}
        call = {"input_ids": step.batch.input_ids, "attention_mask": step.batch.attention_mask, "use_cache": False}
        with lens.hooks(self._keeping(acts)), lens.roles_as(step.batch.roles):
            run_until(lens, self._last + 1, call)
        return self._read(acts, step)

    def _keeping(self, acts: ByHook) -> list[tuple[str, Callable[..., None]]]:
        def keep(x: Tensor, hook: Any) -> None:
            acts[hook.name] = x

        return [(hook, keep) for hook in self.latents.hooks]

    def _read(self, acts: ByHook, step: Pass) -> ByHook:
        found = {}
        for hook in self.latents.hooks:
            where = step.batch.loss
            if (far := self._lens.sinks.far(hook, self._acts[hook])) is not None:
                where = where & ~far
            found[hook] = self.latents.on(hook, acts[hook][where.to(acts[hook].device)])
        return found
