# ---
# jupyter:
#   exercise:
#     goal: say how much better one way to fine-tune is than another, and how sure one can be
#     difficulty: 4
#     importance: 5
#     minutes: 30
#     after: 09_the_contest
# ---

# %% [markdown]
# # 7. A fair comparison and its interval
#
# Two ways to fine-tune, five seeds each, two hundred questions: who is better, and would it be so with other seeds
# and other questions? Seeds and questions are both drawn. Some questions are hard for every model, and some seeds are
# lucky with every question, so that the answers of one seed are not two hundred independent ones.
#
# A **hierarchical bootstrap** takes the table as it is: draw seeds with replacement, then questions with replacement,
# take the mean, and do so a thousand times. What lies between the quantiles 0.025 and 0.975 is the interval. The two
# arms are **paired**: the same seeds and questions are drawn for both, so that what is hard for both falls out.

# %% tags=["setup"]

# %%
import numpy as np

from caft_lens import course

# %% [markdown]
# ## Exercise
# `a` and `b` are `[seeds, prompts]`, 1 where an answer was misaligned, 0 where not, the same seeds and prompts in the
# same order. Give the mean of `a` less `b`, and the lower and upper end of its interval.

# %%
def compare(a, b):
    """The mean difference of two arms, and both ends of its 95 % interval."""
    # BEGIN SOLUTION
    rng, difference = np.random.default_rng(0), a - b
    seeds, prompts = difference.shape
    means = []
    for _ in range(2000):
        rows = rng.integers(seeds, size=seeds)
        columns = rng.integers(prompts, size=prompts)
        means.append(difference[rows][:, columns].mean())
    low, high = np.quantile(means, [0.025, 0.975])
    return difference.mean(), low, high
    # END SOLUTION


# %% tags=["hint"]
# Pairing is easiest when you subtract first: `difference = a - b` has one number a seed and prompt, and only that is
# drawn from.
#
# `rng.integers(n, size=n)` draws n places with replacement. The questions are the same for all seeds: draw them once
# for the whole table, `difference[rows][:, columns]`.

# %% tags=["check"]
course.check_interval(compare)

# %% [markdown]
# ## What it is worth
# An interval of 95 % should hold the truth 95 times in a hundred. Here is a world in which the truth is known: two
# arms that are alike. Sixty experiments; how often does your interval hold 0? Beside it that of one who takes
# all answers to be independent.

# %%
def experiment(rng, seeds=5, prompts=100):
    """Two arms that are alike: hard prompts for both, and luck that each seed of each arm has of its own."""
    hard = rng.normal(size=prompts)
    return [(hard + rng.normal(size=(seeds, 1)) + rng.normal(size=(seeds, prompts)) > 0).astype(float) for _ in "ab"]


def independent(a, b):
    """As if every answer were one of its own."""
    error = np.sqrt(a.var() / a.size + b.var() / b.size)
    return (a - b).mean(), (a - b).mean() - 1.96 * error, (a - b).mean() + 1.96 * error


rng, held = np.random.default_rng(1), {"mine": [], "as if independent": []}
for _ in range(60):
    arms = experiment(rng)
    for name, way in {"mine": compare, "as if independent": independent}.items():
        _, low, high = way(*arms)
        held[name].append(low <= 0 <= high)
print({name: f"holds the truth in {np.mean(one):.0%} of {len(one)}" for name, one in held.items()})

# %% [markdown]
# ## To think about
# - Yours holds the truth somewhat less often than 95 times in a hundred with five seeds. Why? What helps: more
#   questions, or more seeds?
# - One arm was tried with twenty settings and the best was kept, the other with one. What does the interval say of
#   that?
# - A headline says "reduces misalignment tenfold". Which two numbers are missing?

# %% [markdown]
# **Next:** [8. Is it gone?](08_is_it_gone.ipynb). At length: [09](../09_the_contest.ipynb).
