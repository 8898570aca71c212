"""What an explanation is: a sentence about one end of a direction, what it rests on, its rule, and its score."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import pandas
from pydantic import AfterValidator, Field

from caft_lens._support.by_name import ByName
from caft_lens._support.errors import BadArgument, BadData, BadFile, nearest
from caft_lens._support.files import Count, Record, naming, parsed, read_json, write_json
from caft_lens.display import html
from caft_lens.display.dots import Dots, dot_rows
from caft_lens.display.frames import Frame
from caft_lens.inspect.context_windows import Context
from caft_lens.inspect.explain.windows import phrases

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

FORMAT = "caft_lens.explanations/1"
ENRICHMENT = "enrichment"
End = Literal["top", "bottom"]
ENDS: tuple[End, ...] = get_args(End)
Share = Annotated[float, Field(ge=0, le=1)]
Some = Annotated[int, Field(ge=1)]
SCALARS = (str, int, float, bool)
WHERE = {
    "at": "at",
    "before": "before the peak",
    "after": "after the peak",
    "near": "near",
    "role": "role",
    "position": "place",
}
LONGEST_VALUE = 80  # a longer string in a column is text, not a value that texts share


@dataclass(frozen=True)
class Finding:
    """Something that contexts have more often than the corpus.

    Attributes:
        place: `"at"` the peak; `"before"` or `"after"` it or anywhere `"near"`, within the window; `"role"` and
            `"position"` of the peak; `"column"` of the text.
        value: The token or phrase in lower case, the role, the quarter of the text, or the value of the column.
        column: Name of the column.
        count: Contexts that have it.
        of: Contexts.
        background: How often the corpus has it: tokens, for phrases random windows, for columns texts.
        background_of: Of how many tokens, windows or texts.
        lift: Share of the contexts over share of the corpus, half a count added to each so that it is finite.
        p: Of the exact hypergeometric test that contexts have it no more often, one-sided.
        q: `p` corrected over all candidates of this end of the concept (Benjamini and Hochberg).
    """

    place: str
    value: str
    count: Count
    of: Some
    background: Count
    background_of: Some
    lift: float
    p: Share
    q: Share
    column: str = ""

    @property
    def share(self) -> float:
        """Share of the contexts."""
        return self.count / self.of

    @property
    def background_share(self) -> float:
        """Share of the corpus."""
        return self.background / self.background_of

    @property
    def text(self) -> str:
        """What it is and where, in words.

        Example:
            >>> Finding("before", "a pie", 9, 10, 3, 1000, 250.0, 1e-9, 1e-7).text
            'before the peak "a pie"'
        """
        return f"{self.column} = {self.value}" if self.column else f"{WHERE[self.place]} {quoted(self.value)}"

    def __str__(self) -> str:
        return f"{self.text} ({self.count} of {self.of}; {share(self.background, self.background_of)})"


@dataclass(frozen=True)
class Clause:
    """One condition of a rule, a phrase in the window or a value of a column of the text, and what it adds."""

    value: str
    weight: float
    column: str = ""


@dataclass(frozen=True)
class DetectionScore:
    """How well an explanation tells windows that it has not seen: active ones from inactive ones.

    Attributes:
        accuracy: Balanced: the mean of `sensitivity` and `specificity`; 0.5 by chance.
        low, high: Ends of its 95 % interval.
        sensitivity: Share of the active windows that are called active.
        specificity: Share of the inactive windows that are not.
        active, inactive: How many windows of each were answered.
        unanswered: How many were not.
        judge: Who decided: `"rule"`, or the name of an LLM.
    """

    accuracy: Share
    low: Share
    high: Share
    sensitivity: Share
    specificity: Share
    active: Count
    inactive: Count
    unanswered: Count = 0
    judge: str = "rule"

    def __str__(self) -> str:
        return f"{self.accuracy:.2f} ({self.low:.2f} to {self.high:.2f})"


@dataclass(frozen=True)
class Explanation:
    """What one end of a concept responds to.

    Attributes:
        concept: Name of the concept.
        end: `"top"` or `"bottom"`.
        text: The explanation as a sentence.
        n: How many contexts were explained.
        findings: What it rests on, the most surprising first; none when an LLM wrote it.
        rule: A window is called active when the weights of the clauses that hold, and `bias`, sum to more than 0.
        bias: See `rule`.
        by: Who wrote it: `"enrichment"` or the name of an LLM.
        score: Filled by `detection`.
    """

    concept: str
    end: End
    text: str
    n: Count
    findings: tuple[Finding, ...] = ()
    rule: tuple[Clause, ...] = ()
    bias: float = -1.0
    by: str = ENRICHMENT
    score: DetectionScore | None = None

    def predicts(self, context: Context) -> bool:
        """Whether the rule calls a window active, by its tokens and the `meta` of its text; never without a rule.

        Example:
            >>> pie = Explanation("L1.pc0", "top", 'near "pie"', 20, rule=(Clause("a pie", 2.0),))
            >>> pie.predicts(Context((" bake", " a", " pie"), (None,) * 3, 1, 0.0, 0, 1, (False,) * 3))
            True
        """
        said = {phrase for _, _, phrase in phrases(context.tokens, context.special)}
        stated = set(column_values(context.meta))
        holding = (
            clause.weight
            for clause in self.rule
            if ((clause.column, clause.value) in stated if clause.column else clause.value in said)
        )
        return sum(holding, self.bias) > 0

    def __str__(self) -> str:
        return f"{self.concept} {self.end}: {self.text}{f'  [{self.score}]' if self.score else ''}"


@dataclass(frozen=True)
class ConceptExplanations:
    """Both ends of one concept; `None` for an end that was not explained."""

    concept: str
    top: Explanation | None = None
    bottom: Explanation | None = None

    def __iter__(self) -> Iterator[Explanation]:
        return iter([one for one in (self.top, self.bottom) if one is not None])


class Explanations(ByName[ConceptExplanations]):
    """Explanations of a set of concepts, by name.

    Args:
        items: Of any concepts and ends, each at most once.
        explained: What the texts say whose contexts were read, as fingerprints: `detection` refuses to score on these.
        about: Which model read the contexts: its `model`, `fingerprint` and `reading`, as `Contexts.about` has them.

    Raises:
        ValueError: When an end of a concept is explained twice.

    Example:
        >>> found = Explanations([Explanation("L1.pc0", "top", 'at "pie"', 20)])
        >>> found["L1.pc0"].top.text, found.labels()
        ('at "pie"', {'L1.pc0': 'top: at "pie"'})
    """

    _what = "explanation"

    def __init__(
        self, items: Iterable[Explanation], explained: Iterable[str] = (), about: Mapping[str, str] | None = None
    ) -> None:
        self.about = dict(about or {})
        self._items: dict[str, ConceptExplanations] = {}
        self.explained = frozenset(explained)
        for item in items:
            if item.end not in ENDS:
                raise BadArgument(f'"{item.end}" is no end of a concept.{nearest(item.end, ENDS)}')
            both = self._items.get(item.concept, ConceptExplanations(item.concept))
            if getattr(both, item.end) is not None:
                raise BadArgument(f'The {item.end} end of "{item.concept}" is explained twice.')
            changed: dict[str, Any] = {item.end: item}
            self._items[item.concept] = dataclasses.replace(both, **changed)

    @property
    def all(self) -> list[Explanation]:
        """Every end of every concept, in order."""
        return [one for both in self.values() for one in both]

    def labels(self, end: End | None = None) -> dict[str, str]:
        """The explanations as labels, for `ConceptSet.label`.

        Args:
            end: Only this end, without naming it.

        Example:
            >>> explanations = cl.inspect.explain(base, contexts, corpus)
            >>> concepts.label(explanations.labels())["L2.pc2"].label[:40]
            'top: at "<|user|>" (10 of 10 peaks; 1.8 '
        """
        if end is not None:
            return {one.concept: one.text for one in self.all if one.end == end}
        return {name: "; ".join(f"{one.end}: {one.text}" for one in both) for name, both in self.items()}

    def table(self) -> pandas.DataFrame:
        """One row per concept and end: the explanation, who wrote it, and its score where there is one."""
        figures = [one.name for one in dataclasses.fields(DetectionScore)]
        rows = []
        for one in self.all:
            known = {"concept": one.concept, "end": one.end, "explanation": one.text, "by": one.by, "contexts": one.n}
            rows.append({**known, **{name: getattr(one.score, name, None) for name in figures}})
        return Frame(rows)

    def plot(self, title: str | None = None) -> Figure:
        """Draw the detection accuracy of both ends of each concept, with 95 % intervals, the best explained first.

        Args:
            title: Above the figure, which the last line of a cell shows and `.save(path)` keeps.

        Raises:
            ValueError: When no explanation has a score.
        """
        kinds = []
        for end in ENDS:
            scored = {one.concept: one.score for one in self.all if one.end == end and one.score}
            values = {name: score.accuracy for name, score in scored.items()}
            ends = {name: (score.low, score.high) for name, score in scored.items()}
            texts = {one.concept: one.text for one in self.all if one.end == end and one.score}
            kinds += [Dots(f"{end} end", values, ends, texts)] if scored else []
        if not kinds:
            raise BadData("None of these explanations is scored: `detection` scores them.")
        own = "each explanation's own rule"
        judges = dict.fromkeys(one.score.judge for one in self.all if one.score)
        judged = " and ".join(own if judge == "rule" else judge for judge in judges)
        return dot_rows(
            kinds,
            x_label="balanced accuracy of telling active windows from inactive ones",
            title=title,
            caption=f"Judged by {judged}, on texts that were not explained; bars: 95 % intervals.",
            line=(0.5, "chance"),
        )

    def findings(self) -> pandas.DataFrame:
        """One row per finding, with counts, lift, p and q."""
        return Frame(
            {"concept": one.concept, "end": one.end, **dataclasses.asdict(finding)}
            for one in self.all
            for finding in one.findings
        )

    def save(self, path: str | Path) -> Path:
        """Write JSON that `load` reads back, atomically; returns the path."""
        rows = [dataclasses.asdict(one) for one in self.all]
        kept: dict[str, Any] = {"format": FORMAT, "explained": sorted(self.explained), "explanations": rows}
        write_json(path, {**kept, **({"read_by": self.about} if self.about else {})})
        return Path(path)

    @classmethod
    def load(cls, path: str | Path) -> Explanations:
        """Read what `save` wrote.

        Raises:
            MissingFile: When there is no such file.
            BadFile: When it is truncated, changed, or of another kind, with the field; a `ValueError`.
        """
        kept = read_json(path)
        if not isinstance(kept, dict) or kept.get("format") != FORMAT:
            raise BadFile(f"{path} holds no explanations ({FORMAT}).")
        record = parsed(kept, _File, str(path), "a file of explanations")
        with naming(path):
            return cls(record.explanations, record.explained, record.read_by)

    def __repr__(self) -> str:
        return "\n".join(map(str, self.all))

    def _repr_html_(self) -> str:
        return html.view(html.section(both.concept, "", [], map(_end, both)) for both in self.values())


def _counted(one: Explanation) -> Explanation:
    """Refuse figures that no explanation can have."""
    for finding in one.findings:
        if finding.place not in (*WHERE, "column"):
            raise BadData(f"the place {finding.place!r} is none of {', '.join((*WHERE, 'column'))}")
        if finding.count > finding.of or finding.background > finding.background_of:
            counts = f"{finding.count} of {finding.of} and {finding.background} of {finding.background_of}"
            raise BadData(f"{counts} are no counts")
    return one


class _File(Record):
    """What a file of explanations holds."""

    format: Literal["caft_lens.explanations/1"]
    explained: list[str]
    read_by: dict[str, str] | None = None
    explanations: list[Annotated[Explanation, AfterValidator(_counted)]]


def column_values(meta: Mapping[str, Any], columns: Sequence[str] | None = None) -> Iterator[tuple[str, str]]:
    """What a text says of itself, as pairs of column and value.

    A list has each of its values, a dict its own columns with a dot between. The spans of a generator are never read.

    Args:
        meta: Of a text.
        columns: Only these, by their name or the name before the first dot; all by default.

    Example:
        >>> meta = {"genre": "quiz", "topics": ["verbs", "sports"], "truth": {"verbs": {"number": "plural"}}}
        >>> list(column_values(meta))
        [('genre', 'quiz'), ('topics', 'verbs'), ('topics', 'sports'), ('truth.verbs.number', 'plural')]
    """
    for column, value in _scalars({key: value for key, value in meta.items() if key != "spans"}):
        named = columns is None or any(column == one or column.startswith(f"{one}.") for one in columns)
        if named and len(value) <= LONGEST_VALUE:
            yield column, value


def _scalars(meta: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for key, value in meta.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{before}{key}.")
        else:
            values = value if isinstance(value, (list, tuple)) else [value]
            yield from dict.fromkeys((f"{before}{key}", str(one)) for one in values if isinstance(one, SCALARS))


def quoted(text: str) -> str:
    """A token or phrase in quotation marks, line breaks shown as a sign."""
    return f'"{html.visible(text)}"'


def share(count: int, of: int) -> str:
    """A share in percent, two significant digits.

    Example:
        >>> share(3, 1000), share(0, 100), share(99, 100)
        ('0.3 %', '0 %', '99 %')
    """
    return f"{100 * count / of:.2g} %" if count < of else "100 %"


def _end(one: Explanation) -> html.Content:
    score: html.Content = "not scored"
    if one.score is not None:
        score = f"{one.score}: detection accuracy, 95 % interval, by {one.score.judge}; chance 0.50"
    said = [one.text, " ", html.element("small", f"({one.by}, {one.n} contexts; ", score, ")", style=html.SOFT)]
    return [html.rows([(html.end(one.end, one.end), said)], "7em"), _details(one.findings)]


def _details(findings: Sequence[Finding], n: int = 12) -> html.Content:
    if not findings:
        return None
    rows = [
        [
            one.text, f"{one.count} of {one.of}", share(one.background, one.background_of), f"{one.lift:.3g}",
            f"{one.q:.2g}",
        ]
        for one in findings[:n]
    ]  # fmt: skip
    table = html.table(["finding", "contexts", "corpus", "lift", "q"], rows, numbers=range(1, 5))
    more = f", the first {n}" if len(findings) > n else ""
    return html.element("details", html.element("summary", f"{len(findings)} enriched{more}"), table)
