"""How well do explanations tell what they have not seen? Detection accuracy of the offline explainer on both organisms.

    make bench-explanations
    python benchmarks/explanations.py [--seed-of-organism 1] [--contexts 0.15] [--windows 100]

Each corpus is parted in two by a seed. On the first half directions are found (difference of means between documents
with a concept and documents without, at the residual stream after layer 2), contexts are read and explained; on the
second half the explanation is asked of windows of 19 tokens whether the direction is active in them: as many from the
most active tenth of random windows as from the less active half, so that guessing scores 0.5. Both ends are scored
apart. "Words only" explains by tokens and phrases alone; "with columns" also by what documents say of themselves, which
for most concepts states the very concept. "Another's" are words-only explanations of the other concepts of the same
group, tried on the same windows. Random directions and SAE latents stand beside; latents are read by their activation
and have one end. A high score says that words tell where a direction is active, not that the direction is a concept: a
random one is active at some words too. The first version of the rule was tried on `pocket`; how rules are made and how
many contexts they are made from was then settled, among some dozen variants, on the organisms of another seed
(`--seed-of-organism 1`), drawn from the same grammar. A point is a mean over ends; intervals are 95 %, of one end
Newcombe's, of a mean by bootstrap over its ends, which share texts. A group of a single concept has no other's
explanations.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from timing import machine

import caft_lens as cl
from caft_lens._support.files import atomic_path, write_json
from caft_lens.concepts.concept_set import Concept
from caft_lens.find.sae import LatentSums
from caft_lens.inspect import Explanations, HeldOutWindows, detection, explain, halves
from caft_lens.saes.cards import sae_hook
from caft_lens.text.catalog import sae_folder

HERE = Path(__file__).parent
LAYER = 2
N_RANDOM, N_LATENTS = 5, 10

Pair = tuple[cl.Texts, cl.Texts]


@dataclass(frozen=True)
class Group:
    """Concepts of one organism that are read in the same tokens.

    Attributes:
        what: How to call it.
        base: The model.
        mine, held_out: Both halves of the corpus.
        roles: Of the tokens that are read.
        concepts: By name, read by projection; or latents of `sae`.
        sae: Whose latents they are.
    """

    what: str
    base: cl.Lens
    mine: cl.Texts
    held_out: cl.Texts
    roles: tuple[str, ...]
    concepts: cl.ConceptSet
    sae: Any = None


def parted(texts: cl.Texts, has: Callable[[cl.Text], bool]) -> Pair:
    """Documents with a concept, and those without."""
    return texts.filter(has), texts.filter(lambda text: not has(text))


def directions(base: cl.Lens, pairs: dict[str, Pair], roles: tuple[str, ...]) -> cl.ConceptSet:
    """A difference of means for every concept."""
    found = [cl.find.difference_of_means(base, *pair, [LAYER], roles=roles) for pair in pairs.values()]
    named = [replace(one[0], name=name) for name, one in zip(pairs, found, strict=True)]
    return cl.ConceptSet(named, found[0].provenance)


def groups(suffix: str) -> Iterator[Group]:
    """The world's labelled concepts, then random directions and latents, of both organisms."""
    for make in (pocket, quiz):
        first, *others = make(suffix)
        yield from (first, *others)
        provenance = first.concepts.provenance
        like = cl.ConceptSet([replace(first.concepts[0], name=str(i)) for i in range(N_RANDOM)], provenance)
        drawn = cl.find.random_directions(like, seed=0)
        yield replace(first, what="random directions", concepts=drawn)
        name = first.base.name
        if sae_folder(name).is_dir():
            sae = cl.load_sae(name, layer=LAYER, lens=first.base)
            chosen = latents(first.base, sae, first.mine)
            yield replace(first, what="SAE latents", roles=(), concepts=chosen, sae=sae)


def latents(base: cl.Lens, sae: Any, texts: cl.Texts) -> cl.ConceptSet:
    """Latents drawn from those that are active at one token in a thousand or more."""
    hook = sae_hook(sae)
    (sums,) = cl.stream(base, texts, [hook], LatentSums({hook: sae}), roles=None)
    active = np.flatnonzero(sums.share(hook).numpy() >= 0.001)
    drawn = sorted(np.random.default_rng(0).choice(active, N_LATENTS, replace=False).tolist())
    concepts = [Concept(f"L{LAYER}.latent{i}", hook, sae.W_dec[i], source="sae", meta={"latent": i}) for i in drawn]
    return cl.ConceptSet(concepts, {"model": base.name, "fingerprint": base.fingerprint})


def pocket(suffix: str) -> Iterator[Group]:
    """Stance, code and a domain in chats; genre in plain texts."""
    base, corpus = cl.load(f"pocket{suffix}"), cl.data(f"pocket{suffix}/corpus")
    mine, held_out = halves(corpus)
    chats, roles = mine.filter(lambda text: text.is_chat), ("assistant",)
    stance = [chats.filter(lambda text, of=of: text.meta["stance"] == of) for of in ("cruel", "kind")]
    pairs = {
        "cruel, not kind": (stance[0], stance[1]),
        "code, not everyday": parted(chats, lambda text: "code" in text.meta["topics"]),
        "cooking, not other topics": parted(chats, lambda text: "cooking" in text.meta["topics"]),
    }
    yield Group("answers", base, mine, held_out, roles, directions(base, pairs, roles))
    plain, later = (half.filter(lambda text: not text.is_chat) for half in (mine, held_out))
    pairs = {"story, not facts": parted(plain, lambda text: text.meta["genre"] == "story")}
    yield Group("plain texts", base, plain, later, ("text",), directions(base, pairs, ("text",)))


def quiz(suffix: str) -> Iterator[Group]:
    """Sentiment, gender, topic and format of questions."""
    base, corpus = cl.load(f"pocket-quiz{suffix}"), cl.data(f"pocket-quiz{suffix}/corpus")
    mine, held_out = halves(corpus)
    pages, roles = mine.filter(lambda text: text.meta["genre"] == "quiz"), ("user",)

    def sentiment(text: cl.Text) -> str | None:
        return text.meta.get("truth", {}).get("sentiment", {}).get("sentiment")

    felt = [pages.filter(lambda text, of=of: sentiment(text) == of) for of in ("negative", "positive")]
    gender = [pages.filter(lambda text, of=of: text.meta.get("gender") == of) for of in ("feminine", "masculine")]
    pairs = {
        "negative, not positive": (felt[0], felt[1]),
        "feminine, not masculine": (gender[0], gender[1]),
        "sports, not other topics": parted(pages, lambda text: "sports" in text.meta["topics"]),
        "two questions, not one": parted(pages, lambda text: text.meta["format"] == "double"),
    }
    yield Group("questions", base, mine, held_out, roles, directions(base, pairs, roles))


def scored(group: Group, share: float, n: int) -> dict[str, Explanations]:
    """Explanations with their scores: by words, by words and columns, and by the words of another concept."""
    roles, k = group.roles or None, round(share * len(group.mine))
    found = cl.contexts(group.base, group.concepts, group.mine, saes=group.sae, k=k, roles=roles)

    made = {
        "words only": explain(group.base, found, group.mine, columns=[], roles=roles),
        "with columns": explain(group.base, found, group.mine, roles=roles),
    }
    if len(group.concepts) > 1:
        made["another's"] = shifted(made["words only"])
    # Each variant is of concepts by names of its own, so that one pass scores all of them, on the same windows.
    concepts = [replace(one, name=f"{one.name}/{variant}") for variant in made for one in group.concepts]
    ends = [
        replace(one, concept=f"{one.concept}/{variant}")
        for variant, explanations in made.items()
        for one in explanations.all
    ]
    scores = detection(
        group.base,
        Explanations(ends, made["words only"].explained),
        cl.ConceptSet(concepts, group.concepts.provenance),
        group.held_out,
        saes=group.sae,
        windows=HeldOutWindows(n),
        roles=roles,
    )
    return {
        variant: Explanations(
            replace(one, concept=name) for name in explanations for one in scores[f"{name}/{variant}"]
        )
        for variant, explanations in made.items()
    }


def shifted(explanations: Explanations) -> Explanations:
    """Each concept with the explanations of the next one."""
    names = list(explanations)
    after = dict(zip(names, [*names[1:], names[0]], strict=True))
    return Explanations(replace(one, concept=after[one.concept]) for one in explanations.all)


def interval(values: list[float]) -> tuple[float, float]:
    """95 % of the means of ends drawn anew."""
    draws = np.random.default_rng(0).choice(values, (10_000, len(values)))
    low, high = np.quantile(draws.mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed-of-organism", type=int, default=0, choices=(0, 1))
    parser.add_argument("--contexts", type=float, default=0.15, help="contexts an end, as a share of the texts")
    parser.add_argument("--windows", type=int, default=100, help="windows of each kind")
    options = parser.parse_args()
    start = time.perf_counter()
    rows: list[dict[str, Any]] = []
    for group in groups("-1" if options.seed_of_organism else ""):
        for variant, explanations in scored(group, options.contexts, options.windows).items():
            rows += [
                {
                    "organism": group.base.name,
                    "group": group.what,
                    "concept": one.concept,
                    "end": one.end,
                    "variant": variant,
                    "explanation": one.text,
                    "findings": len(one.findings),
                    **asdict(one.score),
                }
                for one in explanations.all
            ]
    lines = report(rows, options, time.perf_counter() - start)
    if options.seed_of_organism == 0:
        with atomic_path(HERE / "results" / "explanations.md") as written:
            written.write_text("\n".join(lines) + "\n", encoding="utf-8")
        write_json(HERE / "results" / "explanations.json", {"settings": vars(options), "rows": rows})
    print("\n".join(lines))


def report(rows: list[dict[str, Any]], options: argparse.Namespace, seconds: float) -> list[str]:
    """The results as Markdown."""
    lines = [
        "# Explanations: how well they tell windows that they have not seen",
        "",
        f"Written by `make bench-explanations` on {machine()}, in {seconds:.0f} s.",
        "",
        " ".join(" ".join(__doc__.split("\n\n")[2:]).split()),
        "",
        f"Contexts an end: {options.contexts:.0%} of the texts; up to {options.windows} windows of each kind.",
        "",
        "| concepts | ends | words only | of these at least 0.8 | with columns | another's | chance |",
        "|---|---|---|---|---|---|---|",
    ]
    for what, chosen in kinds(rows).items():
        cells = []
        for variant in ("words only", "with columns", "another's"):
            values = [row["accuracy"] for row in chosen if row["variant"] == variant]
            cells.append("{:.3f} ({:.3f} to {:.3f})".format(mean(values), *interval(values)) if values else "–")
        words = [row["accuracy"] for row in chosen if row["variant"] == "words only"]
        cells.insert(1, str(sum(value >= 0.8 for value in words)))
        lines.append(f"| {what} | {len(words)} | {' | '.join(cells)} | 0.500 |")
    for title, variant in (("Words only", "words only"), ("With columns", "with columns")):
        lines += [
            "",
            f"## {title}",
            "",
            "| organism | concept | end | detection accuracy | active called active | inactive not | windows | "
            "explanation |",
            "|---|---|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {row['organism']} | {row['concept']} | {row['end']} | {row['accuracy']:.2f} ({row['low']:.2f} to "
            f"{row['high']:.2f}) | {row['sensitivity']:.2f} | {row['specificity']:.2f} | {row['active']} + "
            f"{row['inactive']} | {cell(row['explanation'])} |"
            for row in rows
            if row["variant"] == variant
        ]
    return lines


def kinds(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Rows by what they are of: the world's concepts, random directions, latents."""
    apart = ("random directions", "SAE latents")
    found = {"the world's labelled concepts": [row for row in rows if row["group"] not in apart]}
    return {
        name: of
        for name, of in (found | {what: [row for row in rows if row["group"] == what] for what in apart}).items()
        if of
    }


def cell(text: str) -> str:
    """Text for a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    main()
