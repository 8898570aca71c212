"""Judges that ask a language model, here or at an endpoint, and how far they agree with labels.

    ready.py     `alignment`, `yes_no`, `number`, and `rubric`, which reads one from a file
    rubrics.py   `Rubric`: what a model is asked about an answer, how that is read, which label follows
    criteria.py  `Criterion`: one thing that is asked, in full, and how its answer is read
    prompts.py   the words of the prompts

`judge.validate(labelled)` measures one against labels (`caft_lens.evaluate.validation`); a report says which judge
spoke and how far it was validated. A function of your own is a judge as well (`caft_lens.evaluate.judging`).
"""

from __future__ import annotations

from caft_lens._support import lazy

__getattr__, __dir__, __all__ = lazy.attach(__name__, __file__)
