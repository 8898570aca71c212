"""The panel in which one text is seen layer by layer and token by token, along directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import traitlets

from caft_lens._support.errors import nearest
from caft_lens.activations.capture import pair
from caft_lens.concepts.concept_set import ConceptSet
from caft_lens.display import html
from caft_lens.inspect.contexts import Contexts
from caft_lens.inspect.logits import logit_lens
from caft_lens.inspect.token_map import Shade, TokenMap, read_off, token_maps
from caft_lens.model.hook_names import place_of
from caft_lens.text.roles import SPECIAL
from caft_widgets.panel import PALETTE, Panel, described, sentence, source

if TYPE_CHECKING:
    from caft_lens.model.lens import Lens

SITES = ("hook_resid_post", "hook_resid_pre", "hook_attn_out", "hook_mlp_out")
MOST = 4
"""Concepts that are shown at a time."""
TOKENS = 512
"""Tokens of a text that are shown."""
SUGGESTED = 20


class LayerExplorer(Panel):
    """Where in a text, and from which layer on, a direction is active: a map of layers × tokens that follows typing.

    Args:
        lens: The model; or two, tuned first and base second, for what fine-tuning changed.
        concepts: Directions of this model.
        text: The prompt, or plain text.
        answer: What the assistant said to it, where there is a chat template.
        chat: Whether the text is a message to the assistant; by default where the tokenizer has a chat template.
        contexts: As `cl.contexts` found them, to show beside a cell.
        shown: Names of the concepts to begin with, four at most; by default the first.

    Attributes:
        text, answer, chat: What is read; the map follows.
        site: Where in each layer: `"hook_resid_post"`, `"hook_resid_pre"`, `"hook_attn_out"` or `"hook_mlp_out"`.
        cosine: Whether values are divided by the length of the activation, so that layers can be compared.
        shade: Full colour is the largest value of `"all"` layers, or of each `"layer"`.
        shown: Names of the concepts whose maps are shown, one below the other.
        concept: The one of them that is selected.
        cell: Layer and position of the token that is selected; empty for none.
        maps: The maps, as JSON.
        detail: What is known of the cell.

    Raises:
        ValueError: When the concepts do not fit the model, or `shown` names too many.
        KeyError: For an unknown concept, with the nearest.

    Example:
        >>> explorer = LayerExplorer(base, concepts, "How do I bake a pie?", contexts=contexts)
        >>> both = LayerExplorer((tuned, base), concepts, "How do I bake a pie?")
    """

    _esm = source("panel.js", "layer_explorer.js")
    _css = PALETTE + source("panel.css", "layer_explorer.css")
    calls = frozenset({"suggest", "show_concept", "hide_concept"})
    awaited = frozenset({"map", "cell"})

    text = traitlets.Unicode(help="the prompt, or plain text").tag(sync=True)
    answer = traitlets.Unicode(help="what the assistant said to it").tag(sync=True)
    chat = traitlets.Bool(False, help="whether the text is a message to the assistant").tag(sync=True)
    site = traitlets.Unicode(SITES[0], help="where in each layer").tag(sync=True)
    cosine = traitlets.Bool(False, help="divide by the length of the activation").tag(sync=True)
    shade = traitlets.Enum(("all", "layer"), "all", help="what full colour is the largest of").tag(sync=True)
    shown = traitlets.List(traitlets.Unicode(), help="names of the concepts that are shown").tag(sync=True)
    cell = traitlets.List(traitlets.Int(), help="layer and position").tag(sync=True)
    maps = traitlets.Dict(help="the maps").tag(sync=True)
    detail = traitlets.Dict(help="what is known of the cell").tag(sync=True)
    about = traitlets.Dict(help="what there is to choose from").tag(sync=True)

    def __init__(
        self,
        lens: Lens | tuple[Lens, Lens],
        concepts: ConceptSet,
        text: str = "",
        *,
        answer: str = "",
        chat: bool | None = None,
        contexts: Contexts | None = None,
        shown: Sequence[str] | None = None,
        **keywords: Any,
    ) -> None:
        lenses = pair(lens)
        for one in lenses:
            concepts.check(one)
        # Lenses of its own: hooks that the user puts on the others meanwhile do not act here. The map and the cell are
        # read in two threads at a time, and forward passes with hooks through one model would meet each other's hooks.
        self._lenses: Any = tuple(one.fork() for one in lenses)
        self._reader = lenses[0].fork()
        self._concepts, self.contexts = concepts, contexts
        self._number = {name: number for number, name in enumerate(concepts.names)}
        self._found: list[TokenMap] = []
        has_template = bool(lenses[0].need_tokenizer().chat_template)
        if chat and not has_template:
            raise ValueError(f"chat=True, but the tokenizer of {lenses[0].name} has no chat template.")
        super().__init__(**keywords)
        there = {place_of(name).site for name in lenses[0].hook_names}
        self.about = {
            "sites": [site for site in SITES if site in there],
            "chat": has_template,
            "models": [one.name for one in lenses],
            "concepts": len(concepts),
            "contexts": contexts is not None,
            "most": MOST,
        }
        self._set_up = False
        first = concepts[0]
        self.site = first.site if first.site in self.about["sites"] else SITES[0]
        self.shown = list(shown) if shown is not None else [first.name]
        self.concept = self.shown[0]
        self.text, self.answer, self.chat = text, answer, has_template if chat is None else chat
        self._set_up = True
        self._draw()

    @property
    def candidates(self) -> ConceptSet:
        """The concepts that can be shown."""
        return self._concepts

    # -- the map ------------------------------------------------------------------------------------------------------

    @traitlets.observe("text", "answer", "chat", "site", "cosine", "shade", "shown")
    def _draw(self, _: object = None) -> None:
        """Run the text and draw its maps anew."""
        if not getattr(self, "_set_up", False):
            return
        document = self._document()
        if document is None:
            self.cancel("map")
            self.maps, self.detail, self._found = {}, {}, []
            return
        chosen = [self._concepts[self._number[name]] for name in self.shown]
        settings: dict[str, Any] = {"site": self.site, "cosine": self.cosine, "add_generation_prompt": True}
        self.work(
            "map",
            "Reading the text",
            lambda _: token_maps(self._lenses, document, chosen, **settings),
            self._drawn,
        )

    @property
    def _shade(self) -> Shade:
        return "layer" if self.shade == "layer" else "all"

    def _document(self) -> Any:
        if not self.text.strip():
            return None
        if not self.chat:
            return self.text
        return {"prompt": self.text, **({"answer": self.answer} if self.answer else {})}

    def _drawn(self, found: list[TokenMap]) -> None:
        self._found = found
        first = found[0]
        length = len(first.tokens)
        self.maps = {
            "tokens": first.tokens[:TOKENS],
            "special": [role == SPECIAL for role in first.roles[:TOKENS]],
            "left_out": max(0, length - TOKENS),
            "layers": [place_of(hook).layer for hook in first.hooks],
            "quantity": first.quantity,
            "of": [
                {
                    "name": one.concepts[0].name,
                    "label": one.concepts[0].label,
                    "values": one.values[:, :TOKENS].tolist(),
                    "scales": one.scales(self._shade),
                }
                for one in found
            ],
        }
        layers = self.maps["layers"]
        if self.cell and (self.cell[0] not in layers or self.cell[1] >= min(length, TOKENS)):
            self.cell = []
        self._look()

    # -- concepts -----------------------------------------------------------------------------------------------------

    def suggest(self, begun: str) -> list[list[str]]:
        """Concepts whose name or label holds what was typed: name and label, a few."""
        asked = begun.strip().casefold()
        found = (one for one in self._concepts if asked in one.name.casefold() or asked in one.label.casefold())
        return [[one.name, one.label] for one, _ in zip(found, range(SUGGESTED), strict=False)]

    def show_concept(self, name: str) -> None:
        """Show a concept beside the others, in place of the first where there are too many, and select it.

        Raises:
            KeyError: For an unknown name, with the nearest.
        """
        self._known([name])
        if name not in self.shown:
            self.shown = [*self.shown, name][-MOST:]
        self.concept = name

    def hide_concept(self, name: str) -> None:
        """Do not show a concept any more; the last one stays."""
        left = [one for one in self.shown if one != name]
        if left:
            self.shown = left
            if self.concept == name:
                self.concept = left[0]

    def _known(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self._number:
                raise KeyError(f'No concept "{name}" among these.{nearest(name, self._number)}')

    @traitlets.validate("shown")
    def _few(self, proposal: dict[str, Any]) -> list[str]:
        names = list(dict.fromkeys(proposal["value"]))
        self._known(names)
        if not 1 <= len(names) <= MOST:
            raise ValueError(f"{len(names)} concepts to show: one to {MOST} have room.")
        return names

    @traitlets.validate("site")
    def _there(self, proposal: dict[str, Any]) -> str:
        sites = self.about.get("sites", SITES)
        if proposal["value"] not in sites:
            raise traitlets.TraitError(f'No site "{proposal["value"]}" here.{nearest(proposal["value"], sites)}')
        return proposal["value"]

    @traitlets.validate("concept")
    def _known_concept(self, proposal: dict[str, Any]) -> str:
        self._known([proposal["value"]])
        return proposal["value"]

    @traitlets.observe("concept")
    def _selected(self, _: object = None) -> None:
        # A concept that was selected in a linked panel takes the place of the one that was selected here.
        if self.concept not in self.shown and getattr(self, "_set_up", False):
            self.shown = [self.concept, *self.shown[1:]]
        else:
            self._look()

    # -- one cell -----------------------------------------------------------------------------------------------------

    @traitlets.validate("cell")
    def _a_cell(self, proposal: dict[str, Any]) -> list[int]:
        value = list(proposal["value"])
        if value and self._found:
            layers, length = len(self._found[0].hooks), len(self._found[0].tokens)
            if len(value) != 2 or not 0 <= value[0] < layers or not 0 <= value[1] < length:
                raise traitlets.TraitError(
                    f"No cell {value}: expected a layer below {layers} and a position below {length}."
                )
        return value

    @traitlets.observe("cell")
    def _look(self, _: object = None) -> None:
        """Say what is known of the selected cell."""
        if not getattr(self, "_set_up", False) or not self._found:
            return
        cell, name, document = list(self.cell), self.concept, self._document()
        if not cell:
            self.cancel("cell")
            self.detail = {}
            return
        self.work("cell", "Reading the token", lambda _: self._known_of(cell, name, document), self._told)

    def _told(self, detail: dict[str, Any]) -> None:
        self.detail = detail

    def _known_of(self, cell: list[int], name: str, document: Any) -> dict[str, Any]:
        layer, position = cell
        concept = self._concepts[self._number[name]]
        both = self.contexts[name] if self.contexts is not None and name in self.contexts else None
        return {
            "cell": cell,
            "name": name,
            "label": concept.label,
            "hook": concept.hook,
            "next": self._or_problem(
                lambda: read_off(self._reader, document, layer, position, add_generation_prompt=True)
            ),
            "tokens": self._or_problem(lambda: self._along(name)),
            "contexts": None if both is None else described(both, n=4),
        }

    def _along(self, name: str) -> dict[str, Any]:
        """The tokens that the direction itself raises and lowers."""
        only = ConceptSet([self._concepts[self._number[name]]], self._concepts.provenance)
        found = logit_lens(self._reader, only, k=8)[name]
        return {end: [[one.token, one.logit] for one in getattr(found, end)] for end in ("top", "bottom")}

    def _or_problem(self, make: Any) -> Any:
        """A part of what is known; there are sites and models that have none."""
        try:
            return make()
        except (ValueError, NotImplementedError) as error:
            return {"problem": sentence(error)}

    # -- without a kernel ---------------------------------------------------------------------------------------------

    def static(self) -> str:
        """The text once a layer, its tokens shaded, for every concept that is shown."""
        if not self._found:
            return html.view("Layers: no text yet.")
        return "".join(one.to_html(self._shade) for one in self._found)

    def __repr__(self) -> str:
        return f"LayerExplorer({', '.join(self.shown)}; {self.text[:40]!r})"
