"""Explanations without a further model: what contexts have more often than the corpus that they are from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from caft_lens._support.errors import BadData, BadType, UnknownName, nearest
from caft_lens._support.keywords import takes_values
from caft_lens._support.progress import progress as progress_bar
from caft_lens.activations.differences import read_by
from caft_lens.inspect.context_windows import Context
from caft_lens.inspect.contexts import Contexts
from caft_lens.inspect.explain.explanations import (
    ENDS,
    WHERE,
    Clause,
    End,
    Explanation,
    Explanations,
    Finding,
    column_values,
    quoted,
    share,
)
from caft_lens.inspect.explain.windows import around, drawn, identity, phrases, written
from caft_lens.model.lens import Lens
from caft_lens.text.batching import Scan
from caft_lens.text.documents import Text, Texts
from caft_lens.text.encoding import Encoded, encoded, special_ids
from caft_lens.text.roles import ROLES, check_role_names
from caft_lens.text.token_strings import pieces

NAMES = {number: name for name, number in ROLES.items()}
QUARTERS = ("first quarter", "second quarter", "third quarter", "last quarter")
PLACES = {"role": "among {} tokens", "position": "in the {} of the text"}
"""What a finding says of a peak that a window without one cannot be asked, and how it is told."""
MIN_COUNT = 3
"""What fewer contexts and windows have, both together, is no candidate: no test could tell it from chance."""
BACKGROUND = 4000
"""How many texts' random windows phrases are compared with, at most."""
CALLED = 0.25
"""Share of random windows that a rule calls active: `detection` takes the most active tenth, and the lower half."""
ROUNDING = 1e-9

Key = tuple[str, str, str]  # place, column, value


@takes_values
def explain(
    lens: Lens,
    contexts: Contexts,
    texts: Texts | Iterable[Any],
    *,
    columns: Sequence[str] | None = None,
    roles: Sequence[str] | None = None,
    window: tuple[int, int] = (12, 6),
    alpha: float = 0.05,
    seed: int = 0,
    scan: Scan = Scan(),
) -> Explanations:
    """Explain both ends of concepts by what is enriched in their contexts, against the corpus.

    Needs no model: of the lens only the tokenizer is used. To score the result, find contexts on one half of the corpus
    and keep the other for `detection` (`halves`). The more contexts, the more a rule recalls: say a tenth of the texts.

    Args:
        lens: The lens that read the contexts.
        contexts: Contexts of any concepts.
        texts: The corpus that they are from, in the same order.
        columns: Which columns of the texts' `meta` count, by name; all by default, `[]` for words only. Lists and dicts
            are taken apart (`column_values`); `spans`, the truth of a generator, are never read.
        roles, window: As the contexts were found with.
        alpha: What is enriched at this false discovery rate is told.
        seed: Which random windows phrases are compared with.
        scan: As the contexts were found with.

    Returns:
        An explanation for every end that has contexts: `text` tells the main findings with counts, in the contexts and,
        as a share, in the corpus; `findings` are all with `q < alpha`; `predicts` applies the rule.

    Raises:
        ValueError: When the contexts are not from these texts, or no token has one of the roles.
        UnknownName: For a column that no text has, with the nearest.

    Example:
        >>> mine, held_out = cl.inspect.halves(corpus, seed=0)
        >>> found = cl.contexts(base, concepts, mine, k=10)
        >>> explanations = cl.inspect.explain(base, found, mine)
        >>> cl.inspect.detection(base, explanations, concepts, held_out).table().shape
        (12, 14)

    Source:
        Exact test of enrichment: hypergeometric (Fisher, 1922); false discovery rate: Benjamini and Hochberg (1995).
    """
    texts = texts if isinstance(texts, Texts) else Texts(texts)
    _check_columns(texts, columns)
    ends: list[tuple[str, End, list[Context]]] = [
        (name, end, list(getattr(both, end))) for name, both in contexts.items() for end in ENDS if getattr(both, end)
    ]
    if not ends:
        raise BadData("There is no context to explain: `contexts` finds them.")
    read = [context for _, _, found in ends for context in found]
    corpus = _Corpus(lens.need_tokenizer(), texts, columns, window, seed)
    corpus.count(read, roles, scan)
    frequent = {key for key, count in corpus.counts.items() if count >= MIN_COUNT}
    features = {(name, end): [corpus.of_context(one) for one in found] for name, end, found in ends}
    findings = {
        key: [one for one in _tested(windows, corpus, frequent) if one.q < alpha]
        for key, windows in progress_bar(features.items(), desc="explaining", unit="end")
    }
    opposite = {"top": "bottom", "bottom": "top"}
    made = []
    for name, end, found in ends:
        mine = findings[name, end]
        rule, bias = _rule(features[name, end], corpus.windows, mine, findings.get((name, opposite[end]), ()))
        nothing = f"no token, phrase, column or place is enriched in these {len(found)} contexts (q < {alpha:g})"
        text = _sentence(mine, features[name, end]) or nothing
        made.append(Explanation(name, end, text, len(found), tuple(mine), rule, bias))
    about = getattr(contexts, "about", None) or read_by(lens)
    return Explanations(made, {identity(texts[context.index]) for context in read}, about)


def _check_columns(texts: Texts, columns: Sequence[str] | None) -> None:
    if isinstance(columns, str):
        raise BadType(f'columns="{columns}": give a list of names, ["{columns}"].')
    if not columns:
        return
    there = {name for text in texts for name, _ in column_values(text.meta)}
    there |= {".".join(name.split(".")[:depth]) for name in there for depth in range(1, name.count(".") + 1)}
    for column in columns:
        if column not in there:
            raise UnknownName(f'No text has a column "{column}".{nearest(column, sorted(there))}')


# -- counting ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Features:
    """What one window has: everything that is counted, and of that what a rule can ask of a window without a peak."""

    counted: frozenset[Key]
    words: frozenset[str]
    stated: frozenset[tuple[str, str]]


@dataclass
class _Corpus:
    """What a corpus has, counted in one pass over its tokens: the background of the tests.

    Attributes:
        counts: How many tokens, windows or texts have a candidate.
        tokens, texts: How many there are of the wanted roles, or with one.
        windows: Random windows, one a text.
        places: Role and quarter of the text at the peaks of contexts, by text and position.
    """

    tokenizer: Any
    source: Texts
    columns: Sequence[str] | None
    window: tuple[int, int]
    seed: int
    counts: Counter[Key] = field(default_factory=Counter)
    tokens: int = 0
    texts: int = 0
    windows: list[_Features] = field(default_factory=list)
    places: dict[tuple[int, int], tuple[str, str]] = field(default_factory=dict)

    def count(self, contexts: Sequence[Context], roles: Sequence[str] | None, scan: Scan) -> None:
        """Read the corpus once."""
        texts = self.source
        wanted = None if roles is None else check_role_names(roles, ROLES)
        known = special_ids(self.tokenizer)
        peaks: dict[int, list[Context]] = {}
        for context in contexts:
            peaks.setdefault(context.index, []).append(context)
        if max(peaks) >= len(texts):
            beyond = f"A context is from text {max(peaks)}, but there are {len(texts)}"
            raise BadData(f"{beyond}: give the texts that the contexts were found in.")
        ids, role_counts, quarters = Counter[int](), Counter[int](), Counter[int]()
        kept: list[tuple[float, int, list[int], int]] = []
        items = encoded(self.tokenizer, texts, max_length=scan.max_length)
        for item in progress_bar(items, total=len(texts), desc="counting", unit="text"):
            for context in peaks.get(item.index, ()):
                self._place(context, item)
            spots = np.arange(len(item.roles)) if wanted is None else np.flatnonzero(np.isin(item.roles, wanted))
            if len(spots) == 0:
                continue
            ids.update(item.input_ids[spot] for spot in spots)
            role_counts.update(item.roles[spots].tolist())
            quarters.update((4 * spots // len(item.roles)).tolist())
            self.tokens += len(spots)
            self.texts += 1
            self.counts.update(("column", *pair) for pair in self._stated(texts[item.index]))
            key, pick = drawn(self.seed, item.index, len(spots))
            inside = around(int(spots[pick]), self.window, len(item.input_ids))
            kept.append((key, item.index, item.input_ids[inside], int(spots[pick]) - inside.start))
            if len(kept) > 2 * BACKGROUND:
                kept = sorted(kept)[:BACKGROUND]
        if not self.tokens:
            raise BadData(f"No token of these {len(texts)} texts has one of the roles {list(roles or ())}.")
        for number, count in ids.items():
            self.counts["at", "", written("".join(pieces(self.tokenizer, [number])))] += count
        self.counts.update({("role", "", NAMES[number]): count for number, count in role_counts.items()})
        self.counts.update({("position", "", QUARTERS[number]): count for number, count in quarters.items()})
        for _, index, window, peak in sorted(kept)[:BACKGROUND]:
            special = [number in known for number in window]
            features = self._window(pieces(self.tokenizer, window), special, peak, texts[index])
            self.windows.append(features)
            self.counts.update(key for key in features.counted if key[0] in ("before", "after", "near"))

    def of_context(self, context: Context) -> _Features:
        """What a context has, the role and place of its peak among it."""
        text = self.source[context.index]
        found = self._window(context.tokens, context.special, context.peak, text)
        role, quarter = self.places[context.index, context.position]
        return _Features(found.counted | {("role", "", role), ("position", "", quarter)}, found.words, found.stated)

    def sizes(self, key: Key) -> tuple[int, bool]:
        """Out of how many a candidate was counted in the corpus, and whether contexts are among these."""
        if key[0] in ("before", "after", "near"):
            return len(self.windows), False
        return (self.texts if key[0] == "column" else self.tokens), True

    def _place(self, context: Context, item: Encoded) -> None:
        start = context.position - context.peak
        there = item.input_ids[start : start + len(context.tokens)]
        if tuple(pieces(self.tokenizer, there)) != context.tokens:
            raise BadData(
                f"Text {item.index} does not hold the context found in it: give the texts that the contexts were found "
                "in, in the same order."
            )
        quarter = QUARTERS[4 * context.position // len(item.roles)]
        self.places[context.index, context.position] = NAMES[int(item.roles[context.position])], quarter

    def _window(self, tokens: Sequence[str], special: Sequence[bool], peak: int, text: Text) -> _Features:
        stated = frozenset(self._stated(text))
        counted: set[Key] = {("column", *pair) for pair in stated}
        words = set()
        for start, end, said in phrases(tokens, special):
            words.add(said)
            counted.add(("near", "", said))
            if end <= peak:
                counted.add(("before", "", said))
            elif start > peak:
                counted.add(("after", "", said))
            elif end - start == 1:
                counted.add(("at", "", said))
        return _Features(frozenset(counted), frozenset(words), stated)

    def _stated(self, text: Text) -> dict[tuple[str, str], None]:
        return dict.fromkeys(column_values(text.meta, self.columns))


# -- testing ----------------------------------------------------------------------------------------------------------


def _tested(features: Sequence[_Features], corpus: _Corpus, frequent: set[Key]) -> list[Finding]:
    """Every candidate that a context has, the most surprising first; those that none has count in the correction."""
    from scipy.stats import false_discovery_control, hypergeom

    n = len(features)
    counts = Counter(key for one in features for key in one.counted)
    # How often there is a candidate at all, on which its test is conditional.
    totals = {key: corpus.counts[key] + (0 if corpus.sizes(key)[1] else count) for key, count in counts.items()}
    # Sorted, since the order of a set of strings is another in every process, and ties keep theirs.
    candidates = sorted(key for key, total in totals.items() if total >= MIN_COUNT)
    if not candidates:
        return []
    absent = len(frequent - counts.keys())
    k = np.array([counts[key] for key in candidates])
    background = np.array([corpus.counts[key] for key in candidates])
    of = np.array([corpus.sizes(key)[0] for key in candidates])
    # Contexts are a draw from the corpus; random windows are others than those of contexts, so that the pool is both.
    apart = np.array([not corpus.sizes(key)[1] for key in candidates])
    p = hypergeom.sf(k - 1, of + n * apart, background + k * apart, n).clip(0, 1)
    q = false_discovery_control(np.concatenate([p, np.ones(absent)]))[: len(p)]
    lift = ((k + 0.5) / (n + 1)) / ((background + 0.5) / (of + 1))
    order = np.lexsort((-lift, p))
    return [
        Finding(
            place, value, int(k[i]), n, int(background[i]), int(of[i]), float(lift[i]), float(p[i]), float(q[i]), column
        )
        for i in order
        for place, column, value in [candidates[i]]
    ]


# -- predicting -------------------------------------------------------------------------------------------------------


def _rule(
    contexts: Sequence[_Features],
    windows: Sequence[_Features],
    findings: Sequence[Finding],
    opposite: Sequence[Finding],
) -> tuple[tuple[Clause, ...], float]:
    """A naive Bayes classifier of contexts against random windows: weights of conditions, and a bias.

    What is enriched at the opposite end counts too, as a rule against. The bias is such that as many random windows are
    called active as `CALLED` says, and none without evidence for it.
    """
    telling = (one for one in (*findings, *opposite) if one.place not in PLACES)
    conditions = list(dict.fromkeys((one.column, one.value) for one in telling))
    if not findings or not conditions or not windows:
        return (), -1.0

    def holds(window: _Features) -> list[bool]:
        return [(column, value) in window.stated if column else value in window.words for column, value in conditions]

    here, elsewhere = (np.array([*map(holds, side)]) for side in (contexts, windows))
    weights = np.log((here.sum(axis=0) + 1) / (len(here) + 2))
    weights -= np.log((elsewhere.sum(axis=0) + 1) / (len(elsewhere) + 2))
    threshold = max(float(np.quantile(elsewhere @ weights, 1 - CALLED)), 0.0) + ROUNDING
    clauses = zip(conditions, weights.tolist(), strict=True)
    return tuple(Clause(value, weight, column) for (column, value), weight in clauses), -threshold


# -- telling ----------------------------------------------------------------------------------------------------------


def _sentence(findings: Sequence[Finding], features: Sequence[_Features]) -> str:
    """The main findings in words: tokens at the peaks, phrases around them, columns of the texts, places in them."""
    parts = [
        _peaks(findings, features),
        *_around(findings, features),
        *(
            f"in texts with {one.column} = {one.value} ({_counts(one)})"
            for one in _covering([one for one in findings if one.place == "column"], features, 3)
        ),
        *(
            f"{PLACES[one.place].format(one.value)} ({_counts(one)})"
            for one in findings
            if one.place in PLACES and one.share > 0.5
        ),
    ]
    return " ".join(part for part in parts if part)


def _peaks(findings: Sequence[Finding], features: Sequence[_Features]) -> str:
    chosen = _covering([one for one in findings if one.place == "at"], features, 4)
    if not chosen:
        return ""
    count = sum(any(_key(one) in window.counted for one in chosen) for window in features)
    corpus = share(sum(one.background for one in chosen), chosen[0].background_of)
    tokens = ", ".join(quoted(one.value) for one in chosen)
    return f"at {tokens} ({count} of {len(features)} peaks; {corpus} of the corpus)"


def _around(findings: Sequence[Finding], features: Sequence[_Features]) -> Iterator[str]:
    at = [one.value for one in findings if one.place == "at"]
    phrases = (one for one in findings if one.place in ("before", "after", "near"))
    apart = [one for one in phrases if not any(one.value in token or token in one.value for token in at)]
    for one in _covering(apart, features, 2):
        where = "" if one.place == "near" else f" {WHERE[one.place]}"
        yield f"{'with' if where else 'near'} {quoted(one.value)}{where} ({_counts(one)})"


def _covering(findings: Sequence[Finding], features: Sequence[_Features], n: int) -> list[Finding]:
    """At most `n` findings, each of a tenth of the contexts, and of two at least, that have none of those before."""
    chosen: list[Finding] = []
    left = set(range(len(features)))
    for one in findings:
        new = {number for number in left if _key(one) in features[number].counted}
        if len(new) >= max(min(2, one.of), one.of / 10):
            chosen.append(one)
            left -= new
        if len(chosen) == n:
            break
    return chosen


def _key(finding: Finding) -> Key:
    return finding.place, finding.column, finding.value


def _counts(finding: Finding) -> str:
    return f"{finding.count} of {finding.of}; {share(finding.background, finding.background_of)}"
