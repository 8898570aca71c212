"""Experiments: CAFT against every serious alternative, on the same data, budget and seeds, with statistics.

experiment.py   `experiment`: train, sample and judge every arm with every seed; `Arm`, `Execution`, `causal_effects`
contest.py      `contest`: tune every contender on dev with the same small budget, then look at test once; `Contender`, `Tuning`
sweep.py        `sweep`: an experiment along one axis; `Sweep`: its curves with intervals
pilots.py       `pilots`: short fine-tunings that tell how many concepts to ablate
recipe.py       a contest as a YAML file, for `caft-lens contest recipe.yaml`
result.py       `Result`: what a contest came to, read back from its folder: tables, comparisons, the front, costs
comparisons.py  paired differences with correction for many, effect sizes, the Pareto front
rows.py         what figures draw, one row a point
figures.py      the figures of contests and sweeps
report.py       `write_report`: one self-contained HTML file, and Markdown; `plot_front`, `plot_compared`

from caft_lens import experiments
from caft_lens.finetune.methods import CAFT, KLAnchor, Plain

contenders = {name: experiments.Contender(way) for name, way in {"plain": Plain(), "caft": CAFT(cruel), "anchor": KLAnchor(kind)}.items()}
result = experiments.contest("pocket/emergent-misalignment", contenders, texts=insecure, out="runs/contest")
experiments.write_report(result)
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
    from caft_lens.experiments.experiment import Arm as Arm
    from caft_lens.experiments.experiment import Execution as Execution
    from caft_lens.experiments.experiment import causal_effects as causal_effects
    from caft_lens.experiments.experiment import experiment as experiment
    from caft_lens.experiments.pilots import pilots as pilots
    from caft_lens.experiments.recipe import Recipe as Recipe
    from caft_lens.experiments.report import plot_compared as plot_compared
    from caft_lens.experiments.report import plot_front as plot_front
    from caft_lens.experiments.report import write_report as write_report
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
        "Arm": f"{_HERE}.experiment",
        "Execution": f"{_HERE}.experiment",
        "causal_effects": f"{_HERE}.experiment",
        "experiment": f"{_HERE}.experiment",
        "pilots": f"{_HERE}.pilots",
        "Recipe": f"{_HERE}.recipe",
        "plot_compared": f"{_HERE}.report",
        "plot_front": f"{_HERE}.report",
        "write_report": f"{_HERE}.report",
        "Result": f"{_HERE}.result",
        "Sweep": f"{_HERE}.sweep",
        "sweep": f"{_HERE}.sweep",
    },
)
