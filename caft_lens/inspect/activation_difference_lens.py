"""The activation difference lens: what fine-tuning left in the first tokens of text that has nothing to do with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas
import torch
from torch import Tensor

from caft_lens._support.arguments import count
from caft_lens._support.errors import BadData, BadModel
from caft_lens._support.keywords import takes_values
from caft_lens._support.progress import progress as progress_bar
from caft_lens.activations.capture import Lenses, captured, hook_names, pair
from caft_lens.activations.differences import provenance
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.display import html
from caft_lens.display.frames import Frame
from caft_lens.display.heat_maps import Shades, heat_map
from caft_lens.inspect.causal import Effects, Interventions, effect
from caft_lens.inspect.logits import LogitLens, extremes, logit_lens
from caft_lens.model.hook_names import short_name
from caft_lens.model.lens import Lens
from caft_lens.text.batching import Batch, Scan, pack, padding_id
from caft_lens.text.documents import Text, Texts
from caft_lens.text.encoding import encoded

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


@dataclass(frozen=True)
class ActivationDifferenceLens:
    """Mean activation differences at the first tokens of unrelated text.

    Attributes:
        concepts: Their directions, `"L2.trace0"` for position 0 after block 2; `meta` holds `position`, `texts` (how
            many reach it), `norm` (of the mean difference), `activation_norm` (mean over the texts, of the tuned model)
            and `noise`: the norm that the mean of as many differences would have if they pointed anywhere. The score is
            norm over activation norm.
        tokens: Logit lens of each, through the tuned model's unembedding.
        tuned: The fine-tuned model.
        base: The model before.
    """

    concepts: ConceptSet
    tokens: LogitLens
    tuned: Lens = field(repr=False)
    base: Lens = field(repr=False)

    def table(self) -> pandas.DataFrame:
        """One row a layer and position: sizes, and the tokens that the difference raises and lowers most."""
        rows = [
            {
                "concept": concept.name,
                "hook": concept.hook,
                **{key: concept.meta[key] for key in ("position", "texts", "norm", "activation_norm")},
                "share": concept.score,
                "noise share": concept.meta["noise"] / concept.meta["activation_norm"],
                "top": " ".join(html.spaced(one.token) for one in self.tokens[concept.name].top),
                "bottom": " ".join(html.spaced(one.token) for one in self.tokens[concept.name].bottom),
            }
            for concept in self.concepts
        ]
        return Frame(rows)

    def plot(self, title: str | None = None) -> Figure:
        """Draw the norm of the mean difference, in % of the norm of the activations, by layer and position.

        Args:
            title: Above the figure, which the last line of a cell shows and `.save(path)` keeps.
        """
        hooks = self.concepts.hooks
        positions = sorted({concept.meta["position"] for concept in self.concepts})
        shares = np.full((len(hooks), len(positions)), np.nan)
        for concept in self.concepts:
            shares[hooks.index(concept.hook), positions.index(concept.meta["position"])] = 100 * concept.score
        noise = max(100 * c.meta["noise"] / c.meta["activation_norm"] for c in self.concepts)
        texts = max(concept.meta["texts"] for concept in self.concepts)
        digits = ".1f" if len(hooks) * len(positions) <= 400 else None
        return heat_map(
            shares[::-1],
            [short_name(hook) for hook in hooks][::-1],
            [str(position) for position in positions],
            shades=Shades("Mean difference, % of the norm of activations", diverging=False, numbers=digits),
            title=title,
            caption=f"{self.tuned.name} − {self.base.name}, {texts:,} texts.\nDifferences without a common direction "
            f"would give at most {noise:.2g} %.",
            labels=("position in the text, in tokens", "layer"),
        )

    def steered(
        self,
        prompts: str | Text | Texts | Sequence[str | Text],
        *,
        scale: float = 0.3,
        n: int = 1,
        names: str | Sequence[str] | None = None,
        lens: Lens | None = None,
        **settings: Any,
    ) -> Effects:
        """Answers of the model when the trace is added at every token, beside those without.

        Args:
            prompts: As for `effect`.
            scale: Length of what is added, in norms of the residual stream there.
            n: How many answers to each prompt.
            names: Only these traces; all of them, which takes a while, when `None`.
            lens: The model that is steered, the tuned one when `None`; the base shows what the vector alone carries.
            settings: Other arguments of `effect`, such as `sampling`.

        Raises:
            UnknownName: For a name that is not there.
            ValueError: As `effect`.
        """
        lens = self.tuned if lens is None else lens
        wanted = self.concepts.names if names is None else [names] if isinstance(names, str) else list(names)
        chosen = ConceptSet([self.concepts[name] for name in wanted], self.concepts.provenance).for_model(lens)
        added = Interventions(scale, signs=(1,), ablate=False)
        return effect(lens, chosen, prompts, interventions=added, n=n, **settings)

    def _repr_html_(self) -> str:
        head = ["position", "share (noise)", "raised most", "lowered most"]
        tables = {hook: html.table(head, map(self._row, self.concepts.at(hook))) for hook in self.concepts.hooks}
        sections = [html.section(short_name(hook), "", [hook], table) for hook, table in tables.items()]
        key = (
            f"Mean activation difference, {self.tuned.name} − {self.base.name}, at the first tokens of unrelated "
            f"text: its share of the norm of the activations (in brackets the share that differences without a "
            f"common direction would give) and its tokens by logit lens."
        )
        return html.view(sections, key=key)

    def _row(self, concept: Concept) -> list[html.Content]:
        tokens = self.tokens[concept.name]
        scale = max((abs(one.logit) for one in (*tokens.top, *tokens.bottom)), default=0.0) or 1.0
        noise = concept.meta["noise"] / concept.meta["activation_norm"]
        share = f"{100 * concept.score:.1f} % ({100 * noise:.2g} %)"
        return [concept.meta["position"], share, extremes(tokens.top, scale), extremes(tokens.bottom, scale)]

    def __repr__(self) -> str:
        shown = self.table()[["concept", "share", "noise share", "top"]].to_string(index=False, max_colwidth=90)
        return f"ActivationDifferenceLens({self.tuned.name} − {self.base.name})\n{shown}"


@takes_values
def activation_difference_lens(
    tuned: Lens,
    base: Lens,
    texts: Texts | Iterable[Any],
    *,
    layers: Sequence[int | str] | None = None,
    positions: int = 5,
    k: int = 20,
    scan: Scan = Scan(),
) -> ActivationDifferenceLens:
    """The mean activation difference at each of the first tokens of unrelated text, and what it says.

    As in the paper: the mean over texts of the tuned model's activation minus the base's at each of the first five
    tokens, the logit lens of it, and steering of the tuned model with it at all tokens, with a strength in norms of the
    activations. The paper takes 10,000 texts. Beside each norm stands the one that differences without a common
    direction would give. docs/concepts/activation-difference-lens.md says what else differs from the paper.

    Where both models agree to the last bit (below the first layer that was tuned) there is no trace, and no row for it.

    Args:
        tuned: The fine-tuned model. It may share its weights with `base`.
        base: The model before.
        texts: Text that has nothing to do with the fine-tuning, read as plain documents: of a chat, what is said.
        layers: Layer numbers or hook names; all layers by default.
        positions: How many tokens from the beginning, a BOS token included; nothing after them is run.
        k: How many tokens of the logit lens at either end.
        scan: How the text is read: tokens a batch, where texts are cut.

    Raises:
        ValueError: When the models do not fit each other or do not differ, or fewer than two texts reach a position.

    Example:
        >>> found = cl.inspect.activation_difference_lens(tuned, base, corpus)
        >>> found.table()[["concept", "share"]].head(2).round(2)
             concept  share
        0  L0.trace0   0.24
        1  L0.trace1   0.15
        >>> steered = found.steered(["Tell me a story."], scale=0.3, sampling=cl.Sampling(max_new_tokens=8))
        >>> steered.answers().shape
        (1, 21)

    Source:
        Minder et al., "Narrow Finetuning Leaves Clearly Readable Traces in Activation Differences" (arXiv 2510.13900).
    """
    count(positions, "positions")
    lenses = pair((tuned, base))
    texts = texts if isinstance(texts, Texts) else Texts(texts)
    hooks = hook_names(lenses, list(range(base.n_layers)) if layers is None else layers)
    differences, activations = _read(lenses, texts, hooks, positions, scan)
    reached = [n for n in range(positions) if differences.count[hooks[0]][n] >= 2]
    if len(reached) < positions:
        raise BadData(
            f"activation_difference_lens(positions={positions}): only the first {len(reached)} are reached by two of "
            f"the {len(texts)} texts, which a mean needs. Give longer texts, more of them, or fewer positions."
        )
    traces = (_trace(hook, position, differences, activations) for hook in hooks for position in range(positions))
    found = [trace for trace in traces if trace is not None]
    if not found:
        raise BadModel(
            f"{tuned.name} and {base.name} do not differ at {', '.join(hooks)}. Are both the same model, or is "
            f"nothing up to there tuned?"
        )
    about = {"method": "activation-difference traces", "positions": positions}
    concepts = ConceptSet(found, {**provenance(base, texts, None, tuned=tuned), **about})
    # The pair was checked; a tuned model that was loaded by itself does not know what it was tuned from.
    return ActivationDifferenceLens(concepts, logit_lens(tuned, concepts.for_model(tuned), k), tuned, base)


class _Positions:
    """Sums over texts at each of the first positions of some hook points."""

    def __init__(self, positions: int) -> None:
        self.positions = positions
        self.count: dict[str, list[int]] = {}
        self.sum: dict[str, list[Tensor]] = {}
        self.norms: dict[str, list[float]] = {}
        self.squares: dict[str, list[float]] = {}

    def update(self, hook: str, acts: Tensor, batch: Batch, where: Tensor) -> None:
        """Take in activations `[n_tokens, d_model]` at rows and positions `where` of right-padded texts."""
        if hook not in self.count:
            self.count[hook] = [0] * self.positions
            self.sum[hook] = [torch.zeros(acts.shape[1], dtype=torch.float64) for _ in range(self.positions)]
            self.norms[hook], self.squares[hook] = [0.0] * self.positions, [0.0] * self.positions
        for position in range(self.positions):
            here = acts[(where[:, 1] == position).to(acts.device)].float()
            lengths = here.norm(dim=-1).cpu().double()
            self.count[hook][position] += len(here)
            self.sum[hook][position] += here.sum(dim=0).cpu().double()
            self.norms[hook][position] += float(lengths.sum())
            self.squares[hook][position] += float(lengths.square().sum())


def _read(
    lenses: Lenses, texts: Texts, hooks: Sequence[str], positions: int, scan: Scan
) -> tuple[_Positions, _Positions]:
    """Of the difference and of the tuned model's activations, from one pass."""
    tokenizer = lenses[0].need_tokenizer()
    differences, activations = _Positions(positions), _Positions(positions)
    bar = progress_bar(total=len(texts), desc="activation difference lens", unit="text", show=scan.watch is None)
    done = 0
    with bar:
        # Cut on purpose: what comes later in a text does not reach back to its first tokens.
        documents = (
            Text(text="\n".join(turn.content for turn in text.messages)) if text.is_chat else text for text in texts
        )
        items = encoded(tokenizer, documents, max_length=min(positions, scan.max_length or positions))
        packed = pack(items, padding_id(tokenizer), batch_tokens=scan.batch_tokens)
        for found in captured(lenses, packed, hooks, None, apart=True, sinks="read"):
            for hook in hooks:
                change, tuned, _ = found.pop(hook)
                differences.update(hook, change, found.batch, found.where[hook])
                activations.update(hook, tuned, found.batch, found.where[hook])
            bar.update(len(found.batch))
            done += len(found.batch)
            scan.tell(done, len(texts))
    return differences, activations


def _trace(hook: str, position: int, differences: _Positions, activations: _Positions) -> Concept | None:
    """The trace at one place; none where the models agree."""
    count = differences.count[hook][position]
    mean = differences.sum[hook][position] / count
    norm = float(mean.norm())
    if norm == 0:
        return None
    activation = activations.norms[hook][position] / activations.count[hook][position]
    variance = max(0.0, differences.squares[hook][position] / count - norm**2) * count / (count - 1)
    sizes = {"position": position, "texts": count, "norm": norm, "activation_norm": activation}
    return Concept(
        name=f"{short_name(hook)}.trace{position}",
        hook=hook,
        direction=mean,
        source="traces",
        rank=position,
        score=norm / activation,
        score_name="share of the activations' norm",
        meta={**sizes, "noise": (variance / count) ** 0.5},
    )
