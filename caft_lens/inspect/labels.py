"""What a document's generator knows about it, shown on the document: where a concept truly is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from caft_lens._support.errors import BadArgument, BadData, nearest
from caft_lens.display import html
from caft_lens.text.documents import Text, Texts
from caft_lens.text.labels import spans_of


class Labelled:
    """Documents with their labelled characters; a notebook shows it, each stretch with the numbers of its labels.

    Args:
        texts: Documents with `meta["spans"]`.
        labels: Which to show, in this order; where several cover a character the first gives the colour.

    Raises:
        ValueError: For a label that no document has, naming the nearest; for more labels than there are colours.

    Example:
        >>> Labelled(cl.data("pocket/corpus")[:1], ["stance:neutral"])
        Labelled(1 texts, stance:neutral)
    """

    def __init__(self, texts: Texts | Sequence[Text], labels: Sequence[str]) -> None:
        self.texts, self.labels = list(texts), list(labels)
        if len(self.labels) > len(html.LABELS):
            raise BadArgument(f"{len(self.labels)} labels, but {len(html.LABELS)} colours: choose fewer.")
        self._spans = [spans_of(text, number) for number, text in enumerate(self.texts)]
        known = {label for spans in self._spans for _, _, label, _ in spans}
        for label in self.labels:
            if label not in known:
                close = nearest(label, sorted(known))
                raise BadData(f'No span of these {len(self.texts)} texts is labelled "{label}".{close}')

    def __repr__(self) -> str:
        return f"Labelled({len(self.texts)} texts, {', '.join(self.labels)})"

    def _repr_html_(self) -> str:
        key = [
            [html.element("u", f"{number} {label}", style=f"background:{colour};padding:0 4px"), "   "]
            for number, (label, colour) in enumerate(zip(self.labels, html.LABELS, strict=False), 1)
        ]
        documents = [
            html.element("div", html.rows(self._turns(text, spans), "6em"), style="margin:8px 0")
            for text, spans in zip(self.texts, self._spans, strict=True)
        ]
        return html.view(key, documents)

    def _turns(
        self, text: Text, spans: Sequence[tuple[int, int, str, int]]
    ) -> Iterator[tuple[html.Content, html.Content]]:
        chat = [(message.role, message.content) for message in text.messages]
        turns = chat if text.text is None else [("text", text.text)]
        for number, (role, content) in enumerate(turns):
            own = [(start, end, label) for start, end, label, message in spans if message == number]
            yield html.element("small", role), self._marked(content, own)

    def _marked(self, content: str, spans: Sequence[tuple[int, int, str]]) -> html.Content:
        wanted = [span for span in spans if span[2] in self.labels]
        borders = sorted({0, len(content), *(place for start, end, _ in wanted for place in (start, end))})
        parts: list[html.Content] = []
        for start, end in pairwise(borders):
            here = [
                number
                for number, label in enumerate(self.labels)
                if any(s <= start and end <= e for s, e, of in wanted if of == label)
            ]
            piece: html.Content = content[start:end]
            if here:
                style = f"background:{html.LABELS[here[0]]}"
                named = ", ".join(self.labels[number] for number in here)
                numbers = ",".join(str(number + 1) for number in here)
                piece = [html.element("u", piece, style=style, title=named), html.element("sup", numbers)]
            parts.append(piece)
        return parts
