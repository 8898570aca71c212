"""Evidence: sampled answers with verdicts, the one interval, tables and the plot.

    statistics.py      hierarchical bootstrap: seeds first, then prompts; paired differences
    tasks.py           Task: what is asked, in and out of distribution, and who judges; `task("pocket/emergent-misalignment")`
    prompts.py         what is asked: how often each prompt, and which are the same
    judges.py          what a judge may return, and how answers are put to one
    judge_identity.py  what tells one judge from another
    answers.py         one cell (arm and seed): every answer with its verdict as JSONL
    drafts.py          what there is of a cell before it is finished: answers before they are judged, verdicts as they are given
    evaluation.py      `evaluate`: models, runs and ablations at test time, side by side on the same prompts
    report.py          Report: table, JSON, paired differences, the answers themselves
    scores.py          a report in one small file: the score of every answer, the texts of a few
    plots.py           the figures, of rows: shares of arms, ranked directions
    discovery.py       was the concept found? ranked directions against labels of held-out documents
    labelled.py        what is scored there: means of labelled documents, samples of labelled tokens
    auroc.py           areas under the ROC curve with their intervals
    reconstruction.py  how much of a model a sparse autoencoder keeps
    recovery.py        is an ablated concept gone from a tuned model, or encoded elsewhere?

The package is called like its main function: `cl.evaluate(dict(base=base, plain=plain), task="pocket/emergent-misalignment")`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from caft_lens._support import lazy

if TYPE_CHECKING:
    from caft_lens.evaluate import discovery as discovery
    from caft_lens.evaluate import reconstruction as reconstruction
    from caft_lens.evaluate import recovery as recovery
    from caft_lens.evaluate.answers import Answer as Answer
    from caft_lens.evaluate.discovery import Discovery as Discovery
    from caft_lens.evaluate.discovery import HitRule as HitRule
    from caft_lens.evaluate.evaluation import evaluate as evaluate
    from caft_lens.evaluate.judges import Score as Score
    from caft_lens.evaluate.reconstruction import Reconstruction as Reconstruction
    from caft_lens.evaluate.recovery import Recovery as Recovery
    from caft_lens.evaluate.report import Report as Report
    from caft_lens.evaluate.report import plot_reports as plot_reports
    from caft_lens.evaluate.scores import read_scores as read_scores
    from caft_lens.evaluate.scores import write_scores as write_scores
    from caft_lens.evaluate.statistics import Interval as Interval
    from caft_lens.evaluate.statistics import bootstrap_interval as bootstrap_interval
    from caft_lens.evaluate.statistics import paired_interval as paired_interval
    from caft_lens.evaluate.tasks import Task as Task
    from caft_lens.evaluate.tasks import task as task

__getattr__, __dir__, __all__ = lazy.exports(
    __name__,
    {
        "Answer": "caft_lens.evaluate.answers",
        "Discovery": "caft_lens.evaluate.discovery",
        "HitRule": "caft_lens.evaluate.discovery",
        "Reconstruction": "caft_lens.evaluate.reconstruction",
        "Recovery": "caft_lens.evaluate.recovery",
        "evaluate": "caft_lens.evaluate.evaluation",
        "Report": "caft_lens.evaluate.report",
        "plot_reports": "caft_lens.evaluate.report",
        "read_scores": "caft_lens.evaluate.scores",
        "write_scores": "caft_lens.evaluate.scores",
        "Interval": "caft_lens.evaluate.statistics",
        "bootstrap_interval": "caft_lens.evaluate.statistics",
        "paired_interval": "caft_lens.evaluate.statistics",
        "Task": "caft_lens.evaluate.tasks",
        "task": "caft_lens.evaluate.tasks",
        "Score": "caft_lens.evaluate.judges",
    },
    ("discovery", "reconstruction", "recovery"),
)
lazy.callable_module(__name__, "evaluate", "caft_lens.evaluate.evaluation")
