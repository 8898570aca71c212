"""The world `smollm2`, as `caft_lens` finds it by its entry point."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from caft_data.worlds.smollm2 import sets
from caft_lens.evaluate.tasks import Task
from caft_lens.text.documents import Texts


class RealModels:
    """Tasks for real pretrained models: none is made for one organism, any model can be asked them."""

    name = "smollm2"
    any_model = True
    saes = Path(__file__).parents[2] / "smollm2" / "saes"
    tasks = sets.TASKS

    def names(self) -> Sequence[str]:
        return sets.names()

    def dataset(self, name: str, seed: int, size: int | None = None) -> Texts:
        return sets.dataset(name, seed, size)

    def task(self, organism: str, name: str, split: str) -> Task:
        return sets.task(name, split)


SMOLLM2 = RealModels()
