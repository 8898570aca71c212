"""The files of an SAE that was trained here: weights as sae-lens reads them, a card, and a page of it for people."""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from caft_lens._support.errors import BadFile
from caft_lens._support.files import read_json, sha256, write_json
from caft_lens.saes.cards import CARD, CONFIG, WEIGHTS, read_card
from caft_lens.saes.loading import load_sae
from caft_lens.saes.reconstruction import reconstruction
from caft_lens.text.batching import Scan
from caft_lens.text.documents import Texts
from caft_lens.text.roles import ROLES

if TYPE_CHECKING:
    from sae_lens import TopKTrainingSAE

    from caft_lens.model.lens import Lens

README = "README.md"


def is_done(folder: Path, lens: Lens, settings: Mapping[str, Any]) -> bool:
    """Whether this very SAE is there.

    Raises:
        BadFile: When another one is.
    """
    if not (folder / CARD).is_file():
        return False
    card = read_card(folder)
    wanted = {"fingerprint": lens.fingerprint, "reading": lens.reading, "settings": dict(settings)}
    # A card that is older does not say how its texts were read.
    other = [key for key, value in wanted.items() if card.get(key, lens.reading) != value]
    if other:
        raise BadFile(
            f"{folder} holds an SAE with another {' and '.join(other)} than this one. Delete it, or give another "
            f"folder."
        )
    return True


def publish(
    trained: TopKTrainingSAE,
    folder: Path,
    lens: Lens,
    held_out: Texts,
    *,
    roles: Sequence[str] | None,
    scan: Scan,
    settings: dict[str, Any],
    about: str,
    seconds: float,
) -> None:
    """Write one SAE with its card under a passing name, then give it its own: it is there whole or not at all.

    Args:
        trained: The SAE.
        folder: Where; named like its hook point.
        lens: The model.
        held_out: Documents to measure on.
        roles: Roles of the tokens that count.
        scan: How the documents are read.
        settings: Of the training, for the card.
        about: What it was trained on, in words.
        seconds: How long the training took.
    """
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    trained.save_inference_model(fresh)
    _halve(fresh)
    start = time.perf_counter()
    # What is measured is what ships: read back from the files.
    as_measured = Scan(max_length=scan.max_length)  # of the batches of whoever measures it again
    figures = reconstruction(lens, load_sae(fresh, lens=lens), held_out, roles=roles, scan=as_measured)
    took = {"training": round(seconds, 1), "figures": round(time.perf_counter() - start, 1)}
    config = read_json(fresh / CONFIG)
    card = {
        "name": f"{lens.name} {folder.name}",
        "model": lens.name,
        "fingerprint": lens.fingerprint,
        "reading": lens.reading,
        "hook": config["metadata"]["hook_name"],
        "architecture": config["architecture"],
        "d_in": config["d_in"],
        "d_sae": config["d_sae"],
        "k": config["k"],
        "trained_roles": list(ROLES if roles is None else roles),
        "about": about,
        "settings": settings,
        "figures": figures.to_json(),
        "seconds": took,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {lens.device.type.upper()}",
        "versions": {name: version(name) for name in ("sae-lens", "torch", "transformers", "caft-lens")},
        "sha256": {name: sha256((fresh / name).read_bytes()) for name in (CONFIG, WEIGHTS)},
    }
    write_json(fresh / CARD, card)
    (fresh / README).write_text(card_as_markdown(card), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def _halve(folder: Path) -> None:
    """Weights as float16 on disk: half the size, and sae-lens reads them into the dtype of `cfg.json`, float32."""
    from safetensors.torch import load_file, save_file

    weights = {name: tensor.half().contiguous() for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(weights, folder / WEIGHTS)
    config = read_json(folder / CONFIG)
    write_json(folder / CONFIG, {**dict(sorted(config.items())), "device": "cpu"}, seal=False)


def card_as_markdown(card: Mapping[str, Any]) -> str:
    """The card for people; every figure in it comes from the JSON card."""
    figures, settings = card["figures"], card["settings"]

    def shown(name: str, scale: float = 1, digits: int = 2) -> str:
        value = figures[name]
        mean, low, high = (f"{scale * value[key]:.{digits}f}" for key in ("mean", "low", "high"))
        return f"{mean} ({low} to {high})"

    return f"""# SAE of {card["model"]} at `{card["hook"]}`

A TopK sparse autoencoder ({card["d_sae"]} latents, {card["k"]} active at a token) of the residual stream, trained with
sae-lens {card["versions"]["sae-lens"]} on {settings["tokens"]:,} tokens of {card.get("about") or "text"}. Attention
sinks, and tokens of other roles than {", ".join(card["trained_roles"])}, are left out.
`SAE.load_from_disk` reads this folder, as does `caft_lens.load_sae`.

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

Intervals are 95 %, from resampled documents. Made in {card["seconds"]["training"]:.0f} seconds ({card["machine"]};
layers that were trained together share them), seed {settings["seed"]}; the figures took
{card["seconds"]["figures"]:.0f} more. Weights are float16 on disk and float32 when loaded.

**Limits.** It knows text like that which it was trained on; spliced in at other text, or at tokens that were left out,
it is outside of that.
"""
