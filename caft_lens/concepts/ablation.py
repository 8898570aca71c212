"""Ablation: projecting concepts out of activations, at inference and in training by one and the same hook.

The projection is that of Concept Ablation Fine-Tuning (Casademunt et al., 2025, section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from caft_lens._support.arguments import finite, number, one_of, share
from caft_lens._support.errors import BadArgument, BadType, ConceptMismatch
from caft_lens.model.attach import at
from caft_lens.model.hook_names import of_heads
from caft_lens.model.hooked import says
from caft_lens.model.lens import Lens
from caft_lens.text.roles import ROLES, check_role_names

if TYPE_CHECKING:
    from caft_lens.concepts.concept_set import Concept, ConceptSet


Variant = Literal["zero", "mean", "detached", "gradient", "shift"]
VARIANTS: dict[str, str] = {
    "zero": "x - x Q Qᵀ, inside the graph: neither the activation nor its gradient has a component left",
    "mean": "x - (x - m) Q Qᵀ: the component becomes that of the mean activation m",
    "detached": "x - sg(x Q Qᵀ): the activation of zero with the gradient of no ablation",
    "gradient": "x, with the gradient of zero: only what is learned loses its component",
    "shift": "x - m Q Qᵀ: the same constant for every token, which is steering by the mean projection",
}


def project_out(x: Tensor, basis: Tensor, strength: float = 1.0) -> Tensor:
    """`x` without its component in the span of `basis`: x - (x Q) Qᵀ; or without a share of it.

    Coefficients and subtraction are in fp32 (fp64 for fp64), also under autocast; the result has the dtype of `x`, and
    gradients flow through: what reaches `x` has no component in the span either.

    Args:
        x: Activations, [..., d_model].
        basis: Q, orthonormal columns, [d_model, k], on the device of `x`.
        strength: The share s of the component that is taken out: x - s (x Q) Qᵀ.

    Returns:
        [..., d_model].

    Example:
        >>> project_out(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0], [0.0]]))
        tensor([[0., 4.]])
    """
    number = torch.promote_types(x.dtype, torch.float32)
    # Entered only where it changes something: it costs a fifth of a projection in a decoding step.
    mixed = torch.is_autocast_enabled(x.device.type)
    with torch.autocast(x.device.type, enabled=False) if mixed else nullcontext():
        flat = x.reshape(-1, x.shape[-1]).to(number)
        basis = basis.to(number)
        return torch.addmm(flat, flat @ basis, basis.T, alpha=-strength).to(x.dtype).view(x.shape)


def ablate(
    lens: Lens | nn.Module,
    concepts: ConceptSet | Mapping[int | str, Tensor],
    *,
    roles: Sequence[str] | None = None,
    variant: Variant = "zero",
    means: Mapping[str, Tensor] | None = None,
    strength: float = 1.0,
) -> AbstractContextManager[Lens]:
    """Project concepts out of the model's activations while a block is open.

    It acts on everything that runs the model: the lens, `generate` (every cached step), `lens.model` in a training
    loop. Gradients reach earlier layers only through what is left, as in Concept Ablation Fine-Tuning. Attention sinks
    stay what they are (`Lens.sinks`): activations a hundred times as long as the others hold a model together.

    Args:
        lens: The model: a `Lens`, or a transformers model (PEFT around it or not) around whose passes, in any trainer,
            the block is. `CaftCallback` opens it around the steps of one alone.
        concepts: Directions by site; or by hook name (or layer) orthonormal columns [d_model, k] or a unit vector.
        roles: Only at tokens with these roles ("assistant", "user", …); all tokens when `None`. The roles of text and
            of batches are known; with bare tokens, or in a loop of your own, tell them by `lens.roles_as(roles)`.
        variant: What is done with the component; `VARIANTS` says it in symbols, where sg stops the gradient.
        means: Mean activation [d_model] by hook name, for "mean" and "shift": `Moments.mean` of some text.
        strength: The share s of it that is done, 0 < s ≤ 1: s Q Qᵀ stands for Q Qᵀ in the equation of the variant. Of
            the component 1 - s is left ("zero", "detached"), of its distance to the mean's ("mean"), and of the
            gradient's component ("zero", "mean", "gradient"); "shift" moves by s times as much.

    Raises:
        ValueError: When the concepts do not fit the model, a basis is not orthonormal, for a name that is no role, for
            an unknown variant, when means are missing, or for a strength out of its range.
        UnknownName: For a site that the model does not have.

    Example:
        >>> with ablate(tuned, cruel):
        ...     answer = tuned.generate("How do I bake a pie?")
    """
    lens = lens_of(lens)
    return at(lens, ablations(lens, concepts, variant=variant, means=means, strength=strength), roles=roles)


def ablations(
    lens: Lens,
    concepts: ConceptSet | Mapping[int | str, Tensor],
    *,
    variant: Variant = "zero",
    means: Mapping[str, Tensor] | None = None,
    strength: float = 1.0,
) -> dict[str, Callable[[Tensor], Tensor]]:
    """The functions of the activation by which `ablate` ablates, by hook name (arguments and errors as there)."""
    bases = _bases(lens, concepts)
    one_of(variant, "variant", VARIANTS)
    given: dict[str, Tensor] = {}
    if variant in ("mean", "shift"):
        given = {
            hook: finite(mean, f"The mean at {hook}")
            for hook, mean in _by_hook(lens, means or {}, "means").items()
            if hook in bases
        }
        if missing := [hook for hook in bases if hook not in given]:
            needed = f'variant="{variant}" needs the mean activation at {", ".join(missing)}'
            raise BadArgument(f"{needed}: give means=, `Moments.mean` of some text.")
        for hook, mean in given.items():
            _check_width(lens, hook, mean.reshape(-1, 1), f"The mean at {hook}")
    _check_strength(strength)
    edits = {hook: _edit(variant, basis, given.get(hook), strength) for hook, basis in bases.items()}
    kind = "ablation" if variant == "zero" else f"{variant} ablation"
    share_of = "" if strength == 1 else f", strength {strength:g}"
    for hook, edit in edits.items():
        k = bases[hook].shape[1]
        says(edit, f"{kind} of {k} direction{'' if k == 1 else 's'}{share_of}")
    return edits


def steer(
    lens: Lens | nn.Module, concept: Concept, strength: float, *, roles: Sequence[str] | None = None
) -> AbstractContextManager[Lens]:
    """Add a multiple of a concept's unit direction at its site while a block is open.

    Args:
        lens: As for `ablate`.
        concept: One concept.
        strength: Length of what is added, in the units of the residual stream; negative steers the other way.
        roles: As for `ablate`.

    Raises:
        BadType: For anything but one concept.
        ValueError: When it does not fit the model.

    Example:
        >>> with steer(tuned, concepts["L1.pc1"], -4.0):
        ...     answer = tuned.generate("How do I bake a pie?")
    """
    lens = lens_of(lens)
    return at(lens, dict([steering(lens, concept, strength)]), roles=roles)


def steering(lens: Lens, concept: Concept, strength: float) -> tuple[str, Callable[[Tensor], Tensor]]:
    """The hook name and the function of the activation by which `steer` steers (arguments and errors as there)."""
    if not hasattr(concept, "direction"):
        what = type(concept).__name__
        raise BadType(f'steer() takes one Concept, not {what}: choose one of a set by its name, concepts["L1.pc0"].')
    strength = number(strength, "strength", hint="The length to steer by")
    direction = finite(concept.direction, f'The direction of "{concept.name}"').detach().reshape(1, -1)
    _check_width(lens, concept.hook, direction.T, f'The direction of "{concept.name}"')
    return lens.hook_name(concept.hook), says(_Shift(direction * strength), f"steering {concept.name} by {strength:g}")


@dataclass(frozen=True)
class Ablated:
    """A model seen under ablation: a subject for `evaluate`.

    Attributes:
        lens: The model.
        concepts: What is ablated.
        roles: At which tokens.
        strength: The share of the component that is ablated.
    """

    lens: Lens
    concepts: ConceptSet | Mapping[int | str, Tensor]
    roles: tuple[str, ...] | None = None
    strength: float = 1.0

    def applied(self) -> AbstractContextManager[Lens]:
        """The block in which the ablation holds."""
        return ablate(self.lens, self.concepts, roles=self.roles, strength=self.strength)


def ablated(
    lens: Lens | nn.Module,
    concepts: ConceptSet | Mapping[int | str, Tensor],
    *,
    roles: Sequence[str] | None = None,
    strength: float = 1.0,
) -> Ablated:
    """A model with concepts ablated at test time.

    Args:
        lens: As for `ablate`.
        concepts: As for `ablate`; whether they fit is checked at once.
        roles: As for `ablate`.
        strength: As for `ablate`.
    """
    lens = lens_of(lens)
    _bases(lens, concepts)
    _check_strength(strength)
    if roles is not None:
        check_role_names(roles, ROLES)
    return Ablated(lens, concepts, None if roles is None else tuple(roles), strength)


def lens_of(model: Lens | nn.Module) -> Lens:
    """The lens on a model: what is one already, or a new one on a transformers model, which stays as it is.

    Raises:
        BadType: For anything else, such as a fine-tuning run.
    """
    if isinstance(model, Lens):
        return model
    if isinstance(model, nn.Module):
        return Lens(model)
    hint = "give run.lens, its model" if isinstance(getattr(model, "lens", None), Lens) else "cl.load makes a Lens"
    raise BadType(f"Expected a Lens or a transformers model, not {type(model).__name__}: {hint}.")


class _Placed:
    """A tensor that follows the activations to whatever device they are on, in fp32 unless they are finer."""

    def __init__(self, value: Tensor) -> None:
        with torch.inference_mode(False):
            self._value = value.detach().clone()
        self._copies: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def beside(self, x: Tensor) -> Tensor:
        key = (x.device, torch.promote_types(x.dtype, torch.float32))
        if key not in self._copies:
            # Made during inference, it must still serve in training: an inference tensor would not.
            with torch.inference_mode(False):
                self._copies[key] = self._value.to(*key)
        return self._copies[key]


class _Shift(_Placed):
    def __call__(self, x: Tensor) -> Tensor:
        return (x + self.beside(x)).to(x.dtype)


def _edit(variant: str, basis: Tensor, mean: Tensor | None, strength: float) -> Callable[[Tensor], Tensor]:
    """The function of the activation that a variant of ablation is."""
    columns = _Placed(basis)

    def project(x: Tensor) -> Tensor:
        return project_out(x, columns.beside(x), strength)

    # What these two add is exactly zero, and carries the gradient.
    def detached(x: Tensor) -> Tensor:
        return project(x.detach()) + (x - x.detach())

    def gradient(x: Tensor) -> Tensor:
        projected = project(x)
        return x.detach() + (projected - projected.detach())

    if variant in ("mean", "shift"):
        assert mean is not None  # `ablate` has seen to it
        q = basis.double()
        component = strength * (q @ (q.T @ mean.to(q)))
        shift = _Shift(component if variant == "mean" else -component)
        return shift if variant == "shift" else lambda x: shift(project(x))
    return {"detached": detached, "gradient": gradient}.get(variant, project)


def _check_strength(strength: float) -> None:
    share(strength, "strength", hint="It is the share of the component that is ablated")


def _by_hook(lens: Lens, given: Mapping[Any, Any], what: str) -> dict[str, Any]:
    """A mapping by full hook name, in which no hook point stands twice under two names."""
    found: dict[str, Any] = {}
    named: dict[str, Any] = {}
    for hook, value in given.items():
        name = lens.hook_name(hook)
        if name in found:
            raise BadArgument(
                f"{what} has two entries for {name}: {named[name]!r} and {hook!r} are names of one hook point. Put "
                f"what belongs there into one."
            )
        found[name], named[name] = value, hook
    return found


def one_of_a_set(concept: Any) -> str:
    """The end of an error about one concept where a set belongs."""
    return f' One concept as a set: f[:1] of a set f, or cl.choose(f, {{"{concept.name}": "why"}}).'


def _bases(lens: Lens, concepts: ConceptSet | Mapping[int | str, Tensor]) -> dict[str, Tensor]:
    """Orthonormal columns by full hook name, checked against the model."""
    if not isinstance(concepts, Mapping):
        if not hasattr(concepts, "bases"):
            hint = one_of_a_set(concepts) if hasattr(concepts, "direction") else ""
            raise BadType(
                f"Concepts are a ConceptSet or a mapping of hook to basis, not {type(concepts).__name__}.{hint}"
            )
        concepts.check(lens)
        return {
            hook: finite(basis, f"The directions at {hook}")
            for hook, basis in _by_hook(lens, concepts.bases(), "The concepts").items()
        }
    bases = {}
    for hook, basis in _by_hook(lens, concepts, "The mapping").items():
        basis = finite(basis, f"The basis for {hook}").detach().reshape(len(basis), -1).float()
        _check_width(lens, hook, basis, f"The basis for {hook}")
        error = (basis.T @ basis - torch.eye(basis.shape[1], device=basis.device)).abs().max()
        if not error <= 1e-3:
            raise BadArgument(
                f"The basis for {hook} is not orthonormal (QᵀQ is off by {error:.1g}): use a ConceptSet, whose bases "
                f"are, or torch.linalg.qr."
            )
        bases[hook] = basis
    if not bases:
        raise BadArgument("Nothing to ablate: the mapping is empty.")
    return bases


def _check_width(lens: Lens, hook: int | str, basis: Tensor, what: str) -> None:
    name = lens.hook_name(hook)
    if of_heads(name):
        raise ConceptMismatch(f"{name} holds the outputs of single heads, not the residual stream: take hook_attn_out.")
    if basis.shape[0] != lens.d_model:
        raise ConceptMismatch(f"{what} has width {basis.shape[0]}, but {lens.name} has d_model={lens.d_model}.")
