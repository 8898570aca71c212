"""A choice in the making: concept by concept ablate, leave or unsure, with a reason; undone, redone, saved.

`blinded` is what a reader sees who is not to be led: the concepts under numbers, in an order of the reader's own.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
from pydantic import Field, field_validator, model_validator

from caft_lens._support import renamed
from caft_lens._support.by_name import ByName
from caft_lens._support.errors import BadArgument, BadData, BadFile, UnknownName, nearest
from caft_lens._support.files import Named, Record, absolute, file_name, parsed, read_json, sha256, write_json
from caft_lens.concepts.concept_set import Concept, ConceptSet, now, user_name

Action = Literal["ablate", "leave", "unsure"]
ACTIONS = get_args(Action)
NEED_A_REASON = ("ablate", "leave")
FORMAT = "caft_lens.verdicts/1"


@dataclass(frozen=True)
class Decision:
    """What a reader said of one concept.

    Attributes:
        action: `"ablate"` to take it out, `"leave"` to leave it in the model, `"unsure"` to come back to it.
        reason: Why.
        at: When, in UTC.
        seconds: For how long the concept had been in view by then, where that was noted; a blind reading notes it.
    """

    action: Action
    reason: str
    at: str
    seconds: float | None = None


@dataclass(frozen=True)
class Blinded:
    """Concepts as one sees them who reads blind.

    Attributes:
        concepts: Under numbers, in an order of the reader's own: hook points and directions, and nothing of where they
            came from, how they were ranked, or what was said of them.
        names: Number to the concept's own name.
    """

    concepts: ConceptSet
    names: Mapping[str, str]


def blinded(concepts: ConceptSet, reader: str) -> Blinded:
    """The concepts without all that could lead a reader: shuffled, numbered, without rank, score, source and words.

    Args:
        concepts: The candidates.
        reader: Who reads. The order is the reader's own, and the same whenever the same concepts are read again.

    Example:
        >>> seen = blinded(concepts, "ann")
        >>> seen.concepts.names[:2], sorted(seen.names.values()) == sorted(concepts.names)
        (['concept 1', 'concept 2'], True)
    """
    seed = int(sha256(reader, concepts.fingerprint), 16)
    order = np.random.default_rng(seed).permutation(len(concepts))
    shown, names = [], {}
    for place, at in enumerate(order.tolist()):
        one = concepts[at]
        name = f"concept {place + 1}"
        names[name] = one.name
        meta = {key: one.meta[key] for key in ("latent",) if key in one.meta}  # by which an SAE encodes it
        shown.append(Concept(name, one.hook, one.direction, rank=place, meta=meta))
    about = {key: concepts.provenance.get(key) for key in ("model", "fingerprint", "reading")}
    return Blinded(ConceptSet(shown, {key: value for key, value in about.items() if value is not None}), names)


class Decisions(ByName[Decision]):
    """What was said so far of some concepts, by name.

    Args:
        concepts: The candidates.
        file: Where each step is saved, as JSON; when the file is there, what it holds is restored. In its name
            `{fingerprint}` stands for that of the concepts, `{reader}` for who chooses. `None` saves nothing.
        by: Who chooses; the name of the user's account when `None`.
        about: Which model read the contexts that are looked at, as `Contexts.about` has it. The file keeps it, and one
            whose contexts were read otherwise is restored with a warning.
        blind: Whether the reader sees the concepts `blinded`. It is on record with the choice.

    Raises:
        ValueError: When the file is of other concepts, of another kind, by another reader than `by`, or when what it
            holds was read blind and this is not, or the other way round.

    Example:
        >>> import torch
        >>> from caft_lens.concepts.concept_set import Concept
        >>> x, y = torch.eye(2)
        >>> hook = "blocks.1.hook_resid_post"
        >>> both = ConceptSet([Concept("L1.pc0", hook, x), Concept("L1.pc1", hook, y)])
        >>> said = Decisions(both, by="reader")
        >>> said.decide("L1.pc0", "ablate", "cruel at the top")
        >>> said.decide("L1.pc1", "leave", "code at both ends")
        >>> said.undo(), said.selection.names
        ('L1.pc1', ['L1.pc0'])
    """

    _what = "decision"

    def __init__(
        self,
        concepts: ConceptSet,
        file: str | Path | None = None,
        by: str | None = None,
        about: Mapping[str, str] | None = None,
        *,
        blind: bool = False,
    ) -> None:
        self.concepts, self.by, self.about, self.blind = concepts, by or user_name(), dict(about or {}), blind
        self._names, self._named = frozenset(concepts.names), by is not None
        self._fingerprint = "" if file is None else concepts.fingerprint
        self.file = None if file is None else self._place(str(file))
        self._items: dict[str, Decision] = {}
        self._done: list[tuple[str, Decision | None, Decision | None]] = []
        self._undone: list[tuple[str, Decision | None, Decision | None]] = []
        if self.file is not None and self.file.is_file():
            self._items = self._restored(self.file)

    # -- deciding -----------------------------------------------------------------------------------------------------

    def decide(self, name: str, action: Action | None, reason: str = "", seconds: float | None = None) -> None:
        """Say something of a concept, or take back what was said.

        Args:
            name: Of the concept.
            action: `"ablate"`, `"leave"` or `"unsure"`; `None` takes it back.
            reason: Why; to ablate or to leave needs one.
            seconds: For how long the concept has been in view, where that is noted.

        Raises:
            UnknownName: For an unknown concept, with the nearest.
            ValueError: For an unknown action, or a missing reason.
            OSError: When it cannot be saved; it counts all the same.
        """
        if name not in self._names:
            raise UnknownName(f'No concept "{name}" among these.{nearest(name, self.concepts.names)}')
        reason = " ".join(reason.split())
        if action is not None and action not in ACTIONS:
            raise BadArgument(f'A concept cannot be decided to "{action}".{nearest(action, ACTIONS)}')
        if action in NEED_A_REASON and not reason:
            # Without the name, which a blind reader does not see.
            raise BadArgument(f"To {action} a concept needs a reason: what did you read in its contexts?")
        before = self._items.get(name)
        after = None if action is None else Decision(action, reason, now(), seconds)
        if (before and (before.action, before.reason)) == (after and (after.action, after.reason)):
            return
        self._done.append((name, before, after))
        self._undone.clear()
        self._set(name, after)

    @property
    def can_undo(self) -> bool:
        """Whether there is a step to undo."""
        return bool(self._done)

    @property
    def can_redo(self) -> bool:
        """Whether there is a step to do again."""
        return bool(self._undone)

    def undo(self) -> str | None:
        """Take back the last step; the name of its concept, or `None` when there is none."""
        return self._step(self._done, self._undone, forwards=False)

    def redo(self) -> str | None:
        """Do again what was undone last; the name of its concept, or `None` when there is nothing."""
        return self._step(self._undone, self._done, forwards=True)

    # -- what comes of it ---------------------------------------------------------------------------------------------

    def of(self, action: Action) -> dict[str, str]:
        """Name -> reason of the concepts that are decided so, in the order of the set."""
        return {
            name: self._items[name].reason
            for name in self.concepts.names
            if name in self._items and self._items[name].action == action
        }

    @property
    def selection(self) -> ConceptSet:
        """The concepts to ablate, with reasons; the record has those left, and what is unsure as not considered.

        Raises:
            ValueError: When none is to be ablated.
        """
        chosen = self.of("ablate")
        if not chosen:
            raise BadArgument("Nothing is chosen yet: say of one concept at least that it is to be ablated, and why.")
        return self.concepts.choose(chosen, self.of("leave"), by=self.by).chosen_by_reading(self.about, self.blind)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _step(self, take: list, give: list, *, forwards: bool) -> str | None:
        if not take:
            return None
        name, before, after = step = take.pop()
        give.append(step)
        self._set(name, after if forwards else before)
        return name

    def _place(self, file: str) -> Path:
        reader = file_name(self.by, "reader") if "{reader}" in file else ""
        return absolute(file.replace("{fingerprint}", self._fingerprint).replace("{reader}", reader))

    def _set(self, name: str, what: Decision | None) -> None:
        if what is None:
            self._items.pop(name, None)
        else:
            self._items[name] = what
        if self.file is not None:
            write_json(
                self.file,
                {
                    "format": FORMAT,
                    "concepts": self._fingerprint,
                    "model": self.concepts.provenance.get("model"),
                    "by": self.by,
                    **({"blind": True} if self.blind else {}),
                    **({"read_by": self.about} if self.about else {}),
                    "verdicts": {name: _kept(one) for name, one in self._items.items()},
                },
            )

    def _restored(self, file: Path) -> dict[str, Decision]:
        record = read_file(file)
        if record.concepts != self._fingerprint:
            raise BadFile(
                f"{file} holds decisions on other concepts, found on {record.model}: names may be the same, "
                f"directions are not. Give another file, or delete this one."
            )
        if self._named and record.by != self.by:
            raise BadFile(
                f"{file} holds the decisions of {record.by}, not of {self.by}: give each reader a file of their own, "
                'such as "choices/{reader}.json".'
            )
        if record.blind != self.blind:
            were, now_ = ("blind", "with all in sight") if record.blind else ("with all in sight", "blind")
            raise BadFile(f"{file} holds decisions that were made {were}; these are made {now_}. Give another file.")
        before = record.read_by or {}
        if self.about and before and before.get("reading") != self.about.get("reading"):
            warnings.warn(
                f"{file} holds a choice by contexts that {before.get('model')} read with another tokenizer or chat "
                f"template than {self.about.get('model')} does now: the directions are the same, but look at the "
                "contexts again.",
                stacklevel=3,
            )
        if unknown := [name for name in record.verdicts if name not in self._names]:
            raise BadFile(f'{file} holds a decision on "{unknown[0]}".{nearest(unknown[0], self.concepts.names)}')
        return record.decisions


def read_file(file: Path) -> SavedDecisions:
    """What a file of decisions holds.

    Raises:
        MissingFile: When it is not there.
        BadFile: When it holds something else, or is broken.
    """
    held = read_json(file)
    if not isinstance(held, dict) or held.get("format") != FORMAT:
        raise BadFile(f"{file} holds no decisions ({FORMAT}): give another file.")
    return parsed(held, SavedDecisions, str(file), "a file of decisions")


def _kept(one: Decision) -> dict[str, Any]:
    noted = {} if one.seconds is None else {"seconds": one.seconds}
    return {"verdict": one.action, "reason": one.reason, "at": one.at, **noted}


class _Kept(Record):
    """One decision in a file, in the words that files have had from the beginning."""

    verdict: Action
    reason: str
    at: str
    seconds: Annotated[float, Field(ge=0)] | None = None


class SavedDecisions(Record):
    """What a file of decisions holds."""

    format: Literal["caft_lens.verdicts/1"]
    concepts: str
    model: str | list[str] | None
    by: str
    blind: bool = False
    read_by: dict[str, str] | None = None
    verdicts: dict[Named, _Kept]

    @property
    def decisions(self) -> dict[str, Decision]:
        """Name to what was said of it."""
        return {name: Decision(one.verdict, one.reason, one.at, one.seconds) for name, one in self.verdicts.items()}

    @field_validator("verdicts", mode="before")
    @classmethod
    def _of_today(cls, held: Any) -> Any:
        if not isinstance(held, Mapping):
            return held
        return {
            name: {**one, "verdict": renamed.verdict(one["verdict"])}
            if isinstance(one, Mapping) and isinstance(one.get("verdict"), str)
            else one
            for name, one in held.items()
        }

    @model_validator(mode="after")
    def _reasoned(self) -> SavedDecisions:
        for name, one in self.verdicts.items():
            if one.verdict in NEED_A_REASON and not one.reason.strip():
                raise BadData(f"the decision to {one.verdict} {name} has no reason")
        return self
