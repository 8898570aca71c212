"""Streamed PCA (Moments, then one eigendecomposition) against scikit-learn's IncrementalPCA, on 100,000 x 256.

    python benchmarks/streamed_pca.py [--rounds 5]

Both read the same matrix in batches of 8,192 rows and give 10 components; scikit-learn also with its own default batch
size of 5 x 256 rows. The directions are checked against each other before anything is timed.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from sklearn.decomposition import IncrementalPCA
from timing import interleaved

from caft_lens.activations.moments import Moments

HOOK = "blocks.0.hook_resid_post"
BATCH = 8192


def matrix(rows: int = 100_000, width: int = 256) -> torch.Tensor:
    """Activations with a decaying spectrum and a mean far from zero, fp32 `[rows, width]`."""
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(width, width, generator=generator))
    scale = torch.logspace(0, -2, width)
    return (torch.randn(rows, width, generator=generator) * scale) @ basis.T + 3.0


def streamed(acts: torch.Tensor, k: int) -> np.ndarray:
    """The first `k` principal directions from streamed moments, `[k, width]`."""
    from scipy.linalg import eigh

    moments = Moments()
    for batch in acts.split(BATCH):
        moments.update(HOOK, batch)
    covariance = moments.covariance[HOOK].numpy()
    width = len(covariance)
    _, vectors = eigh(covariance, subset_by_index=[width - k, width - 1])
    return vectors[:, ::-1].T


def incremental(acts: torch.Tensor, k: int, batch_size: int | None) -> np.ndarray:
    """The same by scikit-learn."""
    return IncrementalPCA(n_components=k, batch_size=batch_size).fit(acts.numpy()).components_


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu beside other busy processes")
    parser.add_argument("--rounds", type=int, default=5)
    settings = parser.parse_args()
    acts, k = matrix(), 10
    # IncrementalPCA truncates after every batch, so that its directions are approximate; ours are exact.
    cosines = np.abs((streamed(acts, k) * incremental(acts, k, BATCH)).sum(axis=1))
    print(f"|cosine| between directions of both: first {cosines[0]:.6f}, lowest of {k} {cosines.min():.4f}\n")
    timings = interleaved(
        {
            "streamed moments": lambda: streamed(acts, k),
            f"IncrementalPCA, batches of {BATCH}": lambda: incremental(acts, k, BATCH),
            "IncrementalPCA, default batches": lambda: incremental(acts, k, None),
        },
        settings.rounds,
        warmup=0,
        clock=settings.clock,
    )
    print(timings.table("streamed moments"))


if __name__ == "__main__":
    main()
