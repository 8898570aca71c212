"""Attribution is the slope that finite differences on plain transformers give, and asks for what it needs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import tiny_lens, tiny_model, tiny_tokenizer
from tiny_saes import KINDS, numpy_latents, tiny_sae

from caft_lens import find
from caft_lens.concepts.ablation import ablate
from caft_lens.model.lens import Lens, load
from caft_lens.saes.fitting import for_model
from caft_lens.text.batching import Scan
from caft_lens.text.documents import Texts
from caft_lens.text.encoding import encode
from caft_lens.text.roles import ROLES

RNG = np.random.default_rng(0)
WORDS = ["a", "red", "house", "by", "the", "sea"]
TEXTS = Texts(
    [
        {"prompt": " ".join(RNG.choice(WORDS, 3)), "answer": " ".join(RNG.choice(WORDS, 1 + number % 4))}
        for number in range(7)
    ],
    name="house",
)
# A few of them begin like the answer, so that the first difference is not always the first token.
OTHERS = [text.answer + " sea sea" if number % 2 else "zebra" for number, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def lens() -> Lens:
    return tiny_lens(n_layers=3)


def logits_with(lens: Lens, item, added: torch.Tensor, layer: int, without=None) -> torch.Tensor:
    """Logits `[pos, d_vocab]` of plain transformers, with a vector added to each token after a block, and a
    direction out.
    """

    def change(module, args, output):
        x = output if isinstance(output, torch.Tensor) else output[0]
        changed = projected(x, without) + added
        return changed if isinstance(output, torch.Tensor) else (changed, *output[1:])

    handle = lens.hf.model.layers[layer].register_forward_hook(change)
    try:
        with torch.no_grad():
            return lens.hf(torch.tensor([item.input_ids])).logits[0]
    finally:
        handle.remove()


def projected(x: torch.Tensor, without) -> torch.Tensor:
    return x if without is None else x - (x @ without)[..., None] * without


def by_finite_differences(
    lens: Lens, sae, latent: int, layer: int, outcome, roles=None, without=None, step: float = 1e-3
):
    """How fast the outcome, summed over texts, rises as a latent's part in the residual stream grows."""
    total = count = 0.0
    for number, text in enumerate(TEXTS):
        item = encode(tiny_tokenizer(), text)
        with torch.no_grad():
            states = lens.hf(torch.tensor([item.input_ids]), output_hidden_states=True).hidden_states
        acts = numpy_latents(sae, projected(states[layer + 1][0], without).numpy())[:, latent]
        if roles is not None:
            acts = acts * np.isin(item.roles, [ROLES[role] for role in roles])
        part = torch.from_numpy(acts).float()[:, None] * sae.W_dec[latent]
        up, n = outcome(number, item, logits_with(lens, item, step * part, layer, without))
        down, _ = outcome(number, item, logits_with(lens, item, -step * part, layer, without))
        total, count = total + (up - down) / (2 * step), count + n
    return total / count


def log_probability(number, item, logits):
    at = np.flatnonzero(item.loss)
    said = logits.double().log_softmax(-1)[at - 1, np.array(item.input_ids)[at]]
    return float(said.sum()), len(at)


def logit_difference(number, item, logits):
    other = encode(tiny_tokenizer(), TEXTS[number].with_answer(OTHERS[number])).input_ids
    at = next(i for i, (a, b) in enumerate(zip(item.input_ids, other, strict=False)) if a != b)
    return float(logits[at - 1, item.input_ids[at]].double() - logits[at - 1, other[at]].double()), 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("outcome", [log_probability, logit_difference])
def test_attribution_is_the_slope_by_finite_differences_on_plain_transformers(kind: str, outcome, lens: Lens):
    sae = tiny_sae(lens, kind=kind)
    against = OTHERS if outcome is logit_difference else None
    found = find.attribution(lens, TEXTS, sae, against=against, k=6)
    scores = [concept.score for concept in found]
    slopes = [by_finite_differences(lens, sae, c.meta["latent"], 1, outcome) for c in found]
    np.testing.assert_allclose(scores, slopes, rtol=0.02, atol=2e-5)
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] > 0
    for concept in found:
        row = sae.W_dec[concept.meta["latent"]]
        torch.testing.assert_close(concept.direction.float(), row / row.norm(), atol=1e-6, rtol=0)


def test_the_first_latents_are_first_of_all_and_none_that_supports_the_outcome_is_left_out(lens: Lens):
    sae = tiny_sae(lens)
    every = find.attribution(lens, TEXTS, sae, k=None)
    slopes = np.array([by_finite_differences(lens, sae, j, 1, log_probability) for j in range(48)])
    assert {c.meta["latent"] for c in every} >= set(np.flatnonzero(slopes > 1e-4))
    assert every[0].meta["latent"] == slopes.argmax()
    assert find.attribution(lens, TEXTS, sae, k=3).names == every.names[:3]
    with pytest.raises(ValueError, match=rf"supported by {len(every)} of 48 latents, not {len(every) + 1}"):
        find.attribution(lens, TEXTS, sae, k=len(every) + 1)


def test_only_tokens_of_the_roles_count(lens: Lens):
    sae = tiny_sae(lens)
    found = find.attribution(lens, TEXTS, sae, k=4, roles=["user"])
    slopes = [by_finite_differences(lens, sae, c.meta["latent"], 1, log_probability, roles=["user"]) for c in found]
    np.testing.assert_allclose([c.score for c in found], slopes, rtol=0.02, atol=2e-5)
    assert found.provenance["roles"] == ["user"]


def test_under_an_ablation_attribution_is_that_of_the_ablated_model(lens: Lens):
    sae = tiny_sae(lens, kind="standard")
    first = find.attribution(lens, TEXTS, sae, against=OTHERS, k=1)
    with ablate(lens, first):
        then = find.attribution(lens, TEXTS, sae, against=OTHERS, k=5)
    without = first[0].direction.float()
    slopes = [by_finite_differences(lens, sae, c.meta["latent"], 1, logit_difference, without=without) for c in then]
    np.testing.assert_allclose([c.score for c in then], slopes, rtol=0.02, atol=2e-5)
    again = find.attribution(lens, TEXTS, sae, against=OTHERS, k=5)
    assert [c.score for c in again] != pytest.approx([c.score for c in then], rel=0.02)


def test_in_turn_each_round_is_the_first_of_the_model_without_those_taken_before(lens: Lens):
    saes = [tiny_sae(lens, layer, seed=layer, kind="standard") for layer in (0, 2)]
    settings = {"against": OTHERS}
    found = find.attribution(lens, TEXTS, saes, k=5, step=2, **settings)
    taken: list = []
    for number, size in enumerate((2, 2, 1)):
        out = [concept.name for concept in taken]
        if taken:
            with ablate(lens, {hook: found.choose(dict.fromkeys(out, "taken")).basis(hook) for hook in found.hooks}):
                first = find.attribution(lens, TEXTS, saes, k=size, without=out, **settings)
        else:
            first = find.attribution(lens, TEXTS, saes, k=size, **settings)
        here = [concept for concept in found if concept.meta["round"] == number]
        assert [concept.name for concept in here] == first.names
        assert [c.score for c in here] == pytest.approx([c.score for c in first], rel=1e-4, abs=1e-9)
        taken += here
    assert [concept.rank for concept in found] == [0, 1, 2, 3, 4] * 2
    assert found.names != find.attribution(lens, TEXTS, saes, k=5, **settings).names
    assert not any(point.fwd_hooks for point in lens.hook_dict.values())


def test_latents_that_are_left_out_leave_their_places_to_the_next(lens: Lens):
    sae = tiny_sae(lens)
    every = find.attribution(lens, TEXTS, sae, k=None).names
    left_out = np.array([every[0], every[2]])
    fewer = find.attribution(lens, TEXTS, sae, k=3, without=left_out)
    assert fewer.names == [every[1], *every[3:5]]
    in_turn = find.attribution(lens, TEXTS, sae, k=4, step=2, without=every[:2])
    assert in_turn.names[:2] == every[2:4]
    with pytest.raises(KeyError, match=r"L1\.latnet3.*Did you mean"):
        find.attribution(lens, TEXTS, sae, without=["L1.latnet3"])
    with pytest.raises(TypeError, match="collection of names"):
        find.attribution(lens, TEXTS, sae, without="L1.latent3")
    for k, step in ((None, 2), (4, 0)):
        with pytest.raises(ValueError, match="give both"):
            find.attribution(lens, TEXTS, sae, k=k, step=step)


def test_layers_together_and_batches_of_any_size_give_what_each_gives_alone(lens: Lens):
    saes = [tiny_sae(lens, layer, seed=layer) for layer in (0, 2)]
    together = find.attribution(lens, TEXTS, saes, against=OTHERS, k=5)
    for number, sae in enumerate(saes):
        alone = find.attribution(lens, TEXTS, sae, against=OTHERS, k=5, scan=Scan(16))
        part = together[5 * number : 5 * number + 5]
        assert part.names == alone.names
        np.testing.assert_allclose([c.score for c in part], [c.score for c in alone], rtol=1e-4)


def test_dropout_is_off_and_the_model_is_left_as_it_was():
    lens = tiny_lens("gpt2", n_layers=3)
    for block in lens.hf.transformer.h:
        block.mlp.dropout.p = 0.5
    sae = tiny_sae(lens)
    still = find.attribution(lens, TEXTS, sae, k=2)
    lens.model.requires_grad_(True).train()
    again = find.attribution(lens, TEXTS, sae, k=2)
    assert [concept.score for concept in again] == pytest.approx([concept.score for concept in still])
    assert lens.model.training
    assert all(p.requires_grad and p.grad is None for p in lens.model.parameters())
    assert not any(point.fwd_hooks for point in lens.hook_dict.values())


def test_what_does_not_fit_is_refused_with_the_reason(lens: Lens):
    sae = tiny_sae(lens)
    with pytest.raises(ValueError, match="6 answers for 7 texts"):
        find.attribution(lens, TEXTS, sae, against=OTHERS[:-1])
    with pytest.raises(ValueError, match="one string for 7 texts"):
        find.attribution(lens, TEXTS, sae, against="zebra  ")
    same = [TEXTS[2].answer if number == 2 else other for number, other in enumerate(OTHERS)]
    with pytest.raises(ValueError, match="Text 2: its answer and the other one"):
        find.attribution(lens, TEXTS, sae, against=same)
    with pytest.raises(ValueError, match="Text 0 has no answer"):
        find.attribution(lens, Texts(["a red house"]), sae, against=["sea"])
    with pytest.raises(ValueError, match="cuts its answer off"):
        find.attribution(lens, TEXTS, sae, against=OTHERS, scan=Scan(max_length=3))
    with pytest.raises(ValueError, match="k=0: expected a whole number of at least 1"):
        find.attribution(lens, TEXTS, sae, k=0)
    with pytest.raises(ValueError, match="no token has a role of"):
        find.attribution(lens, TEXTS, sae, roles=["system"])
    asked = Texts([{"messages": [{"role": "user", "content": "a house"}]}])
    with pytest.raises(ValueError, match="no text has an answer"):
        find.attribution(lens, asked, sae)
    with pytest.raises(ValueError, match="Unknown role"):
        find.attribution(lens, TEXTS, sae, roles=["asistant"])


def test_a_model_in_bf16_ranks_as_in_fp32_up_to_its_rounding(lens: Lens):
    sae = tiny_sae(lens, kind="standard")
    half = load(tiny_model(n_layers=3).to(torch.bfloat16), tokenizer=tiny_tokenizer(), name_as="half")
    full, rounded = (find.attribution(one, TEXTS, for_model(sae, one), against=OTHERS, k=None) for one in (lens, half))
    both = [name for name in full.names if name in rounded.names]
    assert len(both) > 0.8 * len(full)
    pair = [[of[name].score for name in both] for of in (full, rounded)]
    assert np.corrcoef(pair)[0, 1] > 0.99
