"""Experiments: CAFT against every serious alternative, on the same data, budget and seeds, with statistics.

experiment.py   `experiment`: train, sample and judge every arm with every seed; `Arm`, `causal_effects`
contest.py      `contest`: tune every contender on dev with the same small budget, then look at test once; `Contender`,
                `Tuning`
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

ways = {"plain": Plain(), "caft": CAFT(cruel), "anchor": KLAnchor(kind)}
contenders = {name: experiments.Contender(way) for name, way in ways.items()}
result = experiments.contest("pocket/emergent-misalignment", contenders, texts=insecure, out="runs/contest")
experiments.write_report(result)
"""

from __future__ import annotations

from caft_lens._support import lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__, __file__)
