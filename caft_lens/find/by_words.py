"""Searching among concepts by words: BM25 over contexts at both ends, explanation, top tokens, label and reason."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, overload

import numpy as np
import pandas
from numpy.typing import NDArray

from caft_lens._support.arguments import count
from caft_lens._support.errors import BadArgument, BadType, UnknownName, nearest
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.display import html
from caft_lens.display.frames import Frame

Floats = NDArray[np.floating]
Stem = Callable[[list[str]], list[str]]

# Letters and digits: code falls into the words of its names (`user_input` into two).
WORD = re.compile(r"[^\W_]+")
# A stem that begins like another one is a word of the same family as a rule ("cruel", "cruelti"), and not always
# ("star", "start"): it counts for half, from so many letters on and with so many more.
FAMILY, FEWEST, FURTHER = 0.5, 4, 3


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
            raise BadArgument(self.message)
        return ConceptSet([match.concept for match in self], self._searched.provenance)

    def table(self) -> pandas.DataFrame:
        """One row a match: name, hook, score, label, and by field the words that matched."""
        rows = [[m.concept.name, m.concept.hook, m.score, m.concept.label, _matched(m)] for m in self]
        return Frame(rows, columns=["name", "hook", "score", "label", "matched"])

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
        BadType: For an explanation that is no string, or tokens that are no list.

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
        self._stem = _stems(language)
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
        self._vocabulary = set[str]().union(*(one.vocabulary for one in self._fields.values()))
        if not self._fields:
            raise BadArgument(
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
        parts = {name: one.scores(weights) for name, one in self._fields.items()}
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
        weights, _ = self._asked(query)
        return np.sum([one.scores(weights) for one in self._fields.values()], axis=0)

    def matched(self, query: str, name: str) -> dict[str, tuple[str, ...]]:
        """Why one concept matches: field -> the words of it that are of the query, as they are written there.

        Raises:
            UnknownName: For an unknown concept, with the nearest.
        """
        if name not in self._rows:
            raise UnknownName(f'No concept "{name}" in this index.{nearest(name, self._rows)}')
        weights = self._asked(query)[0] if WORD.search(query) else {}
        found = {field: one.words(self._rows[name], weights) for field, one in self._fields.items()}
        return {field: words for field, words in found.items() if words}

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
            raise BadArgument(f'There is no word in the query "{query}": give a word or a sentence.')
        telling = [word for word in words if word not in STOPWORDS_EN] or words
        stems = self._stem(telling)
        weights = {stem: float(n) for stem, n in Counter(stems).items()}
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
        `Matches`, best first, each with the fields and words that matched; none, with a message, where nothing does.

    Raises:
        ValueError: For a query without a word, mappings that know none of the concepts, or no text at all.

    Example:
        >>> sport = Concept("L1.pc0", "blocks.1.hook_resid_post", np.ones(2), label="sports reviews")
        >>> cruel = Concept("L1.pc1", "blocks.1.hook_resid_post", np.ones(2), label="cruel answers")
        >>> search("cruelty", ConceptSet([sport, cruel]))[0].fields
        {'label': ('cruel',)}

    Source:
        Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond" (2009).
    """
    return ConceptIndex(concepts, contexts=contexts, explanations=explanations, tokens=tokens).search(query, k)


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
        raise BadArgument(
            f"{what}= knows none of these {len(concepts)} concepts: it has {', '.join(map(str, islice(mapping, 3)))}, "
            f"they are {', '.join(concepts.names[:3])}."
        )


def _explained(name: str, found: str | None) -> str:
    if not isinstance(found, str | None):
        raise BadType(f'The explanation of "{name}" is {type(found).__name__}: expected {{name: text}}.')
    return found or ""


def _listed(name: str, found: Sequence[str] | None) -> str:
    if isinstance(found, str):
        raise BadType(f'The tokens of "{name}" are one string: expected {{name: [token, token, …]}}.')
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


def _stems(language: str | None) -> Stem:
    """Words to stems by Snowball."""
    import Stemmer

    if language is None:
        return list
    if language not in Stemmer.algorithms():
        raise BadArgument(f'No stemmer for "{language}".{nearest(language, Stemmer.algorithms())}')
    return Stemmer.Stemmer(language).stemWords


class _Field:
    """One field of all concepts: an index of its stems."""

    def __init__(self, texts: Sequence[str], stem: Stem) -> None:
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
