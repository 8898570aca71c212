"""Sparse autoencoders of an organism: one for the residual stream after every layer, trained with sae-lens, and their
cards.

Activations are streamed from documents that the organism's world writes for this alone, by the recipe of its `corpus`
(no dev and no test domain), and mixed in a buffer; tokens of the template are left out, whose norm is many times that
of text. What an SAE keeps of the model is measured on documents that it was not trained on. A layer that is finished
stays as it is, so that a run that was killed goes on with the next one; a layer is a function of model, settings and
seed.
"""

from __future__ import annotations

import platform
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from caft_data.worlds.corpus import DATASETS
from caft_lens._support.files import read_json, sha256, write_json
from caft_lens._support.progress import progress
from caft_lens.activations.capture import captured
from caft_lens.evaluate.reconstruction import Reconstruction, reconstruction
from caft_lens.saes.cards import CARD, CONFIG, WEIGHTS, read_card
from caft_lens.saes.loading import load_sae
from caft_lens.text import catalog
from caft_lens.text.batching import Scan, batches
from caft_lens.text.documents import Text, Texts, data
from caft_lens.text.roles import ROLES

if TYPE_CHECKING:
    from sae_lens import TopKTrainingSAE

    from caft_lens.model.lens import Lens

README = "README.md"
# All that text is made of: what the template adds is an attention sink, an order of magnitude longer.
TRAINED_ROLES = tuple(role for role in ROLES if role != "special")


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
        One folder a layer: `cfg.json` and `sae_weights.safetensors` as sae-lens reads them, `card.json` and
        `README.md`.

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
    folders = []
    for layer in range(lens.n_layers) if layers is None else layers:
        hook = lens.hook_name(layer)
        folder = root / hook
        if not _is_done(folder, lens, settings):
            start = time.perf_counter()
            texts = documents(settings.seed, without=held_out, write=catalog.world(organism).reading)
            trained = train_sae(lens, hook, texts, settings)
            _publish(trained, folder, lens, held_out, settings, time.perf_counter() - start)
        folders.append(folder)
    return folders


def documents(
    seed: int, without: Texts, write: Callable[[random.Random], Text] = DATASETS["corpus"].make
) -> Iterator[Text]:
    """An endless stream of documents to train SAEs on, as `write` draws them, none of the texts `without`."""
    held_out = set(_contents(without))
    number = 0
    while True:
        text = write(random.Random(f"saes {seed} {number}"))
        if next(_contents([text])) not in held_out:
            yield text
        number += 1


def held_out_texts(organism: str | Path, settings: SaeSettings) -> Texts:
    """The documents on which the figures of the cards are measured."""
    return data(catalog.organism_path(organism) / "text" / "corpus.jsonl", limit=settings.held_out)


def train_sae(lens: Lens, hook: str, texts: Iterator[Text], settings: SaeSettings) -> TopKTrainingSAE:
    """Train one SAE on streamed activations; memory is the buffer, however many tokens there are.

    Args:
        lens: The model.
        hook: Full name of the hook point.
        texts: Documents, as many as `settings.tokens` needs.
        settings: Size and length.

    Returns:
        The SAE with the scale of the activations folded into its weights.

    Raises:
        ValueError: When the documents end too early.
    """
    from sae_lens import SAETrainer, TopKTrainingSAE, TopKTrainingSAEConfig
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.saes.sae import SAEMetadata

    steps = settings.tokens // settings.batch_size
    config = TopKTrainingSAEConfig(
        d_in=lens.d_model,
        d_sae=settings.d_sae,
        k=settings.k,
        device=str(lens.device),
        normalize_activations="expected_average_only_in",
        metadata=SAEMetadata(
            model_name=lens.name,
            model_fingerprint=lens.fingerprint,
            hook_name=hook,
            prepend_bos=True,
            exclude_special_tokens=True,
        ),
    )
    training = SAETrainerConfig(
        total_training_samples=steps * settings.batch_size,
        train_batch_size_samples=settings.batch_size,
        lr=settings.learning_rate,
        lr_end=settings.learning_rate,
        lr_warm_up_steps=min(settings.warmup_steps, steps // 10),
        lr_decay_steps=int(settings.decay_share * steps),
        dead_feature_window=settings.dead_after_steps,
        n_batches_for_norm_estimate=8,
        device=str(lens.device),
        logger=LoggingConfig(log_to_wandb=False),
    )
    devices = [lens.device] if lens.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), _one_bar():
        torch.manual_seed(settings.seed)
        stream = _mixed(lens, hook, texts, settings, steps + training.n_batches_for_norm_estimate)
        return SAETrainer(cfg=training, sae=TopKTrainingSAE(config), data_provider=stream).fit()


def _mixed(lens: Lens, hook: str, texts: Iterator[Text], settings: SaeSettings, n: int) -> Iterator[Tensor]:
    """`n` batches of activations `[batch_size, d_model]`, mixed over many documents."""
    from sae_lens.training.mixing_buffer import mixing_buffer

    # Sorted by length within a window of the stream, neighbouring batches are alike; the buffer holds several windows.
    packed = batches(lens.tokenizer, texts, scan=Scan(4096))
    acts = (found.acts[hook].float() for found in captured((lens,), packed, [hook], TRAINED_ROLES))
    mixed = mixing_buffer(settings.buffer_tokens, settings.batch_size, acts)
    for _ in progress(range(n), desc=f"SAE at {hook}", unit="batch"):
        batch = next(mixed, None)
        if batch is None:
            raise ValueError(f"The documents ended before {n} batches of {settings.batch_size} tokens: give more.")
        yield batch


@contextmanager
def _one_bar() -> Iterator[None]:
    """sae-lens draws bars of its own, in log files at every step; ours stands for them."""
    from sae_lens.training import activation_scaler, sae_trainer
    from tqdm.std import tqdm

    modules: tuple[Any, ...] = (activation_scaler, sae_trainer)
    before = [module.tqdm for module in modules]
    for module in modules:
        module.tqdm = partial(tqdm, disable=True)
    try:
        yield
    finally:
        for module, bar in zip(modules, before, strict=True):
            module.tqdm = bar


# -- files ------------------------------------------------------------------------------------------------------------


def _is_done(folder: Path, lens: Lens, settings: SaeSettings) -> bool:
    if not (folder / CARD).is_file():
        return False
    card = read_card(folder)
    wanted = {"fingerprint": lens.fingerprint, "reading": lens.reading, "settings": asdict(settings)}
    # A card that is older does not say how its texts were read.
    other = [key for key, value in wanted.items() if card.get(key, lens.reading) != value]
    if other:
        raise ValueError(
            f"{folder} holds an SAE with another {' and '.join(other)} than this one. Delete it, or give another "
            f"folder."
        )
    return True


def _publish(
    trained: TopKTrainingSAE, folder: Path, lens: Lens, held_out: Texts, settings: SaeSettings, seconds: float
) -> None:
    """Write one SAE with its card under a passing name, then give it its own: it is there whole or not at all."""
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    trained.save_inference_model(fresh)
    _halve(fresh)
    start = time.perf_counter()
    # What is measured is what ships: read back from the files.
    figures = reconstruction(lens, load_sae(fresh, lens=lens), held_out, roles=TRAINED_ROLES)
    measured = time.perf_counter() - start
    card = make_card(fresh, lens, figures, settings, {"training": round(seconds, 1), "figures": round(measured, 1)})
    write_json(fresh / CARD, card)
    (fresh / README).write_text(card_as_markdown(card), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


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


def _halve(folder: Path) -> None:
    """Weights as float16 on disk: half the size, and sae-lens reads them into the dtype that `cfg.json` states,
    float32.
    """
    from safetensors.torch import load_file, save_file

    weights = {name: tensor.half().contiguous() for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(weights, folder / WEIGHTS)
    config = read_json(folder / CONFIG)
    write_json(folder / CONFIG, {**dict(sorted(config.items())), "device": "cpu"}, seal=False)


def make_card(
    folder: Path, lens: Lens, figures: Reconstruction, settings: SaeSettings, seconds: dict[str, float]
) -> dict[str, Any]:
    """What an SAE is, how it was made and what it keeps of the model."""
    config = read_json(folder / CONFIG)
    return {
        "name": f"{lens.name} {config['metadata']['hook_name']}",
        "model": lens.name,
        "fingerprint": lens.fingerprint,
        "reading": lens.reading,
        "hook": config["metadata"]["hook_name"],
        "architecture": config["architecture"],
        "d_in": config["d_in"],
        "d_sae": config["d_sae"],
        "k": config["k"],
        "trained_roles": list(TRAINED_ROLES),
        "settings": asdict(settings),
        "figures": figures.to_json(),
        "seconds": seconds,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {lens.device.type.upper()}",
        "versions": {name: version(name) for name in ("sae-lens", "torch", "transformers", "caft-lens")},
        "sha256": {name: sha256((folder / name).read_bytes()) for name in (CONFIG, WEIGHTS)},
    }


def card_as_markdown(card: dict[str, Any]) -> str:
    """The card for people; every figure in it comes from the JSON card."""
    figures, settings = card["figures"], card["settings"]

    def shown(name: str, scale: float = 1, digits: int = 2) -> str:
        return interval(figures[name], scale, digits)

    return f"""# SAE of {card["model"]} at `{card["hook"]}`

A TopK sparse autoencoder ({card["d_sae"]} latents, {card["k"]} active at a token) of the residual stream, trained with
sae-lens {card["versions"]["sae-lens"]} on {settings["tokens"]:,} tokens of documents that the organism's world wrote for this;
tokens of the chat template are left out. `SAE.load_from_disk` reads this folder, as does `caft_lens.load_sae`.

| on {figures["texts"]} held-out documents ({figures["tokens"]:,} tokens) | |
|---|---|
| active latents a token (L0) | {shown("l0", digits=1)} |
| explained variance, % | {shown("explained_variance", 100, 1)} |
| loss of the model, nats a token | {shown("loss", digits=3)} |
| loss with the SAE spliced in | {shown("loss_spliced", digits=3)} |
| loss with the mean in its place | {shown("loss_mean", digits=3)} |
| loss with zero in its place | {shown("loss_zero", digits=3)} |
| loss recovered, against the mean, % | {shown("recovered_from_mean", 100, 1)} |
| loss recovered, against zero, % | {shown("recovered_from_zero", 100, 1)} |
| latents that never fired there | {figures["dead"]} of {card["d_sae"]} |

Intervals are 95 %, from resampled documents. Made in {card["seconds"]["training"]:.0f} seconds ({card["machine"]}), seed
{settings["seed"]}; the figures took {card["seconds"]["figures"]:.0f} more. Weights are float16 on disk and float32 when loaded.

**Limits.** It knows documents like those of the organism's `corpus`, whose contexts are read; spliced in at other text, or at
tokens of the template, it is outside what it was trained on.
"""


def interval(figure: Mapping[str, float], scale: float = 1, digits: int = 1, unit: str = "") -> str:
    """A figure of a card with its interval, `"25.0 (20.0 to 31.0)"`, the unit behind the first number."""
    mean, low, high = (f"{scale * figure[key]:.{digits}f}" for key in ("mean", "low", "high"))
    return f"{mean}{unit} ({low} to {high})"


def summary(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """What the SAEs of an organism keep of it, as Markdown; nothing where it has none.

    Args:
        figures: The figures of each card by hook point.
    """
    if not figures:
        return ""
    rows = "\n".join(
        f"| `{hook}` | {interval(of['l0'])} | {interval(of['explained_variance'], 100)} | {interval(of['recovered_from_mean'], 100)} "
        f"| {of['dead']} of {of['n_latents']} |"
        for hook, of in figures.items()
    )
    texts = next(iter(figures.values()))["texts"]
    return f"""- `saes/`: a TopK sparse autoencoder for the residual stream after each layer; `load_sae` and `SAE.load_from_disk` read them.

| SAE at | active latents a token (L0) | explained variance, % | loss recovered, against the mean, % | dead latents |
|---|---|---|---|---|
{rows}

On {texts} held-out documents; 95 % intervals.
"""


def _contents(texts: Sequence[Text]) -> Iterator[str]:
    for text in texts:
        yield (
            text.text if text.text is not None else "\n".join(f"{turn.role}: {turn.content}" for turn in text.messages)
        )
