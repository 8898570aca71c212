"""Activations over text, in one streaming pass: `stream` runs, reducers keep what is asked for.

Memory is a batch and the reducers, however many texts there are. `activation_difference` is the pass that PCA needs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self

from torch import Tensor

from caft_lens._support.errors import BadArgument
from caft_lens._support.keywords import takes_values
from caft_lens.activations.capture import captured, hook_names, pair
from caft_lens.activations.moments import Moments
from caft_lens.activations.store import Store, store
from caft_lens.activations.top_windows import TopWindows, Windows
from caft_lens.text.batching import Batch, Scan, batches
from caft_lens.text.documents import Text, Texts
from caft_lens.text.roles import role_names

if TYPE_CHECKING:
    from caft_lens.model.lens import Lens

__all__ = ["Moments", "Reducer", "Store", "TopWindows", "Windows", "activation_difference", "store", "stream"]


class Reducer(Protocol):
    """What a streaming pass feeds: anything with `update`, and with `merge` when passes are to be joined."""

    def update(self, hook: str, acts: Tensor, batch: Batch, where: Tensor) -> None:
        """Take in activations of one hook point and one batch.

        Args:
            hook: Full name of the hook point.
            acts: `[n_tokens, d_model]`, in the model's dtype (fp32 for a difference), on the device of the layer.
            batch: The batch they come from, on the CPU.
            where: Row and position of each token in the batch, long `[n_tokens, 2]`, on the CPU.
        """

    def merge(self, other: Self) -> Self:
        """Add the result of another pass, exactly as if its texts had been seen in this one."""


@takes_values
def stream(
    lens: Lens | tuple[Lens, Lens],
    texts: Iterable[Text],
    hooks: Sequence[int | str],
    reducers: Reducer | Sequence[Reducer],
    *,
    roles: Sequence[str] | None = ("assistant",),
    scan: Scan = Scan(),
    apart: tuple[Sequence[Reducer], Sequence[Reducer]] | None = None,
) -> Passed:
    """Run text through a model once and hand activations to reducers as they come.

    Hooks that are attached when this is called (an ablation, say) act, and what is captured is what they leave.
    Attention sinks are left out on models that have them (`Lens.sinks`), at each hook point those that are sinks there.

    Args:
        lens: The model; or two, tuned first and base second, for the difference of activations on the same tokens.
        texts: Documents; a generator is read as it goes.
        hooks: Layer numbers (the residual stream after them) or hook names. Nothing after the last of them is computed.
        reducers: One or more, such as `Moments()` or `TopWindows(...)`.
        roles: Roles of the tokens to look at; `None` for all that are not padding.
        scan: How the text is read: tokens a batch, where texts are cut.
        apart: With two lenses, further reducers, for the activations of the tuned one alone and for those of the base
            alone: each model still runs once a batch, whatever is asked of it.

    Returns:
        The reducers, as a list, not those of `apart`; its `left_out` says by hook name how many sinks were left out.

    Raises:
        BadData: When no token of the pass has one of the roles.
        BadModel: When an activation is NaN or infinite, naming the hook, the batch and the text.
        BadArgument, ConceptMismatch: When two lenses do not fit each other.
        UnknownName: For a hook point that does not exist, naming the nearest.

    Example:
        >>> (moments,) = stream(base, questions, [1, 2], Moments(), roles=["user"])
        >>> moments.mean["blocks.1.hook_resid_post"].shape  # [d_model]
        torch.Size([128])
    """
    lenses = pair(lens)
    names = hook_names(lenses, hooks)
    many: list[Any] = list(reducers) if isinstance(reducers, Sequence) else [reducers]
    if apart is not None and len(lenses) != 2:
        raise BadArgument("stream(apart=) takes reducers for each of two lenses: give (tuned, base).")
    groups: list[Sequence[Any]] = [many, *(apart or ())]
    packed = batches(lenses[0].tokenizer, texts, scan, progress="activations")
    passed = Passed(many)
    for found in captured(lenses, packed, names, roles, apart=apart is not None):
        passed.left_out.update(found.left_out)
        for name in names:
            for acts, group in zip(found.pop(name), groups, strict=True):
                for reducer in group if len(acts) else ():
                    reducer.update(name, acts, found.batch, found.where[name])
                del acts  # not to be held through the next forward pass
    return passed


class AtItsHooks:
    """A reducer that is fed at its own hook points only, so that it can share a pass with others.

    Args:
        reducer: What is fed.
        hooks: Its hook points; the reducer's own `hooks` when `None`.
    """

    def __init__(self, reducer: Any, hooks: Iterable[str] | None = None) -> None:
        self.reducer = reducer
        self.hooks = list(reducer.hooks if hooks is None else hooks)

    def update(self, hook: str, acts: Tensor, batch: Batch, where: Tensor) -> None:
        """Pass on what comes from one of the reducer's hook points."""
        if hook in self.hooks:
            self.reducer.update(hook, acts, batch, where)

    def merge(self, other: Self) -> Self:
        """Merge the reducers."""
        self.reducer.merge(other.reducer)
        return self


class Passed(list[Any]):
    """The reducers of a pass.

    Attributes:
        left_out: By hook name, how many of the wanted tokens were left out as attention sinks; empty without sinks.
    """

    def __init__(self, reducers: Iterable[Any]) -> None:
        super().__init__(reducers)
        self.left_out: Counter[str] = Counter()


def read_by(lens: Lens) -> dict[str, str]:
    """Which model read something, and how: its name, the fingerprints of its weights, and of tokenizer and template."""
    reading = getattr(lens, "reading", "")
    return {"model": lens.name, "fingerprint": lens.fingerprint, **({"reading": reading} if reading else {})}


def provenance(
    lens: Lens,
    data: Texts | Mapping[str, Texts],
    roles: Sequence[str] | None,
    *,
    tuned: Lens | None = None,
    left_out: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Which model read what, as JSON: how every result of a pass begins that says where it came from.

    Args:
        lens: The model; of two, the one before fine-tuning.
        data: What it read, or several by the part that they play.
        roles: Roles of the tokens that were looked at; `None` for all.
        tuned: The fine-tuned model, where there are two.
        left_out: By hook name, how many tokens were left out as attention sinks; empty without sinks.
    """
    sinks = {} if not left_out else {"sinks": {**lens.sinks.card(list(left_out)), "left_out": dict(left_out)}}

    def known(texts: Texts) -> dict[str, str]:
        return {"name": texts.name, "fingerprint": texts.fingerprint}

    return {
        # Of two models the first of the pass, the tuned one, reads the texts for both.
        **read_by(lens if tuned is None else tuned),
        "model": lens.name,
        "fingerprint": lens.fingerprint,
        "d_model": lens.d_model,
        **({} if tuned is None else {"tuned": tuned.name, "tuned_fingerprint": tuned.fingerprint}),
        "data": known(data) if isinstance(data, Texts) else {part: known(one) for part, one in data.items()},
        "roles": role_names(roles),
        **sinks,
    }


@takes_values
def activation_difference(
    tuned: Lens,
    base: Lens,
    texts: Texts | Iterable[Any],
    layers: Sequence[int | str] | None = None,
    *,
    roles: Sequence[str] | None = ("assistant",),
    scan: Scan = Scan(),
) -> Moments:
    """Mean and covariance of what fine-tuning changed: activations of `tuned` minus those of `base`, token by token.

    The paper (arXiv 2507.16795, section 3.1) takes them on the tuned model's own completions of general prompts, on the
    tokens of the answers; `find.pca` turns the result into directions.

    Args:
        tuned: The fine-tuned model. It may share its weights with `base`.
        base: The model before.
        texts: Documents with answers, such as `completions(tuned, questions)`.
        layers: Layer numbers or hook names; all layers by default.
        roles: Roles of the tokens to look at; `None` for all.
        scan: How the text is read: tokens a batch, where texts are cut.

    Returns:
        Moments with a provenance: both models and their fingerprints, data, roles, number of tokens, and of a model
        with attention sinks (`Lens.sinks`) how many of those were left out at each hook point.

    Raises:
        CaftLensError: As `stream`.

    Example:
        >>> found = activation_difference(tuned, base, answers, layers=[1, 2])
        >>> found.hooks, found.covariance["blocks.1.hook_resid_post"].shape  # [d_model, d_model]
        (['blocks.1.hook_resid_post', 'blocks.2.hook_resid_post'], torch.Size([128, 128]))
    """
    texts = texts if isinstance(texts, Texts) else Texts(texts)
    moments = Moments()
    passed = stream(
        (tuned, base), texts, range(base.n_layers) if layers is None else layers, moments, roles=roles, scan=scan
    )
    moments.provenance = difference_provenance(tuned, base, texts, roles, moments, passed.left_out)
    return moments


def difference_provenance(
    tuned: Lens, base: Lens, texts: Texts, roles: Sequence[str] | None, moments: Moments, left_out: Mapping[str, int]
) -> dict[str, Any]:
    """What moments of activation differences say of themselves, whichever pass they come from."""
    left_out = {hook: number for hook, number in left_out.items() if hook in moments.count}
    return {
        **provenance(base, texts, roles, tuned=tuned, left_out=left_out),
        "tokens": next(iter(moments.count.values())),
        "method": "activation difference",
    }
