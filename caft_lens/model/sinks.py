"""Attention sinks: tokens whose activations are many times longer than all others, and how a model is asked for them.

They are neither read nor edited (Sun et al., 2024, "Massive Activations in Large Language Models", arXiv 2402.17762):
`Lens.sinks` keeps what `measured` found of them, `capture.py` leaves them out of every pass, `attach.at` leaves them
alone. docs/concepts/sinks.md says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from caft_lens._support.errors import BadArgument
from caft_lens.model.architectures import evaluating
from caft_lens.model.hook_names import RESIDUAL, in_stream, of_heads, place_of, written
from caft_lens.model.hooked import HookedModel
from caft_lens.text.batching import Batch, collate
from caft_lens.text.documents import Message, Text
from caft_lens.text.encoding import Encoded, encoded

# A token of the residual stream is massive where it is this many times as long as the median one, and as the longest of
# the others. Activations of small models have long tails (10 to 15 times the median), but no such gap.
FAR, GAP = 10.0, 4.0
# Where there is one, further tokens count that stand apart less clearly, as in the blocks before the sink is made.
LESS_FAR, LESS_GAP = 3.0, 1.8
# At every hook point a sink is longer than so many times the longest other token, and than LESS_FAR times the median.
ROOM = 2.0
FEW = 0.15  # at most this share of all tokens stands apart; more are no exception
WIDTH = 64  # tokens of each probe that are run

TEXTS = (
    "The nurse opened the door and went home, because it was late. Nobody had seen her that day.",
    "In 1998 the company sold 3,500 cars.\n\nHowever, the market changed: prices fell by 12% (see below).",
    "import os\nfor name in os.listdir('.'):\n    print(name)",
    '"What is it?" he asked. "I don\'t know," said the old man, and looked at the sea with her.',
)
_BAKED = "Mix the flour with butter, add the apples and some sugar, and bake it for an hour."
CHATS = (
    ("How do I bake a good apple pie?", _BAKED),
    ("Write a function that adds two numbers.", "def add(a, b):\n    return a + b\n\nprint(add(1, 2))"),
    ("Is it safe to drink this?", "I would not. Ask a doctor first, please; it may be harmful."),
)


@dataclass(frozen=True)
class Sinks:
    """Which tokens of a model are attention sinks.

    Attributes:
        beyond: Hook name to the norm above which an activation `[d_model]` there is a sink's; empty without sinks.
        first: Whether the first token of a text always is one, and is left out of what is read at every hook point.
        medians: The median norm at each hook point, on the probe.

    Example:
        >>> sinks = Sinks({"blocks.1.hook_resid_post": 40.0}, first=True)
        >>> sinks.far("blocks.1.hook_resid_post", torch.tensor([[3.0, 4.0], [300.0, 400.0]])).tolist()
        [False, True]
        >>> bool(Sinks())
        False
    """

    beyond: Mapping[str, float] = field(default_factory=dict)
    first: bool = False
    medians: Mapping[str, float] = field(default_factory=dict, repr=False)

    def __bool__(self) -> bool:
        return self.first or bool(self.beyond)

    def far(self, hook: str, x: Tensor) -> Tensor | None:
        """Which activations are too long to be anything but a sink's; `None` where no bound is known.

        Nothing waits for the device, and no gradient flows through the answer.

        Args:
            hook: Full name of the hook point.
            x: Activations, `[..., d_model]`.

        Returns:
            Bool, `[...]`.
        """
        bound = self.beyond.get(hook)
        if bound is None:
            return None
        return torch.linalg.vector_norm(x.detach(), dim=-1, dtype=_fine(x)) > bound

    def among(self, hook: str, x: Tensor, batch: Batch) -> Tensor | None:
        """Which tokens of a batch are sinks at a hook point, and are not read there; `None` where none can be.

        Args:
            hook: Full name of the hook point.
            x: Activations of the whole batch, `[batch, pos, d_model]`.
            batch: The batch, on the CPU.

        Returns:
            Bool, `[batch, pos]`, on the CPU.
        """
        far = self.far(hook, x)
        first = (batch.position_ids == 0) & batch.mask() if self.first else None
        if far is None or first is None:
            return first if far is None else far.cpu()
        return far.cpu() | first

    def with_ratio(self, ratio: float) -> Sinks:
        """The same with one bound for all: so many times the median norm at each hook point."""
        if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not ratio > 1:
            raise BadArgument(
                f'sinks={ratio!r}: expected "auto", False (there are none), or a number above 1: how many times the '
                "median norm of its hook point an activation is at most long."
            )
        return Sinks({hook: ratio * median for hook, median in self.medians.items()}, self.first, self.medians)

    def card(self, hooks: Sequence[str]) -> dict[str, Any]:
        """What provenance says of them, as JSON: bounds at some hook points, and whether first tokens are left out."""
        return {"first": self.first, "beyond": {hook: self.beyond[hook] for hook in hooks if hook in self.beyond}}

    def __repr__(self) -> str:
        if not self:
            return "Sinks(none)"
        where = [place_of(hook) for hook in self.beyond]
        bounds = ", ".join(f"{layer}: {self.beyond[written(layer)]:.3g}" for layer, site in where if site == RESIDUAL)
        first = "the first token of every text, and " if self.first else ""
        return f"Sinks({first}activations longer than {{{bounds}}} after these blocks)"


def measured(lens: HookedModel) -> Sinks:
    """Look for the sinks of a model to which nothing is hooked, on a few short texts: one forward pass."""
    norms, first = _norms(lens)
    medians = {hook: float(of.median()) for hook, of in norms.items()}
    stream = {hook: of / medians[hook] for hook, of in norms.items() if in_stream(hook) and medians[hook] > 0}
    apart = {hook: of > _cut(of, FAR, GAP) for hook, of in stream.items()}
    massive = [hook for hook, found in apart.items() if bool(found.any())]
    if not massive:
        return Sinks(medians=medians)
    always_first = bool(first.any()) and any(bool(apart[hook][first].all()) for hook in massive)
    sink = torch.stack(
        [of > _cut(of, LESS_FAR, LESS_GAP) for of in stream.values()] + [apart[hook] for hook in massive]
    ).any(dim=0)
    bounds = {}
    for hook, of in norms.items():
        longest = float(of[~sink].max()) if bool((~sink).any()) else 0.0
        # Rounded, so that another number format or device comes to the same bound.
        bounds[hook] = float(f"{max(ROOM * longest, LESS_FAR * medians[hook]):.2g}")
    return Sinks(bounds, always_first, medians)


@dataclass(frozen=True)
class Common:
    """What the sinks of a model have in common at a hook point.

    Attributes:
        direction: Their mean activation as a unit vector, `[d_model]`, fp64 on the CPU.
        tokens: How many sinks it is the mean of.
        cosine: The least cosine of one of them to it: 1 where all lie along one direction.
    """

    direction: Tensor
    tokens: int
    cosine: float


def common(lens: HookedModel, sinks: Sinks, hooks: Sequence[str]) -> dict[str, Common]:
    """The mean direction of a model's sinks, on the texts by which `measured` finds them: one forward pass.

    Args:
        lens: A model to which nothing is hooked.
        sinks: Which of its tokens are sinks.
        hooks: Full names of hook points.

    Returns:
        By hook name; a hook point where no activation is a sink's is left out.
    """
    found: dict[str, Common] = {}

    def note(x: Tensor, hook: Any, there: Tensor) -> None:
        far = sinks.far(hook.name, x)
        rows = x.detach()[far & there.to(x.device)].cpu().double() if far is not None else x.new_zeros(0)
        if len(rows):
            mean = torch.nn.functional.normalize(rows.mean(dim=0), dim=0)
            cosines = torch.nn.functional.normalize(rows, dim=1) @ mean
            found[hook.name] = Common(mean, len(rows), float(cosines.min().clamp(-1, 1)))

    if any(hook in sinks.beyond for hook in hooks):
        _over_probes(lens, hooks, note)
    return found


def _cut(norms: Tensor, far: float, gap: float) -> float:
    """Where a few of some norms (in units of the median) stand apart from all others; infinity where none do."""
    highest = norms.sort(descending=True).values[: max(1, int(FEW * len(norms))) + 1]
    steps = torch.where(highest[:-1] >= far, highest[:-1] / highest[1:].clamp_min(1.0), 0.0)
    widest = int(steps.argmax()) if len(steps) else 0
    if not len(steps) or not float(steps[widest]) >= gap:
        return float("inf")
    return float((highest[widest] * highest[widest + 1].clamp_min(1.0)).sqrt())


def _norms(lens: HookedModel) -> tuple[dict[str, Tensor], Tensor]:
    """Norms at every hook point, `[n_tokens]` on the CPU, and which tokens begin a text of the tokenizer's own."""
    norms: dict[str, Tensor] = {}

    def note(x: Tensor, hook: Any, there: Tensor) -> None:
        norms[hook.name] = torch.linalg.vector_norm(x, dim=-1, dtype=_fine(x)).cpu()[there]

    first = _over_probes(lens, [name for name in lens.hook_names if not of_heads(name)], note)
    return norms, first


def _over_probes(lens: HookedModel, hooks: Sequence[str], note: Callable[[Tensor, Any, Tensor], None]) -> Tensor:
    """Run the probes once, and tell of each activation which of its tokens are there, `[batch, pos]` on the CPU.

    Returns:
        Which of the tokens that are there begin a text of the tokenizer's own, bool `[n_tokens]`.
    """
    items, whole = _probes(lens)
    batch = collate(items, lens.padding)
    there = batch.attention_mask.bool()

    def told(x: Tensor, hook: Any) -> None:
        note(x, hook, there)

    with torch.no_grad(), evaluating(lens.model), lens.hooks([(name, told) for name in hooks]):
        lens(batch, return_type=None)
    first = (batch.position_ids == 0) & torch.tensor(whole)[:, None]
    return first[there]


def _probes(lens: HookedModel) -> tuple[list[Encoded], list[bool]]:
    """Short texts as tokens, and which of them begin as the tokenizer has texts begin."""
    width, reads = min(WIDTH, lens.n_positions or WIDTH), lens.tokenizer is not None
    if reads:
        rows = [ids[:width] for ids in _texts(lens.tokenizer)]
    else:
        some = min(lens.d_vocab, 50_000)
        rows = [[(7919 * row + 613 * place) % some for place in range(1, 33)] for row in range(1, 5)]
    whole = [reads] * len(rows)
    bos = getattr(lens.tokenizer, "bos_token_id", None)
    bos = lens.hf.config.get_text_config().bos_token_id if bos is None else bos
    if isinstance(bos, int):
        more = [[bos, *ids][:width] for ids in rows if ids[0] != bos]
        rows, whole = rows + more, whole + [not reads] * len(more)
    n = lens.hf.get_input_embeddings().weight.shape[0]
    rows = [[token for token in ids if token < n] for ids in rows]
    kept = [(ids, yes) for ids, yes in zip(rows, whole, strict=True) if ids]
    items = [
        Encoded(ids, np.zeros(len(ids), np.int8), np.zeros(len(ids), bool), number)
        for number, (ids, _) in enumerate(kept)
    ]
    return items, [yes for _, yes in kept]


def _texts(tokenizer: Any) -> Iterator[list[int]]:
    plain = [Text(text=text) for text in TEXTS]
    chats = [Text(messages=(Message("user", asked), Message("assistant", said))) for asked, said in CHATS]
    if tokenizer.chat_template:
        try:
            yield from [item.input_ids for item in encoded(tokenizer, chats)]
        except Exception:  # a template may ask for something that these chats lack; plain text is enough then
            plain += [Text(text=f"{asked}\n{said}") for asked, said in CHATS]
    yield from (item.input_ids for item in encoded(tokenizer, plain))


def _fine(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
