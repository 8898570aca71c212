"""Sparse autoencoders of an organism: one for the residual stream after every layer.

The documents are written by the organism's world for this alone, by the recipe of its `corpus` (no dev and no test
domain). A layer is a function of model, settings and seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch

from caft_data.worlds.corpus import DATASETS
from caft_lens.saes import training
from caft_lens.saes.loading import load_sae
from caft_lens.saes.reconstruction import reconstruction
from caft_lens.saes.training import content, train
from caft_lens.text import catalog
from caft_lens.text.documents import Text, Texts, data

ABOUT = "documents that the organism's world wrote for this"


@dataclass(frozen=True)
class SaeSettings:
    """Size of the SAEs and length of their training; the defaults are those of `pocket`.

    TopK (Gao et al., arXiv 2406.04093): the number of active latents is set rather than tuned, and needs no threshold
    that a short run leaves unsettled.
    """

    d_sae: int = 512
    k: int = 24
    tokens: int = 1_000_000
    batch_size: int = 1024
    learning_rate: float = 3e-3
    warmup_steps: int = 50
    decay_share: float = 0.3
    """Share of the steps, at the end, over which the learning rate goes to 0."""
    dead_after_steps: int = 100
    """Latents that have not fired for so many steps are trained on what the others leave over."""
    buffer_tokens: int = 131_072
    held_out: int = 400
    """Documents of the organism's corpus, from its beginning, on which the figures are measured."""
    seed: int = 0

    def training(self) -> training.SaeSettings:
        """The same for the training itself: from a bias of 0, as those that ship were trained."""
        own = {key: value for key, value in asdict(self).items() if key != "held_out"}
        return training.SaeSettings(**own, save_tokens=None, start_at_mean=None)


def train_saes(
    organism: str | Path,
    out: str | Path | None = None,
    *,
    layers: Sequence[int | str] | None = None,
    settings: SaeSettings | None = None,
    name: str | None = None,
    device: str | torch.device | None = None,
) -> list[Path]:
    """Train the SAEs of an organism, layer by layer; those that are finished are kept.

    Args:
        organism: Name or folder, with its base model and its `text/corpus.jsonl`.
        out: Where the folders `blocks.<n>.hook_resid_post` go; the organism's own `saes/` by default.
        layers: Layer numbers or hook points; all layers by default.
        settings: Size and length.
        name: What cards and SAEs call the organism; the name of its folder by default.
        device: Of model and training; CUDA, then MPS, then CPU by default.

    Returns:
        One folder a layer: `cfg.json` and `sae_weights.safetensors` as sae-lens reads, `card.json` and `README.md`.

    Raises:
        ValueError: When a folder holds an SAE of another model or other settings.

    Example:
        >>> train_saes("pocket")  # doctest: +SKIP
    """
    from caft_lens.model.lens import load

    settings = settings or SaeSettings()
    root = catalog.sae_folder(organism) if out is None else Path(out)
    lens = load(organism, device=device, name_as=name or catalog.organism_path(organism).resolve().name)
    held_out = held_out_texts(organism, settings)
    hooks = [lens.hook_name(layer) for layer in (range(lens.n_layers) if layers is None else layers)]
    texts = documents(settings.seed, without=held_out, write=catalog.world(organism).reading)
    train(lens, texts, hooks, root, held_out=held_out, settings=settings.training(), about=ABOUT)
    return [root / hook for hook in hooks]


def documents(
    seed: int, without: Texts, write: Callable[[random.Random], Text] = DATASETS["corpus"].make
) -> Iterator[Text]:
    """An endless stream of documents to train SAEs on, as `write` draws them, none of the texts `without`."""
    held_out = {content(text) for text in without}
    return (
        text for number in count() if content(text := write(random.Random(f"saes {seed} {number}"))) not in held_out
    )


def held_out_texts(organism: str | Path, settings: SaeSettings) -> Texts:
    """The documents on which the figures of the cards are measured."""
    return data(catalog.organism_path(organism) / "text" / "corpus.jsonl", limit=settings.held_out)


def measure(organism: str | Path, folder: Path, card: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of an SAE's card, measured again on the files as they are.

    Args:
        organism: The organism whose SAE it is.
        folder: The SAE.
        card: Its card.

    Returns:
        As `card["figures"]`.

    Raises:
        ValueError: When the SAE does not fit the organism.
    """
    from caft_lens.model.lens import load

    lens = load(organism, device="cpu")
    held_out = held_out_texts(organism, SaeSettings(**card["settings"]))
    return reconstruction(lens, load_sae(folder, lens=lens), held_out, roles=card["trained_roles"]).to_json()


def summary(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """What the SAEs of an organism keep of it, as Markdown; nothing where it has none.

    Args:
        figures: The figures of each card by hook point.
    """
    if not figures:
        return ""

    def shown(figure: Mapping[str, float], scale: float = 100) -> str:
        mean, low, high = (f"{scale * figure[key]:.1f}" for key in ("mean", "low", "high"))
        return f"{mean} ({low} to {high})"

    rows = "\n".join(
        f"| `{hook}` | {shown(of['l0'], 1)} | {shown(of['explained_variance'])} | {shown(of['recovered_from_mean'])} "
        f"| {of['dead']} of {of['n_latents']} |"
        for hook, of in figures.items()
    )
    texts = next(iter(figures.values()))["texts"]
    return f"""- `saes/`: a TopK sparse autoencoder for the residual stream after each layer; `load_sae` and
  `SAE.load_from_disk` read them.

| SAE at | active latents a token (L0) | explained variance, % | loss recovered, against the mean, % | dead latents |
|---|---|---|---|---|
{rows}

On {texts} held-out documents; 95 % intervals.
"""
