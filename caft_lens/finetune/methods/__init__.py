"""Methods: the ways of fine-tuning that are compared, one file each, by what they act on.

    references    plain
    activations   caft; in the same file its variants caft_mean, caft_detached, caft_gradient, and steer_mean, a
                  control; random, top_k, test_time, controls too; leace, splince, preventative_steering, lofit
    loss          kl_anchor, anchored_sft, l2_sp, pace, vcore, tl_training, poft, gradient_penalty, self_regularisation,
                  block_em
    data          mix_benign, inoculation, masked_thought, self_to_supervised, interleaving, aitp, arrangement, got_d,
                  filter_by_latents
    weights       half_finetuning, weight_averaging, heterogeneous_averaging, disperse_then_merge, corda, lora_moe,
                  restore_weights, inoculation_adapter, gradient_routing
    schedule      early_stopping, guided_dropout, lp_ft
    decoding      proxy_tuning, logits_fusion

A method goes to `cl.finetune(..., method=KLAnchor(general))` or `cl.Arm(texts, method=...)`. What it is, where it comes
from and what may be tuned is on its card: `help(KLAnchor)`, or `KLAnchor.card` as data. `../protocol.py` says where one
may act, `registry.py` which there are.
"""

from __future__ import annotations

from typing import Any

from caft_lens._support import lazy
from caft_lens._support.errors import nearest

_exported, _, __all__ = lazy.attach(__name__, __file__)


def _registered() -> dict[str, type]:
    """The classes of all methods, also of other packages, by their names."""
    from caft_lens.finetune.methods.registry import methods

    return {one.__name__: one for one in methods().values()}


def __getattr__(name: str) -> Any:
    """What is exported, and the class of a method, wherever it is."""
    if name in __all__:
        return _exported(name)
    found = _registered() if name[:1].isupper() else {}
    if name in found:
        return found[name]
    raise AttributeError(f'"{__name__}" has no "{name}".{nearest(name, sorted({*__all__, *found}))}')


def __dir__() -> list[str]:
    """What is exported, and the classes of all methods."""
    return sorted({*__all__, *globals(), *_registered()})
