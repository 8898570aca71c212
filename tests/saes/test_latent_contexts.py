"""Contexts of SAE latents are where a dense computation finds them largest, of thousands in one pass, decoded when
looked at.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from comparing import alike
from test_contexts import corpus
from tiny_models import tiny_lens, tiny_model, tiny_tokenizer
from tiny_saes import KINDS, tiny_sae

from caft_lens import find
from caft_lens.activations.differences import stream
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.display.token_lines import DEAD
from caft_lens.inspect import context_windows, contexts
from caft_lens.inspect.contexts import Contexts
from caft_lens.model.lens import load
from caft_lens.saes.encoding import active_latents
from caft_lens.saes.top_latents import Latents, TopLatents
from caft_lens.text.batching import Batch, Scan, collate
from caft_lens.text.documents import Texts
from caft_lens.text.encoding import Encoded, encode
from caft_lens.text.roles import ASSISTANT, TEXT

HOOK = "blocks.1.hook_resid_post"


def plain(texts: Texts, model) -> list[tuple[Encoded, torch.Tensor]]:
    """Tokens of every text, and activations after block 1 by plain transformers, `[pos, d_model]`."""
    found = []
    for text in texts:
        item = encode(tiny_tokenizer(), text)
        with torch.no_grad():
            states = model(torch.tensor([item.input_ids]), output_hidden_states=True).hidden_states
        found.append((item, states[2][0]))
    return found


# -- against plain transformers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("roles", [None, ("assistant",)])
@pytest.mark.parametrize("kind", KINDS)
def test_contexts_of_all_latents_are_those_of_a_dense_computation_on_plain_transformers(kind, roles, dtype):
    model = tiny_model(n_layers=3).to(dtype)
    lens = load(model, tokenizer=tiny_tokenizer(), name_as="tiny")
    sae, texts = tiny_sae(lens, kind=kind), corpus()
    # A text a batch: in bfloat16 the shape of a batch shows in the digits.
    found = contexts(lens, sae, texts, k=5, roles=roles, scan=Scan(1))
    read = plain(texts, model)
    expected = picked(sae, read, 5, (12, 6), [ASSISTANT] if roles else None)
    assert list(found) == [f"L1.latent{latent}" for latent in range(48)]
    for latent, item in enumerate(found.values()):
        values = [value for value, *_ in expected[latent]]
        assert [context.value for context in item.top] == pytest.approx(values, abs=1e-5)
        assert list(item.bottom) == []
        assert item.concept.meta["latent"] == latent
        assert item.concept.score == pytest.approx(max(values, default=0.0), abs=1e-5)
        torch.testing.assert_close(
            item.concept.direction, sae.W_dec[latent] / sae.W_dec[latent].norm(), atol=1e-6, rtol=0
        )
        for context in item.top:
            encoded, acts = read[context.index]
            row = sae.encode(acts)[:, latent].numpy().astype(np.float64)
            if roles:
                row[encoded.roles != ASSISTANT] = np.nan
            start = context.position - context.peak
            stop = start + len(context.tokens)
            assert row[context.position] == pytest.approx(context.value, abs=1e-5)
            assert row[context.position] == pytest.approx(np.nanmax(row), abs=1e-5)
            assert "".join(context.tokens) == tiny_tokenizer().decode(encoded.input_ids[start:stop])
            shown = [np.nan if value is None else value for value in context.activations]
            np.testing.assert_allclose(shown, row[start:stop], atol=1e-5)
            assert context.meta["domain"] == texts[context.index].meta["domain"]


def test_saes_at_several_layers_are_read_in_one_pass_of_the_model():
    lens, texts, calls = tiny_lens(), corpus(), []
    saes = [tiny_sae(lens, layer, seed=layer) for layer in (0, 1)]
    assert not lens.sinks, "a model is asked once for those"
    handle = lens.model.register_forward_pre_hook(lambda *args: calls.append(1))
    both = contexts(lens, saes, texts)
    handle.remove()
    assert len(calls) <= 1, "40 short texts are one batch"
    for sae in saes:
        alone = contexts(lens, sae, texts)
        for name, item in alone.items():
            assert alike(both[name].top, item.top)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_active_latents_are_the_entries_above_zero_of_the_dense_encoding_in_order(kind, dtype, monkeypatch):
    monkeypatch.setattr("caft_lens.saes.encoding.LATENTS_AT_A_TIME", 48 * 7)
    sae = tiny_sae(kind=kind).to(dtype)
    with torch.no_grad():
        sae.b_enc -= 2  # few are above 0 then, fewer than the k of a TopK
    acts = torch.randn(50, 32, generator=torch.Generator().manual_seed(2)).to(dtype)
    token, latent, value = active_latents(sae, acts)
    encoded = sae.encode(acts)
    places = (encoded > 0).nonzero()
    assert (encoded > 0).sum(dim=1).min() < 5
    assert torch.equal(torch.stack([token, latent], dim=1), places)
    torch.testing.assert_close(value, encoded[places[:, 0], places[:, 1]].float(), rtol=1e-2, atol=1e-5)
    assert value.dtype == torch.float32
    assert not encoded.is_sparse, "a TopK SAE is left as it was"


def test_hooks_on_the_latents_of_a_topk_sae_see_them_dense_and_act():
    sae = tiny_sae()
    acts = torch.randn(9, 32, generator=torch.Generator().manual_seed(2))
    seen = []

    def double(latents, hook):
        seen.append(latents.is_sparse)
        return 2 * latents

    once = active_latents(sae, acts)
    with sae.hooks([("hook_sae_acts_post", double)]):
        twice = active_latents(sae, acts)
    assert seen == [False]
    torch.testing.assert_close(twice[2], 2 * once[2])


def test_what_an_abstopk_sae_has_below_zero_counts_as_not_active():
    from sae_lens.saes.abstopk_sae import AbsTopKSAE, AbsTopKSAEConfig

    sae = AbsTopKSAE(AbsTopKSAEConfig(d_in=32, d_sae=48, k=6)).eval()
    acts = torch.randn(20, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        encoded = sae.encode(acts)
    assert (encoded < 0).any()
    assert torch.equal(torch.stack(active_latents(sae, acts)[:2], dim=1), (encoded > 0).nonzero())


# -- the reducer, exactly ---------------------------------------------------------------------------------------------


def exact_sae(kind: str, d_sae: int = 40):
    """An SAE with round weights: with round activations nothing is rounded, and many values are equal."""
    sae = tiny_sae(kind=kind, d_in=8, d_sae=d_sae, k=6)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            low = 1 if name == "threshold" else -2
            parameter.copy_(torch.randint(low, 3, parameter.shape, generator=generator) / 2)
    return sae


def documents(n: int = 60) -> list[tuple[Encoded, torch.Tensor]]:
    """Tokens and round activations; few kinds of tokens, so that windows repeat."""
    rng = np.random.default_rng(4)
    found = []
    for index in range(n):
        length = int(rng.integers(3, 12))
        roles = rng.choice([TEXT, ASSISTANT], length).astype(np.int8)
        item = Encoded(rng.integers(5, 8, length).tolist(), roles, np.zeros(length, dtype=bool), index)
        found.append((item, torch.from_numpy(rng.integers(-2, 3, (length, 8))).float() / 2))
    return found


def fed(reducer, some, roles=None, size: int = 7, side: str = "right"):
    for first in range(0, len(some), size):
        part = some[first : first + size]
        batch: Batch = collate([item for item, _ in part], pad_id=0, side=side)
        where = batch.mask(roles).nonzero()
        if len(where):
            acts = torch.stack([part[row][1][batch.position_ids[row, column]] for row, column in where.tolist()])
            reducer.update(HOOK, acts, batch, where)
    return reducer


def picked(sae, some, k: int, window: tuple[int, int], roles=None, rank: str = "peak"):
    """The windows of each latent by sorting all there are: value, text, position, tokens, activations."""
    candidates: list[list[tuple]] = [[] for _ in range(sae.cfg.d_sae)]
    for item, acts in some:
        latents = sae.encode(acts).numpy().astype(np.float64)
        asked = np.ones(len(latents), dtype=bool) if roles is None else np.isin(item.roles, roles)
        if not asked.any():
            continue
        latents[~asked] = np.nan
        for latent in np.flatnonzero(np.nanmax(latents, axis=0) > 0):
            row = latents[:, latent]
            peak = int(np.nanargmax(row))
            value = row[peak] if rank == "peak" else np.nanmean(row)
            places = range(peak - window[0], peak + window[1] + 1)
            inside = [0 <= place < len(row) for place in places]
            tokens = tuple(item.input_ids[p] if ok else -1 for p, ok in zip(places, inside, strict=True))
            shown = tuple(row[p] if ok else np.nan for p, ok in zip(places, inside, strict=True))
            candidates[latent].append((-value, item.index, peak, tokens, shown))
    best = []
    for found in candidates:
        seen, chosen = set(), []
        for value, index, peak, tokens, shown in sorted(found, key=lambda one: one[:3]):
            if tokens not in seen:
                seen.add(tokens)
                chosen.append((-value, index, peak, tokens, shown))
        best.append(chosen[:k])
    return best


def agree(windows, expected) -> None:
    for row, chosen in enumerate(expected):
        n = len(chosen)
        assert windows.index[row].tolist() == [one[1] for one in chosen] + [-1] * (len(windows.index[row]) - n)
        np.testing.assert_allclose(windows.values[row, :n], [one[0] for one in chosen], rtol=1e-6)
        assert windows.values[row, n:].isnan().all()
        assert windows.position[row, :n].tolist() == [one[2] for one in chosen]
        assert windows.tokens[row, :n].tolist() == [list(one[3]) for one in chosen]
        for place, one in enumerate(chosen):
            np.testing.assert_array_equal(windows.activations[row, place], one[4])


@pytest.mark.parametrize("rank", ["peak", "mean"])
@pytest.mark.parametrize("roles", [None, ["text"]])
@pytest.mark.parametrize("kind", KINDS)
def test_windows_are_those_of_sorting_all_latents_of_all_texts_ties_and_repeats_included(kind, roles, rank):
    sae, some = exact_sae(kind), documents()
    expected = picked(sae, some, 4, (2, 1), None if roles is None else [TEXT], rank)
    assert any(0 < len(chosen) < 4 for chosen in expected) or kind != "topk"
    for size in (1, 7, 60):
        reducer = TopLatents({HOOK: sae}, k=4, window=(2, 1), rank=rank)
        agree(fed(reducer, some, roles, size).top(HOOK), expected)
    backwards = TopLatents({HOOK: sae}, k=4, window=(2, 1), rank=rank)
    agree(fed(backwards, some[::-1], roles, 7, side="left").top(HOOK), expected)


def test_lists_brought_up_to_date_in_chunks_are_the_same(monkeypatch):
    sae, some = exact_sae("standard"), documents()
    monkeypatch.setattr("caft_lens.saes.top_latents._CHUNK", 3)
    reducer = fed(TopLatents({HOOK: sae}, k=4, window=(2, 1)), some)
    agree(reducer.top(HOOK), picked(sae, some, 4, (2, 1)))
    halves = [fed(TopLatents({HOOK: sae}, k=4, window=(2, 1)), part) for part in (some[:31], some[31:])]
    agree(halves[0].merge(halves[1]).top(HOOK), picked(sae, some, 4, (2, 1)))


@pytest.mark.parametrize("kind", KINDS)
def test_two_halves_merged_are_one_pass_in_either_order(kind):
    sae, some = exact_sae(kind), documents()
    expected = picked(sae, some, 4, (2, 1))
    for order in ((0, 1), (1, 0)):
        halves = [fed(TopLatents({HOOK: sae}, k=4, window=(2, 1)), part) for part in (some[::2], some[1::2])]
        agree(halves[order[0]].merge(halves[order[1]]).top(HOOK), expected)


def test_some_latents_are_read_as_they_are_among_all():
    sae, some = exact_sae("standard"), documents()
    reducer = fed(TopLatents({HOOK: sae}, k=4, window=(2, 1), latents={HOOK: [31, 7, 7, 12]}), some)
    assert reducer.latents[HOOK].tolist() == [7, 12, 31]
    expected = picked(sae, some, 4, (2, 1))
    agree(reducer.top(HOOK), [expected[latent] for latent in (7, 12, 31)])


def test_reducers_that_share_an_encoding_find_what_each_finds_alone_and_encode_once(monkeypatch):
    sae, some = exact_sae("topk"), documents()
    several = [
        TopLatents({HOOK: sae}, k=4, window=(2, 1)),
        TopLatents({HOOK: sae}, k=2, window=(0, 0)),
    ]
    calls, encode_ = [], type(sae).encode
    monkeypatch.setattr(type(sae), "encode", lambda self, x: calls.append(len(x)) or encode_(self, x))
    fed(Latents(*several), some, size=20)
    assert len(calls) == 3, "three batches"
    agree(several[0].top(HOOK), picked(sae, some, 4, (2, 1)))
    agree(several[1].top(HOOK), picked(sae, some, 2, (0, 0)))


def test_bad_input_is_one_clear_error():
    sae = tiny_sae(kind="standard")
    with pytest.raises(ValueError, match=r'rank="average".*peak'):
        TopLatents({HOOK: sae}, rank="average")
    with pytest.raises(ValueError, match="numbers from 0 to 47"):
        TopLatents({HOOK: sae}, latents={HOOK: [3, 48]})
    with pytest.raises(ValueError, match="give at least one"):
        TopLatents({HOOK: sae}, latents={HOOK: []})
    with pytest.raises(ValueError, match="have to be the same"):
        TopLatents({HOOK: sae}, latents={"blocks.0.hook_resid_post": [3]})
    with pytest.raises(ValueError, match="No SAE"):
        TopLatents({})
    with pytest.raises(ValueError, match="k=0"):
        TopLatents({HOOK: sae}, k=0)
    with pytest.raises(KeyError, match=r"blocks\.1\.hook_resid_post"):
        TopLatents({HOOK: sae}).top("blocks.1.hook_resid_pots")
    lens = tiny_lens()
    with pytest.raises(ValueError, match=r'no SAE at "blocks.0.hook_resid_post".*blocks\.1'):
        stream(lens, corpus(3), [0], TopLatents({HOOK: tiny_sae(lens)}))
    one, other = TopLatents({HOOK: sae}), TopLatents({HOOK: tiny_sae(kind="standard", seed=1)})
    with pytest.raises(ValueError, match="same latents"):
        one.merge(other)
    with pytest.raises(ValueError, match="same latents"):
        one.merge(TopLatents({HOOK: sae}, k=3))
    one.merge(TopLatents({HOOK: tiny_sae(kind="standard")}))  # the same weights in another object
    with pytest.raises(ValueError, match="same SAEs"):
        Latents(one, other)
    with pytest.raises(ValueError, match="at least one"):
        Latents()


# -- concepts that are latents ----------------------------------------------------------------------------------------


def test_of_a_set_latents_are_read_by_activation_and_all_others_by_projection():
    lens, texts = tiny_lens(), corpus()
    sae, other = tiny_sae(lens), tiny_sae(lens, seed=5)
    latents = contexts(lens, sae, texts)
    alive = [name for name in latents if name not in latents.dead][:2]
    concepts = ConceptSet(
        [
            Concept("x", HOOK, torch.arange(32.0)),
            latents[alive[1]].concept,
            Concept("flipped", HOOK, -sae.W_dec[3], source="sae", meta={"latent": 3}),
            Concept("of another", HOOK, other.W_dec[4], source="sae", meta={"latent": 4}),
            Concept("not by an SAE", HOOK, sae.W_dec[6], source="means", meta={"latent": 6}),
            Concept("elsewhere", "blocks.0.hook_resid_post", sae.W_dec[4], source="sae", meta={"latent": 4}),
            latents[alive[0]].concept,
        ]
    ).for_model(lens)
    found = contexts(lens, concepts, texts, saes=sae)
    projected = contexts(lens, concepts, texts)
    assert list(found) == concepts.names
    for name, item in found.items():
        assert item.concept is concepts[name]
        if name in alive:
            assert item.by == "latent"
            assert alike(item.top, latents[name].top)
            assert list(item.bottom) == []
            assert projected[name].by == "projection"
            assert not alike(item.top, projected[name].top)
        else:
            assert item.by == "projection"
            assert alike(item.top, projected[name].top)
            assert alike(item.bottom, projected[name].bottom)
    assert found.counts("domain").loc["x"].sum() == 20
    assert found.counts("domain").loc[alive[0], "bottom"].sum() == 0


def test_latents_that_find_gives_are_known_again_by_their_sae():
    lens, texts = tiny_lens(), corpus()
    sae = tiny_sae(lens)
    concepts = find.attribution(lens, texts, sae, k=4)
    found = contexts(lens, concepts, texts, saes=[tiny_sae(lens, 0), sae])
    every = contexts(lens, sae, texts)
    assert {item.by for item in found.values()} == {"latent"}
    for name, item in found.items():
        assert alike(item.top, every[name].top)
    rounded = tiny_sae(lens).to(torch.bfloat16)
    assert {item.by for item in contexts(lens, concepts, texts, saes=rounded).values()} == {"latent"}


def test_what_is_no_concept_and_no_sae_is_refused():
    lens, texts = tiny_lens(), corpus(3)
    sae = tiny_sae(lens)
    with pytest.raises(TypeError, match=r"ConceptSet, an SAE or a list of SAEs, not str"):
        contexts(lens, "pocket", texts)
    with pytest.raises(ValueError, match="saes= goes with a ConceptSet"):
        contexts(lens, sae, texts, saes=sae)
    with pytest.raises(ValueError, match="Two SAEs at"):
        contexts(lens, [sae, tiny_sae(lens, seed=1)], texts)
    with pytest.raises(ValueError, match="No SAE"):
        contexts(lens, [], texts)
    with pytest.raises(ValueError, match="does not fit"):
        contexts(lens, tiny_sae(tiny_lens(seed=1)), texts)
    concepts = ConceptSet([Concept("x", HOOK, torch.ones(32))]).for_model(lens)
    with pytest.raises(ValueError, match=r"None of the 1 concepts is a latent of the SAEs at blocks\.1"):
        contexts(lens, concepts, texts, saes=sae)


# -- lazy, and shown --------------------------------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch):
    """How many windows were decoded."""
    calls, pieces = [], context_windows.pieces
    monkeypatch.setattr(context_windows, "pieces", lambda *args: calls.append(1) or pieces(*args))
    return calls


def test_nothing_is_decoded_that_is_not_looked_at(decoded):
    lens, texts = tiny_lens(), corpus()
    found = contexts(lens, tiny_sae(lens), texts, k=4)
    labels = [[place % 2 == 0 for place in range(200)] for _ in texts]
    shares, counted = found.peaks_on(labels), found.counts("domain")
    some = found.only(list(found)[5:9])
    assert (len(found), len(some), len(found.dead)) == (48, 4, len(found.dead))
    assert not decoded
    name = next(name for name in found if len(found[name].top) == 4)
    assert found[name].top[0].tokens
    assert found[name].top[-1].tokens
    assert len(decoded) == 2, "two windows"
    table = found.table()
    assert len(decoded) > len(table)
    table["on"] = table["position"] % 2 == 0
    for name, on in table.groupby("concept")["on"]:
        assert shares.loc[name, "top"] == pytest.approx(on.mean())
        assert counted.loc[name, "top"].sum() == len(on)
    assert shares["bottom"].isna().all()


def test_only_keeps_some_in_the_order_given_and_names_the_nearest_when_one_is_missing():
    lens = tiny_lens()
    found = contexts(lens, tiny_sae(lens), corpus(), k=2)
    some = found.only(["L1.latent9", "L1.latent4"])
    assert isinstance(some, Contexts)
    assert list(some) == ["L1.latent9", "L1.latent4"]
    assert alike(some["L1.latent9"].top, found["L1.latent9"].top)
    assert list(found.only("L1.latent9")) == ["L1.latent9"]
    with pytest.raises(KeyError, match=r"L1\.latent900.*L1\.latent9"):
        found.only(["L1.latent900"])
    with pytest.raises(KeyError, match=r"L1\.latent4"):
        some["L1.latent44"]


def test_a_dead_latent_has_no_contexts_and_is_said_to_be_dead(capsys):
    lens = tiny_lens()
    sae = tiny_sae(lens, kind="standard")
    with torch.no_grad():
        sae.b_enc[[3, 8]] = -1e6
    found = contexts(lens, sae, corpus(), k=2)
    assert found.dead == ["L1.latent3", "L1.latent8"]
    item = found["L1.latent3"]
    assert item.dead
    assert item.top == []
    assert item._repr_html_().count(DEAD) == found.only("L1.latent3").to_html().count(DEAD) == 1
    assert DEAD in str(item)
    found.show(names=["L1.latent3", "L1.latent4"])
    shown = capsys.readouterr().out
    assert shown.count(DEAD) == 1
    assert shown.count("  top ") == 2
    assert "  bottom " not in shown
    assert np.isnan(found.peaks_on([[True] * 200] * 40).loc["L1.latent3", "top"])


def test_thousands_of_latents_show_the_first_few_and_say_how_many_there_are(decoded):
    lens = tiny_lens()
    sae = tiny_sae(lens, kind="standard", d_sae=2000)
    with torch.no_grad():
        sae.b_enc[[3, 8]] = -1e6
    found = contexts(lens, sae, corpus(), k=3)
    for shown in (repr(found), found.to_html(), found._repr_html_()):
        assert "2,000 concepts, 2 of them dead" in shown
        assert "L1.latent9" in shown
        assert "L1.latent10" not in shown
    assert len(decoded) < 200
    assert "concepts" not in repr(found.only(["L1.latent5", "L1.latent6"]))


def test_latents_and_directions_are_shown_together_each_with_the_ends_it_has():
    lens, texts = tiny_lens(), corpus()
    sae = tiny_sae(lens)
    latent = next(item.concept for item in contexts(lens, sae, texts).values() if not item.dead)
    mixed = ConceptSet([Concept("<x>", HOOK, torch.ones(32)), latent]).for_model(lens)
    page = contexts(lens, mixed, texts, k=3, saes=sae).to_html(n=3)
    assert page.count("most active") == page.count("top, highest") == page.count("bottom, lowest") == 1
    assert "<x>" not in page
    assert "&lt;x&gt;" in page


def test_contexts_of_a_pass_of_ones_own_are_those_of_contexts():
    lens, texts = tiny_lens(), corpus()
    sae = tiny_sae(lens)
    latents = TopLatents({HOOK: sae}, k=3, latents={HOOK: [2, 40]})
    stream(lens, texts, [1], Latents(latents), roles=None)
    own, every = Contexts.of(lens, latents, texts), contexts(lens, sae, texts, k=3)
    assert list(own) == ["L1.latent2", "L1.latent40"]
    for name, item in own.items():
        assert alike(item.top, every[name].top)
    assert Contexts.of(lens, latents)["L1.latent2"].bottom == []


def test_a_latent_without_a_decoder_direction_is_left_out():
    lens = tiny_lens()
    sae = tiny_sae(lens)
    with torch.no_grad():
        sae.W_dec[7] = 0
    assert set(contexts(lens, sae, corpus(5))) == {f"L1.latent{n}" for n in range(48) if n != 7}


def test_on_the_organism_contexts_of_latents_are_those_of_a_dense_computation():
    import caft_lens as cl

    base, sae = cl.load("pocket"), cl.load_sae("pocket", layer=2)
    texts = cl.data("pocket/corpus")[:24]
    found = contexts(base, sae, texts, k=3, roles=None)
    best = []
    for text in texts:
        ids = torch.tensor([encode(base.tokenizer, text).input_ids])
        with torch.no_grad():
            states = base.hf(ids, output_hidden_states=True).hidden_states[3][0]
            best.append(sae.encode(states).amax(dim=0))
    best = torch.stack(best)
    for latent in range(sae.cfg.d_sae):
        top = found[f"L2.latent{latent}"].top
        values = best[best[:, latent] > 0, latent].sort(descending=True).values
        # A window may occur twice, and then counts once: what is shown is some of the values, the first always.
        assert [context.value for context in top[:1]] == pytest.approx(values[:1].tolist(), abs=1e-4)
        for context in top:
            assert context.value == pytest.approx(float(best[context.index, latent]), abs=1e-4)
