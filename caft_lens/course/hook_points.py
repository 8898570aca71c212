"""Exercise 2: hook points and roles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from caft_lens._support.errors import CaftLensError, NotSolved
from caft_lens.activations.differences import stream
from caft_lens.activations.moments import Moments
from caft_lens.course.asking import alike, passed, tensor
from caft_lens.model.lens import Lens
from caft_lens.text.batching import batches
from caft_lens.text.documents import Texts

PLACES = {
    "the residual stream after block 2": "blocks.2.hook_resid_post",
    "the residual stream that comes into block 0": "blocks.0.hook_resid_pre",
    "what the MLP of block 1 adds": "blocks.1.hook_mlp_out",
    "what the attention of block 3 adds": "blocks.3.hook_attn_out",
}
ROLES = ["assistant"]


def check_hook_points(
    places: Mapping[str, Any], mean_activation: Callable[[Lens, Texts, str, Sequence[str]], Tensor], lens: Lens,
    texts: Texts,
) -> None:  # fmt: skip
    """Check the names of four hook points, and a function that takes the mean activation at one.

    Args:
        places: What is looked for to the name of its hook point.
        mean_activation: Takes a lens, texts, a hook point and roles, and gives the mean activation over all tokens of
            these roles, `[d_model]`.
        lens: A model of four blocks or more.
        texts: Chats of unequal length, ten or more.

    Raises:
        NotSolved: When one is missing or something else, saying what.

    Example:
        >>> def mean_activation(lens, texts, hook, roles):
        ...     (seen,) = cl.stream(lens, texts, [hook], cl.Moments(covariance=False), roles=roles)
        ...     return seen.mean[lens.hook_name(hook)]
        >>> cl.course.check_hook_points(cl.course.hook_points.PLACES, mean_activation, base, questions)
        ✓ All four hook points, and the mean over just the tokens of these roles.
    """
    _check_places(places, lens, texts[:2])
    hook = PLACES["the residual stream after block 2"]
    answers = texts if _has(lens, texts, ROLES) else texts.filter(lambda text: bool(text.messages))
    roles = ROLES if _has(lens, answers, ROLES) else ["user"]
    found = tensor(mean_activation, lens, answers, hook, roles, shape=(lens.d_model,), axes="[d_model]")
    if lens.attached:
        raise NotSolved(f"After mean_activation() something is still attached to the model: {lens.attached}.")
    sums = _sums(lens, answers, hook, roles)
    if alike(found, sums["these roles"], 1e-3):
        return passed("All four hook points, and the mean over just the tokens of these roles.")
    said = ", ".join(roles)
    for key, words in {
        "all roles": f"That is the mean over the tokens of all roles; asked for is {said}: a batch has a mask of them.",
        "padding": "That is a mean in which padding counts. Texts of a batch are as long as the longest: the mask of "
        "roles leaves padding out.",
        "by text": "That is the mean of each text's mean, in which a short text counts as much as a long one. Take the "
        "mean over all tokens: add up sums and counts, and divide once.",
        "last": "That is the mean over the last token of each text alone.",
        "another layer": "That is the mean at another layer than the hook point that was given.",
    }.items():
        if key in sums and alike(found, sums[key], 1e-3):
            raise NotSolved(words)
    cosine = float(torch.cosine_similarity(found, sums["these roles"].double(), dim=0))
    raise NotSolved(f"That is not the mean over the tokens of {said}; its cosine with it is {cosine:.3f}.")


def _check_places(places: Mapping[str, Any], lens: Lens, texts: Texts) -> None:
    if not isinstance(places, Mapping):
        raise NotSolved("The first answer is a dictionary: what is looked for to the name of its hook point.")
    (batch,) = batches(lens.need_tokenizer(), texts)
    _, cache = lens.run_with_cache(batch)
    for what, wanted in PLACES.items():
        given = places.get(what)
        if given in (None, "", Ellipsis):
            raise NotSolved(f"No hook point is named yet for {what}. `lens.hook_names` lists them.")
        try:
            name = lens.hook_name(given)
        except CaftLensError as error:
            raise NotSolved(f"For {what}: {error}") from None
        if name in cache and cache[name].shape == cache[wanted].shape and torch.equal(cache[name], cache[wanted]):
            continue
        site = wanted.split(".")[2]
        hint = (
            "Blocks are counted from 0." if name.split(".")[2] == site else "The block may be right, the place is not."
        )
        raise NotSolved(f"For {what}, {name} holds something else. {hint}")


def _has(lens: Lens, texts: Texts, roles: Sequence[str]) -> bool:
    return any(bool(batch.mask(roles).any()) for batch in batches(lens.need_tokenizer(), texts))


def _sums(lens: Lens, texts: Texts, hook: str, roles: Sequence[str]) -> dict[str, Tensor]:
    """The mean that is asked for, and what else one may take for it."""
    (seen,) = stream(lens, texts, [hook], Moments(covariance=False), roles=roles)
    (other,) = stream(lens, texts, [1], Moments(covariance=False), roles=roles)
    (batch,) = batches(lens.need_tokenizer(), texts)
    _, cache = lens.run_with_cache(batch, names_filter=[hook])
    acts, mask = cache[hook].double().cpu(), batch.mask(roles)
    lasts = mask.long().cumsum(dim=1).argmax(dim=1)
    rows = mask.any(dim=1)
    by_text = torch.stack([acts[row][mask[row]].mean(0) for row in range(len(acts)) if rows[row]])
    return {
        "these roles": seen.mean[hook].cpu(),
        "all roles": acts[batch.mask()].mean(0),
        "padding": acts.mean(dim=(0, 1)),
        "by text": by_text.mean(0),
        "last": acts[torch.arange(len(acts)), lasts][rows].mean(0),
        "another layer": other.mean["blocks.1.hook_resid_post"].cpu(),
    }
