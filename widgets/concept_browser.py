"""The panel in which concepts are read and chosen: a ranked list, and everything that is known of the selected one."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import traitlets
from numpy.typing import NDArray

from caft_lens._support.errors import UnknownName, nearest
from caft_lens._support.files import shown
from caft_lens.activations.differences import read_by
from caft_lens.activations.top_windows import Rank
from caft_lens.choose.session import ACTIONS, Action, Blinded, Decision, Decisions, blinded
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.display import html, token_lines
from caft_lens.find.by_words import ConceptIndex
from caft_lens.find.routes import merge
from caft_lens.find.sae import latents
from caft_lens.inspect.context_windows import ConceptContexts, Context
from caft_lens.inspect.contexts import Contexts
from caft_lens.inspect.density_reducers import Density
from caft_lens.inspect.explain.explanations import Explanation, Explanations
from caft_lens.inspect.geometry import neighbours
from caft_lens.inspect.logits import logit_lens
from caft_lens.inspect.survey import Survey, survey
from caft_lens.text.batching import Scan
from caft_lens.text.documents import Text
from caft_widgets.panel import PALETTE, PATIENCE, Job, Panel, described, sentence, source

if TYPE_CHECKING:
    from sae_lens import SAE

    from caft_lens.model.lens import Lens

Integers = NDArray[np.intp]

SORTS = ("best", "name", "score", "density", "decision")
SHOWING = ("all", "undecided", *ACTIONS)
FILE = "choices/{fingerprint}.json"
OF_A_READER = "choices/{fingerprint}-{reader}.json"
BLIND = "choices/{fingerprint}-{reader}-blind.json"
IN_SIGHT = ("best", "density", "decision")
"""What a blind reader may order by: the order of their own, and what the texts say."""
ONE = "concepts"
"""What the route is called where there is only one."""


class ConceptBrowser(Panel):
    """Read concepts and say which to ablate: a ranked list with search, and both ends of the selected concept.

    Args:
        lens: The model that reads; it also gives the tokens that a direction raises. `None`: there is none.
        concepts: One list; several by route (`find.routes`); or SAEs, for all their latents.
        texts: A corpus, which is read in the background for contexts and histograms where those are not given.
        contexts: As `cl.contexts` found them.
        densities: As `inspect.density` found them: name to `Density`.
        explanations: `Explanations`, or name to what the concept was explained as.
        saes: Where concepts are latents of these SAEs, the corpus is read by the latent's activation.
        roles, rank, k: How the corpus is read, as for `cl.contexts`.
        meta: Keys of the texts' `meta` that are shown beside a context.
        file: Where each step of the choice is saved, and restored from when the panel is made again; `{fingerprint}`
            stands for that of the concepts, `{reader}` for who reads. `None` saves nothing. By default each reader who
            is named has a file of their own in `choices/`.
        reader: Who reads; the name of the user's account when `None`.
        blind: Show concepts under numbers, in an order of the reader's own, and neither rank, score, route,
            explanation, label nor what anybody else decided. How long a concept was in view is noted with each
            decision. Takes `reader=`.

    Attributes:
        concept: Name of the selected concept; its number in a blind reading.
        query, route, hook, showing: What the list is narrowed to: words, a route, a hook point, and `"all"`,
            `"undecided"`, `"ablate"`, `"leave"` or `"unsure"`.
        sort, descending: `"best"` (rank, or how well words match), `"name"`, `"score"`, `"density"` or `"decision"`.
        total: How many concepts the list has now.
        place: Where in it the selected one stands; -1 when it does not.
        note: What is to be said of the search.
        detail: What is known of the selected concept.
        choice: Name to decision and reason; numbers in the place of names in a blind reading.
        saved: Where the choice is saved.

    Raises:
        ValueError: When the concepts do not fit the model, contexts know none of them, the file is of others or of
            another reader, or a blind reading has no reader.
        TypeError: When `concepts` is neither concepts nor SAEs.

    Example:
        >>> browser = ConceptBrowser(base, concepts, corpus)
        >>> browser.decide("ablate", "cruel answers at one end", name="L1.pc0")
        >>> browser.selection.names
        ['L1.pc0']
    """

    _esm = source("panel.js", "concept_browser.js")
    _css = PALETTE + source("panel.css", "concept_browser.css")
    calls = frozenset({"rows", "go", "decide", "undo", "redo"})
    volatile = Panel.volatile | {"query", "total", "place", "version", "note", "can_undo", "can_redo"}

    awaited = frozenset({"detail"})

    query = traitlets.Unicode(help="words to search for").tag(sync=True)
    route = traitlets.Unicode(help="only what this route found; empty for all").tag(sync=True)
    hook = traitlets.Unicode(help="only concepts at this hook point; empty for all").tag(sync=True)
    showing = traitlets.Enum(SHOWING, "all", help="only concepts decided so").tag(sync=True)
    sort = traitlets.Enum(SORTS, "best", help="what the list is ordered by").tag(sync=True)
    descending = traitlets.Bool(False, help="whether the order is turned round").tag(sync=True)
    total = traitlets.Int(0, help="how many concepts the list has").tag(sync=True)
    place = traitlets.Int(-1, help="where in it the selected one stands").tag(sync=True)
    version = traitlets.Int(0, help="counts changes of the list").tag(sync=True)
    note = traitlets.Unicode(help="what is to be said of the search").tag(sync=True)
    detail = traitlets.Dict(help="what is known of the selected concept").tag(sync=True)
    choice = traitlets.Dict(help="name to decision and reason").tag(sync=True)
    saved = traitlets.Unicode(help="where the choice is saved").tag(sync=True)
    can_undo = traitlets.Bool(False).tag(sync=True)
    can_redo = traitlets.Bool(False).tag(sync=True)
    about = traitlets.Dict(help="what there is to choose from in the filters").tag(sync=True)

    def __init__(
        self,
        lens: Lens | None,
        concepts: ConceptSet | Mapping[str, ConceptSet] | SAE | Sequence[SAE],
        texts: Sequence[Text] | None = None,
        *,
        contexts: Contexts | None = None,
        densities: Mapping[str, Density] | None = None,
        explanations: Explanations | Mapping[str, str] | None = None,
        saes: SAE | Sequence[SAE] | None = None,
        roles: Sequence[str] | None = None,
        rank: Rank = "peak",
        k: int = 10,
        meta: Sequence[str] = (),
        file: str | Path | None = FILE,
        reader: str | None = None,
        blind: bool = False,
        **keywords: Any,
    ) -> None:
        if blind and not reader:
            raise ValueError('A blind reading is somebody\'s, and its order is theirs: say who reads, reader="…".')
        lists, saes = _lists(lens, concepts, saes)
        found = merge(lists) if len(lists) > 1 else next(iter(lists.values()))
        if contexts is not None and set(found.names).isdisjoint(contexts):
            raise ValueError(
                f"contexts= knows none of these {len(found)} concepts: it has {', '.join(list(contexts)[:3])}, "
                f"they are {', '.join(found.names[:3])}."
            )
        if lens is not None:
            found.check(lens)
        read = contexts.about if contexts is not None else {} if lens is None else read_by(lens)
        if file == FILE and reader:
            file = BLIND if blind else OF_A_READER
        self.decisions = Decisions(found, file, reader, read, blind=blind)
        self._blind = blinded(found, str(reader)) if blind else None
        if self._blind is not None:
            found, lists = self._blind.concepts, {ONE: self._blind.concepts}
            contexts, densities, explanations = *_renumbered(self._blind, contexts, densities), None
        self.lens, self.contexts, self.densities = lens, contexts, densities
        self.explanations, self.meta = explanations or {}, list(meta)
        self._concepts, self._names = found, found.names
        self._number = {name: number for number, name in enumerate(self._names)}
        self._own = self._blind.names if self._blind is not None else dict(zip(self._names, self._names, strict=True))
        self._shown = {own: name for name, own in self._own.items()}
        self._in_view: dict[str, float] = {}
        self._since: tuple[str, float] | None = None
        self._keys = _Keys(self._concepts, list(lists))
        self._order: Integers = np.arange(len(self._concepts))
        self._matches: NDArray[np.floating] | None = None
        self._index: ConceptIndex | None = None
        super().__init__(**keywords)
        self.about = {
            "size": len(self._concepts),
            "routes": list(lists) if len(lists) > 1 else [],
            "hooks": [] if blind else self._concepts.hooks,
            "densities": densities is not None,
            "tokens": lens is not None,
            "reader": self.decisions.by if blind else "",
        }
        self._tell_choice()
        self._arrange()
        if not self.concept:
            self.concept = self._names[int(self._order[0])]
        if texts is not None and contexts is None:
            self._survey(texts, {"saes": saes, "k": k, "roles": roles, "rank": rank})
        else:
            self._build_index()

    @property
    def candidates(self) -> ConceptSet:
        """All concepts; those that several routes found stand once. In a blind reading as the reader sees them."""
        return self._concepts

    @property
    def selection(self) -> ConceptSet:
        """The concepts to ablate, with reasons, and on record what is left in the model and why: what `ablate=` takes.

        Raises:
            ValueError: When none is to be ablated yet.
        """
        return self.decisions.selection

    # -- choosing -----------------------------------------------------------------------------------------------------

    def decide(self, action: Action | None, reason: str = "", name: str | None = None) -> None:
        """Say something of a concept: `"ablate"`, `"leave"` or `"unsure"`; `None` takes it back.

        Args:
            action: `"ablate"` takes it out of the model, `"leave"` leaves it there.
            reason: Why; to ablate or to leave needs one.
            name: Of the concept, its number in a blind reading; the selected one when `None`.

        Raises:
            KeyError: For an unknown concept.
            ValueError: For an unknown action, or a missing reason.
        """
        place, name = self.place, self.concept if name is None else name
        if name not in self._own:
            raise UnknownName(f'No concept "{name}" here.{nearest(name, self._number)}')
        try:
            self.decisions.decide(self._own[name], action, reason, self._seconds(name))
            self.mend()
        finally:
            self._chosen()
        if self.place < 0 <= place and self.total:  # what was decided left a list of the undecided, say
            self.concept = self._names[int(self._order[min(place, self.total - 1)])]

    def undo(self) -> None:
        """Take back the last step, and select its concept."""
        self._stepped(self.decisions.undo())

    def redo(self) -> None:
        """Do again what was undone last, and select its concept."""
        self._stepped(self.decisions.redo())

    def _stepped(self, name: str | None) -> None:
        self.mend()
        self._chosen()
        if name is not None:
            self.concept = self._shown[name]

    def _seconds(self, name: str) -> float | None:
        """For how long a concept has been in view, where that is noted."""
        if self._blind is None or self._since is None:
            return None
        selected, since = self._since
        return round(self._in_view.get(name, 0.0) + (time.monotonic() - since) * (name == selected), 1)

    def _hello(self) -> dict[str, str]:
        if self._since is None:  # the first view is there: what it shows is looked at from now on
            self._since = self.concept, time.monotonic()
        return super()._hello()

    def _said(self, name: str) -> Decision | None:
        """What was decided of a concept, by the name that it has here."""
        return self.decisions.get(self._own[name])

    def _chosen(self) -> None:
        self._tell_choice()
        self._arrange()

    def _tell_choice(self) -> None:
        said = self.decisions.items()
        self.choice = {self._shown[name]: {"decision": one.action, "reason": one.reason} for name, one in said}
        self.can_undo, self.can_redo = self.decisions.can_undo, self.decisions.can_redo
        file = self.decisions.file
        self.saved = "" if file is None else shown(file)

    # -- the list -----------------------------------------------------------------------------------------------------

    def rows(self, start: int, stop: int) -> dict[str, Any]:
        """Some rows of the list as it is now, for the view."""
        numbers = self._order[max(0, start) : max(0, stop)]
        return {
            "version": self.version,
            "start": max(0, start),
            "rows": [self._row(int(one)) for one in numbers],
        }

    def go(self, to: str) -> None:
        """Select another concept of the list: `"next"`, `"previous"`, `"first"`, `"last"`, a page `"down"` or
        `"up"`, the next `"undecided"`.
        """
        if not self.total:
            return
        if to == "undecided":
            ahead = [*range(self.place + 1, self.total), *range(max(0, self.place))]
            here = next((at for at in ahead if self._said(self._names[self._order[at]]) is None), self.place)
        else:
            steps = {
                "next": 1,
                "previous": -1,
                "down": 10,
                "up": -10,
                "first": -self.total,
                "last": self.total,
            }
            if to not in steps:
                raise ValueError(f'There is nowhere to go "{to}".{nearest(to, [*steps, "undecided"])}')
            here = min(max(self.place + steps[to], 0), self.total - 1)
        if here >= 0:
            self.concept = self._names[int(self._order[here])]

    def _row(self, number: int) -> dict[str, Any]:
        concept = self._concepts[number]
        density = self._density(concept.name)
        return {
            "name": concept.name,
            "decision": self._action(concept.name),
            "words": self._words(concept),
            "found": [] if self._blind else [[route, rank] for route, rank in self._keys.found(number)],
            **self._score(number),
            "density": None if density is None else density.density,
        }

    def _words(self, concept: Concept) -> str:
        """What a row says of a concept in a few words: what was found in it, else what it was called, explained as,
        or peaks on.
        """
        if self._matches is not None and self._index is not None:
            found = self._index.matched(self.query, concept.name)
            if found:
                return " · ".join(f"{field}: {', '.join(words)}" for field, words in found.items())
        explained = " · ".join(text for _, text, _ in self._explained(concept.name))
        peaks = ""
        if not concept.label and not explained and self.contexts is not None and concept.name in self.contexts:
            both = self.contexts[concept.name]
            ends = [f"{_peaks(both.top[:4])}", f"{_peaks(both.bottom[:4])}" if both.bottom else ""]
            peaks = " | ".join(end for end in ends if end) or ("never active" if both.dead else "")
        return concept.label or explained or peaks

    def _score(self, number: int) -> dict[str, str]:
        score, measure = self._keys.score(number, self.route) or (math.nan, "")
        return {"score": "" if math.isnan(score) else f"{score:.3g}", "measure": measure}

    def _density(self, name: str) -> Density | None:
        return self.densities.get(name) if self.densities is not None else None

    def _explained(self, name: str) -> list[tuple[str, str, str]]:
        """End, explanation, and how well it tells windows that it has not seen."""
        found: Any = self.explanations.get(name)
        if found is None or isinstance(found, str):
            return [("", found, "")] if found else []
        every: list[Explanation] = list(found)
        return [(one.end, one.text, str(one.score) if one.score else "") for one in every]

    @traitlets.validate("route", "hook")
    def _known_filter(self, proposal: dict[str, Any]) -> str:
        value, trait = proposal["value"], proposal["trait"].name
        valid = self._keys.routes if trait == "route" else self._concepts.hooks
        if value and value not in valid:
            raise traitlets.TraitError(f'No {trait} "{value}" here.{nearest(value, valid)}')
        return value

    @traitlets.validate("sort")
    def _known_order(self, proposal: dict[str, Any]) -> str:
        if self._blind is not None and proposal["value"] not in IN_SIGHT:
            raise traitlets.TraitError(f"A blind reading is not ordered by {proposal['value']}.")
        return proposal["value"]

    @traitlets.validate("concept")
    def _known_concept(self, proposal: dict[str, Any]) -> str:
        if proposal["value"] not in self._number:
            raise traitlets.TraitError(
                f'No concept "{proposal["value"]}" here.{nearest(proposal["value"], self._number)}'
            )
        return proposal["value"]

    @traitlets.observe("route", "hook", "showing", "sort", "descending")
    def _rearrange(self, _: object = None) -> None:
        self._arrange()

    @traitlets.observe("query")
    def _search(self, _: object = None) -> None:
        asked = self.query.strip()
        if not asked:
            self.cancel("search")
            self._matches, self.note = None, ""
            self._arrange()
            return
        index = self._index

        def matching(job: Job) -> tuple[NDArray[np.floating], str]:
            return _matching(asked, self._names, index)

        def show(found: tuple[NDArray[np.floating], str]) -> None:
            self._matches, self.note = found
            if index is None and self.contexts is None and not self.explanations:
                self.note += " Only names are searched: there are no contexts or explanations yet."
            self._arrange()

        self.work("search", "Searching", matching, show)

    def _arrange(self) -> None:
        """Put the list together anew."""
        keys = self._keys
        shown = keys.of_route(self.route) & keys.at(self.hook)
        if self.showing != "all":
            wanted = "" if self.showing == "undecided" else self.showing
            shown &= np.array([self._action(name) == wanted for name in self._names])
        best = keys.ranks(self.route)
        if self._matches is not None:
            shown &= self._matches > 0
            best = -self._matches
        by = {
            "best": lambda: best,
            "name": lambda: keys.names,
            "score": lambda: -keys.scores(self.route),
            "density": lambda: -self._shares(),
            "decision": lambda: np.array([_PLACES[self._action(name)] for name in self._names]),
        }[self.sort]()
        order = np.lexsort((keys.ranks(self.route), by))
        order = order[::-1] if self.descending else order
        self._order = order[shown[order]]
        with self.hold_sync():
            self.total = len(self._order)
            self._find_place()
            self.version += 1

    def _action(self, name: str) -> str:
        said = self._said(name)
        return said.action if said else ""

    def _shares(self) -> NDArray[np.floating]:
        found = [self._density(name) for name in self._names]
        return np.array([(one.density if one.density is not None else 1.0) if one else -1.0 for one in found])

    def _find_place(self) -> None:
        number = self._number.get(self.concept, -1)
        places = np.flatnonzero(self._order == number)
        self.place = int(places[0]) if len(places) else -1

    # -- what is known of one ------------------------------------------------------------------------------------------

    @traitlets.observe("concept")
    def _select(self, _: object = None) -> None:
        self._find_place()
        if self._since is not None and self._since[0] != self.concept:
            before, since = self._since
            now = time.monotonic()
            self._in_view[before] = self._in_view.get(before, 0.0) + now - since
            self._since = self.concept, now
        concept = self._concepts[self._number[self.concept]]
        self.work("detail", f"Reading {concept.name}", lambda _: self._portrait(concept), self._portrayed)

    def _portrayed(self, detail: dict[str, Any]) -> None:
        self.detail = detail

    def _portrait(self, concept: Concept) -> dict[str, Any]:
        """Everything that is known of a concept, as JSON."""
        name = concept.name
        both = self.contexts[name] if self.contexts is not None and name in self.contexts else None
        density = self._density(name)
        return {
            "name": name,
            "hook": "" if self._blind else concept.hook,
            "label": concept.label,
            "found": []
            if self._blind
            else [
                [route, rank, *(self._keys.score(self._number[name], route) or (None, ""))]
                for route, rank in self._keys.found(self._number[name])
            ],
            "explanations": [list(one) for one in self._explained(name)],
            "by": "latent"
            if (both is not None and both.by == "latent") or (density and density.by == "latent")
            else "projection",
            "contexts": None if both is None else described(both, self.meta),
            "density": None if density is None else _histogram(density),
            "tokens": self._tokens(concept),
            "neighbours": [[one.name, cosine, one.label] for one, cosine in neighbours(self._concepts, concept)]
            if len(self._concepts) > 1 and not self._blind
            else [],
        }

    def _tokens(self, concept: Concept) -> dict[str, Any] | None:
        if self.lens is None:
            return None
        try:
            found = logit_lens(self.lens, ConceptSet([concept], self._concepts.provenance))[concept.name]
        except (ValueError, NotImplementedError) as error:  # there are directions and models that have none
            return {"problem": sentence(error)}
        return {end: [[one.token, one.logit] for one in getattr(found, end)] for end in ("top", "bottom")}

    # -- long work ----------------------------------------------------------------------------------------------------

    def _survey(self, texts: Sequence[Text], settings: Mapping[str, Any]) -> None:
        if self.lens is None:
            raise ValueError("To read texts= takes a model: give a lens, or contexts= that were found before.")
        # A lens of its own: hooks that the user puts on the other meanwhile do not act here.
        lens = self.lens.fork()

        def read(job: Job) -> Survey:
            return survey(lens, self._concepts, texts, scan=Scan(watch=job.report), **settings)

        def show(found: Survey) -> None:
            self.contexts, self.densities = found.contexts, found.densities
            self.about = {**self.about, "densities": True}
            self._select()
            self._arrange()
            self._build_index()

        self.work("survey", f"Reading {len(texts):,} texts for contexts", read, show)

    def _build_index(self) -> None:
        """Make everything that is known in words ready to be searched."""
        explained = {name: " ".join(text for _, text, _ in self._explained(name)) for name in self.explanations}
        known = any(concept.label or concept.reason for concept in self._concepts)
        if self.contexts is None and not explained and not known:
            return

        def build(job: Job) -> ConceptIndex:
            self.wait(PATIENCE, {"detail"})  # what is looked at comes first
            contexts = None if self.contexts is None else _Watched(self.contexts, job, len(self._concepts))
            return ConceptIndex(self._concepts, contexts=contexts, explanations=explained or None)

        def ready(index: ConceptIndex) -> None:
            self._index = index
            if self.query:
                self._search()

        self.work("index", "Making the contexts searchable", build, ready)

    # -- without a kernel ---------------------------------------------------------------------------------------------

    def static(self) -> str:
        """The choice, the first of the list, and both ends of the selected concept, as plain HTML."""
        said = self.decisions
        counts = _counts(said)
        parts: list[html.Content] = []
        if said:
            rows = [[self._shown[name], one.action, one.reason] for name, one in said.items()]
            parts.append(html.table(["concept", "decision", "reason"], rows))
        first = [self._row(int(number)) for number in self._order[:10]]
        if first:
            head = {"name": "concept", "score": "score", "words": "in words", "decision": "decision"}
            head = {key: words for key, words in head.items() if not (self._blind and key == "score")}
            rows = [[row[key] for key in head] for row in first]
            more = f" of {self.total:,}" if self.total > len(first) else ""
            parts.append(html.table(list(head.values()), rows, title=f"The first {len(first)}{more}:"))
        facts = [f"{len(self._concepts):,} candidates; {counts}"]
        page = html.view(html.section("Concepts", f"read blind by {said.by}" if self._blind else "", facts, parts))
        if self.contexts is not None and self.concept in self.contexts:
            shown = self.contexts[self.concept].shown(5, self.meta)
            page += token_lines.page([shown._replace(hook="") if self._blind else shown])
        return page

    def __repr__(self) -> str:
        return f"ConceptBrowser({len(self._concepts)} concepts; {_counts(self.decisions)}; at {self.concept})"


def _counts(said: Decisions) -> str:
    """How much was decided, as the view says it at its foot."""
    return f"{len(said.of('ablate'))} to ablate, {len(said.of('leave'))} to leave, {len(said.of('unsure'))} unsure"


_PLACES = {"ablate": 0, "unsure": 1, "leave": 2, "": 3}


class _Keys:
    """What concepts are ordered and narrowed by, as arrays over all of them."""

    def __init__(self, concepts: ConceptSet, routes: Sequence[str]) -> None:
        self.routes = list(routes)
        self._several = len(self.routes) > 1
        self._found: list[dict[str, tuple[int, float, str]]] = [self._of(concept) for concept in concepts]
        self._hooks = np.array([concept.hook for concept in concepts])
        natural = [_natural(concept) for concept in concepts]
        self.names: Integers = np.empty(len(natural), dtype=np.intp)
        self.names[sorted(range(len(natural)), key=natural.__getitem__)] = np.arange(len(natural))
        self._held: dict[tuple[str, str], NDArray[Any]] = {}

    def _of(self, concept: Concept) -> dict[str, tuple[int, float, str]]:
        if not self._several:
            return {self.routes[0]: (concept.rank, concept.score, concept.score_name)}
        return {
            route: (here["rank"], here["score"], here["score_name"]) for route, here in concept.meta["routes"].items()
        }

    def of_route(self, route: str) -> NDArray[np.bool_]:
        """Which concepts a route found."""
        return self._once("of", route, lambda: [not route or route in found for found in self._found])

    def at(self, hook: str) -> NDArray[np.bool_]:
        """Which concepts sit at a hook point."""
        return self._hooks == hook if hook else np.ones(len(self._hooks), dtype=bool)

    def ranks(self, route: str) -> NDArray[np.floating]:
        """Of each concept the rank by a route, or by that which ranks it highest."""
        ranks = ([rank for of, (rank, _, _) in found.items() if route in ("", of)] for found in self._found)
        return self._once("ranks", route, lambda: [min(one, default=math.inf) for one in ranks])

    def scores(self, route: str) -> NDArray[np.floating]:
        """Of each concept the score by a route, or by that which ranks it highest."""
        scores = (self.score(number, route) for number in range(len(self._found)))
        return self._once("scores", route, lambda: [-math.inf if one is None else one[0] for one in scores])

    def _once(self, what: str, route: str, make: Callable[[], list[Any]]) -> NDArray[Any]:
        if (what, route) not in self._held:
            self._held[what, route] = np.array(make())
        return self._held[what, route]

    def score(self, number: int, route: str) -> tuple[float, str] | None:
        """Score and what it is: by a route, or by that which ranks the concept highest."""
        found = self._found[number]
        if route and route not in found:
            return None
        _, score, name = found[route] if route else min(found.values(), key=lambda one: one[0])
        return (score, name) if name else None

    def found(self, number: int) -> list[tuple[str, int]]:
        """Routes and ranks."""
        return [(route, rank) for route, (rank, _, _) in self._found[number].items()]


class _Watched(Mapping[str, Any]):
    """Contexts that say how many of them were looked at."""

    def __init__(self, contexts: Contexts, job: Job, total: int) -> None:
        self._contexts, self._job, self._total, self._seen = contexts, job, total, 0

    def __getitem__(self, name: str) -> ConceptContexts:
        self._seen += 1
        if self._seen % 16 == 0:
            self._job.report(self._seen / self._total)
        return self._contexts[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._contexts)

    def __len__(self) -> int:
        return len(self._contexts)


def _renumbered(
    blind: Blinded, contexts: Contexts | None, densities: Mapping[str, Density] | None
) -> tuple[Contexts | None, Mapping[str, Density] | None]:
    """Contexts and densities under the numbers that a blind reader sees."""
    if contexts is not None:
        contexts = contexts.shown_as(
            {name: blind.concepts[number] for number, name in blind.names.items() if name in contexts}
        )
    if densities is not None:
        densities = {number: densities[name] for number, name in blind.names.items() if name in densities}
    return contexts, densities


def _lists(lens: Lens | None, concepts: Any, saes: Any) -> tuple[dict[str, ConceptSet], SAE | Sequence[SAE] | None]:
    """Lists by route, and the SAEs by which latents among them are read."""
    if isinstance(concepts, ConceptSet):
        return {ONE: concepts}, saes
    if isinstance(concepts, Mapping):
        if not concepts or not all(isinstance(one, ConceptSet) for one in concepts.values()):
            raise TypeError("Lists by route are expected as {route: ConceptSet}, at least one.")
        return dict(concepts), saes
    several = list(concepts) if isinstance(concepts, (list, tuple)) else [concepts]
    if not several or not all(hasattr(one, "W_dec") for one in several):
        raise TypeError(
            f"ConceptBrowser shows a ConceptSet, {{route: ConceptSet}} or SAEs, not {type(concepts).__name__}."
        )
    if lens is None:
        raise ValueError("To show all latents of SAEs takes the model that they belong to: give a lens.")
    return {ONE: latents(several, lens)}, several if saes is None else saes


def _natural(concept: Concept) -> tuple[Any, ...]:
    """By which names are ordered as one counts: `L2.pc10` after `L2.pc9`."""
    parts = re.split(r"(\d+)", concept.name)
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in parts)


def _matching(query: str, names: Sequence[str], index: ConceptIndex | None) -> tuple[NDArray[np.floating], str]:
    """How well each concept matches: a name that holds the query first, then by words; what to say when none does."""
    asked = query.casefold()
    named = np.array([1000.0 * (asked in name.casefold()) for name in names])
    if index is None or not re.search(r"[^\W_]", query):
        return named, "" if named.any() else f'No name holds "{query}".'
    found = named + index.scores(query)
    return found, "" if found.any() else index.search(query, k=1).message


def _peaks(found: Sequence[Context]) -> str:
    """The tokens at the peaks of a few contexts, each once."""
    said = dict.fromkeys(html.visible(one.tokens[one.peak]).strip() for one in found)
    return " ".join(one for one in said if one)


def _histogram(density: Density) -> dict[str, Any]:
    """A density as JSON, in which there is no NaN."""
    counts, edges = density.bars
    facts = {
        "density": density.density,
        "tokens": density.tokens,
        "texts": density.texts,
        "mean": density.mean,
        "std": density.std,
        "minimum": density.minimum,
        "maximum": density.maximum,
    }
    known = {key: None if value is None or not math.isfinite(value) else value for key, value in facts.items()}
    return {**known, "by": density.by, "counts": counts.tolist(), "edges": edges.tolist()}
