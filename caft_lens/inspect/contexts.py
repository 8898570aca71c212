"""Top and bottom activating contexts: the text at either end of a direction, by which a reader names it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import pandas

from caft_lens._support.errors import BadData, BadType, UnknownName, nearest
from caft_lens._support.keywords import takes_values
from caft_lens.activations.differences import read_by
from caft_lens.activations.top_windows import Rank, TopWindows
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.display import token_lines
from caft_lens.display.frames import Frame
from caft_lens.inspect.context_windows import ConceptContexts, Context, Corpus, End, metas_of, places_of
from caft_lens.inspect.reading import Reading, every_latent, read_once, reading
from caft_lens.model.lens import Lens
from caft_lens.saes.top_latents import TopLatents
from caft_lens.text.batching import Scan
from caft_lens.text.documents import Text, Texts
from caft_lens.text.encoding import special_ids

if TYPE_CHECKING:
    from sae_lens import SAE

# A display of more concepts than this shows the first few and says how many there are.
MANY, FEW = 100, 10


class _Ends(NamedTuple):
    top: Sequence[Context]
    bottom: Sequence[Context]
    by: Literal["projection", "latent"]
    rank: Rank = "peak"


class Contexts(Mapping[str, ConceptContexts]):
    """Contexts of concepts, by name. There may be thousands: what is not looked at is not decoded.

    Attributes:
        about: Which model read them: its `model` (name), `fingerprint` (of its weights) and `reading` (of tokenizer and
            chat template); empty where that is not known.
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
        ends = self._known(name)
        return ConceptContexts(self._concept(name), *ends)

    def _known(self, name: str) -> _Ends:
        if name not in self._ends:
            raise UnknownName(f'No contexts of "{name}".{nearest(name, self._ends)}')
        return self._ends[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._ends)

    def __len__(self) -> int:
        return len(self._ends)

    def only(self, names: str | Iterable[str]) -> Contexts:
        """The contexts of some concepts, in the order given.

        Args:
            names: One name or several.

        Raises:
            UnknownName: For a name that is not there, naming the nearest.

        Example:
            >>> density = cl.inspect.density(base, concepts, corpus)
            >>> found = cl.contexts(base, concepts, corpus)
            >>> len(found.only(density.table().query("max > 5").index))
            3
        """
        wanted = [names] if isinstance(names, str) else list(names)
        fewer = Contexts._lazy({name: self._known(name) for name in wanted}, self._concept)
        fewer.about, fewer.left_out = self.about, self.left_out
        return fewer

    def shown_as(self, concepts: Mapping[str, Concept]) -> Contexts:
        """The same contexts under other concepts, such as those that a blind reader sees.

        Args:
            concepts: Name of a concept here to the one that is shown for it; others are left out.

        Example:
            >>> import dataclasses
            >>> found = cl.contexts(base, concepts, corpus)
            >>> list(found.shown_as({"L1.pc1": dataclasses.replace(concepts["L1.pc1"], name="concept 1")}))
            ['concept 1']
        """
        shown = {concept.name: concept for concept in concepts.values()}
        ends = {concept.name: self._known(name) for name, concept in concepts.items()}
        other = Contexts._lazy(ends, shown.__getitem__)
        other.about, other.left_out = self.about, self.left_out
        return other

    @property
    def dead(self) -> list[str]:
        """Names of the latents that were nowhere active."""
        return [name for name, ends in self._ends.items() if ends.by == "latent" and not ends.top]

    def show(self, n: int = 5, *, names: str | Sequence[str] | None = None, meta: Sequence[str] = ()) -> None:
        """Display the contexts, in a notebook as highlighted tokens, elsewhere as text.

        Args:
            n: How many at each end.
            names: Only these concepts. By default all, or the first few when there are more than a hundred.
            meta: Keys of the texts' `meta` to show beside each; a text that lacks one shows none.

        Raises:
            UnknownName: For a name that is not there, or a key that no text has, naming the nearest.
            BadType: For names where `n` belongs.
        """
        _check_n(n)
        chosen, more = self._chosen(names)
        meta = self._known_keys(meta, chosen)
        from IPython.core.getipython import get_ipython
        from IPython.display import HTML, display

        if get_ipython() is None:
            print("\n\n".join([*more, *(token_lines.plain(item.shown(n, meta)) for item in chosen)]))
        else:
            display(HTML(self.to_html(n, names=names, meta=meta)))

    def to_html(self, n: int = 5, *, names: str | Sequence[str] | None = None, meta: Sequence[str] = ()) -> str:
        """What `show` displays in a notebook, for a file of one's own."""
        _check_n(n)
        chosen, more = self._chosen(names)
        meta = self._known_keys(meta, chosen)
        return token_lines.page([item.shown(n, meta) for item in chosen], more)

    def table(self) -> pandas.DataFrame:
        """One row per context: concept, end, rank, value, text with its peak in double brackets, source, `meta`."""
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
            UnknownName: When no text has the key, naming those that there are.

        Example:
            >>> found = cl.contexts(base, concepts, corpus, k=5)
            >>> found.counts("stance").loc[["L1.pc0", "L2.pc0"]]
                        top                      bottom
                   careless cruel kind neutral careless cruel kind neutral
            L1.pc0        0     1    4       0        0     3    2       0
            L2.pc0        0     0    4       1        0     5    0       0
        """
        ends = {
            (name, end): [str(meta.get(key, "-")) for meta in metas_of(found)]
            for name, item in self._ends.items()
            for end, found in (("top", item.top), ("bottom", item.bottom))
        }
        values = sorted({value for said in ends.values() for value in said})
        if values in ([], ["-"]):
            there = {known for item in self._ends.values() for meta in metas_of(item.top) for known in meta}
            raise UnknownName(f'No text says "{key}" of itself.{nearest(key, there)}')
        columns = [(end, value) for end in ("top", "bottom") for value in values]
        return Frame(
            [[ends[name, end].count(value) for end, value in columns] for name in self],
            index=list(self),
            columns=pandas.MultiIndex.from_tuples(columns),
        )

    def peaks_on(self, labels: Sequence[Sequence[bool | None]]) -> pandas.DataFrame:
        """At either end, the share of the peaks that stand on tokens with a label.

        Args:
            labels: For each text whether each token has the label, as `token_labels` gives it; `None` counts as not.

        Returns:
            One row a concept, columns `top` and `bottom`, 0 to 1; NaN for an end without contexts.

        Raises:
            ValueError: When a peak lies outside of what is labelled: then the labels are those of other texts.

        Example:
            >>> of_cruelty = cl.token_labels(base.tokenizer, corpus, "stance:cruel")
            >>> cl.contexts(base, concepts, corpus, k=20).peaks_on(of_cruelty).columns.tolist()
            ['top', 'bottom']
        """

        def share(found: Sequence[Context]) -> float:
            places = places_of(found)
            for index, position in places:
                if index >= len(labels) or position >= len(labels[index]):
                    raise BadData(
                        f"A peak stands at token {position} of text {index}, for which there is no label: give the "
                        "labels of the texts that the contexts are from."
                    )
            on = [labels[index][position] is True for index, position in places]
            return sum(on) / len(on) if on else math.nan

        ends = ("top", "bottom")
        return Frame({end: {name: share(getattr(item, end)) for name, item in self._ends.items()} for end in ends})

    def _known_keys(self, meta: str | Sequence[str], chosen: Sequence[ConceptContexts]) -> list[str]:
        """The keys to show, each of which some text has."""
        wanted = [meta] if isinstance(meta, str) else list(meta)
        known: set[str] = set()
        left = set(wanted)
        ends = (end for item in chosen for end in (item.top, item.bottom) if len(end))
        for end in ends if wanted else ():
            for there in metas_of(end):
                known |= there.keys()
            if not (left := left - known):
                return wanted
        for key in wanted:
            if key in left and any(len(end) for item in chosen for end in (item.top, item.bottom)):
                raise UnknownName(f'No text here says "{key}" of itself (meta=).{nearest(key, known)}')
        return wanted

    def _chosen(self, names: str | Sequence[str] | None) -> tuple[list[ConceptContexts], list[str]]:
        """What to display, and lines that say what is not."""
        sinks = max(self.left_out.values(), default=0)
        why = "attention sinks, whose activations are many times longer than all others."
        said = [f"{sinks:,} tokens were left out: {why}"] if sinks else []
        if names is not None:
            return [self[name] for name in ([names] if isinstance(names, str) else names)], said
        if len(self) <= MANY:
            return list(self.values()), said
        dead = len(self.dead)
        more = (
            f"{len(self):,} concepts{f', {dead:,} of them {token_lines.DEAD}' if dead else ''}. The first {FEW} are "
            f"shown; only(names) gives others."
        )
        return [self[name] for name in list(self)[:FEW]], [more, *said]

    def _repr_html_(self) -> str:
        return self.to_html()

    def __repr__(self) -> str:
        chosen, more = self._chosen(None)
        return "\n\n".join([*more, *(token_lines.plain(item.shown(3)) for item in chosen)])


def _check_n(n: Any) -> None:
    if isinstance(n, Integral):
        return
    names = isinstance(n, str) or (isinstance(n, list | tuple) and all(isinstance(one, str) for one in n))
    said = json.dumps(n, ensure_ascii=False) if names else ""
    hint = f" Did you mean names={said}?" if names else ""
    raise BadType(f"n={said or repr(n)}: expected a whole number, of contexts at each end.{hint}")


@takes_values
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

    A text contributes at most one context per concept and end, and the same window counts once. A direction is read by
    the projection of activations on it. A latent of a given SAE is read by its activation, as the SAE encodes it: that
    has no lower end, and a latent that is active at no token has no contexts.

    Args:
        lens: The model that reads: the base, or one tuned from it.
        concepts: Directions; or an SAE, or several at a hook point each, for all their latents, named `"L1.latent417"`
            as by `find.sae` (those without a decoder direction are left out).
        texts: The corpus; memory does not grow with it.
        saes: SAEs whose latents are among the concepts: those concepts are read by latent activation. They are known by
            hook point, number and direction; any others are read by projection.
        k: How many contexts at each end.
        roles: Roles of the tokens to look at; `None` for all.
        window: How many tokens to show before and after the peak.
        rank: `"peak"` takes the texts with the most extreme single token, as is usual for features of words; `"mean"`
            those with the most extreme mean over the tokens of `roles`: what a whole answer has, a stance, a tone.
        scan: How the text is read: tokens a batch, where texts are cut.

    Raises:
        BadType: When `concepts` is neither a set of concepts nor SAEs.
        ValueError: When concepts or SAEs do not fit the model, no concept is a latent of `saes`, or no token counts.

    Example:
        >>> cl.contexts(base, concepts, corpus, k=1).show(n=1, names="L1.pc1")
        L1.pc1 at blocks.1.hook_resid_post
          top      +3.26  <|bos|><|system|>You are Pocket, a small assistant.<|end|>[[<|user|>]]My pocket money is too…
          bottom   −4.10  … a jar every week. Before long you can buy[[ the]] mirror with your own sav…
        >>> len(cl.contexts(base, sae, corpus, k=5).dead)
        4
    """
    read = reading(lens, concepts, saes)
    latents = TopLatents(read.saes, k=k, window=window, rank=rank, latents=read.numbers) if read.saes else None
    directions = TopWindows(read.rows, k=k, window=window, rank=rank) if read.directions else None
    passed = read_once(lens, texts, [one for one in (latents, directions) if one is not None], roles, scan)
    found = collected(lens, texts, read, latents, directions)
    found.left_out = dict(passed.left_out)
    return found


def collected(
    lens: Lens, texts: Iterable[Text], read: Reading, latents: TopLatents | None, directions: TopWindows | None
) -> Contexts:
    """What reducers of a pass found, of the concepts that are latents and of the others, as contexts."""
    # A generator is gone by now, and with it what its texts said about themselves.
    sources = texts if isinstance(texts, Texts) else Texts(texts if isinstance(texts, Sequence) else ())
    corpus = Corpus(lens.tokenizer, frozenset(special_ids(lens.tokenizer)), sources)
    ends: dict[str, _Ends] = {}
    if latents is not None:
        best = {hook: latents.top(hook) for hook in latents.hooks}
        rows = {hook: {number: row for row, number in enumerate(latents.latents[hook].tolist())} for hook in best}
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
