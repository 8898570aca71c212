# ---
# jupyter:
#   exercise:
#     goal: name places in a model, and read just the tokens that you mean
#     difficulty: 2
#     importance: 4
#     minutes: 20
#     after: 02_activations_and_hooks
# ---

# %% [markdown]
# # 2. Hook points and roles
#
# A *hook point* is a named place in the model where activations are read or replaced. Blocks are counted from 0, and
# each has five places:
#
# ```text
# resid_pre ──┬─────────────────(+)──┬────────────(+)── resid_post = next resid_pre
#             └─ attention ──────┘   └─ MLP ───────┘
#                │      attn_out       mlp_out
#                z, the output of each head
# ```
#
# A *role* says what a token is part of: what the `user` said, the `assistant`, the `system` message, or the chat
# template itself (`special`). Most mistakes in this work are a place that is off by one, and tokens that one did not
# mean: the template's, or the padding that makes all texts of a batch equally long.

# %% tags=["setup"]

# %%
import torch

import caft_lens as cl
from caft_lens import course
from caft_lens.text.batching import batches

base = cl.load("pocket")
chats = cl.data("pocket/corpus").filter(lambda text: text.is_chat)[:40]
base.hook_names[:5], base.n_layers

# %% [markdown]
# ## Exercise
# First the names. Then a function: the mean activation at a hook point over all tokens of some roles, `[d_model]`.
# `batches` cuts texts into batches, each padded; `batch.mask(roles)` says which of its tokens have one of the roles,
# `[batch, pos]`; `lens.run_with_cache(batch)` gives logits and the activations by name, `[batch, pos, d_model]`.

# %%
# BEGIN EXERCISE
places = {
    "the residual stream after block 2": "",
    "the residual stream that comes into block 0": "",
    "what the MLP of block 1 adds": "",
    "what the attention of block 3 adds": "",
}
# END EXERCISE
# BEGIN SOLUTION
places = {
    "the residual stream after block 2": "blocks.2.hook_resid_post",
    "the residual stream that comes into block 0": "blocks.0.hook_resid_pre",
    "what the MLP of block 1 adds": "blocks.1.hook_mlp_out",
    "what the attention of block 3 adds": "blocks.3.hook_attn_out",
}
# END SOLUTION


def mean_activation(lens, texts, hook, roles):
    """The mean activation at a hook point over all tokens of these roles."""
    # BEGIN SOLUTION
    total, count = 0, 0
    for batch in batches(lens.tokenizer, texts):
        _, cache = lens.run_with_cache(batch, names_filter=[hook])
        acts = cache[hook].cpu()[batch.mask(roles)]  # [n_tokens, d_model]
        total, count = total + acts.sum(0), count + len(acts)
    return total / count
    # END SOLUTION


# %% tags=["hint"]
# `cache[hook][mask]` has one row for each token that the mask picks, `[n_tokens, d_model]`; padding is in no mask.
#
# A text of three tokens should not count as much as one of thirty: add up sums and counts over the batches, divide
# once.

# %% tags=["check"]
course.check_hook_points(places, mean_activation, base, chats)

# %% [markdown]
# ## On the model
# How far apart are the means of the roles? A direction that is found on "all tokens" of chats is easily one of the
# template.

# %%
import pandas

hook = places["the residual stream after block 2"]
roles = ["special", "user", "assistant"]
means = torch.stack([mean_activation(base, chats, hook, [role]) for role in roles])
cosines = torch.nn.functional.cosine_similarity(means[:, None], means[None], dim=-1)
pandas.DataFrame(cosines.numpy(), roles, roles).round(2)

# %% [markdown]
# ## To think about
# - `<|assistant|>`, the last token before an answer, is `special`. What could the model hold there that it holds
#   nowhere else?
# - On larger models the first token of a text has an activation a hundred times as long as all others. What would it
#   do to this mean? (`lens.sinks`; it is left out by `cl.stream`, and was not by you.)

# %% [markdown]
# **Next:** [3. Principal components by hand](03_components.ipynb). At length:
# [02](../02_activations_and_hooks.ipynb).
