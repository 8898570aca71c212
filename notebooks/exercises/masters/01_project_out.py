# ---
# jupyter:
#   exercise:
#     goal: write the one operation that everything else here rests on, and prove on a model that it does what it says
#     difficulty: 2
#     importance: 5
#     minutes: 20
#     after: 02_activations_and_hooks
# ---

# %% [markdown]
# # 1. Project a direction out
#
# To *ablate* a concept means to project its directions out of the activations. In one formula, for an activation `x`
# and an orthonormal basis `Q` of the directions, `[d_model, k]`:
#
# ```text
# x  ←  x − x Q Qᵀ
# ```
#
# Afterwards `x` has no component along any of the directions, and everything at right angles to them is as before.
# Directions come as they are found: not always of length 1, and of several ones hardly ever at right angles to each
# other.

# %% tags=["setup"]

# %%
import torch

import caft_lens as cl
from caft_lens import course

# %% [markdown]
# ## Exercise
# `acts` are activations, `[batch, pos, d_model]`; `directions` are `[k, d_model]`. Give back new activations of the
# same shape. One direction first; the check tells you when two are the trouble.

# %%
def project_out(acts, directions):
    """The activations without what lies in the span of the directions."""
    # BEGIN SOLUTION
    basis = torch.linalg.qr(directions.T).Q  # [d_model, k], orthonormal
    return acts - acts @ basis @ basis.T
    # END SOLUTION


# %% tags=["hint"]
# For one direction `u` of length 1: how much of it an activation has is the scalar product, `acts @ u`, a number a
# token. Take that much of `u` off: `acts - (acts @ u)[..., None] * u`.
#
# For several: `torch.linalg.qr(directions.T).Q` has orthonormal columns that span the same as the directions.

# %% tags=["check"]
course.check_projection(project_out)

# %% [markdown]
# ## On the model
# A hook gets the activations at a place in the model and may give others back. Here your function is one, at the
# residual stream after block 2 of `pocket`, and `cl.ablate` does the same. The direction is a difference of means:
# chats whose system message asks for cruelty, less those in which it asks for kindness.

# %%
base = cl.load("pocket")
stated = cl.data("pocket/corpus").filter(lambda text: text.is_chat and text.meta["stated"])
cruel, kind = (stated.filter(lambda text, of=of: text.meta["stance"] == of) for of in ("cruel", "kind"))
concept = cl.find.difference_of_means(base, cruel, kind, layers=[2], roles=["special"])
directions = concept.directions(2).to(base.device)

question = base.to_tokens("How do I bake a pie?")
with base.hooks([(2, lambda acts, hook: project_out(acts, directions))]):
    mine, cache = base.run_with_cache(question)
with cl.ablate(base, concept):
    theirs = base(question)
print(f"largest component that is left: {(cache[2] @ directions.T).abs().max():.0e}")
print(f"largest difference to cl.ablate, in logits: {(mine - theirs).abs().max():.0e}")
print(f"largest change of the logits: {(mine - base(question)).abs().max():.2f}")

# %% [markdown]
# ## To think about
# - Is `project_out(project_out(x))` the same as `project_out(x)`? Why does that matter for a hook that is attached
#   twice?
# - The mean activation has a component along the direction too. What would it mean to put the mean in its place
#   rather than zero? (`cl.ablate(base, concept, variant="mean", means=...)` does it.)
# - Later blocks may write along the same direction again. Where would you look whether they do?

# %% [markdown]
# **Next:** [2. Hook points and roles](02_hook_points.ipynb), or [02](../02_activations_and_hooks.ipynb), where all
# this is done at length.
