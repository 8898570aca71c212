"""Windows of text at the ends of a concept, as HTML or as plain text: one line a window."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from caft_lens.display import html
from caft_lens.display.html import Content, element, note, section, signed, visible

DEAD = "dead on these texts: never active at a token that was asked for"


class Line(NamedTuple):
    """One window of tokens.

    Attributes:
        tokens: What each says, `[window]`.
        values: The activation at each, `None` where none was taken.
        special: Which of them are the template's.
        peak: Place of the token that the window is shown for.
        value: The number beside it.
        cut: Whether the text goes on before and after.
        text: Number of the text that it is of.
        stated: What is said of that text.
    """

    tokens: Sequence[str]
    values: Sequence[float | None]
    special: Sequence[bool]
    peak: int
    value: float
    cut: tuple[bool, bool]
    text: int
    stated: Sequence[str] = ()

    @property
    def source(self) -> str:
        """Which text it is, and what is said of it."""
        return " · ".join([f"text {self.text}", *self.stated])


class Shown(NamedTuple):
    """What is shown of one concept.

    Attributes:
        name: Of the concept.
        label: What it was called; possibly empty.
        hook: Its hook point.
        score: What it was ranked by, in words; possibly empty.
        reason: Why it was chosen; possibly empty.
        top: Its most active windows.
        bottom: Its least active windows; `None` for a latent, which has one end.
        number: What the number beside a window is.
        one_end: What the only end is called.
    """

    name: str
    label: str
    hook: str
    score: str
    reason: str
    top: Sequence[Line]
    bottom: Sequence[Line] | None
    number: str
    one_end: str = "most active"

    @property
    def dead(self) -> bool:
        """Whether it is a latent that was nowhere active."""
        return self.bottom is None and not self.top

    @property
    def ends(self) -> list[tuple[str, str, Sequence[Line]]]:
        """Kind, title and windows of each end."""
        if self.bottom is None:
            return [("top", self.one_end, self.top)]
        return [("top", "top, highest", self.top), ("bottom", "bottom, lowest", self.bottom)]


def page(concepts: Sequence[Shown], notes: Iterable[str] = ()) -> str:
    """The ends of some concepts as one piece of HTML.

    Args:
        concepts: What to show, in order.
        notes: Lines above.
    """
    said = dict.fromkeys(one.number for one in concepts)
    also = " ".join([*said, html.KEY]) if concepts else ""
    return html.view([note(words) for words in notes], [_concept(one) for one in concepts], also=also)


def plain(shown: Shown) -> str:
    """The ends of a concept as text, peaks in double brackets.

    Example:
        >>> line = Line((" bake", " a", " pie"), (0.1, None, 2.0), (False,) * 3, 2, 2.0, (True, False), 0)
        >>> print(plain(Shown("L1.pc0", "pies", "blocks.1.hook_resid_post", "", "", [line], [], "")))
        L1.pc0 pies at blocks.1.hook_resid_post
          top      +2.00  … bake a[[ pie]]
    """
    lines = [f"{shown.name}{f' {shown.label}' if shown.label else ''} at {shown.hook}"]
    if shown.dead:
        return f"{lines[0]}\n  {DEAD}"
    for kind, _, found in shown.ends:
        for one in found:
            words = " · ".join([visible(marked(one.tokens, one.peak, one.cut)), *one.stated])
            lines.append(f"  {kind:<6} {signed(one.value):>7}  {words}")
    return "\n".join(lines)


def marked(tokens: Sequence[str], peak: int, cut: tuple[bool, bool]) -> str:
    """A window as one string, the peak in double brackets.

    Example:
        >>> marked([" bake", " a", " pie"], 2, (True, False))
        '… bake a[[ pie]]'
    """
    words = [f"[[{one}]]" if place == peak else one for place, one in enumerate(tokens)]
    return f"{'…' * cut[0]}{''.join(words)}{'…' * cut[1]}"


def _concept(shown: Shown) -> Content:
    if shown.dead:
        return section(shown.name, shown.label, [shown.hook, shown.reason], note(DEAD))
    values = (abs(a) for _, _, lines in shown.ends for one in lines for a in one.values if a is not None)
    scale = max(values, default=0.0) or 1.0
    ends = [_end(kind, title, lines, scale) for kind, title, lines in shown.ends]
    # One end gets the whole width.
    content = ends[0] if len(ends) == 1 else html.side_by_side(*ends)
    return section(shown.name, shown.label, [shown.hook, shown.score, shown.reason], content)


def _end(kind: str, title: str, lines: Sequence[Line], scale: float) -> Content:
    shown = html.rows((signed(one.value), _words(one, scale)) for one in lines)
    return html.together(element("div", html.end(kind, title)), shown or "nothing")


def _words(line: Line, scale: float) -> Content:
    before, after = ("…" if cut else "" for cut in line.cut)
    said = zip(line.tokens, line.values, line.special, strict=True)
    tokens = [
        html.token(text, value, scale, peak=place == line.peak, special=special)
        for place, (text, value, special) in enumerate(said)
    ]
    return [before, tokens, after, " ", element("small", line.source, style="opacity:.75")]
