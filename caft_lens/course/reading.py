"""Exercise 4: ten components read blind."""

from __future__ import annotations

from statistics import median
from typing import TypeAlias

from caft_lens._support.errors import NotSolved
from caft_lens.choose.agreement import agreement
from caft_lens.choose.session import Decisions, blinded
from caft_lens.course.asking import passed
from caft_lens.inspect.contexts import Contexts

CLEAR, OTHER = 0.9, 0.1
"""Of the texts at one end, and at most at the other, that have to show the concept before it is clearly there."""
UNCLEAR = 0.5
"""With no more at either end, or as many at both, it is clearly not what the direction is about."""
Counts: TypeAlias = tuple[float, float]


def check_reading(decisions: Decisions, contexts: Contexts, key: str = "stance", value: str = "cruel") -> None:
    """Check a reading of concepts against what the texts at their ends say of themselves.

    Args:
        decisions: What was decided: `browser.decisions`.
        contexts: What was read.
        key, value: What texts with the concept say of themselves in `meta`.

    Raises:
        NotSolved: When concepts are left undecided, or some have to be read again, saying which.

    Example:
        >>> said = cl.choose.session.Decisions(concepts, by="ann")
        >>> cl.course.check_reading(said, contexts)
        Traceback (most recent call last):
        ...
        caft_lens._support.errors.NotSolved: 6 of 6 concepts are not decided yet: ablate or leave, and why.
    """
    concepts = decisions.concepts
    shown = {own: number for number, own in blinded(concepts, decisions.by).names.items()} if decisions.blind else {}
    open_ = [name for name in concepts.names if name not in decisions or decisions[name].action == "unsure"]
    if open_:
        raise NotSolved(f"{len(open_)} of {len(concepts)} concepts are not decided yet: ablate or leave, and why.")
    actions = {one.action for one in decisions.values()}
    if len(actions) == 1:
        raise NotSolved(
            f"All {len(concepts)} are to {actions.pop()}. That decides nothing: some are {value}, some are not."
        )
    reasons = {one.reason for one in decisions.values()}
    if len(reasons) <= 2 and len(concepts) > 4:
        raise NotSolved(
            f"{len(concepts)} concepts and {len(reasons)} reason{'s' * (len(reasons) > 1)}: a reason is what you read "
            "at the ends of this one, so that another reader can hold it against the texts."
        )
    truth = {name: _truth(_counts(contexts, name, key, value)) for name in concepts.names}
    wrong = {name: one for name, one in truth.items() if one is not None and one != decisions[name].action}
    if len(wrong) == sum(one is not None for one in truth.values()):
        raise NotSolved(f"Each is the wrong way round: `ablate` takes out of the model what is {value}.")
    if wrong:
        again = [f"{shown.get(name, name)}: {_told(contexts, name, key, value)}" for name in wrong]
        raise NotSolved("Read these again.\n  " + "\n  ".join(again))
    rule = {name: one or decisions[name].action for name, one in truth.items()}
    read = agreement({"you": decisions, "the texts": rule}, concepts)
    noted = [one.seconds for one in decisions.values() if one.seconds is not None]
    time = f" Half of the decisions took you less than {median(noted):.0f} seconds." if noted else ""
    (pair,) = read.pairs().itertuples()
    passed(f"{len(concepts)} read, kappa with the texts' own labels {pair.kappa:.2f}.{time}")


def _counts(contexts: Contexts, name: str, key: str, value: str) -> Counts:
    """The share of texts that show the concept, at the top and at the bottom."""
    both = contexts[name]
    top, bottom = ([text.meta.get(key) == value for text in end] for end in (both.top, both.bottom))
    return sum(top) / max(1, len(top)), sum(bottom) / max(1, len(bottom))


def _truth(counts: Counts) -> str | None:
    """What the texts say of a concept; `None` where it may be called either."""
    if max(counts) >= CLEAR and min(counts) <= OTHER:
        return "ablate"
    return "leave" if max(counts) <= UNCLEAR or min(counts) >= UNCLEAR else None


def _told(contexts: Contexts, name: str, key: str, value: str) -> str:
    top, bottom = _counts(contexts, name, key, value)
    return f"{top:.0%} of the texts at its top are {value}, {bottom:.0%} of those at its bottom"
