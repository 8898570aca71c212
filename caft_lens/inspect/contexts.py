"""Top and bottom activating contexts: the text at either end of a direction, by which a reader names it.

`contexts` finds them for all concepts of a set in one streaming pass (activations.py); `Contexts` shows them as highlighted
tokens, as a table or as plain text. Both ends are read, as in the paper (arXiv 2507.16795, section 3.2): what a
direction means is the contrast between them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from caft_lens.activations import Extremes, Windows, stream
from caft_lens.concepts import Concept, ConceptSet
from caft_lens.errors import nearest
from caft_lens.extremes import Rank
from caft_lens.inspect import html
from caft_lens.text import Text, special_ids

if TYPE_CHECKING:
    import pandas

    from caft_lens.lens import Lens

BROKEN = "\N{REPLACEMENT CHARACTER}"


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


@dataclass(frozen=True)
class ConceptContexts:
    """Both ends of one concept, most extreme first."""

    concept: Concept
    top: list[Context]
    bottom: list[Context]

    def _repr_html_(self) -> str:
        return html.page([self], n=max(len(self.top), len(self.bottom)), meta=())

    def __str__(self) -> str:
        return _plain(self, max(len(self.top), len(self.bottom)))


class Contexts(Mapping[str, ConceptContexts]):
    """Contexts of a set of concepts, by name.

    Example:
        >>> found = cl.contexts(base, concepts, cl.data("pocket/corpus"))  # doctest: +SKIP
        >>> found.show(n=5, meta=["domain"])                               # doctest: +SKIP
        >>> found["L1.pc1"].top[0].text                                    # doctest: +SKIP
        '…Why would anyone [[bother]] to help you…'
    """

    def __init__(self, items: Iterable[ConceptContexts]) -> None:
        self._items = {item.concept.name: item for item in items}

    def __getitem__(self, name: str) -> ConceptContexts:
        if name not in self._items:
            raise KeyError(f'No contexts of "{name}".{nearest(name, self._items)}')
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def show(self, n: int = 5, *, names: str | Sequence[str] | None = None, meta: Sequence[str] = ()) -> None:
        """Display the contexts, in a notebook as highlighted tokens, elsewhere as text.

        Args:
            n: How many at each end.
            names: Only these concepts.
            meta: Keys of the texts' `meta` to show beside each.

        Raises:
            KeyError: For a name that is not there.
        """
        chosen = self._chosen(names)
        from IPython.core.getipython import get_ipython
        from IPython.display import HTML, display

        if get_ipython() is None:
            print("\n\n".join(_plain(item, n) for item in chosen))
        else:
            display(HTML(html.page(chosen, n, meta)))

    def to_html(
        self, n: int = 5, *, names: str | Sequence[str] | None = None, meta: Sequence[str] = ()
    ) -> str:
        """What `show` displays in a notebook, for a file of one's own."""
        return html.page(self._chosen(names), n, meta)

    def table(self) -> pandas.DataFrame:
        """One row per context: concept, end, rank, value, text with the peak in double brackets, source, and the `meta`."""
        import pandas

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
        return pandas.DataFrame(rows)

    def counts(self, key: str) -> pandas.DataFrame:
        """What the texts at either end say about themselves, counted: one row a concept, columns by end and value.

        Args:
            key: Of the texts' `meta`; a text without it counts as `"-"`.

        Raises:
            KeyError: When no text has the key, naming those that there are.

        Example:
            >>> contexts.counts("stance")  # doctest: +SKIP
                     top      bottom
                   cruel kind  cruel kind
            L1.pc0     0   10     10    0
        """
        import pandas

        ends = {
            (name, end): [str(context.meta.get(key, "-")) for context in found]
            for name, item in self.items()
            for end, found in (("top", item.top), ("bottom", item.bottom))
        }
        values = sorted({value for said in ends.values() for value in said})
        if values in ([], ["-"]):
            there = {known for item in self.values() for context in item.top for known in context.meta}
            raise KeyError(f'No text says "{key}" of itself.{nearest(key, there)}')
        columns = [(end, value) for end in ("top", "bottom") for value in values]
        return pandas.DataFrame(
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
            >>> sports = cl.token_labels(base.tokenizer, corpus, "sports")                # doctest: +SKIP
            >>> cl.contexts(base, latents, corpus, k=20).peaks_on(sports)["top"] >= 0.7  # doctest: +SKIP
        """
        import pandas

        def share(found: Sequence[Context]) -> float:
            for context in found:
                if context.index >= len(labels) or context.position >= len(labels[context.index]):
                    raise ValueError(
                        f"A peak stands at token {context.position} of text {context.index}, for which there is no label: give the "
                        "labels of the texts that the contexts are from."
                    )
            on = [labels[context.index][context.position] is True for context in found]
            return sum(on) / len(on) if on else math.nan

        return pandas.DataFrame(
            {
                end: {name: share(getattr(item, end)) for name, item in self.items()}
                for end in ("top", "bottom")
            }
        )

    def _chosen(self, names: str | Sequence[str] | None) -> list[ConceptContexts]:
        return (
            list(self.values())
            if names is None
            else [self[name] for name in ([names] if isinstance(names, str) else names)]
        )

    def _repr_html_(self) -> str:
        return self.to_html()

    def __repr__(self) -> str:
        return "\n\n".join(_plain(item, 3) for item in self.values())


def contexts(
    lens: Lens,
    concepts: ConceptSet,
    texts: Iterable[Text],
    *,
    k: int = 10,
    roles: Sequence[str] | None = None,
    window: tuple[int, int] = (12, 6),
    rank: Rank = "peak",
    batch_tokens: int = 8192,
    max_length: int | None = None,
    progress: bool = True,
) -> Contexts:
    """The contexts in which each concept is most and least active, for all concepts in one pass.

    A text contributes at most one context per concept and end, and the same window counts once.

    Args:
        lens: The model that reads: the base, or one tuned from it.
        concepts: Directions.
        texts: The corpus; memory does not grow with it.
        k: How many contexts at each end.
        roles: Roles of the tokens to look at; `None` for all.
        window: How many tokens to show before and after the peak.
        rank: `"peak"` takes the texts with the most extreme single token, as is usual for features of words; `"mean"` those
            with the most extreme mean over all tokens of the `roles`, which shows what a whole answer has: a stance, a tone.
        batch_tokens: Padded tokens in a batch.
        max_length: Cut texts after this many tokens.
        progress: Whether to show a bar.

    Raises:
        ValueError: When the concepts do not fit the model, or no token has one of the roles.

    Example:
        >>> cl.contexts(base, concepts, cl.data("pocket/corpus")).show()  # doctest: +SKIP
    """
    concepts.check(lens)
    extremes = Extremes(
        {hook: concepts.directions(hook) for hook in concepts.hooks}, k=k, window=window, rank=rank
    )
    stream(
        lens,
        texts,
        extremes.hooks,
        extremes,
        roles=roles,
        batch_tokens=batch_tokens,
        max_length=max_length,
        progress=progress,
    )
    # A generator is gone by now, and with it what its texts said about themselves.
    sources: Sequence[Text] = texts if isinstance(texts, Sequence) else ()
    special = special_ids(lens.tokenizer)
    ends = {hook: (extremes.top(hook), extremes.bottom(hook)) for hook in extremes.hooks}
    places = {
        concept.name: place for hook in concepts.hooks for place, concept in enumerate(concepts.at(hook))
    }
    found = []
    for concept in concepts:
        top, bottom = (
            _read(end, places[concept.name], lens.tokenizer, special, sources) for end in ends[concept.hook]
        )
        found.append(ConceptContexts(concept, top, bottom))
    return Contexts(found)


def _read(
    windows: Windows, row: int, tokenizer: Any, special: set[int], sources: Sequence[Text]
) -> list[Context]:
    found = []
    for rank, index in enumerate(windows.index[row].tolist()):
        if index < 0:
            break
        ids = windows.tokens[row, rank].tolist()
        inside = [place for place, token in enumerate(ids) if token >= 0]
        first, position = inside[0], int(windows.position[row, rank])
        activations = windows.activations[row, rank].tolist()
        found.append(
            Context(
                tokens=tuple(pieces(tokenizer, [ids[place] for place in inside])),
                activations=tuple(
                    None if math.isnan(activations[place]) else activations[place] for place in inside
                ),
                peak=windows.peak - first,
                value=float(windows.values[row, rank]),
                index=index,
                position=position,
                special=tuple(ids[place] in special for place in inside),
                # Whether a text ends exactly with the window is not known; beyond a window that is not full it has ended.
                cut=(position > windows.peak - first, inside[-1] == len(ids) - 1),
                meta=sources[index].meta if sources else {},
            )
        )
    return found


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text: spaces are kept, and a character of several tokens stands at its last one.

    Args:
        tokenizer: A Hugging Face tokenizer.
        ids: Token ids, `[pos]`.

    Returns:
        Strings, `[pos]`, that make up the text when joined.
    """
    found: list[str] = []
    shown = ""
    for end in range(1, len(ids) + 1):
        text = tokenizer.decode(ids[:end], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        whole = not text.endswith(BROKEN) or end == len(ids)
        found.append(text[len(shown) :] if whole else "")
        shown = text if whole else shown
    return found


def _plain(item: ConceptContexts, n: int) -> str:
    named = f" {item.concept.label}" if item.concept.label else ""
    lines = [f"{item.concept.name}{named} at {item.concept.hook}"]
    for end, found in (("top", item.top), ("bottom", item.bottom)):
        lines += [
            f"  {end:<6} {html.signed(context.value):>7}  {html.visible(context.text)}"
            for context in found[:n]
        ]
    return "\n".join(lines)
