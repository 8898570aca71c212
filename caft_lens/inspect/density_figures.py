"""The figures of densities: the histogram of one concept, and how the densities of all latents are spread."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from caft_lens._support.errors import BadData
from caft_lens.display.theme import BLUE, INK, VERMILION, at, axes, figure, literal, note, said
from caft_lens.inspect.density_reducers import Density

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def plot_density(item: Density) -> Figure:
    """The histogram of one concept: of a latent where it is active (log scale), of a direction nearly everywhere."""
    if item.active == 0:
        raise BadData(f'"{item.name}" was active at none of {item.tokens:,} tokens: there is no histogram to draw.')
    counts, edges = item.bars
    latent = item.by == "latent"
    if latent:
        what = "activation of the latent where it is active (log scale; 4 bins to a doubling)"
        about = f"Active at {100 * (item.density or 0):.3g} % of {item.tokens:,} tokens, in {item.texts:,} texts."
    else:
        what = "projection of the activation on the unit direction"
        share = counts.sum() / item.counts.sum()
        of = f"All {item.tokens:,} tokens" if share == 1 else f"{100 * share:.1f} % of {item.tokens:,} tokens"
        about = f"{of}; standard deviation {item.std:.3g}; smallest {item.minimum:.3g}, largest {item.maximum:.3g}."
    drawn = figure([600], [210], title=f"{item.name} at {item.hook}", caption=about, left=78)
    hover = [
        said(f"{count:,} token{'s' * (count != 1)}", f"from {low:.3g} to {high:.3g}")
        for count, low, high in zip(counts.tolist(), edges, edges[1:], strict=False)
    ]
    _bars(drawn, 0, counts, edges, hover, (item.mean, f"mean {item.mean:.3g}"), log=latent)
    axes(drawn, 0, x={"title": what}, y={"title": "tokens"})
    return drawn


def plot_densities(items: Sequence[Density]) -> Figure:
    """How the densities of latents are spread, a panel a hook point; directions are left out."""
    shares: dict[str, list[float]] = {}
    for item in items:
        if item.density is not None:
            shares.setdefault(item.hook, []).append(item.density)
    if not shares:
        raise BadData("These are all directions, which are active everywhere: plot(name) draws one of them.")
    live = {hook: np.array([100 * share for share in some if share > 0]) for hook, some in shares.items()}
    lowest = min((float(some.min()) for some in live.values() if len(some)), default=10.0)
    edges = 10 ** (np.arange(math.floor(10 * math.log10(lowest)), 21) / 10)
    dead = {hook: len(shares[hook]) - len(some) for hook, some in live.items()}
    headings = [f"{hook}: {len(shares[hook]):,} latents, {dead[hook]:,} dead" for hook in live]
    tokens = max(item.tokens for item in items)
    caption = f"On {tokens:,} tokens. Dashed: the median of those that are not dead."
    drawn = figure([600], [170] * len(live), headings=headings, left=70, between=(0, 44), caption=caption)
    for place, (hook, some) in enumerate(live.items()):
        counts, _ = np.histogram(some, edges)
        hover = [
            said(f"{count:,} latent{'s' * (count != 1)}", f"active at {low:.2g} to {high:.2g} % of the tokens", hook)
            for count, low, high in zip(counts.tolist(), edges, edges[1:], strict=False)
        ]
        middle = (float(np.median(some)), f"median {np.median(some):.2g} %") if len(some) else None
        _bars(drawn, place, counts, edges, hover, middle, log=True)
        last = place == len(live) - 1
        x = {"showticklabels": last, "range": [math.log10(edges[0]), 2], **({"matches": "x"} if place else {})}
        if last:
            x["title"] = "share of the tokens at which a latent is active, % (log scale)"
        axes(drawn, place, x=x, y={"title": "latents"})
    return drawn


def _bars(
    drawn: Figure,
    place: int,
    counts: np.ndarray,
    edges: np.ndarray,
    hover: Sequence[str],
    middle: tuple[float, str] | None,
    log: bool,
) -> None:
    """A histogram, and a line at its middle."""
    drawn.add_bar(
        x=(edges[:-1] + edges[1:]) / 2,
        y=counts,
        width=edges[1:] - edges[:-1],
        marker={"color": BLUE, "line": {"width": 0}},
        opacity=0.85,
        hoverinfo="text",
        hovertext=list(hover),
        textposition="none",
        **at(place),
    )
    scale: dict[str, Any] = {}
    if log:
        decades = range(math.floor(math.log10(edges[0])), math.ceil(math.log10(edges[-1])) + 1)
        ticks = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
        scale = {"type": "log", "tickmode": "array", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
    top = 1.12 * max(1, int(counts.max(initial=0)))
    axes(drawn, place, x={**scale, "showgrid": False}, y={"range": [0, top]})
    if middle is not None:
        there = {f"{axis[0]}ref": name for axis, name in at(place).items()}
        dashed = {"color": VERMILION, "width": 2, "dash": "dash"}
        drawn.add_shape(type="line", x0=middle[0], x1=middle[0], y0=0, y1=top, line=dashed, **there)
        x = math.log10(middle[0]) if log else middle[0]
        look = {"xshift": 4, "yanchor": "top", "font": {"size": 11, "color": INK}}
        note(drawn, literal(middle[1]), x, top, **there, **look)
