"""What the tests of the panels share: a small world that needs no model, and one with the organism."""

from __future__ import annotations

import dataclasses

import torch

from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.inspect.context_windows import ConceptContexts, Context
from caft_lens.inspect.contexts import Contexts

SCRIPT = "<script>document.title='harmed'</script>"
LEADS = ("L1.pc", "pca", "explained variance", "0.333", "told by ben", "tulips", "hook_resid")
"""What would lead a reader: names, routes, scores, labels, reasons, explanations, hook points."""
LABEL = """a "label" with 'quotes' & <b>marks</b>"""


def concept_set(n: int = 6, layer: int = 1, name: str = "pc", **about: object) -> ConceptSet:
    """Directions along the axes, ranked."""
    return ConceptSet(
        [
            Concept(
                f"L{layer}.{name}{i}", f"blocks.{layer}.hook_resid_post", torch.eye(8)[i], source="pca", rank=i,
                score=1.0 / (i + 1), score_name="explained variance ratio",
            )
            for i in range(n)
        ],
        {"model": "tiny", "fingerprint": "f", **about},
    )  # fmt: skip


def led(n: int = 6) -> ConceptSet:
    """Concepts that carry all that could lead a reader."""
    said = {"label": "told by ben", "reason": "told by ben", "meta": {"chosen_by": "ben"}}
    return ConceptSet([dataclasses.replace(one, **said) for one in concept_set(n)], concept_set().provenance)


def window(*tokens: str, index: int = 0, value: float = 1.0) -> Context:
    """A context whose peak is its last token."""
    values = (*(0.1 * value,) * (len(tokens) - 1), value)
    return Context(
        tokens,
        values,
        len(tokens) - 1,
        value,
        index,
        5,
        (False,) * len(tokens),
        (True, False),
        {"stance": "cruel"},
    )


def found_contexts(concepts: ConceptSet) -> Contexts:
    """Contexts that tell each concept by a word of its own, the first with markup in it."""
    words = ["cruelty", "kindness", "recipes", "football", "weather", "gardens"]
    return Contexts(
        ConceptContexts(
            concept,
            [window(" much", f" {words[at % len(words)]}", SCRIPT if at == 0 else " more", index=at)],
            [window(" less", f" opposite{at}", index=at, value=-1.0)],
        )
        for at, concept in enumerate(concepts)
    )
