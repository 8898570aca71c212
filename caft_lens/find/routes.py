"""Several routes of finding in one pass, in which each model reads each batch once; several lists as one set."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

from caft_lens._support.errors import BadArgument, nearest
from caft_lens._support.keywords import takes_values
from caft_lens.activations.capture import hook_names, pair
from caft_lens.activations.differences import AtItsHooks, Reducer, difference_provenance, provenance, stream
from caft_lens.activations.moments import Moments
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.find.neurons import neurons
from caft_lens.find.pca import pca
from caft_lens.find.sae import LatentSums, raised, saes_by_hook
from caft_lens.model.lens import Lens
from caft_lens.text.batching import Scan
from caft_lens.text.documents import Texts

if TYPE_CHECKING:
    from sae_lens import SAE

OF_MOMENTS = {"pca": pca, "neurons": neurons}
OF_SAES = {"sae change": "change", "sae difference": "difference"}
METHODS = (*OF_MOMENTS, *OF_SAES)


@takes_values
def routes(
    tuned: Lens,
    base: Lens,
    texts: Texts | Iterable[Any],
    *,
    layers: Sequence[int | str] | None = None,
    saes: SAE | Sequence[SAE] = (),
    k: int = 20,
    methods: Sequence[str] | None = None,
    roles: Sequence[str] | None = ("assistant",),
    scan: Scan = Scan(),
) -> dict[str, ConceptSet]:
    """What fine-tuning changed, by every route, from one pass over the text.

    Args:
        tuned: The fine-tuned model.
        base: The model before, which the SAEs belong to.
        texts: Documents with answers, such as `completions(tuned, questions)`.
        layers: Layer numbers or hook names for `"pca"` and `"neurons"`; all layers by default.
        saes: One or several, each at a hook point of its own; none for the routes that need none.
        k: How many concepts at each hook point, by each route.
        methods: `"pca"` and `"neurons"` (as `find.pca` and `find.neurons` of `activation_difference`), `"sae change"`
            and `"sae difference"` (as `find.sae` by either ranking). By default all, without SAEs the first two.
        roles: Roles of the tokens to look at; `None` for all.
        scan: How the text is read: tokens a batch, where texts are cut.

    Returns:
        Method -> concepts, in the order of `methods`: for `find.compare`, or one by one.

    Raises:
        BadArgument: For an unknown method, one of SAEs without SAEs, SAEs that no method reads; or as for one route.

    Example:
        >>> found = cl.find.routes(tuned, base, answers, saes=saes)
        >>> {name: len(concepts) for name, concepts in found.items()}
        {'pca': 80, 'neurons': 80, 'sae change': 40, 'sae difference': 40}
    """
    given = list(saes) if isinstance(saes, (list, tuple)) else [saes]
    chosen = _checked(methods, bool(given))
    texts = texts if isinstance(texts, Texts) else Texts(texts)
    at = saes_by_hook(given, base) if given else {}
    hooks: list[str] = []
    if any(method in OF_MOMENTS for method in chosen):
        hooks = hook_names(pair((tuned, base)), range(base.n_layers) if layers is None else layers)
    moments = Moments(covariance="pca" in chosen)
    of_tuned, of_base, of_both = LatentSums(at), LatentSums(at), LatentSums(at, difference=True)
    together: list[Reducer] = [AtItsHooks(moments, hooks)]
    apart: tuple[list[Reducer], list[Reducer]] = [], []
    if "sae difference" in chosen:
        together.append(AtItsHooks(of_both, at))
    if "sae change" in chosen:
        apart = [AtItsHooks(of_tuned, at)], [AtItsHooks(of_base, at)]
    passed = stream(
        (tuned, base), texts, list(dict.fromkeys([*hooks, *at])), together,
        roles=roles, scan=scan,
        apart=apart if any(apart) else None,
    )  # fmt: skip
    if hooks:
        moments.provenance = difference_provenance(tuned, base, texts, roles, moments, passed.left_out)
    of_saes = {hook: number for hook, number in passed.left_out.items() if hook in at}
    about = provenance(base, texts, roles, tuned=tuned, left_out=of_saes)
    sums = {"sae change": [of_tuned, of_base], "sae difference": [of_both]}
    return {
        method: OF_MOMENTS[method](moments, k)
        if method in OF_MOMENTS
        else raised(at, sums[method], OF_SAES[method], k, about)
        for method in chosen
    }


def merge(lists: Mapping[str, ConceptSet]) -> ConceptSet:
    """Several ranked lists as one set, in which a direction that several routes found stands once.

    Concepts keep their names, lists their order. Where one name means two directions, the route is put before it.

    Args:
        lists: Route -> concepts, of one model.

    Returns:
        Concepts whose `meta["routes"]` says by route at which rank and with what score it was found;
        `provenance["routes"]` has the provenance of each list.

    Raises:
        ValueError: Without a list, or when they are of different models.

    Example:
        >>> import torch
        >>> x, y = torch.eye(2)
        >>> hook = "blocks.1.hook_resid_post"
        >>> one = ConceptSet([Concept("L1.pc0", hook, x)])
        >>> other = ConceptSet([Concept("L1.pc0", hook, y), Concept("L1.mean", hook, x)])
        >>> merge({"pca": one, "means": other}).names
        ['pca:L1.pc0', 'means:L1.pc0', 'L1.mean']
    """
    if not lists:
        raise BadArgument("find.merge() needs at least one list of concepts.")
    places: dict[str, list[tuple[str, Concept]]] = {}
    for route, concepts in lists.items():
        for concept in concepts:
            places.setdefault(concept.name, []).append((route, concept))
    found: dict[str, Concept] = {}
    for route, concepts in lists.items():
        for concept in concepts:
            alike = all(_same(concept, other) for _, other in places[concept.name])
            name = concept.name if alike else f"{route}:{concept.name}"
            here = {"rank": concept.rank, "score": concept.score, "score_name": concept.score_name}
            before = found.get(name, concept)
            by_route = {**before.meta.get("routes", {}), route: here} if name in found else {route: here}
            found[name] = dataclasses.replace(before, name=name, meta={**before.meta, "routes": by_route})
    # Added for what the sets say of their models, which has to agree.
    firsts = (ConceptSet([dataclasses.replace(one[0], name=route)], one.provenance) for route, one in lists.items())
    together = reduce(operator.add, firsts)
    of_each = {route: one.provenance for route, one in lists.items()}
    return ConceptSet(found.values(), {**together.provenance, "routes": of_each})


def _same(one: Concept, other: Concept) -> bool:
    """Whether two concepts are one direction at one hook point, up to rounding."""
    same_place = one.hook == other.hook and one.direction.shape == other.direction.shape
    return same_place and bool((one.direction - other.direction).norm() < 1e-4)


def _checked(methods: Sequence[str] | None, with_saes: bool) -> list[str]:
    """The methods to take, each once."""
    if methods is None:
        return list(METHODS if with_saes else OF_MOMENTS)
    chosen = list(dict.fromkeys([methods] if isinstance(methods, str) else methods))
    for method in chosen:
        if method not in METHODS:
            raise BadArgument(f'find.routes(methods=): no route "{method}".{nearest(method, METHODS)}')
        if method in OF_SAES and not with_saes:
            raise BadArgument(f'The route "{method}" reads SAEs: give saes=, such as load_saes("pocket").')
    if not chosen:
        raise BadArgument(f"find.routes(methods=): no route to take.{nearest('', METHODS)}")
    if with_saes and not any(method in OF_SAES for method in chosen):
        raise BadArgument(f"SAEs were given, but of {', '.join(chosen)} none reads them.{nearest('', OF_SAES)}")
    return chosen
