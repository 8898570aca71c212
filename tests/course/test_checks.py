"""Each check of the course lets right answers through, whatever way they take, and says of wrong ones what is wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from tiny_models import tiny_lens

import caft_lens as cl
from caft_lens import course
from caft_lens._support.errors import NotSolved
from caft_lens.choose.session import Decisions, blinded
from caft_lens.course.hook_points import PLACES
from caft_lens.inspect.context_windows import ConceptContexts, Context
from caft_lens.inspect.contexts import Contexts
from caft_lens.text.batching import batches


def says(words: str, check, *answer) -> None:
    """Assert that a check refuses an answer with these words."""
    with pytest.raises(NotSolved, match=words):
        check(*answer)


def unwritten(*_): ...


# -- 1 ----------------------------------------------------------------------------------------------------------------


def by_pinv(acts, directions):
    return acts - acts @ torch.linalg.pinv(directions) @ directions


def by_gram_schmidt(acts, directions):
    basis = []
    for direction in directions:
        for one in basis:
            direction = direction - (direction @ one) * one
        basis.append(direction / direction.norm())
    for one in basis:
        acts = acts - (acts @ one)[..., None] * one
    return acts


@pytest.mark.parametrize("right", [by_pinv, by_gram_schmidt])
def test_a_projection_passes_whichever_way_it_is_computed(right, capsys):
    course.check_projection(right)
    assert capsys.readouterr().out.startswith("✓")


def in_place(acts, directions):
    acts -= by_pinv(acts, directions)
    return acts


WRONG_PROJECTIONS = {
    "not written yet": unwritten,
    "changes nothing": lambda acts, directions: acts,
    "what lies along": lambda acts, directions: acts @ torch.linalg.pinv(directions) @ directions,
    "Take off as much of it": lambda acts, directions: acts - directions.sum(0),
    "Divide by its length": lambda acts, directions: acts - acts @ directions.T @ directions,
    "not at right angles": lambda acts, directions: (
        acts - (acts @ (u := torch.nn.functional.normalize(directions, dim=-1)).T) @ u
    ),
    "is left; before it was": lambda acts, directions: acts - 0.5 * (acts @ directions.T) @ directions,
    "at right angles to it has changed": lambda acts, directions: 0.9 * by_pinv(acts, directions),
    "changes the activations that it is given": in_place,
    "of shape": lambda acts, directions: by_pinv(acts, directions)[0],
    "stops with RuntimeError": lambda acts, directions: acts @ directions,
    "more than these two": lambda acts, directions: by_pinv(
        acts, directions if len(directions) == 1 else torch.cat([directions, torch.eye(16)[:1]])
    ),
    "gives NaN": lambda acts, directions: acts / 0 * 0,
}


@pytest.mark.parametrize("words", WRONG_PROJECTIONS)
def test_a_wrong_projection_is_told_what_is_wrong(words):
    says(words, course.check_projection, WRONG_PROJECTIONS[words])


# -- 2 ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lens():
    return tiny_lens(n_layers=4)


@pytest.fixture(scope="module")
def chats():
    return cl.Texts(
        [{"prompt": "abc"[: 1 + at % 3], "answer": "xyz0123"[: 1 + at % 7]} for at in range(12)], name="chats"
    )


def mean(lens, texts, hook, roles, *, padding=False):
    (batch,) = batches(lens.tokenizer, texts)
    _, cache = lens.run_with_cache(batch)
    acts = cache[hook].cpu()
    return acts.mean((0, 1)) if padding else acts[batch.mask(roles)].mean(0)


def mean_of_means(lens, texts, hook, roles):
    return torch.stack([mean(lens, texts[at : at + 1], hook, roles) for at in range(len(texts))]).mean(0)


def test_hook_points_pass_by_any_name_of_the_same_activation(lens, chats):
    course.check_hook_points(PLACES, mean, lens, chats)
    also = {**PLACES, "the residual stream after block 2": "blocks.3.hook_resid_pre"}
    course.check_hook_points(also, mean, lens, chats)
    course.check_hook_points({**PLACES, "the residual stream after block 2": 2}, mean, lens, chats)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("", "No hook point is named yet for the residual stream after"),
        ("blocks.2.hook_resid_pre", "The block may be right"),
        ("blocks.1.hook_resid_post", "counted from 0"),
        ("blocks.2.hook_resid_pots", "Did you mean"),
        ("blocks.2.hook_mlp_out", "holds something else"),
    ],
)
def test_a_wrong_hook_point_is_told_what_is_wrong(given, words, lens, chats):
    places = {**PLACES, "the residual stream after block 2": given}
    says(words, course.check_hook_points, places, mean, lens, chats)


def attaches(lens, texts, hook, roles):
    lens.add_hook(hook, lambda acts, hook: None)
    return mean(lens, texts, hook, roles)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (unwritten, "not written yet"),
        (lambda lens, texts, hook, roles: mean(lens, texts, hook, None), "tokens of all roles"),
        (lambda lens, texts, hook, roles: mean(lens, texts, hook, roles, padding=True), "padding counts"),
        (mean_of_means, "each text's mean"),
        (lambda lens, texts, hook, roles: mean(lens, texts, "blocks.1.hook_resid_post", roles), "another layer"),
        (lambda lens, texts, hook, roles: mean(lens, texts[:1], hook, roles), "its cosine with it is"),
        (attaches, "still attached"),
    ],
)
def test_a_wrong_mean_is_told_what_is_wrong(wrong, words, lens, chats):
    try:
        says(words, course.check_hook_points, PLACES, wrong, lens, chats)
    finally:
        lens.reset_hooks()


# -- 3 ----------------------------------------------------------------------------------------------------------------


def by_sklearn(differences, k):
    found = PCA(k, svd_solver="full").fit(differences.numpy())
    return torch.from_numpy(found.components_), torch.from_numpy(found.explained_variance_ratio_)


def by_covariance(differences, k):
    sizes, columns = torch.linalg.eigh(torch.cov(differences.T))
    return columns.T.flip(0)[:k], (sizes.flip(0) / sizes.sum())[:k]


def svd(rows):
    return torch.linalg.svd(rows, full_matrices=False)


def centred(rows):
    return rows - rows.mean(0)


@pytest.mark.parametrize("right", [by_sklearn, by_covariance])
def test_components_pass_whichever_way_they_are_computed(right):
    course.check_components(right)


WRONG_COMPONENTS = {
    "not written yet": unwritten,
    "two things": lambda d, k: svd(centred(d)).Vh[:k],
    "components about zero": lambda d, k: (svd(d).Vh[:k], by_sklearn(d, k)[1]),
    "one a token": lambda d, k: (svd(centred(d)).U[:, :k], by_sklearn(d, k)[1]),
    "stand in columns": lambda d, k: (svd(centred(d)).Vh[:k].T, by_sklearn(d, k)[1]),
    "smallest first": lambda d, k: (torch.linalg.eigh(torch.cov(d.T)).eigenvectors.T[:k], by_sklearn(d, k)[1]),
    "wrong order": lambda d, k: (by_sklearn(d, k)[0].flip(0), by_sklearn(d, k)[1]),
    "have lengths": lambda d, k: (2 * by_sklearn(d, k)[0], by_sklearn(d, k)[1]),
    "shares of the singular values": lambda d, k: (
        by_sklearn(d, k)[0],
        (svd(centred(d)).S / svd(centred(d)).S.sum())[:k],
    ),
    "the first k explain together": lambda d, k: (by_sklearn(d, k)[0], by_sklearn(d, k)[1] / by_sklearn(d, k)[1].sum()),
    "the variances themselves": lambda d, k: (by_sklearn(d, k)[0], svd(centred(d)).S[:k] ** 2 / (len(d) - 1)),
    "a cosine of": lambda d, k: (torch.eye(d.shape[1])[:k], by_sklearn(d, k)[1]),
    "they should be": lambda d, k: (by_sklearn(d, k)[0], torch.zeros(k)),
}


@pytest.mark.parametrize("words", WRONG_COMPONENTS)
def test_wrong_components_are_told_what_is_wrong(words):
    says(words, course.check_components, WRONG_COMPONENTS[words])


# -- 4 ----------------------------------------------------------------------------------------------------------------


CRUEL_AT = {0: (10, 0), 1: (0, 10), 2: (6, 2), 3: (1, 2), 4: (5, 5), 5: (9, 8), 6: (0, 0), 7: (3, 3)}
RIGHT = {"L1.pc0": "ablate", "L1.pc1": "ablate"}
"""What clearly is cruel at one end; of the third one may say either."""


def window(cruel: bool) -> Context:
    return Context(("a",), (1.0,), 0, 1.0, 0, 0, (False,), (False, False), {"stance": "cruel" if cruel else "kind"})


@pytest.fixture(scope="module")
def eight() -> tuple[cl.ConceptSet, Contexts]:
    concepts = cl.ConceptSet(
        [cl.Concept(f"L1.pc{at}", "blocks.1.hook_resid_post", torch.eye(8)[at]) for at in CRUEL_AT]
    )
    ends = ([[window(place < n) for place in range(10)] for n in counts] for counts in CRUEL_AT.values())
    return concepts, Contexts(ConceptContexts(one, *end) for one, end in zip(concepts, ends, strict=True))


def read(concepts, ablate, *, blind=False, reason="what I read at {}", seconds=None) -> Decisions:
    said = Decisions(concepts, by="ann", blind=blind)
    for name in concepts.names:
        said.decide(name, "ablate" if name in ablate else "leave", reason.format(name), seconds)
    return said


def test_a_reading_passes_that_fits_the_texts_where_they_are_clear(eight, capsys):
    concepts, contexts = eight
    course.check_reading(read(concepts, RIGHT, seconds=12.0), contexts)
    said = capsys.readouterr().out
    assert "kappa with the texts' own labels 1.00" in said
    assert "12 seconds" in said
    course.check_reading(read(concepts, [*RIGHT, "L1.pc2"]), contexts)


def test_a_wrong_reading_is_told_which_to_read_again_by_the_number_that_its_reader_saw(eight):
    concepts, contexts = eight
    check = course.check_reading
    says("All 8 are to ablate", check, read(concepts, concepts.names), contexts)
    says("All 8 are to leave", check, read(concepts, []), contexts)
    says("and 1 reason:", check, read(concepts, RIGHT, reason="cruel"), contexts)
    other_way = [name for name in concepts.names if name not in RIGHT]
    says("wrong way round", check, read(concepts, other_way), contexts)
    again = "L1.pc1: 0% of the texts at its top are cruel, 100% of those at its bottom"
    says(again, check, read(concepts, ["L1.pc0"]), contexts)
    half = Decisions(concepts, by="ann")
    half.decide("L1.pc0", "ablate", "cruel")
    half.decide("L1.pc1", "unsure")
    says("7 of 8 concepts are not decided yet", check, half, contexts)
    numbers = {own: number for number, own in blinded(concepts, "ann").names.items()}
    with pytest.raises(NotSolved) as caught:
        check(read(concepts, [*RIGHT, "L1.pc7"], blind=True), contexts)
    assert f"{numbers['L1.pc7']}: 30%" in str(caught.value)
    assert "L1" not in str(caught.value)


# -- 5 ----------------------------------------------------------------------------------------------------------------


def test_attribution_passes_as_the_library_computes_it_and_as_a_loop_does():
    course.check_attribution(lambda acts, grads, sae: (sae.encode(acts) * (grads @ sae.W_dec.T)).sum(0))

    def by_hand(acts, grads, sae):
        return torch.tensor(
            [
                sum(
                    sae.encode(acts[at])[latent].item() * float(grads[at] @ sae.W_dec[latent])
                    for at in range(len(acts))
                )
                for latent in range(len(sae.W_dec))
            ]
        )

    course.check_attribution(by_hand)


WRONG_ATTRIBUTIONS = {
    "not written yet": unwritten,
    "activations alone": lambda acts, grads, sae: sae.encode(acts).sum(0),
    "slope alone": lambda acts, grads, sae: (grads @ sae.W_dec.T).sum(0),
    "signs are lost": lambda acts, grads, sae: (sae.encode(acts) * (grads @ sae.W_dec.T)).abs().sum(0),
    "turned round": lambda acts, grads, sae: -(sae.encode(acts) * (grads @ sae.W_dec.T)).sum(0),
    "mean over tokens": lambda acts, grads, sae: (sae.encode(acts) * (grads @ sae.W_dec.T)).mean(0),
    "along the encoder": lambda acts, grads, sae: (sae.encode(acts) * (grads @ sae.W_enc)).sum(0),
    "multiply at each token": lambda acts, grads, sae: sae.encode(acts).sum(0) * (grads @ sae.W_dec.T).mean(0),
    "threshold": lambda acts, grads, sae: ((acts @ sae.W_enc) * (grads @ sae.W_dec.T)).sum(0),
    "summed over tokens, here": lambda acts, grads, sae: sae.encode(acts) * (grads @ sae.W_dec.T),
    "without it the outcome would lose": lambda acts, grads, sae: torch.ones(len(sae.W_dec)),
}


@pytest.mark.parametrize("words", WRONG_ATTRIBUTIONS)
def test_a_wrong_attribution_is_told_what_is_wrong(words):
    says(words, course.check_attribution, WRONG_ATTRIBUTIONS[words])


# -- 6 ----------------------------------------------------------------------------------------------------------------


def step(lens, concepts, batch, optimizer, *, zero=True, ablated=True, move=True, give=torch.Tensor.item, ends=True):
    """One step, with something left out."""
    if zero:
        optimizer.zero_grad()
    block = cl.ablate(lens, concepts)
    if ablated:
        block.__enter__()
    loss = lens(batch, return_type="loss")
    loss.backward()
    if ablated and ends:
        block.__exit__(None, None, None)
    else:
        KEPT.append(block)
    if move:
        optimizer.step()
    return give(loss)


KEPT: list = []


def scaled(lens, concepts, batch, optimizer):
    optimizer.zero_grad()
    with cl.ablate(lens, concepts):
        loss = lens(batch, return_type="loss")
    loss.square().backward()
    optimizer.step()
    return loss.item()


def backward_outside(lens, concepts, batch, optimizer):
    optimizer.zero_grad()
    with cl.ablate(lens, concepts):
        loss = lens(batch, return_type="loss")
    loss.backward()
    optimizer.step()
    return loss.item()


@pytest.fixture(scope="module")
def student(lens):
    """A copy, which knows what it comes from, as its weights move."""
    return lens.copy()


@pytest.fixture(scope="module")
def two(lens) -> cl.ConceptSet:
    rows = torch.randn(2, lens.d_model, generator=torch.Generator().manual_seed(1))
    return cl.ConceptSet(
        [cl.Concept(f"L1.d{at}", "blocks.1.hook_resid_post", row) for at, row in enumerate(rows)]
    ).for_model(lens)


def test_a_training_step_passes_and_the_weights_are_as_before(student, two, chats):
    before = student.fingerprint
    course.check_training_step(step, student, two, chats)
    course.check_training_step(backward_outside, student, two, chats)
    assert student.fingerprint == before
    assert student.attached == {}


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ("not written yet", unwritten),
        ("have not moved", lambda *given: step(*given, move=False)),
        ("as in plain fine-tuning", lambda *given: step(*given, ablated=False)),
        ("gradient of the step before", lambda *given: step(*given, zero=False)),
        ("still attached", lambda *given: step(*given, ends=False)),
        ("otherwise than in CAFT", scaled),
        ("and the loss is", lambda *given: step(*given, give=lambda loss: 0.5)),
        ("as a number", lambda *given: step(*given, give=lambda loss: [1, 2])),
    ],
)
def test_a_wrong_training_step_is_told_what_is_wrong_and_leaves_nothing_behind(words, wrong, student, two, chats):
    before = student.fingerprint
    says(words, course.check_training_step, wrong, student, two, chats)
    for block in KEPT:
        block.__exit__(None, None, None)
    KEPT.clear()
    assert student.attached == {}
    assert student.fingerprint == before


# -- 7 ----------------------------------------------------------------------------------------------------------------


def compare(a, b, *, seeds=True, prompts=True, paired=True, nested=False, sign=1, quantiles=(0.025, 0.975)):
    """A hierarchical bootstrap, with something left out."""
    rng, means = np.random.default_rng(7), []

    def drawn(values):
        rows = rng.integers(len(values), size=len(values)) if seeds else np.arange(len(values))
        some = values[rows]
        if nested:
            return np.mean([row[rng.integers(len(row), size=len(row))].mean() for row in some])
        columns = rng.integers(values.shape[1], size=values.shape[1]) if prompts else np.arange(values.shape[1])
        return some[:, columns].mean()

    for _ in range(1500):
        means.append(sign * (drawn(a - b) if paired else drawn(a) - drawn(b)))
    return sign * (a - b).mean(), *np.quantile(means, quantiles)


def test_an_interval_passes_that_another_bootstrap_gives():
    course.check_interval(compare)


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ("not written yet", unwritten),
        ("drawn apart", lambda a, b: compare(a, b, paired=False)),
        ("these seeds alone", lambda a, b: compare(a, b, seeds=False)),
        ("these prompts alone", lambda a, b: compare(a, b, prompts=False)),
        ("anew in every seed", lambda a, b: compare(a, b, nested=True)),
        ("second less the first", lambda a, b: compare(a, b, sign=-1)),
        ("one standard error", lambda a, b: compare(a, b, quantiles=(0.1587, 0.8413))),
        ("does not hold its mean", lambda a, b: ((a - b).mean(), 0.9, 1.0)),
        ("three numbers", lambda a, b: (a - b).mean()),
        ("the mean of the first less the second is", lambda a, b: (0.5 * (a - b).mean(), -1.0, 1.0)),
        ("Draw seeds with replacement", lambda a, b: ((a - b).mean(), -1.0, 1.0)),
    ],
)
def test_a_wrong_interval_is_told_what_is_wrong(words, wrong):
    says(words, course.check_interval, wrong)


# -- 8 ----------------------------------------------------------------------------------------------------------------


def probe(acts, labels, others, other_labels, *, test=True, score=roc_auc_score, sign=1, learn=True):
    """A logistic regression, with something left out."""
    learned = LogisticRegression(max_iter=1000).fit(acts, labels)
    shown, has = (others, other_labels) if test else (acts, labels)
    says = learned.decision_function(shown) if learn else shown[:, 0]
    return score(has, sign * says)


def test_a_probe_passes_that_is_a_regression_or_a_difference_of_means():
    course.check_probe(probe)
    course.check_probe(
        lambda acts, labels, others, has: roc_auc_score(
            has, others @ (acts[labels].mean(0) - acts[~labels].mean(0))
        )
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ("not written yet", unwritten),
        ("the texts that it learned from", lambda *given: probe(*given, test=False)),
        ("always says no", lambda *given: probe(*given, score=lambda has, said: np.mean(has == (said > 0)))),
        ("yes and no", lambda *given: probe(*given, score=lambda has, said: roc_auc_score(has, said > 0))),
        ("turned round", lambda *given: probe(*given, sign=-1)),
        ("one number", lambda *given: (0.5, 0.5, "a")),
        ("between 0 and 1", lambda *given: 7.0),
        ("chance is 0.5", lambda *given: 0.98 if len(given[0]) == 400 and given[1].mean() > 0.2 else 0.8),
    ],
)
def test_a_wrong_probe_is_told_what_is_wrong(words, wrong):
    says(words, course.check_probe, wrong)


# -- all --------------------------------------------------------------------------------------------------------------


def test_a_notebook_shows_what_is_wrong_and_no_traceback(capsys):
    try:
        InteractiveShell.instance().run_cell("from caft_lens import course\ncourse.check_projection(lambda *_: None)")
    finally:
        InteractiveShell.clear_instance()  # what is shown afterwards is shown to no notebook
    said = capsys.readouterr()
    assert "✗ <lambda>() is not written yet" in said.out + said.err
    assert "Traceback" not in said.out + said.err
    assert "asking.py" not in said.out + said.err


def test_a_check_is_given_the_function_and_not_what_it_gives():
    says("without brackets", course.check_projection, torch.zeros(2))
