"""Probes are scikit-learn's on plain transformers' hidden states, and are scored on texts that they have not seen."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler
from tiny_models import answer_states, tiny_lens, tiny_model, tiny_tokenizer

from caft_lens import find
from caft_lens.activations.differences import stream
from caft_lens.find.probes import ProbeFit, TextMeans, TokenSample, document_groups
from caft_lens.model.lens import Lens, load
from caft_lens.text.batching import Scan
from caft_lens.text.documents import Texts

STRENGTHS = (1e-3, 1e-1, 10.0)
HOOK = "blocks.0.hook_resid_post"


def chats(words: str, n: int = 20, seed: int = 0) -> Texts:
    rng = np.random.default_rng(seed)
    return Texts(
        [{"prompt": "Say it.", "answer": " ".join(rng.choice(words.split(), rng.integers(2, 5)))} for _ in range(n)],
        name=words,
    )


# Some words are in both, so that not everything is told apart.
POSITIVE, NEGATIVE = chats("a red house by the sea", 24), chats("a grey tower by the road", 20, seed=1)


@pytest.fixture(scope="module")
def lens() -> Lens:
    return tiny_lens(n_layers=3)


def regression(x: np.ndarray, y: np.ndarray, strength: float):
    """Decision on rows, and the unit direction of a regression on standardised features, without a pipeline."""
    scaler = StandardScaler().fit(x)
    model = LogisticRegression(C=strength, max_iter=10_000).fit(scaler.transform(x), y)
    weight = model.coef_[0] / x.std(axis=0)
    return (lambda rows: model.decision_function(scaler.transform(rows))), weight / np.linalg.norm(weight)


def chosen_strength(x, y, groups, folds: int) -> float:
    splits = list(StratifiedGroupKFold(folds, shuffle=True, random_state=0).split(x, y, groups))
    means = [
        np.mean([roc_auc_score(y[test], regression(x[train], y[train], c)[0](x[test])) for train, test in splits])
        for c in STRENGTHS
    ]
    return STRENGTHS[int(np.argmax(means))]


def nested(x, y, groups, folds: int) -> list[float]:
    areas = []
    for train, test in StratifiedGroupKFold(folds, shuffle=True, random_state=0).split(x, y, groups):
        best = chosen_strength(x[train], y[train], groups[train], folds)
        areas.append(roc_auc_score(y[test], regression(x[train], y[train], best)[0](x[test])))
    return areas


@pytest.mark.parametrize("unit", ["text", "token"])
def test_the_probe_and_its_score_are_scikit_learns_on_plain_transformers_answer_states(lens: Lens, unit: str):
    found = find.probe(
        lens, POSITIVE, NEGATIVE, [0, 1], unit=unit, fit=ProbeFit(3, STRENGTHS), scan=Scan(200),
    )  # fmt: skip
    assert found.names == ["L0.probe0", "L1.probe0"]
    same = _same_number([*POSITIVE, *NEGATIVE])
    for layer, concept in enumerate(found):
        rows = answer_states(lens, [*POSITIVE, *NEGATIVE], layer)
        y = np.arange(len(rows)) < len(POSITIVE)
        x, groups = np.array([row.mean(0) for row in rows]), same
        if unit == "token":
            lengths = [len(row) for row in rows]
            x, y, groups = np.concatenate(rows), np.repeat(y, lengths), np.repeat(same, lengths)
        areas = nested(x, y, groups, 3)
        np.testing.assert_allclose(concept.meta["auroc_folds"], areas, atol=2e-3)
        assert concept.score == pytest.approx(np.mean(areas), abs=1e-3)
        assert concept.meta["auroc_std"] == pytest.approx(np.std(areas, ddof=1), abs=2e-3)
        assert concept.meta["C"] == chosen_strength(x, y, groups, 3)
        decide, direction = regression(x, y, concept.meta["C"])
        assert concept.direction.double().numpy() @ direction == pytest.approx(1, abs=1e-4)
        along = x @ concept.direction.double().numpy() + concept.meta["intercept"]
        assert ((along > 0) == (decide(x) > 0)).mean() > 0.995
        assert concept.meta["n"] == [y.sum(), (~y).sum()]


def _same_number(texts) -> np.ndarray:
    answers = [text.answer for text in texts]
    return np.array([answers.index(answer) for answer in answers])


def test_the_direction_points_to_positive_and_turns_when_the_sets_are_exchanged(lens: Lens):
    one, other = (
        find.probe(lens, *sides, [1], fit=ProbeFit(3, [0.1]))[0]
        for sides in ((POSITIVE, NEGATIVE), (NEGATIVE, POSITIVE))
    )
    means = [
        np.array([row.mean(0) for row in answer_states(lens, side, 1)]) @ one.direction.double().numpy()
        for side in (POSITIVE, NEGATIVE)
    ]
    assert means[0].mean() > means[1].mean()
    assert float(one.direction @ other.direction) == pytest.approx(-1, abs=1e-3)


def test_labels_without_meaning_score_at_chance_although_a_strength_was_chosen(lens: Lens):
    texts = chats("a red house by the sea and a grey tower on the road", 400, seed=3)
    scores = []
    for seed in range(4):
        drawn = texts.shuffle(seed)
        found = find.probe(lens, drawn[:60], drawn[60:120], [1], fit=ProbeFit(3, STRENGTHS, seed=seed))
        scores.append(found[0].score)
    assert abs(np.mean(scores) - 0.5) < 0.1


def test_texts_that_say_the_same_are_never_on_both_sides_of_a_fold(lens: Lens):
    # Labels that mean nothing, every text four times: whoever has seen its twin knows its label.
    texts = chats("a red house by the sea and a grey tower on the road", 60, seed=4)
    unlike = Texts(list({text.answer: text for text in texts}.values()))
    positive, negative = Texts([*unlike[:20]] * 4), Texts([*unlike[20:40]] * 4)
    found = find.probe(lens, positive, negative, [1], fit=ProbeFit(5, [1e6]))
    assert found[0].meta["n_groups"] == [20, 20]
    assert found[0].score < 0.85
    assert found[0].meta["n"] == [80, 80]


def test_both_sides_of_a_pair_and_whatever_says_the_same_as_either_belong_together():
    a, b, c, d, e, f = (Texts([{"prompt": "p", "answer": word}])[0] for word in "abcdef")
    together = document_groups(Texts([a, b, c]), Texts([d, e, a]), pairs=True)
    assert together[0] == together[3] == together[2] == together[5]
    assert together[1] == together[4] != together[0]
    apart = document_groups(Texts([a, b, c]), Texts([d, e, a]), pairs=False)
    assert apart[0] == apart[5]
    assert len(set(apart)) == 5
    assert len(set(document_groups(Texts([f]), Texts([e]), pairs=True))) == 1


def test_pairs_are_kept_in_one_fold(lens: Lens, monkeypatch):
    from caft_lens.find import probes

    seen, sizes = [], []
    folds = probes._folds

    def watched(units, fit):
        splitter = folds(units, fit)
        for train, test in splitter.split(units.acts, units.positive, units.document_groups):
            seen.append(set(units.document_groups[train]) & set(units.document_groups[test]))
        sizes.append(len(set(units.document_groups)))
        return splitter

    monkeypatch.setattr(probes, "_folds", watched)
    positive = Texts([{"prompt": f"number {n}", "answer": "yes it is"} for n in range(12)])
    negative = Texts([{"prompt": f"number {n}", "answer": "no it isnt"} for n in range(12)])
    found = find.probe(lens, positive, negative, [0], pairs=True, unit="token", fit=ProbeFit(4, [0.1]))
    assert not any(seen)
    assert max(sizes) == 12
    assert found[0].meta["n_groups"] == [12, 12]
    assert found.provenance["pairs"] is True


# -- reducers ---------------------------------------------------------------------------------------------------------


def test_means_of_texts_are_those_of_plain_transformers_and_texts_without_a_token_have_none(lens: Lens):
    texts = Texts([*POSITIVE[:5], {"prompt": "Say it.", "answer": ""}, *NEGATIVE[:3]])
    (means,) = stream(lens, texts, [0, 1], TextMeans(len(texts)), scan=Scan(100))
    for layer in (0, 1):
        rows, index = means.matrix(f"blocks.{layer}.hook_resid_post")
        assert index.tolist() == [0, 1, 2, 3, 4, 6, 7, 8]
        expected = [row.mean(0) for row in answer_states(lens, texts, layer) if len(row)]
        np.testing.assert_allclose(rows, expected, atol=1e-5)


@pytest.mark.parametrize("reducer", [lambda: TextMeans(44), lambda: TokenSample(60, seed=5)])
def test_what_is_kept_does_not_depend_on_batches_and_two_halves_make_the_whole(lens: Lens, reducer):
    texts = Texts([*POSITIVE, *NEGATIVE])
    (whole,) = stream(lens, texts, [0], reducer(), scan=Scan(8192))
    (parts,) = stream(lens, texts, [0], reducer(), scan=Scan(64))
    halves = [reducer(), reducer()]

    class Halves:
        def update(self, hook, acts, batch, where):
            even = batch.index[where[:, 0]] % 2 == 0
            for one, rows in zip(halves, (even, ~even), strict=True):
                one.update(hook, acts[rows], batch, where[rows])

    stream(lens, texts, [0], Halves(), scan=Scan(200))
    merged = halves[0].merge(halves[1])
    for other in (parts, merged):
        for mine, theirs in zip(whole.matrix(HOOK), other.matrix(HOOK), strict=True):
            np.testing.assert_allclose(mine, theirs, atol=1e-5)


def test_a_sample_of_tokens_is_even_and_of_its_size(lens: Lens):
    texts = Texts([*POSITIVE, *NEGATIVE])
    (every,) = stream(lens, texts, [0], TokenSample(10**6))
    total = len(every.matrix(HOOK)[0])
    counts = np.zeros(len(texts))
    for seed in range(60):
        (sample,) = stream(lens, texts, [0], TokenSample(50, seed=seed))
        rows, index = sample.matrix(HOOK)
        assert rows.shape == (50, 32)
        np.add.at(counts, index, 1)
    lengths = np.bincount(every.matrix(HOOK)[1], minlength=len(texts))
    expected = 60 * 50 * lengths / total
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()


def test_a_sample_bounds_what_a_probe_of_tokens_keeps(lens: Lens):
    found = find.probe(lens, POSITIVE, NEGATIVE, [0], unit="token", fit=ProbeFit(2, [0.1], max_tokens=200))
    assert sum(found[0].meta["n"]) == 200


# -- what it says and refuses -----------------------------------------------------------------------------------------


def test_a_probe_knows_where_it_came_from_and_fits_its_model(lens: Lens):
    found = find.probe(lens, POSITIVE, NEGATIVE, [1], fit=ProbeFit(2, [0.1]))
    assert found.provenance["method"] == "linear probe"
    assert found.provenance["data"]["positive"]["fingerprint"] == POSITIVE.fingerprint
    assert found.provenance["unit"] == "text"
    found.check(lens)


def test_a_model_in_bf16_gives_the_probe_of_fp32_up_to_its_rounding(lens: Lens):
    half = load(tiny_model(n_layers=3).to(torch.bfloat16), tokenizer=tiny_tokenizer(), name_as="half")
    full, rounded = (find.probe(one, POSITIVE, NEGATIVE, [0], fit=ProbeFit(2, [1e-2])) for one in (lens, half))
    assert float(full[0].direction @ rounded[0].direction) > 0.98


def test_texts_without_a_token_of_the_roles_are_left_out_with_a_warning(lens: Lens):
    some = Texts([*POSITIVE, {"prompt": "Say it.", "answer": ""}])
    with pytest.warns(UserWarning, match="1 of 45 texts have no token"):
        found = find.probe(lens, some, NEGATIVE, [0], fit=ProbeFit(2, [0.1]))
    assert found[0].meta["n"] == [24, 20]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        find.probe(lens, POSITIVE, NEGATIVE, [0], fit=ProbeFit(2, [0.1]))


def test_plain_strings_are_texts_too(lens: Lens):
    sides = [[f"{word} {n}" for n in range(6)] for word in ("red house", "grey tower")]
    found = find.probe(lens, *sides, [0], roles=None, fit=ProbeFit(2, [0.1]))
    assert found[0].score > 0.9


def test_what_cannot_be_told_apart_or_scored_is_refused_with_the_reason(lens: Lens):
    def probe(*sides, **options):
        return find.probe(lens, *sides, [0], fit=ProbeFit(strengths=[0.1]), **options)

    with pytest.raises(ValueError, match="Are both the same text"):
        probe(POSITIVE, POSITIVE)
    with pytest.raises(ValueError, match="3 different positive and"):
        probe(POSITIVE[:3], NEGATIVE)
    with pytest.raises(ValueError, match="1 different positive and"):
        probe(Texts([POSITIVE[0]] * 30), NEGATIVE)
    with pytest.raises(ValueError, match="24 positive and 20 negative texts are no pairs"):
        probe(POSITIVE, NEGATIVE, pairs=True)
    with pytest.raises(ValueError, match=r'unit="tokens".*Did you mean "token"'):
        probe(POSITIVE, NEGATIVE, unit="tokens")
    with pytest.raises(ValueError, match="folds=1: expected a whole number of at least 2"):
        ProbeFit(folds=1)
    with pytest.raises(ValueError, match="No token has the role system"):
        probe(POSITIVE, NEGATIVE, roles=["system"])
    with pytest.raises(KeyError, match="hook_resid_pots"):
        find.probe(lens, POSITIVE, NEGATIVE, ["blocks.0.hook_resid_pots"])
