"""Sparse autoencoders as sae-lens's own objects, from an organism, a folder or the hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from caft_lens._support.blocks import block
from caft_lens._support.errors import BadFile, BadModel, BadType, MissingFile, nearest
from caft_lens._support.files import absent
from caft_lens.model.hook_names import full_name
from caft_lens.saes.cards import CONFIG, WEIGHTS, check_files, hooks_in, no_saes, read_config
from caft_lens.saes.centring import centred, subtracts_means, wants_centring
from caft_lens.saes.fitting import check_sae, other_weights
from caft_lens.text import catalog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sae_lens import SAE

    from caft_lens.model.lens import Lens


def load_sae(
    name: str | Path,
    sae_id: str | None = None,
    *,
    layer: int | str | None = None,
    lens: Lens | None = None,
    device: str | torch.device | None = None,
    dtype: str = "float32",
    norm_scaling_factor: float | None = None,
) -> SAE:
    """A sparse autoencoder, from wherever it is.

    Args:
        name: `"pocket"` or an organism folder; a folder written by sae-lens, or one that holds such folders by hook
            point; or a release on the hub as sae-lens names it, such as `"gemma-scope-2b-pt-res-canonical"`.
        sae_id: Of a release, which of its SAEs: `"layer_12/width_16k/canonical"`.
        layer: Of an organism or folder of several, which layer (its `hook_resid_post`) or hook point.
        lens: A model that it has to fit (see `check_sae`).
        device: That of the lens by default, else the CPU.
        dtype: Of its weights and its arithmetic.
        norm_scaling_factor: For an SAE that was trained on activations scaled to an average norm and saved without that
            scale: what activations were multiplied by. It is folded into the weights.

    Returns:
        A `sae_lens.SAE` for unscaled activations `[..., d_model]`, in eval mode and without gradients.
        `cfg.metadata.hook_name` says where it belongs, `cfg.metadata.source` where it came from. One for a model with
        centred writing weights (`cfg.metadata.model_from_pretrained_kwargs`) reads and writes likewise (see `centred`).

    Raises:
        MissingFile: For an organism or folder without that SAE, naming those that are there; for a release that is
            neither here nor reachable.
        BadFile: For files that are no SAE or are damaged.
        BadModel: For an unknown release or id, with the nearest; for one that does not fit `lens`; for one whose scale
            is not known.

    Example:
        >>> load_sae("pocket", layer=2, lens=base).W_dec.shape  # [d_sae, d_model]
        torch.Size([512, 128])
        >>> load_sae("gemma-scope-2b-pt-res-canonical", "layer_12/width_16k/canonical")  # doctest: +SKIP
    """
    _refuse_no_name(name)
    place = str(device if device is not None else lens.device if lens is not None else "cpu")
    if _is_local(name):
        folder = _folder(name, layer, sae_id)
        sae, source = _from_disk(folder, place, dtype), str(folder)
        if catalog.is_organism(name) or catalog.is_world(name):
            source = f"{name}/saes/{folder.name}"
    else:
        if layer is not None:
            raise BadModel(
                f'"{name}" is no organism and no folder here. For a release of sae-lens give the id, not layer=: '
                f'load_sae("{name}", "layer_12/width_16k/canonical").'
            )
        sae, source = _from_release(str(name), sae_id, place, dtype), f"{name}/{sae_id}"
    _settle_scale(sae, source, norm_scaling_factor)
    _refuse_not_finite(sae, source)
    if reason := other_weights(sae):
        raise BadModel(f"The SAE {source} cannot be read as it was made: {reason}.")
    if wants_centring(sae) and (lens is None or subtracts_means(lens)):
        centred(sae)
    if sae.cfg.metadata.hook_name is None and layer is not None:
        sae.cfg.metadata.hook_name = full_name(layer)
    sae.cfg.metadata.source = source
    sae.requires_grad_(False).eval()
    if lens is not None:
        check_sae(sae, lens)
    return sae


def load_saes(name: str | Path, layers: Sequence[int | str] | None = None, **keywords: Any) -> list[SAE]:
    """The SAEs of an organism or folder, in the order of their layers.

    Args:
        name: As for `load_sae`.
        layers: Which; all that are there by default.
        keywords: As for `load_sae`.

    Example:
        >>> [one.cfg.metadata.hook_name for one in load_saes("pocket", [1, 2])]
        ['blocks.1.hook_resid_post', 'blocks.2.hook_resid_post']
    """
    _refuse_no_name(name)
    if layers is None:
        layers = hooks_in(catalog.sae_folder(name))
        if not layers:
            raise no_saes(catalog.sae_folder(name))
    return [load_sae(name, layer=layer, **keywords) for layer in layers]


def _is_local(name: str | Path) -> bool:
    path = Path(name)
    written = str(name)
    like_a_path = path.is_absolute() or written.startswith((".", "~")) or written.count("/") > 1
    return like_a_path or path.is_dir() or catalog.sae_folder(name) != path


def _folder(name: str | Path, layer: int | str | None, sae_id: str | None) -> Path:
    """The folder of one SAE of an organism or of a folder."""
    root = catalog.sae_folder(name)
    if sae_id is not None:
        raise BadModel(f'"{name}" is on this machine and has no ids: give layer= instead of "{sae_id}".')
    if (root / CONFIG).is_file():
        stated = (read_config(root).metadata or {}).get("hook_name")
        if layer is not None and stated not in (None, full_name(layer)):
            raise BadModel(f"{root} holds an SAE for {stated}, not for {full_name(layer)}.")
        return root
    there = hooks_in(root)
    if not there:
        raise no_saes(root)
    if layer is None:
        raise BadModel(f"{root} holds {len(there)} SAEs: say which with layer=, one of {', '.join(there)}.")
    if full_name(layer) not in there:
        raise MissingFile(f'No SAE for "{full_name(layer)}" in {root}.{nearest(full_name(layer), there)}')
    return root / full_name(layer)


def _from_disk(folder: Path, device: str, dtype: str) -> SAE:
    from sae_lens import SAE

    if not (folder / WEIGHTS).is_file():
        raise absent(folder, WEIGHTS, "holds no SAE")
    config = check_files(folder)
    try:
        return SAE.load_from_disk(folder, device=device, dtype=dtype)
    except Exception as error:  # whatever sae-lens makes of a file that is none of its own
        raise BadFile(
            f'{folder} holds no SAE that sae-lens can read (architecture "{config.architecture}"): {error}'
        ) from error


def _from_release(release: str, sae_id: str | None, device: str, dtype: str) -> SAE:
    from sae_lens import SAE
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    known = get_pretrained_saes_directory()
    if release not in known and "/" not in release:
        places = [*catalog.shipped(), *known]
        raise BadModel(
            f'No SAE "{release}": neither an organism, a folder here, nor a release of '
            f"sae-lens.{nearest(release, places)}"
        )
    ids = known[release].saes_map if release in known else None
    if sae_id is None or (ids is not None and sae_id not in ids):
        what = "needs the id of one of its SAEs" if sae_id is None else f'has no SAE "{sae_id}"'
        raise BadModel(f'The release "{release}" {what}.{nearest(sae_id or "", ids) if ids else ""}')
    with _hub_or_cache() as reachable:
        try:
            return SAE.from_pretrained(release, sae_id, device=device, dtype=dtype)
        except OSError as error:  # hub errors are; so is what is not in the cache
            why = "" if reachable else ", and the Hugging Face hub does not answer"
            raise MissingFile(
                f'The SAE "{release}" "{sae_id}" is not on this machine{why}: load it once where there is a network, '
                f"or give a folder or an organism ({', '.join(catalog.shipped()) or 'none ships yet'}). ({error})"
            ) from error


@block
def _hub_or_cache() -> Iterator[bool]:
    """Whether the hub answers; where it does not, what was downloaded is used at once, not after half a minute."""
    from huggingface_hub import constants

    from caft_lens.model import loading

    reachable = not loading.offline() and loading.hub_answers()
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, not reachable
    try:
        yield reachable
    finally:
        constants.HF_HUB_OFFLINE = before


def _settle_scale(sae: SAE, source: str, factor: float | None) -> None:
    """Fold the scale of activations into the weights, where an SAE was saved without that."""
    how = sae.cfg.normalize_activations
    if how == "expected_average_only_in" and factor is not None:
        sae.fold_activation_norm_scaling_factor(factor)
    elif how in ("expected_average_only_in", "covariance_whitening"):
        raise BadModel(
            f'The SAE {source} was trained on normalised activations ("{how}"), and the files do not say with what: on '
            "plain activations it would give numbers that mean nothing. Give norm_scaling_factor= (sqrt(d_in) over the "
            "mean norm of the activations that it was trained on), or save it with the scale folded in, as SAETrainer "
            "does."
        )
    elif factor is not None:
        raise BadModel(f'The SAE {source} needs no norm_scaling_factor: it is normalised by "{how}".')


def _refuse_no_name(name: Any) -> None:
    if not isinstance(name, str | Path):
        of = getattr(name, "name", None)
        raise BadType(
            f"SAEs are loaded by name, from an organism, a folder or a release, not from a {type(name).__name__}: "
            f"give load_saes({str(of) if isinstance(of, str) else 'pocket'!r}, layers, lens=…)."
        )


def _refuse_not_finite(sae: SAE, source: str) -> None:
    for name, parameter in sae.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise BadFile(f"The SAE {source} is damaged: {name} holds NaN or infinite values.")
