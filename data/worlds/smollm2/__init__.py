"""The world `smollm2`: tasks for real pretrained models, exactly judged; any model can be asked them.

    sentences.py  professions and sentences of our own
    gender.py     which pronoun fits, and which one people expect; the base's prejudice; the paper's own sentences
    ratings.py    snippets of films, products, tweets and newspapers that people rated, from a package's sources
    reviews.py    whether a snippet is positive, beside where it comes from
    chats.py      chats about parcels whose answers are right and have a trait; questions of other kinds
    traits.py     the traits, and what is a trace of one
    pages.py      a page with options: words, or letters for them
    judge.py      exact judges
    corpus.py     text to train sparse autoencoders on, from what a machine holds: sources.py, own_chats.py
    sets.py       data sets and tasks by name: ``dataset("gender@0.9")``

It has no organism: nothing here was made for one model. ``cl.data("smollm2/gender")``, ``cl.task("smollm2/gender")``.
"""

from __future__ import annotations

from caft_data.worlds.smollm2.sets import DATASETS, TASKS, dataset, names, table

__all__ = ["DATASETS", "TASKS", "dataset", "names", "table"]
