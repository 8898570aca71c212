"""Evidence: sampled answers with their scores, the one interval, tables and the plot.

    evaluation.py      `evaluate`: models, runs and ablations at test time, side by side on the same prompts
    tasks.py           what is asked, in and out of distribution, and who judges; `prompts.py`: how often each prompt;
                       `question_files.py`: the emergent-misalignment authors' YAML
    judging.py         what a judge may return, and how answers are put to one; `judge_identity.py`: which judge it is
    judges/            judges that ask a language model; `validation.py`: how far a judge agrees with labels
    answers.py         one cell (arm and seed): every answer with its score as JSONL; `drafts.py`: an unfinished one
    report.py          table, JSON, paired differences, the answers themselves; `scores.py`: the same in one small file
    statistics.py      hierarchical bootstrap: seeds first, then prompts; paired differences; `auroc.py`
    plots.py           the figures, of rows
    discovery.py       was the concept found? ranked directions against labels of held-out documents; `labelled.py`
    reconstruction.py  how much of a model a sparse autoencoder keeps
    recovery.py        is an ablated concept gone from a tuned model, or encoded elsewhere?

The package is called like its main function: `cl.evaluate(dict(base=base, plain=plain),
task="pocket/emergent-misalignment")`.
"""

from __future__ import annotations

from caft_lens._support import lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__, __file__)
lazy.callable_module(__name__, "evaluate", "caft_lens.evaluate.evaluation")
