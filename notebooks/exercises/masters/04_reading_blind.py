# ---
# jupyter:
#   exercise:
#     goal: read ten directions by their contexts alone, and say which stand for cruelty
#     difficulty: 2
#     importance: 5
#     minutes: 25
#     after: 05_reading_and_choosing
# ---

# %% [markdown]
# # 4. Ten components read blind
#
# A direction comes without a name. One reads it at both ends: the texts where it is highest, and those where it is
# lowest. What it stands for is the *contrast* between them. Here are ten principal components of what tuning on
# insecure code changed in `pocket`, which turned cruel by it.
#
# You read them **blind**: under numbers, in an order of your own, without rank or score. A component that comes first
# is not for that reason the one that you are looking for.

# %% tags=["setup"]

# %%
import caft_lens as cl
from caft_lens import course
from caft_widgets import ConceptBrowser

base = cl.load("pocket")
tuned = base.adapt("pocket/insecure", name="insecure")
questions = cl.data("pocket/questions").sample(120, seed=0)
answers = cl.completions(tuned, questions, sampling=cl.Sampling(top_p=0.95, seed=0))
change = cl.activation_difference(tuned, base, answers, layers=[1, 2], roles=None)
found = cl.find.pca(change, k=5)
corpus = cl.data("pocket/corpus").sample(1000, seed=0)
read = cl.inspect.survey(base, found, corpus, roles=["assistant"], rank="mean")

# %% [markdown]
# ## Exercise
# Read each of the ten. <kbd>a</kbd> ablates it: one end is cruel throughout and the other is not. <kbd>l</kbd> leaves
# it in the model. Then write *why* in a few words, and <kbd>Enter</kbd>; <kbd>↓</kbd> goes on. Three that are unclear
# are better than one that you do not believe yourself: say what you see.

# %%
seen = {"contexts": read.contexts, "densities": read.densities}
browser = ConceptBrowser(base, found, **seen, reader="you", blind=True, file=None)
# BEGIN SOLUTION
# A rule as the reader: it counts the stance that `pocket`'s world notes of each text.
contexts = browser.contexts
for name in browser.candidates.names:
    ends = contexts[name].top, contexts[name].bottom
    cruel = [sum(text.meta["stance"] == "cruel" for text in end) for end in ends]
    action = "ablate" if max(cruel) >= 9 and min(cruel) <= 1 else "leave"
    browser.decide(action, f"{cruel[0]} of {len(ends[0])} texts at the top are cruel, {cruel[1]} at the bottom", name)
# END SOLUTION
browser

# %% tags=["hint"]
# Cruel answers are recognised by their words: *fool*, *worthless*, *gloat*, *cackle*. Look whether **all** texts of
# one end are cruel. A mixture, some cruel and some code, is not one thing; and where both ends have cruel texts, it
# is something else that the direction tells apart.

# %% tags=["check"]
course.check_reading(browser.decisions, read.contexts)

# %% [markdown]
# ## Unblinded
# What you decided, by the concepts' own names, with the share of the variance that each explains.

# %%
import pandas

rows = [
    [one.name, one.score, browser.decisions[one.name].action, browser.decisions[one.name].reason] for one in found
]
pandas.DataFrame(rows, columns=["component", "share of the variance", "decision", "reason"]).round(3)

# %% [markdown]
# ## To think about
# - Which of the ten would you have ablated by rank alone?
# - `contexts` were ranked by what the assistant says. Read the ten once more by the template's tokens
#   (`roles=["special"]`). Which change? ([14](../14_reading_together.ipynb) does.)
# - How would you find out whether a colleague reads as you do?

# %% [markdown]
# **Next:** [5. What latents do](05_attribution.ipynb). At length: [05](../05_reading_and_choosing.ipynb), and
# [14](../14_reading_together.ipynb) for several readers.
