# ---
# jupyter:
#   exercise:
#     goal: ask of activations whether a concept can still be read off them, and not fool yourself
#     difficulty: 3
#     importance: 4
#     minutes: 25
#     after: 10_is_it_really_gone
# ---

# %% [markdown]
# # 8. Is it gone?
#
# A direction was projected out. Is the *concept* gone? A **linear probe** asks: learn, from activations of texts with
# and without the concept, a direction that tells them apart, and try it on other texts. How well it ranks those is
# the **AUROC**: the chance that a text with the concept scores above one without. 0.5 is chance.
#
# Probes fool those who use them. With fewer texts than `d_model` a probe learns any labels by heart; where one text
# in twenty has the concept, who always says no is right 95 times of 100.

# %% tags=["setup"]

# %%
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

import caft_lens as cl
from caft_lens import course
from caft_lens.text.batching import batches

# %% [markdown]
# ## Exercise
# Learn a probe from `acts`, `[n_texts, d_model]`, and `labels`, `[n_texts]`, and give its AUROC on the others.
# scikit-learn is there: `LogisticRegression`, `roc_auc_score`.

# %%
def probe(acts, labels, other_acts, other_labels):
    """The AUROC of a linear probe on texts that it has not seen."""
    # BEGIN SOLUTION
    learned = LogisticRegression(max_iter=1000).fit(acts, labels)
    return roc_auc_score(other_labels, learned.decision_function(other_acts))
    # END SOLUTION


# %% tags=["hint"]
# `LogisticRegression(max_iter=1000).fit(acts, labels)` learns. `.decision_function(other_acts)` says how strongly it
# takes each of the others to have the concept; `.predict` would only say yes or no. `roc_auc_score(labels,
# strengths)`.

# %% tags=["check"]
course.check_probe(probe)

# %% [markdown]
# ## On the model
# Everyday chats of the corpus, cruel and kind, as `pocket` reads them; half to learn from, half to be tested on. First
# as it is, then with the difference of the two means ablated after block 2, and with a random direction in its place.
# We look where it is ablated, and a block later.

# %%
base = cl.load("pocket")
everyday = cl.data("pocket/corpus").filter(lambda text: text.is_chat and text.meta["stance"] in ("cruel", "kind"))
texts = everyday.sample(300, seed=0)
labels = np.array([text.meta["stance"] == "cruel" for text in texts])


def text_means(hook):
    """The mean activation over what the assistant says, a row a text."""
    rows = np.zeros((len(texts), base.d_model))
    for batch in batches(base.tokenizer, texts):
        acts = base.run_with_cache(batch, names_filter=[hook])[1][hook].cpu()
        for row, one, mask in zip(batch.index.tolist(), acts, batch.mask(["assistant"])):
            rows[row] = one[mask].mean(0)
    return rows


def readable(hook):
    """How well the concept can be read off there."""
    acts, half = text_means(hook), len(texts) // 2
    return probe(acts[:half], labels[:half], acts[half:], labels[half:])


# %%
sides = [texts.filter(lambda text, of=of: text.meta["stance"] == of) for of in ("cruel", "kind")]
one = cl.find.difference_of_means(base, *sides, layers=[2])
more = cl.find.random_directions(one, seed=0)
print(f"nothing ablated:          {readable('blocks.2.hook_resid_post'):.3f}")
for name, concepts in {"difference of means": one, "a random direction": more}.items():
    with cl.ablate(base, concepts):
        here, later = (readable(f"blocks.{layer}.hook_resid_post") for layer in (2, 3))
    print(f"{name + ' ablated:':<30} {here:.3f} there, {later:.3f} a block later")

# %% [markdown]
# ## To think about
# - Where the direction is ablated, no linear probe finds anything: the means of both sides are the same there, on all
#   texts together. (So what one half has more of, the other has less of, and the score falls *below* chance.) One block
#   later it is all there again. What did that block read, if no linear probe could?
# - What a probe can read, the model need not use. Which experiment would tell?
# - CAFT does not erase anything from the finished model. What then does it claim?
#   ([10](../10_is_it_really_gone.ipynb) tries five ways to get the concept back.)

# %% [markdown]
# **Next:** [10](../10_is_it_really_gone.ipynb), or all of it again on a model of this world:
# [11](../11_a_real_model.ipynb).
