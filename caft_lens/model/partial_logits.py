"""Logits at some tokens alone: of a large vocabulary those of all are most of a small model's work and memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from caft_lens.model.hook_points import Attached, Wire
from caft_lens.model.hooked import HookedModel
from caft_lens.model.turns import here


class Only(Attached):
    """While the block is open, the model's unembedding sees some tokens alone: its logits are `[1, n, d_vocab]`.

    Whatever the architecture does to its logits afterwards, such as capping them, is done to these.

    Args:
        lens: The model.
        places: Which tokens, as numbers into the batch's `batch * pos` tokens, `[n]`; they stand in this order.

    Attributes:
        acted: Whether a pass has come by.
    """

    def __init__(self, lens: HookedModel, places: Tensor) -> None:
        self.acted = False
        me = here()

        def gather(_: nn.Module, args: tuple, keywords: dict) -> tuple[tuple, dict] | None:
            if here() is not me:
                return None
            self.acted = True
            some = lambda x: x.flatten(0, -2)[places.to(x.device)][None]  # noqa: E731
            if args:
                return (some(args[0]), *args[1:]), keywords
            return args, {name: some(x) for name, x in keywords.items()}

        super().__init__(Wire(lens.hf.get_output_embeddings, gather, before=True))
        self._hf, self._places = lens.hf, places

    def begin(self) -> None:
        super().begin()
        _ASKED[self._hf] = self._places

    def undo(self, error: BaseException | None) -> None:
        _ASKED.pop(self._hf, None)
        super().undo(error)


_ASKED: WeakKeyDictionary[nn.Module, Tensor] = WeakKeyDictionary()


def asked_of(hf: nn.Module) -> Tensor | None:
    """The tokens that a transformers model's unembedding sees alone at the moment; `None` where it sees all."""
    return _ASKED.get(hf)


def logits_at(lens: HookedModel, call: Mapping[str, Any], places: Tensor) -> Tensor:
    """Logits at some tokens of a batch, `[n, d_vocab]`; those of the others are never computed.

    Args:
        lens: The model; what is hooked to it acts.
        call: The keywords of the model's own forward pass.
        places: As for `Only`.

    Example:
        >>> from caft_lens.model.passes import as_batch, call_of
        >>> batch = as_batch(base, "How do I bake a pie?")
        >>> ends = places_of(batch.input_ids == batch.input_ids[0, -1])
        >>> tuple(logits_at(base, call_of(base, batch), ends).shape) == (len(ends), base.d_vocab)
        True
    """
    with (only := Only(lens, places)):
        out = lens.model(**call).logits
    # An architecture that does not call its unembedding as a module has computed all of them.
    return out[0] if only.acted else out.flatten(0, -2)[places.to(out.device)]


def places_of(where: Tensor) -> Tensor:
    """Tokens that are marked, bool `[batch, pos]`, as numbers into the `batch * pos` tokens.

    Example:
        >>> import torch
        >>> places_of(torch.tensor([[False, True], [True, False]]))
        tensor([1, 2])
    """
    return where.flatten().nonzero()[:, 0]
