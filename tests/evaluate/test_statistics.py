"""The one interval: 95 %, hierarchical bootstrap, seeds first, then prompts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from caft_lens._support.intervals import Interval, percent
from caft_lens.evaluate.statistics import (
    _resampled,
    bootstrap_interval,
    exact_binomial,
    holm,
    paired_interval,
    paired_test,
)


def bernoulli(shape: tuple[int, ...], share: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < share


def gathered(values: np.ndarray, prompts: np.ndarray, resamples: int) -> np.ndarray:
    """The same bootstrap, written naively: draw seeds, draw prompts, gather the answers."""
    rng, names = np.random.default_rng(99), np.unique(prompts)
    means = []
    for _ in range(resamples):
        seeds = rng.integers(0, len(values), len(values))
        drawn = rng.choice(names, len(names))
        columns = np.concatenate([np.flatnonzero(prompts == name) for name in drawn])
        means.append(values[seeds][:, columns].mean(axis=1).mean())
    return np.array(means)


def test_one_seed_of_independent_answers_gives_the_normal_interval():
    values = bernoulli((1, 4000), 0.3, seed=1)
    interval = bootstrap_interval(values)
    half = 1.96 * np.sqrt(values.mean() * (1 - values.mean()) / 4000)
    assert interval.mean == values.mean()
    assert interval.low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.05 * half)


def test_the_spread_of_the_resamples_is_that_of_the_closed_form():
    # Var = S-1/S² * spread of seeds + P-1/P² * spread of prompts + the product term, for a crossed draw of both.
    rng = np.random.default_rng(2)
    values = rng.random((4, 1)) + rng.random((1, 60)) + rng.random((4, 60))
    seeds, prompts = values.mean(axis=1), values.mean(axis=0)
    residual = values - seeds[:, None] - prompts[None, :] + values.mean()
    closed = seeds.var() / 4 + prompts.var() / 60 + residual.var() / (4 * 60)
    # To leading order: the residual enters through seeds and prompts as well, and once more by itself.
    draws = _resampled(values, None, 200_000, seed=0)
    assert draws.var() == pytest.approx(closed, rel=0.02)


def test_resampling_counts_equals_gathering_answers():
    rng = np.random.default_rng(3)
    prompts = rng.integers(0, 12, 40)
    values = rng.random((3, 40)) < rng.random((3, 1)) * rng.random(12)[prompts]
    fast = _resampled(values.astype(float), list(prompts), 40_000, seed=0)
    slow = gathered(values, prompts, 4_000)
    assert np.quantile(fast, [0.025, 0.25, 0.5, 0.75, 0.975]) == pytest.approx(
        np.quantile(slow, [0.025, 0.25, 0.5, 0.75, 0.975]), abs=0.012
    )


def test_seeds_that_differ_widen_the_interval_beyond_that_of_prompts_alone():
    values = np.concatenate([bernoulli((1, 1000), share, seed) for seed, share in enumerate((0.2, 0.4, 0.6))])
    pooled = bootstrap_interval(values.reshape(1, -1))
    over_seeds = bootstrap_interval(values)
    assert over_seeds.high - over_seeds.low > 4 * (pooled.high - pooled.low)
    assert over_seeds.mean == pytest.approx(pooled.mean)
    # With three seeds, all draws of the same seed are the ends: no interval reaches beyond the seeds by more than
    # prompts do.
    assert over_seeds.low > 0.15
    assert over_seeds.high < 0.65


def test_a_single_seed_says_that_it_is_over_prompts_alone():
    assert bootstrap_interval(bernoulli((1, 100), 0.5, 0)).over == "prompts"
    assert bootstrap_interval(bernoulli((2, 100), 0.5, 0)).over == "seeds, prompts"


def test_answers_to_one_prompt_are_drawn_together():
    # Ten identical answers to each of 50 prompts tell as much as 50 answers, not as 500.
    once = bernoulli((1, 50), 0.4, seed=4)
    repeated = np.repeat(once, 10, axis=1)
    prompts = np.repeat(np.arange(50), 10)
    clustered, naive = bootstrap_interval(repeated, list(prompts)), bootstrap_interval(repeated)
    low, high = np.quantile(_resampled(once.astype(float), None, 10_000, seed=1), [0.025, 0.975])
    assert clustered.high - clustered.low == pytest.approx(high - low, rel=0.1)
    assert clustered.high - clustered.low > 2.5 * (naive.high - naive.low)
    assert (clustered.n_answers, clustered.n_seeds) == (500, 1)


@pytest.mark.parametrize("share", [0, 1])
def test_answers_that_are_all_alike_do_not_give_an_interval_without_width(share: int):
    interval = bootstrap_interval(np.full((1, 1000), share))
    exact = stats.binomtest(1000 * share, 1000).proportion_ci(0.95, "exact")
    assert (interval.low, interval.high) == pytest.approx((exact.low, exact.high), abs=1e-12)
    assert interval.high - interval.low > 0.003


@pytest.mark.parametrize(("successes", "trials"), [(0, 7), (1, 1000), (350, 1000), (999, 1000), (12, 12)])
def test_the_exact_interval_is_that_of_scipy(successes: int, trials: int):
    reference = stats.binomtest(successes, trials).proportion_ci(0.95, "exact")
    assert exact_binomial(successes, trials) == pytest.approx((reference.low, reference.high), abs=1e-10)


def test_more_events_never_lower_the_upper_end_near_zero():
    values = np.zeros((5, 1000))
    highs = []
    for count in range(6):
        values.flat[: 997 * count : 997] = 1
        highs.append(bootstrap_interval(values).high)
    assert highs == sorted(highs)
    assert highs[0] == pytest.approx(1 - 0.025 ** (1 / 5000))


def test_a_paired_interval_is_narrower_than_an_unpaired_one_when_arms_answer_alike():
    rng = np.random.default_rng(5)
    difficulty = rng.random(500)
    a = rng.random((3, 500)) < 0.1 + 0.8 * (difficulty > 0.5)
    b = rng.random((3, 500)) < 0.05 + 0.8 * (difficulty > 0.5)
    paired = paired_interval(a, b)
    alone = [bootstrap_interval(arm) for arm in (a, b)]
    unpaired = np.hypot(*(interval.high - interval.low for interval in alone))
    assert paired.mean == pytest.approx(a.mean() - b.mean())
    assert paired.high - paired.low < 0.8 * unpaired


def test_the_same_seeds_are_drawn_for_both_arms():
    # Seeds move both arms by the same amount: the difference does not vary at all between seeds.
    a = np.repeat(np.array([[0.1], [0.5], [0.9]]), 50, axis=1)
    paired = paired_interval(a, a - 0.1)
    assert paired.mean == pytest.approx(0.1)
    assert paired.high - paired.low < 1e-9
    assert bootstrap_interval(a).high - bootstrap_interval(a).low > 0.5


def test_two_arms_without_a_discordant_pair_keep_an_uncertain_difference():
    same = bernoulli((2, 500), 0.5, 0)
    interval = paired_interval(same, same)
    ceiling = 1 - 0.025 ** (1 / 1000)
    assert interval.mean == 0
    assert (interval.low, interval.high) == pytest.approx((-ceiling, ceiling))


def test_a_difference_is_antisymmetric():
    a, b = bernoulli((3, 300), 0.4, 1), bernoulli((3, 300), 0.2, 2)
    there, back = paired_interval(a, b, seed=0), paired_interval(b, a, seed=0)
    assert there.mean == pytest.approx(-back.mean)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=0.004)


def test_intervals_hold_the_truth_about_as_often_as_they_say_when_prompts_differ_and_seeds_share_them():
    rng, truth, held = np.random.default_rng(7), 0.5, 0
    for trial in range(200):
        difficulty = rng.choice([0.1, 0.9], size=200)
        interval = bootstrap_interval(rng.random((5, 200)) < difficulty, resamples=1000, seed=trial)
        held += interval.low <= truth <= interval.high
    # Prompts drawn anew for every seed would hold it in about 80 % of the trials.
    assert held >= 0.93 * 200


def test_the_same_answers_give_the_same_interval_and_another_resampling_seed_nearly_the_same():
    values = bernoulli((3, 400), 0.3, 0)
    first, again, other = (bootstrap_interval(values, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert (other.low, other.high) == pytest.approx((first.low, first.high), abs=0.004)


def test_the_order_of_prompts_and_seeds_does_not_matter_beyond_the_resampling_noise():
    values = bernoulli((3, 400), 0.3, 0)
    turned = bootstrap_interval(values[::-1, ::-1])
    assert (turned.low, turned.high) == pytest.approx(
        (bootstrap_interval(values).low, bootstrap_interval(values).high), abs=0.004
    )


@pytest.mark.parametrize(
    ("values", "prompts", "message"),
    [
        ([], None, "at least one of each"),
        ([[1, 0], [1]], None, "as many answers"),
        ([[1.0, float("nan")]], None, "NaN"),
        ([[1, 0, 1]], [1, 2], "2 prompts for 3 answers"),
    ],
)
def test_what_cannot_be_resampled_is_refused(values: list, prompts: list | None, message: str):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(values, prompts)


def test_arms_of_different_shapes_are_not_paired():
    with pytest.raises(ValueError, match="same seeds and prompts"):
        paired_interval(np.zeros((2, 10)), np.zeros((3, 10)))


def test_small_rates_are_not_printed_as_none():
    assert percent(0.0004) == "0.04"
    assert percent(0.00996) == "1.0"
    assert str(Interval(0.0, 0.0, 0.0037, 1, 1000)) == "0 % (0 to 0.37)"


def test_a_paired_p_value_is_where_the_interval_begins_to_leave_zero_out():
    rng = np.random.default_rng(4)
    a, b = rng.random((3, 300)) < 0.30, rng.random((3, 300)) < 0.36
    p = paired_test(a, b)[1]
    assert 0.001 < p < 0.2
    assert paired_test(a, b)[0] == paired_interval(a, b)
    wider = paired_interval(a, b, confidence=1 - 0.98 * p)
    narrower = paired_interval(a, b, confidence=1 - 1.02 * p)
    assert wider.low <= 0 <= wider.high
    assert narrower.high < 0


def test_a_paired_p_value_is_near_that_of_mcnemar_for_one_seed():
    from scipy.stats import binomtest

    rng = np.random.default_rng(5)
    for shift in (0.0, 0.04, 0.08):
        a = rng.random(800) < 0.3
        b = np.where(rng.random(800) < 0.5, a, rng.random(800) < 0.3 + shift)
        only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
        exact = binomtest(only_a, only_a + only_b).pvalue
        assert paired_test(a, b)[1] == pytest.approx(exact, abs=0.08)


def test_p_values_are_small_no_more_often_than_they_may_be_where_there_is_no_difference():
    rng = np.random.default_rng(6)
    small = [paired_test(rng.random(400) < 0.2, rng.random(400) < 0.2, resamples=1000)[1] < 0.05 for _ in range(200)]
    assert np.mean(small) <= 0.08


def test_holm_is_the_step_down_rule_of_the_paper():
    p_values = [0.01, 0.04, 0.03, 0.005]
    order = np.argsort(p_values)
    expected, largest = np.empty(4), 0.0
    for step, place in enumerate(order):
        largest = max(largest, (4 - step) * p_values[place])
        expected[place] = min(1.0, largest)
    assert holm(p_values) == pytest.approx(expected)
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]
