"""`Concept`: one unit direction at one hook point, with its source, score, label and the reason for ablating it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from caft_lens._support.errors import BadArgument, BadType
from caft_lens.model.hook_names import place_of

_NUMBERS: tuple[tuple[str, type, Any, str], ...] = (
    ("rank", Integral, int, "a whole number"),
    ("score", Real, float, "a number"),
)


@dataclass(frozen=True, eq=False)
class Concept:
    """One direction at one hook point.

    Args:
        name: Unique within its set, such as `"L1.pc1"`; components, layers and latents are counted from 0.
        hook: TransformerLens name of the hook point, such as `"blocks.1.hook_resid_post"`.
        direction: `[d_model]`; kept as a unit vector, float32, on the CPU.
        source: The method that found it: `"pca"`, `"means"`, `"random"`, ….
        rank: Its place in the method's order, from 0.
        score: What the method ranks by; `score_name` says what that is.
        score_name: Such as `"explained variance ratio"`.
        sign: Which end carries what the label names: +1 the top contexts, -1 the bottom ones.
        label: What a reader called it.
        reason: Why it was chosen to be ablated.
        meta: Anything else, as JSON.

    Raises:
        BadArgument: When the direction is not a finite vector with a length, or the hook is not of a block.
        BadType: For a direction of booleans or complex numbers, and a rank or score that is no number.

    Example:
        >>> concept = Concept("L1.pc0", "blocks.1.hook_resid_post", torch.tensor([3.0, 4.0]))
        >>> concept.layer, concept.direction.tolist()
        (1, [0.6000000238418579, 0.800000011920929])
    """

    name: str
    hook: str
    direction: Tensor
    source: str = ""
    rank: int = 0
    score: float = 0.0
    score_name: str = ""
    sign: int = 1
    label: str = ""
    reason: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.name:
            raise BadArgument("A concept needs a name.")
        try:
            place_of(self.hook)
        except BadArgument as error:
            raise BadArgument(f'Concept "{self.name}": {error}') from None
        if self.sign not in (1, -1):
            raise BadArgument(f'Concept "{self.name}": sign is {self.sign!r}; expected 1 or -1.')
        for key, kind, as_kind, what in _NUMBERS:
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, kind):
                raise BadType(f'Concept "{self.name}": {key} is {value!r}; expected {what}.')
            object.__setattr__(self, key, as_kind(value))
        if not math.isfinite(self.score):
            raise BadArgument(f'Concept "{self.name}": score is {self.score}; expected a finite number.')
        object.__setattr__(self, "direction", _unit(self.name, self.direction))
        object.__setattr__(self, "meta", dict(self.meta))

    @property
    def layer(self) -> int:
        """The block that the hook point belongs to, from 0."""
        return place_of(self.hook).layer

    @property
    def site(self) -> str:
        """The hook point within its block, such as `"hook_resid_post"`."""
        return place_of(self.hook).site

    def __repr__(self) -> str:
        shown = f", {self.score_name} {self.score:.3g}" if self.score_name else ""
        named = f", {self.label!r}" if self.label else ""
        return f'Concept("{self.name}" at {self.hook}{shown}{named})'


def _unit(name: str, direction: Tensor) -> Tensor:
    vector = torch.as_tensor(direction).detach()
    if vector.dtype == torch.bool or vector.is_complex():
        kind = str(vector.dtype).removeprefix("torch.")
        raise BadType(f'Concept "{name}": the direction is {kind}; expected numbers.')
    vector = vector.to("cpu", torch.float64)
    if vector.ndim != 1:
        raise BadArgument(f'Concept "{name}": the direction has shape {tuple(vector.shape)}; expected [d_model].')
    length = vector.norm().item()
    if not math.isfinite(length) or length == 0:
        raise BadArgument(f'Concept "{name}": the direction has length {length}; expected a finite vector, not zero.')
    # A vector that is a unit one already keeps its bits, so that saving and loading changes nothing.
    return (vector if abs(length - 1) < 1e-6 else vector / length).to(torch.float32).clone()
