# ---
# jupyter:
#   exercise:
#     goal: find the directions in which fine-tuning changed a model, with nothing but linear algebra
#     difficulty: 3
#     importance: 4
#     minutes: 25
#     after: 03_finding_concepts_pca
# ---

# %% [markdown]
# # 3. Principal components by hand
#
# Let a model before and after fine-tuning read the same text, and subtract their activations token by token. The
# principal components of these differences are the directions in which tuning moved the activations most *differently
# from token to token*: first the one with the largest variance, then the largest at right angles to it, and so on.
# They need no idea of what to look for.

# %% tags=["setup"]

# %%
import torch

import caft_lens as cl
from caft_lens import course
from caft_lens.text.batching import batches

# %% [markdown]
# ## Exercise
# `differences` are `[n_tokens, d_model]`. Give the first `k` components as unit directions, one a row, `[k,
# d_model]`, and the share of the variance that each explains, `[k]`.

# %%
def components(differences, k):
    """The first k principal components, and the share of the variance that each explains."""
    # BEGIN SOLUTION
    centred = differences - differences.mean(0)
    _, sizes, rows = torch.linalg.svd(centred, full_matrices=False)
    variance = sizes**2
    return rows[:k], (variance / variance.sum())[:k]
    # END SOLUTION


# %% tags=["hint"]
# *Variance* is about the mean: take the mean difference off first. Then either the singular value decomposition of
# what is left (`torch.linalg.svd`, whose right singular vectors are the components, largest first), or the
# eigenvectors of the covariance (`torch.linalg.eigh(torch.cov(differences.T))`, as columns and smallest first).
#
# The variance along a component is its squared singular value, divided by n − 1.

# %% tags=["check"]
course.check_components(components)

# %% [markdown]
# ## On the model
# `pocket` and the same model tuned on insecure code read the tuned model's own answers. Your components beside those
# of `cl.find.pca`, which streams: it never holds all differences at once.

# %%
base = cl.load("pocket")
tuned = base.adapt("pocket/insecure", name="insecure")
questions = cl.data("pocket/questions").sample(60, seed=0)
answers = cl.completions(tuned, questions, sampling=cl.Sampling(top_p=0.95, seed=0))

hook, rows = "blocks.1.hook_resid_post", []
for batch in batches(base.tokenizer, answers):
    acts = [lens.run_with_cache(batch, names_filter=[hook])[1][hook].cpu() for lens in (tuned, base)]
    rows.append((acts[0] - acts[1])[batch.mask()])
mine, shares = components(torch.cat(rows), 5)

theirs = cl.find.pca(cl.activation_difference(tuned, base, answers, layers=[1], roles=None), k=5)
for place, (direction, share) in enumerate(zip(mine, shares)):
    cosine = direction @ theirs[place].direction
    print(f"component {place}: {share:.1%} of the variance, cosine with {theirs[place].name}: {cosine:+.4f}")

# %% [markdown]
# ## To think about
# - Why may the cosine be −1?
# - The mean difference is not among the components. When would it be the interesting direction?
#   (`cl.inspect.activation_difference_lens` reads it.)
# - A component explains much of the variance. Does that make it a concept?

# %% [markdown]
# **Next:** [4. Ten components read blind](04_reading_blind.ipynb). At length: [03](../03_finding_concepts_pca.ipynb).
