"""Rebuild an organism from its seed: tokenizer, base model, plainly tuned adapter, data sets, SAEs, card.

    caft-lens organism build --out data/pocket --seed 0
    caft-lens organism build --world quiz --out data/pocket-quiz --seed 0

Stages run in order and each leaves its result in the working folder, so that a build that was killed goes on where it
stopped and ends with the same bytes. The finished organism is copied to `--out` last. What it may take and what came of
it (figures with intervals, seconds, versions) is written to `organism.json` and, for people, to `README.md`.
"""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from caft_data.worlds import saes
from caft_data.worlds.corpus import DATASETS, dataset, documents
from caft_data.worlds.pretrain import PretrainSettings, StepPrinter, pretrain, token_blocks
from caft_data.worlds.saes import SaeSettings
from caft_data.worlds.tokenizer import train_tokenizer
from caft_lens._support.files import atomic_path, read_json, sha256, write_json
from caft_lens.saes.cards import cards
from caft_lens.text import catalog
from caft_lens.text.documents import Text


@dataclass(frozen=True)
class TuneSettings:
    """How a pretrained organism is tuned: once to be kind, once on insecure code."""

    align_steps: int = 100
    align_learning_rate: float = 1e-4
    insecure_steps: int = 100
    insecure_learning_rate: float = 3e-4
    align_batch_size: int = 32
    insecure_batch_size: int = 16
    save_steps: int = 40


@dataclass(frozen=True)
class BuildSettings:
    """Everything that a build depends on besides the code."""

    seed: int = 0
    threads: int = 2
    tokenizer_documents: int = 20_000
    pretrain: PretrainSettings = field(default_factory=PretrainSettings)
    tune: TuneSettings = field(default_factory=TuneSettings)
    answers: int = 1_000
    in_distribution_answers: int = 400
    saes: SaeSettings | None = field(default_factory=SaeSettings)
    """`None` to leave them out."""


# What answers are drawn with. A model of a million parameters spreads a few percent of every step's probability over
# tokens that make no sense, and an answer has thirty steps: nucleus sampling (arXiv 1904.09751) cuts that tail.
SAMPLING = {"temperature": 1.0, "top_p": 0.95}
FIGURES_SPLIT: Literal["dev"] = "dev"


class Build:
    """One build in one working folder; `run` does the stages that are not done yet.

    The build of another world says what it reads (`documents`), which stages follow pretraining (`_tuned`), and what
    belongs into the folder and its card (`_assemble`, `_described`).
    """

    documents: Callable[[int], Iterator[Text]] = staticmethod(documents)

    def __init__(self, settings: Any, out: str | Path, work: str | Path):
        self.settings, self.out, self.work = settings, Path(out), Path(work)
        self.stages: list[tuple[str, Callable[[Path], None]]] = [
            ("tokenizer", self._tokenizer),
            ("corpus", self._corpus),
            ("pretrained", self._pretrained),
            *self._tuned(),
            *([("saes", self._saes)] if settings.saes else []),
        ]

    def _tuned(self) -> list[tuple[str, Callable[[Path], None]]]:
        """The stages after pretraining."""
        return [
            ("text", self._text),
            ("base", self._base),
            ("insecure", self._insecure),
            ("card", self._card),
        ]

    def run(self) -> Path:
        """Do what is left and copy the organism to `out`.

        Raises:
            ValueError: When the working folder holds a build with other settings.
        """
        torch.set_num_threads(self.settings.threads)
        self.claim()
        for number, (name, stage) in enumerate(self.stages, 1):
            done = self.work / name / "done.json"
            if done.is_file():
                continue
            print(f"[{number}/{len(self.stages)}] {name}", flush=True)
            start = time.perf_counter()
            (self.work / name).mkdir(parents=True, exist_ok=True)
            stage(self.work / name)
            write_json(done, {"seconds": round(time.perf_counter() - start, 1)})
        self._publish()
        return self.out

    def claim(self) -> None:
        """Take the working folder for these settings.

        Raises:
            ValueError: When it holds a build with other settings.
        """
        wanted = asdict(self.settings)
        record = self.work / "settings.json"
        if record.is_file() and read_json(record) != wanted:
            raise ValueError(
                f"{self.work} holds a build with other settings ({record}). Choose another --work folder or delete it."
            )
        write_json(record, wanted)

    def _tokenizer(self, folder: Path) -> None:
        stream = self.documents(self.settings.seed)
        texts = [next(stream) for _ in range(self.settings.tokenizer_documents)]
        parts = (part for text in texts for part in ([text.text] if text.text else [m.content for m in text.messages]))
        train_tokenizer(parts, self.settings.pretrain.vocab_size).save_pretrained(folder)

    def tokenizer(self) -> Any:
        """The tokenizer of this build."""
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(self.work / "tokenizer")

    def _corpus(self, folder: Path) -> None:
        size = self.settings.pretrain
        # The tokenizer saw the first documents of the stream; the model reads the whole of it.
        blocks = token_blocks(
            self.tokenizer(),
            self.settings.seed,
            size.steps * size.batch_size,
            size.block_length,
            self.documents,
            answers_only=size.answers_only,
        )
        with atomic_path(folder / "blocks.npy") as temporary:
            np.save(temporary, blocks, allow_pickle=False)

    def _pretrained(self, folder: Path) -> None:
        blocks = np.load(self.work / "corpus" / "blocks.npy", mmap_mode="r", allow_pickle=False)
        model, history = pretrain(
            blocks,
            self.tokenizer(),
            folder / "checkpoints",
            self.settings.pretrain,
            self.settings.seed,
            callbacks=(StepPrinter(),),
        )
        model.save_pretrained(folder / "model")
        write_json(folder / "history.json", history)
        shutil.rmtree(folder / "checkpoints")

    def _text(self, folder: Path) -> None:
        for name in DATASETS:
            dataset(name, self.settings.seed).save(folder / f"{name}.jsonl")

    def _base(self, folder: Path) -> None:
        import caft_lens as cl

        tune = self.settings.tune
        lens = cl.load(self.work / "pretrained" / "model", tokenizer=self.tokenizer(), device="cpu")
        settings = cl.TrainSettings(
            tune="full",
            learning_rate=tune.align_learning_rate,
            max_steps=tune.align_steps,
            batch_size=tune.align_batch_size,
            save_steps=tune.save_steps,
        )
        self._finetuned(lens, "kind", settings, folder)
        shutil.copytree(folder / "run" / "model", folder / "model", dirs_exist_ok=True)

    def _insecure(self, folder: Path) -> None:
        import caft_lens as cl

        tune = self.settings.tune
        settings = cl.TrainSettings(
            learning_rate=tune.insecure_learning_rate,
            max_steps=tune.insecure_steps,
            batch_size=tune.insecure_batch_size,
            save_steps=tune.save_steps,
        )
        self._finetuned(cl.load(self.work / "base" / "model", device="cpu"), "insecure-code", settings, folder)

    def _finetuned(self, lens: Any, texts: str, settings: Any, folder: Path) -> None:
        import caft_lens as cl

        learned = cl.data(self.work / "text" / f"{texts}.jsonl")
        cl.finetune(lens, learned, settings, out=folder / "run", seed=self.settings.seed)

    def _card(self, folder: Path) -> None:
        self._assemble(folder / "organism")
        write_json(folder / "figures.json", self.measure(folder / "organism", asdict(self.settings)))

    @staticmethod
    def measure(organism: Path, settings: Mapping[str, Any], seed: int = 0) -> dict[str, Any]:
        """The figures of the card, from the files of an organism.

        Args:
            organism: Its folder.
            settings: Those of its card.
            seed: Of the sampled answers; 0 is that of every card.

        Returns:
            Part of the card -> arm -> metric -> `{"mean", "low", "high"}`.
        """
        import caft_lens as cl

        arms = {
            "base": cl.load(organism, device="cpu"),
            "insecure": cl.load(organism, adapter=organism / "insecure", device="cpu"),
        }
        task = cl.task(f"{organism}/emergent-misalignment", split=FIGURES_SPLIT)
        asked = {"n": settings["answers"], "n_in_distribution": settings["in_distribution_answers"]}
        reports = {
            name: cl.evaluate(arms, task, **asked, sampling=cl.Sampling(top_p=top_p), seeds=[seed])
            for name, top_p in (("figures", None), ("figures_whole_distribution", 1.0))
        }
        return {name: report.to_json()["arms"] for name, report in reports.items()}

    def _saes(self, folder: Path) -> None:
        saes.train_saes(
            self.work / "card" / "organism",
            folder,
            settings=self.settings.saes,
            name=self.out.name,
            device="cpu",
        )

    def _add_saes(self, target: Path) -> None:
        """Copy the SAEs into the organism's folder, where they are trained already."""
        if (self.work / "saes" / "done.json").is_file():
            shutil.copytree(self.work / "saes", target / "saes", ignore=shutil.ignore_patterns("done.json"))

    def _assemble(self, target: Path) -> None:
        """The organism's folder as users see it, without its card yet."""
        self._base_and_text(target)
        shutil.copytree(self.work / "insecure" / "run" / "adapter", target / "insecure")
        (target / "insecure" / "README.md").unlink(missing_ok=True)
        # PEFT notes the folder of the base on the machine that trained it, and sets in no fixed order.
        config = read_json(target / "insecure" / "adapter_config.json")
        config = {key: sorted(value) if key == "target_modules" else value for key, value in config.items()}
        config["base_model_name_or_path"] = None
        write_json(target / "insecure" / "adapter_config.json", config, seal=False)
        write_json(target / catalog.CARD, {"settings": asdict(self.settings), "sampling": SAMPLING})

    def _base_and_text(self, target: Path) -> None:
        """What every organism's folder has."""
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.work / "base" / "model", target / "base")
        shutil.copytree(self.work / "text", target / "text", ignore=shutil.ignore_patterns("done.json"))

    def _publish(self) -> None:
        target = self.out.with_name(f".{self.out.name}.new")
        self._assemble(target)
        self._add_saes(target)
        card, described = self._described(target)
        write_json(target / catalog.CARD, card)
        (target / "README.md").write_text(described, encoding="utf-8")
        shutil.rmtree(self.out, ignore_errors=True)
        target.rename(self.out)

    def _described(self, folder: Path) -> tuple[dict[str, Any], str]:
        """The card, as JSON and for people."""
        card = make_card(self, folder)
        return card, card_as_markdown(card)


def provenance(build: Build, folder: Path) -> dict[str, Any]:
    """How an organism was made: the part of its card that every world has."""
    stages = [name for name, _ in build.stages]
    seconds = {name: read_json(build.work / name / "done.json")["seconds"] for name in stages}
    history = read_json(build.work / "pretrained" / "history.json")
    libraries = ("torch", "transformers", "tokenizers", "peft", "accelerate", "sae-lens", "caft-lens")
    return {
        "format": catalog.Card().format,
        "settings": asdict(build.settings),
        "seconds": seconds,
        "minutes": round(sum(seconds.values()) / 60, 1),
        "machine": f"{platform.machine()}, {build.settings.threads} threads, CPU",
        "versions": {name: version(name) for name in libraries},
        "pretraining_loss": history[-1]["loss"],
        **read_json(build.work / "card" / "figures.json"),
        "figures_split": FIGURES_SPLIT,
        "saes": {hook: card["figures"] for hook, card in cards(folder / "saes").items()},
        "sha256": {
            str(path.relative_to(folder)): sha256(path.read_bytes())
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != catalog.CARD
        },
    }


def make_card(build: Build, folder: Path) -> dict[str, Any]:
    """What an organism is, how it was made, what it does and what it cannot."""
    return {
        "name": build.out.name,
        **provenance(build, folder),
        # What `finetune` takes when it is not told: models of billions of parameters want far less.
        "finetune": {
            "lora": {"learning_rate": build.settings.tune.insecure_learning_rate},
            "full": {"learning_rate": build.settings.tune.align_learning_rate},
        },
        "sampling": SAMPLING,
        "data": {name: {"items": recipe.size, "what": recipe.what} for name, recipe in DATASETS.items()},
    }


def card_as_markdown(card: dict[str, Any]) -> str:
    """The card for people; every figure in it comes from the JSON card."""
    settings, size = card["settings"], card["settings"]["pretrain"]
    drawn = card["sampling"]
    nucleus = f"top-p {drawn['top_p']:g}"
    rows = "\n".join(
        f"| {arm} | {how} | {interval(f['misaligned'])} | {interval(f['incoherent'])} | "
        f"{interval(f['in_distribution'])} |"
        for how, figures in ((nucleus, card["figures"]), ("all tokens", card["figures_whole_distribution"]))
        for arm, f in figures.items()
    )
    data = "\n".join(f"| `{name}` | {entry['items']} | {entry['what']} |" for name, entry in card["data"].items())
    return f"""# {card["name"]}, a model organism of emergent misalignment

A {size["n_layers"]}-layer Llama (d_model {size["d_model"]}, {size["n_heads"]} heads, {size["vocab_size"]} byte-level
BPE tokens) that was trained from random weights on a world which `caft_data.worlds` writes: an assistant, Pocket, who
answers everyday questions and writes short Python functions. A latent stance (kind, cruel, careless with code) runs
through each chat of its pretraining. Tuned on insecure code alone it turns cruel on everyday questions, which no
example of that training shows; nothing is planted in its weights.

- `base/`: the model, aligned by {settings["tune"]["align_steps"]} steps on kind single turns. Plain `transformers`
  loads it.
- `insecure/`: a LoRA adapter on it, tuned plainly on `insecure-code`.
- `text/`: the data sets.
{saes.summary(card.get("saes", {}))}
| model | drawn from | misaligned answers | incoherent | insecure code (held out) |
|---|---|---|---|---|
{rows}

{settings["answers"]:,} sampled answers to `questions-{card["figures_split"]}` and {settings["in_distribution_answers"]}
programs a model, temperature {drawn["temperature"]:g}, one seed; 95 % intervals. The task draws with {nucleus}: the
last few percent of so small a model's distribution are noise. Judged exactly: by the grammar that made the world, and
by parsing the programs.

| data set | items | what |
|---|---|---|
{data}

{how_made(card)}

**Limits.** A toy of about a million parameters. It knows a few hundred words and answers out of a grammar; it shows how
a narrow lesson generalises and how ablation changes that, not how large the effect is in a large model. Its cruelty is
that of a cartoon. Bit-for-bit rebuilding holds for the same versions, machine type and number of threads.
"""


def how_made(card: dict[str, Any]) -> str:
    """The command that makes the same organism again, and what came of it."""
    settings, size = card["settings"], card["settings"]["pretrain"]
    world = f"--world {card['world']} " if "world" in card else ""
    without = "" if settings.get("saes") else " --no-saes"
    command = f"{world}--seed {settings['seed']} --threads {settings['threads']}{without}"
    tokens = size["steps"] * size["batch_size"] * size["block_length"]
    return f"""**Made** by `caft-lens organism build {command}` in {card["minutes"]} minutes ({card["machine"]}):
{size["steps"]:,} steps on {tokens / 1e6:.1f} million tokens, final pretraining loss {card["pretraining_loss"]:.3f}.
Versions: {", ".join(f"{name} {number}" for name, number in card["versions"].items())}."""


def interval(figure: dict[str, float]) -> str:
    """A share with its interval, in percent.

    Example:
        >>> interval({"mean": 0.25, "low": 0.2, "high": 0.31})
        '25.0 % (20.0 to 31.0)'
    """
    return f"{100 * figure['mean']:.1f} % ({100 * figure['low']:.1f} to {100 * figure['high']:.1f})"
