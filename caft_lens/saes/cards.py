"""What an SAE says of itself: its files, its card, its name and where it belongs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ConfigDict, Field

from caft_lens._support import files
from caft_lens._support.errors import BadFile, BadModel, MissingFile
from caft_lens._support.files import Count, Json, Named, Record, absent, read_record, sha256
from caft_lens.model.hook_names import full_name
from caft_lens.text import catalog

if TYPE_CHECKING:
    import pandas
    from sae_lens import SAE

CONFIG, WEIGHTS, CARD = "cfg.json", "sae_weights.safetensors", "card.json"


def sae_hook(sae: SAE) -> str:
    """The hook point whose activations an SAE reads and reconstructs, such as `"blocks.2.hook_resid_post"`.

    Raises:
        BadModel: When it does not say.
    """
    hook = sae.cfg.metadata.hook_name
    if not hook:
        raise BadModel(
            f"The SAE {sae_name(sae)} does not say which hook point it belongs to: set "
            'sae.cfg.metadata.hook_name, such as "blocks.2.hook_resid_post".'
        )
    return full_name(hook)


def sae_name(sae: SAE) -> str:
    """What to call an SAE in tables and errors: where it was loaded from, else sae-lens's name for it."""
    return sae.cfg.metadata.source or sae.get_name()


def sae_cards(name: str | Path) -> pandas.DataFrame:
    """What the cards of an organism's SAEs say of them, one row a hook point.

    Args:
        name: An organism, or a folder with SAEs by hook point.

    Returns:
        `d_sae`, `l0` (active latents a token), `explained_variance`, `loss_recovered` (of the loss that the mean in its
        place costs) and `dead` (latents that never fired), measured on held-out documents.

    Raises:
        MissingFile: When there are none.

    Example:
        >>> int(sae_cards("pocket").loc["blocks.2.hook_resid_post", "d_sae"])
        512
    """
    from caft_lens.display.frames import Frame

    folder = catalog.sae_folder(name)
    figures = {hook: card["figures"] for hook, card in cards(folder).items()}
    if not figures:
        raise no_saes(folder)
    rows = {
        hook: {
            "d_sae": of["n_latents"],
            "l0": of["l0"]["mean"],
            "explained_variance": of["explained_variance"]["mean"],
            "loss_recovered": of["recovered_from_mean"]["mean"],
            "dead": of["dead"],
        }
        for hook, of in figures.items()
    }
    return Frame.from_dict(rows, orient="index")


def cards(folder: Path) -> dict[str, dict[str, Any]]:
    """The cards of the SAEs in a folder by hook point, in the order of the layers; none where there is no folder."""
    return {hook: read_card(folder / hook) for hook in hooks_in(folder) if (folder / hook / CARD).is_file()}


class _Figure(Record):
    """A figure with its 95 % interval."""

    mean: float
    low: float
    high: float


class _Figures(Record):
    """What an SAE keeps of the model."""

    l0: _Figure
    explained_variance: _Figure
    loss: _Figure
    loss_spliced: _Figure
    loss_mean: _Figure
    loss_zero: _Figure
    recovered_from_mean: _Figure
    recovered_from_zero: _Figure
    dead: Count
    n_latents: Count
    tokens: Count
    texts: Count


class _Card(Record):
    """What the card of an SAE that was trained here says."""

    name: str
    model: str
    fingerprint: str
    reading: str | None = None
    hook: Named
    architecture: str
    d_in: Count
    d_sae: Count
    k: Count
    trained_roles: list[str]
    about: str = ""
    settings: dict[str, bool | int | float]
    figures: _Figures
    seconds: dict[str, float]
    machine: str
    versions: dict[str, str]
    sha256: dict[str, str]


class _Config(Record):
    """What this project reads of sae-lens's own file; the rest is checked there."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: Json

    architecture: Named = "standard"
    d_in: Annotated[int, Field(gt=0, le=2**31)]
    d_sae: Annotated[int, Field(gt=0, le=2**31)]
    metadata: Json | None = None


def read_card(folder: Path) -> dict[str, Any]:
    """The card of an SAE."""
    held = files.read_json(folder / CARD)
    files.parsed(held, _Card, str(folder / CARD), "the card of an SAE")
    return held


def read_config(folder: Path) -> _Config:
    return read_record(folder / CONFIG, _Config, "the configuration of an SAE")


def check_files(folder: Path) -> _Config:
    """Refuse files that are not those of the card, or do not fit each other, before anything of their size is made."""
    for name, wanted in (read_card(folder)["sha256"] if (folder / CARD).is_file() else {}).items():
        if name in (CONFIG, WEIGHTS) and sha256((folder / name).read_bytes()) != wanted:
            raise BadFile(
                f"{folder / name} was changed or damaged after it was written: its hash is not that of {CARD} beside "
                f"it. Make the SAE again."
            )
    config = read_config(folder)
    kinds = files.tensor_kinds(folder / WEIGHTS)
    for name, shape in (("W_enc", [config.d_in, config.d_sae]), ("W_dec", [config.d_sae, None])):
        found = kinds[name][1] if name in kinds else shape
        if len(found) != 2 or any(n not in (None, m) for n, m in zip(shape, found, strict=True)):
            raise BadFile(
                f'{folder} holds no SAE that sae-lens can read (architecture "{config.architecture}"): {name} is of '
                f"shape {found}, where {CONFIG} says d_in {config.d_in} and d_sae {config.d_sae}."
            )
    return config


def hooks_in(root: Path) -> list[str]:
    """The SAEs of a folder, by layer."""
    names = [path.parent.name for path in root.glob(f"*/{CONFIG}") if not path.parent.name.startswith(".")]
    return sorted(names, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)])


def no_saes(folder: Path) -> MissingFile:
    shipped = ", ".join(catalog.shipped())
    return absent(folder, CONFIG, "holds no SAEs", f"What ships with caft_lens has some: {shipped}." if shipped else "")
