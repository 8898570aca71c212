"""Logit lens of directions: which next tokens a direction stands for, if it is read off as the last layer would be.

Concepts and vocabulary are gone through in pieces: neither all logits nor a copy of the unembedding is held.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import pandas
import torch
from einops import einsum
from torch import Tensor, nn

from caft_lens._support.arguments import count, one_of
from caft_lens._support.by_name import ByName
from caft_lens._support.errors import BadArgument, BadModel, ConceptMismatch, UnknownName, nearest
from caft_lens.activations.moments import Moments
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.display.frames import Frame
from caft_lens.display.html import Content, chips, element, end, section, side_by_side, signed, spaced, view
from caft_lens.model.architectures import anatomy
from caft_lens.model.hook_names import of_heads
from caft_lens.model.lens import Lens
from caft_lens.text.token_strings import token_string

End = Literal["top", "bottom"]
# Concepts that are read off at a time, and numbers that are held for them: 64 MB in fp32.
_CONCEPTS = 256
_NUMBERS = 2**24


@dataclass(frozen=True)
class TokenScore:
    """A token and its logit.

    Attributes:
        token: What it says.
        id: Its number in the vocabulary.
        logit: What one unit of the direction adds to it, up to the norm's scale; with `around=` the change itself.
    """

    token: str
    id: int
    logit: float


@dataclass(frozen=True)
class ConceptTokens:
    """The tokens at both ends of one concept, most extreme first.

    Attributes:
        concept: The concept.
        top: Tokens that it raises.
        bottom: Tokens that it lowers.
    """

    concept: Concept
    top: tuple[TokenScore, ...]
    bottom: tuple[TokenScore, ...]

    def _repr_html_(self) -> str:
        return _page([self], "")


class LogitLens(ByName[ConceptTokens]):
    """The tokens that concepts raise and lower, by the name of the concept.

    Args:
        items: Of each concept the tokens at both ends; as a rule `cl.inspect.logit_lens` finds them.
        about: How they were measured, told when they are shown.

    Example:
        >>> found = cl.inspect.logit_lens(base, concepts, k=5)
        >>> len(found["L2.pc1"].top), len(found.tokens())  # k tokens at each end, of every concept
        (5, 6)
    """

    _what = "tokens"

    def __init__(self, items: Iterable[ConceptTokens], about: str = "") -> None:
        self._items = {item.concept.name: item for item in items}
        self.about = about

    def tokens(self, end: End = "top") -> dict[str, list[str]]:
        """The tokens at one end of every concept, as strings: what a text search reads.

        Raises:
            ValueError: For an end that is neither `"top"` nor `"bottom"`.
        """
        one_of(end, "end", get_args(End))
        return {name: [one.token for one in getattr(item, end)] for name, item in self.items()}

    def table(self) -> pandas.DataFrame:
        """One row a token: concept, end, rank, token, its id, its logit."""
        rows = [
            {"concept": name, "end": end, "rank": rank, "token": one.token, "id": one.id, "logit": one.logit}
            for name, item in self.items()
            for end, scores in (("top", item.top), ("bottom", item.bottom))
            for rank, one in enumerate(scores)
        ]
        return Frame(rows)

    def _repr_html_(self) -> str:
        return _page(self.values(), self.about)

    def __repr__(self) -> str:
        return "\n".join(
            f"{name:<12} {end:<6} {' '.join(spaced(one.token) for one in scores)}"
            for name, item in self.items()
            for end, scores in (("top", item.top), ("bottom", item.bottom))
        )


def logit_lens(
    lens: Lens,
    concepts: ConceptSet,
    k: int = 10,
    *,
    around: Moments | Mapping[int | str, Tensor] | None = None,
    strength: float = 1.0,
) -> LogitLens:
    """The tokens whose logits a direction raises and lowers most, as if it were read off after the last layer.

    A direction has no scale, so the final norm's division has no meaning for it: what applies is the norm's gain (for a
    LayerNorm its centring too), then the unembedding, without biases and soft-capping. The order of the tokens is that
    of the logits at any scale; only the order and the ratios mean something. With `around` the model's whole read-off
    applies, division, biases and soft-capping included: how the logits of the mean activation change when the direction
    is added to it. Either way nothing that later layers do with a direction is seen: `effect` shows that.

    Args:
        lens: The model: that on which the concepts were found, or one tuned from it.
        concepts: Directions in the residual stream, or of what attention or an MLP adds to it.
        k: How many tokens at either end.
        around: A mean activation `[d_model]` by hook point or layer, or `Moments` at the concepts' hook points.
        strength: With `around`, the length of what is added, in the units of the residual stream.

    Returns:
        The tokens by concept. Rows of the unembedding for which the tokenizer has no token are left out.

    Raises:
        ValueError: When the concepts do not fit the model, lie in the space of single heads, or `k` is out of range.
        UnknownName: When `around` has no mean at a hook point.
        NotImplementedError: For an architecture whose final norm is not known, or is no norm with a gain.

    Example:
        >>> sorted(cl.inspect.logit_lens(base, concepts.top(2)).tokens())
        ['L1.pc0', 'L1.pc1', 'L2.pc0', 'L2.pc1']

    Source:
        nostalgebraist, "interpreting GPT: the logit lens" (2020).
    """
    concepts.check(lens)
    tokenizer = lens.need_tokenizer()
    words = min(len(tokenizer), lens.d_vocab)
    count(k, "k", most=words, hint="That is the size of the vocabulary.")
    for concept in concepts:
        if of_heads(concept.hook):
            raise ConceptMismatch(
                f'Concept "{concept.name}" sits at {concept.hook}, the outputs of single heads: no direction of the '
                "residual stream, which is what the unembedding reads. Take hook_attn_out."
            )
    read_off = _ReadOff(lens, words)
    means = None if around is None else _means(lens, concepts, around)
    items = []
    for start in range(0, len(concepts), _CONCEPTS):
        part = concepts[start : start + _CONCEPTS]
        rows = torch.stack([concept.direction for concept in part])
        if means is None:
            changes = read_off.along(rows)
        else:
            here = torch.stack([means[concept.hook] for concept in part])
            changes = read_off.difference(here + strength * rows, here)
        top, bottom = _extremes(changes, k)
        items += [
            ConceptTokens(concept, _scores(tokenizer, *high), _scores(tokenizer, *low))
            for concept, high, low in zip(part, top, bottom, strict=True)
        ]
    about = (
        "Logits along the direction, through the final norm's gain; only their order and ratios mean something."
        if means is None
        else f"Change of the logits when {strength:g} times the unit direction is added to the mean activation."
    )
    return LogitLens(items, about)


class _ReadOff:
    """Final norm and unembedding of a model, in fp32; the first `words` rows of the latter stand for tokens."""

    def __init__(self, lens: Lens, words: int) -> None:
        norm = anatomy(lens.model).final_norm
        config = lens.hf.config.get_text_config()
        if norm is None:
            raise NotImplementedError(f'The final norm of architecture "{config.model_type}" is not known here.')
        if any(parameter.is_meta for parameter in norm.parameters()):
            raise BadModel(f"The final norm of {lens.name} is not in memory (offloaded): load the model so that it is.")
        self.words, self.head = words, lens.hf.get_output_embeddings()
        self.norm = copy.deepcopy(norm).float().requires_grad_(False)
        self.device = next(iter(self.norm.state_dict().values()), torch.zeros(0)).device
        self.scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
        self.cap = getattr(config, "final_logit_softcapping", None)

    def along(self, rows: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Logits of directions `[n, d_model]`, by pieces of the vocabulary."""
        for start, (logits, offset) in self._pieces(self._gained(rows), torch.zeros(1, rows.shape[1])):
            yield start, (logits - offset) * self.scale

    def difference(self, after: Tensor, before: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Logits of activations `[n, d_model]` minus those of others, by pieces of the vocabulary."""
        for start, logits in self._pieces(self._normed(after), self._normed(before)):
            first, second = (self._capped(one * self.scale) for one in logits)
            yield start, first - second

    def _capped(self, logits: Tensor) -> Tensor:
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap

    @torch.no_grad()
    def _normed(self, rows: Tensor) -> Tensor:
        return self.norm(rows.float().to(self.device))

    def _gained(self, rows: Tensor) -> Tensor:
        """The linear part of the norm: its gain, after its centring where it centres."""
        # What a norm does to a few vectors says what it is, whatever its class calls gain and epsilon (Gemma's gain is
        # 1 + weight). The vector is long, so that epsilon vanishes, without zeros, and of mean zero, kept by centring.
        width = rows.shape[1]
        signs = torch.ones(width)
        signs[1::2] = -1
        if width % 2:
            signs[-3:] = torch.tensor([1.0, 1.0, -2.0])
        far = 1024.0
        offset = self._normed(torch.zeros(width))
        gain = (self._normed(far * signs) - offset) * (signs.square().mean().sqrt() / signs).to(self.device)
        centres = (self._normed(far * torch.ones(width)) - offset).norm() < 0.5 * gain.norm()

        def linear(x: Tensor) -> Tensor:
            return (x - x.mean(dim=-1, keepdim=True) if centres else x) * gain

        some = far * rows[0].to(self.device)
        inner = some - some.mean() if centres else some
        if not torch.allclose(
            self._normed(some), offset + linear(some) / inner.square().mean().sqrt(), rtol=0.01, atol=0.01
        ):
            raise NotImplementedError(
                f"The final norm of this model, {type(self.norm).__name__}, is no RMSNorm or LayerNorm with a gain, "
                f"so that a direction has no logits of its own; give around=, a mean activation."
            )
        return linear(rows.to(self.device))

    @torch.no_grad()
    def _pieces(self, *inputs: Tensor) -> Iterator[tuple[int, list[Tensor]]]:
        """What the unembedding makes of normed rows `[n, d_model]`, `[n, piece]` each, for pieces of the vocabulary."""
        if type(self.head) is not nn.Linear or self.head.weight.is_meta:
            # With an adapter on it, quantised or offloaded, its weight is not what it computes.
            weight = self.head.weight
            place = self.device if weight.is_meta else weight.device
            dtype = weight.dtype if weight.dtype.is_floating_point else torch.get_default_dtype()
            yield 0, [self.head(rows.to(place, dtype))[:, : self.words].float() for rows in inputs]
            return
        weight, bias = self.head.weight, self.head.bias
        size = max(1, _NUMBERS // max(weight.shape[1], _CONCEPTS))
        rows_of = [rows.to(weight.device) for rows in inputs]
        for start in range(0, self.words, size):
            stop = min(start + size, self.words)
            piece = weight[start:stop].detach().float()
            shift = 0.0 if bias is None else bias[start:stop].detach().float()
            yield start, [einsum(rows, piece, "row d_model, word d_model -> row word") + shift for rows in rows_of]


def _means(lens: Lens, concepts: ConceptSet, around: Moments | Mapping[int | str, Tensor]) -> dict[str, Tensor]:
    given: Mapping[Any, Tensor] = around.mean if isinstance(around, Moments) else around
    means = {lens.hook_name(hook): torch.as_tensor(mean).detach().float().cpu() for hook, mean in given.items()}
    for hook in concepts.hooks:
        if hook not in means:
            raise UnknownName(f'around= has no mean activation at "{hook}", where concepts are.{nearest(hook, means)}')
        if means[hook].shape != (lens.d_model,):
            raise BadArgument(f"around= is {tuple(means[hook].shape)} at {hook}: expected [{lens.d_model}].")
    return means


Best = tuple[list[float], list[int]]


def _extremes(pieces: Iterable[tuple[int, Tensor]], k: int) -> tuple[list[Best], list[Best]]:
    """Of every row the `k` largest and the `k` smallest logits with their token ids, most extreme first."""
    best: dict[int, tuple[Tensor, Tensor]] = {}
    for start, logits in pieces:
        for sign in (1, -1):
            values, ids = (sign * logits).topk(min(k, logits.shape[1]), dim=1)
            ids = ids + start
            if sign in best:
                values = torch.cat([best[sign][0], values], dim=1)
                ids = torch.cat([best[sign][1], ids], dim=1)
                values, order = values.topk(min(k, values.shape[1]), dim=1)
                ids = ids.gather(1, order)
            best[sign] = values, ids
    ends = [((sign * best[sign][0]).tolist(), best[sign][1].tolist()) for sign in (1, -1)]
    top, bottom = (list(zip(values, ids, strict=True)) for values, ids in ends)
    return top, bottom


def _scores(tokenizer: Any, values: Sequence[float], ids: Sequence[int]) -> tuple[TokenScore, ...]:
    rows = zip(values, ids, strict=True)
    return tuple(TokenScore(token_string(tokenizer, number), number, value) for value, number in rows)


def concept_section(concept: Concept, *content: Content) -> Content:
    """A part of a view under the name, label, hook point and reason of a concept."""
    return section(concept.name, concept.label, [concept.hook, concept.reason], *content)


def _page(items: Iterable[ConceptTokens], about: str) -> str:
    marks = "Most extreme first, the deeper the larger; the first of each end says its logit. Italic: lowered."
    return view(map(_section, items), key=about, also=marks)


def _section(item: ConceptTokens) -> Content:
    scale = max((abs(one.logit) for one in (*item.top, *item.bottom)), default=0.0) or 1.0
    return concept_section(
        item.concept,
        side_by_side(
            [element("div", end("top", "top, raised most")), extremes(item.top, scale)],
            [element("div", end("bottom", "bottom, lowered most")), extremes(item.bottom, scale)],
        ),
    )


def extremes(scores: Sequence[TokenScore], scale: float) -> Content:
    """The tokens of one end, the first with its value."""
    rows = ((one.token, one.logit, "" if place else signed(one.logit)) for place, one in enumerate(scores))
    return chips(rows, scale)
