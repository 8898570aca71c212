"""What the page of an audit says: the table, its figure, contexts, rows and flags, as parts of a report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from caft_lens.audit.rows import Flags, Rows
from caft_lens.audit.showing import captions, cells
from caft_lens.choose.choice import Choice, explained
from caft_lens.display import html
from caft_lens.display.report import Heading, Part, Picture, Table, Words
from caft_lens.display.token_lines import DEAD, Line, marked
from caft_lens.inspect.contexts import Contexts

if TYPE_CHECKING:
    import pandas
    from plotly.graph_objects import Figure

FLAGGED = 10
"""Rows that are shown of those that stand out."""


def opening(about: Mapping[str, Any]) -> Iterator[Part]:
    """What was asked of what."""
    data = about["data"]
    against = f" Reference: {data['against']['name'] or 'texts'}." if "against" in data else ""
    yield Words(
        f"{about['model']} before any training, on {data['texts']['name'] or 'texts'}: {about['rows']:,} rows, "
        f"{about['tokens']:,} learned tokens, mean loss {about['loss']:.3f} nats.{against}"
    )
    yield Words(
        "Concepts that this data would teach; families of signals take turns in the order. A signal says what training "
        "would move; whether that is unwanted, reading says."
    )


def concepts(
    frame: pandas.DataFrame,
    signals: Sequence[str],
    figure: Figure,
    choice: Choice | None,
    explanations: Mapping[str, Any] | None,
) -> Iterator[Part]:
    """The table and its figure."""
    yield Heading("Concepts")
    head, rows = cells(frame, signals)
    extra: dict[str, dict[str, str]] = {}
    if explanations is not None:
        extra["explained as"] = {row[0]: explained(explanations, row[0], "top") for row in rows}
    if choice is not None:
        verdicts = {one.name: f"{'ablate' if one.ablate else 'leave'}: {one.reason}" for one in choice}
        extra["suggested"] = {row[0]: verdicts.get(row[0], "") for row in rows}
    more = [[of[row[0]] for of in extra.values()] for row in rows]
    body = [[*row[:2], *said, *row[2:]] for row, said in zip(rows, more, strict=True)]
    yield Table([*head[:2], *extra, *head[2:]], body, numbers=2 + len(extra))
    yield Words(" ".join(f"{name}: {words}." for name, words in captions(signals)), quiet=True)
    yield Picture("signals", figure, "The first concepts, and where all others lie.")
    if choice is not None:
        yield Words(f"Suggested by {choice.by}.", quiet=True)


def contexts(found: Contexts, corpus: str) -> Iterator[Part]:
    """Where the concepts are most and least active."""
    yield Heading("Where they are active")
    yield Words(f"In {corpus or 'texts'}. The strongest token of each stands in double brackets.", quiet=True)
    for name, both in found.items():
        ends = both.shown().ends
        rows = [[_line(line), title, html.signed(line.value)] for _, title, lines in ends for line in lines]
        yield Table(["text", "end", "activation"], rows or [[DEAD, "", ""]], numbers=2, folded=name)


def rows(found: Rows) -> Iterator[Part]:
    """The rows that push the concepts most."""
    yield Heading("Rows that push them most")
    yield Words(
        "The push of the whole row in nats, for a move by the typical length of an activation; the token that pushes "
        "most stands in double brackets.",
        quiet=True,
    )
    for name, lines in found.items():
        body = [[_line(line), str(line.text), html.signed(line.value)] for line in lines]
        yield Table(["text", "row", "push"], body, numbers=1, folded=name)


def flags(found: Flags) -> Iterator[Part]:
    """The rows that stand out from the reference."""
    yield Heading("Rows that stand out from the reference")
    yield Words(
        f"{len(found):,} of {len(found.scores):,} rows are flagged by {found.by}, at a false discovery rate of "
        f"{found.fdr:g}: on average at most that share of the flags are rows like the reference's."
    )
    table = found.table(FLAGGED).to_dict("records")
    body = [
        [row["answer"], "yes" if row["flagged"] else "no", str(row["row"]), f"{row['score']:.3g}", f"{row['q']:.2g}"]
        for row in table
    ]
    yield Table(["answer", "flagged", "row", "score", "q"], body, numbers=2)


def _line(line: Line) -> str:
    return html.visible(marked(line.tokens, line.peak, line.cut))
