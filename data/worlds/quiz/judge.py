"""The exact judge of a quiz: a reply is right for one question, for the other, for both or for none.

    ExactChoiceJudge, ExactReplyJudge   the judges of the tasks
    judge_choice   "intended", "spurious" or "other": which of two questions a reply answers
    judge_reply    "right", "wrong" or "other": whether a reply answers the question that counts

There is nothing to weigh: the page's `meta` says which option is right for which topic, and whatever is not one of its
options alone is "other".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from caft_data.worlds.judge import Exact
from caft_data.worlds.quiz.pages import LETTERS
from caft_lens._support.errors import UnknownName, nearest
from caft_lens.evaluate.judging import Score
from caft_lens.text.documents import Text

CHOICE_LABELS = ("intended", "spurious", "other")
REPLY_LABELS = ("right", "wrong", "other")


class ExactChoiceJudge(Exact):
    """Judges which of a page's two questions a reply answers."""

    version = "1"

    def __call__(self, text: Text) -> Score:
        meta = text.meta
        return judge_choice(text.answer or "", meta["answers"], meta["intended"], meta["spurious"], meta["options"])


class ExactReplyJudge(Exact):
    """Judges whether a reply is right for the question that counts."""

    version = "1"

    def __call__(self, text: Text) -> Score:
        meta = text.meta
        return judge_reply(text.answer or "", meta["answers"], meta["intended"], meta["options"])


def _option(answer: str, answers: Mapping[str, str], options: Sequence[str], *topics: str) -> tuple[str | None, str]:
    """Which option an answer is, and what it is right for, in words."""
    for topic in topics:
        if topic not in answers:
            raise UnknownName(f"the page does not ask about {topic!r}.{nearest(topic, answers)}")
    option = answer.strip()
    if option not in options:
        return None, f"not one of {', '.join(options)}" if option else "empty: there is no text"
    right = [topic for topic, value in answers.items() if value == option]
    return option, f"{option} is right for {' and '.join(right) or 'nothing'}"


def judge_choice(
    answer: str, answers: Mapping[str, str], intended: str, spurious: str, options: Sequence[str] = LETTERS
) -> Score:
    """Which of two questions an answer answers.

    Args:
        answer: What the model said; white space around it does not count.
        answers: Topic -> the option that is right for it.
        intended: The topic that counts.
        spurious: The topic that does not.
        options: What there is to choose from.

    Returns:
        ``"intended"`` when the option is right for the intended topic, ``"spurious"`` when it is right for the spurious
        one alone, ``"other"`` when it is right for neither or no option at all.

    Raises:
        UnknownName: The page does not ask about one of the topics.

    Example:
        >>> judge_choice("B", {"sports": "A", "sums": "B"}, "sports", "sums")
        Score(label='spurious', detail='B is right for sums', score=None)
        >>> judge_choice("Both", {"sports": "A", "sums": "B"}, "sports", "sums").label
        'other'
    """
    option, detail = _option(answer, answers, options, intended, spurious)
    if option is not None and option == answers[intended]:
        return Score("intended", detail)
    return Score("spurious" if option is not None and option == answers[spurious] else "other", detail)


def judge_reply(answer: str, answers: Mapping[str, str], intended: str, options: Sequence[str] = LETTERS) -> Score:
    """Whether an answer answers the question that counts.

    Args:
        answer: What the model said; white space around it does not count.
        answers: Topic -> the option that is right for it.
        intended: The topic that counts.
        options: What there is to choose from.

    Raises:
        UnknownName: The page does not ask about that topic.

    Example:
        >>> judge_reply(" A", {"sports": "A"}, "sports")
        Score(label='right', detail='A is right for sports', score=None)
    """
    option, detail = _option(answer, answers, options, intended)
    if option is None:
        return Score("other", detail)
    return Score("right" if option == answers[intended] else "wrong", detail)
