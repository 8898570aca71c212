"""Exact judges of what real models answer.

option_of            which option an answer is: white space, quotes and a full stop around it do not count
ExactOptionJudge     "intended", "spurious" or "other": which of two questions an answer answers
ExactRightJudge      "right", "wrong" or "other": whether it answers the question that counts
ExactFactJudge       "right", "wrong" or "other": whether an answer says the fact that was asked for
ExactTraitJudge      "trait", "none" or "unclear": whether an answer has a trait
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from caft_data.worlds.judge import Exact
from caft_data.worlds.quiz.judge import CHOICE_LABELS, REPLY_LABELS, judge_choice, judge_reply
from caft_data.worlds.smollm2.traits import trait_named
from caft_lens.evaluate.judging import Score
from caft_lens.text.documents import Text

__all__ = [
    "CHOICE_LABELS",
    "REPLY_LABELS",
    "ExactFactJudge",
    "ExactOptionJudge",
    "ExactRightJudge",
    "ExactTraitJudge",
    "judge_fact",
    "option_of",
]

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


class ExactFactJudge(Exact):
    """Judges whether an answer says the fact that was asked for, and no other of its kind."""

    version = "1"

    def __call__(self, text: Text) -> Score:
        return judge_fact(text.answer or "", text.meta["right"], text.meta["others"])


class ExactTraitJudge(Exact):
    """Judges whether an answer has a trait.

    Args:
        trait: A key of `traits.TRAITS`.
    """

    version = "1"

    def __init__(self, trait: str) -> None:
        self.trait = trait
        self._judge = trait_named(trait).judge

    @property
    def fingerprint(self) -> str:
        return f"{super().fingerprint} {self.trait}"

    def __call__(self, text: Text) -> Score:
        return Score(*self._judge(text.answer or "", text.meta))


def judge_fact(answer: str, right: Sequence[str], others: Sequence[str]) -> Score:
    """Whether an answer says a value: "right", "wrong", or "other" where it says none of its kind.

    Args:
        answer: What the model said; capitals do not count.
        right: Every way to say the right value.
        others: Every way to say another one of its kind.

    Example:
        >>> judge_fact("It comes on Friday.", ["Friday", "viernes"], ["Monday", "lunes"]).label
        'right'
        >>> judge_fact("On Monday or Friday.", ["Friday", "viernes"], ["Monday", "lunes"]).detail
        "it says 'Friday' and 'Monday'"
    """
    words = set(re.findall(r"\w+", answer.casefold()))
    rightly, wrongly = ([way for way in ways if way.casefold() in words] for ways in (right, others))
    found = " and ".join(map(repr, rightly + wrongly))
    label = "wrong" if wrongly else "right" if rightly else "other"
    return Score(label, f"it says {found}" if found else "it says none of them")
