"""Several interventions at once are the single ones in one block: what is ablated first, then what is steered."""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny_lens, tiny_model, tiny_tokenizer

import caft_lens as cl
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.concepts.interventions import intervene, unit_lengths
from caft_lens.text.encoding import encode
from caft_lens.text.roles import SPECIAL

TEXTS = cl.Texts([{"prompt": "a red house", "answer": "by the sea"}, {"text": "zebra"}])


@pytest.fixture(scope="module")
def lens() -> cl.Lens:
    return tiny_lens()


@pytest.fixture(scope="module")
def concepts(lens) -> ConceptSet:
    generator = torch.Generator().manual_seed(4)
    return ConceptSet(
        Concept(
            f"L{layer}.{name}",
            f"blocks.{layer}.hook_resid_post",
            torch.randn(lens.d_model, generator=generator),
        )
        for layer in (0, 1)
        for name in "xyz"
    ).for_model(lens)


def subset(concepts: ConceptSet, *names: str) -> ConceptSet:
    return concepts.without([name for name in concepts.names if name not in names])


def test_one_block_is_the_single_blocks_one_inside_the_other(lens, concepts):
    with (
        cl.ablate(lens, subset(concepts, "L0.x", "L1.y")),
        cl.steer(lens, concepts["L0.z"], 3.0),
        cl.steer(lens, concepts["L1.z"], -2.0),
    ):
        expected = lens("a red house")
    with intervene(lens, concepts, {"L0.z": 3.0, "L1.z": -2, "L1.y": "ablate", "L0.x": "ablate"}):
        torch.testing.assert_close(lens("a red house"), expected, rtol=0, atol=0)
    plain = lens("a red house")
    assert not torch.allclose(plain, expected)
    with intervene(lens, concepts, {}):
        assert torch.equal(lens("a red house"), plain)


def test_at_a_hook_point_what_is_steered_is_added_to_what_the_ablation_left(lens, concepts):
    plain = lens.run_with_cache("a red house", names_filter=[0])[1][0]
    basis = torch.linalg.qr(torch.stack([concepts[name].direction for name in ("L0.x", "L0.y")]).T.double())[0]
    wanted = plain.double() - plain.double() @ basis @ basis.T + 2.5 * concepts["L0.z"].direction.double()
    with intervene(lens, concepts, {"L0.z": 2.5, "L0.x": "ablate", "L0.y": "ablate"}):
        found = lens.run_with_cache("a red house", names_filter=[0])[1][0]
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-5)


def test_a_change_that_is_none_and_a_model_that_does_not_fit_are_refused(lens, concepts):
    with (
        pytest.raises(KeyError, match=r'Did you mean "L0\.x"'),
        intervene(lens, concepts, {"L0.xx": "ablate"}),
    ):
        pass
    for change in ("ablated", True, None):
        with (
            pytest.raises(ValueError, match='"ablate" or the length'),
            intervene(lens, concepts, {"L0.x": change}),
        ):
            pass
    for length in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"L0\.x=.*a number"):
            intervene(lens, concepts, {"L0.x": length})
    other = tiny_lens(seed=5)
    for change in ("ablate", 1.0):
        with (
            pytest.raises(ValueError, match="neither that model nor tuned from it"),
            intervene(other, concepts, {"L0.x": change}),
        ):
            pass


@pytest.mark.parametrize("unit", ["norm", "sd", "length"])
def test_units_are_those_of_the_activations_of_what_was_said(lens, concepts, unit):
    found = unit_lengths(lens, concepts, TEXTS, unit)
    states = []
    for text in TEXTS:
        item = encode(tiny_tokenizer(), text)
        with torch.no_grad():
            kept = tiny_model()(torch.tensor([item.input_ids]), output_hidden_states=True).hidden_states
        states.append(kept[1][0][torch.from_numpy(item.roles != SPECIAL)])
    acts = torch.cat(states).double()
    for name in ("L0.x", "L0.y", "L0.z"):
        along = acts @ concepts[name].direction.double()
        wanted = {"norm": acts.norm(dim=-1).mean(), "sd": along.std(), "length": torch.tensor(1.0)}[unit]
        assert found[name] == pytest.approx(float(wanted), rel=1e-4)
    with pytest.raises(ValueError, match="Did you mean"):
        unit_lengths(lens, concepts, TEXTS, "norms")
