"""A choice that no single person made, concept by concept: proposals with what they rest on, to be overruled."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import pandas

from caft_lens._support.errors import BadArgument, ConceptMismatch
from caft_lens.concepts.concept_set import ConceptSet, user_name
from caft_lens.display import html
from caft_lens.display.frames import Frame

End = Literal["top", "bottom"]


@dataclass(frozen=True)
class Proposal:
    """What an automatic choice, or a consensus, says of one concept.

    Attributes:
        name: Of the concept.
        ablate: Whether it is to be ablated; otherwise it is left in the model. `None`: nothing is decided.
        reason: Why, or why not.
        end: Which end carries the concept; `""` for neither.
        evidence: Figures that it rests on.
    """

    name: str
    ablate: bool | None
    reason: str
    end: End | Literal[""] = ""
    evidence: Mapping[str, float] = field(default_factory=dict)


class Choice:
    """An automatic choice, or the consensus of readers, concept by concept, to be read and, where it errs, overruled.

    Args:
        concepts: The candidates.
        proposals: One for each, in the same order.
        by: What chose, with what settings.
        about: Which model read what the choice rests on, as `Contexts.about` has it.

    Example:
        >>> choice = cl.choose.by_examples(base, concepts, cruel_texts, kind_texts, texts=corpus)
        >>> choice = choice.overrule({"L1.pc0": "cruel answers, on reading"}, by="reader")
        >>> choice.selection.names
        ['L1.pc0']
    """

    def __init__(
        self, concepts: ConceptSet, proposals: Sequence[Proposal], by: str, about: Mapping[str, str] | None = None
    ) -> None:
        self.concepts, self.proposals, self.by = concepts, tuple(proposals), by
        self.about = dict(about or {})

    @property
    def names(self) -> list[str]:
        """Names of the concepts to ablate."""
        return [one.name for one in self.proposals if one.ablate]

    @property
    def selection(self) -> ConceptSet:
        """The concepts to ablate, with reasons, `sign` turned to the end that carries each, and the choice on record.

        Raises:
            ValueError: When there is none, saying why of the first.
        """
        ends = {one.name: {"top": 1, "bottom": -1}.get(one.end) for one in self.proposals}
        turned = [dataclasses.replace(one, sign=ends[one.name] or one.sign) for one in self.concepts]
        if not self.names:
            why = "; ".join(f"{one.name}: {one.reason}" for one in self.proposals[:3])
            raise BadArgument(f"None of {len(self.concepts)} concepts was chosen by {self.by}. {why}")
        sides = (True, False)
        ablate, leave = ({one.name: one.reason for one in self.proposals if one.ablate is side} for side in sides)
        chosen = ConceptSet(turned, self.concepts.provenance).choose(ablate, leave, by=self.by)
        return chosen.chosen_by_reading(self.about)

    def overrule(
        self, ablate: Mapping[str, str] | None = None, leave: Mapping[str, str] | None = None, *, by: str | None = None
    ) -> Choice:
        """The same choice with some decisions changed by a reader; each reason says who changed it.

        Args:
            ablate: Name to the reason for ablating it after all.
            leave: Name to the reason for leaving it in the model.
            by: Who overrules; the name of the user's account when `None`.

        Raises:
            UnknownName: For an unknown name, with the nearest.
            ValueError: For an empty reason, or a name in both.
        """
        ablate, leave = dict(ablate or {}), dict(leave or {})
        self.concepts.check_reasons(ablate, leave)
        reader = by or user_name()
        changed = [
            dataclasses.replace(one, ablate=one.name in ablate, reason=f"{said} ({reader}; {self.by}: {one.reason})")
            if (said := {**ablate, **leave}.get(one.name))
            else one
            for one in self.proposals
        ]
        return Choice(self.concepts, changed, f"{self.by}, overruled by {reader}", self.about)

    def explained(self, explanations: Mapping[str, Any]) -> Choice:
        """The same choice, its reasons telling what each concept was explained as at its end.

        Args:
            explanations: `Explanations`, or name to text.
        """
        told = [
            dataclasses.replace(one, reason=f"{one.reason}; explained as: {said}")
            if (said := explained(explanations, one.name, one.end))
            else one
            for one in self.proposals
        ]
        return Choice(self.concepts, told, self.by, self.about)

    def __or__(self, other: Choice) -> Choice:
        """What either of two choices among the same concepts ablates, such as by answers' tokens and by the template's.

        Raises:
            ValueError: When they are choices among different concepts.
        """
        if [one.name for one in self.proposals] != [one.name for one in other.proposals]:
            raise ConceptMismatch("These are choices among different concepts.")
        joined = []
        for mine, yours in zip(self.proposals, other.proposals, strict=True):
            first, second = (mine, yours) if mine.ablate or not (yours.ablate or mine.ablate is None) else (yours, mine)
            reason = f"{first.reason}; {second.reason}" if first.ablate == second.ablate else first.reason
            joined.append(dataclasses.replace(first, reason=reason))
        about = self.about if self.about == other.about else {}
        return Choice(self.concepts, joined, self.by if self.by == other.by else f"{self.by}; {other.by}", about)

    def table(self) -> pandas.DataFrame:
        """One row a concept: name, whether to ablate it, end, the figures, reason."""
        return Frame(
            {"name": one.name, "ablate": one.ablate, "end": one.end, **one.evidence, "reason": one.reason}
            for one in self.proposals
        )

    def __len__(self) -> int:
        return len(self.proposals)

    def __iter__(self) -> Iterator[Proposal]:
        return iter(self.proposals)

    def __repr__(self) -> str:
        shown = ", ".join(self.names[:6]) + ", …" * (len(self.names) > 6)
        return f"Choice({len(self.names)} of {len(self)} concepts to ablate, by {self.by}: {shown})"

    def _repr_html_(self) -> str:
        title = f"{len(self.names)} of {len(self)} concepts to ablate, by {self.by}"
        rows = sorted(self.proposals, key=lambda one: not one.ablate)
        said = {False: "leave", None: "not decided"}
        cells: list[list[html.Content]] = [
            [one.name, html.element("b", "ablate") if one.ablate else said[one.ablate], one.end, one.reason]
            for one in rows
        ]
        return html.view(html.table(["concept", "", "end", "why"], cells, title=title))


def explained(explanations: Mapping[str, Any] | None, name: str, end: str) -> str:
    """What a concept was explained as: at one end, or, where explanations are plain texts, as a whole."""
    found = (explanations or {}).get(name)
    one = found if found is None or isinstance(found, str) else getattr(found, end)
    return one or "" if one is None or isinstance(one, str) else one.text
