"""How long activations are, layer by layer: the median token, the longest, and the attention sinks far above both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas
import torch
from numpy.typing import NDArray

from caft_lens._support.keywords import takes_values
from caft_lens.activations.capture import captured
from caft_lens.display.curves import curves
from caft_lens.display.frames import Frame
from caft_lens.display.theme import at, marker, said
from caft_lens.model.hook_names import place_of, written
from caft_lens.model.lens import Lens
from caft_lens.text.batching import Scan, batches
from caft_lens.text.documents import Text, Texts
from caft_lens.text.token_strings import pieces

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

# Sinks that are drawn a layer, at most; those at both ends are always among them.
DRAWN = 12


@dataclass(frozen=True)
class Norms:
    """Norms of the activations of some texts' tokens.

    Attributes:
        hooks: Full names of the hook points, one a layer.
        values: Norm by hook point and token, fp32 `[n_hooks, n_tokens]`.
        sinks: Which of them are attention sinks there, bool `[n_hooks, n_tokens]`.
        tokens: What each token adds to its text.
        texts: The number of each token's text, from 0, `[n_tokens]`.
        positions: Its position there, from 0, `[n_tokens]`.
        bounds: By hook name, the norm above which an activation is a sink's; empty on a model without sinks.
    """

    hooks: tuple[str, ...]
    values: NDArray[np.float32]
    sinks: NDArray[np.bool_]
    tokens: tuple[str, ...]
    texts: NDArray[np.int64]
    positions: NDArray[np.int64]
    bounds: Mapping[str, float] = field(default_factory=dict)

    def table(self) -> pandas.DataFrame:
        """One row a hook point: the median and the longest of the tokens that are no sinks, and which that is; how many
        sinks there are, and the shortest and the longest of them (NaN where there is none).
        """
        return Frame([self._row(place) for place in range(len(self.hooks))])

    def plot(self, title: str | None = None) -> Figure:
        """Draw them over the layers, up a logarithmic axis; hovering says layer, token, position and norm.

        Args:
            title: Above the figure, which the last line of a cell shows and `.save(path)` keeps.
        """
        rows = [self._row(place) for place in range(len(self.hooks))]
        kinds = {
            what: {row["layer"]: row[key] for row in rows if row[key] == row[key]}
            for what, key in (("median token", "median"), ("longest other token", "longest"))
        }
        facts: dict[str, Mapping[float, str]] = {
            "longest other token": {row["layer"]: self._which(row["longest_at"]) for row in rows if row["tokens"]}
        }
        if self.bounds:
            kinds["longer is a sink"] = {
                place_of(hook).layer: self.bounds[hook] for hook in self.hooks if hook in self.bounds
            }
        most, texts = int(self.sinks.sum(axis=1).max()), len(set(self.texts.tolist()))
        caption = f"{len(self.tokens):,} tokens of {texts:,} texts, at {place_of(self.hooks[0]).site}. " + (
            f"Sinks: up to {most:,} a layer{f', of which {DRAWN} are drawn' if most > DRAWN else ''}."
            if most
            else "No token is a sink."
        )
        drawn = curves(
            kinds, x_label="layer", y_label="norm", title=title, caption=caption, log=(False, True), facts=facts
        )
        if most:
            points = [(place, token) for place in range(len(self.hooks)) for token in self._some_sinks(place)]
            layers = [place_of(self.hooks[place]).layer for place, _ in points]
            lengths = [float(self.values[point]) for point in points]
            drawn.add_scatter(
                x=layers, y=lengths, mode="markers", name="sink", marker=marker(len(kinds)), hoverinfo="text",
                hovertext=[
                    said("sink", f"layer: {layer}", f"norm: {length:.4g}", self._which(token))
                    for layer, length, (_, token) in zip(layers, lengths, points, strict=True)
                ],
                **at(0),
            )  # fmt: skip
        return drawn

    def _row(self, place: int) -> dict[str, Any]:
        values, sinks = self.values[place], self.sinks[place]
        others = np.flatnonzero(~sinks)
        longest = int(others[values[others].argmax()]) if len(others) else -1
        nothing = float("nan")
        return {
            "layer": place_of(self.hooks[place]).layer,
            "hook": self.hooks[place],
            "tokens": len(others),
            "median": float(np.median(values[others])) if len(others) else nothing,
            "longest": float(values[longest]) if len(others) else nothing,
            "longest_at": longest,
            "sinks": int(sinks.sum()),
            "shortest_sink": float(values[sinks].min()) if sinks.any() else nothing,
            "longest_sink": float(values[sinks].max()) if sinks.any() else nothing,
        }

    def _which(self, token: int) -> str:
        return f"token {self.tokens[token]!r} at position {self.positions[token]} of text {self.texts[token]}"

    def _some_sinks(self, place: int) -> list[int]:
        """Sinks of a hook point from the shortest to the longest, evenly chosen where there are many."""
        found = np.flatnonzero(self.sinks[place])
        found = found[self.values[place, found].argsort(kind="stable")]
        some = np.linspace(0, len(found) - 1, min(len(found), DRAWN)).round().astype(int)
        chosen: list[int] = found[some].tolist()
        return chosen

    def __repr__(self) -> str:
        shown = self.table().drop(columns=["hook", "longest_at"]).round(2).to_string(index=False, max_rows=40)
        return f"Norms({len(self.tokens):,} tokens)\n{shown}"

    def _repr_mimebundle_(self, *_: Any, **__: Any) -> dict[str, Any]:
        return {**self.plot()._repr_mimebundle_(), "text/plain": repr(self)}


@takes_values
def norms(
    lens: Lens,
    texts: Texts | Iterable[Text | Mapping[str, Any] | str],
    *,
    site: str = "hook_resid_post",
    roles: Sequence[str] | None = None,
    scan: Scan = Scan(),
) -> Norms:
    """How long the activations of some texts are after each block, and which are attention sinks (`Lens.sinks`).

    A number is kept for each token and layer: some dozens of texts show all there is to see.

    Args:
        lens: The model.
        texts: Documents, chats or strings.
        site: The hook point within each block.
        roles: Roles of the tokens to look at; all when `None`.
        scan: How the text is read: tokens a batch, where texts are cut.

    Raises:
        BadData: When no token has one of the roles.
        UnknownName: For a hook point that does not exist, naming the nearest.

    Example:
        >>> found = cl.inspect.norms(base, ["How do I bake a pie?"])
        >>> found.table()["sinks"].tolist()
        [0, 0, 0, 0]
        >>> figure = found.plot()

    Source:
        The figure is that of Sun et al., "Massive Activations in Large Language Models" (2024), arXiv 2402.17762.
    """
    tokenizer, sinks = lens.need_tokenizer(), lens.sinks
    hooks = [lens.hook_name(written(layer, site)) for layer in range(lens.n_layers)]
    lengths: list[torch.Tensor] = []
    among: list[torch.Tensor] = []
    tokens: list[str] = []
    numbers: list[torch.Tensor] = []
    positions: list[torch.Tensor] = []
    read = batches(tokenizer, [Text.from_json(text) for text in texts], scan)
    for found in captured((lens,), read, hooks, roles, sinks="read"):
        batch, where = found.batch, found.where[hooks[0]]
        rows, places = where[:, 0], where[:, 1]
        here = batch.position_ids[rows, places]
        at_start = here == 0
        far, long = [], []
        for hook in hooks:
            (acts,) = found.pop(hook)
            long.append(torch.linalg.vector_norm(acts, dim=-1, dtype=torch.float32).cpu())
            beyond = sinks.far(hook, acts)
            far.append(at_start & sinks.first if beyond is None else beyond.cpu() | (at_start & sinks.first))
        lengths.append(torch.stack(long))
        among.append(torch.stack(far))
        shown = [
            pieces(tokenizer, ids[there].tolist()) for ids, there in zip(batch.input_ids, batch.mask(), strict=True)
        ]
        tokens += [shown[row][position] for row, position in zip(rows.tolist(), here.tolist(), strict=True)]
        numbers.append(batch.index[rows])
        positions.append(here)
    return Norms(
        tuple(hooks),
        torch.cat(lengths, 1).numpy(),
        torch.cat(among, 1).numpy(),
        tuple(tokens),
        torch.cat(numbers).numpy(),
        torch.cat(positions).numpy(),
        {hook: sinks.beyond[hook] for hook in hooks if hook in sinks.beyond},
    )
