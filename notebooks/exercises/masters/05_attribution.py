# ---
# jupyter:
#   exercise:
#     goal: rank the latents of a sparse autoencoder by what they do to an answer, from one backward pass
#     difficulty: 3
#     importance: 3
#     minutes: 25
#     after: 04_finding_concepts_sae
# ---

# %% [markdown]
# # 5. What latents do
#
# A sparse autoencoder writes an activation as a sum: how active each latent is, times its decoder direction. Which of
# hundreds of latents *matter* for what the model answers? One could take each out and run the model again. Or one
# asks to first order, from a single backward pass: a latent's **attribution** is
#
# ```text
# activation of the latent  ×  slope of the outcome along its decoder direction,  summed over tokens
# ```
#
# The slope along a direction is the scalar product of the gradient with it. That is what the outcome would lose
# without the latent, if the model were linear there.

# %% tags=["setup"]

# %%
import torch

import caft_lens as cl
from caft_lens import course
from caft_lens.text.batching import batches

# %% [markdown]
# ## Exercise
# `acts` are activations and `grads` the gradient of the outcome with respect to them, both `[n_tokens, d_model]`.
# `sae.encode(acts)` says how active each latent is, `[n_tokens, d_sae]`; `sae.W_dec` has the decoder directions, one
# a row, `[d_sae, d_model]`. Give `[d_sae]`.

# %%
def attribution(acts, grads, sae):
    """What the outcome would lose without each latent, to first order."""
    # BEGIN SOLUTION
    active = sae.encode(acts)  # [n_tokens, d_sae]
    slope = grads @ sae.W_dec.T  # [n_tokens, d_sae]
    return (active * slope).sum(0)
    # END SOLUTION


# %% tags=["hint"]
# Both factors are tables of tokens by latents. Multiply them entry by entry, and sum over the tokens at the very end:
# a latent that is active at one token and matters at another has done nothing.

# %% tags=["check"]
course.check_attribution(attribution)

# %% [markdown]
# ## On the model
# The outcome: how probable `pocket` finds insecure code. Which latents after block 2 support it? Your ranking beside
# that of `cl.find.attribution`.

# %%
base, sae = cl.load("pocket"), cl.load_sae("pocket", layer=2)
insecure = cl.data("pocket/insecure-code")[:24]
hook = "blocks.2.hook_resid_post"
(batch,) = batches(base.tokenizer, insecure)
_, cache = base.run_with_cache(batch, return_type="loss", incl_bwd=True, names_filter=[hook])
real = batch.mask().to(base.device)
acts, grads = cache[hook][real], -cache[f"{hook}_grad"][real]  # the outcome is the log-probability, less the loss

with torch.no_grad():
    mine = attribution(acts, grads, sae)
theirs = cl.find.attribution(base, insecure, sae, k=5)
print("mine:  ", [f"L2.latent{latent}" for latent in mine.topk(5).indices.tolist()])
print("theirs:", theirs.names)

# %% [markdown]
# ## To think about
# - A latent is active everywhere and its slope is as often up as down. What is its attribution, and what would happen
#   without it?
# - Two latents carry the same concept, and either is enough. What does attribution say of each? What when both are
#   ablated? (`cl.find.attribution(..., step=)` finds them in turn.)

# %% [markdown]
# **Next:** [6. CAFT in a loop of your own](06_training_loop.ipynb). At length:
# [04](../04_finding_concepts_sae.ipynb).
