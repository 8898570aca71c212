"""`ConceptSet`: an ordered set of concepts with provenance, to choose from, turn into bases, check, save and load."""

from __future__ import annotations

import dataclasses
import getpass
import importlib.metadata
import operator
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import pandas
import torch
from einops import einsum
from torch import Tensor

from caft_lens._support.errors import BadArgument, BadType, ConceptMismatch, UnknownName, nearest
from caft_lens._support.files import naming, sha256
from caft_lens.concepts import card
from caft_lens.concepts.card import how_many, origin
from caft_lens.concepts.concept import Concept
from caft_lens.display import html
from caft_lens.display.frames import Frame
from caft_lens.model.hook_names import full_name, of_heads

if TYPE_CHECKING:
    from caft_lens.model.lens import Lens

# Of what a set of unit directions spans, singular values below this share of the largest are rounding:
# float32 directions that depend on each other leave about 1e-7.
RANK_TOLERANCE = 1e-5


class ConceptSet(Sequence[Concept]):
    """An ordered set of concepts with one width and one provenance; never empty, never changed in place.

    Args:
        concepts: At least one, names unique, directions of one width.
        provenance: Where they came from: `model` (name), `fingerprint` (of its weights), `data`, `roles`, `method`;
            `d_model`, `created` and `versions` are filled in; `part_of` says how many the set held from which this
            one was taken (`f[:3]`, `top`, `at`, `choose`, `without`).

    Raises:
        ValueError: When empty, a name occurs twice or widths differ.

    Example:
        >>> x, y = torch.eye(2)
        >>> hook = "blocks.1.hook_resid_post"
        >>> both = ConceptSet([Concept("L1.pc0", hook, x), Concept("L1.pc1", hook, x + y)])
        >>> both.basis(1).shape                              # [d_model, k]
        torch.Size([2, 2])
        >>> both.choose({"L1.pc1": "cruel at the top, kind at the bottom"}, by="reader").names
        ['L1.pc1']
    """

    def __init__(self, concepts: Iterable[Concept], provenance: Mapping[str, Any] | None = None) -> None:
        self._concepts = tuple(concepts)
        if not self._concepts:
            raise BadArgument("A concept set needs at least one concept: an empty one would ablate nothing.")
        names = self.names
        twice = sorted(name for name, count in Counter(names).items() if count > 1)
        if twice:
            raise BadArgument(f"Concept names must be unique within a set; more than once: {', '.join(twice)}.")
        widths = sorted({concept.direction.numel() for concept in self._concepts})
        stated = (provenance or {}).get("d_model", widths[0])
        if widths != [stated]:
            raise ConceptMismatch(f"Directions of widths {widths} in a set of width {stated}: of different models.")
        versions = {name: importlib.metadata.version(name) for name in ("caft-lens", "torch")}
        defaults = {"created": now(), "versions": versions}
        self.provenance: dict[str, Any] = {**defaults, **(provenance or {}), "d_model": widths[0]}

    # -- a sequence ---------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._concepts)

    def __iter__(self) -> Iterator[Concept]:
        return iter(self._concepts)

    @overload
    def __getitem__(self, key: int | str) -> Concept: ...
    @overload
    def __getitem__(self, key: slice) -> ConceptSet: ...
    def __getitem__(self, key: int | str | slice) -> Concept | ConceptSet:
        """A concept by position or name; a slice gives a set.

        Raises:
            UnknownName: For an unknown name, with the nearest ones.
            BadType: For a list of them.
        """
        if isinstance(key, slice):
            return self._with(self._concepts[key])
        if isinstance(key, str):
            self._known([key])
            return self._concepts[self.names.index(key)]
        try:
            place = operator.index(key)
        except TypeError:
            raise BadType(
                f"A concept is found by one position or name, not by {type(key).__name__}. For a set of several: "
                'f.choose({"L1.pc0": "why", …}), or a slice, f[:2].'
            ) from None
        return self._concepts[place]

    def __contains__(self, item: object) -> bool:
        return item in self.names if isinstance(item, str) else item in self._concepts

    def __add__(self, other: ConceptSet) -> ConceptSet:
        """Both sets in order; their models must be the same.

        Raises:
            ValueError: When they were found on different models or a name occurs in both.
        """
        mine, yours = self.provenance, other.provenance
        if mine.get("fingerprint") != yours.get("fingerprint"):
            raise ConceptMismatch(
                f"These sets were found on different models ({origin(mine)} and {origin(yours)}); stamp one with "
                "`for_model(lens)` if its directions are meant for the other."
            )
        merged = {key: _either(mine.get(key), yours.get(key)) for key in {**mine, **yours} if key != "part_of"}
        return ConceptSet([*self, *other], {**merged, "versions": mine["versions"], "created": mine["created"]})

    # -- choosing -----------------------------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """The names, in order."""
        return [concept.name for concept in self._concepts]

    @property
    def hooks(self) -> list[str]:
        """The hook points, in order of first occurrence."""
        return list(dict.fromkeys(concept.hook for concept in self._concepts))

    def at(self, hook: str | int) -> ConceptSet:
        """The concepts of one hook point; a layer number means its `hook_resid_post`.

        Raises:
            UnknownName: When the set has none there.
        """
        return self._with(concept for concept in self if concept.hook == self._hook(hook))

    def top(self, k: int | ConceptSet) -> ConceptSet:
        """The first concepts of every hook point (the control "top k": chosen by rank, not by meaning).

        Args:
            k: How many a hook point; or a set, for its hook points and as many as it holds at each.

        Raises:
            ValueError: For `k` < 1, or when this set has too few concepts at a hook point of `k`.
        """
        if isinstance(k, int) and k < 1:
            raise BadArgument(f"top({k}): expected at least 1.")
        wanted = dict.fromkeys(self.hooks, k) if isinstance(k, int) else {hook: len(k.at(hook)) for hook in k.hooks}
        first: set[str] = set()
        for hook, number in wanted.items():
            names = [concept.name for concept in self if concept.hook == hook]
            if not isinstance(k, int) and len(names) < number:
                raise BadArgument(f"top(): {number} concepts wanted at {hook}, but this set has {len(names)} there.")
            first |= set(names[:number])
        return self._with(concept for concept in self if concept.name in first)

    def choose(
        self, ablate: Mapping[str, str], leave: Mapping[str, str] | None = None, *, by: str | None = None
    ) -> ConceptSet:
        """The concepts that a reader chose to ablate, each with the reason; the choice is recorded.

        Every choice, a person's and an automatic one (`cl.choose`), goes through here and is one entry of
        `provenance["choices"]`: who, when, what to ablate and what to leave in the model, and why.

        Args:
            ablate: Name to the reason for ablating it, as read from its contexts.
            leave: Name to the reason for leaving it in the model; what is in neither is recorded as not considered.
            by: Who or what chose; the name of the user's account when `None`.

        Returns:
            Those to ablate, in the order of this set.

        Raises:
            BadType: When there are names without reasons, or reasons that are no text.
            UnknownName: For an unknown name, with the nearest ones.
            ValueError: When nothing is chosen, a reason is empty, or a name is both to be ablated and left.

        Example:
            >>> x, y = torch.eye(2)
            >>> hook = "blocks.1.hook_resid_post"
            >>> both = ConceptSet([Concept("L1.pc0", hook, x), Concept("L1.pc1", hook, y)])
            >>> cruel = both.choose({"L1.pc1": "cruel at the top"}, leave={"L1.pc0": "code at both ends"}, by="reader")
            >>> cruel.provenance["choices"][0]["leave"]
            {'L1.pc0': 'code at both ends'}
        """
        leave = {} if leave is None else leave
        self.check_reasons(ablate, leave)
        if not ablate:
            raise BadArgument("choose({}) chooses nothing: name at least one concept to ablate, {name: reason}.")
        stamp = {"chosen_by": by or user_name(), "chosen_at": now()}
        chosen = [
            dataclasses.replace(concept, reason=ablate[concept.name], meta={**concept.meta, **stamp})
            for concept in self
            if concept.name in ablate
        ]
        return ConceptSet(chosen, self._with_choice(chosen, leave, *stamp.values()))

    def without(self, names: str | Iterable[str] | Mapping[str, str], *, by: str | None = None) -> ConceptSet:
        """All but `names`: concepts that are to be left in the model.

        Args:
            names: Which; or name to the reason for leaving it, which is recorded like a choice by `choose`.
            by: Who or what chose, where reasons are given; the name of the user's account when `None`.

        Raises:
            UnknownName: For an unknown name, with the nearest ones.
            ValueError: When none remains, or a reason is empty.
        """
        gone = [names] if isinstance(names, str) else list(names)
        self._known(gone)
        others = [concept for concept in self if concept.name not in gone]
        if not isinstance(names, Mapping):
            return self._with(others)
        self.check_reasons({}, names)
        return ConceptSet(others, self._with_choice(others, names, by or user_name(), now()))

    def label(self, labels: Mapping[str, str]) -> ConceptSet:
        """The same set with labels put on some concepts.

        Raises:
            UnknownName: For an unknown name, with the nearest ones.
        """
        self._known(labels)
        return self._with(dataclasses.replace(c, label=str(labels.get(c.name, c.label))) for c in self)

    # -- using --------------------------------------------------------------------------------------------------------

    def directions(self, hook: str | int) -> Tensor:
        """The unit directions at one hook point, in order, `[n_concepts, d_model]`, float32 on the CPU."""
        return torch.stack([concept.direction for concept in self.at(hook)])

    def basis(
        self, hook: str | int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Tensor:
        """An orthonormal basis of what the concepts span at one hook point.

        Directions that depend on others add no column, so `k` can be less than the number of concepts.

        Args:
            hook: Hook point, or a layer number for its `hook_resid_post`.
            device: CPU when `None`.
            dtype: float32 when `None`.

        Returns:
            `[d_model, k]` with orthonormal columns.
        """
        _, sizes, rows = torch.linalg.svd(self.directions(hook).double(), full_matrices=False)
        return rows[sizes > RANK_TOLERANCE * sizes[0]].T.contiguous().to(device=device, dtype=dtype or torch.float32)

    def bases(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """`basis` of every hook point: `{hook: [d_model, k]}`."""
        return {hook: self.basis(hook, device, dtype) for hook in self.hooks}

    def overlap(self, other: ConceptSet) -> dict[str, float]:
        """How much of one set lies in the other, at every hook point that both have.

        The mean squared cosine of the principal angles between both spans: 1 where the smaller lies within the larger,
        0 where they are orthogonal. A span of k dimensions holds k / d_model of a random one.

        Args:
            other: Concepts of the same width.

        Returns:
            Hook point -> share of the smaller span that lies in the larger.

        Raises:
            ValueError: When they share no hook point, or differ in width.

        Example:
            >>> {hook: round(share, 2) for hook, share in concepts[:2].overlap(concepts).items()}
            {'blocks.1.hook_resid_post': 1.0}
        """
        shared = [hook for hook in self.hooks if hook in other.hooks]
        if not shared:
            raise ConceptMismatch(
                f"These sets share no hook point: one has {', '.join(self.hooks)}, the other {', '.join(other.hooks)}."
            )
        found = {}
        for hook in shared:
            mine, theirs = (one.basis(hook, dtype=torch.float64) for one in (self, other))
            if len(mine) != len(theirs):
                raise ConceptMismatch(f"At {hook} one set is {len(mine)} wide, the other {len(theirs)}.")
            cosines = einsum(mine, theirs, "d_model mine, d_model theirs -> mine theirs")
            found[hook] = float(cosines.square().sum()) / min(cosines.shape)
        return found

    def check(self, lens: Lens) -> None:
        """Refuse a model that the concepts do not fit.

        A set fits the model on which it was found and models tuned from that one. A direction is of the weights: with
        another tokenizer or chat template it is the same direction, and only what was read of it, contexts and scores,
        may be other than there. That is said in a warning.

        Raises:
            ValueError: When width, hook points or weights differ.
        """
        self._check_shape(lens)
        found_on = self.provenance.get("fingerprint")
        if found_on is None:
            raise ConceptMismatch(
                f"This concept set does not say which model it was found on, so nothing shows that it fits "
                f"{lens.name!r}. If it does, stamp it: `concepts.for_model(lens)`."
            )
        if found_on not in lens.lineage:
            raise ConceptMismatch(
                f"These concepts were found on {origin(self.provenance)}; {lens.name!r} ({lens.fingerprint}) is "
                f"neither that model nor tuned from it, so the same directions mean something else there. Find them "
                f"again on this model, or, if you do mean to carry them over, `concepts.for_model(lens)`."
            )
        read, reads = self.provenance.get("reading"), getattr(lens, "reading", "")
        if read and reads and reads not in (read if isinstance(read, list) else [read]):
            warnings.warn(
                f"These concepts were found with another tokenizer or chat template than {lens.name!r} reads with: "
                f"as directions they fit, but contexts and scores may differ from those that they were chosen by.",
                stacklevel=2,
            )

    def for_model(self, lens: Lens) -> ConceptSet:
        """A copy that is stamped, on purpose, as fitting `lens`; the earlier stamp is kept as `carried_from`.

        Raises:
            ValueError: When width or hook points do not fit.
        """
        self._check_shape(lens)
        known = ("model", "fingerprint", "reading")
        earlier = {key: self.provenance.get(key) for key in known if key != "reading" or key in self.provenance}
        stamp: dict[str, Any] = {"model": lens.name, "fingerprint": lens.fingerprint, "carried_from": earlier}
        if reads := getattr(lens, "reading", ""):
            stamp["reading"] = reads
        rest = {key: value for key, value in self.provenance.items() if key != "reading"}
        return ConceptSet(self, {**rest, **stamp})

    def chosen_by_reading(self, about: Mapping[str, str], blind: bool = False) -> ConceptSet:
        """The same set whose last choice on record says how the contexts were read that it rests on.

        Args:
            about: The `model`, `fingerprint` and `reading` of the model that read them, as `Contexts.about` has them;
                empty where it is not known.
            blind: Whether the reader saw no rank, score or source, and nothing that others had said.
        """
        choices = list(self.provenance.get("choices", []))
        noted = {**({"read_by": dict(about)} if about else {}), **({"blind": True} if blind else {})}
        if not noted or not choices:
            return self
        last = {**choices[-1], **noted}
        return ConceptSet(self, {**self.provenance, "choices": [*choices[:-1], last]})

    @property
    def fingerprint(self) -> str:
        """Hash of what the set does to a model: names, hook points and the bits of the directions."""
        return sha256(*(part for c in self for part in (c.name, c.hook, c.direction.numpy().tobytes())))

    # -- showing ------------------------------------------------------------------------------------------------------

    def table(self) -> pandas.DataFrame:
        """One row per concept, for people: everything but the direction."""
        columns = ["name", "hook", "layer", "source", "rank", "score", "score_name", "sign", "label", "reason"]
        rows = [{**{key: getattr(c, key) for key in columns}, "chosen_by": c.meta.get("chosen_by", "")} for c in self]
        return Frame(rows)

    def __repr__(self) -> str:
        shown = ", ".join(self.names[:6]) + (", …" if len(self) > 6 else "")
        return f"ConceptSet({how_many(len(self), self.provenance)} at {', '.join(self.hooks)}: {shown})"

    def _repr_html_(self) -> str:
        head = ["name", "hook", "score", "label", "reason"]
        rows = [[c.name, c.hook, f"{c.score:.4g} {c.score_name}".strip(), c.label, c.reason] for c in self]
        title = f"{how_many(len(self), self.provenance)} found on {origin(self.provenance)}"
        return html.view(html.table(head, rows, title=title))

    # -- files --------------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> Path:
        """Write `directions.safetensors`, `card.json` and a README for people.

        Whoever reads meanwhile, or after a kill at any moment, finds an older set or the new one, whole.

        Args:
            folder: Made when missing; other files in it are left alone.

        Returns:
            The folder.

        Raises:
            BadData: When `provenance` or a `meta` holds what JSON does not have; nothing is written then.
        """
        folder = Path(folder)
        card.write(folder, self, self.provenance)
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> ConceptSet:
        """Read a set that `save` wrote.

        Raises:
            MissingFile: When a file is missing.
            BadFile: When a file is truncated, changed or of another kind, or the directions are not those of the card;
                a `ValueError`. It names the file, what was expected and what was found.
        """
        folder = Path(folder)
        concepts, provenance = card.read(folder)
        with naming(folder / card.CARD):
            return cls(concepts, provenance)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _with(self, concepts: Iterable[Concept]) -> ConceptSet:
        """Some of the concepts, which remember of how many they are, or all of them."""
        some = tuple(concepts)
        return ConceptSet(some, self._provenance_of(len(some)))

    def _provenance_of(self, number: int) -> dict[str, Any]:
        """The provenance of so many of the concepts."""
        whole = {"part_of": self.provenance.get("part_of", len(self))}
        return {**self.provenance, **(whole if number < len(self) else {})}

    def _with_choice(self, ablate: Sequence[Concept], leave: Mapping[str, str], by: str, when: str) -> dict[str, Any]:
        """The provenance with one more choice on record."""
        others = len(self) - len(ablate) - len(leave)
        entry = {"by": by, "at": when, "ablate": [c.name for c in ablate], "leave": dict(leave)}
        choices = [*self.provenance.get("choices", []), {**entry, "not_considered": others}]
        return {**self._provenance_of(len(ablate)), "choices": choices}

    def check_reasons(self, ablate: Mapping[str, str], leave: Mapping[str, str]) -> None:
        """Refuse names that are none, stand on both sides, or come without a reason."""
        for reasons in (ablate, leave):
            if not isinstance(reasons, Mapping):
                raise BadType(
                    f"choose() takes {{name: reason}}, not {type(reasons).__name__}: a concept is chosen for a reason; "
                    "`top(k)` and slices need none."
                )
            self._known(reasons)
            for name, reason in reasons.items():
                if not isinstance(reason, str):
                    raise BadType(f"The reason for {name} is {reason!r}; expected a sentence.")
                if not reason.strip():
                    raise BadArgument(f"A reason is missing for {name}.")
        both = [name for name in ablate if name in leave]
        if both:
            raise BadArgument(f"Both to be ablated and to be left: {', '.join(both)}.")

    def _known(self, names: Iterable[str]) -> None:
        known = set(self.names)
        for name in names:
            if name not in known:
                raise UnknownName(f'No concept "{name}" in this set.{nearest(name, self.names)}')

    def _hook(self, hook: str | int) -> str:
        name = hook if hook in self.hooks else full_name(hook)
        if name not in self.hooks:
            raise UnknownName(f'No concept at "{name}" in this set.{nearest(name, self.hooks)}')
        return name

    def _check_shape(self, lens: Lens) -> None:
        width = self.provenance["d_model"]
        if width != lens.d_model:
            raise ConceptMismatch(f"Concepts {width} wide, but {lens.name!r} is {lens.d_model} wide: another model.")
        for concept in self:
            here = f'Concept "{concept.name}" sits at "{concept.hook}", which'
            if concept.hook not in lens.hook_names:
                beyond = concept.layer >= lens.n_layers
                layers = f" It has layers 0 to {lens.n_layers - 1}."
                hint = layers if beyond else nearest(concept.hook, lens.hook_names)
                raise ConceptMismatch(f"{here} {lens.name!r} lacks.{hint}")
            if of_heads(concept.hook):
                raise ConceptMismatch(
                    f"{here} holds the outputs of single heads, {lens.d_head} wide each, while its direction is "
                    f"{width} wide: take hook_attn_out."
                )


def _either(first: Any, second: Any) -> Any:
    if first == second or second is None:
        return first
    if first is None:
        return second
    both = [*(first if isinstance(first, list) else [first]), *(second if isinstance(second, list) else [second])]
    return [item for place, item in enumerate(both) if item not in both[:place]]


def now() -> str:
    """The time in UTC, to the second, for the record of a choice."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def user_name() -> str:
    """The name of the user's account, for the record of a choice."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an account without a name, as in some containers
        return "unknown"
