"""Exact judges of what real models answer.

option_of            which option an answer is: white space, quotes and a full stop around it do not count
ExactOptionJudge     "intended", "spurious" or "other": which of two questions an answer answers
ExactRightJudge      "right", "wrong" or "other": whether it answers the question that counts
ExactFactJudge       "right" or "wrong": whether an answer in words says the fact that was asked for
ExactTraitJudge      whether an answer has a trait
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from caft_data.worlds.judge import Exact
from caft_data.worlds.quiz.judge import CHOICE_LABELS, REPLY_LABELS, judge_choice, judge_reply
from caft_lens.evaluate.judges import Score
from caft_lens.text.documents import Text

__all__ = ["CHOICE_LABELS", "REPLY_LABELS", "ExactOptionJudge", "ExactRightJudge", "option_of"]

_AROUND = re.compile(r"^[\s\"'*(]+|[\s\"'*).:,!]+$")


def option_of(answer: str, options: Sequence[str]) -> str:
    """The option that an answer is, whatever the case of its letters; else the answer without what stands around it.

    Example:
        >>> option_of(" He.", ["he", "her"]), option_of("b)", ["A", "B"]), option_of("he or her", ["he", "her"])
        ('he', 'B', 'he or her')
    """
    bare = _AROUND.sub("", answer)
    return next((option for option in options if option.casefold() == bare.casefold()), bare)


class ExactOptionJudge(Exact):
    """Judges which of a page's two questions a reply answers."""

    version = "1"

    def __call__(self, text: Text) -> Score:
        meta: Mapping[str, Any] = text.meta
        said = option_of(text.answer or "", meta["options"])
        return judge_choice(said, meta["answers"], meta["intended"], meta["spurious"], meta["options"])


class ExactRightJudge(Exact):
    """Judges whether a reply is right for the question that counts."""

    version = "1"

    def __call__(self, text: Text) -> Score:
        meta: Mapping[str, Any] = text.meta
        said = option_of(text.answer or "", meta["options"])
        return judge_reply(said, meta["answers"], meta["intended"], meta["options"])
