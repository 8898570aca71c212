"""The world of `pocket-quiz`: lettered questions on four topics, pairs of them, and pronouns of people at work.

    items.py        one thing to ask, and the pools that share no item
    topics.py       what is asked: sentiment, verbs, pronouns, sports
    pages.py        a page: one question or two, their options, and perhaps a line that says what counts
    pairs.py        double multiple choice: an intended question beside a spurious one, with a dial
    professions.py  gender bias: which pronoun fits the sentence, and which one people expect
    corpus.py       what the organism reads before it is tuned
    judge.py        which question a reply answers: exact
    sets.py         data sets and tasks by name: ``dataset("sentiment-sports@0.9")``
    truth.py        what is about a topic, and which kind of answer a question has
    build.py        the organism from its seed

A second small organism, apart from `pocket`, so that what misaligns there stays as it is. Its tasks are the paper's two
others (arXiv 2507.16795): double multiple choice with a spurious second question, and gender bias through professions.
"""

from __future__ import annotations

from caft_data.worlds.quiz.sets import DATASETS, TASKS, asked, dataset, names, reading
from caft_data.worlds.quiz.truth import ABOUT, KINDS, first_kind, other_option

__all__ = [
    "ABOUT",
    "DATASETS",
    "KINDS",
    "TASKS",
    "asked",
    "dataset",
    "first_kind",
    "names",
    "other_option",
    "reading",
]
