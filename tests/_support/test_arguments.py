"""Numbers are checked where they are typed: what is out of range, not finite or no number at all is one clear error."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from caft_lens._support.arguments import count, finite, not_negative, number, positive, seed_of, share
from caft_lens._support.errors import BadArgument, BadType

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("check", "bad"),
    [
        (number, [NAN, INF, -INF]),
        (positive, [0, -1, 0.0, NAN, INF]),
        (not_negative, [-1e-9, NAN, INF]),
        (share, [0, -0.1, 1.0001, 2, NAN]),
        (count, [0, -1, 1.5, 3.0, NAN, INF]),
        (seed_of, [-1, 0.5, 2**64]),
    ],
)
def test_a_number_out_of_range_is_refused_by_its_name(check, bad):
    for value in bad:
        with pytest.raises(BadArgument, match=r"size=.*expected a (whole )?number"):
            check(value, "size")


@pytest.mark.parametrize("check", [number, positive, share, count, seed_of])
def test_what_is_no_number_is_said_to_be_none(check):
    with pytest.raises(BadType, match=r'size="1e-4" is text; expected .*: write size=1e-4'):
        check("1e-4", "size")
    for value in ("many", True, [1], {}, b"1", 1 + 2j):
        with pytest.raises(BadType, match="size="):
            check(value, "size")


@pytest.mark.parametrize("one", [1, np.int64(1), np.uint8(1), torch.tensor(1)])
def test_numbers_of_numpy_and_torch_are_numbers(one):
    assert count(one, "n") == 1
    assert type(count(one, "n")) is int
    assert number(one, "n") == share(one, "n") == positive(one, "n") == 1
    assert number(np.float32(0.5), "n") == number(torch.tensor(0.5), "n") == 0.5


def test_a_float_that_is_whole_is_told_how_to_be_written():
    with pytest.raises(BadArgument, match=r"Write size=1000000\."):
        count(1e6, "size")


def test_a_tensor_that_is_not_finite_or_not_real_is_refused():
    assert finite(torch.ones(3), "m") is not None
    for value in (NAN, INF):
        with pytest.raises(BadArgument, match="m is NaN or infinite in 1 of its 2 numbers"):
            finite(torch.tensor([1.0, value]), "m")
    for other in (torch.ones(2, dtype=torch.complex64), torch.ones(2) > 0, [1.0], None):
        with pytest.raises(BadType, match="expected a tensor of real numbers"):
            finite(other, "m")
