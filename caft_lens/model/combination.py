"""`Combined`: several models of one vocabulary that answer as one, by what is made of their logits at every token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from caft_lens._support.blocks import Block
from caft_lens._support.errors import BadModel, BadPass
from caft_lens.model.hook_points import Wire
from caft_lens.model.hooked import HookedModel
from caft_lens.model.partial_logits import Only, asked_of
from caft_lens.model.turns import here

Combine = Callable[[Tensor, list[Tensor]], Tensor]
_COMBINED: WeakSet[nn.Module] = WeakSet()


def combined(hf: nn.Module) -> bool:
    """Whether a transformers model answers together with others at the moment."""
    return hf in _COMBINED


class Combined(Block[HookedModel]):
    """While the block is open, the logits of a model are what is made of its own and of others' on the same tokens.

    It holds for every pass: of `generate`, where the others keep caches of their own, and where options are scored. The
    others run without gradients.

    Args:
        lens: The model.
        others: Models of the same tokenizer; they may share its weights.
        combine: Takes its logits and a list of theirs, `[..., d_vocab]` each, fp32, and gives those to go on with.

    Raises:
        BadModel: When another one has other tokens.

    Example:
        >>> with Combined(tuned, [base], lambda own, others: own + 0.5 * (others[0] - own)) as lens:
        ...     answer = lens.generate("How do I bake a pie?", seed=0)
    """

    def __init__(self, lens: HookedModel, others: Sequence[HookedModel], combine: Combine) -> None:
        super().__init__()
        for other in others:
            known = None if other.tokenizer is lens.tokenizer else (other.tokenizer and other.tokenizer.get_vocab())
            if other.d_vocab != lens.d_vocab or (known and lens.tokenizer and known != lens.tokenizer.get_vocab()):
                raise BadModel(f"{lens.name} and {other.name} have other tokens: their logits cannot be combined.")
        self._lens, self._others = lens, list(others)
        caches: tuple[Any, list[Any]] = (None, [])  # the model's, and those of the others beside it
        found: list[Any] = []
        me = here()

        @torch.no_grad()
        def before(_: nn.Module, args: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            if me not in (here(), here().acts_for):
                return
            cache, own = keywords.get("past_key_values"), [None] * len(self._others)
            if cache is not None and cache.get_seq_length():
                if caches[0] is not cache:
                    raise BadPass(f"{lens.name} is given a cache that the models beside it know nothing of.")
                own = caches[1]
            places = asked_of(lens.hf)
            found.clear()
            for other, past in zip(self._others, own, strict=True):
                call = {key: one for key, one in keywords.items() if key != "labels"} | {"past_key_values": past}
                with nullcontext() if places is None else Only(other, places):
                    found.append(other.hf(*args, **call))

        def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            nonlocal caches
            if me not in (here(), here().acts_for):
                return output
            caches = (output.past_key_values, [one.past_key_values for one in found])
            logits = combine(output.logits.float(), [one.logits.float().to(output.logits.device) for one in found])
            output.logits = logits.to(output.logits.dtype)
            found.clear()
            return output

        self._wires = [Wire(lambda: lens.hf, before, before=True), Wire(lambda: lens.hf, after, before=False)]

    def begin(self) -> HookedModel:
        for wire in self._wires:
            wire.on()
        _COMBINED.add(self._lens.hf)
        return self._lens

    def undo(self, error: BaseException | None) -> None:
        _COMBINED.discard(self._lens.hf)
        for wire in self._wires:
            wire.off()
