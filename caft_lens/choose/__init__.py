"""Choosing which concepts to ablate, on record: who or what chose to ablate or to leave each, and why.

by_hand      `choose(concepts, {name: reason})`
by_examples  from a handful of texts with the concept, and of others for contrast
by_sentence  from a sentence, by an LLM that reads contexts and explanations
choice       what an automatic choice proposes, to be read and overruled
session      a choice in the making: undone, redone, saved; what a blind reader sees
agreement    several readers: how far they agree, where they differ, what they choose together
"""

from __future__ import annotations

from caft_lens._support import lazy
from caft_lens.choose.agreement import Agreement, agreement
from caft_lens.choose.by_examples import Criteria, by_examples
from caft_lens.choose.by_hand import choose
from caft_lens.choose.by_sentence import by_sentence
from caft_lens.choose.choice import Choice, Proposal

__all__ = ["Agreement", "Choice", "Criteria", "Proposal", "agreement", "by_examples", "by_sentence", "choose"]

lazy.callable_module(__name__, "choose")
