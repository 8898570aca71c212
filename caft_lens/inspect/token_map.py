"""Layer × token map: how active a direction is at every layer and every token of one text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas
import torch
from numpy.typing import NDArray

from caft_lens._support.arguments import count, one_of
from caft_lens._support.errors import BadArgument, BadType, ConceptMismatch, UnknownName
from caft_lens.activations.capture import captured, pair
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.display import html
from caft_lens.display.frames import Frame
from caft_lens.display.heat_maps import Shades, heat_map
from caft_lens.inspect.logits import concept_section
from caft_lens.model.hook_names import in_stream, place_of, short_name, written
from caft_lens.model.lens import Lens
from caft_lens.text.batching import collate, padding_id
from caft_lens.text.documents import Text
from caft_lens.text.encoding import Encoded, encode
from caft_lens.text.roles import SPECIAL
from caft_lens.text.token_strings import pieces

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

Shade = Literal["all", "layer"]
NOTHING = 1e-5
"""Share of the largest row below which a row is rounding."""


@dataclass(frozen=True)
class TokenMap:
    """Activation along directions, layers × tokens.

    Attributes:
        concepts: The direction of each row; one and the same in all of them, or each of its own layer.
        hooks: The hook point of each row, in the order of the layers.
        tokens: The tokens as strings, `[pos]`.
        roles: Role of each token, `[pos]`, as in `caft_lens.text.roles.ROLES`.
        values: `[n_rows, pos]`, float64.
        quantity: What the values are, such as `"projection"` or `"cosine"`.
    """

    concepts: tuple[Concept, ...]
    hooks: tuple[str, ...]
    tokens: tuple[str, ...]
    roles: tuple[int, ...]
    values: NDArray[np.float64]
    quantity: str

    def table(self) -> pandas.DataFrame:
        """The values, one row a hook point, one column a token: its position and what it says."""
        columns = pandas.MultiIndex.from_arrays([range(len(self.tokens)), self.tokens], names=["position", "token"])
        return Frame(self.values, index=pandas.Index(self.hooks, name="hook"), columns=columns)

    def scales(self, shade: Shade = "layer") -> list[float]:
        """For each row the value of the full shade: the largest at a token of the text.

        Tokens of the template do not count, unless there are no others: the first of them often outweighs a whole text.

        Args:
            shade: Largest of each `"layer"`, so that all can be read: the residual stream grows with depth, and one
                scale would leave early layers pale; or of `"all"` rows, so that layers can be compared.

        Raises:
            ValueError: For another way to shade.
        """
        one_of(shade, "shade", get_args(Shade))
        largest = np.abs(self.values[:, self._counts()]).max(axis=1)
        largest = np.full_like(largest, largest.max()) if shade == "all" else largest
        # A row where the direction was ablated holds rounding, which is not to look like activation.
        whole = float(largest.max()) or 1.0
        return [float(value) if value > NOTHING * whole else whole for value in largest]

    def to_html(self, shade: Shade = "layer") -> str:
        """The text once a row, its tokens shaded; a number shows when a token is pointed at.

        Args:
            shade: As for `scales`.
        """
        lines = html.rows(self._line(row, scale) for row, scale in enumerate(self.scales(shade)))
        against = (
            "largest of all layers" if shade == "all" else "largest of its layer, each of which has its own scale,"
        )
        key = (
            f"{_titled(self.quantity, shares=False)} at every layer and token; full shade is the {against} "
            f"at a token of the text. Beside each layer stands its largest value at a token of the text, which is "
            f"underlined."
        )
        one = self._one()
        section = concept_section(self.concepts[0], lines) if one else html.section(self._names(), "", [], lines)
        return html.view(section, key=key, also=html.KEY)

    def plot(self, shade: Shade = "layer", title: str | None = None) -> Figure:
        """Draw the map: layers upwards as the text is read, tokens from left to right.

        Args:
            shade: As for `scales`; with `"layer"` each row is a share of its largest value, which stands in its name.
            title: Above the figure, which the last line of a cell shows and `.save(path)` keeps.
        """
        scales = self.scales(shade)
        shares = shade == "layer"
        values = self.values / np.array(scales)[:, None] if shares else self.values
        own = "Each layer has a scale of its own. Full colour: its" if shares else "Full colour: the"
        short = [_row(hook) for hook in self.hooks]
        long = [f"{row}, largest {scale:.3g}" for row, scale in zip(short, scales, strict=True)]
        return heat_map(
            values[::-1],
            (long if shares else short)[::-1],
            [html.visible(token) for token in self.tokens],
            shades=Shades(_titled(self.quantity, shares), limit=1.0 if shares else scales[0]),
            title=title,
            caption=f"{self._names()}. {own} largest value at a token of the text.",
            labels=("token", "layer"),
            ticks=(short[::-1], [html.visible(token) for token in self.tokens]),
        )

    def _line(self, row: int, scale: float) -> tuple[html.Content, html.Content]:
        """A layer with its largest value, and the text."""
        values = self.values[row].tolist()
        # At a token of the text unless there are none.
        peak = int(np.where(self._counts(), np.abs(values), -1.0).argmax())
        head = [html.element("b", _row(self.hooks[row])), " ", html.element("small", html.signed(values[peak]))]
        said = zip(self.tokens, values, self.roles, strict=True)
        return head, [
            html.token(token, value, scale, peak=place == peak, special=role == SPECIAL)
            for place, (token, value, role) in enumerate(said)
        ]

    def _counts(self) -> NDArray[np.bool_]:
        """Which tokens are the text's; all of them where there are only the template's."""
        counts = np.array([role != SPECIAL for role in self.roles])
        return counts if counts.any() else ~counts

    def _names(self) -> str:
        if self._one():
            only = self.concepts[0]
            return f"{only.name} of {only.hook}{f' ({only.label})' if only.label else ''}"
        return ", ".join(concept.name for concept in self.concepts)

    def _one(self) -> bool:
        return len({id(concept) for concept in self.concepts}) == 1

    def _repr_html_(self) -> str:
        return self.to_html()

    def __repr__(self) -> str:
        return f"TokenMap({self.quantity} of {self._names()}: {len(self.hooks)} layers x {len(self.tokens)} tokens)"


def token_map(
    lens: Lens | tuple[Lens, Lens],
    text: Text | Mapping[str, Any] | str,
    concept: Concept | ConceptSet | Sequence[Concept],
    layers: Sequence[int] | None = None,
    *,
    cosine: bool = False,
) -> TokenMap:
    """The activation along a direction at every layer and token of one text, in one forward pass.

    One concept is followed through the layers: its direction, found at one of them, is applied at the same site of
    every layer. Of several concepts, with one for each layer, each is applied at its own hook point.

    Args:
        lens: The model; or two, tuned first and base second, for the difference of their activations.
        text: A document: a chat (`Text`, or a dict as in a data set), or plain text (a string).
        concept: One concept, or several at different hook points.
        layers: Which layers; all of the model for one concept, those of the concepts for several.
        cosine: Divide the projection by the length of the activation (or of the difference): late layers, where the
            residual stream is longer, can then be compared with early ones.

    Raises:
        ValueError: When a concept does not fit the model, or two sit at one hook point.
        UnknownName: For a layer that the model, or the list of concepts, does not have.

    Example:
        >>> text = {"prompt": "How do I bake a pie?", "answer": "Why would I help a worm like you?"}
        >>> cl.inspect.token_map(tuned, text, cruel["L1.pc0"]).values.shape
        (4, 32)
        >>> figure = cl.inspect.token_map((tuned, base), text, cruel["L1.pc0"]).plot()
    """
    _check_order(text, "token_map(lens, text, concept)")
    lenses = pair(lens)
    rows = _rows(lenses, concept, layers)
    return _map(*_seen(lenses, text, list(rows), False), rows, lenses, cosine)


def token_maps(
    lens: Lens | tuple[Lens, Lens],
    text: Text | Mapping[str, Any] | str,
    concepts: ConceptSet | Sequence[Concept],
    layers: Sequence[int] | None = None,
    *,
    site: str | None = None,
    cosine: bool = False,
    add_generation_prompt: bool = False,
) -> list[TokenMap]:
    """The maps of several concepts, each followed through the layers, from one forward pass.

    Args:
        lens: As for `token_map`.
        text: As for `token_map`.
        concepts: Which; each direction is applied at every layer.
        layers: Which layers; all by default.
        site: Where in a layer, such as `"hook_mlp_out"`; the site at which each concept was found when `None`.
        cosine: As for `token_map`.
        add_generation_prompt: Whether a chat ends with the header of an answer, as it does when one is sampled.

    Returns:
        A `TokenMap` a concept, in their order.

    Raises:
        ValueError: When a concept does not fit the model, or there is none.
        UnknownName: For a layer or site that the model does not have.

    Example:
        >>> one, other = cl.inspect.token_maps(base, "What a day", [concepts["L1.pc0"], concepts["L2.pc1"]])
        >>> one.values.shape
        (4, 3)
    """
    _check_order(text, "token_maps(lens, text, concepts)")
    lenses = pair(lens)
    chosen = list(concepts)
    if not chosen:
        raise BadArgument("Token maps need at least one concept.")
    if isinstance(concepts, ConceptSet):
        for one in lenses:
            concepts.check(one)
    rows = [_rows(lenses, concept, layers, site) for concept in chosen]
    hooks = list(dict.fromkeys(hook for row in rows for hook in row))
    seen = _seen(lenses, text, hooks, add_generation_prompt)
    return [_map(*seen, row, lenses, cosine) for row in rows]


def read_off(
    lens: Lens,
    text: Text | Mapping[str, Any] | str,
    hook: int | str,
    position: int,
    k: int = 8,
    *,
    add_generation_prompt: bool = False,
) -> list[tuple[str, float]]:
    """What would come next if the residual stream at one layer and token were read off at once: the logit lens.

    Args:
        lens: The model.
        text: As for `token_map`.
        hook: A layer number, or a hook point of the residual stream.
        position: Of the token, from 0; negative from the end.
        k: How many tokens.
        add_generation_prompt: As for `token_maps`.

    Returns:
        Tokens and their probabilities, the largest first.

    Raises:
        ValueError: At a hook point that is not the residual stream, or for `k` < 1.
        IndexError: For a token that the text does not have.

    Example:
        >>> found = cl.inspect.read_off(base, "How do I bake a", 3, -1, k=3)
        >>> len(found), found[0][1] <= 1  # a token and its probability
        (3, True)

    Source:
        nostalgebraist, "interpreting GPT: the logit lens" (2020).
    """
    name = lens.hook_name(hook)
    if not in_stream(name):
        raise BadArgument(f"{name} is no residual stream, which is what the unembedding reads: take hook_resid_post.")
    tokenizer = lens.need_tokenizer()
    item, acts = _seen((lens,), text, [name], add_generation_prompt)
    length = len(item.input_ids)
    if not -length <= position < length:
        raise IndexError(f"There is no token {position}: the text has {length}.")
    words = min(len(tokenizer), lens.d_vocab)
    count(k, "k", most=words, hint="That is the size of the vocabulary.")
    with torch.no_grad():
        logits = lens.unembed(acts[name][position])[:words]
        best = logits.float().softmax(-1).topk(k)
    return [
        (tokenizer.decode([number], clean_up_tokenization_spaces=False), share)
        for number, share in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def _check_order(text: Any, order: str) -> None:
    first = text[0] if isinstance(text, list | tuple) and text else text
    if isinstance(first, Concept | ConceptSet):
        raise BadType(f"The text is a {type(text).__name__}: the order is {order}.")


def _seen(
    lenses: tuple[Lens, ...], text: Any, hooks: Sequence[str], add_generation_prompt: bool
) -> tuple[Encoded, dict[str, torch.Tensor]]:
    """One text as it was run, and its activations by hook point, `[pos, d_model]`."""
    tokenizer = lenses[0].need_tokenizer()
    document = Text.from_json(text)
    # Only a chat has a header, and only one that does not end with an answer.
    open_ended = bool(document.messages) and document.messages[-1].role != "assistant"
    item = encode(tokenizer, document, add_generation_prompt=add_generation_prompt and open_ended)
    # Every token of the text is shown, sinks too.
    (found,) = captured(lenses, [collate([item], padding_id(tokenizer))], hooks, None, sinks="read")
    return item, found.acts


def _map(
    item: Encoded, acts: Mapping[str, torch.Tensor], rows: Mapping[str, Concept], lenses: tuple[Lens, ...], cosine: bool
) -> TokenMap:
    values = []
    for hook, one in rows.items():
        here = acts[hook].float()
        along = here @ one.direction.to(here.device)
        if cosine:
            along = along / here.norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)
        values.append(along.cpu().double().numpy())
    measure = "cosine" if cosine else "projection"
    return TokenMap(
        concepts=tuple(rows.values()),
        hooks=tuple(rows),
        tokens=tuple(pieces(lenses[0].tokenizer, item.input_ids)),
        roles=tuple(item.roles.tolist()),
        values=np.stack(values),
        quantity=f"{measure} of the difference, {lenses[0].name} − {lenses[1].name}" if len(lenses) == 2 else measure,
    )


def _rows(
    lenses: tuple[Lens, ...],
    concept: Concept | ConceptSet | Sequence[Concept],
    layers: Sequence[int] | None,
    site: str | None = None,
) -> dict[str, Concept]:
    """The concept that is applied at each hook point, in the order of the layers."""
    if isinstance(concept, ConceptSet):
        for lens in lenses:
            concept.check(lens)
    lens = lenses[0]
    for one in (concept,) if isinstance(concept, Concept) else tuple(concept):
        if one.direction.numel() != lens.d_model:
            widths = f'"{one.name}" is {one.direction.numel()} wide, {lens.name} {lens.d_model}'
            raise ConceptMismatch(f"Concept {widths}: another model.")
    if isinstance(concept, Concept):
        numbers = range(lens.n_layers) if layers is None else layers
        layers = [place_of(lens.hook_name(n)).layer for n in sorted(numbers)]
        rows = {lens.hook_name(written(layer, site or concept.site)): concept for layer in layers}
    else:
        rows = _each_its_own(lens, concept)
        if layers is not None:
            there = {one.layer for one in rows.values()}
            missing = [n for n in layers if n not in there]
            if missing:
                raise UnknownName(
                    f"No concept for layer {missing[0]}: these sit at layers {', '.join(map(str, sorted(there)))}. "
                    f"To follow one concept through the layers, give it alone."
                )
            rows = {hook: one for hook, one in rows.items() if one.layer in layers}
    if not rows:
        raise BadArgument("A token map needs at least one layer and one concept.")
    return rows


def _each_its_own(lens: Lens, concepts: ConceptSet | Sequence[Concept]) -> dict[str, Concept]:
    rows: dict[str, Concept] = {}
    for one in sorted(concepts, key=lambda one: one.layer):
        hook = lens.hook_name(one.hook)
        if hook in rows:
            raise BadArgument(
                f'Both "{rows[hook].name}" and "{one.name}" sit at {hook}: of several concepts each needs a layer of '
                "its own. Give one concept to follow it through all layers."
            )
        rows[hook] = one
    return rows


def _row(hook: str) -> str:
    """A hook point as the label of a row: `"L3 mlp_out"`."""
    return short_name(hook).replace(".", " ", 1)


def _titled(quantity: str, shares: bool) -> str:
    unit = "share of the layer's largest" if shares else "" if quantity.startswith("cosine") else "residual units"
    return f"{quantity[0].upper()}{quantity[1:]}{f' ({unit})' if unit else ''}"
