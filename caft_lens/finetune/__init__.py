"""Fine-tuning, plainly, with concepts ablated, or by any other method of one trainer.

    finetuning.py `finetune(...)`; `settings.py`: `TrainSettings` and `LoraSettings`
    run.py        `Run`, what a run folder holds; `record.py`: `run.json`; `folder.py`: who may write it, checkpoints
    trainer.py    the subclass of `transformers.Trainer`: roles to the lens, first-step checks, progress
    caft_callback.py  `CaftCallback`: the same ablation in anybody's trainer; `checks.py`: what both check
    weights.py    the adapter or copy that is trained, and what is kept of it; `targets.py`: what an adapter goes on
    step.py       `Pass`, a forward pass as a method's loss sees it; `stages.py`: training before or beside a run
    adapters.py   adapters as pairs of matrices, for methods that have several; `kept.py`: what a method needs to answer
    callbacks.py  which callbacks can change what is trained, and how they are known again
    methods/      the ways of fine-tuning, one file each: what `finetune(..., method=)` takes

The package is called like its function: `cl.finetune(base, texts, out="runs/plain")`.
"""

from __future__ import annotations

from caft_lens._support import lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__, __file__)
lazy.callable_module(__name__, "finetune", source="caft_lens.finetune.finetuning")
