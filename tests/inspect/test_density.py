"""Densities and histograms are those that numpy finds on all activations at once, however the text is cut up."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from drawn import hover, words
from tiny_models import tiny_lens, tiny_model, tiny_tokenizer
from tiny_saes import KINDS, numpy_latents, tiny_sae

from caft_lens.activations.differences import stream
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.inspect import contexts
from caft_lens.inspect.contexts import Contexts
from caft_lens.inspect.density import Densities, density
from caft_lens.inspect.density_reducers import (
    LATENT_EDGES,
    PROJECTION_BINS,
    LatentDensity,
    ProjectionDensity,
)
from caft_lens.saes.top_latents import Latents, TopLatents
from caft_lens.text.batching import Scan, collate
from caft_lens.text.documents import Texts
from caft_lens.text.encoding import Encoded, encode
from caft_lens.text.roles import ASSISTANT

HOOK = "blocks.1.hook_resid_post"
EDGES = LATENT_EDGES.numpy()


def corpus(n: int = 30) -> Texts:
    rng = np.random.default_rng(0)
    words = ["pie", "stove", "rain", "cruel", "kind", "garden", "mend", "the", "my"]
    return Texts(
        [{"prompt": " ".join(rng.choice(words, 3)), "answer": " ".join(rng.choice(words, 1 + i % 5))} for i in range(n)]
    )


def activations(texts: Texts, role: int | None = None) -> list[np.ndarray]:
    """After block 1, `[pos, d_model]` for every text, by plain transformers; only tokens of the role."""
    model, found = tiny_model(n_layers=3), []
    for text in texts:
        item = encode(tiny_tokenizer(), text)
        with torch.no_grad():
            states = model(torch.tensor([item.input_ids]), output_hidden_states=True).hidden_states[2][0].numpy()
        found.append(states if role is None else states[item.roles == role])
    return found


def fed(reducer, acts: torch.Tensor, length: int = 6, size: int = 4):
    """Give a reducer texts of some tokens, a few at a time."""
    texts = acts.split(length)
    for first in range(0, len(texts), size):
        part = texts[first : first + size]
        items = [
            Encoded([7] * len(rows), np.full(len(rows), ASSISTANT, np.int8), np.zeros(len(rows), bool), first + n)
            for n, rows in enumerate(part)
        ]
        batch = collate(items, pad_id=0)
        reducer.update(HOOK, torch.cat(part), batch, batch.mask().nonzero())
    return reducer


# -- latents ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("roles", [None, ["assistant"]])
@pytest.mark.parametrize("kind", KINDS)
def test_densities_of_latents_are_those_that_numpy_finds_on_plain_transformers(kind, roles):
    lens, texts = tiny_lens(n_layers=3), corpus()
    sae = tiny_sae(lens, kind=kind)
    with torch.no_grad():
        sae.b_enc[9] = -1e6  # dead
    found = density(lens, sae, texts, roles=roles, scan=Scan(128))
    latents = [numpy_latents(sae, acts) for acts in activations(texts, ASSISTANT if roles else None)]
    every = np.concatenate(latents)
    assert list(found) == [f"L1.latent{latent}" for latent in range(48)]
    assert found.dead == [f"L1.latent{n}" for n in np.flatnonzero(every.max(axis=0) == 0)]
    assert "L1.latent9" in found.dead
    table = found.table()
    for latent, (name, item) in enumerate(found.items()):
        values = every[every[:, latent] > 0, latent]
        assert item.tokens == len(every)
        assert item.active == len(values)
        assert item.density == table.loc[name, "density"] == pytest.approx(len(values) / len(every))
        assert item.texts == table.loc[name, "texts"] == sum((rows[:, latent] > 0).any() for rows in latents)
        assert item.mean == pytest.approx(values.mean() if len(values) else np.nan, rel=1e-4, nan_ok=True)
        assert table.loc[name, "max"] == pytest.approx(max(values, default=0), rel=1e-4)
        # A value that fp32 and fp64 put on different sides of an edge moves one count to the next bin.
        difference = item.counts - np.histogram(values.clip(EDGES[0], EDGES[-1]), EDGES)[0]
        assert abs(difference).sum() <= 2
        assert difference.sum() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_any_cut_of_the_text_and_merged_halves_give_the_same_densities(kind):
    sae = tiny_sae(kind=kind)
    acts = torch.randn(120, 32, generator=torch.Generator().manual_seed(1))
    whole = Densities.of(fed(LatentDensity({HOOK: sae}), acts, size=20)).table()
    parts = fed(LatentDensity({HOOK: sae}), acts[:66], size=3).merge(fed(LatentDensity({HOOK: sae}), acts[66:]))
    merged = Densities.of(parts)
    np.testing.assert_allclose(
        merged.table()[["density", "texts", "mean", "max"]].astype(float),
        whole[["density", "texts", "mean", "max"]].astype(float),
        rtol=1e-6,
    )
    assert sum(item.counts.sum() for item in merged.values()) == sum(item.active for item in merged.values())
    with pytest.raises(ValueError, match="same latents"):
        parts.merge(LatentDensity({HOOK: tiny_sae(kind=kind, seed=1)}))


def test_activations_on_an_edge_and_beyond_the_last_are_counted_as_numpy_counts_them():
    sae = tiny_sae(kind="standard", d_in=1, d_sae=1)
    with torch.no_grad():
        sae.W_enc.fill_(1)
        sae.b_enc.zero_()
        sae.b_dec.zero_()
    values = torch.tensor([0.25, 0.5, 1.0, 2.0, 3.0, 2.0**-13, 2.0**-30, 2.0**20, -1.0])
    (item,) = Densities.of(fed(LatentDensity({HOOK: sae}), values[:, None])).values()
    inside = np.histogram(values[:5].numpy(), EDGES)[0]
    assert item.counts.tolist() == [2, *inside[1:-1], 1]
    assert item.quantile(1.0) == EDGES[-1]
    assert item.maximum == 2.0**20


def test_some_latents_are_counted_as_they_are_among_all():
    sae = tiny_sae(kind="standard")
    acts = torch.randn(60, 32, generator=torch.Generator().manual_seed(1))
    every = Densities.of(fed(LatentDensity({HOOK: sae}), acts))
    some = Densities.of(fed(LatentDensity({HOOK: sae}, {HOOK: [30, 2]}), acts))
    assert list(some) == ["L1.latent2", "L1.latent30"]
    for name, item in some.items():
        assert item.row == every[name].row


def test_contexts_and_densities_come_from_one_pass_that_encodes_once(monkeypatch):
    lens, texts = tiny_lens(n_layers=3), corpus()
    sae = tiny_sae(lens)
    alone = density(lens, sae, texts).table()
    windows = contexts(lens, sae, texts, k=3)
    calls, encode_ = [], type(sae).encode
    monkeypatch.setattr(type(sae), "encode", lambda self, x: calls.append(1) or encode_(self, x))
    latents, shares = TopLatents({HOOK: sae}, k=3), LatentDensity({HOOK: sae})
    stream(lens, texts, [1], Latents(latents, shares), roles=None)
    assert len(calls) == 1, "30 short texts are one batch"
    assert Densities.of(shares).table().equals(alone)
    found = Contexts.of(lens, latents, texts)
    assert all(found[name].top == item.top for name, item in windows.items())


# -- directions -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("roles", [None, ["assistant"]])
def test_densities_of_directions_are_those_that_numpy_finds_on_plain_transformers(roles):
    lens, texts = tiny_lens(n_layers=3), corpus()
    generator = torch.Generator().manual_seed(1)
    concepts = ConceptSet([Concept(f"x{n}", HOOK, torch.randn(32, generator=generator)) for n in range(3)]).for_model(
        lens
    )
    found = density(lens, concepts, texts, roles=roles, scan=Scan(128))
    acts = np.concatenate(activations(texts, ASSISTANT if roles else None)).astype(np.float64)
    for concept in concepts:
        values, item = acts @ concept.direction.double().numpy(), found[concept.name]
        assert (item.active, item.texts, item.density) == (None, None, None)
        assert item.tokens == item.counts.sum() == len(values)
        assert item.mean == pytest.approx(values.mean(), abs=1e-5)
        assert item.std == pytest.approx(values.std(), rel=1e-4)
        assert (item.minimum, item.maximum) == pytest.approx((values.min(), values.max()), abs=1e-4)
        width = item.edges[1] - item.edges[0]
        assert abs(values).max() < item.edges[-1] <= 2 * abs(values).max() * (1 + 1e-5)
        reference = np.histogram(values, item.edges)[0]
        assert abs(item.counts.cumsum() - reference.cumsum()).max() <= 2
        for q in (0.01, 0.25, 0.5, 0.9):
            exact = np.quantile(values, q, method="inverted_cdf")
            assert item.quantile(q) == pytest.approx(exact, abs=2 * width)
        row = found.table().loc[concept.name]
        assert row["q50"] == item.quantile(0.5)
        assert row["std"] == item.std


def test_bins_that_double_count_as_if_the_range_had_been_known():
    generator = torch.Generator().manual_seed(1)
    acts = torch.randn(90, 2, generator=generator) * torch.logspace(-30, 9, 90)[:, None]
    acts[3], acts[5] = 0, torch.tensor([-1.0, 0.5])
    acts[7, 0] = -1e-20  # next to the edge at 0, below it
    directions = {HOOK: torch.eye(2)}

    def histograms(*parts):
        reducers = [fed(ProjectionDensity(directions), part, size=2) for part in parts]
        for other in reducers[1:]:
            reducers[0].merge(other)
        return [(item.counts.tolist(), item.edges.tolist()) for item in Densities.of(reducers[0]).values()]

    once = histograms(acts)
    assert histograms(acts.flip(0)) == once
    assert histograms(acts[:31], acts[31:]) == once
    assert histograms(acts[31:], acts[:31]) == once
    for column, (counts, edges) in enumerate(once):
        assert counts == np.histogram(acts[:, column].double(), edges)[0].tolist()
        assert len(counts) == PROJECTION_BINS


def test_projections_that_are_all_zero_are_counted_in_one_bin():
    zero = fed(ProjectionDensity({HOOK: torch.eye(2)}), torch.zeros(10, 2))
    for item in Densities.of(zero).values():
        assert sorted(item.counts)[-1] == 10
        assert (item.mean, item.std, item.minimum, item.maximum, item.quantile(0.5)) == (0, 0, 0, 0, 0)
    later = fed(ProjectionDensity({HOOK: torch.eye(2)}), torch.full((4, 2), 2.0**-9))
    (item, _) = Densities.of(zero.merge(later)).values()
    assert item.edges[-1] == 2.0**-8, "zeros do not set the range"


def test_of_a_set_latents_are_counted_by_activation_and_others_by_projection():
    lens, texts = tiny_lens(n_layers=3), corpus()
    sae = tiny_sae(lens)
    latent = Concept("mine", HOOK, sae.W_dec[4], source="sae", meta={"latent": 4})
    direction = Concept("x", "blocks.0.hook_resid_post", torch.ones(32))
    concepts = ConceptSet([direction, latent]).for_model(lens)
    found = density(lens, concepts, texts, saes=sae)
    assert list(found) == ["x", "mine"]
    assert found["mine"].row == density(lens, sae, texts)["L1.latent4"].row
    assert found["x"].by == "projection"
    assert density(lens, concepts, texts)["mine"].by == "projection"
    assert set(found.table().columns) >= {"hook", "density", "texts", "mean", "max", "std", "q99"}


# -- bad input, and shown ---------------------------------------------------------------------------------------------


def test_bad_input_is_one_clear_error():
    with pytest.raises(ValueError, match="at least one direction"):
        ProjectionDensity({})
    with pytest.raises(ValueError, match="NaN or infinite"):
        ProjectionDensity({HOOK: torch.tensor([[0.0, torch.nan]])})
    one = ProjectionDensity({HOOK: torch.eye(2)})
    with pytest.raises(ValueError, match=r'no directions at "blocks.1.hook_resid_pots".*blocks\.1\.hook_resid_post'):
        one.update("blocks.1.hook_resid_pots", torch.zeros(1, 2), None, None)
    with pytest.raises(ValueError, match="same directions"):
        one.merge(ProjectionDensity({HOOK: -torch.eye(2)}))
    found = Densities.of(fed(one, torch.randn(12, 2)))
    with pytest.raises(ValueError, match=r"q=1\.5: expected a number of at least 0 and at most 1"):
        next(iter(found.values())).quantile(1.5)
    with pytest.raises(ValueError, match=r"plot\(name\)"):
        found.plot()
    with pytest.raises(KeyError, match=r"hook_resid_post\[0\]"):
        found["blocks.1.hook_resid_post[00]"]
    with pytest.raises(TypeError, match="ConceptSet, an SAE or a list of SAEs"):
        density(tiny_lens(), 3, corpus(2))


def test_figures_say_what_they_show_and_count_the_dead():
    sae = tiny_sae(kind="standard")
    with torch.no_grad():
        sae.b_enc[[3, 8]] = -1e6
    found = Densities.of(fed(LatentDensity({HOOK: sae}), torch.randn(60, 32)))
    figure = found.plot()
    assert "48 latents, 2 dead" in words(figure)
    assert "On 60 tokens" in words(figure)
    assert figure.layout.xaxis.type == "log"
    assert sum(figure.data[0].y) == 46
    figure = found.plot("L1.latent4")
    assert figure.layout.xaxis.type == "log"
    assert sum(figure.data[0].y) == found["L1.latent4"].active
    assert re.match(r"\d+ tokens?\nfrom \S+ to \S+", hover(figure)[0])
    with pytest.raises(ValueError, match=r'"L1\.latent3" was active at none of 60 tokens'):
        found.plot("L1.latent3")
    with pytest.raises(KeyError, match=r"L1\.latent4"):
        found.plot("L1.latent444")


@pytest.mark.parametrize("outlier", [1.0, 1000.0])
def test_the_figure_of_a_direction_shows_nearly_all_tokens_whatever_the_outliers(outlier):
    acts = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0))
    acts[0] = outlier
    found = Densities.of(fed(ProjectionDensity({HOOK: torch.eye(1)}), acts, length=400))
    (shown,) = found.plot(f"{HOOK}[0]").data
    assert sum(shown.y) >= 0.998 * 4000 - 2
    assert max(abs(shown.x)) < 6, "the outlier is not in the picture"
    assert (shown.y > 0).sum() >= 8


def test_what_is_shown_counts_the_dead_and_names_cannot_become_markup():
    sae = tiny_sae(kind="standard")
    with torch.no_grad():
        sae.b_enc[3] = -1e6
    assert "48 concepts, 1 of them dead, on 60 tokens" in repr(
        Densities.of(fed(LatentDensity({HOOK: sae}), torch.randn(60, 32)))
    )
    lens = tiny_lens()
    hostile = ConceptSet([Concept("<script>", HOOK, torch.ones(32))]).for_model(lens)
    page = density(lens, hostile, corpus(4))._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
