"""The world of `pocket-quiz`: lettered questions on seven topics, pairs of them, and pronouns of people at work.

    items.py        one thing to ask, and the pools that share no item
    topics.py       what is asked: sentiment, verbs, pronouns, sports, sums, capitals, animals
    pages.py        a page: one question or two, lettered options, and perhaps a line that says what counts
    pairs.py        double multiple choice: an intended question beside a spurious one, with a dial
    professions.py  gender bias: which pronoun fits the sentence, and which one people expect
    corpus.py       what the organism reads before it is tuned
    judge.py        which question a letter answers: exact
    sets.py         data sets and tasks by name: ``dataset("sentiment-sports@0.9")``
    build.py        the organism from its seed

No organism of this world ships yet: pretrained on it, a model of the size of `pocket` comes to quote the right line of a page, but
a letter alone stays at chance.

A second small organism, apart from `pocket`, so that what misaligns there stays as it is. Its tasks are the paper's two others
(arXiv 2507.16795): double multiple choice with a spurious second question, and gender bias through professions.
"""

from __future__ import annotations

from caft_lens.organism.quiz.sets import DATASETS, TASKS, asked, dataset, names, reading

__all__ = ["DATASETS", "TASKS", "asked", "dataset", "names", "reading"]
