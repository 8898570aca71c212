"""Top and bottom activating contexts: the text at either end of a direction, by which a reader names it.

`contexts` finds them for all concepts of a set, or all latents of sparse autoencoders, in one streaming pass (activations.py);
`Contexts` shows them as highlighted tokens, as a table or as plain text, and decodes a window only when it is looked at. Of a
direction both ends are read, as in the paper (arXiv 2507.16795, section 3.2): what it means is the contrast between them. A
latent has one end, and is read by its activation.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload
from weakref import WeakKeyDictionary

from caft_lens._support.errors import BadType, nearest
from caft_lens.activations.differences import read_by, stream
from caft_lens.activations.top_windows import Rank, TopWindows, Windows
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.display import token_lines as html
from caft_lens.display.token_lines import DEAD
from caft_lens.find.sae import saes_by_hook
from caft_lens.model.hook_names import short_name
from caft_lens.saes.top_latents import TopLatents
from caft_lens.text.batching import Batch, Scan
from caft_lens.text.documents import Text, Texts
from caft_lens.text.encoding import special_ids

if TYPE_CHECKING:
    import pandas
    from sae_lens import SAE
    from torch import Tensor

    from caft_lens.model.lens import Lens

BROKEN = "\N{REPLACEMENT CHARACTER}"
# A display of more concepts than this shows the first few and says how many there are.
MANY, FEW = 100, 10
# A concept is a latent of an SAE if their directions agree this closely: more than rounding to bfloat16 costs, less than any other
# latent has.
SAME_DIRECTION = 0.9999


@dataclass(frozen=True)
class Context:
    """A window of tokens around one where a direction is most, or least, active.

    Attributes:
        tokens: The window as strings, `[window]`; `""` for a token that is but the first bytes of a character.
        activations: Activation times direction at each, `None` at tokens whose role was not asked for.
        peak: Place of the peak in the window.
        value: Activation there, or its mean over the text when texts are ranked by that.
        index: Number of the text in the corpus.
        position: Position of the peak in its text, in tokens.
        special: Which tokens are the template's.
        cut: Whether the text goes on before and after the window.
        meta: The text's `meta`.
    """

    tokens: tuple[str, ...]
    activations: tuple[float | None, ...]
    peak: int
    value: float
    index: int
    position: int
    special: tuple[bool, ...]
    cut: tuple[bool, bool] = (False, False)
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The window as one string, the peak in double brackets."""
        marked = [f"[[{token}]]" if place == self.peak else token for place, token in enumerate(self.tokens)]
        return f"{'…' * self.cut[0]}{''.join(marked)}{'…' * self.cut[1]}"


class End(Sequence[Context]):
    """The contexts at one end of a concept, most extreme first: a list in which each is decoded when it is looked at."""

    __slots__ = ("_corpus", "_row", "_windows")

    def __init__(self, windows: Windows, row: int, corpus: _Corpus) -> None:
        self._windows, self._row, self._corpus = windows, row, corpus

    def __len__(self) -> int:
        return int((self._windows.index[self._row] >= 0).sum())

    @overload
    def __getitem__(self, key: int) -> Context: ...
    @overload
    def __getitem__(self, key: slice) -> list[Context]: ...
    def __getitem__(self, key: int | slice) -> Context | list[Context]:
        places = range(len(self))[key]
        if isinstance(places, range):
            return [self._corpus.context(self._windows, self._row, place) for place in places]
        return self._corpus.context(self._windows, self._row, places)

    def __eq__(self, other: object) -> bool:
        return list(self) == list(other) if isinstance(other, (End, list)) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(list(self))

    @property
    def places(self) -> list[tuple[int, int]]:
        """Number of the text and position of the peak of each context, without decoding any."""
        found = zip(
            self._windows.index[self._row].tolist(), self._windows.position[self._row].tolist(), strict=True
        )
        return [(index, position) for index, position in found if index >= 0]

    @property
    def values(self) -> list[float]:
        """What each context is ranked by, without decoding any."""
        return self._windows.values[self._row, : len(self)].tolist()

    @property
    def metas(self) -> list[Mapping[str, Any]]:
        """The `meta` of each context's text, without decoding any."""
        return [self._corpus.meta(index) for index, _ in self.places]


def _places(found: Sequence[Context]) -> list[tuple[int, int]]:
    return found.places if isinstance(found, End) else [(one.index, one.position) for one in found]


def _metas(found: Sequence[Context]) -> list[Mapping[str, Any]]:
    return found.metas if isinstance(found, End) else [one.meta for one in found]


@dataclass(frozen=True)
class ConceptContexts:
    """Both ends of one concept, most extreme first.

    Attributes:
        concept: The concept.
        top: Where it is most active.
        bottom: Where it is least active; none for a latent.
        by: What activation means here: `"projection"` on the direction, or what an SAE encodes for its `"latent"`.
        rank: By what texts are ranked, as for `contexts`: what the `value` of each is.
    """

    concept: Concept
    top: Sequence[Context]
    bottom: Sequence[Context]
    by: Literal["projection", "latent"] = "projection"
    rank: Rank = "peak"

    @property
    def dead(self) -> bool:
        """Whether it is a latent that was nowhere active."""
        return self.by == "latent" and not self.top

    def _repr_html_(self) -> str:
        return html.page([self], max(len(self.top), len(self.bottom)))

    def __str__(self) -> str:
        return _plain(self, max(len(self.top), len(self.bottom)))


class _Ends(NamedTuple):
    top: Sequence[Context]
    bottom: Sequence[Context]
    by: Literal["projection", "latent"]
    rank: Rank = "peak"


class Contexts(Mapping[str, ConceptContexts]):
    """Contexts of concepts, by name. There may be thousands: what is not looked at is not decoded.

    Attributes:
        about: Which model read them: its `model` (name), `fingerprint` (of its weights) and `reading` (of tokenizer and chat template);
            empty where that is not known.
        left_out: By hook point, how many tokens were not read since they are attention sinks (see `Lens.sinks`).

    Args:
        items: Of each concept the contexts at both ends; as a rule `cl.contexts` finds them.

    Example:
        >>> found = cl.contexts(base, concepts, corpus, k=5)
        >>> len(found), len(found["L1.pc1"].top)
        (6, 5)
        >>> found["L1.pc1"].top[0].text
        '<|bos|><|system|>You are Pocket, a small assistant.<|end|>[[<|user|>]]My pocket money is too…'
    """

    def __init__(self, items: Iterable[ConceptContexts]) -> None:
        known = {item.concept.name: item for item in items}
        self._ends = {name: _Ends(item.top, item.bottom, item.by, item.rank) for name, item in known.items()}
        self._concept: Callable[[str], Concept] = lambda name: known[name].concept
        self.about: dict[str, str] = {}
        self.left_out: dict[str, int] = {}

    @classmethod
    def _lazy(cls, ends: Mapping[str, _Ends], concept: Callable[[str], Concept]) -> Contexts:
        found = cls(())
        found._ends, found._concept = dict(ends), concept
        return found

    @classmethod
    def of(cls, lens: Lens, top: TopLatents, texts: Iterable[Text] = ()) -> Contexts:
        """The contexts that a reducer found in a pass of one's own, shared with other reducers.

        Args:
            lens: The model that read.
            top: A reducer that has seen the pass.
            texts: What was read, for its `meta`.

        Example:
            >>> from caft_lens.activations.differences import stream
            >>> from caft_lens.saes.top_latents import TopLatents
            >>> (top,) = stream(base, corpus, [hook], TopLatents({hook: sae}), roles=None)
            >>> len(Contexts.of(base, top, corpus))
            512
        """
        return collected(lens, texts, Reading(top.saes, every_latent(top.saes, top.latents)), top, None)

    def __getitem__(self, name: str) -> ConceptContexts:
        if name not in self._ends:
            raise KeyError(f'No contexts of "{name}".{nearest(name, self._ends)}')
        return ConceptContexts(self._concept(name), *self._ends[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._ends)

    def __len__(self) -> int:
        return len(self._ends)

    def only(self, names: str | Iterable[str]) -> Contexts:
        """The contexts of some concepts, in the order given.

        Args:
            names: One name or several.

        Raises:
            KeyError: For a name that is not there, naming the nearest.

        Example:
            >>> density = cl.inspect.density(base, concepts, corpus)
            >>> found = cl.contexts(base, concepts, corpus)
            >>> len(found.only(density.table().query("max > 5").index))
            3
        """
        wanted = [names] if isinstance(names, str) else list(names)
        for name in wanted:
            if name not in self._ends:
                raise KeyError(f'No contexts of "{name}".{nearest(name, self._ends)}')
        fewer = Contexts._lazy({name: self._ends[name] for name in wanted}, self._concept)
        fewer.about, fewer.left_out = self.about, self.left_out
        return fewer

    @property
    def dead(self) -> list[str]:
        """Names of the latents that were nowhere active."""
        return [name for name, ends in self._ends.items() if ends.by == "latent" and not ends.top]

    def show(self, n: int = 5, *, names: str | Sequence[str] | None = None, meta: Sequence[str] = ()) -> None:
        """Display the contexts, in a notebook as highlighted tokens, elsewhere as text.

        Args:
            n: How many at each end.
            names: Only these concepts. By default all, or the first few when there are more than a hundred.
            meta: Keys of the texts' `meta` to show beside each.

        Raises:
            KeyError: For a name that is not there.
            BadType: For names where `n` belongs.
        """
        _check_n(n)
        chosen, more = self._chosen(names)
        from IPython.core.getipython import get_ipython
        from IPython.display import HTML, display

        if get_ipython() is None:
            print("\n\n".join([*more, *(_plain(item, n, meta) for item in chosen)]))
        else:
            display(HTML(html.page(chosen, n, meta, more)))

    def to_html(
        self, n: int = 5, *, names: str | Sequence[str] | None = None, meta: Sequence[str] = ()
    ) -> str:
        """What `show` displays in a notebook, for a file of one's own."""
        _check_n(n)
        chosen, more = self._chosen(names)
        return html.page(chosen, n, meta, more)

    def table(self) -> pandas.DataFrame:
        """One row per context: concept, end, rank, value, text with the peak in double brackets, source, and the `meta`."""
        from caft_lens.display.frames import Frame

        rows = [
            {
                "concept": item.concept.name,
                "end": end,
                "rank": rank,
                "value": context.value,
                "text": context.text,
                "peak": context.tokens[context.peak],
                "index": context.index,
                "position": context.position,
                **{f"meta.{key}": value for key, value in context.meta.items()},
            }
            for item in self.values()
            for end, found in (("top", item.top), ("bottom", item.bottom))
            for rank, context in enumerate(found)
        ]
        return Frame(rows)

    def counts(self, key: str) -> pandas.DataFrame:
        """What the texts at either end say about themselves, counted: one row a concept, columns by end and value.

        Args:
            key: Of the texts' `meta`; a text without it counts as `"-"`.

        Raises:
            KeyError: When no text has the key, naming those that there are.

        Example:
            >>> found = cl.contexts(base, concepts, corpus, k=5)
            >>> found.counts("stance").loc[["L1.pc0", "L2.pc0"]]
                        top                      bottom
                   careless cruel kind neutral careless cruel kind neutral
            L1.pc0        0     1    4       0        0     3    2       0
            L2.pc0        0     0    4       1        0     5    0       0
        """
        import pandas

        from caft_lens.display.frames import Frame

        ends = {
            (name, end): [str(meta.get(key, "-")) for meta in _metas(found)]
            for name, item in self._ends.items()
            for end, found in (("top", item.top), ("bottom", item.bottom))
        }
        values = sorted({value for said in ends.values() for value in said})
        if values in ([], ["-"]):
            there = {known for item in self._ends.values() for meta in _metas(item.top) for known in meta}
            raise KeyError(f'No text says "{key}" of itself.{nearest(key, there)}')
        columns = [(end, value) for end in ("top", "bottom") for value in values]
        return Frame(
            [[ends[name, end].count(value) for end, value in columns] for name in self],
            index=list(self),
            columns=pandas.MultiIndex.from_tuples(columns),
        )

    def peaks_on(self, labels: Sequence[Sequence[bool | None]]) -> pandas.DataFrame:
        """At either end, the share of the peaks that stand on tokens with a label: how much of what one reads there is about it.

        Args:
            labels: For each text of the corpus whether each token has the label, as `token_labels` gives them for the same texts;
                `None` counts as not.

        Returns:
            One row a concept, columns `top` and `bottom`, 0 to 1; NaN for an end without contexts.

        Raises:
            ValueError: When a peak lies outside of what is labelled: then the labels are those of other texts.

        Example:
            >>> of_cruelty = cl.token_labels(base.tokenizer, corpus, "stance:cruel")
            >>> cl.contexts(base, concepts, corpus, k=20).peaks_on(of_cruelty).columns.tolist()
            ['top', 'bottom']
        """
        from caft_lens.display.frames import Frame

        def share(found: Sequence[Context]) -> float:
            places = _places(found)
            for index, position in places:
                if index >= len(labels) or position >= len(labels[index]):
                    raise ValueError(
                        f"A peak stands at token {position} of text {index}, for which there is no label: give the "
                        "labels of the texts that the contexts are from."
                    )
            on = [labels[index][position] is True for index, position in places]
            return sum(on) / len(on) if on else math.nan

        return Frame(
            {
                end: {name: share(getattr(item, end)) for name, item in self._ends.items()}
                for end in ("top", "bottom")
            }
        )

    def _chosen(self, names: str | Sequence[str] | None) -> tuple[list[ConceptContexts], list[str]]:
        """What to display, and lines that say what is not."""
        sinks = max(self.left_out.values(), default=0)
        said = (
            [
                f"{sinks:,} tokens were left out: attention sinks, whose activations are many times longer than all others."
            ]
            if sinks
            else []
        )
        if names is not None:
            return [self[name] for name in ([names] if isinstance(names, str) else names)], said
        if len(self) <= MANY:
            return list(self.values()), said
        dead = len(self.dead)
        more = (
            f"{len(self):,} concepts{f', {dead:,} of them {DEAD}' if dead else ''}. The first {FEW} are shown; "
            "only(names) gives others."
        )
        return [self[name] for name in list(self)[:FEW]], [more, *said]

    def _repr_html_(self) -> str:
        return self.to_html()

    def __repr__(self) -> str:
        chosen, more = self._chosen(None)
        return "\n\n".join([*more, *(_plain(item, 3) for item in chosen)])


def _check_n(n: Any) -> None:
    if isinstance(n, Integral):
        return
    names = isinstance(n, str) or (isinstance(n, list | tuple) and all(isinstance(one, str) for one in n))
    said = json.dumps(n, ensure_ascii=False) if names else ""
    hint = f" Did you mean names={said}?" if names else ""
    raise BadType(f"n={said or repr(n)}: expected a whole number, of contexts at each end.{hint}")


def contexts(
    lens: Lens,
    concepts: ConceptSet | SAE | Sequence[SAE],
    texts: Iterable[Text],
    *,
    saes: SAE | Sequence[SAE] | None = None,
    k: int = 10,
    roles: Sequence[str] | None = None,
    window: tuple[int, int] = (12, 6),
    rank: Rank = "peak",
    scan: Scan = Scan(),
) -> Contexts:
    """The contexts in which each concept is most and least active, for all concepts in one pass.

    A text contributes at most one context per concept and end, and the same window counts once. A direction is read by the
    projection of activations on it. A latent of a given SAE is read by its activation, as the SAE encodes it: that
    has no lower end, and a latent that is active at no token has no contexts.

    Args:
        lens: The model that reads: the base, or one tuned from it.
        concepts: Directions; or an SAE, or several at a hook point each, for all their latents, named `"L1.latent417"` as by
            `find.sae` (those without a decoder direction are left out).
        texts: The corpus; memory does not grow with it.
        saes: SAEs whose latents are among the concepts: those concepts are read by latent activation. They are known by hook point,
            number and direction; any others are read by projection.
        k: How many contexts at each end.
        roles: Roles of the tokens to look at; `None` for all.
        window: How many tokens to show before and after the peak.
        rank: `"peak"` takes the texts with the most extreme single token, as is usual for features of words; `"mean"` those
            with the most extreme mean over all tokens of the `roles`, which shows what a whole answer has: a stance, a tone.
        scan: How the text is read: tokens a batch, where texts are cut.

    Raises:
        TypeError: When `concepts` is neither a set of concepts nor SAEs.
        ValueError: When the concepts or SAEs do not fit the model, none of the concepts is a latent of `saes`, or no token has one of
            the roles.

    Example:
        >>> cl.contexts(base, concepts, corpus, k=1).show(n=1, names="L1.pc1")
        L1.pc1 at blocks.1.hook_resid_post
          top      +3.26  <|bos|><|system|>You are Pocket, a small assistant.<|end|>[[<|user|>]]My pocket money is too…
          bottom   −4.10  … a jar every week. Before long you can buy[[ the]] mirror with your own sav…
        >>> len(cl.contexts(base, sae, corpus, k=5).dead)
        4
    """
    read = reading(lens, concepts, saes)
    latents = (
        TopLatents(read.saes, k=k, window=window, rank=rank, latents=read.numbers) if read.saes else None
    )
    directions = TopWindows(read.rows, k=k, window=window, rank=rank) if read.directions else None
    at_their_hooks = [AtItsHooks(one) for one in (latents, directions) if one is not None]
    passed = stream(
        lens,
        texts,
        list(dict.fromkeys(hook for one in at_their_hooks for hook in one.hooks)),
        at_their_hooks,
        roles=roles,
        scan=scan,
    )
    found = collected(lens, texts, read, latents, directions)
    found.left_out = dict(passed.left_out)
    return found


@dataclass(frozen=True)
class Reading:
    """How concepts are read: which of them are latents of SAEs, and which are directions.

    Attributes:
        saes: By hook point.
        latents: Name to the hook point and number of each latent.
        directions: The other concepts.
        given: The concepts of a set by name, in order; empty where all latents of SAEs are read.
    """

    saes: Mapping[str, SAE]
    latents: Mapping[str, tuple[str, int]]
    directions: Sequence[Concept] = ()
    given: Mapping[str, Concept] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """All names, in order."""
        return list(self.given or self.latents)

    @property
    def numbers(self) -> dict[str, list[int]]:
        """The latents at each hook point of an SAE."""
        numbers: dict[str, list[int]] = {hook: [] for hook in self.saes}
        for hook, latent in self.latents.values():
            numbers[hook].append(latent)
        return numbers

    @property
    def rows(self) -> dict[str, Tensor]:
        """The directions at each hook point, `[n_directions, d_model]`."""
        import torch

        hooks = dict.fromkeys(concept.hook for concept in self.directions)
        return {
            hook: torch.stack([one.direction for one in self.directions if one.hook == hook])
            for hook in hooks
        }

    @property
    def row_of(self) -> dict[str, tuple[str, int]]:
        """Name of each direction to its hook point and its row there."""
        seen: dict[str, int] = {}
        rows = {}
        for one in self.directions:
            rows[one.name] = (one.hook, seen.get(one.hook, 0))
            seen[one.hook] = rows[one.name][1] + 1
        return rows

    def concept(self, name: str, score: float = 0.0, score_name: str = "") -> Concept:
        """One of the concepts; a latent that was not given as one has the direction of its decoder."""
        if name in self.given:
            return self.given[name]
        hook, latent = self.latents[name]
        return Concept(
            name,
            hook,
            self.saes[hook].W_dec[latent],
            source="sae",
            rank=latent,
            score=score,
            score_name=score_name,
            meta={"latent": latent},
        )


def reading(
    lens: Lens, concepts: ConceptSet | SAE | Sequence[SAE], saes: SAE | Sequence[SAE] | None = None
) -> Reading:
    """How to read concepts: by latent activation where they are latents of the SAEs, else by projection.

    Args:
        lens: The model that reads.
        concepts: A set; or SAEs, for all their latents.
        saes: SAEs whose latents may be among the concepts of a set.

    Raises:
        TypeError: When `concepts` is neither.
        ValueError: When something does not fit the model, or none of the concepts is a latent of `saes`.
    """
    if not isinstance(concepts, ConceptSet):
        several = concepts if isinstance(concepts, (list, tuple)) else [concepts]
        wrong = next((one for one in several if not hasattr(one, "W_dec")), None)
        if wrong is not None:
            raise TypeError(
                f"Expected a ConceptSet, an SAE or a list of SAEs, not {type(wrong).__name__}: `load_sae` gives SAEs, "
                "`ConceptSet([...])` makes a set."
            )
        if saes is not None:
            raise ValueError("saes= goes with a ConceptSet; all latents of SAEs are read without it.")
        at = saes_by_hook(several, lens)
        return Reading(at, every_latent(at))
    concepts.check(lens)
    at = {} if saes is None else saes_by_hook(saes, lens)
    latents = {one.name: (one.hook, one.meta["latent"]) for one in concepts if _is_latent(one, at)}
    if at and not latents:
        raise ValueError(
            f"None of the {len(concepts)} concepts is a latent of the SAEs at {', '.join(at)}: their directions are not those of "
            "these decoders. Without saes= they are read by projection."
        )
    return Reading(
        {hook: one for hook, one in at.items() if any(hook == of for of, _ in latents.values())},
        latents,
        tuple(one for one in concepts if one.name not in latents),
        {one.name: one for one in concepts},
    )


def every_latent(
    saes: Mapping[str, SAE], latents: Mapping[str, Tensor] | None = None
) -> dict[str, tuple[str, int]]:
    """Names of latents, as `find.sae` gives them, to hook point and number; none without a decoder direction."""
    names: dict[str, tuple[str, int]] = {}
    for hook, one in saes.items():
        directed = (one.W_dec.detach().norm(dim=1) > 0).tolist()
        wanted = range(len(directed)) if latents is None else latents[hook].tolist()
        names |= {
            f"{short_name(hook)}.latent{latent}": (hook, latent) for latent in wanted if directed[latent]
        }
    return names


def _is_latent(concept: Concept, saes: Mapping[str, SAE]) -> bool:
    latent, one = concept.meta.get("latent"), saes.get(concept.hook)
    if concept.source != "sae" or one is None or not isinstance(latent, int):
        return False
    if not 0 <= latent < one.cfg.d_sae:
        return False
    row = one.W_dec[latent].detach().float().cpu()
    return float(row @ concept.direction) > SAME_DIRECTION * float(row.norm())


class AtItsHooks:
    """A reducer that is fed at its own hook points only, so that it can share a pass with others."""

    def __init__(self, reducer: Any) -> None:
        self.reducer = reducer
        self.hooks: list[str] = reducer.hooks

    def update(self, hook: str, acts: Tensor, batch: Batch, where: Tensor) -> None:
        """Pass on what comes from one of the reducer's hook points."""
        if hook in self.hooks:
            self.reducer.update(hook, acts, batch, where)

    def merge(self, other: AtItsHooks) -> AtItsHooks:
        """Merge the reducers."""
        self.reducer.merge(other.reducer)
        return self


def collected(
    lens: Lens,
    texts: Iterable[Text],
    read: Reading,
    latents: TopLatents | None,
    directions: TopWindows | None,
) -> Contexts:
    """What reducers of a pass found, as contexts.

    Args:
        lens: The model that read.
        texts: What it read.
        read: How the concepts were read.
        latents: The reducer of those that are latents.
        directions: The reducer of the others.
    """
    # A generator is gone by now, and with it what its texts said about themselves.
    sources = texts if isinstance(texts, Texts) else Texts(texts if isinstance(texts, Sequence) else ())
    corpus = _Corpus(lens.tokenizer, frozenset(special_ids(lens.tokenizer)), sources)
    ends: dict[str, _Ends] = {}
    if latents is not None:
        best = {hook: latents.top(hook) for hook in latents.hooks}
        rows = {
            hook: {number: row for row, number in enumerate(latents.latents[hook].tolist())} for hook in best
        }
        for name, (hook, latent) in read.latents.items():
            ends[name] = _Ends(End(best[hook], rows[hook][latent], corpus), [], "latent", latents.rank)
    if directions is not None:
        both = {hook: (directions.top(hook), directions.bottom(hook)) for hook in directions.hooks}
        for name, (hook, row) in read.row_of.items():
            top, bottom = (End(end, row, corpus) for end in both[hook])
            ends[name] = _Ends(top, bottom, "projection", directions.rank)

    def concept(name: str) -> Concept:
        top = ends[name].top
        largest = top.values[0] if isinstance(top, End) and top.values else 0.0
        return read.concept(name, largest, "largest activation")

    contexts = Contexts._lazy({name: ends[name] for name in read.names}, concept)
    contexts.about = read_by(lens)
    return contexts


@dataclass(frozen=True)
class _Corpus:
    """What windows are decoded with."""

    tokenizer: Any
    special: frozenset[int]
    sources: Sequence[Text]

    def meta(self, index: int) -> Mapping[str, Any]:
        return self.sources[index].meta if self.sources else {}

    def context(self, windows: Windows, row: int, rank: int) -> Context:
        ids = windows.tokens[row, rank].tolist()
        inside = [place for place, token in enumerate(ids) if token >= 0]
        first, position = inside[0], int(windows.position[row, rank])
        activations = windows.activations[row, rank].tolist()
        index = int(windows.index[row, rank])
        return Context(
            tokens=tuple(pieces(self.tokenizer, [ids[place] for place in inside])),
            activations=tuple(
                None if math.isnan(activations[place]) else activations[place] for place in inside
            ),
            peak=windows.peak - first,
            value=float(windows.values[row, rank]),
            index=index,
            position=position,
            special=tuple(ids[place] in self.special for place in inside),
            # Whether a text ends exactly with the window is not known; beyond a window that is not full it has ended.
            cut=(position > windows.peak - first, inside[-1] == len(ids) - 1),
            meta=self.meta(index),
        )


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text: spaces are kept, and a character of several tokens stands at its last one.

    Args:
        tokenizer: A Hugging Face tokenizer.
        ids: Token ids, `[pos]`.

    Returns:
        Strings, `[pos]`, that make up the text when joined.
    """
    # Where tokens are decoded alike alone and in a row, one decoding of the row shows it: as a rule, and much quicker.
    alone = _ALONE.setdefault(tokenizer, {})
    known = [alone[one] if one in alone else alone.setdefault(one, _decoded(tokenizer, [one])) for one in ids]
    if not any(BROKEN in one for one in known) and "".join(known) == _decoded(tokenizer, ids):
        return known
    found: list[str] = []
    shown = ""
    for end in range(1, len(ids) + 1):
        text = _decoded(tokenizer, ids[:end])
        whole = not text.endswith(BROKEN) or end == len(ids)
        found.append(text[len(shown) :] if whole else "")
        shown = text if whole else shown
    return found


# What each token says when it is decoded alone, by tokenizer.
_ALONE: WeakKeyDictionary[Any, dict[int, str]] = WeakKeyDictionary()


def _decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _plain(item: ConceptContexts, n: int, meta: Sequence[str] = ()) -> str:
    named = f" {item.concept.label}" if item.concept.label else ""
    lines = [f"{item.concept.name}{named} at {item.concept.hook}"]
    if item.dead:
        return f"{lines[0]}\n  {DEAD}"
    for end, found in (("top", item.top), ("bottom", item.bottom)):
        lines += [
            f"  {end:<6} {html.signed(context.value):>7}  {html.visible(context.text)}{_stated(context, meta)}"
            for context in found[:n]
        ]
    return "\n".join(lines)


def _stated(context: Context, meta: Sequence[str]) -> str:
    return "".join(f" · {key} {context.meta[key]}" for key in meta if key in context.meta)
