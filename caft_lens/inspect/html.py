"""How contexts are shown: one line a context, tokens shaded by activation, both ends of a concept side by side.

Plain HTML and CSS: nothing runs, so that a saved notebook shows what it showed. Orange is positive and blue negative (Okabe and
Ito's colours, told apart by colour-blind eyes); the token at the peak is bold and underlined, so that grey print and
viewers that drop styles still show it. Colours follow the theme of JupyterLab, VS Code or the system. Everything that comes
from text is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from caft_lens.inspect.contexts import ConceptContexts, Context

FAINT = 0.08  # below this share of the largest activation a token is left unshaded: it would hardly show

STYLE = """<style>
.cl-contexts{--pos:230 130 0;--neg:0 114 190;--fg:var(--jp-content-font-color1,var(--vscode-editor-foreground,CanvasText));
--bg:var(--jp-layout-color0,var(--vscode-editor-background,Canvas));--line:color-mix(in srgb,var(--fg) 18%,transparent);
--soft:color-mix(in srgb,var(--fg) 62%,transparent);color-scheme:light dark;color:var(--fg);background:var(--bg);
font:13px/1.55 system-ui,sans-serif;text-align:left;max-width:1200px}
@media (prefers-color-scheme:dark){body:not([data-jp-theme-light]):not(.vscode-light) .cl-contexts{--pos:214 118 0;--neg:20 120 215}}
body[data-jp-theme-light="false"] .cl-contexts,body.vscode-dark .cl-contexts,html[theme=dark] .cl-contexts{--pos:214 118 0;--neg:20 120 215}
.cl-contexts section{border-top:2px solid var(--line);padding:8px 0 14px}
.cl-contexts h4{margin:0 0 6px;font-size:14px;font-weight:650}.cl-contexts h4 em{font-weight:400;margin-left:6px}.cl-contexts h4 small{font-weight:400;color:var(--soft);margin-left:8px}
.cl-contexts .ends{display:grid;grid-template-columns:1fr 1fr;gap:0 24px}
@media (max-width:760px){.cl-contexts .ends{grid-template-columns:1fr}}
.cl-contexts .end{min-width:0}.cl-contexts .end>b{display:block;font-size:12px;font-weight:600;padding-bottom:2px}
.cl-contexts .end>b i{display:inline-block;width:10px;height:10px;border-radius:2px;margin-right:6px}
.cl-contexts .top i{background:rgb(var(--pos)/.85)}.cl-contexts .bottom i{background:rgb(var(--neg)/.85)}
.cl-contexts .row{display:grid;grid-template-columns:4.4em 1fr;gap:8px;border-top:1px solid var(--line);padding:3px 0}
.cl-contexts .value{font-variant-numeric:tabular-nums;text-align:right;font-size:12px}
.cl-contexts .text{overflow-wrap:anywhere;white-space:pre-wrap}.cl-contexts .from{color:var(--soft);font-size:11px;white-space:normal;display:inline-block}
.cl-contexts span.p,.cl-contexts span.n{border-radius:2px}.cl-contexts s{text-decoration:none;color:var(--soft);font-size:11px}
.cl-contexts .p{background:rgb(var(--pos)/calc(var(--a)*.62))}.cl-contexts .n{background:rgb(var(--neg)/calc(var(--a)*.62))}
.cl-contexts u{font-weight:700;text-decoration-thickness:2px;text-underline-offset:3px}
</style>"""


def page(concepts: Iterable[ConceptContexts], n: int, meta: Sequence[str]) -> str:
    """The contexts of some concepts as one piece of HTML.

    Args:
        concepts: What to show, in order.
        n: How many contexts at each end.
        meta: Which keys of a text's `meta` to show beside its number.
    """
    return f'{STYLE}<div class="cl-contexts">{"".join(_concept(item, n, meta) for item in concepts)}</div>'


def _concept(item: ConceptContexts, n: int, meta: Sequence[str]) -> str:
    concept = item.concept
    shown = [*item.top[:n], *item.bottom[:n]]
    scale = (
        max((abs(a) for context in shown for a in context.activations if a is not None), default=0.0) or 1.0
    )
    facts = [
        concept.hook,
        f"{concept.score_name} {concept.score:.3g}" if concept.score_name else "",
        concept.reason,
    ]
    label = f"<em>{escape(concept.label)}</em>" if concept.label else ""
    head = f"<h4>{escape(concept.name)}{label}<small>{escape(' · '.join(fact for fact in facts if fact))}</small></h4>"
    ends = _end("top", "top, highest", item.top[:n], scale, meta) + _end(
        "bottom", "bottom, lowest", item.bottom[:n], scale, meta
    )
    return f'<section>{head}<div class="ends">{ends}</div></section>'


def _end(kind: str, title: str, contexts: Sequence[Context], scale: float, meta: Sequence[str]) -> str:
    rows = (
        "".join(_row(context, scale, meta) for context in contexts)
        or '<div class="row"><div></div><div>nothing</div></div>'
    )
    return f'<div class="end {kind}"><b><i></i>{title}</b>{rows}</div>'


def _row(context: Context, scale: float, meta: Sequence[str]) -> str:
    parts = "".join(
        token(text, activation, scale, peak=place == context.peak, special=special)
        for place, (text, activation, special) in enumerate(
            zip(context.tokens, context.activations, context.special, strict=True)
        )
    )
    before, after = ("…" if cut else "" for cut in context.cut)
    source = " · ".join(
        [f"text {context.index}", *(f"{key} {context.meta[key]}" for key in meta if key in context.meta)]
    )
    return (
        f'<div class="row"><div class="value">{signed(context.value)}</div>'
        f'<div class="text">{before}{parts}{after} <span class="from">{escape(source)}</span></div></div>'
    )


def token(
    text: str, activation: float | None, scale: float, *, peak: bool = False, special: bool = False
) -> str:
    """One token as HTML.

    Args:
        text: What it says.
        activation: Its activation; `None` where none was taken.
        scale: The activation that gets the full shade.
        peak: Whether the context is shown for this token.
        special: Whether it is a token of the template rather than text.

    Example:
        >>> token("<b>", 0.5, 1.0)
        '<span class="p" style="--a:.5" title="+0.500">&lt;b&gt;</span>'
    """
    body = escape(visible(text))
    body = f"<s>{body}</s>" if special else body
    body = f"<u>{body}</u>" if peak else body
    share = 0.0 if activation is None else min(1.0, abs(activation) / scale)
    if share < FAINT or activation is None:
        return body
    shade = f"{share:.2f}".rstrip("0").lstrip("0").rstrip(".") or "0"
    return f'<span class="{"p" if activation > 0 else "n"}" style="--a:{shade}" title="{signed(activation)}">{body}</span>'


def visible(text: str) -> str:
    """A token with line breaks shown as a sign, and a dot for one that is but a part of a character.

    Example:
        >>> visible("a\\n"), visible("")
        ('a⏎', '·')
    """
    return text.replace("\r", "").replace("\n", "⏎") or "·"


def signed(value: float) -> str:
    """Three significant digits and a sign of the width of a plus.

    Example:
        >>> signed(1.23456), signed(-20.0)
        ('+1.23', '−20.0')
    """
    return f"{value:+#.3g}".replace("-", "−")
