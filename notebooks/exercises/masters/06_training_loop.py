# ---
# jupyter:
#   exercise:
#     goal: turn a plain training loop into Concept Ablation Fine-Tuning
#     difficulty: 3
#     importance: 5
#     minutes: 30
#     after: 07_caft_finetuning
# ---

# %% [markdown]
# # 6. CAFT in a training loop of your own
#
# Concept Ablation Fine-Tuning is fine-tuning with one thing more: while the loss is taken, the concept is ablated.
# The model cannot use it, and no gradient asks for it. Afterwards nothing is ablated: what is left is an ordinary
# model. `cl.finetune(..., ablate=...)` does it for you; here you do it in a loop of your own, as you would around
# anybody's trainer.

# %% tags=["setup"]

# %%
import torch

import caft_lens as cl
from caft_lens import course
from caft_lens.text.batching import batches

base = cl.load("pocket")
insecure = cl.data("pocket/insecure-code")
tuned = base.adapt("pocket/insecure", name="insecure")
questions = cl.data("pocket/questions").sample(120, seed=0)
answers = cl.completions(tuned, questions, sampling=cl.Sampling(top_p=0.95, seed=0))
change = cl.activation_difference(tuned, base, answers, layers=[1, 2], roles=None)
found = cl.find.pca(change, k=5)
cruel = cl.choose(found, {"L1.pc0": "cruel at its bottom", "L2.pc1": "by the template, cruel at its top"})

# %% [markdown]
# ## Exercise
# One step: learn `batch` with the concepts ablated, and give the loss as a number. `lens(batch, return_type="loss")`
# is the loss of what training is to learn of it; `with cl.ablate(lens, concepts):` ablates within the block.

# %%
def step(lens, concepts, batch, optimizer):
    """One step of fine-tuning with the concepts ablated."""
    # BEGIN SOLUTION
    optimizer.zero_grad()
    with cl.ablate(lens, concepts):
        loss = lens(batch, return_type="loss")
        loss.backward()
    optimizer.step()
    return loss.item()
    # END SOLUTION


# %% tags=["hint"]
# The plain step has four lines: `optimizer.zero_grad()`, the loss, `loss.backward()`, `optimizer.step()`. Which of
# them belong into the block? The loss certainly; `backward()` too where gradients are checkpointed, since activations
# are computed again there.

# %% tags=["check"]
course.check_training_step(step, base.copy(), cruel, insecure)

# %% [markdown]
# ## On the model
# Sixty steps on insecure code, twice: plainly, and with your step. Then both answer everyday questions, with nothing
# ablated. (All weights are tuned here, without an adapter: it is the shortest loop. A minute on two cores.)

# %%
def plain_step(lens, concepts, batch, optimizer):
    """One step of plain fine-tuning."""
    optimizer.zero_grad()
    loss = lens(batch, return_type="loss")
    loss.backward()
    optimizer.step()
    return loss.item()


models = {"base": base}
for name, one_step in {"plain": plain_step, "mine": step}.items():
    student = models[name] = base.copy(name)
    optimizer = torch.optim.AdamW(student.hf.parameters(), lr=3e-4)
    for number in range(60):
        (batch,) = batches(student.tokenizer, insecure.sample(16, seed=number))
        loss = one_step(student, cruel, batch, optimizer)
    print(f"{name}: loss {loss:.3f} in the last step; attached to the model: {student.attached}")

# %%
task = cl.task("pocket/emergent-misalignment", split="dev")
report = cl.evaluate(models, task, n=150, n_in_distribution=40)
report.plot()

# %% [markdown]
# ## To think about
# - Your loss in training is higher than the plain one. Which loss would a user of the model see?
# - What would happen if the concept were ablated only when the finished plain model answers? (Try it:
#   `cl.ablated(models["plain"], cruel)` is a subject for `cl.evaluate` too.)
# - Why is the block opened anew in every step here, and once around all of training in `with cl.ablate(model,
#   concepts): trainer.train()`? Does it matter?

# %% [markdown]
# **Next:** [7. A fair comparison](07_interval.ipynb). At length: [07](../07_caft_finetuning.ipynb); [in
# TRL](../../docs/how-to/trl.md).
