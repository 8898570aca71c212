"""Methods: the ways of fine-tuning that are compared, one file each.

    ../protocol.py  `Method` and the places at which one may act; `Card`, `setting`, `material`
    registry.py     `register`, `methods`, `named`, `make`: which there are

    references   plain, early_stopping, random_directions, top_k, ablation_at_test
    CAFT         caft; in the same file its variants caft_mean, caft_detached, caft_gradient; steer_mean, a control
    rivals       preventative_steering, kl_anchor, mix_benign, half_finetuning, weight_averaging, inoculation, lofit

A method goes to `cl.finetune(..., method=KLAnchor(general))` or `cl.Arm(texts, method=...)`. What it is, where it comes
from and what may be tuned is on its card: `help(KLAnchor)`, or `KLAnchor.card` as data. A new method is a new file; a
package of your own registers its methods when it is imported, or names them under the entry point group
`caft_lens.methods`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from caft_lens._support.errors import nearest

if TYPE_CHECKING:
    from caft_lens.finetune.methods.ablation_at_test import AblationAtTest as AblationAtTest
    from caft_lens.finetune.methods.caft import CAFT as CAFT
    from caft_lens.finetune.methods.caft import CAFTDetached as CAFTDetached
    from caft_lens.finetune.methods.caft import CAFTGradient as CAFTGradient
    from caft_lens.finetune.methods.caft import CAFTMean as CAFTMean
    from caft_lens.finetune.methods.caft import SteerMean as SteerMean
    from caft_lens.finetune.methods.early_stopping import EarlyStopping as EarlyStopping
    from caft_lens.finetune.methods.half_finetuning import HalfFineTuning as HalfFineTuning
    from caft_lens.finetune.methods.inoculation import Inoculation as Inoculation
    from caft_lens.finetune.methods.kl_anchor import KLAnchor as KLAnchor
    from caft_lens.finetune.methods.lofit import LoFiT as LoFiT
    from caft_lens.finetune.methods.mix_benign import MixBenign as MixBenign
    from caft_lens.finetune.methods.plain import Plain as Plain
    from caft_lens.finetune.methods.preventative_steering import PreventativeSteering as PreventativeSteering
    from caft_lens.finetune.methods.random_directions import RandomDirections as RandomDirections
    from caft_lens.finetune.methods.registry import make as make
    from caft_lens.finetune.methods.registry import methods as methods
    from caft_lens.finetune.methods.registry import named as named
    from caft_lens.finetune.methods.registry import register as register
    from caft_lens.finetune.methods.top_k import TopK as TopK
    from caft_lens.finetune.methods.weight_averaging import WeightAveraging as WeightAveraging
    from caft_lens.finetune.protocol import Card as Card
    from caft_lens.finetune.protocol import Method as Method
    from caft_lens.finetune.protocol import Plan as Plan
    from caft_lens.finetune.protocol import Training as Training
    from caft_lens.finetune.protocol import material as material
    from caft_lens.finetune.protocol import setting as setting

_PROTOCOL = ("Card", "Plan", "Training", "Method", "material", "setting")
_REGISTRY = ("make", "methods", "named", "register")
__all__ = sorted((*_PROTOCOL, *_REGISTRY))


def __getattr__(name: str) -> Any:
    """What is exported, and the class of a method, wherever it is."""
    import caft_lens.finetune.methods.registry as registry  # a `from` would ask this function again
    from caft_lens.finetune import protocol

    if name in __all__:
        return getattr(protocol if name in _PROTOCOL else registry, name)
    found = {one.__name__: one for one in registry.methods().values()} if name[:1].isupper() else {}
    if name in found:
        return found[name]
    raise AttributeError(f'"{__name__}" has no "{name}".{nearest(name, sorted({*__all__, *found}))}')


def __dir__() -> list[str]:
    """What is exported, and the classes of all methods."""
    from caft_lens.finetune.methods.registry import methods

    return sorted({*__all__, *globals(), *(found.__name__ for found in methods().values())})
