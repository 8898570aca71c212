"""Finding a concept is scored as scikit-learn and plain transformers would score it, and chance is not counted as a
find.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from drawn import hover, words
from sklearn.decomposition import PCA
from sklearn.metrics import average_precision_score, roc_auc_score
from tiny_models import answer_states, tiny_lens, tiny_tokenizer

from caft_lens import find
from caft_lens._support.intervals import Interval
from caft_lens.activations.differences import activation_difference, stream
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.display.theme import PAPER
from caft_lens.evaluate import auroc as module
from caft_lens.evaluate.auroc import auroc, draws, interval
from caft_lens.evaluate.discovery import (
    Discovery,
    HitRule,
    RankedDirection,
    baselines,
    discovery,
)
from caft_lens.evaluate.labelled import LabelledTokens
from caft_lens.model.lens import Lens
from caft_lens.text.batching import Scan
from caft_lens.text.documents import Texts
from caft_lens.text.encoding import encode
from caft_lens.text.roles import ASSISTANT

HOOKS = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]


def documents(n: int = 60, seed: int = 0) -> Texts:
    """Chats whose label is a coin, which shows a little in the words."""
    rng = np.random.default_rng(seed)
    words = {True: list("abcdefg "), False: list("cdefghi ")}
    rows = []
    for _ in range(n):
        has = bool(rng.random() < 0.4)
        rows.append({"prompt": "Say it.", "answer": "".join(rng.choice(words[has], rng.integers(4, 16))), "has": has})
    return Texts(rows, name=f"documents {seed}")


TEXTS = documents()
LABELS = TEXTS.column("has")


@pytest.fixture(scope="module")
def lens() -> Lens:
    return tiny_lens(n_layers=3)


def states_of(lens: Lens, layer: int, texts: Texts = TEXTS) -> list[np.ndarray]:
    return answer_states(lens, texts, layer)


def means_of(lens: Lens, layer: int, texts: Texts = TEXTS) -> np.ndarray:
    return np.stack([states.mean(0) for states in states_of(lens, layer, texts)])


def some(lens: Lens, n: int = 6, seed: int = 0, layers: tuple[int, ...] = (0, 1)) -> ConceptSet:
    generator = torch.Generator().manual_seed(seed)
    concepts = [
        Concept(
            f"L{layer}.x{rank}",
            f"blocks.{layer}.hook_resid_post",
            torch.randn(32, generator=generator),
            rank=rank,
        )
        for layer in layers
        for rank in range(n)
    ]
    return ConceptSet(concepts).for_model(lens)


def one(lens: Lens, direction: np.ndarray, layer: int = 1, sign: int = 1) -> ConceptSet:
    concept = Concept("L1.x0", f"blocks.{layer}.hook_resid_post", torch.from_numpy(direction), sign=sign)
    return ConceptSet([concept]).for_model(lens)


# -- the AUROC --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ties", [False, True])
def test_areas_are_scikit_learns_ties_and_all(ties: bool):
    rng = np.random.default_rng(0)
    has = rng.random(200) < 0.3
    scores = rng.normal(size=(200, 7)) + has[:, None] * np.linspace(-2, 2, 7)
    scores = scores.round(0) if ties else scores
    expected = [roc_auc_score(has, column) for column in scores.T]
    np.testing.assert_allclose(auroc(scores, has), expected, atol=1e-12)
    assert auroc(scores[:, 0], has)[0] < 0.2 < 0.8 < auroc(scores[:, 6], has)[0]


@pytest.mark.parametrize("ties", [False, True])
def test_its_interval_is_that_of_scikit_learns_area_on_documents_drawn_again(ties: bool):
    rng = np.random.default_rng(1)
    has = rng.random(120) < 0.4
    scores = rng.normal(size=120) + has
    scores = scores.round(0) if ties else scores
    low, high = interval(scores, has, draws(has, 4000, seed=0))
    with_it, without = scores[has], scores[~has]
    drawn = [
        roc_auc_score(
            has[np.argsort(~has, kind="stable")],
            np.concatenate([rng.choice(side, len(side)) for side in (with_it, without)]),
        )
        for _ in range(1500)
    ]
    assert [low, high] == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.01)
    assert low < roc_auc_score(has, scores) < high


def test_an_interval_in_blocks_is_the_interval(monkeypatch):
    has = np.arange(40) % 3 == 0
    scores = np.sin(np.arange(40))
    monkeypatch.setattr(module, "BLOCK", 40 * 100)
    low, high = interval(scores, has, draws(has, 1000, seed=0))
    monkeypatch.setattr(module, "BLOCK", 10**9)
    assert [low, high] == pytest.approx(interval(scores, has, draws(has, 1000, seed=0)), abs=0.02)


# -- scoring ----------------------------------------------------------------------------------------------------------


def test_a_document_scores_its_mean_along_the_direction_as_plain_transformers_give_it(lens: Lens):
    concepts = some(lens)
    found = discovery(lens, concepts, TEXTS, lambda text: text.meta["has"], rule=HitRule(n_random=50), scan=Scan(150))
    rows = found["concepts"]
    assert len(rows) == 12
    for row in rows:
        means = means_of(lens, int(row.name[1]))
        expected = roc_auc_score(LABELS, means @ concepts[row.name].direction.double().numpy())
        assert row.auroc == pytest.approx(expected, abs=0.003)
        assert row.low <= row.auroc <= row.high
    assert found.about["positive"] == sum(LABELS)
    assert found.about["negative"] == len(LABELS) - sum(LABELS)
    assert found.about["data"] == {"name": "documents 0", "fingerprint": TEXTS.fingerprint}


def test_lists_over_several_layers_are_read_across_them_by_rank(lens: Lens):
    rows = discovery(lens, some(lens, n=3), TEXTS, LABELS, rule=HitRule(n_random=5))["concepts"]
    assert [row.name for row in rows] == ["L0.x0", "L1.x0", "L0.x1", "L1.x1", "L0.x2", "L1.x2"]
    assert [row.rank for row in rows] == list(range(6))


def planted(lens: Lens) -> tuple[np.ndarray, list[bool]]:
    """A direction, and labels that say which half of the documents lies further along it than the other."""
    means = means_of(lens, 1)
    # The direction of least spread but one: what random directions see is all the rest.
    direction = np.linalg.svd(means - means.mean(0), full_matrices=False)[2][-2]
    scores = means @ direction
    return direction, [bool(score > np.median(scores)) for score in scores]


def test_a_direction_that_separates_is_a_hit_at_either_end_and_its_sign_says_which(lens: Lens):
    direction, labels = planted(lens)
    ways = {"along": (direction, 1), "against": (-direction, 1), "turned": (-direction, -1)}
    lists = {name: one(lens, vector, sign=sign) for name, (vector, sign) in ways.items()}
    found = discovery(lens, lists, TEXTS, labels)
    assert [found[name][0].auroc for name in ways] == pytest.approx([1, 0, 1], abs=0.003)
    for name in ways:
        (row,) = found[name]
        assert row.hit
        assert row.separation == pytest.approx(1, abs=0.003)
        assert row.random < 0.95
    assert found.precision("along") == found.average_precision("against") == 1
    flipped = discovery(lens, lists, TEXTS, [not label for label in labels])
    assert [flipped[name][0].auroc for name in ways] == pytest.approx([0, 1, 0], abs=0.003)


def test_a_direction_is_no_hit_where_chance_finds_the_concept_too(lens: Lens):
    rng = np.random.default_rng(0)
    rows = [
        {"prompt": "?", "answer": "".join(rng.choice(list("ab" if n % 2 else "YZ"), 9)), "has": n % 2 == 1}
        for n in range(60)
    ]
    texts = Texts(rows)
    means = means_of(lens, 1, texts)
    labels = np.array(texts.column("has"))
    best = one(lens, means[labels].mean(0) - means[~labels].mean(0))
    found = discovery(lens, best, texts, texts.column("has"))
    (row,) = found["concepts"]
    assert row.separation == row.random == 1
    assert not row.hit
    assert found.average_precision("concepts") == found.precision("concepts") == 0


def test_below_the_threshold_nothing_is_a_hit(lens: Lens):
    direction, labels = planted(lens)
    labels = [label != (number % 8 == 0) for number, label in enumerate(labels)]  # every eighth is wrong
    rows = {
        threshold: discovery(lens, one(lens, direction), TEXTS, labels, rule=HitRule(threshold, 20))["concepts"][0]
        for threshold in (0.7, 0.97)
    }
    assert rows[0.7].auroc == rows[0.97].auroc
    assert 0.7 < rows[0.7].auroc < 0.97
    assert rows[0.7].hit
    assert not rows[0.97].hit


def test_random_directions_are_as_many_as_asked_uniform_and_of_the_seed(lens: Lens):
    direction, labels = planted(lens)

    def best(n: int, seed: int = 0) -> float:
        return discovery(lens, one(lens, direction), TEXTS, labels, rule=HitRule(n_random=n, seed=seed))["concepts"][
            0
        ].random

    assert best(1) <= best(10) <= best(1000)
    assert best(100) == best(100) != best(100, seed=1)
    means = means_of(lens, 1)
    drawn = np.random.default_rng(0).standard_normal((1000, 32))
    areas = [roc_auc_score(labels, means @ row) for row in drawn]
    assert best(1000) == pytest.approx(max(max(area, 1 - area) for area in areas), abs=0.003)


def test_documents_without_a_label_do_not_count(lens: Lens):
    labels = [None if number % 3 == 0 else label for number, label in enumerate(LABELS)]
    concepts = some(lens, n=2)
    kept = Texts([text for text, label in zip(TEXTS, labels, strict=True) if label is not None])
    some_of = discovery(lens, concepts, TEXTS, labels, rule=HitRule(n_random=20))
    alone = discovery(lens, concepts, kept, [label for label in labels if label is not None], rule=HitRule(n_random=20))
    assert [row.auroc for row in some_of["concepts"]] == pytest.approx(
        [row.auroc for row in alone["concepts"]], abs=0.003
    )
    assert some_of.about["positive"] + some_of.about["negative"] == len(kept)


# -- tokens -----------------------------------------------------------------------------------------------------------


def token_labels(texts: Texts = TEXTS) -> list[list[bool | None]]:
    """Whether a token is a vowel; every fifth position has no label."""
    vowels = {tiny_tokenizer().convert_tokens_to_ids(letter) for letter in "aei"}
    return [
        [
            None if place % 5 == 0 else token in vowels
            for place, token in enumerate(encode(tiny_tokenizer(), text).input_ids)
        ]
        for text in texts
    ]


def test_labels_of_tokens_are_scored_token_by_token(lens: Lens):
    concepts = some(lens, n=3, layers=(1,))
    found = discovery(lens, concepts, TEXTS, token_labels(), rule=HitRule(n_random=20))
    assert found.about["unit"] == "token"
    acts = np.concatenate(states_of(lens, 1))
    said = [encode(tiny_tokenizer(), text).roles == ASSISTANT for text in TEXTS]
    labels = [
        label
        for row, wanted in zip(token_labels(), said, strict=True)
        for label, here in zip(row, wanted, strict=True)
        if here
    ]
    known = np.array([label is not None for label in labels])
    for row in found["concepts"]:
        scores = acts[known] @ concepts[row.name].direction.double().numpy()
        assert row.auroc == pytest.approx(
            roc_auc_score([bool(label) for label in labels if label is not None], scores), abs=1e-4
        )


def test_a_sample_of_tokens_is_of_bounded_size_even_and_does_not_depend_on_batches(lens: Lens):
    def sample(batch_tokens: int, size: int = 50) -> LabelledTokens:
        return stream(lens, TEXTS, [1], LabelledTokens(token_labels(), size, 0), scan=Scan(batch_tokens))[0]

    one_way, other = sample(100), sample(5000)
    for first, second in zip(one_way._kept[HOOKS[1]], other._kept[HOOKS[1]], strict=True):
        np.testing.assert_allclose(first, second, atol=1e-5)
    assert len(one_way.scored(HOOKS[1])[0]) == 50
    everything = sample(5000, size=10**6).scored(HOOKS[1])[1]
    larger = sample(5000, size=200).scored(HOOKS[1])[1]
    assert larger.mean() == pytest.approx(everything.mean(), abs=0.08)
    halves = [
        stream(lens, part, [1], LabelledTokens(token_labels(part), 50, 0))[0] for part in (TEXTS[:30], TEXTS[:30])
    ]
    assert len(halves[0].merge(halves[1]).scored(HOOKS[1])[0]) == 50


# -- lists ------------------------------------------------------------------------------------------------------------


def scored(hits: list[bool]) -> Discovery:
    rows = [
        RankedDirection(f"L0.x{rank}", HOOKS[0], rank, 0.95 if hit else 0.6, 0.5, 1, 0.7, hit)
        for rank, hit in enumerate(hits)
    ]
    return Discovery({"method": rows}, {"positive": 1, "negative": 1})


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_is_scikit_learns_and_precision_the_share_of_the_first(seed: int):
    hits = (np.random.default_rng(seed).random(25) < 0.3).tolist()
    found = scored(hits)
    assert found.average_precision("method") == pytest.approx(average_precision_score(hits, -np.arange(25)))
    assert found.precision("method", 10) == pytest.approx(np.mean(hits[:10]))
    assert found.precision("method", 100) == pytest.approx(np.mean(hits))


def test_an_earlier_hit_is_worth_more_and_no_hit_nothing():
    first, last = scored([True, False, False]), scored([False, False, True])
    assert first.average_precision("method") == 1
    assert last.average_precision("method") == pytest.approx(1 / 3)
    assert scored([False, False]).average_precision("method") == 0


def test_the_tables_and_the_json_hold_what_was_scored():
    found = scored([False, True, True])
    table = found.table(k=2)
    assert table.loc[0, ["directions", "hits", "first hit", "precision at 2"]].tolist() == [3, 2, 1, 0.5]
    assert found.directions("method")["separation"].tolist() == [0.6, 0.95, 0.95]
    assert found.to_json()["methods"]["method"]["average_precision"] == found.average_precision("method")
    assert scored([False]).table()["first hit"].isna().all()
    assert "average precision" in repr(found)
    assert "average precision" in found._repr_html_()
    with pytest.raises(KeyError, match=r'No list "metod" was scored. Did you mean "method"'):
        found["metod"]


def test_the_figure_shows_every_direction_at_its_place_with_hits_filled_and_chance_behind():
    rows = scored([False, True, True])["method"]
    found = Discovery({"mine": rows, "other": rows[:1]}, {"positive": 1, "negative": 1})
    figure = found.plot(title="Two lists")
    chance, missed, hit = (one for one in figure.data if (one.xaxis or "x") == "x")
    assert [list(zip(one.x, one.y, strict=True)) for one in (missed, hit)] == [
        [(0, 0.6)],
        [(1, 0.95), (2, 0.95)],
    ]
    assert [one.marker.color == PAPER for one in (missed, hit)] == [True, False]
    assert [chance.base + y for y in chance.y] == pytest.approx([0.7] * 3)
    assert {"mine", "other", "first hit: L0.x1", "no hit", "Two lists"} <= set(words(figure).split("\n"))
    assert hover(figure)[1].split("\n")[:3] == [
        "L0.x1", 'place 1 of "mine"', "separation 0.95, of the best random direction 0.70",
    ]  # fmt: skip
    assert "95 % interval" in hover(figure)[1]


def test_the_area_for_the_intended_concept_is_the_one_that_its_own_labels_give(lens: Lens):
    directions, longer = some(lens), [len(text.answer or "") > 9 for text in TEXTS]
    both = discovery(lens, directions, TEXTS, LABELS, intended=longer)["concepts"]
    alone = discovery(lens, directions, TEXTS, longer)["concepts"]
    assert [row.intended for row in both] == [row.auroc for row in alone]
    unasked = discovery(lens, directions, TEXTS, LABELS)["concepts"]
    assert [row.auroc for row in both] == [row.auroc for row in unasked]
    assert {row.intended for row in unasked} == {None}


def test_effects_and_seconds_stand_beside_their_list_and_no_other():
    effect = Interval(-0.4, -0.5, -0.3, n_seeds=1, n_answers=10)
    rows = scored([True, False])["method"]
    both = Discovery({"a": rows, "b": rows}, {"positive": 1, "negative": 1}).with_seconds({"a": 2.5})
    found = both.with_effects("a", {"L0.x0": effect})
    assert [row.effect for row in found["a"]] == [effect, None]
    assert [row.effect for row in found["b"]] == [None, None]
    assert found.directions("a").loc[0, ["effect", "effect low", "effect high"]].tolist() == [
        -0.4,
        -0.5,
        -0.3,
    ]
    assert "effect" not in found.directions("b")
    table = found.table().set_index("method")
    assert table.loc["a", ["seconds", "largest effect"]].tolist() == [2.5, -0.4]
    assert table.loc["b", ["seconds", "largest effect"]].isna().all()
    assert found.to_json()["methods"]["a"]["directions"][0]["effect"] == effect.to_json()
    with pytest.raises(KeyError, match=r'"a" has no direction "L0.x9"'):
        both.with_effects("a", {"L0.x9": effect})
    with pytest.raises(KeyError, match=r'No list "c" was scored'):
        both.with_seconds({"c": 1})


# -- baselines --------------------------------------------------------------------------------------------------------


def test_the_baselines_are_plain_pca_axes_and_chance(lens: Lens):
    tuned = lens.copy(name="tuned")
    with torch.no_grad():
        for parameter in tuned.model.parameters():
            parameter.add_(
                0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
            )
    searched = documents(20, seed=1)
    lists = baselines(tuned, lens, searched, [1], k=4)
    assert list(lists) == ["random", "PCA of activations", "neurons"]
    assert {len(found) for found in lists.values()} == {4}
    after, before = (np.concatenate(states_of(model, 1, searched)) for model in (tuned, lens))
    for concept, component in zip(
        lists["PCA of activations"], PCA(4, svd_solver="full").fit(after).components_, strict=True
    ):
        assert abs(concept.direction.numpy() @ component) == pytest.approx(1, abs=1e-3)
    changed = np.argsort(-np.abs((after - before).mean(0)))[:4]
    assert [concept.meta["coordinate"] for concept in lists["neurons"]] == changed.tolist()
    rows = lists["random"].directions(1)
    torch.testing.assert_close(rows @ rows.T, torch.eye(4), atol=1e-5, rtol=0)
    found = discovery(lens, lists, TEXTS, LABELS, rule=HitRule(n_random=20))
    assert found.table()["method"].tolist() == list(lists)
    with pytest.raises(ValueError, match=r'directions of "neurons" were found on these very documents'):
        discovery(lens, {"neurons": lists["neurons"]}, searched, searched.column("has"))


def test_difference_of_means_finds_the_planted_concept_in_documents_it_has_not_seen(lens: Lens):
    train, held_out = documents(120, seed=2), documents(120, seed=3)
    concepts = find.difference_of_means(
        lens,
        train.filter(lambda text: text.meta["has"]),
        train.filter(lambda text: not text.meta["has"]),
        [1],
    )
    (row,) = discovery(lens, concepts, held_out, lambda text: text.meta["has"], rule=HitRule(n_random=200))["concepts"]
    (noise,) = discovery(
        lens,
        find.random_directions(concepts, 1),
        held_out,
        held_out.column("has"),
        rule=HitRule(n_random=1),
    )["concepts"]
    assert row.auroc > 0.8
    assert row.auroc > noise.separation


# -- errors -----------------------------------------------------------------------------------------------------------


def test_directions_are_not_scored_on_the_documents_that_they_were_found_on(lens: Lens):
    tuned = tiny_lens(seed=1, n_layers=3)
    found = find.pca(activation_difference(tuned, lens, TEXTS, [1]), k=2)
    with pytest.raises(ValueError, match=r"found on these very documents \(documents 0\): score them on others"):
        discovery(lens, found, TEXTS, LABELS)
    means = find.difference_of_means(lens, TEXTS, documents(20, seed=5), [1])
    with pytest.raises(ValueError, match="found on these very documents"):
        discovery(lens, means, TEXTS, LABELS)


def test_bad_input_is_one_clear_error(lens: Lens):
    concepts = some(lens, n=1)

    def fails(match: str, labels=LABELS, **keywords) -> None:
        with pytest.raises(ValueError, match=match):
            discovery(lens, concepts, TEXTS, labels, **keywords)

    fails("59 labels for 60 texts", LABELS[:-1])
    fails(r"Of 60 documents with a token of these roles, 60 have the concept and 0 do not", [True] * 60)
    fails(r"label of text 0 is 'cruel': expected True, False or None", ["cruel"] * 60)
    fails("Some labels are of documents and some of tokens", [[True], *LABELS[1:]])
    fails(r"Text \d+ has a token at position \d+, but 1 labels: give one for every token", [[True]] * 60)
    with pytest.raises(ValueError, match=r"threshold=0\.2: an AUROC lies between 0.5"):
        HitRule(threshold=0.2)
    with pytest.raises(ValueError, match="n_random=0"):
        HitRule(n_random=0)
    fails("No token has the role system", roles=["system"])
    with pytest.raises(ValueError, match="No list to score"):
        discovery(lens, {}, TEXTS, LABELS)
    with pytest.raises(ValueError, match=r"precision\(k=0\)"):
        scored([True]).precision("method", k=0)
    with pytest.raises(ValueError, match="found on"):
        discovery(tiny_lens(seed=8, n_layers=3), concepts, TEXTS, LABELS)


def test_the_module_is_called_like_its_function(lens: Lens):
    import caft_lens as cl

    found = cl.evaluate.discovery(lens, some(lens, n=1), TEXTS, LABELS, rule=HitRule(n_random=2))
    assert isinstance(found, cl.evaluate.Discovery)
    assert cl.evaluate.discovery.baselines is baselines
