"""How well explanations tell: detection scoring, on windows of texts that no explanation was made from."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from caft_lens._support.arguments import count, number, one_of
from caft_lens._support.errors import BadArgument, BadData, UnknownName, nearest
from caft_lens._support.keywords import takes_values
from caft_lens.activations.differences import read_by, stream
from caft_lens.activations.top_windows import RANKS, Rank
from caft_lens.concepts.concept_set import ConceptSet
from caft_lens.inspect.context_windows import Context
from caft_lens.inspect.explain.explanations import ENRICHMENT, DetectionScore, Explanation, Explanations
from caft_lens.inspect.explain.llm import LLM, Plan
from caft_lens.inspect.explain.prompts import judged, judgement_requests
from caft_lens.inspect.explain.windows import Sample, WindowActivity, around, fraction, identity
from caft_lens.inspect.reading import Reading, reading
from caft_lens.model.lens import Lens
from caft_lens.text.batching import Scan
from caft_lens.text.documents import Texts
from caft_lens.text.encoding import encoded, special_ids
from caft_lens.text.token_strings import pieces

if TYPE_CHECKING:
    from sae_lens import SAE

CONFIDENCE = 0.95


def halves(texts: Texts | Iterable[Any], *, seed: int = 0, share: float = 0.5) -> tuple[Texts, Texts]:
    """Part a corpus in two: one to explain with, one to score on.

    By what a text says, not by its place: copies of a text go to one side, and another order changes nothing.

    Args:
        texts: The corpus.
        seed: Of the draw.
        share: Of the first part, about.

    Returns:
        Both parts, each in order.

    Raises:
        ValueError: When one of them would be empty.

    Example:
        >>> first, second = halves(["a rose", "a palm", "a rose", "a fern", "an oak"], seed=1)
        >>> len(first) + len(second), bool({text.text for text in first} & {text.text for text in second})
        (5, False)
    """
    texts = texts if isinstance(texts, Texts) else Texts(texts)
    first = [fraction(seed, text) < share for text in texts]
    if all(first) or not any(first):
        raise BadArgument(f"share={share} of {len(texts)} texts leaves one part empty: give more, or another share.")
    return texts.filter(lambda text: fraction(seed, text) < share), texts.filter(
        lambda text: fraction(seed, text) >= share
    )


@dataclass(frozen=True)
class HeldOutWindows:
    """Which windows of held-out texts explanations are asked about.

    Attributes:
        n: Windows of each kind, active and inactive, at most.
        window: How many tokens before and after, as the contexts were found with.
        rank: `"peak"`, or `"mean"` for the mean activation in a window at both ends.
        share: Which share of the windows counts as active.
        sample: How many texts to draw windows from, at most.
        seed: Of the windows: two explanations of one end are asked of the same ones.

    Raises:
        ValueError: For an unknown rank, `n` below 2, or a share outside of 0 to 0.5.
    """

    n: int = 50
    window: tuple[int, int] = (12, 6)
    rank: Rank = "peak"
    share: float = 0.1
    sample: int = 4000
    seed: int = 0

    def __post_init__(self) -> None:
        one_of(self.rank, "rank", RANKS)
        count(self.n, "n", least=2)
        number(self.share, "share", above=0, most=0.5)


@dataclass(frozen=True)
class LLMJudge:
    """An LLM that decides by the text of an explanation which windows are active, and how it is asked.

    Attributes:
        llm: Who is asked.
        at_once: How many windows it is shown at once.
        dry_run: Send nothing: `detection` gives the exact requests, with an estimate of tokens and cost.
    """

    llm: LLM
    at_once: int = 10
    dry_run: bool = False


@takes_values
def detection(
    lens: Lens,
    explanations: Explanations,
    concepts: ConceptSet | SAE | Sequence[SAE],
    texts: Texts | Iterable[Any],
    *,
    saes: SAE | Sequence[SAE] | None = None,
    judge: LLM | LLMJudge | None = None,
    roles: Sequence[str] | None = None,
    windows: HeldOutWindows = HeldOutWindows(),
    scan: Scan = Scan(),
) -> Explanations | Plan:
    """Score explanations by how well they tell active windows from inactive ones, on texts they were not made from.

    Every held-out text gives one random window. At the top end a window's activity is the highest activation in it, at
    the bottom end the lowest one, turned around. Active are windows drawn from the most active tenth (of a latent,
    where it is active at all), as many inactive ones from below the median. Each end is scored apart; chance is 0.5.

    Args:
        lens: The model that reads.
        explanations: From `explain` or `explain_with`.
        concepts: A set that holds the concepts that are explained, or SAEs, as the contexts were found with.
        texts: Held-out texts: the other half of `halves`.
        saes: SAEs whose latents are among a set of concepts: these are read by latent activation, as by `contexts`.
        judge: An LLM that decides by the text of an explanation, or an `LLMJudge`; `None` for the explanation's rule.
        roles: As the contexts were found with.
        windows: Which windows are asked about.
        scan: As the contexts were found with.

    Returns:
        The explanations with their `score`, `None` where no window of a kind was answered. The interval is Newcombe's
        (1998) for the mean of two shares, from Wilson's for each. For a judge with `dry_run`, a `Plan`.

    Raises:
        ValueError: When a text is one that was explained, an explanation has no rule and there is no judge, the
            concepts do not fit the model, or there are too few texts.
        UnknownName: When an explained concept is not in the set, with the nearest.

    Example:
        >>> explanations = cl.inspect.explain(base, contexts, corpus)
        >>> scored = cl.inspect.detection(base, explanations, concepts, held_out)
        >>> 0 <= scored["L1.pc0"].top.score.accuracy <= 1
        True

    Source:
        Paulo et al., "Automatically interpreting millions of features" (arXiv 2410.13928), section 3.2.
    """
    texts = texts if isinstance(texts, Texts) else Texts(texts)
    asked = judge if isinstance(judge, LLMJudge) or judge is None else LLMJudge(judge)
    _check(explanations, texts, asked)
    _warn_of_another_reading(lens, explanations)
    read = reading(lens, concepts, saes)
    for name in explanations:
        if name not in read.names:
            raise UnknownName(f'"{name}" is explained, but not among these concepts.{nearest(name, read.names)}')
    read = read.only(explanations)
    activity = WindowActivity(
        read.rows,
        {hook: (sae, read.numbers[hook]) for hook, sae in read.saes.items()},
        size=windows.sample, window=windows.window, rank=windows.rank, seed=windows.seed,
    )  # fmt: skip
    stream(lens, texts, activity.hooks, activity, roles=roles, scan=scan)
    found = activity.sample()
    drawn = [_drawn(_activity(one, read, found), one.concept in read.latents, windows) for one in explanations.all]
    needed = {row for rows, _ in drawn for row in rows}
    shown = _contexts(lens.need_tokenizer(), texts, found, needed, windows.window, scan.max_length)
    parts = [[shown[row] for row in rows] for rows, _ in drawn]
    said: list[list[bool | None]]
    if asked is None:
        said = [[*map(one.predicts, part)] for one, part in zip(explanations.all, parts, strict=True)]
    elif asked.dry_run:
        return asked.llm.plan(judgement_requests(explanations.all, parts, asked.at_once))
    else:
        said = judged(asked.llm, explanations.all, parts, asked.at_once)
    name = "rule" if asked is None else asked.llm.name
    scored = [
        dataclasses.replace(one, score=_score(answers, truth, name))
        for one, answers, (_, truth) in zip(explanations.all, said, drawn, strict=True)
    ]
    return Explanations(scored, explanations.explained, explanations.about)


def _warn_of_another_reading(lens: Lens, explanations: Explanations) -> None:
    before, now = explanations.about.get("reading"), read_by(lens).get("reading")
    if before and now and before != now:
        warnings.warn(
            f"These explanations are of contexts that were read with another tokenizer or chat template than "
            f"{lens.name!r} reads with: a low score may come of that alone. Explain contexts that this model read.",
            stacklevel=3,
        )


def _check(explanations: Explanations, texts: Texts, judge: LLMJudge | None) -> None:
    """Refuse what would be found out only after the pass."""
    if not explanations:
        raise BadData("There is no explanation to score: `explain` makes them.")
    silent = [one for one in explanations.all if one.by != ENRICHMENT]
    if silent and judge is None:
        raise BadData(
            f'The explanation of "{silent[0].concept}" by {silent[0].by} has no rule that could predict: give judge=, '
            "an LLM that reads it."
        )
    again = sum(identity(text) in explanations.explained for text in texts) if explanations.explained else 0
    if again:
        raise BadData(
            f"{again} of these {len(texts)} texts were used for explaining, so that the score would be of memory: "
            f"part the corpus before (`halves`), find contexts and explain on the first part, and give the second."
        )


def _activity(one: Explanation, read: Reading, found: Sample) -> NDArray[np.float32]:
    """How active the end of a concept is in each window, `[n]`."""
    if one.concept in read.latents:
        hook, latent = read.latents[one.concept]
        column = (len(read.rows[hook]) if hook in read.rows else 0) + read.numbers[hook].index(latent)
    else:
        hook, column = read.row_of[one.concept]
    return found.high[hook][:, column] if one.end == "top" else -found.low[hook][:, column]


def _drawn(values: NDArray[np.float32], sparse: bool, windows: HeldOutWindows) -> tuple[list[int], list[bool]]:
    """Rows of the sample to ask about, in random order, and which of them are active."""
    order = np.argsort(-values, kind="stable")
    high, low = order[: math.floor(windows.share * len(order))], order[math.ceil(len(order) / 2) :]
    high = high[values[high] > 0] if sparse else high
    size = min(windows.n, len(high), len(low))
    if size < 2:
        found = f"{len(order)} texts with a window give {len(high)} active ones (share={windows.share})"
        raise BadData(f"{found}: too few. Give more texts.")
    rng = np.random.default_rng(windows.seed)
    rows = np.concatenate([rng.choice(high, size, replace=False), rng.choice(low, size, replace=False)])
    shuffled = rng.permutation(2 * size)
    return rows[shuffled].tolist(), (shuffled < size).tolist()


def _contexts(
    tokenizer: Any, texts: Texts, found: Sample, rows: set[int], window: tuple[int, int], max_length: int | None
) -> dict[int, Context]:
    """The windows of some rows of the sample."""
    ordered = sorted(rows)
    sources = [int(found.index[row]) for row in ordered]
    known = special_ids(tokenizer)
    contexts = {}
    items = encoded(tokenizer, (texts[source] for source in sources), max_length=max_length)
    for row, source, item in zip(ordered, sources, items, strict=True):
        position = int(found.position[row])
        inside = around(position, window, len(item.input_ids))
        ids = item.input_ids[inside]
        contexts[row] = Context(
            tokens=tuple(pieces(tokenizer, ids)),
            activations=(None,) * len(ids),
            peak=position - inside.start,
            value=math.nan,
            index=source,
            position=position,
            special=tuple(token in known for token in ids),
            cut=(inside.start > 0, inside.stop < len(item.input_ids)),
            meta=texts[source].meta,
        )
    return contexts


def _score(said: Sequence[bool | None], truth: Sequence[bool], judge: str) -> DetectionScore | None:
    answered = [(answer, true) for answer, true in zip(said, truth, strict=True) if answer is not None]
    right = {active: [answer == true for answer, true in answered if true is active] for active in (True, False)}
    if not all(right.values()):
        return None
    low, high = balanced_interval({active: (sum(ones), len(ones)) for active, ones in right.items()})
    sensitivity, specificity = (sum(right[active]) / len(right[active]) for active in (True, False))
    counts = {"active": len(right[True]), "inactive": len(right[False]), "unanswered": len(said) - len(answered)}
    accuracy = (sensitivity + specificity) / 2
    return DetectionScore(accuracy, low, high, sensitivity, specificity, **counts, judge=judge)


def balanced_interval(counts: Mapping[bool, tuple[int, int]]) -> tuple[float, float]:
    """The 95 % interval of a balanced accuracy: the mean of two independent shares.

    Args:
        counts: For active and for inactive windows, how many were right and how many there were.

    Source:
        Newcombe, "Interval estimation for the difference between independent proportions" (1998), method 10.

    Example:
        >>> balanced_interval({True: (50, 50), False: (50, 50)})
        (0.9495..., 1.0)
    """
    from scipy.stats import binomtest

    mean, below, above = 0.0, 0.0, 0.0
    for right, of in counts.values():
        ends = binomtest(right, of).proportion_ci(CONFIDENCE, method="wilson")
        mean += right / of / 2
        below += (right / of - ends.low) ** 2
        above += (ends.high - right / of) ** 2
    return max(0.0, mean - math.sqrt(below) / 2), min(1.0, mean + math.sqrt(above) / 2)
