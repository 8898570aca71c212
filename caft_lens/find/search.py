"""Searching among concepts that were found: by words of what is known of them, or by texts that they should fire on.

`search` ranks concepts by BM25 over their texts: contexts at both ends, explanation, top tokens, label and reason; a
`ConceptIndex` answers many queries. `by_example` ranks them by how much better they fire on some texts than on others,
in one streamed pass.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, get_args, overload

import numpy as np
import torch
from einops import repeat
from numpy.typing import NDArray
from torch import Tensor

from caft_lens._support.arguments import count
from caft_lens._support.errors import nearest
from caft_lens.activations.capture import along
from caft_lens.activations.differences import provenance, stream
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.display import html
from caft_lens.find.sae import saes_by_hook
from caft_lens.saes.cards import sae_name
from caft_lens.saes.encoding import LATENTS_AT_A_TIME, latents_of
from caft_lens.text.batching import Batch, Scan
from caft_lens.text.documents import Texts

if TYPE_CHECKING:
    import pandas
    from sae_lens import SAE

    from caft_lens.model.lens import Lens

Floats = NDArray[np.floating]

# Letters and digits: code falls into the words of its names (`user_input` into two).
WORD = re.compile(r"[^\W_]+")
# A stem that begins like another one is a word of the same family as a rule ("cruel", "cruelti"), and not always
# ("star", "start"): it counts for half, from so many letters on and with so many more.
FAMILY, FEWEST, FURTHER = 0.5, 4, 3


# -- by words ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Match:
    """One concept that a query found.

    Attributes:
        concept: As it stands in the searched set.
        score: BM25, summed over the fields.
        fields: Field -> the words of it that matched, as they are written there.
        scores: Field -> its part of the score.
    """

    concept: Concept
    score: float
    fields: Mapping[str, tuple[str, ...]]
    scores: Mapping[str, float]


class Matches(Sequence[Match]):
    """What a query found, best first; empty when nothing matches, which `message` says.

    Args:
        query: As it was asked.
        found: The matches.
        concepts: The set that was searched.
        message: What to say when there is none.
    """

    def __init__(self, query: str, found: Sequence[Match], concepts: ConceptSet, message: str = "") -> None:
        self.query, self.message = query, message
        self._found, self._searched = tuple(found), concepts

    @overload
    def __getitem__(self, key: int) -> Match: ...
    @overload
    def __getitem__(self, key: slice) -> Sequence[Match]: ...
    def __getitem__(self, key: int | slice) -> Match | Sequence[Match]:
        return self._found[key]

    def __len__(self) -> int:
        return len(self._found)

    @property
    def names(self) -> list[str]:
        """Names of the concepts, best first."""
        return [match.concept.name for match in self]

    @property
    def concepts(self) -> ConceptSet:
        """The concepts, best first, with the ranks and scores that they had.

        Raises:
            ValueError: When there is none: a concept set is never empty.
        """
        if not self:
            raise ValueError(self.message)
        return ConceptSet([match.concept for match in self], self._searched.provenance)

    def table(self) -> pandas.DataFrame:
        """One row a match: name, hook, score, label, and by field the words that matched."""
        from caft_lens.display.frames import Frame

        columns = ["name", "hook", "score", "label", "matched"]
        rows = [
            [match.concept.name, match.concept.hook, match.score, match.concept.label, _matched(match)]
            for match in self
        ]
        return Frame(rows, columns=columns)

    def __repr__(self) -> str:
        lines = [f"{m.concept.name}  {m.score:.2f}  {_matched(m)}" for m in self]
        return "\n".join([f'"{self.query}"', *(lines or [self.message])])

    def _repr_html_(self) -> str:
        if not self:
            return html.view(self.message)
        return html.framed(self.table(), f"Concepts for “{self.query}”", index=False, float_format="{:.2f}".format)


def _matched(match: Match) -> str:
    return "; ".join(f"{name}: {', '.join(words)}" for name, words in match.fields.items())


class ConceptIndex:
    """The texts of a set of concepts, ready to be searched many times.

    Each field is an index of its own, so that a word in a short explanation counts no less than in many contexts.

    Args:
        concepts: What to search; labels and reasons are read from it.
        contexts: Name -> contexts, with lists `top` and `bottom` whose items have `tokens` (and `special`, where the
            template's tokens are to be left out), as `cl.contexts` gives them. All of them are read here.
        explanations: Name -> what the concept was explained as.
        tokens: Name -> its top tokens, such as a logit lens gives.
        language: What words are stemmed in, as Snowball calls it; `None` takes words as they are.

    Raises:
        ValueError: When a mapping knows none of the concepts, for an unknown language, or when there is no text at all.
        TypeError: For an explanation that is no string, or tokens that are no list.

    Example:
        >>> index = cl.find.ConceptIndex(concepts.label({"L1.pc0": "cruel answers"}), contexts=contexts)
        >>> index.search("cruelty", k=2).table()[["name", "label", "matched"]]
             name          label                 matched
        0  L1.pc2                 bottom contexts: cruel
        1  L1.pc0  cruel answers            label: cruel
    """

    def __init__(
        self,
        concepts: ConceptSet,
        *,
        contexts: Mapping[str, Any] | None = None,
        explanations: Mapping[str, str] | None = None,
        tokens: Mapping[str, Sequence[str]] | None = None,
        language: str | None = "english",
    ) -> None:
        self.concepts = concepts
        self._rows = {name: row for row, name in enumerate(concepts.names)}
        self._stem = _Stems(language)
        self._last: tuple[str | None, tuple[dict[str, float], list[str]]] = (None, ({}, []))
        # Each context is read once: they may be decoded only as they are looked at.
        windows = [_ends(found) for _, found in _known(contexts, concepts, "contexts")]
        texts = {
            "label": [f"{concept.label} {concept.reason}" for concept in concepts],
            "explanation": [_explained(name, found) for name, found in _known(explanations, concepts, "explanations")],
            "tokens": [_listed(name, found) for name, found in _known(tokens, concepts, "tokens")],
            "top contexts": [top for top, _ in windows],
            "bottom contexts": [bottom for _, bottom in windows],
        }
        fields = {name: _Field(rows, self._stem) for name, rows in texts.items()}
        self._fields = {name: one for name, one in fields.items() if one.vocabulary}
        if not self._fields:
            raise ValueError(
                "There is nothing to search: these concepts have no labels and no reasons. Give contexts=, "
                "explanations= or tokens=."
            )

    def search(self, query: str, k: int = 10) -> Matches:
        """The concepts whose texts match best.

        Words count in all their forms: by their stem and, for half, where one stem begins like the other, so that
        "cruelty" finds "cruel". Words such as "the" count only when there is nothing else in the query.

        Args:
            query: A word, several, or a sentence.
            k: At most so many.

        Returns:
            Matches, best first; none, with a message that says so, when no word is anywhere.

        Raises:
            ValueError: For a query without a word, or `k` < 1.
        """
        count(k, "k")
        weights, words = self._asked(query)
        parts = self._parts(weights)
        total = np.sum(list(parts.values()), axis=0)
        # Of equal scores the concept that stands first in the set comes first.
        order = [int(row) for row in np.argsort(-total, kind="stable")[:k] if total[row] > 0]
        found = [
            Match(
                concept=self.concepts[row],
                score=float(total[row]),
                fields={name: one.words(row, weights) for name, one in self._fields.items() if parts[name][row] > 0},
                scores={name: float(part[row]) for name, part in parts.items() if part[row] > 0},
            )
            for row in order
        ]
        return Matches(query, found, self.concepts, "" if found else self._nothing(query, words))

    def scores(self, query: str) -> Floats:
        """How well each concept matches, without saying why: what `search` ranks by.

        Args:
            query: As for `search`.

        Returns:
            `[n_concepts]` in the order of the set, 0 where nothing matches.

        Raises:
            ValueError: For a query without a word.
        """
        return np.sum(list(self._parts(self._asked(query)[0]).values()), axis=0)

    def matched(self, query: str, name: str) -> dict[str, tuple[str, ...]]:
        """Why one concept matches: field -> the words of it that are of the query, as they are written there.

        Raises:
            KeyError: For an unknown concept, with the nearest.
        """
        if name not in self._rows:
            raise KeyError(f'No concept "{name}" in this index.{nearest(name, self._rows)}')
        weights = self._asked(query)[0] if WORD.search(query) else {}
        found = {field: one.words(self._rows[name], weights) for field, one in self._fields.items()}
        return {field: words for field, words in found.items() if words}

    def _parts(self, weights: Mapping[str, float]) -> dict[str, Floats]:
        return {name: one.scores(weights) for name, one in self._fields.items()}

    @cached_property
    def _vocabulary(self) -> set[str]:
        return set().union(*(one.vocabulary for one in self._fields.values()))

    def _asked(self, query: str) -> tuple[dict[str, float], list[str]]:
        """Stems to look for with their weights, and the words of the query."""
        # A list of concepts is scored once and then asked row by row why each matched.
        if self._last[0] != query:
            self._last = (query, self._weighed(query))
        return self._last[1]

    def _weighed(self, query: str) -> tuple[dict[str, float], list[str]]:
        from bm25s.stopwords import STOPWORDS_EN

        words = _words(query)
        if not words:
            raise ValueError(f'There is no word in the query "{query}": give a word or a sentence.')
        telling = [word for word in words if word not in STOPWORDS_EN] or words
        stems = self._stem(telling)
        weights: dict[str, float] = {}
        for stem in stems:
            weights[stem] = weights.get(stem, 0.0) + 1.0
        for known in self._vocabulary - set(stems):
            kin = sum(_of_one_family(stem, known) for stem in stems)
            if kin:
                weights[known] = FAMILY * kin
        return weights, telling

    def _nothing(self, query: str, words: Sequence[str]) -> str:
        known = {word for one in self._fields.values() for word in one.written}
        close = dict.fromkeys(near for word in words for near in difflib.get_close_matches(word, known, n=2))
        hint = f" Words that come near: {', '.join(close)}." if close else ""
        where = ", ".join(self._fields)
        return f'Nothing known of these {len(self.concepts)} concepts ({where}) has a word of "{query}".{hint}'


def search(
    query: str,
    concepts: ConceptSet,
    *,
    contexts: Mapping[str, Any] | None = None,
    explanations: Mapping[str, str] | None = None,
    tokens: Mapping[str, Sequence[str]] | None = None,
    k: int = 10,
) -> Matches:
    """The concepts whose texts match a query best, by BM25: contexts, explanations, top tokens, labels and reasons.

    For many queries make a `ConceptIndex` once.

    Args:
        query: A word, several, or a sentence.
        concepts: What to search.
        contexts: Name -> contexts, as `cl.contexts` gives them; both ends are searched, each as a field.
        explanations: Name -> what the concept was explained as.
        tokens: Name -> its top tokens.
        k: At most so many.

    Returns:
        `Matches`, best first, each with the fields and words that matched: `.table()`, `.names`, `.concepts`. A search
        that finds nothing gives none and says so.

    Raises:
        ValueError: For a query without a word, mappings that know none of the concepts, or no text at all.

    Example:
        >>> sport = Concept("L1.pc0", "blocks.1.hook_resid_post", torch.ones(2), label="sports reviews")
        >>> cruel = Concept("L1.pc1", "blocks.1.hook_resid_post", torch.ones(2), label="cruel answers")
        >>> search("cruelty", ConceptSet([sport, cruel]))[0].fields
        {'label': ('cruel',)}

    Source:
        Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009); package bm25s
        (arXiv 2407.03618).
    """
    index = ConceptIndex(concepts, contexts=contexts, explanations=explanations, tokens=tokens)
    return index.search(query, k)


def _words(text: str) -> list[str]:
    return WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def _of_one_family(one: str, other: str) -> bool:
    short, long = sorted((one, other), key=len)
    return len(short) >= FEWEST and len(long) - len(short) <= FURTHER and long.startswith(short)


def _known(mapping: Mapping[str, Any] | None, concepts: ConceptSet, what: str) -> Iterator[tuple[str, Any]]:
    """What a mapping has for each concept, in order; `None` where it has nothing."""
    nothing = mapping is not None
    for name in concepts.names:
        try:
            found = None if mapping is None else mapping[name]
        except KeyError:
            found = None
        nothing = nothing and found is None
        yield name, found
    if nothing and mapping is not None:
        raise ValueError(
            f"{what}= knows none of these {len(concepts)} concepts: it has {', '.join(map(str, islice(mapping, 3)))}, "
            f"they are {', '.join(concepts.names[:3])}."
        )


def _explained(name: str, found: str | None) -> str:
    if not isinstance(found, str | None):
        raise TypeError(f'The explanation of "{name}" is {type(found).__name__}: expected {{name: text}}.')
    return found or ""


def _listed(name: str, found: Sequence[str] | None) -> str:
    if isinstance(found, str):
        raise TypeError(f'The tokens of "{name}" are one string: expected {{name: [token, token, …]}}.')
    return " ".join(map(str, found or ()))


def _ends(found: Any) -> tuple[str, str]:
    """The texts at the top and at the bottom of a concept."""
    if found is None:
        return "", ""
    top, bottom = ("\n".join(map(_said, windows)) for windows in (found.top, found.bottom))
    return top, bottom


def _said(window: Any) -> str:
    """The text of a context without the template's tokens."""
    special = getattr(window, "special", None) or [False] * len(window.tokens)
    return "".join(" " if of_template else token for token, of_template in zip(window.tokens, special, strict=True))


class _Stems:
    """Words to stems by Snowball."""

    def __init__(self, language: str | None) -> None:
        import Stemmer

        if language is not None and language not in Stemmer.algorithms():
            raise ValueError(f'No stemmer for "{language}".{nearest(language, Stemmer.algorithms())}')
        self._stemmer = None if language is None else Stemmer.Stemmer(language)

    def __call__(self, words: list[str]) -> list[str]:
        return words if self._stemmer is None else self._stemmer.stemWords(words)


class _Field:
    """One field of all concepts: an index of its stems."""

    def __init__(self, texts: Sequence[str], stem: _Stems) -> None:
        import bm25s

        self._texts, self._stem = texts, stem
        words = [_words(text) for text in texts]
        self.written = {word for row in words for word in row}
        stems = [stem(row) for row in words]
        self.vocabulary = {one for row in stems for one in row}
        self._bm25 = bm25s.BM25(method="lucene")
        if self.vocabulary:
            self._bm25.index(stems, show_progress=False)

    def scores(self, weights: Mapping[str, float]) -> Floats:
        """BM25 of every concept, `[n_concepts]`."""
        total = np.zeros(len(self._texts))
        for stem, weight in weights.items():
            if stem in self.vocabulary:
                total += weight * self._bm25.get_scores([stem])
        return total

    def words(self, row: int, weights: Mapping[str, float]) -> tuple[str, ...]:
        """The words of one concept's text that have one of the stems, as they are written, each once."""
        words = _words(self._texts[row])
        pairs = zip(words, self._stem(words), strict=True)
        return tuple(dict.fromkeys(word for word, stem in pairs if stem in weights))


# -- by example -------------------------------------------------------------------------------------------------------

Pool = Literal["max", "mean"]
SAID = ("system", "user", "assistant", "text")
# Scores of texts count as equal that are closer than this, in standard deviations of the activation.
EVEN = 1e-4


def by_example(
    lens: Lens,
    concepts: ConceptSet,
    fires_on: Texts | Iterable[Any],
    not_on: Texts | Iterable[Any] = (),
    *,
    saes: SAE | Sequence[SAE] | None = None,
    score: Pool = "max",
    k: int | None = 10,
    roles: Sequence[str] | None = SAID,
    scan: Scan = Scan(),
) -> ConceptSet:
    """The concepts that fire on some texts and not on others, best first.

    A text's score is the largest activation of its tokens (or their mean). With two texts or more on both sides,
    concepts are ranked by AUROC: the chance that one of `fires_on` scores above one of `not_on`. With fewer, by how
    much the mean score of `fires_on` lies above that of `not_on`, in standard deviations of the activation over all
    tokens of both; without `not_on`, above the mean token of `fires_on` itself. Equal AUROCs are ranked by that
    difference.

    A direction is read at both ends, its bottom end with the sign turned, and the better end counts; `meta["end"]` says
    which. An SAE latent fires at its top only.

    Args:
        lens: The model that reads.
        concepts: What to search; thousands are fine.
        fires_on: Texts that the concept should fire on.
        not_on: Texts that it should not fire on.
        saes: Where concepts are latents of these SAEs, the latent's activation counts instead of the projection.
        score: `"max"` or `"mean"` over the tokens of a text; without `not_on` only the former says anything.
        k: How many; all when `None`.
        roles: Roles of the tokens to look at; by default whatever was said, without the template and the token that
            begins a text, where activations can be huge. `None` for all.
        scan: How the text is read: tokens a batch, where texts are cut.

    Returns:
        Concepts, over all hook points, `score` and `score_name` saying what they are ranked by. `meta`: `end`,
        `difference` (in standard deviations), `mean_on` and `mean_off` (what that is the difference of), and under
        `found` the rank and score of the search that had found them.

    Raises:
        ValueError: When the concepts or SAEs do not fit the model, no concept is a latent of the SAEs, there is no text
            that should fire, or a text has no token with one of the roles.

    Example:
        >>> latents = cl.find.latents(saes[1], base)
        >>> found = cl.find.by_example(base, latents, cruel_texts, kind_texts, saes=saes[1], k=3)
        >>> len(found), found[0].score > 0.5
        (3, True)
    """
    if score not in get_args(Pool):
        raise ValueError(f'by_example(score="{score}"): no such score.{nearest(score, get_args(Pool))}')
    if k is not None:
        count(k, "k")
    concepts.check(lens)
    on, off = (side if isinstance(side, Texts) else Texts(side) for side in (fires_on, not_on))
    if len(on) == 0:
        raise ValueError("by_example() needs at least one text that the concept should fire on.")
    if len(off) == 0 and score == "mean":
        raise ValueError('by_example(score="mean") needs not_on=: a mean alone does not say what is high.')
    read = _TextScores(concepts, _latents_among(concepts, saes, lens), len(on) + len(off))
    passed = stream(
        lens, Texts([*on, *off]), concepts.hooks, read,
        roles=roles, scan=scan,
    )  # fmt: skip
    by_auroc = min(len(on), len(off)) >= 2
    found = [fit for hook in concepts.hooks for fit in _fits(read, concepts, hook, len(on), score, by_auroc)]
    found.sort(key=lambda fit: fit.worth(by_auroc), reverse=True)
    about = {
        **{
            key: value
            for key, value in provenance(lens, {"fires_on": on, "not_on": off}, roles, left_out=passed.left_out).items()
            if key in ("data", "sinks")
        },
        "method": "search by example",
        "searched": concepts.provenance.get("method"),
    }
    ranked = [fit.ranked(rank, by_auroc) for rank, fit in enumerate(found[:k])]
    return ConceptSet(ranked, {**concepts.provenance, **about})


@dataclass(frozen=True)
class _Fit:
    """How well one concept tells the examples apart, at its better end."""

    concept: Concept
    end: str
    auroc: float
    difference: float
    mean_on: float
    mean_off: float

    def worth(self, by_auroc: bool) -> tuple[float, float]:
        """What concepts are ranked by, larger first."""
        return (self.auroc if by_auroc else 0.0, self.difference)

    def ranked(self, rank: int, by_auroc: bool) -> Concept:
        before = self.concept
        return dataclasses.replace(
            before,
            rank=rank,
            score=self.auroc if by_auroc else self.difference,
            score_name="AUROC on examples" if by_auroc else "difference on examples, standard deviations",
            meta={
                **before.meta,
                "end": self.end,
                "difference": self.difference,
                "mean_on": self.mean_on,
                "mean_off": self.mean_off,
                "found": {"rank": before.rank, "score": before.score, "score_name": before.score_name},
            },
        )


def _latents_among(
    concepts: ConceptSet, saes: SAE | Sequence[SAE] | None, lens: Lens
) -> dict[str, tuple[SAE, dict[int, int]]]:
    """By hook point, the SAE and which of the concepts there (by place) are which latent."""
    if saes is None:
        return {}
    at = saes_by_hook(saes, lens)
    found: dict[str, tuple[SAE, dict[int, int]]] = {}
    for hook in concepts.hooks:
        if hook not in at:
            continue
        latents = {}
        for place, concept in enumerate(concepts.at(hook)):
            if "latent" in concept.meta:
                latents[place] = int(concept.meta["latent"])
                _check_latent(concept, at[hook], latents[place])
        if latents:
            found[hook] = (at[hook], latents)
    if not found:
        raise ValueError(f"None of these concepts is a latent of the SAEs at {', '.join(at)}: leave out saes=.")
    return found


def _check_latent(concept: Concept, one: SAE, latent: int) -> None:
    row = one.W_dec[latent].detach().cpu().double() if latent < one.cfg.d_sae else None
    if row is None or float(row @ concept.direction.double()) < (1 - 1e-3) * float(row.norm()):
        raise ValueError(
            f'The concept "{concept.name}" does not point along latent {latent} of the SAE {sae_name(one)}: it is '
            "a latent of another one."
        )


class _TextScores:
    """A reducer: of every text and concept the largest, smallest and summed activation, `[n_texts, n_concepts]`.

    Args:
        concepts: Directions.
        latents: By hook point an SAE, and which of the concepts there are read as which of its latents.
        n_texts: How many texts the pass has.

    Attributes:
        counts: Tokens of each text, by hook point, `[n_texts]`.
    """

    def __init__(self, concepts: ConceptSet, latents: Mapping[str, tuple[SAE, dict[int, int]]], n_texts: int) -> None:
        self.latents = latents
        self.directions = {hook: concepts.directions(hook) for hook in concepts.hooks}
        shapes = {hook: (n_texts, len(rows)) for hook, rows in self.directions.items()}
        self.top = {hook: torch.full(shape, -torch.inf) for hook, shape in shapes.items()}
        self.bottom = {hook: torch.full(shape, torch.inf) for hook, shape in shapes.items()}
        self.sums = {hook: torch.zeros(shape, dtype=torch.float64) for hook, shape in shapes.items()}
        self.counts = {hook: torch.zeros(n_texts, dtype=torch.long) for hook in shapes}
        self._squares = {hook: torch.zeros(shape[1], dtype=torch.float64) for hook, shape in shapes.items()}

    def update(self, hook: str, acts: Tensor, batch: Batch, where: Tensor) -> None:
        """Take in activations `[n_tokens, d_model]` of one hook point, at (row, position) `where` `[n_tokens, 2]`."""
        done = 0
        for values in self._values(hook, acts):
            places = where[done : done + len(values), 0]
            done += len(values)
            self._add(hook, values, batch.index, places)

    def _values(self, hook: str, acts: Tensor) -> Iterator[Tensor]:
        """Activations of the concepts, some tokens at a time, fp32 `[n, n_concepts]`, where they are made."""
        directions = self.directions[hook].to(acts.device)
        if hook not in self.latents:
            for rows in acts.split(max(1, LATENTS_AT_A_TIME // len(directions))):
                yield along(rows, directions)
            return
        one, latents = self.latents[hook]
        places, columns = list(latents), list(latents.values())
        others = [place for place in range(len(directions)) if place not in latents]
        done = 0
        for active in latents_of(one, acts):
            rows = acts[done : done + len(active)]
            done += len(active)
            values = torch.empty(len(active), len(directions), device=active.device)
            values[:, places] = active[:, columns].float()
            if others:
                values[:, others] = along(rows, directions[others]).to(active.device)
            yield values

    def _add(self, hook: str, values: Tensor, index: Tensor, places: Tensor) -> None:
        """Add activations of tokens that stand in the texts `index[places]`."""
        rows, device = places.to(values.device), values.device
        shape = (len(index), values.shape[1])
        spread_out = repeat(rows, "token -> token concept", concept=values.shape[1])
        top = torch.full(shape, -torch.inf, device=device).scatter_reduce_(0, spread_out, values, "amax")
        bottom = torch.full(shape, torch.inf, device=device).scatter_reduce_(0, spread_out, values, "amin")
        sums = torch.zeros(shape, device=device).index_add_(0, rows, values)
        self.top[hook][index] = torch.maximum(self.top[hook][index], top.cpu())
        self.bottom[hook][index] = torch.minimum(self.bottom[hook][index], bottom.cpu())
        # Centred where they are, merged as by Chan et al. (1979): means may be far larger than what varies.
        mean = values.mean(dim=0)
        squares = (values - mean).square().sum(dim=0)
        self._add_squares(hook, len(values), mean.cpu().double(), squares.cpu().double())
        self.sums[hook].index_add_(0, index, sums.cpu().double())
        self.counts[hook].index_add_(0, index[places], torch.ones_like(places))

    def _add_squares(self, hook: str, n: int, mean: Tensor, squares: Tensor) -> None:
        before = int(self.counts[hook].sum())
        self._squares[hook] += squares
        if before:
            step = mean - self.sums[hook].sum(dim=0) / before
            self._squares[hook] += step.square() * (before * n / (before + n))

    def merge(self, other: _TextScores) -> _TextScores:
        """Add the result of a pass over others of the same texts, in place."""
        for hook in self.directions:
            n = int(other.counts[hook].sum())
            if n:
                self._add_squares(hook, n, other.sums[hook].sum(dim=0) / n, other._squares[hook])
            self.top[hook] = torch.maximum(self.top[hook], other.top[hook])
            self.bottom[hook] = torch.minimum(self.bottom[hook], other.bottom[hook])
            self.sums[hook] += other.sums[hook]
            self.counts[hook] += other.counts[hook]
        return self

    def spread(self, hook: str) -> Floats:
        """Standard deviation of the activation over all tokens, `[n_concepts]`."""
        return (self._squares[hook] / int(self.counts[hook].sum())).sqrt().numpy()


def _fits(read: _TextScores, concepts: ConceptSet, hook: str, n_on: int, score: Pool, by_auroc: bool) -> Iterator[_Fit]:
    """What the better end of each concept at a hook point makes of the examples."""
    counts = read.counts[hook].numpy()
    for number in np.flatnonzero(counts == 0)[:1]:
        side, place = ("fires_on", number) if number < n_on else ("not_on", number - n_on)
        raise ValueError(
            f"Text {place} of {side} has no token with one of the roles: choose with roles=, or leave it out."
        )
    sums, spread = read.sums[hook].numpy(), read.spread(hook)
    means, typical = sums / counts[:, None], sums.sum(axis=0) / counts.sum()
    top, bottom = (means, -means) if score == "mean" else (read.top[hook].numpy(), -read.bottom[hook].numpy())
    ends = {
        "top": _figures(top.astype(np.float64), typical, spread, n_on),
        "bottom": _figures(bottom.astype(np.float64), -typical, spread, n_on),
    }
    latents = read.latents[hook][1] if hook in read.latents else {}
    for place, concept in enumerate(concepts.at(hook)):
        fits = [_Fit(concept, end, *figures[:, place].tolist()) for end, figures in ends.items()]
        yield fits[0] if place in latents else max(fits, key=lambda fit: fit.worth(by_auroc))


def _figures(scores: Floats, typical: Floats, spread: Floats, n_on: int) -> Floats:
    """AUROC, difference, mean of those that should fire and of the others, `[4, n_concepts]`, for one end of each
    concept.
    """
    from scipy.stats import rankdata

    on, off = scores[:n_on].mean(axis=0), scores[n_on:].mean(axis=0) if len(scores) > n_on else typical
    difference = np.divide(on - off, spread, out=np.zeros_like(on), where=spread > 0)
    # Mann and Whitney's U from the ranks of the examples, all concepts at once. Texts that begin alike can have the
    # same largest activation, and the rounding of a batch should not say which is larger.
    even = np.round(scores / np.where(spread > 0, EVEN * spread, 1))
    ranks = rankdata(even, axis=0)[:n_on].sum(axis=0)
    pairs = n_on * (len(scores) - n_on)
    area = (ranks - n_on * (n_on + 1) / 2) / pairs if pairs else np.full_like(on, np.nan)
    return np.stack([area, difference, on, off])
