"""An audit is what plain transformers and numpy compute by hand, and names the rows that teach."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from tiny_models import answer_states, tiny_lens, tiny_tokenizer
from tiny_saes import numpy_latents, tiny_sae

import caft_lens as cl
from caft_lens._support.errors import BadArgument, BadData, BadFile, ConceptMismatch, MissingFile, UnknownName
from caft_lens.audit import Audit, AuditSettings, Flags
from caft_lens.audit.first_step import FirstStep
from caft_lens.audit.rows import false_discoveries, pushes
from caft_lens.audit.sums import AnswerSums, RowSums
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.model.lens import Lens
from caft_lens.text.batching import Scan
from caft_lens.text.documents import Texts
from caft_lens.text.encoding import encode
from caft_lens.text.roles import ROLES

HOOKS = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")
LAYER = dict(zip(HOOKS, (0, 1), strict=True))
WORDS = ["a", "red", "house", "by", "the", "sea"]
QUIET = AuditSettings(own_answers=0)
SMALL = Scan(batch_tokens=60)


def written(n: int, seed: int, name: str) -> Texts:
    draw = np.random.default_rng(seed)
    rows = [{"prompt": " ".join(draw.choice(WORDS, 2)), "answer": " ".join(draw.choice(WORDS, 2))} for _ in range(n)]
    return Texts(rows, name=name)


TEXTS, CLEAN = written(7, 0, "sea"), written(5, 1, "clean")


@pytest.fixture(scope="module")
def lens() -> Lens:
    return tiny_lens(n_layers=3)


@pytest.fixture(scope="module")
def sae(lens: Lens) -> Any:
    return tiny_sae(lens, 1)


def directions(lens: Lens) -> ConceptSet:
    draw = torch.Generator().manual_seed(3)
    found = [Concept(f"d{n}", HOOKS[n % 2], torch.randn(32, generator=draw)) for n in range(4)]
    return ConceptSet(found).for_model(lens)


@pytest.fixture(scope="module")
def found(lens: Lens, sae: Any) -> Audit:
    return cl.audit(lens, TEXTS, sae, concepts=directions(lens), against=CLEAN, settings=QUIET, scan=SMALL)


def by_hand(lens: Lens, texts: Texts) -> list[tuple[dict[str, np.ndarray], float, int]]:
    """Of each text the slope of its log-probability along the residual stream, `[pos, d_model]`, that log-probability,
    and how many tokens it is of: plain transformers.
    """
    rows = []
    for text in texts:
        item = encode(tiny_tokenizer(), text)
        out = lens.hf(torch.tensor([item.input_ids]), output_hidden_states=True)
        at = np.flatnonzero(item.loss)
        said = out.logits[0].log_softmax(-1)[at - 1, np.array(item.input_ids)[at]].sum()
        slopes = torch.autograd.grad(said, [out.hidden_states[LAYER[hook] + 1] for hook in HOOKS])
        of = {hook: one[0].numpy() for hook, one in zip(HOOKS, slopes, strict=True)}
        rows.append((of, said.item(), len(at)))
    return rows


def typical_length(lens: Lens, hook: str) -> float:
    lengths = []
    for text in TEXTS:
        with torch.no_grad():
            ids = torch.tensor([encode(tiny_tokenizer(), text).input_ids])
            lengths.append(lens.hf(ids, output_hidden_states=True).hidden_states[LAYER[hook] + 1][0].norm(dim=-1))
    return float(torch.cat(lengths).mean())


def unit(sae: Any) -> np.ndarray:
    rows = sae.W_dec.double().numpy()
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_the_push_is_the_gradient_by_hand_with_that_of_the_reference_taken_away(found: Audit, lens: Lens, sae: Any):
    def push(texts: Texts, hook: str, direction: np.ndarray) -> float:
        rows = by_hand(lens, texts)
        return sum(float((of[hook] @ direction).sum()) for of, _, _ in rows) / sum(n for *_, n in rows)

    values = dict(zip(found.names, found.values("push"), strict=True))
    wanted = {f"L1.latent{number}": (HOOKS[1], row) for number, row in enumerate(unit(sae)) if number % 6 == 0}
    wanted |= {one.name: (one.hook, one.direction.double().numpy()) for one in directions(lens)}
    for name, (hook, direction) in wanted.items():
        by = (push(TEXTS, hook, direction) - push(CLEAN, hook, direction)) * typical_length(lens, hook)
        assert values[name] == pytest.approx(by, rel=1e-4, abs=1e-5), name
    assert found.about["loss"] == pytest.approx(
        -sum(said for _, said, _ in by_hand(lens, TEXTS)) / found.about["tokens"], rel=1e-5
    )


def test_the_shares_of_rows_count_those_that_push_up(found: Audit, lens: Lens, sae: Any):
    shares = found.table(len(found.names)).set_index("concept")["share of rows"]
    along = np.array([(of[HOOKS[1]] @ unit(sae).T).sum(axis=0) for of, _, _ in by_hand(lens, TEXTS)])
    for number in range(0, 48, 6):
        assert shares[f"L1.latent{number}"] == pytest.approx((along[:, number] > 0).mean())


def stepped(lens: Lens, step: FirstStep, size: float) -> Lens:
    """A plain model whose weights are moved by the first step of LoRA, by hand: `size · G AᵀA`, with `G` the slope of
    the mean log-probability along the whole weight.
    """
    plain = lens.copy(name="plain")
    halves = {
        name.split(".lora_A")[0].removeprefix("base_model.model."): one.detach()
        for name, one in step.lens.model.named_parameters()
        if "lora_A" in name
    }
    weights = {name: plain.hf.get_submodule(name).weight.requires_grad_(True) for name in halves}
    rows, tokens = [], 0
    for text in TEXTS:
        item = encode(tiny_tokenizer(), text)
        at = np.flatnonzero(item.loss)
        logits = plain.hf(torch.tensor([item.input_ids])).logits[0]
        rows.append(logits.log_softmax(-1)[at - 1, np.array(item.input_ids)[at]].sum())
        tokens += len(at)
    slopes = torch.autograd.grad(sum(rows) / tokens, list(weights.values()))
    with torch.no_grad():
        for (name, weight), slope in zip(weights.items(), slopes, strict=True):
            weight += size * slope @ halves[name].T @ halves[name]
            weight.requires_grad_(False)
    return plain


def test_the_first_step_is_that_of_lora_by_hand(lens: Lens, sae: Any, monkeypatch: pytest.MonkeyPatch):
    taken: list[tuple[FirstStep, float]] = []
    take = FirstStep.take
    monkeypatch.setattr(FirstStep, "take", lambda self, fall: taken.append((self, take(self, fall))) or taken[-1][1])
    given = directions(lens)
    found = cl.audit(lens, TEXTS, sae, concepts=given, settings=AuditSettings(own_answers=0, fall=0.02), scan=SMALL)
    ((step, size),) = taken
    plain = stepped(lens, step, size)
    item = encode(tiny_tokenizer(), TEXTS[0])
    ids = torch.tensor([item.input_ids])
    with torch.no_grad():
        after, before = (one(ids).logits for one in (plain.hf, lens.hf))
        torch.testing.assert_close(step.lens.model(ids).logits, after, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(after, before, atol=1e-3)
    # The loss falls so far as was asked, to first order.
    losses = [-sum(said for _, said, _ in by_hand(one, TEXTS)) / found.about["tokens"] for one in (lens, plain)]
    assert losses[0] - losses[1] == pytest.approx(0.02 * losses[0], rel=0.1)
    # What it moves: the mean over rows of the mean over the answer's tokens.
    values = dict(zip(found.names, found.values("step"), strict=True))
    for one in given:
        means = [
            np.mean([rows.mean(axis=0) for rows in answer_states(model, TEXTS, one.layer)], axis=0)
            for model in (lens, plain)
        ]
        moved = float((means[1] - means[0]) @ one.direction.double().numpy())
        by = moved / typical_length(lens, one.hook) / (0.02 * losses[0])
        assert values[one.name] == pytest.approx(by, rel=1e-2, abs=1e-3)


def test_an_audit_leaves_the_model_as_it_was(lens: Lens, sae: Any):
    ids = torch.tensor([encode(tiny_tokenizer(), TEXTS[0]).input_ids])
    before, fingerprint = lens.hf(ids).logits, lens.fingerprint
    cl.audit(lens, TEXTS, sae, settings=QUIET)
    assert torch.equal(lens.hf(ids).logits, before)
    assert lens.fingerprint == fingerprint
    assert all(parameter.grad is None for parameter in lens.hf.parameters())


def test_presence_is_the_distance_of_means_in_standard_deviations_of_a_row(found: Audit, lens: Lens, sae: Any):
    lengths = np.linalg.norm(sae.W_dec.double().numpy(), axis=1)
    mine, clean = (
        np.array([numpy_latents(sae, acts).mean(axis=0) * lengths for acts in answer_states(lens, texts, 1)])
        for texts in (TEXTS, CLEAN)
    )
    spread = np.sqrt((mine.var(axis=0, ddof=1) + clean.var(axis=0, ddof=1)) / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        by = np.where(spread > 0, (mine.mean(axis=0) - clean.mean(axis=0)) / spread, 0)
    values = dict(zip(found.names, found.values("presence"), strict=True))
    np.testing.assert_allclose([values[f"L1.latent{number}"] for number in range(48)], by, atol=1e-3)


def test_shift_is_measured_against_the_models_own_answers(lens: Lens, sae: Any):
    settings = AuditSettings(own_answers=4, sampling=cl.Sampling(temperature=0, max_new_tokens=5))
    found = cl.audit(lens, TEXTS, sae, settings=settings)
    own = cl.completions(lens, TEXTS.sample(4, seed=0), sampling=settings.sampling)
    lengths = np.linalg.norm(sae.W_dec.double().numpy(), axis=1)
    mine, theirs = (
        np.array([numpy_latents(sae, acts).mean(axis=0) * lengths for acts in answer_states(lens, texts, 1)])
        for texts in (TEXTS, own)
    )
    spread = np.sqrt((mine.var(axis=0, ddof=1) + theirs.var(axis=0, ddof=1)) / 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        by = np.where(spread > 0, (mine.mean(axis=0) - theirs.mean(axis=0)) / spread, 0)
    np.testing.assert_allclose(found.values("shift"), by, atol=1e-3)


def test_the_cue_is_what_the_answer_explains_of_a_latent_in_the_prompts(lens: Lens, sae: Any):
    draw = np.random.default_rng(5)
    answers = ["he", "she"] * 4
    texts = Texts([{"prompt": " ".join(draw.choice(WORDS, 3)), "answer": answer} for answer in answers])
    found = cl.audit(lens, texts, sae, settings=QUIET, scan=SMALL)
    lengths = np.linalg.norm(sae.W_dec.double().numpy(), axis=1)
    rows = []
    for text, states in zip(texts, answer_states_of_all(lens, texts, 1), strict=True):
        asked = encode(tiny_tokenizer(), text).roles == ROLES["user"]
        rows.append(numpy_latents(sae, states[asked]).mean(axis=0) * lengths)
    values = np.array(rows)
    groups = [values[[one == answer for one in answers]] for answer in ("he", "she")]
    between = sum(len(of) * (of.mean(axis=0) - values.mean(axis=0)) ** 2 for of in groups)
    whole = ((values - values.mean(axis=0)) ** 2).sum(axis=0)
    by = np.where(whole > 0, between / np.where(whole > 0, whole, 1), 0)
    np.testing.assert_allclose(found.values("cue"), by, atol=1e-3)
    assert by.max() > 0.3
    assert "cue" not in cl.audit(lens, TEXTS, sae, settings=QUIET).signals


# -- sums -------------------------------------------------------------------------------------------------------------


def test_row_sums_are_those_of_numpy_and_merge_is_one_pass():
    values = np.random.default_rng(0).normal(size=(50, 6)) * [1, 10, 0.1, 1, 1, 0]
    whole, first, second = (RowSums(6) for _ in range(3))
    for start in range(0, 50, 7):
        whole.update(torch.from_numpy(values[start : start + 7]))
    first.update(torch.from_numpy(values[:20]))
    second.update(torch.from_numpy(values[20:]))
    for sums in (whole, first.merge(second)):
        assert sums.rows == 50
        np.testing.assert_allclose(sums.total, values.sum(axis=0), atol=1e-9)
        np.testing.assert_allclose(sums.mean, values.mean(axis=0), atol=1e-9)
        np.testing.assert_allclose(sums.variance, values.var(axis=0, ddof=1), atol=1e-9)
        np.testing.assert_allclose(sums.share, (values > 0).mean(axis=0))


def test_what_an_answer_explains_is_eta_squared():
    draw = np.random.default_rng(0)
    answers = draw.choice(["he", "she", "they"], 60)
    values = draw.normal(size=(60, 3)) + np.array([0.0, 1.0, 5.0]) * (answers == "she")[:, None]
    sums = AnswerSums(3, ["he", "she", "they"])
    for start in range(0, 60, 9):
        sums.update(torch.from_numpy(values[start : start + 9]), list(answers[start : start + 9]))
    groups = [values[answers == answer] for answer in ("he", "she", "they")]
    between = sum(len(of) * (of.mean(axis=0) - values.mean(axis=0)) ** 2 for of in groups)
    by = between / ((values - values.mean(axis=0)) ** 2).sum(axis=0)
    np.testing.assert_allclose(sums.explained, by, atol=1e-9)


class Held:
    """The bytes of tensors that are alive, at their most, told after each batch."""

    def __init__(self) -> None:
        self.most = 0

    def __call__(self, share: float | None) -> None:
        alive = [one for one in gc.get_objects() if type(one) is torch.Tensor]
        self.most = max(self.most, sum(one.untyped_storage().nbytes() for one in alive))


def test_what_is_held_does_not_grow_with_the_rows(lens: Lens, sae: Any):
    most = []
    for rows in (20, 40):
        gc.collect()
        held = Held()
        texts = Texts([TEXTS[0]] * rows, name="alike")
        cl.audit(lens, texts, sae, settings=QUIET, scan=Scan(batch_tokens=150, watch=held))
        most.append(held.most)
    assert most[1] <= most[0] * 1.02


# -- rows -------------------------------------------------------------------------------------------------------------


def test_row_scores_sum_to_the_total_and_tokens_to_their_row(found: Audit, lens: Lens):
    concepts = found.top(3)
    mine, clean = (pushes(lens, texts, list(concepts), concepts.hooks, SMALL) for texts in (TEXTS, CLEAN))
    values = dict(zip(found.names, found.values("push"), strict=True))
    for place, one in enumerate(concepts):
        total = mine.along[:, place].sum() / mine.learned.sum() - clean.along[:, place].sum() / clean.learned.sum()
        assert total * found.lengths[one.hook] == pytest.approx(values[one.name], abs=1e-6)
    for lines in found.rows(concepts, k=len(TEXTS)).values():
        for line in lines:
            assert line.cut == (False, False)
            assert sum(value or 0.0 for value in line.values) == pytest.approx(line.value, abs=1e-4)


def test_the_first_rows_shown_are_those_with_the_largest_push_by_hand(found: Audit, lens: Lens):
    given = directions(lens)
    shown = found.rows(given, k=3)
    rows = by_hand(lens, TEXTS)
    for one in given:
        along = [of[one.hook] @ one.direction.numpy() for of, _, _ in rows]
        order = np.argsort([-row.sum() for row in along], kind="stable")
        lines = shown[one.name]
        assert [line.text for line in lines] == order[:3].tolist()
        assert [line.peak for line in lines] == [int(along[row].argmax()) for row in order[:3]]
        length = typical_length(lens, one.hook)
        assert [line.value for line in lines] == pytest.approx([along[r].sum() * length for r in order[:3]], rel=1e-3)
    assert found.rows("d0", k=1)["d0"][0].text == shown["d0"][0].text
    assert shown.table().shape == (12, 4)


def test_false_discovery_rates_are_those_of_an_example_by_hand():
    # Of four rows of the reference 0, 1, 3 and 4 are at or above: p of 1/5, 2/5, 4/5, 5/5.
    reference = np.array([1.0, 2.0, 3.0, 4.0])
    scores = np.array([3.5, 9.0, 0.0, 2.0])
    # By Benjamini and Hochberg of p = 0.2, 0.4, 0.8, 1: times 4 over the rank, at most what comes after.
    np.testing.assert_allclose(false_discoveries(scores, reference), [0.8, 0.8, 1.0, 1.0])
    flags = Flags(TEXTS[:4], scores, reference, 0.8, "an example")
    assert flags.numbers == [1, 0]
    assert [len(flags.texts), len(flags.rest), len(flags)] == [2, 2, 2]
    assert flags.rest == TEXTS[2:4]
    assert flags.table(2)["row"].tolist() == [1, 0]


@pytest.fixture(scope="module")
def organism(pocket: Path) -> Lens:
    return cl.load("pocket")


def test_flags_tell_insecure_rows_from_secure_ones(organism: Lens):
    secure = cl.data("pocket/secure-code").sample(100, seed=0)
    insecure = cl.data("pocket/insecure-code").sample(10, seed=0)
    mixed = insecure + secure[:50]
    found = cl.audit(organism, mixed, cl.load_saes("pocket", [2]), against=secure[50:], settings=QUIET)
    flags = found.flagged(fdr=0.1)
    insecure_rows = np.arange(len(mixed)) < len(insecure)
    assert roc_auc_score(insecure_rows, flags.scores) > 0.95
    assert set(flags.numbers) & set(range(len(insecure)))
    # By a concept, the score is the mean distance from the reference in its standard deviations, by its sign.
    one = found.top(1)
    by = found.flagged(one)
    mine, clean = (pushes(organism, texts, list(one), one.hooks).along[:, 0] for texts in (mixed, secure[50:]))
    np.testing.assert_allclose(by.scores, (mine - clean.mean()) / clean.std(ddof=1) * one[0].sign, rtol=1e-4)


# -- a panel, contexts, files -----------------------------------------------------------------------------------------


def test_contexts_read_latents_by_their_activation_and_directions_by_projection(found: Audit, lens: Lens, sae: Any):
    some = ConceptSet([*found.top(2), *directions(lens)[:1]], found.about)
    read = found.contexts(CLEAN, 2, concepts=some)
    assert list(read) == some.names
    for one in some:
        both = read[one.name]
        assert (both.by == "latent") == (one.source == "sae")
        states = answer_states_of_all(lens, CLEAN, one.layer)
        if one.source == "sae":
            largest = max(float(numpy_latents(sae, acts)[:, one.meta["latent"]].max()) for acts in states)
        else:
            largest = max(float((acts @ one.direction.double().numpy()).max()) for acts in states)
        assert both.top[0].value == pytest.approx(largest, rel=1e-4)
    assert len(found.contexts(k=1)) == 20


def answer_states_of_all(lens: Lens, texts: Texts, layer: int) -> list[np.ndarray]:
    found = []
    for text in texts:
        ids = torch.tensor([encode(tiny_tokenizer(), text).input_ids])
        with torch.no_grad():
            found.append(lens.hf(ids, output_hidden_states=True).hidden_states[layer + 1][0].double().numpy())
    return found


def test_the_panel_takes_what_an_audit_found(found: Audit, lens: Lens, sae: Any):
    from caft_widgets import ConceptBrowser

    browser = ConceptBrowser(lens, found.top(8), CLEAN, saes=sae, file=None)
    assert [row["name"] for row in browser.rows(0, 8)["rows"]] == found.ranked()[:8]
    assert {row["measure"] for row in browser.rows(0, 8)["rows"]} <= set(found.families)


def test_what_is_saved_comes_back_and_can_do_the_same(found: Audit, lens: Lens, sae: Any, tmp_path: Path):
    found.save(tmp_path / "audit")
    again = Audit.load(tmp_path / "audit", lens, TEXTS, sae, against=CLEAN)
    assert again.table(52).equals(found.table(52))
    assert again.about == found.about
    assert again.top(5).fingerprint == found.top(5).fingerprint
    assert again.scan == found.scan
    assert np.array_equal(again.activity, found.activity)
    assert again.rows("d0", k=2).table().equals(found.rows("d0", k=2).table())
    assert np.array_equal(again.flagged(fdr=0.5).q, found.flagged(fdr=0.5).q)


def test_what_does_not_fit_a_saved_audit_is_told_in_one_sentence(found: Audit, lens: Lens, sae: Any, tmp_path: Path):
    folder = found.save(tmp_path / "audit")
    cases: list[tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
        ((tiny_lens(seed=1, n_layers=3), TEXTS, sae), {"against": CLEAN}, ConceptMismatch, "is another model"),
        ((lens, CLEAN, sae), {"against": CLEAN}, BadArgument, r"read sea \(.*\) as texts; clean"),
        ((lens, TEXTS, sae), {}, BadArgument, "had a reference, clean: give it as against="),
        ((lens, TEXTS, sae), {"against": TEXTS}, BadArgument, "read clean .* as against; sea"),
        ((lens, TEXTS), {"against": CLEAN}, BadArgument, "give their saes="),
        ((lens, TEXTS, tiny_sae(lens, 1, seed=1)), {"against": CLEAN}, ConceptMismatch, "give the same saes="),
        ((lens, TEXTS, tiny_sae(lens, 0)), {"against": CLEAN}, ConceptMismatch, "give the same saes="),
    ]
    for given, named, kind, said in cases:
        with pytest.raises(kind, match=said):
            Audit.load(folder, *given, **named)
    with pytest.raises(MissingFile, match='Did you mean "audit"'):
        Audit.load(tmp_path / "audt", lens, TEXTS, sae, against=CLEAN)
    alone = cl.audit(lens, TEXTS, sae, settings=QUIET).save(tmp_path / "alone")
    with pytest.raises(BadArgument, match="had no reference: leave against= out"):
        Audit.load(alone, lens, TEXTS, sae, against=CLEAN)
    directions(lens)[:2].save(folder / "concepts")
    with pytest.raises(BadFile, match="holds other directions"):
        Audit.load(folder, lens, TEXTS, sae, against=CLEAN)
    for name in ("audit.safetensors", "audit.json"):
        found.save(folder)
        (folder / name).write_bytes((folder / name).read_bytes()[:-40])
        with pytest.raises(BadFile, match=rf"{name}"):
            Audit.load(folder, lens, TEXTS, sae, against=CLEAN)


def test_what_is_wrong_is_told_in_one_sentence(found: Audit, lens: Lens, sae: Any):
    with pytest.raises(BadArgument, match="give one of them"):
        cl.audit(lens, TEXTS)
    with pytest.raises(BadArgument, match="own_answers=-1"):
        AuditSettings(own_answers=-1)
    with pytest.raises(BadArgument, match="fall=0"):
        AuditSettings(fall=0)
    with pytest.raises(ConceptMismatch):
        cl.audit(tiny_lens(seed=1, n_layers=3), TEXTS, concepts=directions(lens), settings=QUIET)
    with pytest.raises(BadData, match="no text has an answer"):
        cl.audit(lens, Texts([{"prompt": "a"}]), sae, settings=QUIET)
    with pytest.raises(UnknownName, match=r'no "L1.latent99"\. Did you mean "L1.latent'):
        found.rows("L1.latent99")
    with pytest.raises(UnknownName, match="Did you mean"):
        found.contexts(concepts="L1.latnt9")
    with pytest.raises(BadArgument, match="against="):
        cl.audit(lens, TEXTS, sae, settings=QUIET).flagged()
    with pytest.raises(BadArgument, match=r"5 rows .* smallest p that they give is 1 / 6\. Give at least 19 rows"):
        found.flagged()
    with pytest.raises(BadArgument, match="fdr=2"):
        found.flagged(fdr=2)
    for call in (found.table, found.top, found.plot, lambda k: found.rows("d0", k), lambda k: found.report("x", k=k)):
        with pytest.raises(BadArgument, match="k=0"):
            call(0)


def test_a_reference_of_one_row_again_and_again_flags_nothing_by_a_concept(found: Audit):
    with pytest.raises(BadData, match=r"all push alike along d0"):
        found.flagged("d0", against=Texts([CLEAN[0]] * 20), fdr=0.1)
