"""Sparse autoencoders: sae-lens's own objects, from an organism, a folder or the hub, and whether they fit a model.

`load_sae` gives a `sae_lens.SAE`, frozen, with everything that says where it belongs in its `cfg.metadata`; whatever is
built on sae-lens takes it. `check_sae` refuses one for another base, hook point or width, saying why, `for_model`
carries one over on purpose, and `splice` puts one into the forward pass in place of the activation it reconstructs.
A fingerprint of the base travels with SAEs that this project trained; those of the hub name their base, in
the short names of TransformerLens or in full.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from caft_lens._support.blocks import block
from caft_lens._support.errors import BadFile, BadModel, BadType, MissingFile, nearest
from caft_lens._support.files import (
    Count,
    Json,
    Named,
    Record,
    absent,
    parsed,
    read_json,
    read_record,
    sha256,
)
from caft_lens.model.attach import at
from caft_lens.model.hook_names import PATTERN, full_name, of_heads, place_of
from caft_lens.text import catalog

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas
    from sae_lens import SAE

    from caft_lens.model.lens import Lens

CONFIG, WEIGHTS, CARD = "cfg.json", "sae_weights.safetensors", "card.json"
# Kinds that do not reconstruct, token by token, the activation that they read.
_OTHER_KINDS = {
    "transcoder": "writes to another place than it reads",
    "temporal": "reads whole sequences, not single tokens",
    "crosscoder": "reads several models or layers",
}
_CACHED = re.compile(r"models--([^/]+?)--([^/]+)")
# Arguments of TransformerLens's loading that leave the residual stream, and what is written to it, what it is in the checkpoint.
_SAME_STREAM = frozenset({
    "fold_ln", "center_unembed", "fold_value_biases", "refactor_factored_attn_matrices", "n_devices", "device", "device_map", "dtype",
    "torch_dtype", "trust_remote_code", "default_prepend_bos", "default_padding_side", "attn_implementation", "move_to_device",
    "local_files_only", "cache_dir", "token", "low_cpu_mem_usage", "load_in_8bit", "load_in_4bit",
})  # fmt: skip
# Activations of latents that are held at a time, tokens x latents: 64 MB of fp32 whatever the width of the SAE.
LATENTS_AT_A_TIME = 2**24


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
        name: `"pocket"` or an organism folder; a folder written by sae-lens, or one that holds such folders by hook point; or
            a release on the hub as sae-lens names it, such as `"gemma-scope-2b-pt-res-canonical"`.
        sae_id: Of a release, which of its SAEs: `"layer_12/width_16k/canonical"`.
        layer: Of an organism or folder of several, which layer (its `hook_resid_post`) or hook point.
        lens: A model that it has to fit (see `check_sae`).
        device: That of the lens by default, else the CPU.
        dtype: Of its weights and its arithmetic.
        norm_scaling_factor: For an SAE that was trained on activations scaled to an average norm and saved without that
            scale: what activations were multiplied by. It is folded into the weights.

    Returns:
        A `sae_lens.SAE` for unscaled activations `[..., d_model]`, in eval mode and without gradients.
        `cfg.metadata.hook_name` says where it belongs, `cfg.metadata.source` where it came from. One that was made for a model with
        centred writing weights (`cfg.metadata.model_from_pretrained_kwargs`) reads and writes as that one (see `centred`).

    Raises:
        FileNotFoundError: For an organism or folder without that SAE, naming those that are there.
        OSError: For a release that is neither here nor reachable.
        ValueError: For an unknown release or id, with the nearest; for files that are no SAE or are damaged; for one that
            does not fit `lens`; for one whose scale is not known.

    Example:
        >>> load_sae("pocket", layer=2, lens=base).W_dec.shape                                 # doctest: +SKIP
        torch.Size([512, 128])
        >>> load_sae("gemma-scope-2b-pt-res-canonical", "layer_12/width_16k/canonical")         # doctest: +SKIP
    """
    _refuse_no_name(name)
    place = str(device if device is not None else lens.device if lens is not None else "cpu")
    if _is_local(name):
        folder = _folder(name, layer, sae_id)
        sae, source = _from_disk(folder, place, dtype), str(folder)
        if catalog.is_organism(name):
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
    if reason := _other_weights(sae):
        raise BadModel(f"The SAE {source} cannot be read as it was made: {reason}.")
    if _wants_centring(sae) and (lens is None or subtracts_means(lens)):
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
        >>> cl.find.sae(plain.lens, base, answers, load_saes("pocket", [1, 2]))  # doctest: +SKIP
    """
    _refuse_no_name(name)
    if layers is None:
        layers = _hooks_in(catalog.sae_folder(name))
        if not layers:
            raise _no_saes(catalog.sae_folder(name))
    return [load_sae(name, layer=layer, **keywords) for layer in layers]


def sae_cards(name: str | Path) -> pandas.DataFrame:
    """What the cards of an organism's SAEs say of them, one row a hook point.

    Args:
        name: An organism, or a folder with SAEs by hook point.

    Returns:
        `d_sae`, `l0` (active latents a token), `explained_variance`, `loss_recovered` (of the loss that the mean in its place
        costs) and `dead` (latents that never fired), measured on held-out documents.

    Raises:
        FileNotFoundError: When there are none.

    Example:
        >>> sae_cards("pocket").loc["blocks.2.hook_resid_post", "d_sae"]  # doctest: +SKIP
        512
    """
    from caft_lens.display.frames import Frame

    folder = catalog.sae_folder(name)
    figures = {hook: card["figures"] for hook, card in cards(folder).items()}
    if not figures:
        raise _no_saes(folder)
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
    return {hook: read_card(folder / hook) for hook in _hooks_in(folder) if (folder / hook / CARD).is_file()}


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
    settings: dict[str, int | float]
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
    """The card of an SAE.

    Raises:
        BadFile: When it is broken; a `ValueError`.
    """
    held = read_json(folder / CARD)
    parsed(held, _Card, str(folder / CARD), "the card of an SAE")
    return held


def _config(folder: Path) -> _Config:
    return read_record(folder / CONFIG, _Config, "the configuration of an SAE")


def _check_files(folder: Path) -> _Config:
    """Refuse files that are not those of the card, or that do not fit each other, before anything of their size is made.

    Raises:
        BadFile: Saying which.
    """
    from safetensors import SafetensorError, safe_open

    for name, wanted in (read_card(folder)["sha256"] if (folder / CARD).is_file() else {}).items():
        if name in (CONFIG, WEIGHTS) and sha256((folder / name).read_bytes()) != wanted:
            raise BadFile(
                f"{folder / name} was changed or damaged after it was written: its hash is not that of {CARD} beside it. "
                "Make the SAE again."
            )
    config = _config(folder)
    try:
        with safe_open(folder / WEIGHTS, "pt") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise BadFile(
            f"{folder / WEIGHTS} cannot be read ({error}); it may be truncated: make it again."
        ) from error
    for name, shape in (("W_enc", [config.d_in, config.d_sae]), ("W_dec", [config.d_sae, None])):
        found = shapes.get(name, shape)
        if len(found) != 2 or any(n not in (None, m) for n, m in zip(shape, found, strict=True)):
            raise BadFile(
                f'{folder} holds no SAE that sae-lens can read (architecture "{config.architecture}"): {name} is of shape {found}, '
                f"where {CONFIG} says d_in {config.d_in} and d_sae {config.d_sae}."
            )
    return config


def sae_hook(sae: SAE) -> str:
    """The hook point whose activations an SAE reads and reconstructs, such as `"blocks.2.hook_resid_post"`.

    Raises:
        ValueError: When it does not say.
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


def check_sae(sae: SAE, lens: Lens) -> None:
    """Refuse an SAE that does not fit a model.

    It fits the model whose activations it was trained on, and models tuned from that one. Where the SAE carries that
    model's fingerprint, this decides; else its name for the model, compared with the names that the lens has for itself,
    for its checkpoint and for the base of its adapter.

    Raises:
        ValueError: Saying all that does not fit: kind, width, hook point, base.
    """
    reasons = [_kind(sae), _width(sae, lens), _site(sae, lens), _processing(sae, lens), _base(sae, lens)]
    reasons = [reason for reason in reasons if reason]
    if reasons:
        raise BadModel(f"The SAE {sae_name(sae)} does not fit {lens.name!r}: {'; '.join(reasons)}.")


def for_model(sae: SAE, lens: Lens) -> SAE:
    """Declare, on purpose, that an SAE fits a model whose name or fingerprint does not show it; returns the SAE.

    Raises:
        ValueError: When kind, width or hook point do not fit.
    """
    reasons = [_kind(sae), _width(sae, lens), _site(sae, lens), _processing(sae, lens)]
    reasons = [reason for reason in reasons if reason]
    if reasons:
        raise BadModel(f"The SAE {sae_name(sae)} does not fit {lens.name!r}: {'; '.join(reasons)}.")
    sae.cfg.metadata.model_fingerprint = lens.fingerprint
    return sae


@torch.no_grad()
def latents_of(sae: SAE, acts: Tensor) -> Iterator[Tensor]:
    """What an SAE's latents are on some tokens, a part of the tokens at a time, so that memory does not grow with them.

    Args:
        sae: The SAE.
        acts: Activations `[n_tokens, d_model]`, on any device.

    Yields:
        `[n, d_sae]` on the SAE's device, in order; at most `LATENTS_AT_A_TIME` numbers each.
    """
    step = max(1, LATENTS_AT_A_TIME // sae.cfg.d_sae)
    for rows in acts.split(step):
        yield sae.encode(rows.to(sae.device))


@torch.no_grad()
def active_latents(sae: SAE, acts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The latents that are above 0 on some tokens, and only those: what is left of `latents_of` without its zeros.

    A TopK SAE hands over its k values a token as they are, which is quicker than writing and searching all of them.
    Activations below 0, as an AbsTopK SAE has them, are left out.

    Args:
        sae: The SAE.
        acts: Activations `[n_tokens, d_model]`, on any device.

    Returns:
        Token and latent, long `[n]`, and activation, fp32 `[n]`, all on the CPU: ordered by token, within it by latent.
    """
    found = []
    first = 0
    with _sparse_topk(sae):
        for latents in latents_of(sae, acts):
            if latents.is_sparse:
                latents = latents.coalesce()
                (token, latent), value = latents.indices(), latents.values()
                above = value > 0
                token, latent, value = token[above], latent[above], value[above]
            else:
                token, latent = (latents > 0).nonzero(as_tuple=True)
                value = latents[token, latent]
            found.append((token.cpu() + first, latent.cpu(), value.float().cpu()))
            first += len(latents)
    token, latent, value = (torch.cat(parts) for parts in zip(*found, strict=True))
    return token, latent, value


@block
def _sparse_topk(sae: SAE) -> Iterator[None]:
    """While open, a TopK SAE encodes to a sparse tensor, as sae-lens itself does in training when asked to."""
    activation = sae.activation_fn
    knows_how = getattr(activation, "use_sparse_activations", None) is False
    # Whoever hooks the latents expects them dense, and sparse tensors are not everywhere on Apple's GPUs.
    hooked = bool(getattr(getattr(sae, "hook_sae_acts_post", None), "_forward_hooks", None))
    if not knows_how or hooked or sae.device.type == "mps":
        yield
        return
    activation.use_sparse_activations = True
    try:
        # Saying no to the checks of sparse tensors is what keeps torch from warning that they are off.
        with torch.sparse.check_sparse_tensor_invariants(enable=False):
            yield
    finally:
        activation.use_sparse_activations = False


def splice(lens: Lens, sae: SAE, *, roles: Sequence[str] | None = None) -> AbstractContextManager[Lens]:
    """Put an SAE's reconstruction in place of the activation while a block is open.

    Args:
        lens: The model.
        sae: Its SAE; arithmetic is the SAE's own (fp32 by default), the result has the dtype of the activation.
        roles: Only at tokens with these roles; all tokens when `None`.

    Raises:
        ValueError: When the SAE does not fit.

    Example:
        >>> with splice(base, load_sae("pocket", layer=2)):  # doctest: +SKIP
        ...     base(texts, return_type="loss")
    """
    check_sae(sae, lens)

    def reconstruct(x: Tensor) -> Tensor:
        given = x.to(sae.device)
        return (sae(given) + unread(sae, given)).to(x)

    return at(lens, {sae_hook(sae): reconstruct}, roles=roles)


# -- loading ----------------------------------------------------------------------------------------------------------


def _is_local(name: str | Path) -> bool:
    path = Path(name)
    written = str(name)
    like_a_path = path.is_absolute() or written.startswith((".", "~")) or written.count("/") > 1
    return like_a_path or path.is_dir() or catalog.is_organism(name)


def _folder(name: str | Path, layer: int | str | None, sae_id: str | None) -> Path:
    """The folder of one SAE of an organism or of a folder."""
    root = catalog.sae_folder(name)
    if sae_id is not None:
        raise BadModel(f'"{name}" is on this machine and has no ids: give layer= instead of "{sae_id}".')
    if (root / CONFIG).is_file():
        stated = (_config(root).metadata or {}).get("hook_name")
        if layer is not None and stated not in (None, full_name(layer)):
            raise BadModel(f"{root} holds an SAE for {stated}, not for {full_name(layer)}.")
        return root
    there = _hooks_in(root)
    if not there:
        raise _no_saes(root)
    if layer is None:
        raise BadModel(f"{root} holds {len(there)} SAEs: say which with layer=, one of {', '.join(there)}.")
    if full_name(layer) not in there:
        raise MissingFile(f'No SAE for "{full_name(layer)}" in {root}.{nearest(full_name(layer), there)}')
    return root / full_name(layer)


def _no_saes(folder: Path) -> MissingFile:
    shipped = ", ".join(catalog.shipped())
    return absent(
        folder, CONFIG, "holds no SAEs", f"What ships with caft_lens has some: {shipped}." if shipped else ""
    )


def _hooks_in(root: Path) -> list[str]:
    """The SAEs of a folder, by layer."""
    names = [path.parent.name for path in root.glob(f"*/{CONFIG}") if not path.parent.name.startswith(".")]
    return sorted(
        names, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
    )


def _from_disk(folder: Path, device: str, dtype: str) -> SAE:
    from sae_lens import SAE

    if not (folder / WEIGHTS).is_file():
        raise absent(folder, WEIGHTS, "holds no SAE")
    config = _check_files(folder)
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
            f'No SAE "{release}": neither an organism, a folder here, nor a release of sae-lens.{nearest(release, places)}'
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
            raise OSError(
                f'The SAE "{release}" "{sae_id}" is not on this machine{why}: load it once where there is a network, or give '
                f"a folder or an organism ({', '.join(catalog.shipped()) or 'none ships yet'}). ({error})"
            ) from error


@block
def _hub_or_cache() -> Iterator[bool]:
    """Whether the hub answers; where it does not, what was downloaded is used at once instead of after half a minute."""
    from huggingface_hub import constants

    from caft_lens.model.loading import hub_answers

    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")
    reachable = not offline and hub_answers()
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
            f'The SAE {source} was trained on normalised activations ("{how}"), and the files do not say with what: on plain '
            "activations it would give numbers that mean nothing. Give norm_scaling_factor= (sqrt(d_in) over the mean norm "
            "of the activations that it was trained on), or save it with the scale folded in, as SAETrainer does."
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


def centred(sae: SAE) -> SAE:
    """Have an SAE read and write the residual stream of a model with centred writing weights; returns the SAE.

    TransformerLens can take the mean off whatever is written to the residual stream, which LayerNorm takes off later anyway. The stream
    then is x - mean(x), the mean over its d_model numbers. An SAE made for that stream gets it here from the plain one, and the directions of
    its decoder have no mean either: they are those that ablate and steer the same in both streams. `load_sae` does this by itself.

    Args:
        sae: An SAE as sae-lens loads it; it is changed.

    Raises:
        BadModel: When its latents hang on the length of its decoder's rows.
    """
    if not sae.cfg.metadata.reads_centred:
        if getattr(sae.cfg, "rescale_acts_by_decoder_norm", False):
            raise BadModel(
                f"The SAE {sae_name(sae)} was made for centred writing weights and scales its latents by the length of its decoder's rows, "
                "which centring changes: fold that length in first, sae.fold_W_dec_norm(), and save it."
            )
        normalised = sae.run_time_activation_norm_fn_in
        sae.run_time_activation_norm_fn_in = lambda x: normalised(x - x.mean(dim=-1, keepdim=True))
        with torch.no_grad():
            sae.W_dec.sub_(sae.W_dec.mean(dim=-1, keepdim=True))
        sae.cfg.metadata.reads_centred = True
    return sae


def unread(sae: SAE, x: Tensor) -> Tensor:
    """The part of activations `[..., d_model]` that an SAE neither reads nor writes: their mean where it is `centred`, else nothing."""
    if not sae.cfg.metadata.reads_centred:
        return torch.zeros((), dtype=x.dtype, device=x.device)
    return x.mean(dim=-1, keepdim=True)


def subtracts_means(lens: Lens) -> bool:
    """Whether the norms of a model take the mean off (LayerNorm): only then can the stream be centred without changing the model."""
    norm = lens._parts.final_norm
    return norm is not None and (
        "layernorm" in type(norm).__name__.lower() and "rms" not in type(norm).__name__.lower()
    )


def _wants_centring(sae: SAE) -> bool:
    return bool((sae.cfg.metadata.model_from_pretrained_kwargs or {}).get("center_writing_weights"))


def _other_weights(sae: SAE) -> str:
    """Why the model that an SAE was made on has another residual stream than its checkpoint, in a way that is not known here."""
    given = {
        key: value
        for key, value in (sae.cfg.metadata.model_from_pretrained_kwargs or {}).items()
        if value is not None
    }
    unknown = [key for key in given if key != "center_writing_weights" and key not in _SAME_STREAM]
    if not unknown:
        return ""
    return (
        f"its model was loaded with {', '.join(f'{key}={given[key]!r}' for key in unknown)}, of which it is not known what it does to the "
        "residual stream. If nothing, take it out of model_from_pretrained_kwargs in its cfg.json"
    )


def _processing(sae: SAE, lens: Lens) -> str:
    if reason := _other_weights(sae):
        return reason
    reads_centred = bool(sae.cfg.metadata.reads_centred)
    if _wants_centring(sae) and subtracts_means(lens) and not reads_centred:
        return "it was made for centred writing weights; load it with load_sae, or give caft_lens.saes.loading.centred(sae)"
    if reads_centred and not subtracts_means(lens):
        return "it reads a centred stream, which a model without LayerNorm does not have; load it with load_sae(…, lens=…)"
    return ""


def _refuse_not_finite(sae: SAE, source: str) -> None:
    for name, parameter in sae.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise BadFile(f"The SAE {source} is damaged: {name} holds NaN or infinite values.")


# -- fitting ----------------------------------------------------------------------------------------------------------


def _kind(sae: SAE) -> str:
    architecture = sae.cfg.architecture()
    other = next((why for kind, why in _OTHER_KINDS.items() if kind in architecture), "")
    if other:
        return f'it is a "{architecture}", which {other}'
    if sae.cfg.reshape_activations != "none" or sae.cfg.metadata.hook_head_index is not None:
        return "it reads the outputs of attention heads, not the residual stream"
    return ""


def _width(sae: SAE, lens: Lens) -> str:
    width = sae.W_dec.shape[1]
    return "" if width == lens.d_model else f"it is {width} wide and the model {lens.d_model}"


def _site(sae: SAE, lens: Lens) -> str:
    hook = sae_hook(sae)
    if hook in lens.hook_names and not of_heads(hook):
        return ""
    if re.fullmatch(PATTERN, hook) and place_of(hook).layer >= lens.n_layers:
        return f"it belongs to {hook}, and the model has layers 0 to {lens.n_layers - 1}"
    return f'it belongs to "{hook}", where the model has no hook point of the residual stream'


def _base(sae: SAE, lens: Lens) -> str:
    metadata = sae.cfg.metadata
    print_, base = metadata.model_fingerprint, metadata.model_name
    carry = "; if it does fit, say so: caft_lens.saes.loading.for_model(sae, lens)"
    if print_ is not None:
        if print_ in lens.lineage:
            return ""
        return f"it was trained on {base or 'a model'} ({print_}), and this one is neither that model nor tuned from it{carry}"
    if base and any(_same_base(base, name) for name in _names_of(lens)):
        return ""
    return f"it was trained on {base or 'a model that it does not name'}, and nothing shows that this one is that model{carry}"


def _names_of(lens: Lens) -> set[str]:
    """What a model calls itself, its checkpoint, and the base of its adapter."""
    configs = (getattr(lens.model, "peft_config", None) or {}).values()
    names = [lens.name, getattr(lens.hf.config, "_name_or_path", ""), getattr(lens.hf, "name_or_path", "")]
    return {str(name) for name in [*names, *(config.base_model_name_or_path for config in configs)] if name}


def _same_base(one: str, other: str) -> bool:
    """Whether two names stand for one model: "gemma-2-2b" and "google/gemma-2-2b", "gpt2-small" and "gpt2"."""
    first, second = _official(one), _official(other)
    owners = {name.rpartition("/")[0] for name in (first, second)} - {""}
    return first.rpartition("/")[2] == second.rpartition("/")[2] and len(owners) < 2


def _official(name: str) -> str:
    """A model's name on the hub in lower case, from that name, an alias of TransformerLens or a folder of the hub's cache."""
    from transformer_lens.supported_models import MODEL_ALIASES

    cached = _CACHED.search(name)
    if cached:
        name = "/".join(cached.groups())
    elif name.count("/") > 1 or name.startswith((".", "~", "/")):
        name = Path(name).name  # a folder called like its model
    plain = name.lower()
    for official, aliases in MODEL_ALIASES.items():
        if plain in (official.lower(), *(alias.lower() for alias in aliases)):
            return official.lower()
    return plain
