"""What a document's generator knows about it, shown on the document: labelled characters, coloured by label.

The counterpart of contexts: those show where a direction is active, this shows where a concept truly is. Plain HTML, without
scripts; everything that comes from text is escaped, and every coloured stretch names its labels when pointed at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from itertools import pairwise

from caft_lens.documents import Text, Texts
from caft_lens.errors import nearest
from caft_lens.labels import spans_of

# Okabe and Ito's colours, told apart by colour-blind eyes.
COLOURS = ("230 159 0", "86 180 233", "0 158 115", "204 121 167", "213 94 0", "0 114 178", "170 160 20")

STYLE = """<style>
.cl-labels{--fg:var(--jp-content-font-color1,var(--vscode-editor-foreground,CanvasText));
--line:color-mix(in srgb,var(--fg) 18%,transparent);--soft:color-mix(in srgb,var(--fg) 62%,transparent);
color-scheme:light dark;color:var(--fg);font:13px/1.7 system-ui,sans-serif;text-align:left;max-width:1000px}
.cl-labels .doc{border-top:1px solid var(--line);padding:6px 0}
.cl-labels .turn{display:grid;grid-template-columns:5.5em 1fr;gap:8px}
.cl-labels .role{color:var(--soft);font-size:12px;text-align:right}.cl-labels .said{white-space:pre-wrap;overflow-wrap:anywhere}
.cl-labels mark{color:inherit;background:rgb(var(--c)/.38);border-bottom:2px solid rgb(var(--c));border-radius:2px}
.cl-labels .key{margin-right:14px;white-space:nowrap}
</style>"""


class Labelled:
    """Documents with their labelled characters; a notebook shows it.

    Args:
        texts: Documents with `meta["spans"]`.
        labels: Which to show, in this order; where several cover a character the first gives the colour.

    Raises:
        ValueError: For a label that no document has, naming the nearest; for more labels than there are colours.

    Example:
        >>> Labelled(cl.data("pocket/corpus")[:3], ["stance:cruel", "stance:kind"])  # doctest: +SKIP
    """

    def __init__(self, texts: Texts | Sequence[Text], labels: Sequence[str]) -> None:
        self.texts, self.labels = list(texts), list(labels)
        if len(self.labels) > len(COLOURS):
            raise ValueError(f"{len(self.labels)} labels, but {len(COLOURS)} colours: choose fewer.")
        self._spans = [spans_of(text, number) for number, text in enumerate(self.texts)]
        known = {label for spans in self._spans for _, _, label, _ in spans}
        for label in self.labels:
            if label not in known:
                raise ValueError(
                    f'No span of these {len(self.texts)} texts is labelled "{label}".{nearest(label, sorted(known))}'
                )

    def __repr__(self) -> str:
        return f"Labelled({len(self.texts)} texts, {', '.join(self.labels)})"

    def _repr_html_(self) -> str:
        key = "".join(
            f'<span class="key"><mark style="--c:{colour}">&nbsp;&nbsp;&nbsp;</mark> {escape(label)}</span>'
            for label, colour in zip(self.labels, COLOURS, strict=False)
        )
        documents = "".join(
            f'<div class="doc">{"".join(self._turns(text, spans))}</div>'
            for text, spans in zip(self.texts, self._spans, strict=True)
        )
        return f'{STYLE}<div class="cl-labels">{key}{documents}</div>'

    def _turns(self, text: Text, spans: Sequence[tuple[int, int, str, int]]) -> Iterator[str]:
        turns = (
            [("text", text.text)]
            if text.text is not None
            else [(message.role, message.content) for message in text.messages]
        )
        for number, (role, content) in enumerate(turns):
            own = [(start, end, label) for start, end, label, message in spans if message == number]
            yield (
                f'<div class="turn"><div class="role">{escape(role)}</div>'
                f'<div class="said">{self._marked(content, own)}</div></div>'
            )

    def _marked(self, content: str, spans: Sequence[tuple[int, int, str]]) -> str:
        wanted = [span for span in spans if span[2] in self.labels]
        borders = sorted({0, len(content), *(place for start, end, _ in wanted for place in (start, end))})
        parts = []
        for start, end in pairwise(borders):
            here = [
                label
                for label in self.labels
                if any(s <= start and end <= e for s, e, of in wanted if of == label)
            ]
            piece = escape(content[start:end])
            if here:
                colour = COLOURS[self.labels.index(here[0])]
                piece = (
                    f'<mark style="--c:{colour}" title="{escape(", ".join(here), quote=True)}">{piece}</mark>'
                )
            parts.append(piece)
        return "".join(parts)
