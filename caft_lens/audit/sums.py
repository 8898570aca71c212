"""What a pass keeps of the rows that it has seen: sums, however many rows there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor


class RowSums:
    """Count, mean, spread and share above 0 of figures of rows, one for each concept.

    Args:
        n: How many concepts.

    Example:
        >>> sums = RowSums(2)
        >>> sums.update(torch.tensor([[1.0, -1.0], [3.0, -1.0]]))
        >>> sums.mean.tolist(), sums.share.tolist(), sums.rows
        ([2.0, -1.0], [1.0, 0.0], 2)
    """

    def __init__(self, n: int) -> None:
        self.rows = 0
        self.total = torch.zeros(n, dtype=torch.float64)
        self._squares = torch.zeros(n, dtype=torch.float64)
        self._above = torch.zeros(n, dtype=torch.float64)

    def update(self, values: Tensor) -> None:
        """Take in figures `[rows, n]`."""
        values = values.double()
        self.rows += len(values)
        self.total += values.sum(dim=0).cpu()
        self._squares += values.square().sum(dim=0).cpu()
        self._above += (values > 0).sum(dim=0).cpu()

    def merge(self, other: Self) -> Self:
        """Add another result in place, exactly as if its rows had been seen here."""
        self.rows += other.rows
        self.total += other.total
        self._squares += other._squares
        self._above += other._above
        return self

    @property
    def mean(self) -> Tensor:
        """Float64 `[n]`."""
        return self.total / max(1, self.rows)

    @property
    def variance(self) -> Tensor:
        """Over n - 1, float64 `[n]`; 0 for fewer than two rows."""
        spread = self._squares - self.rows * self.mean.square()
        return spread.clamp(min=0) / max(1, self.rows - 1)

    @property
    def share(self) -> Tensor:
        """Share of the rows above 0, float64 `[n]`."""
        return self._above / max(1, self.rows)

    def apart(self, other: RowSums) -> Tensor:
        """How far the two means are apart in standard deviations of a row (d'), float64 `[n]`; 0 where nothing varies.

        Example:
            >>> one, other = RowSums(1), RowSums(1)
            >>> one.update(torch.tensor([[2.0], [4.0]]))
            >>> other.update(torch.tensor([[0.0], [2.0]]))
            >>> round(one.apart(other).item(), 3)
            1.414
        """
        spread = ((self.variance + other.variance) / 2).sqrt()
        return torch.where(spread > 0, (self.mean - other.mean) / spread, 0.0)


class AnswerSums:
    """How well a figure of a row tells which of a few answers it has.

    Args:
        n: How many concepts.
        answers: The answers; rows with others do not count.

    Example:
        >>> sums = AnswerSums(2, ["he", "she"])
        >>> sums.update(torch.tensor([[1.0, 5.0], [0.0, 5.0], [1.0, 6.0], [0.0, 6.0]]), ["he", "she", "he", "she"])
        >>> sums.explained.tolist()
        [1.0, 0.0]
    """

    def __init__(self, n: int, answers: Sequence[str]) -> None:
        self.answers = {answer: RowSums(n) for answer in answers}

    def update(self, values: Tensor, answers: Sequence[str | None]) -> None:
        """Take in figures `[rows, n]` of rows with these answers."""
        for answer, sums in self.answers.items():
            mine = [row for row, given in enumerate(answers) if given == answer]
            if mine:
                sums.update(values[mine])

    @property
    def explained(self) -> Tensor:
        """Share of a figure's variance that the answer explains (eta squared), float64 `[n]`; 0 if nothing varies."""
        groups = [sums for sums in self.answers.values() if sums.rows]
        rows = sum(sums.rows for sums in groups)
        mean = sum((sums.total for sums in groups), torch.zeros(())) / max(1, rows)
        between = sum((sums.rows * (sums.mean - mean).square() for sums in groups), torch.zeros(()))
        within = sum(((sums.rows - 1) * sums.variance for sums in groups), torch.zeros(()))
        whole = between + within
        # What is silent on nearly all rows explains nothing, whatever rounding leaves of it.
        return torch.where(whole > 1e-9 * whole.max().clamp(min=1e-30), between / whole.clamp(min=1e-30), 0.0)
