"""How contexts are shown: one line a context, tokens shaded by activation, both ends of a concept side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from caft_lens.display.html import (
    KEY,
    Content,
    element,
    end,
    note,
    rows,
    section,
    side_by_side,
    signed,
    together,
    token,
    view,
    visible,
)

if TYPE_CHECKING:
    from caft_lens.inspect.contexts import ConceptContexts, Context

__all__ = ["page", "signed", "token", "visible"]

DEAD = "dead on these texts: never active at a token that was asked for"
VALUES = {
    "peak": "The number is the activation at the underlined token.",
    "mean": "The number is the mean activation over the text; underlined is its most extreme token.",
}


def page(
    concepts: Iterable[ConceptContexts], n: int, meta: Sequence[str] = (), notes: Sequence[str] = ()
) -> str:
    """The contexts of some concepts as one piece of HTML.

    Args:
        concepts: What to show, in order.
        n: How many contexts at each end.
        meta: Which keys of a text's `meta` to show beside its number.
        notes: Lines above.
    """
    items = list(concepts)
    said = [VALUES[rank] for rank in dict.fromkeys(item.rank for item in items)]
    return view(
        [note(words) for words in notes],
        [_concept(item, n, meta) for item in items],
        also=" ".join([*said, KEY]) if items else "",
    )


def _concept(item: ConceptContexts, n: int, meta: Sequence[str]) -> Content:
    concept = item.concept
    score = f"{concept.score_name} {concept.score:.3g}" if concept.score_name else ""
    if item.dead:
        return section(concept.name, concept.label, [concept.hook, concept.reason], note(DEAD))
    shown = [*item.top[:n], *item.bottom[:n]]
    values = (abs(a) for context in shown for a in context.activations if a is not None)
    scale = max(values, default=0.0) or 1.0
    top = _end("top", "most active" if item.by == "latent" else "top, highest", item.top[:n], scale, meta)
    # A latent has one end, which gets the whole width.
    ends = (
        top
        if item.by == "latent"
        else side_by_side(top, _end("bottom", "bottom, lowest", item.bottom[:n], scale, meta))
    )
    return section(concept.name, concept.label, [concept.hook, score, concept.reason], ends)


def _end(kind: str, title: str, contexts: Sequence[Context], scale: float, meta: Sequence[str]) -> Content:
    lines = rows((signed(context.value), _words(context, scale, meta)) for context in contexts)
    return together(element("div", end(kind, title)), lines or "nothing")


def _words(context: Context, scale: float, meta: Sequence[str]) -> Content:
    before, after = ("…" if cut else "" for cut in context.cut)
    said = zip(context.tokens, context.activations, context.special, strict=True)
    tokens = [
        token(text, activation, scale, peak=place == context.peak, special=special)
        for place, (text, activation, special) in enumerate(said)
    ]
    stated = [f"{key} {context.meta[key]}" for key in meta if key in context.meta]
    source = " · ".join([f"text {context.index}", *stated])
    return [before, tokens, after, " ", element("small", source, style="opacity:.75")]
