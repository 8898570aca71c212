"""Exercise 3: principal components of differences, by hand."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from caft_lens._support.errors import NotSolved
from caft_lens.course.asking import CLOSE, ask, passed

TOKENS, WIDTH, K = 300, 12, 3
LOOSE = 1e-3
"""Of cosines and shares, with which an answer in float32 has to do."""


def check_components(components: Callable[[Tensor, int], tuple[Tensor, Tensor]]) -> None:
    """Check a function that finds the principal components of activation differences.

    Args:
        components: Takes differences `[n_tokens, d_model]` and `k`, and gives the first `k` components, unit directions
            `[k, d_model]`, and the share of the variance that each explains, `[k]`.

    Raises:
        NotSolved: When it is not written or does something else, saying what.

    Example:
        >>> def components(differences, k):
        ...     centred = differences - differences.mean(0)
        ...     _, sizes, rows = torch.linalg.svd(centred, full_matrices=False)
        ...     return rows[:k], (sizes**2 / (sizes**2).sum())[:k]
        >>> cl.course.check_components(components)
        ✓ These are the components of numpy's covariance, in order, with their shares of the variance.
    """
    drawn = torch.Generator().manual_seed(0)
    spread = torch.linspace(4, 0.5, WIDTH)
    turned = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=drawn)).Q
    differences = (torch.randn(TOKENS, WIDTH, generator=drawn) * spread) @ turned + 6 * turned[-1]
    answer = ask(components, differences.clone(), K)
    if not (isinstance(answer, tuple) and len(answer) == 2):
        raise NotSolved("components() is to give two things: the directions and their shares of the variance.")
    directions, shares = (torch.as_tensor(part).detach().double().cpu() for part in answer)
    if tuple(directions.shape) == (TOKENS, K) or tuple(directions.shape) == (K, TOKENS):
        raise NotSolved(
            f"The directions have {TOKENS} numbers, one a token: these are the scores. A direction has one number for "
            f"each of the {WIDTH} of d_model: the other side of the singular value decomposition."
        )
    if tuple(directions.shape) == (WIDTH, K):
        raise NotSolved("The directions stand in columns. Asked for is one a row, [k, d_model]: transpose.")
    if tuple(directions.shape) != (K, WIDTH) or tuple(shares.shape) != (K,):
        raise NotSolved(
            f"components(differences, {K}) gives shapes {tuple(directions.shape)} and {tuple(shares.shape)}; asked for "
            f"are [k, d_model] and [k], here {(K, WIDTH)} and {(K,)}."
        )
    lengths = directions.norm(dim=1)
    if bool(((lengths - 1).abs() > LOOSE).any()):
        raise NotSolved(f"The directions have lengths {_few(lengths)}; asked for is length 1.")
    wanted, sizes = _components(differences.double() - differences.double().mean(0))
    if not _same(directions, wanted[:K]):
        about_zero, _ = _components(differences.double())
        if _same(directions, about_zero[:K]):
            raise NotSolved(
                "These are components about zero: the first is nearly the mean difference. Take the mean off first."
            )
        if _same(directions, wanted[-K:]) or _same(directions, wanted[-K:].flip(0)):
            raise NotSolved("These are the components that explain least: `eigh` gives the smallest first.")
        if _same(directions, wanted[:K].flip(0)):
            raise NotSolved("The right components in the wrong order: the one that explains most comes first.")
        raise NotSolved(
            f"The first direction has a cosine of {float((directions[0] @ wanted[0]).abs()):.2f} with the direction of "
            "largest variance; it should be 1, whatever the sign."
        )
    of_all = sizes / sizes.sum()
    for what, wrong in {
        "shares of the singular values; of the variance are those of their squares": sizes.sqrt() / sizes.sqrt().sum(),
        "shares of what the first k explain together; asked for are shares of all variance": sizes / sizes[:K].sum(),
        "the variances themselves; divide by their sum": sizes / (TOKENS - 1),
        "the squared singular values; divide by their sum": sizes,
    }.items():
        if not _near(shares, of_all[:K]) and _near(shares, wrong[:K]):
            raise NotSolved(f"The directions are right. The shares are {what}.")
    if not _near(shares, of_all[:K]):
        raise NotSolved(f"The directions are right. The shares are {_few(shares)}; they should be {_few(of_all[:K])}.")
    passed("These are the components of numpy's covariance, in order, with their shares of the variance.")


def _components(rows: Tensor) -> tuple[Tensor, Tensor]:
    """All components and their squared singular values."""
    _, sizes, found = torch.linalg.svd(rows, full_matrices=False)
    return found, sizes.square()


def _same(found: Tensor, wanted: Tensor) -> bool:
    """Whether these are the same directions in the same order, up to their signs."""
    return bool(((found * wanted).sum(dim=1).abs() > 1 - LOOSE).all())


def _near(found: Tensor, wanted: Tensor) -> bool:
    return bool(((found - wanted).abs() <= LOOSE * wanted.abs().clamp(min=CLOSE)).all())


def _few(values: Tensor) -> str:
    return ", ".join(f"{value:.3g}" for value in values.tolist())
