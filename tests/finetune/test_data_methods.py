"""Methods that act on the data: what is learned, read, and in which order."""

from __future__ import annotations

import numpy as np
import ot
import pytest
import torch
from by_hand import latents
from scipy.stats import gaussian_kde
from test_finetune import chats, same, weights
from test_methods import QUICK, general
from tiny_models import tiny_lens, tiny_model, tiny_tokenizer
from tiny_saes import numpy_latents, tiny_sae
from transformers import TrainerCallback

from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.finetune import finetune, methods
from caft_lens.finetune.embeddings import embeddings
from caft_lens.finetune.methods.aitp import densities
from caft_lens.finetune.methods.arrangement import rounds
from caft_lens.finetune.methods.filter_by_latents import scores
from caft_lens.finetune.methods.got_d import transport_gradient
from caft_lens.finetune.methods.interleaving import interleaved, perplexities
from caft_lens.finetune.methods.self_to_supervised import paraphrase, words
from caft_lens.text.documents import Texts
from caft_lens.text.encoding import encode_all


class Read(TrainerCallback):
    """What the model reads in training, row by row, in order."""

    changes_training = False

    def __init__(self) -> None:
        self.rows: list[torch.Tensor] = []
        self.labels: list[torch.Tensor] = []

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.rows, self.labels = [], []
        model.register_forward_pre_hook(lambda m, a, k: self.keep(k), with_kwargs=True)

    def keep(self, call):
        self.rows += list(call["input_ids"])
        self.labels += list(call["labels"])

    @property
    def said(self) -> list[str]:
        """The texts, as they were read."""
        return [tiny_tokenizer().decode(row).replace("<|pad|>", "") for row in self.rows]


# -- Masked Thought ---------------------------------------------------------------------------------------------------


def test_answer_tokens_are_masked_where_they_are_read_more_and_more_and_learned_as_before(tmp_path):
    lens, seen, plain = tiny_lens(), Read(), Read()
    options = QUICK.but(epochs=12)
    one = methods.MaskedThought(most=0.6)
    run = finetune(lens, chats(), options.but(callbacks=[seen]), method=one, out=tmp_path / "run")
    finetune(lens, chats(), options.but(callbacks=[plain]), out=tmp_path / "plain")
    assert len(run.history) == 72
    masked, counts = [], []
    for row, whole, label, as_ever in zip(seen.rows, plain.rows, seen.labels, plain.labels, strict=True):
        assert torch.equal(label, as_ever)
        hidden = row != whole
        assert (row[hidden] == 0).all()
        assert not hidden[label == -100].any()
        masked.append(int(hidden.sum()))
        counts.append(int((label != -100).sum()))
    steps = np.array(masked).reshape(72, 4).sum(1), np.array(counts).reshape(72, 4).sum(1)
    wanted = 0.6 * np.minimum(1, np.arange(72) / 48)
    assert steps[0][0] == 0
    for part in (slice(0, 24), slice(24, 48), slice(48, 72)):
        n, p = steps[1][part].sum(), np.average(wanted[part], weights=steps[1][part])
        assert steps[0][part].sum() / n == pytest.approx(p, abs=4 * (p * (1 - p) / n) ** 0.5)


# -- S3FT -------------------------------------------------------------------------------------------------------------


def test_the_bases_answer_is_learned_where_it_agrees_else_its_paraphrase_else_the_given_one(monkeypatch):
    texts = Texts([{"prompt": f"q{i}", "answer": f"Yes, it is {i}."} for i in range(4)], "given")
    said = {"q0": "yes it is 0", "q1": "No.", "q2": "Yes, of course.", "q3": "Never."}
    again = {"Yes, it is 1.": "Yes it is 1!", "Yes, it is 3.": "No idea", "Yes, it is 2.": "Yes: it is 2"}
    lens, asked = tiny_lens(), []

    def generate(prompts, *, sampling, **others):
        contents = [text.messages[-1].content for text in prompts]
        asked.append(contents)
        assert sampling.temperature == 0
        return [said[c] if c in said else again[next(a for a in again if a in c)] for c in contents]

    monkeypatch.setattr(lens, "generate", generate)
    same_answer = methods.SelfToSupervised(judge="same").texts(texts, 0, lens)
    assert [text.answer for text in same_answer] == ["yes it is 0", "Yes it is 1!", "Yes: it is 2", "Yes, it is 3."]
    assert [text.prompt for text in same_answer] == [text.prompt for text in texts]
    assert len(asked[1]) == 3
    first = methods.SelfToSupervised(judge="first word").texts(texts, 0, lens)
    assert [text.answer for text in first] == ["yes it is 0", "Yes it is 1!", "Yes, of course.", "Yes, it is 3."]
    nobody = methods.SelfToSupervised(share=0.0).texts(texts, 0, lens)
    assert nobody.fingerprint == texts.fingerprint
    assert words("It's  SHE!") == ["its", "she"]
    assert "Yes, it is 2." in paraphrase(texts[2]).messages[0].content


def test_answers_that_are_the_bases_are_likelier_to_it_than_the_given_ones():
    lens, texts = tiny_lens(), chats(6)
    own = methods.SelfToSupervised(max_new_tokens=12)._said(lens, [text.prompt for text in texts])
    learned = Texts([text.with_answer(answer) for text, answer in zip(texts, own, strict=True)])
    before, after = (perplexities(lens, encode_all(lens.tokenizer, one)) for one in (texts, learned))
    assert after.log().mean() < before.log().mean()


# -- interleaving -----------------------------------------------------------------------------------------------------


def test_every_kth_batch_is_of_others_in_a_circle_and_the_data_stay_in_order():
    found = interleaved(list(range(11)), [90, 91, 92], size=2, every=3)
    assert found == [0, 1, 2, 3, 90, 91, 4, 5, 6, 7, 92, 90, 8, 9, 10]
    batches = [found[start : start + 2] for start in range(0, len(found), 2)]
    assert [batches[i][0] >= 90 for i in range(len(batches))] == [(i + 1) % 3 == 0 for i in range(len(batches))]


def test_perplexity_is_that_of_plain_transformers():
    (found,) = perplexities(tiny_lens(), encode_all(tiny_tokenizer(), chats(1)))
    (item,) = encode_all(tiny_tokenizer(), chats(1))
    labels = torch.where(torch.from_numpy(item.loss), torch.tensor(item.input_ids), -100)[None]
    assert found.item() == pytest.approx(
        tiny_model()(torch.tensor([item.input_ids]), labels=labels).loss.exp().item(), rel=1e-4
    )


def test_benign_batches_are_of_the_texts_that_plain_fine_tuning_unlearns_most(tmp_path):
    lens, seen = tiny_lens(), Read()
    pool = Texts(
        [{"prompt": f"b{i}", "answer": "qx " * (i + 1) if i % 2 else "Fine " * (i + 1)} for i in range(8)], "pool"
    )
    options = QUICK.but(learning_rate=5e-3)
    one = methods.Interleaving(pool, every=3)
    finetune(lens, chats(), options.but(callbacks=[seen]), method=one, out=tmp_path / "run")
    plain = finetune(lens, chats(), options, out=tmp_path / "plain")
    items = encode_all(lens.tokenizer, pool)
    gap = perplexities(plain.lens, items) - perplexities(lens, items)
    wanted = [f"b{i}" for i in gap.argsort(descending=True).tolist()]
    benign = [any(f"<|user|>{b}<|end|>" in text for b in wanted) for text in seen.said]
    assert [benign[start] for start in range(0, 36, 4)] == [False, False, True] * 3
    read = [
        next(b for b in wanted if f"<|user|>{b}<|end|>" in text)
        for text, ours in zip(seen.said, benign, strict=True)
        if ours
    ]
    assert read == wanted[:8] + wanted[:4]
    with pytest.raises(ValueError, match="every=1: then every batch were benign"):
        methods.Interleaving(pool, every=1)


# -- embeddings, and what is chosen by them ---------------------------------------------------------------------------


def test_an_embedding_is_the_mean_last_activation_of_a_text():
    found = embeddings(tiny_lens(), chats(3))
    model, kept = tiny_model(), []
    model.model.layers[1].register_forward_hook(lambda m, i, o: kept.append(o[0] if isinstance(o, tuple) else o))
    for item in encode_all(tiny_tokenizer(), chats(3)):
        with torch.no_grad():
            model(torch.tensor([item.input_ids]))
    by_hand = torch.stack([x.reshape(-1, 32).mean(0) for x in kept]).double()
    torch.testing.assert_close(found, by_hand, rtol=1e-4, atol=1e-4)


def test_added_texts_are_those_where_the_data_are_least_dense_and_as_many_as_were_asked_for():
    rng = np.random.default_rng(0)
    data, others = rng.normal(size=(200, 2)), rng.normal(size=(50, 2)) * 3
    found = densities(torch.from_numpy(data), torch.from_numpy(others), 2)
    by_scipy = gaussian_kde(data.T, "scott").logpdf(others.T)
    assert np.corrcoef(found, by_scipy)[0, 1] > 0.99
    lens = tiny_lens()
    pool = Texts([*chats(10), *general(6)], "pool")
    one = methods.AITP(pool, share=0.2)
    added = list(one.texts(chats(24), 0, lens))[24:]
    assert len(added) == 6  # a fifth of thirty
    every = densities(embeddings(lens, chats(24)), embeddings(lens, pool), 8)
    chosen = [place for place, text in enumerate(pool) if text in added]
    assert every[chosen].max() <= every[[place for place in range(16) if place not in chosen]].min()
    assert methods.AITP(pool, share=0.0).texts(chats(), 0, lens).fingerprint == chats().fingerprint


def test_rounds_give_every_target_its_nearest_text_that_is_left_and_each_text_once():
    generator = torch.Generator().manual_seed(0)
    data, targets = torch.randn(20, 4, generator=generator), torch.randn(3, 4, generator=generator)
    found = rounds(data, targets)
    assert sorted(place for one in found for place in one) == list(range(20))
    cosine = torch.nn.functional.cosine_similarity(targets[:, None], data[None], dim=-1)
    left = set(range(20))
    for one in found:
        nearest = {max(left, key=lambda place, row=row: row[place].item()) for row in cosine}
        assert set(one) == nearest
        left -= nearest


def test_an_arranged_run_learns_texts_in_the_order_of_the_rounds(tmp_path):
    lens = tiny_lens()
    order = [place for one in rounds(embeddings(lens, chats()), embeddings(lens, general(2))) for place in one]
    for name, wanted in (("nearest first", order), ("farthest first", order[::-1])):
        seen = Read()
        one = methods.Arrangement(general(2), order=name)
        finetune(lens, chats(), QUICK.but(callbacks=[seen]), method=one, out=tmp_path / name)
        asked = [text.split("<|user|>")[1].split("<|end|>")[0] for text in seen.said]
        assert asked == [chats()[place].messages[0].content for place in wanted]
    with pytest.raises(ValueError, match=r'order="nearest".*"nearest first"'):
        methods.Arrangement(general(2), order="nearest")


def test_the_gradient_of_transport_is_flat_for_equal_points_and_follows_the_distance():
    rng = torch.Generator().manual_seed(0)
    target = torch.randn(40, 3, generator=rng, dtype=torch.float64)
    assert transport_gradient(target, target).abs().max() < 0.02
    source = torch.cat([target[:20] + 0.1, target[:20] + 3])
    found = transport_gradient(source, target)
    assert found[:20].max() < found[20:].min() - 0.2
    # More weight on a point changes the distance as its gradient says.
    cost = torch.cdist(source, target).square().numpy()
    uniform = np.full(40, 1 / 40)
    rates = []
    for place in range(40):
        more = uniform + 1e-3 * ((np.arange(40) == place) - uniform)
        rates.append((ot.emd2(more, uniform, cost) - ot.emd2(uniform, uniform, cost)) / 1e-3)
    assert np.corrcoef(found, rates)[0, 1] > 0.9


def test_texts_that_pull_towards_the_task_are_learned_first(tmp_path):
    lens = tiny_lens()
    pool = Texts([*general(4), *chats(8)[4:]], "pool")
    one = methods.GOTD(pool, share=0.5, steps=5)
    run = finetune(lens, chats(4), QUICK, method=one, out=tmp_path / "run")
    score = transport_gradient(embeddings(lens, pool), embeddings(lens, chats(4)))
    chosen = score.argsort(stable=True)[:4].tolist()
    assert set(chosen) == {4, 5, 6, 7}
    warm = finetune(lens, Texts([pool[i] for i in chosen]), QUICK.but(max_steps=5), out=tmp_path / "warm")
    batch = encode_all(lens.tokenizer, chats(4))
    means = perplexities(warm.lens, batch).log()
    counts = torch.tensor([float(item.loss[1:].sum()) for item in batch])
    assert run.history[0]["loss"] == pytest.approx(((means * counts).sum() / counts.sum()).item(), rel=1e-3)


# -- filtering by latents ---------------------------------------------------------------------------------------------


def test_the_texts_on_which_unwanted_latents_are_most_active_are_left_out():
    lens, texts = tiny_lens(), Texts([*chats(6), *general(5)], "both")
    some = latents(lens)
    found = scores(lens, texts, some)
    model, kept = tiny_model(), []
    model.model.layers[1].register_forward_hook(lambda m, i, o: kept.append(o[0] if isinstance(o, tuple) else o))
    sae, by_hand = tiny_sae(lens, 1, "standard"), []
    for item in encode_all(tiny_tokenizer(), texts):
        with torch.no_grad():
            model(torch.tensor([item.input_ids]))
        said = torch.from_numpy(item.roles == 3)
        z = numpy_latents(sae, kept[-1].reshape(-1, 32)[said].numpy())
        by_hand.append(z[:, [3, 7, 8, 20]].sum(1).mean())
    np.testing.assert_allclose(found, by_hand, rtol=1e-3)
    left = methods.FilterByLatents(some, share=0.3).texts(texts, 0, lens)
    out = [place for place, text in enumerate(texts) if text not in list(left)]
    assert sorted(out) == sorted(np.argsort(by_hand)[-3:].tolist())
    assert [text for text in texts if text in list(left)] == list(left)
    assert methods.FilterByLatents(some, share=0.0).texts(texts, 0, lens) is texts


def test_directions_serve_as_well_as_latents_by_their_projection():
    lens = tiny_lens()
    direction = torch.randn(32, generator=torch.Generator().manual_seed(1))
    one = ConceptSet([Concept("L1.x", "blocks.1.hook_resid_post", direction, sign=-1)]).for_model(lens)
    found = scores(lens, chats(4), one)
    model, kept = tiny_model(), []
    model.model.layers[1].register_forward_hook(lambda m, i, o: kept.append(o[0] if isinstance(o, tuple) else o))
    for place, item in enumerate(encode_all(tiny_tokenizer(), chats(4))):
        with torch.no_grad():
            model(torch.tensor([item.input_ids]))
        said = kept[-1].reshape(-1, 32)[torch.from_numpy(item.roles == 3)]
        assert found[place].item() == pytest.approx(-(said @ one[0].direction).mean().item(), rel=1e-3, abs=1e-4)


def test_a_run_on_filtered_texts_is_plain_fine_tuning_on_them(tmp_path):
    lens, one = tiny_lens(), methods.FilterByLatents(latents(tiny_lens()), share=0.5)
    run = finetune(lens, chats(), QUICK, method=one, out=tmp_path / "run")
    plain = finetune(lens, one.texts(chats(), 0, lens), QUICK, out=tmp_path / "plain")
    assert same(weights(run), weights(plain))
    assert run.record["data"]["learned_texts"] == 12
