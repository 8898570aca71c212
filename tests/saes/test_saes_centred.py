"""SAEs honour what their model was loaded with: centred writing weights are read and written as TransformerLens's
own centred stream.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import tiny_lens
from tiny_saes import tiny_sae

import caft_lens as cl
from caft_lens._support.errors import BadModel, BadType
from caft_lens.model.lens import Lens
from caft_lens.saes.centring import centred
from caft_lens.saes.encoding import splice
from caft_lens.saes.fitting import check_sae, for_model

HOOK = "blocks.1.hook_resid_post"
TEXT = "How do I bake a pie? Mix flour."


@pytest.fixture(scope="module")
def lens() -> Lens:
    return tiny_lens("gpt2")


@pytest.fixture(scope="module")
def streams(lens: Lens) -> tuple[torch.Tensor, torch.Tensor]:
    """The residual stream of the lens, and TransformerLens's own with centred writing weights."""
    ids = lens.to_tokens(TEXT)
    with torch.no_grad():
        plain = lens.run_with_cache(ids, names_filter=HOOK)[1][HOOK]
        bridge = lens.bridge()
        bridge.enable_compatibility_mode(
            disable_warnings=True, fold_ln=False, center_writing_weights=True, center_unembed=False,
            fold_value_biases=False,
        )  # fmt: skip
        return plain, bridge.run_with_cache(ids)[1][HOOK]


def on_disk(lens: Lens, folder: Path, kwargs: dict, kind: str = "standard", **changes) -> Path:
    sae = tiny_sae(lens, kind=kind, **changes)
    sae.cfg.metadata["model_from_pretrained_kwargs"] = kwargs
    sae.save_model(folder)
    return folder


@pytest.mark.parametrize("kind", ["standard", "topk", "jumprelu"])
@pytest.mark.parametrize("normalised", ["none", "layer_norm"])
def test_latents_of_the_plain_stream_are_those_that_sae_lens_reads_from_the_centred_one(
    lens: Lens, streams, tmp_path: Path, kind: str, normalised: str
):
    from sae_lens import SAE

    plain, right_stream = streams
    assert (plain.mean(dim=-1).abs() > 0.05).any()
    on_disk(lens, tmp_path, {"center_writing_weights": True}, kind, normalize_activations=normalised)
    right = SAE.load_from_disk(tmp_path).encode(right_stream)
    found = cl.load_sae(tmp_path, lens=lens).encode(plain)
    torch.testing.assert_close(found, right, rtol=1e-4, atol=1e-4)
    assert (SAE.load_from_disk(tmp_path).encode(plain) - right).abs().max() > 1e-2 or normalised != "none"


def test_spliced_in_it_does_to_the_logits_what_it_does_in_the_centred_model(lens: Lens, tmp_path: Path):
    from sae_lens import SAE

    on_disk(lens, tmp_path, {"center_writing_weights": True, "fold_ln": True, "center_unembed": False})
    ids = lens.to_tokens(TEXT)
    raw = SAE.load_from_disk(tmp_path)
    bridge = lens.bridge()
    bridge.enable_compatibility_mode(
        disable_warnings=True, fold_ln=False, center_writing_weights=True, center_unembed=False, fold_value_biases=False
    )  # fmt: skip
    with torch.no_grad():
        right = bridge.run_with_hooks(ids, fwd_hooks=[(HOOK, lambda x, hook: raw(x))])
        with splice(lens, cl.load_sae(tmp_path, lens=lens)):
            found = lens(ids)
    torch.testing.assert_close(found, right, rtol=1e-3, atol=1e-3)


def test_ablating_its_decoder_directions_is_ablating_them_in_the_centred_model(lens: Lens, tmp_path: Path):
    from caft_lens.concepts.ablation import project_out

    on_disk(lens, tmp_path, {"center_writing_weights": True})
    sae = cl.load_sae(tmp_path, lens=lens)
    basis = torch.linalg.qr(sae.W_dec[:2].T)[0]
    ids = lens.to_tokens(TEXT)
    bridge = lens.bridge()
    bridge.enable_compatibility_mode(
        disable_warnings=True, fold_ln=False, center_writing_weights=True, center_unembed=False, fold_value_biases=False
    )  # fmt: skip
    with torch.no_grad():
        right = bridge.run_with_hooks(ids, fwd_hooks=[(HOOK, lambda x, hook: project_out(x, basis))])
        with cl.ablate(lens, {HOOK: basis}):
            found = lens(ids)
    torch.testing.assert_close(found, right, rtol=1e-3, atol=1e-3)


def test_what_leaves_the_stream_as_it_is_is_accepted_and_what_is_not_known_refused(lens: Lens, tmp_path: Path):
    plain = tiny_sae(lens, kind="standard")
    same = cl.load_sae(
        on_disk(lens, tmp_path / "a", {"fold_ln": True, "center_unembed": True, "center_writing_weights": False}),
        lens=lens,
    )
    x = torch.randn(4, lens.d_model)
    torch.testing.assert_close(same.encode(x), plain.encode(x))
    with pytest.raises(BadModel, match="revision='step1000'"):
        cl.load_sae(on_disk(lens, tmp_path / "b", {"revision": "step1000"}))


def test_a_model_without_layer_norm_is_not_centred_by_transformer_lens_and_not_here(tmp_path: Path):
    llama = tiny_lens("llama")
    folder = on_disk(llama, tmp_path, {"center_writing_weights": True})
    x = torch.randn(4, llama.d_model)
    torch.testing.assert_close(cl.load_sae(folder, lens=llama).encode(x), tiny_sae(llama, kind="standard").encode(x))
    with pytest.raises(ValueError, match="without LayerNorm"):
        check_sae(cl.load_sae(folder), llama)


def test_one_of_ones_own_is_refused_until_it_is_centred(lens: Lens):
    sae = tiny_sae(lens, kind="standard")
    sae.cfg.metadata["model_from_pretrained_kwargs"] = {"center_writing_weights": True}
    for ask in (check_sae, for_model):
        with pytest.raises(ValueError, match=r"caft_lens.saes.centring.centred\(sae\)"):
            ask(sae, lens)
    check_sae(centred(centred(sae)), lens)


def test_a_model_in_place_of_a_name_is_one_clear_error(lens: Lens):
    for ask in (lambda: cl.load_saes(lens, layers=[1]), lambda: cl.load_sae(lens, layer=1)):
        with pytest.raises(BadType, match=r"not from a Lens: give load_saes\('tiny-gpt2'"):
            ask()
