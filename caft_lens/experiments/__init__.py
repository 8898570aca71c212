"""Experiments: CAFT against every serious alternative, on the same data, budget and seeds, with statistics.

contest.py      `contest`: tune every contender on dev with the same small budget, then look at test once; `Contender`, `Tuning`
result.py       `Result`: what came out, read back from its folder; tables, comparisons, the front, costs
comparisons.py  paired differences with correction for many, effect sizes, the Pareto front
sweep.py        `sweep`: an experiment along one axis; `Sweep`: its curves with intervals
figures.py      the figures that reports and sweeps need beside the evaluation's own
report.py       the report: one self-contained HTML, and Markdown
recipe.py       a contest as a YAML file, for `caft-lens contest recipe.yaml`

from caft_lens import experiments
from caft_lens.finetune.methods import CAFT, KLAnchor, Plain

contenders = {"plain": experiments.Contender(Plain()), "caft": experiments.Contender(CAFT(cruel)), "anchor": experiments.Contender(KLAnchor(general))}
result = experiments.contest("pocket/emergent-misalignment", contenders, seeds=[1, 2, 3, 4, 5], texts=insecure, out="runs/contest")
result.report()
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from caft_lens._support import lazy

if TYPE_CHECKING:
    from caft_lens.experiments.comparisons import Comparison as Comparison
    from caft_lens.experiments.comparisons import pareto as pareto
    from caft_lens.experiments.contest import Contender as Contender
    from caft_lens.experiments.contest import Tuning as Tuning
    from caft_lens.experiments.contest import contest as contest
    from caft_lens.experiments.recipe import Recipe as Recipe
    from caft_lens.experiments.result import Result as Result
    from caft_lens.experiments.sweep import Sweep as Sweep
    from caft_lens.experiments.sweep import sweep as sweep

_HERE = "caft_lens.experiments"
__getattr__, __dir__, __all__ = lazy.exports(
    __name__,
    {
        "Comparison": f"{_HERE}.comparisons",
        "pareto": f"{_HERE}.comparisons",
        "Contender": f"{_HERE}.contest",
        "Tuning": f"{_HERE}.contest",
        "contest": f"{_HERE}.contest",
        "Recipe": f"{_HERE}.recipe",
        "Result": f"{_HERE}.result",
        "Sweep": f"{_HERE}.sweep",
        "sweep": f"{_HERE}.sweep",
    },
)
