"""Windows of text at the ends of a concept: each is decoded when it is looked at."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, overload

from caft_lens.activations.top_windows import Rank, Windows
from caft_lens.concepts.concept_set import Concept
from caft_lens.display import token_lines
from caft_lens.text.documents import Text
from caft_lens.text.token_strings import pieces

NUMBERS: dict[Rank, str] = {
    "peak": "The number is the activation at the underlined token.",
    "mean": "The number is the mean activation over the text; underlined is its most extreme token.",
}
"""What a view says of the number beside a context, by what texts are ranked by."""


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
        return token_lines.marked(self.tokens, self.peak, self.cut)

    def line(self, meta: Sequence[str] = ()) -> token_lines.Line:
        """What is shown of it.

        Args:
            meta: Keys of the text's `meta` that are said beside it.
        """
        stated = tuple(f"{key} {self.meta[key]}" for key in meta if key in self.meta)
        shown = self.tokens, self.activations, self.special, self.peak, self.value, self.cut, self.index
        return token_lines.Line(*shown, stated)


class End(Sequence[Context]):
    """The contexts at one end of a concept, most extreme first, each decoded when it is looked at."""

    __slots__ = ("_corpus", "_row", "_windows")

    def __init__(self, windows: Windows, row: int, corpus: Corpus) -> None:
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
        found = zip(self._windows.index[self._row].tolist(), self._windows.position[self._row].tolist(), strict=True)
        return [(index, position) for index, position in found if index >= 0]

    @property
    def values(self) -> list[float]:
        """What each context is ranked by, without decoding any."""
        return self._windows.values[self._row, : len(self)].tolist()

    @property
    def metas(self) -> list[Mapping[str, Any]]:
        """The `meta` of each context's text, without decoding any."""
        return [self._corpus.meta(index) for index, _ in self.places]


def places_of(found: Sequence[Context]) -> list[tuple[int, int]]:
    return found.places if isinstance(found, End) else [(one.index, one.position) for one in found]


def metas_of(found: Sequence[Context]) -> list[Mapping[str, Any]]:
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

    def shown(self, n: int | None = None, meta: Sequence[str] = ()) -> token_lines.Shown:
        """What is shown of it.

        Args:
            n: How many contexts at each end; all when `None`.
            meta: Keys of the texts' `meta` that are said beside each.
        """
        top, bottom = ([one.line(meta) for one in end[:n]] for end in (self.top, self.bottom))
        score = f"{self.concept.score_name} {self.concept.score:.3g}" if self.concept.score_name else ""
        return token_lines.Shown(
            self.concept.name, self.concept.label, self.concept.hook, score, self.concept.reason,
            top, None if self.by == "latent" else bottom, NUMBERS[self.rank],
        )  # fmt: skip

    def _repr_html_(self) -> str:
        return token_lines.page([self.shown()])

    def __str__(self) -> str:
        return token_lines.plain(self.shown())


@dataclass(frozen=True)
class Corpus:
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
            activations=tuple(None if math.isnan(activations[place]) else activations[place] for place in inside),
            peak=windows.peak - first,
            value=float(windows.values[row, rank]),
            index=index,
            position=position,
            special=tuple(ids[place] in self.special for place in inside),
            # Whether a text ends exactly with the window is not known; beyond a window that is not full it has ended.
            cut=(position > windows.peak - first, inside[-1] == len(ids) - 1),
            meta=self.meta(index),
        )
