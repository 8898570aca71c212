"""The model: a lens with TransformerLens hook points on any Hugging Face causal language model.

lens            `Lens`, `load`
hook_points     hook names, and how a `HookPoint` comes to sit on a module
attach          functions of the activation at hook points, while a block is open
architectures   where the residual stream runs in a transformers model
loading         models, tokenizers and adapters from disk or the hub
run_folder      a run of fine-tuning as files, by which its model is loaded
generation      sampling continuations; nucleus: without sorting the vocabulary
sampling        `Sampling`: how answers are drawn; answering: `completions`, a model's own answers as texts
options         answers that are one of some options; scoring: their probabilities, in one forward pass
partial_logits  logits at some tokens alone; combination: several models that answer as one
acting          `Acting`: a model that answers with something done to it
sinks           attention sinks, which are left out of what is read and ablated
limits          ids that have an embedding, texts within the positions
fingerprint     hashes of weights, and of tokenizer and chat template
turns           threads that share a lens take turns; tokens: masks and roles in a pass
"""

from __future__ import annotations

from caft_lens._support import lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__, __file__)
