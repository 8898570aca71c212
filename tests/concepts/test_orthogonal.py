"""Two ways to spare attention sinks: ablation skips them, or the directions are made orthogonal to them."""

from __future__ import annotations

import pytest
import torch
from tiny_models import planted, tiny_lens

import caft_lens as cl
from caft_lens._support.errors import BadArgument, BadType, ConceptMismatch
from caft_lens.concepts.orthogonal import orthogonal_to_sinks
from caft_lens.model.lens import Lens

HOOK = "blocks.1.hook_resid_post"
BOS = 1
IDS = torch.tensor([[BOS, 40, 50, 60], [BOS, 70, 80, 90]])
FAMILIES = pytest.mark.parametrize("architecture", ["gemma3", "qwen3"])


def sink_of(lens: Lens) -> torch.Tensor:
    """The activation of a first BOS after block 1, by plain transformers."""
    with torch.no_grad():
        return lens.hf(IDS[:1], output_hidden_states=True).hidden_states[2][0, 0]


def near_the_sink(lens: Lens, cosine: float = 0.3, width: int = 32) -> cl.ConceptSet:
    """Two directions, one with a given cosine to the sink's and one at random."""
    sink = torch.nn.functional.normalize(sink_of(lens), dim=0) if lens.sinks else torch.eye(width)[0]
    noise = torch.randn(width, 2, generator=torch.Generator().manual_seed(0))
    rows = torch.linalg.qr(torch.cat([sink[:, None], noise], 1))[0].T
    found = [
        cl.Concept("L1.near", HOOK, cosine * sink + (1 - cosine**2) ** 0.5 * rows[1], label="near"),
        cl.Concept("L1.random", HOOK, noise[:, 1]),
    ]
    return cl.ConceptSet(found, {"fingerprint": lens.fingerprint, "model": lens.name})


def passed(lens: Lens, concepts: cl.ConceptSet | None = None) -> torch.Tensor:
    if concepts is None:
        return lens.run_with_cache(IDS, names_filter=HOOK)[1][HOOK]
    with cl.ablate(lens, concepts):
        return lens.run_with_cache(IDS, names_filter=HOOK)[1][HOOK]


@FAMILIES
def test_ablation_leaves_sinks_to_the_last_bit_and_nothing_of_a_direction_at_other_tokens(architecture: str):
    lens = planted(architecture)
    concepts = near_the_sink(lens)
    before, after = passed(lens), passed(lens, concepts)
    assert lens.sinks.far(HOOK, before).tolist() == (IDS == BOS).tolist()
    assert torch.equal(after[:, 0], before[:, 0])
    assert (before[:, 0] @ concepts.basis(1)).abs().max() > 10
    assert (after[:, 1:] @ concepts.basis(1)).abs().max() < 1e-4


@FAMILIES
def test_orthogonal_directions_move_no_sink_though_none_is_skipped_and_are_gone_at_other_tokens(architecture: str):
    lens = planted(architecture)
    concepts = near_the_sink(lens)
    spared = orthogonal_to_sinks(lens, concepts)
    lens.sinks = False
    before, plain, after = passed(lens), passed(lens, concepts), passed(lens, spared)
    length = before[:, 0].norm(dim=-1)
    assert ((plain - before)[:, 0].norm(dim=-1) > 0.25 * length).all()
    assert ((after - before)[:, 0].norm(dim=-1) < 1e-5 * length).all()
    assert (before[:, 1:] @ spared.basis(1)).abs().max() > 0.1
    assert (after[:, 1:] @ spared.basis(1)).abs().max() < 1e-4


@FAMILIES
def test_the_record_says_how_much_of_each_direction_was_taken_off_and_outlives_saving(architecture: str, tmp_path):
    lens = planted(architecture)
    concepts = near_the_sink(lens)
    spared = orthogonal_to_sinks(lens, concepts)
    said = spared.provenance["orthogonal_to_sinks"]
    sink = torch.nn.functional.normalize(sink_of(lens), dim=0)
    for one in concepts:
        assert said["taken_off"][one.name] == pytest.approx(float(one.direction @ sink) ** 2, abs=1e-5)
        assert float(spared[one.name].direction @ sink) == pytest.approx(0, abs=1e-6)
        assert float(spared[one.name].direction.norm()) == pytest.approx(1, abs=1e-6)
    assert said["taken_off"]["L1.near"] == pytest.approx(0.09, abs=1e-4)
    assert said["tokens"][HOOK] > 1
    assert said["cosine"][HOOK] == pytest.approx(1, abs=1e-6)
    assert spared["L1.near"].label == "near"
    assert cl.ConceptSet.load(spared.save(tmp_path / "spared")).provenance == spared.provenance


def test_a_direction_that_is_mostly_the_sinks_is_refused_by_name():
    lens = planted()
    concepts = near_the_sink(lens, cosine=0.9)
    with pytest.raises(BadArgument, match=r"L1\.near \(81\.0%\).*concepts\.without\(\['L1\.near'\]\)"):
        orthogonal_to_sinks(lens, concepts)
    allowed = orthogonal_to_sinks(lens, concepts, most=0.9)
    assert allowed.provenance["orthogonal_to_sinks"]["taken_off"]["L1.near"] == pytest.approx(0.81, abs=1e-4)
    alone = cl.ConceptSet([cl.Concept("L1.sink", HOOK, sink_of(lens))], concepts.provenance)
    with pytest.raises(BadArgument, match=r"L1\.sink"):
        orthogonal_to_sinks(lens, alone, most=1.0)


def test_sinks_that_are_switched_off_are_measured_all_the_same():
    lens = planted()
    concepts = near_the_sink(lens)
    right = orthogonal_to_sinks(lens, concepts)
    lens.sinks = False
    found = orthogonal_to_sinks(lens, concepts)
    assert found.fingerprint == right.fingerprint != concepts.fingerprint
    assert not lens.sinks


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "qwen3"])
def test_a_model_without_sinks_keeps_its_directions_to_the_bit_and_says_so(architecture: str):
    lens = tiny_lens(architecture)
    concepts = near_the_sink(lens)
    spared = orthogonal_to_sinks(lens, concepts)
    assert spared.fingerprint == concepts.fingerprint
    assert spared.provenance["orthogonal_to_sinks"] == {
        "taken_off": {"L1.near": 0.0, "L1.random": 0.0},
        "tokens": {HOOK: 0},
        "cosine": {},
    }


def test_what_is_no_set_or_is_of_another_model_is_refused():
    lens = planted()
    concepts = near_the_sink(lens)
    with pytest.raises(BadType, match="One concept as a set"):
        orthogonal_to_sinks(lens, concepts[0])
    with pytest.raises(ConceptMismatch, match="found on"):
        orthogonal_to_sinks(tiny_lens(), concepts)
    with pytest.raises(BadArgument, match="most"):
        orthogonal_to_sinks(lens, concepts, most=0.0)
