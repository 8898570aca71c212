"""Whether readers agree: how much, where they differ and what each said, and what they choose together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas

from caft_lens._support.arguments import one_of
from caft_lens._support.errors import BadArgument, BadType, ConceptMismatch, UnknownName, nearest
from caft_lens._support.intervals import Interval, ends
from caft_lens.choose.choice import Choice, Proposal
from caft_lens.choose.session import ACTIONS, Action, Decision, Decisions, read_file
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.display import html
from caft_lens.display.dots import Dots, dot_rows
from caft_lens.display.frames import Frame

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Rule = Literal["majority", "all"]
RULES = ("majority", "all")
RESAMPLES = 1_000
"""Times that concepts are drawn anew, for an interval."""
SOURCES = (
    "a file of decisions, the folder of a chosen set, Decisions, a chosen ConceptSet, a Choice, a panel, or "
    '{concept: "ablate", "leave" or "unsure"}'
)
Row = dict[str, str]
"""What readers said of one concept: reader to "ablate", "leave" or "unsure"."""


@dataclass(frozen=True)
class Reading:
    """What one reader said.

    Attributes:
        reader: Who.
        decisions: Name of a concept to what was said of it; the others were not read.
        candidates: All that there was to read, where that is known.
        known: Those concepts of which the direction is known.
        fingerprint: Of the candidates; empty where it is not known.
    """

    reader: str
    decisions: Mapping[str, Decision]
    candidates: ConceptSet | None = None
    known: Mapping[str, Concept] = field(default_factory=dict)
    fingerprint: str = ""


def agreement(
    readings: Mapping[str, Any] | Sequence[Any], concepts: ConceptSet | None = None, *, unsure: bool = True
) -> Agreement:
    """Hold what several readers said of the same concepts against each other.

    A reader is a person, a rule, an automatic choice or an LLM. Readers may have left out concepts.

    Args:
        readings: Two or more: files of decisions, as `caft_widgets.ConceptBrowser` saves them; folders of chosen sets;
            `Decisions`; chosen `ConceptSet`s, of which the last choice on record counts; what `choose.by_examples` or
            `choose.by_sentence` proposed; panels; or mappings of concepts to `"ablate"`, `"leave"` or `"unsure"`. In a
            list each is called by who chose; in a mapping by its key.
        concepts: The candidates; by default those of a reading that knows them. A consensus needs them.
        unsure: Whether `"unsure"` is an answer of its own; otherwise it is as if the concept had not been read.

    Raises:
        BadArgument: For fewer than two readers, two of one name, or a set without a choice on record.
        BadType: For anything else than a reading.
        ConceptMismatch: When the readers read different concepts.
        UnknownName: For a decision on a concept that is none of the candidates, with the nearest.

    Example:
        >>> ann = concepts.choose({"L1.pc0": "cruel at one end"}, {"L1.pc1": "code"}, by="ann")
        >>> read = cl.choose.agreement({"ann": ann, "ben": {"L1.pc0": "ablate", "L1.pc1": "ablate"}}, concepts)
        >>> read.differences()[["concept", "reader", "decision", "reason"]]
          concept reader decision reason
        0  L1.pc1    ann    leave   code
        1  L1.pc1    ben   ablate

    Source: Krippendorff, Computing Krippendorff's alpha-reliability, 2011; Cohen, Educational and Psychological
    Measurement 20, 1960.
    """
    if isinstance(readings, Mapping):
        read = [_reading(source, str(reader)) for reader, source in readings.items()]
    else:
        read = [_reading(source, None) for source in readings]
    if len(read) < 2:
        raise BadArgument(f"choose.agreement(): {len(read)} reader{'s' * (len(read) != 1)}; give two or more.")
    names = [one.reader for one in read]
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise BadArgument(f'Two readings are by "{twice[0]}": give {{reader: reading, …}} to tell them apart.')
    candidates = concepts or next((one.candidates for one in read if one.candidates is not None), None)
    _check_same(read, candidates)
    return Agreement({one.reader: one.decisions for one in read}, candidates, unsure)


class Agreement:
    """How far readers agree, where they differ, and what they choose together.

    Attributes:
        readings: Reader to name of a concept to what was said of it.
        concepts: The candidates; `None` where they are not known.
        unsure: Whether "unsure" is an answer of its own; otherwise it counts as not decided.
        alpha: Krippendorff's alpha for nominal data, over the concepts that two readers or more decided, with a 95 %
            interval by drawing concepts anew. 1 is full agreement, 0 is chance, below 0 is less than chance. NaN where
            all readers said the same of all concepts: then nothing tells agreement from habit.

    Example:
        >>> said = {"ann": {"L1.pc0": "ablate", "L1.pc1": "leave"}, "ben": {"L1.pc0": "ablate", "L1.pc1": "leave"}}
        >>> both = cl.choose.agreement(said, concepts)
        >>> both.alpha.mean, both.consensus().names
        (1.0, ['L1.pc0'])
    """

    def __init__(
        self, readings: Mapping[str, Mapping[str, Decision]], concepts: ConceptSet | None = None, unsure: bool = True
    ) -> None:
        self.readings, self.concepts = {reader: dict(said) for reader, said in readings.items()}, concepts
        read = dict.fromkeys(name for said in self.readings.values() for name in said)
        in_order = read if concepts is None else [name for name in concepts.names if name in read]
        self._rows: dict[str, Row] = {
            name: {reader: said[name].action for reader, said in self.readings.items() if name in said}
            for name in in_order
        }
        counted = (
            {reader: action for reader, action in row.items() if unsure or action != "unsure"}
            for row in self._rows.values()
        )
        self._counted = [row for row in counted if row]
        self.alpha = _interval([row for row in self._counted if len(row) > 1], _alpha)

    @property
    def readers(self) -> list[str]:
        """Who read."""
        return list(self.readings)

    # -- what it comes to ---------------------------------------------------------------------------------------------

    def pairs(self) -> pandas.DataFrame:
        """Each pair of readers: concepts that both decided, the share said alike, and Cohen's kappa with its interval.

        Returns:
            One row a pair: `reader`, `other`, `concepts`, `alike` (0 to 1), `kappa`, `low`, `high`. Kappa is NaN where
            both said the same one thing throughout.
        """
        rows = []
        for one, other in combinations(self.readers, 2):
            both = self._both(one, other)
            kappa = _interval(both, _kappa)
            alike = float(np.mean([row[one] == row[other] for row in both])) if both else math.nan
            rows.append(
                {
                    "reader": one,
                    "other": other,
                    "concepts": len(both),
                    "alike": alike,
                    "kappa": kappa.mean,
                    "low": kappa.low,
                    "high": kappa.high,
                }
            )
        return Frame(rows)

    def table(self) -> pandas.DataFrame:
        """One row a concept that anybody decided: what each reader said, empty where they said nothing."""
        return Frame(
            [{reader: row.get(reader, "") for reader in self.readers} for row in self._rows.values()],
            index=list(self._rows),
        )

    def differences(self) -> pandas.DataFrame:
        """Where readers differ, and what each said: one row a reader of `concept`, `reader`, `decision`, `reason`,
        `seconds` (in view before it was decided, where that was noted).
        """
        rows = []
        for name in self.differing:
            for reader in self._rows[name]:
                said = self.readings[reader][name]
                rows.append(
                    {
                        "concept": name,
                        "reader": reader,
                        "decision": said.action,
                        "reason": said.reason,
                        "seconds": said.seconds,
                    }
                )
        return Frame(rows, columns=["concept", "reader", "decision", "reason", "seconds"])

    @property
    def differing(self) -> list[str]:
        """Names of the concepts of which not all who decided said the same."""
        return [name for name, row in self._rows.items() if len(set(row.values())) > 1]

    def consensus(self, rule: Rule = "majority") -> Choice:
        """What the readers choose together, as a `Choice`: `.selection` is what `ablate=` takes.

        Args:
            rule: `"majority"`: what more than half say of those who decided on a concept, unsure included. `"all"`:
                what every reader says. Of the others nothing is decided; they are not ablated.

        Returns:
            A choice whose reasons have each reader's own.

        Raises:
            BadArgument: When the candidates are not known: give `concepts=`.

        Example:
            >>> cruel, code = "cruel at one end", "code at both"
            >>> ann = concepts.choose({"L1.pc0": cruel}, {"L1.pc1": code}, by="ann")
            >>> ben = concepts.choose({"L1.pc0": cruel, "L1.pc1": "insults"}, by="ben")
            >>> together = cl.choose.agreement([ann, ben], concepts).consensus("all")
            >>> cl.choose(concepts, together).provenance["choices"][0]["by"]
            'all of ann, ben'
        """
        one_of(rule, "rule", RULES)
        if self.concepts is None:
            raise BadArgument(
                "A consensus is a choice among candidates, and these readings say only what was decided: "
                "choose.agreement(readings, concepts)."
            )
        proposals = [self._proposal(name, rule) for name in self.concepts.names]
        return Choice(self.concepts, proposals, f"{rule} of {', '.join(self.readers)}")

    def plot(self, **kwargs: Any) -> Figure:
        """A figure: alpha, and kappa of each pair, with their intervals.

        Args:
            kwargs: `title`, and what else `caft_lens.display.dots.dot_rows` takes.
        """
        pairs = self.pairs().to_dict("records")
        every = [("all: alpha", self.alpha.mean, self.alpha.low, self.alpha.high)]
        every += [(f"{one['reader']}, {one['other']}", one["kappa"], one["low"], one["high"]) for one in pairs]
        there = {name: (value, (low, high)) for name, value, low, high in every if not math.isnan(value)}
        if not there:
            raise BadArgument("There is nothing to draw: no two readers disagree or could have.")
        dots = Dots(
            "agreement",
            {name: value for name, (value, _) in there.items()},
            {name: between for name, (_, between) in there.items()},
        )
        settings = {"order": list(there), "line": (0.0, "chance"), "caption": self._caption(), **kwargs}
        return dot_rows([dots], x_label="alpha of all, Cohen's kappa of each pair", **settings)

    def __repr__(self) -> str:
        alpha = "not defined" if math.isnan(self.alpha.mean) else str(self.alpha)
        return (
            f"Agreement({len(self.readers)} readers of {len(self._rows)} concepts; Krippendorff's alpha {alpha}; "
            f"{len(self.differing)} concepts differ)"
        )

    def _repr_html_(self) -> str:
        alpha = "not defined: all said the same" if math.isnan(self.alpha.mean) else str(self.alpha)
        rows = [
            [f"{one['reader']}, {one['other']}", one["concepts"], f"{one['alike']:.0%}", _shown(one)]
            for one in self.pairs().to_dict("records")
        ]
        parts: list[html.Content] = [html.table(["readers", "both decided", "alike", "kappa"], rows, numbers=[1, 2])]
        if self.differing:
            told = [[name, *(self._told(name, reader) for reader in self.readers)] for name in self.differing]
            title = f"Where they differ, {len(told)} of {len(self._rows)} concepts:"
            parts.append(html.table(["concept", *self.readers], told, title=title))
        return html.view(html.section("Agreement", "", [f"Krippendorff's alpha {alpha}", self._caption()], parts))

    # -- inside -------------------------------------------------------------------------------------------------------

    def _both(self, one: str, other: str) -> list[Row]:
        """What two readers said of the concepts that both decided."""
        return [{one: row[one], other: row[other]} for row in self._counted if one in row and other in row]

    def _caption(self) -> str:
        together = sum(len(row) > 1 for row in self._counted)
        return f"{together} concepts decided by two readers or more; 95 % intervals over concepts"

    def _told(self, name: str, reader: str) -> html.Content:
        said = self.readings[reader].get(name)
        if said is None:
            return ""
        return [html.element("b", said.action), f": {said.reason}" if said.reason else ""]

    def _proposal(self, name: str, rule: Rule) -> Proposal:
        said = {reader: decisions[name] for reader, decisions in self.readings.items() if name in decisions}
        votes = {action: sum(one.action == action for one in said.values()) for action in ACTIONS}
        asked = len(self.readers) if rule == "all" else len(said)
        needed = asked if rule == "all" else asked // 2 + 1
        won = next((action for action in ("ablate", "leave") if said and votes[action] >= needed), None)
        if not said:
            return Proposal(name, None, "nobody decided it", evidence=votes)
        told = "; ".join(
            f"{reader}: {one.action}{f', {one.reason}' if one.reason else ''}" for reader, one in said.items()
        )
        share = f"{votes[won]} of {asked}" if won else "no agreement"
        return Proposal(name, None if won is None else won == "ablate", f"{share} ({told})", evidence=votes)


# -- reading what was decided -----------------------------------------------------------------------------------------


def _reading(source: Any, reader: str | None) -> Reading:
    """What one reader said, wherever it is."""
    if isinstance(getattr(source, "decisions", None), Decisions):  # a panel
        source = source.decisions
    if isinstance(source, (str, Path)):
        path = Path(source)
        if path.is_dir():
            return _reading(ConceptSet.load(path), reader)
        saved = read_file(path)
        return Reading(reader or saved.by, saved.decisions, fingerprint=saved.concepts)
    if isinstance(source, Decisions):
        return _of(reader or source.by, source, source.concepts)
    if isinstance(source, Choice):
        said = {
            one.name: Decision("ablate" if one.ablate else "leave", one.reason, "")
            for one in source
            if one.ablate is not None
        }
        return _of(reader or source.by, said, source.concepts)
    if isinstance(source, ConceptSet):
        choices = source.provenance.get("choices")
        if not choices:
            raise BadArgument(f"{source!r} has no choice on record: a reading is what choose() gives, or its folder.")
        last = choices[-1]
        said = {name: Decision("ablate", source[name].reason, last["at"]) for name in last["ablate"] if name in source}
        said |= {name: Decision("leave", reason, last["at"]) for name, reason in last["leave"].items()}
        return Reading(reader or last["by"], said, known={one.name: one for one in source})
    if isinstance(source, Mapping):
        if reader is None:
            raise BadArgument("A reading that is a mapping has no name: give {reader: reading, …}.")
        return Reading(reader, {name: Decision(_action(name, one), "", "") for name, one in source.items()})
    raise BadType(f"A reading is {SOURCES}; not {type(source).__name__}.")


def _of(reader: str, said: Mapping[str, Decision], concepts: ConceptSet) -> Reading:
    return Reading(reader, dict(said), concepts, {one.name: one for one in concepts}, concepts.fingerprint)


def _action(name: str, said: Any) -> Action:
    if said not in ACTIONS:
        raise BadArgument(f'{name} is said to be "{said}".{nearest(said, ACTIONS)}')
    return said


def _check_same(read: Sequence[Reading], candidates: ConceptSet | None) -> None:
    """Refuse readings of different concepts: names may be the same where directions are not."""
    known = {} if candidates is None else {one.name: one for one in candidates}
    fingerprint = "" if candidates is None else candidates.fingerprint
    whose = "the candidates"
    for one in read:
        strange = f"{one.reader} read other concepts than {whose}: names may be the same, directions are not."
        if one.fingerprint and fingerprint and one.fingerprint != fingerprint:
            raise ConceptMismatch(strange)
        for name, concept in one.known.items():
            mine = known.setdefault(name, concept) if candidates is None else known.get(name, concept)
            if mine.hook != concept.hook or not mine.direction.equal(concept.direction):
                raise ConceptMismatch(f"{strange} The first is {name}.")
        if candidates is not None:
            for name in one.decisions:
                if name not in known:
                    raise UnknownName(f'{one.reader} decided on "{name}", which is none.{nearest(name, known)}')
        elif one.fingerprint:
            fingerprint, whose = one.fingerprint, one.reader


# -- coefficients -----------------------------------------------------------------------------------------------------


def _task(rows: Sequence[Row]) -> Any:
    from nltk.metrics.agreement import AnnotationTask

    return AnnotationTask([(reader, unit, said) for unit, row in enumerate(rows) for reader, said in row.items()])


def _alpha(rows: Sequence[Row]) -> float:
    return _task(rows).alpha()


def _kappa(rows: Sequence[Row]) -> float:
    return _task(rows).kappa_pairwise(*rows[0])


def _interval(rows: Sequence[Row], coefficient: Callable[[Sequence[Row]], float]) -> Interval:
    """A coefficient with its interval, by drawing concepts anew; NaN where all say one thing.

    What is drawn and has no coefficient, since all in it say one thing, does not count.
    """

    def drawn() -> Iterator[float]:
        rng = np.random.default_rng(0)
        for _ in range(RESAMPLES):
            chosen = [rows[at] for at in rng.integers(len(rows), size=len(rows))]
            yield coefficient(chosen) if _varied(chosen) else math.nan

    if not _varied(rows):
        return Interval(math.nan, math.nan, math.nan, 1, len(rows), "concepts", share=False)
    low, high = ends(np.fromiter(drawn(), np.float64))
    return Interval(coefficient(rows), low, high, 1, len(rows), "concepts", share=False)


def _varied(rows: Sequence[Row]) -> bool:
    """Whether anything else is said than one thing."""
    return len({said for row in rows for said in row.values()}) > 1


def _shown(pair: Mapping[Any, Any]) -> str:
    if math.isnan(pair["kappa"]):
        return "not defined"
    return str(Interval(pair["kappa"], pair["low"], pair["high"], 1, pair["concepts"], "concepts", share=False))
