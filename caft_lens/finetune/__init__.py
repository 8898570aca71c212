"""Fine-tuning, plainly, with concepts ablated, or by any other method of one trainer.

    run.py        `finetune(...)` and `Run`
    folder.py     who may write a run folder, checkpoints that are whole, the finished run put in place as one
    trainer.py    the subclass of `transformers.Trainer`: roles to the lens, first-step checks, progress
    targets.py    what an adapter goes on, and which share of each block that is
    callbacks.py  which callbacks can change what is trained, and how they are known again
    methods/         the ways of fine-tuning, one file each: what `finetune(..., method=)` takes
    cost.py       seconds and memory of a run

The package is called like its function: `cl.finetune(base, texts, out="runs/plain")`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from caft_lens._support import lazy

if TYPE_CHECKING:
    from caft_lens.finetune import methods as methods
    from caft_lens.finetune.run import LoraSettings as LoraSettings
    from caft_lens.finetune.run import Run as Run
    from caft_lens.finetune.run import finetune as finetune

_RUN = "caft_lens.finetune.run"
__getattr__, __dir__, __all__ = lazy.exports(
    __name__, dict.fromkeys(["LoraSettings", "Run", "finetune"], _RUN), ("methods",)
)
lazy.callable_module(__name__, "finetune", source=_RUN)
