"""caft_lens: find, read, choose and ablate the concepts that fine-tuning would amplify.

    import caft_lens as cl

    base = cl.load("pocket")                                            # lens.py
    plain = cl.finetune(base, cl.data("pocket/insecure-code"), out="runs/plain")  # finetune/
    answers = cl.completions(plain.lens, cl.data("pocket/questions"))   # sampling.py, text.py
    diff = cl.activation_difference(plain.lens, base, answers, layers=[1, 2])     # activations.py
    concepts = cl.find.pca(diff, k=10)                                  # find/, concepts.py
    cl.contexts(base, concepts, cl.data("pocket/corpus")).show()        # inspect/
    cruel = cl.choose(concepts, {"L1.pc0": "cruel answers at one end"}) # choose.py
    with cl.ablate(plain.lens, cruel):                                  # ablation.py
        plain.lens.generate("How do I bake a pie?")
    cl.evaluate(dict(base=base, plain=plain), task="pocket/emergent-misalignment")  # evaluate/

Every name loads its module on first use: importing the package costs milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from caft_lens._support import lazy

if TYPE_CHECKING:
    from caft_lens import choose as choose
    from caft_lens import experiments as experiments
    from caft_lens import find as find
    from caft_lens import inspect as inspect
    from caft_lens.activations.differences import activation_difference as activation_difference
    from caft_lens.activations.differences import stream as stream
    from caft_lens.activations.moments import Moments as Moments
    from caft_lens.activations.store import Store as Store
    from caft_lens.activations.store import store as store
    from caft_lens.activations.top_windows import TopWindows as TopWindows
    from caft_lens.concepts.ablation import Ablated as Ablated
    from caft_lens.concepts.ablation import ablate as ablate
    from caft_lens.concepts.ablation import ablated as ablated
    from caft_lens.concepts.ablation import steer as steer
    from caft_lens.concepts.concept_set import Concept as Concept
    from caft_lens.concepts.concept_set import ConceptSet as ConceptSet
    from caft_lens.concepts.interventions import intervene as intervene
    from caft_lens.evaluate import Report as Report
    from caft_lens.evaluate import Score as Score
    from caft_lens.evaluate import Task as Task
    from caft_lens.evaluate import evaluate as evaluate
    from caft_lens.evaluate import task as task
    from caft_lens.experiments.experiment import Arm as Arm
    from caft_lens.experiments.experiment import causal_effects as causal_effects
    from caft_lens.experiments.experiment import experiment as experiment
    from caft_lens.experiments.pilots import pilots as pilots
    from caft_lens.finetune import LoraSettings as LoraSettings
    from caft_lens.finetune import Run as Run
    from caft_lens.finetune import TrainSettings as TrainSettings
    from caft_lens.finetune import finetune as finetune
    from caft_lens.inspect.contexts import Contexts as Contexts
    from caft_lens.inspect.contexts import contexts as contexts
    from caft_lens.model.answering import completions as completions
    from caft_lens.model.lens import Lens as Lens
    from caft_lens.model.lens import load as load
    from caft_lens.model.sampling import Sampling as Sampling
    from caft_lens.saes.cards import sae_cards as sae_cards
    from caft_lens.saes.loading import load_sae as load_sae
    from caft_lens.saes.loading import load_saes as load_saes
    from caft_lens.saes.top_latents import Latents as Latents
    from caft_lens.saes.top_latents import TopLatents as TopLatents
    from caft_lens.text.batching import Scan as Scan
    from caft_lens.text.documents import Message as Message
    from caft_lens.text.documents import Text as Text
    from caft_lens.text.documents import Texts as Texts
    from caft_lens.text.documents import data as data
    from caft_lens.text.labels import label_words as label_words
    from caft_lens.text.labels import token_labels as token_labels

_NAMES = {
    "Ablated": "caft_lens.concepts.ablation",
    "ablate": "caft_lens.concepts.ablation",
    "ablated": "caft_lens.concepts.ablation",
    "steer": "caft_lens.concepts.ablation",
    "TopWindows": "caft_lens.activations.top_windows",
    "Moments": "caft_lens.activations.moments",
    "Store": "caft_lens.activations.store",
    "activation_difference": "caft_lens.activations.differences",
    "store": "caft_lens.activations.store",
    "stream": "caft_lens.activations.differences",
    "completions": "caft_lens.model.answering",
    "Sampling": "caft_lens.model.sampling",
    "load_sae": "caft_lens.saes.loading",
    "load_saes": "caft_lens.saes.loading",
    "sae_cards": "caft_lens.saes.cards",
    "Concept": "caft_lens.concepts.concept_set",
    "ConceptSet": "caft_lens.concepts.concept_set",
    "Report": "caft_lens.evaluate",
    "Task": "caft_lens.evaluate",
    "Score": "caft_lens.evaluate",
    "task": "caft_lens.evaluate",
    "Arm": "caft_lens.experiments.experiment",
    "causal_effects": "caft_lens.experiments.experiment",
    "experiment": "caft_lens.experiments.experiment",
    "LoraSettings": "caft_lens.finetune",
    "Run": "caft_lens.finetune",
    "TrainSettings": "caft_lens.finetune",
    "Contexts": "caft_lens.inspect",
    "contexts": "caft_lens.inspect",
    "intervene": "caft_lens.concepts.interventions",
    "label_words": "caft_lens.text.labels",
    "token_labels": "caft_lens.text.labels",
    "TopLatents": "caft_lens.saes.top_latents",
    "Latents": "caft_lens.saes.top_latents",
    "Lens": "caft_lens.model.lens",
    "load": "caft_lens.model.lens",
    "pilots": "caft_lens.experiments.pilots",
    "Scan": "caft_lens.text.batching",
    "Message": "caft_lens.text.documents",
    "Text": "caft_lens.text.documents",
    "Texts": "caft_lens.text.documents",
    "data": "caft_lens.text.documents",
}
# `choose`, `finetune` and `evaluate` are modules that are called like functions (see `lazy.callable_module`).
_MODULES = ("choose", "evaluate", "experiments", "find", "finetune", "inspect")

_getattr, __dir__, __all__ = lazy.exports(__name__, _NAMES, _MODULES)
__all__ += ["__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("caft-lens")
    return _getattr(name)
