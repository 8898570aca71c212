"""The worlds of this package, as `caft_lens` finds them by their entry points.

World    what both give: data sets and tasks by name, and how their organisms are built and measured
POCKET   the world of `pocket`; that of `pocket-quiz` is `quiz.world.QUIZ`
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caft_lens._support.errors import UnknownName
from caft_lens.evaluate.tasks import InDistribution, Task
from caft_lens.text.documents import Text, Texts, data

if TYPE_CHECKING:
    from caft_data.worlds.build import Build


class World:
    """A world of which this package has organisms; see `caft_lens.text.worlds.World` and
    `caft_lens.evaluate.tasks.WorldOfTasks`.
    """

    name: str
    tasks: Sequence[str]

    def names(self) -> Sequence[str]:
        return ()

    def dataset(self, name: str, seed: int, size: int | None = None) -> Texts:
        raise UnknownName(f'The world "{self.name}" draws no data set "{name}" on demand.')

    def reading(self, rng: random.Random) -> Text:
        """A document like those of an organism's corpus."""
        raise NotImplementedError

    def task(self, organism: str, name: str, split: str) -> Task:
        raise NotImplementedError

    def builds(self) -> tuple[type[Build], Any]:
        """How its organisms are built, and the settings of a build."""
        raise NotImplementedError

    def build(
        self,
        *,
        seed: int = 0,
        threads: int = 2,
        steps: int | None = None,
        with_saes: bool = True,
        out: str | Path | None = None,
        work: str | Path | None = None,
    ) -> Build:
        """A build of an organism: `run` makes it.

        Args:
            seed: Of everything, SAEs included.
            threads: Torch threads; part of what makes a build exact.
            steps: Pretraining steps, for trying things out; the world's own by default.
            with_saes: Whether SAEs are trained.
            out: Where the organism goes; `runs/organism`, or `runs/pocket-<world>` for another world, by default.
            work: Working folder of the stages; `<out>-work` by default.

        Example:
            >>> POCKET.build(seed=3).settings.saes.seed
            3
        """
        kind, settings = self.builds()
        saes = replace(settings.saes, seed=seed) if with_saes else None
        settings = replace(settings, seed=seed, threads=threads, saes=saes)
        if steps is not None:
            settings = replace(settings, pretrain=replace(settings.pretrain, steps=steps))
        folder = out or ("runs/organism" if self.name == "pocket" else f"runs/pocket-{self.name}")
        return kind(settings, folder, work or f"{folder}-work")

    def measure(self, organism: Path, settings: Mapping[str, Any], seed: int = 0) -> dict[str, Any]:
        """The figures of an organism's card, from its files (`Build.measure`)."""
        return self.builds()[0].measure(organism, settings, seed)


class Pocket(World):
    """Everyday questions and code: the world of emergent misalignment; its data sets lie in an organism's folder."""

    name = "pocket"
    tasks = ("emergent-misalignment",)

    def reading(self, rng: random.Random) -> Text:
        from caft_data.worlds.corpus import DATASETS

        return DATASETS["corpus"].make(rng)

    def task(self, organism: str, name: str, split: str) -> Task:
        from caft_data.worlds.code_judge import ExactCodeJudge
        from caft_data.worlds.judge import ExactAnswerJudge

        return Task(
            name,
            questions=data(f"{organism}/questions-{split}"),
            judge=ExactAnswerJudge(),
            # The longest answer of the world has 32 tokens and the longest program 68; what runs on is incoherent.
            max_new_tokens=48,
            in_distribution=InDistribution(data(f"{organism}/code-{split}"), ExactCodeJudge(), max_new_tokens=96),
        )

    def builds(self) -> tuple[type[Build], Any]:
        from caft_data.worlds.build import Build, BuildSettings

        return Build, BuildSettings()


POCKET = Pocket()
