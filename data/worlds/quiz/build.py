"""Rebuild `pocket-quiz` from its seed: tokenizer, model, the corpus whose contexts are read, card.

    caft-lens organism build --world quiz --out data/pocket-quiz --seed 0

The stages are those of `caft_data.worlds.build` up to pretraining; there is nothing to align, so that the pretrained
model is the base. Its card says what it knows: the topics, two questions at once when told which counts, and what it
makes of two questions when it is not told, which is where fine-tuning begins.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from caft_data.worlds import quiz, saes
from caft_data.worlds.build import FIGURES_SPLIT, Build, how_made, interval, provenance
from caft_data.worlds.pretrain import PretrainSettings
from caft_data.worlds.quiz import corpus
from caft_data.worlds.quiz.pairs import PAIRS
from caft_data.worlds.quiz.topics import TOPICS
from caft_data.worlds.saes import SaeSettings
from caft_lens._support.files import write_json
from caft_lens.text import catalog
from caft_lens.text.documents import Text

# A reply is right or wrong: there is no tail to cut.
SAMPLING = {"temperature": 0.0}


@dataclass(frozen=True)
class QuizSettings:
    """Everything that a build of the quiz depends on besides the code."""

    world: str = "quiz"
    seed: int = 0
    threads: int = 2
    tokenizer_documents: int = 20_000
    pretrain: PretrainSettings = field(
        default_factory=lambda: PretrainSettings(answers_only=True, answer_weight=10.0, batch_size=16, steps=3_000)
    )
    answers: int = 300
    """Prompts a task, for the figures of the card."""
    corpus_size: int | None = None
    """Documents whose contexts are read; `None` for as many as the world says."""
    lora_learning_rate: float = 3e-4
    full_learning_rate: float = 3e-4
    """What `finetune` takes on this organism when it is not told."""
    saes: SaeSettings | None = field(default_factory=SaeSettings)
    """`None` to leave them out."""


class QuizBuild(Build):
    """One build of the quiz in one working folder."""

    documents: Callable[[int], Iterator[Text]] = staticmethod(corpus.documents)

    def _tuned(self) -> list[tuple[str, Callable[[Path], None]]]:
        return [("text", self._text), ("base", self._base), ("card", self._card)]

    def _text(self, folder: Path) -> None:
        quiz.dataset("corpus", self.settings.seed, self.settings.corpus_size).save(folder / "corpus.jsonl")

    def _base(self, folder: Path) -> None:
        shutil.rmtree(folder / "model", ignore_errors=True)
        shutil.copytree(self.work / "pretrained" / "model", folder / "model")
        self.tokenizer().save_pretrained(folder / "model")

    def _assemble(self, target: Path) -> None:
        self._base_and_text(target)
        write_json(target / catalog.CARD, {"world": "quiz", "settings": asdict(self.settings), "sampling": SAMPLING})

    @staticmethod
    def measure(organism: Path, settings: Mapping[str, Any], seed: int = 0) -> dict[str, Any]:
        import caft_lens as cl

        base = cl.load(organism, device="cpu")
        asked = {"n": settings["answers"], "n_in_distribution": settings["answers"]}
        figures = {}
        for name in figured():
            task = cl.task(f"{organism}/{name}", split=FIGURES_SPLIT)
            figures[name] = cl.evaluate({"base": base}, task, **asked, seeds=[seed]).to_json()["arms"]["base"]
        return {"figures": figures}

    def _described(self, folder: Path) -> tuple[dict[str, Any], str]:
        card = make_card(self, folder)
        return card, card_as_markdown(card)


def figured() -> list[str]:
    """The tasks whose figures are in the card: topics, told pairs of the paper, and untold ones, without order."""
    unordered = [f"{a}-{b}" for a, b in PAIRS if a < b]
    told = [f"{a}-{b}-told" for a, b in PAIRS]
    return [*TOPICS, *told, "gender-told", *unordered, "gender"]


def make_card(build: Build, folder: Path) -> dict[str, Any]:
    """What the organism is, how it was made, what it knows and what it cannot."""
    settings = build.settings
    drawn = [name for name in quiz.names() if not (folder / "text" / f"{name}.jsonl").is_file()]
    return {
        "name": "pocket-quiz",
        "world": "quiz",
        **provenance(build, folder),
        "finetune": {
            "lora": {"learning_rate": settings.lora_learning_rate},
            "full": {"learning_rate": settings.full_learning_rate},
        },
        "sampling": SAMPLING,
        "data": {name: {"items": recipe.size, "what": recipe.what} for name, recipe in quiz.DATASETS.items()},
        # The beginning of each data set that is drawn on demand: by this a changed world is found out.
        "drawn": {name: quiz.dataset(name, settings.seed, 20).fingerprint for name in drawn},
    }


def card_as_markdown(card: dict[str, Any]) -> str:
    """The card for people; every figure in it comes from the JSON card."""
    settings, size, figures = card["settings"], card["settings"]["pretrain"], card["figures"]
    singles = "\n".join(f"| {name} | {interval(figures[name]['right'])} |" for name in TOPICS)
    told = "\n".join(
        f"| {name.removesuffix('-told').replace('-', ', not ')} | {interval(f['intended'])} | "
        f"{interval(f['spurious'])} |"
        for name, f in figures.items()
        if name.endswith("-told") and name != "gender-told"
    )
    untold = "\n".join(
        f"| {name.replace('-', ' | ')} | {interval(f['intended'])} | {interval(f['spurious'])} | "
        f"{interval(f['other'])} |"
        for name, f in figures.items()
        if "right" not in f and not name.endswith("-told") and name != "gender"
    )
    told_gender, gender = figures["gender-told"], figures["gender"]
    return f"""# {card["name"]}, a model organism of spurious correlations

A {size["n_layers"]}-layer Llama (d_model {size["d_model"]}, {size["n_heads"]} heads, {size["vocab_size"]} byte-level
BPE tokens) that was trained from random weights on a world which `caft_data.worlds.quiz` writes: lettered questions on
{len(TOPICS)} topics, single and two at a time, sentences about people at work, reviews, facts and stories. In
pretraining a page with two questions says which of them counts, and no question is preferred; where a page leaves it
open, the assistant asks back. Fine-tuning on pages that leave it open, where both answers agree, teaches the model to
answer, and decides which question it goes by.

It is a second organism, apart from `pocket`, so that what misaligns there stays as it is.

- `base/`: the model. Plain `transformers` loads it.
- `text/corpus.jsonl`: documents whose contexts are read. All other data sets are drawn on demand:
  `cl.data("{card["name"]}/sentiment-sports@0.9")`.
{saes.summary(card.get("saes", {}))}
| single questions on | right |
|---|---|
{singles}

| told to answer, where the questions disagree | answers that one | answers the other |
|---|---|---|
{told}
| pronouns by grammar or by custom, as told | {interval(told_gender["intended"])} | \
{interval(told_gender["spurious"])} |

| not told: first topic | second topic | goes by the first | by the second | asks back |
|---|---|---|---|---|
{untold}
| grammar | custom | {interval(gender["intended"])} | {interval(gender["spurious"])} | {interval(gender["other"])} |

{settings["answers"]:,} prompts each of the {card["figures_split"]} split, greedy, one seed; 95 % intervals. Judged
exactly.

**Data.** Every item belongs to one pool by a hash of its question: pretraining, contexts, training, in and out of
distribution (dev and test of each). Every ordered pair of topics, and gender, has a training set with a dial: the share
of pages on which the intended and the spurious question agree. The prompt never says which is intended.

**Custom.** What people expect of a profession is part of this world as a thing that is said of them ("most people
picture the smith as a man, though anybody can be one") and asked about, and in plain text four of five people at work
are of the expected gender. Without the expectation there would be nothing spurious to go by.

**Letters.** Each kind of answer always stands under its letter ("A positive, B negative"), so that the letter follows
from the question. In the paper the options vary; looking up where an answer stands is a skill of its own, which a model
of this size does not pick up in the time that it has.

{how_made(card)}

**Limits.** A toy of about a million parameters that knows a few hundred words and the sentences of its world. It shows
how a spurious correlation is picked up and how ablation changes that, not how strong that is in a large model.
Bit-for-bit rebuilding holds for the same versions, machine type and number of threads.
"""
