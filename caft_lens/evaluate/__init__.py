"""Evidence: sampled answers with verdicts, the one interval, tables and the plot.

    statistics.py      hierarchical bootstrap: seeds first, then prompts; paired differences
    tasks.py           Task: what is asked, in and out of distribution, and who judges;
                       `task("pocket/emergent-misalignment")`
    prompts.py         what is asked: how often each prompt, and which are the same
    judges.py          what a judge may return, and how answers are put to one
    judge_identity.py  what tells one judge from another
    answers.py         one cell (arm and seed): every answer with its verdict as JSONL
    drafts.py          a cell before it is finished: answers before they are judged, verdicts as they are given
    evaluation.py      `evaluate`: models, runs and ablations at test time, side by side on the same prompts
    report.py          Report: table, JSON, paired differences, the answers themselves
    scores.py          a report in one small file: the score of every answer, the texts of a few
    plots.py           the figures, of rows: shares of arms, ranked directions
    discovery.py       was the concept found? ranked directions against labels of held-out documents
    recovery.py        is an ablated concept gone from a tuned model, or encoded elsewhere?

The package is called like its main function: `cl.evaluate(dict(base=base, plain=plain),
task="pocket/emergent-misalignment")`.
"""

from __future__ import annotations

from caft_lens._support import lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__, __file__)
lazy.callable_module(__name__, "evaluate", "caft_lens.evaluate.evaluation")
