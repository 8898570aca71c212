"""Every method does what its card says, on a small case, against plain torch and transformers."""

from __future__ import annotations

import importlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from by_hand import latents
from test_finetune import Gradients, chats, same, two_concepts, weights, whole_batch
from tiny_models import tiny_lens, tiny_model, tiny_tokenizer
from torch.nn.functional import cross_entropy, kl_div
from transformers import TrainerCallback

from caft_lens.concepts.ablation import VARIANTS, ablate
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.evaluate.evaluation import subject_fingerprint
from caft_lens.find.random import random_directions
from caft_lens.finetune import LoraSettings, Run, TrainSettings, finetune, methods
from caft_lens.finetune.methods import kl_anchor
from caft_lens.finetune.methods.half_finetuning import frozen_half
from caft_lens.finetune.methods.kl_anchor import batches_of
from caft_lens.finetune.protocol import FAMILIES, Card, Method, setting
from caft_lens.finetune.step import learned_logits
from caft_lens.text.batching import collate, padding_id
from caft_lens.text.documents import Texts
from caft_lens.text.encoding import encode_all

QUICK = TrainSettings(learning_rate=1e-3, batch_size=4, warmup_steps=0)
ONE_STEP = TrainSettings(
    tune="full", learning_rate=1e-3, batch_size=6, max_steps=1, training_arguments={"max_grad_norm": 0.0}
)
SGD = {"optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": 0.0}


def general(n: int = 5) -> Texts:
    return Texts([{"prompt": f"What of {i}?", "answer": "So it goes. " * (i + 1)} for i in range(n)], "general")


def persona(lens) -> ConceptSet:
    direction = torch.randn(32, generator=torch.Generator().manual_seed(2))
    one = Concept("L1.mean0", "blocks.1.hook_resid_post", direction, meta={"distance": 3.0})
    return ConceptSet([one]).for_model(lens)


def materials(lens, name: str = "") -> dict:
    """One of each kind that a method may need; those that act on an SAE's latents get these as concepts."""
    two = two_concepts(lens)
    concepts = latents(lens) if name in ("self_regularisation", "block_em") else two
    keep = ConceptSet([replace(one, direction=one.direction.roll(1)) for one in two], two.provenance)
    of = {"concepts": concepts, "candidates": two, "keep": keep}
    return of | dict.fromkeys(("general", "benign", "unwanted", "target"), general())


def mean_states(texts: Texts, layer: int) -> torch.Tensor:
    """Mean residual stream after a block of the plain model over all tokens, [d_model]."""
    model, states = tiny_model(), []
    model.model.layers[layer].register_forward_hook(
        lambda module, inputs, output: states.append(output[0] if isinstance(output, tuple) else output)
    )
    for item in encode_all(tiny_tokenizer(), texts):
        with torch.no_grad():
            model(torch.tensor([item.input_ids]))
    return torch.cat([state.flatten(0, -2) for state in states]).mean(0)


def loss_of(model, batch) -> torch.Tensor:
    """The mean cross-entropy of the tokens that are learned."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())


# -- the registry and the cards ---------------------------------------------------------------------------------------

NAMES = list(methods.methods())


def test_the_registry_holds_the_arms_of_the_contest():
    assert set(NAMES) >= {
        "plain",
        "early_stopping",
        "random",
        "top_k",
        "test_time",
        "caft",
        "caft_mean",
        "caft_detached",
        "caft_gradient",
        "steer_mean",
        "preventative_steering",
        "kl_anchor",
        "mix_benign",
        "half_finetuning",
        "weight_averaging",
        "inoculation",
        "lofit",
    }
    with pytest.raises(KeyError, match=r'No method "kl_ancor". Did you mean "kl_anchor"'):
        methods.named("kl_ancor")


@pytest.mark.parametrize("name", NAMES)
def test_every_card_is_complete_and_every_setting_of_its_grid_can_be_had(name):
    cls = methods.named(name)
    assert cls.card.idea[-1] in ".?"
    assert cls.card.equation
    assert cls.card.source
    for part in (cls.card.idea, cls.card.equation, cls.card.source, cls.card.arxiv, *cls.needs()):
        assert " ".join(part.split()) in " ".join(cls.__doc__.split())
    assert len(cls.card.grid) <= 4
    assert cls.card.family in FAMILIES
    assert cls.card.cost
    made = [methods.make(name, materials(tiny_lens(), name), **settings) for settings in cls.card.grid or ({},)]
    records = [json.dumps(one.record(), sort_keys=True) for one in made]
    assert len(set(records)) == len(records)
    assert getattr(methods, cls.__name__) is cls


@pytest.mark.parametrize("name", NAMES)
def test_every_arm_leaves_a_run_that_says_how_it_was_made_and_comes_back(name, tmp_path):
    lens = tiny_lens()
    one = methods.make(name, materials(lens, name))
    options = QUICK.but(batch_size=12, max_steps=2, lora=LoraSettings(r=8, alpha=8))
    run = finetune(lens, chats(), options, method=one, out=tmp_path / "run")
    config = json.loads((run.folder / "run.json").read_text())["config"]
    trained = one.trains_as(0)
    assert config.get("arm") == (None if trained.name in ("plain", "caft") else trained.record())
    assert (config["concepts"] or {}).get("names") == (
        trained.materials["concepts"].names if "concepts" in trained.materials else None
    )
    assert run.record["peak_memory"] > 10**7
    again = finetune(lens, chats(), options, method=one, out=tmp_path / "run")
    assert same(weights(again), weights(run))
    assert Run.load(run.folder, lens).lens("Hello").isfinite().all()


def test_arms_of_other_packages_are_found_and_a_name_is_taken_once(tmp_path):
    @dataclass(frozen=True, repr=False)
    class Slow(Method):
        name = "slow"
        card = Card("Learn slowly.", "lr <- s lr", "this test", grid=({"share": 0.5},))
        share: float = setting(0.1, "share of the rate", above=0)

        def train_settings(self, given):
            return given.but(learning_rate=given.learning_rate * self.share)

    assert methods.register(Slow) is Slow
    run = finetune(
        tiny_lens(), chats(), QUICK.but(max_steps=1), method=methods.make("slow", {}, share=0.5), out=tmp_path
    )
    assert run.config["learning_rate"] == 5e-4
    assert run.config["arm"] == {"name": "slow", "share": 0.5}
    assert "slow" in repr(run)

    @dataclass(frozen=True)
    class Other(Method):
        name, card = "plain", Card("Other.", "none", "this test")

    with pytest.raises(ValueError, match='a method "plain" already'):
        methods.register(Other)

    @dataclass(frozen=True)
    class Typo(Method):
        name, card = "typo", Card("Typo.", "none", "this test", grid=({"shar": 1},))
        share: float = setting(0.1, "share")

    with pytest.raises(ValueError, match=r'The grid of the method "typo" sets \'shar\'. Did you mean "share"'):
        methods.register(Typo)
    with pytest.raises(ValueError, match="at most 4"):
        Card("Greedy.", "none", "this test", grid=({},) * 5)
    importlib.import_module("caft_lens.finetune.methods.registry")._KNOWN.pop("slow")


def test_a_wrong_setting_is_refused_by_its_name_and_meaning():
    lens = tiny_lens()
    with pytest.raises(
        ValueError,
        match=r'weight=-1: expected a number of at least 0\. Weight λ of the anchor, of the method "kl_anchor"',
    ):
        methods.KLAnchor(general(), weight=-1)
    with pytest.raises(TypeError, match='weight="much" is text; expected a number of at least 0'):
        methods.KLAnchor(general(), weight="much")
    with pytest.raises(TypeError, match="general is a Texts, not str: general text"):
        methods.KLAnchor("pocket/questions")
    with pytest.raises(ValueError, match=r"share=1.5: expected a number above 0 and at most 1"):
        methods.EarlyStopping(share=1.5)
    with pytest.raises(ValueError, match=r'sites="erly".*"early"'):
        methods.CAFT(two_concepts(lens), sites="erly")
    with pytest.raises(ValueError, match="prompt is empty: the system prompt"):
        methods.Inoculation(prompt=" ")
    with pytest.raises(TypeError, match=r'The method "kl_anchor" has no setting "wieght". Did you mean "weight"'):
        methods.make("kl_anchor", {"general": general()}, wieght=1)
    with pytest.raises(TypeError, match=r'The method "top_k" needs candidates \(what they were chosen from'):
        methods.make("top_k", {"concepts": two_concepts(lens)})


def test_an_arm_that_cannot_be_is_refused_before_anything_is_trained(tmp_path):
    lens = tiny_lens()
    with pytest.raises(ValueError, match="give one of them"):
        finetune(lens, chats(), method=methods.Plain(), ablate=two_concepts(lens), out=tmp_path)
    with pytest.raises(TypeError, match=r'takes a method of caft_lens\.finetune\.methods, not "caft": give CAFT'):
        finetune(lens, chats(), method="caft", out=tmp_path)
    with pytest.raises(ValueError, match="found on"):
        finetune(lens, chats(), method=methods.CAFT(two_concepts(tiny_lens(seed=1))), out=tmp_path)
    with pytest.raises(ValueError, match=r'goes with tune="lora", not "full"'):
        finetune(lens, chats(), TrainSettings(tune="full"), method=methods.LoFiT(), out=tmp_path)
    assert not list(tmp_path.iterdir())


ALWAYS = {
    "caft": "ablates whole or in part",
    "caft_detached": "likewise",
    "caft_gradient": "likewise",
    "caft_mean": "likewise",
    "leace": "likewise",
    "splince": "likewise",
    "steer_mean": "likewise",
    "test_time": "likewise",
    "random": "has no settings",
    "top_k": "has no settings",
    "half_finetuning": "has no settings",
    "inoculation": "there is a prompt",
    "lofit": "learns something else than plain fine-tuning",
    "poft": "weighs texts by how likely they are",
    "corda": "starts elsewhere",
}
"""Methods that are plain fine-tuning with no settings, and why."""


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The weights of plain fine-tuning, with the dropout that further passes could disturb."""
    return weights(finetune(tiny_lens(), chats(), WITH_DROPOUT, out=tmp_path_factory.mktemp("plain") / "run"))


WITH_DROPOUT = QUICK.but(max_steps=3, lora=LoraSettings(r=4, alpha=8, dropout=0.2))


@pytest.mark.parametrize("name", NAMES)
def test_the_neutral_setting_of_a_method_is_plain_fine_tuning_bit_for_bit(name, plain, tmp_path):
    lens, neutral = tiny_lens(), methods.named(name).card.neutral
    assert (neutral is None) == (name in ALWAYS)
    if neutral is not None:
        one = methods.make(name, materials(lens, name), **neutral)
        run = finetune(lens, chats(), WITH_DROPOUT, method=one, out=tmp_path / "run")
        assert same(weights(run), plain)


# -- references, and acting at hook points ----------------------------------------------------------------------------


def test_plain_and_caft_as_arms_are_the_runs_that_they_were_without(tmp_path):
    lens = tiny_lens()
    plain = finetune(lens, chats(), QUICK, out=tmp_path / "plain")
    assert same(weights(finetune(lens, chats(), QUICK, method=methods.Plain(), out=tmp_path / "other")), weights(plain))
    caft = finetune(lens, chats(), QUICK, ablate=two_concepts(lens), out=tmp_path / "caft")
    written = (caft.folder / "run.json").stat().st_mtime_ns
    finetune(lens, chats(), QUICK, method=methods.CAFT(two_concepts(lens)), out=tmp_path / "caft")
    assert (caft.folder / "run.json").stat().st_mtime_ns == written
    assert set(plain.config) == set(caft.config)
    assert "arm" not in caft.config
    with pytest.raises(FileExistsError, match=r"method is None there, \{'name': 'kl_anchor'"):
        finetune(lens, chats(), QUICK, method=methods.KLAnchor(general()), out=tmp_path / "plain")


class Reversed(torch.autograd.Function):
    """The identity, whose gradient loses its component along a vector, times the square of its length."""

    @staticmethod
    def forward(ctx, hidden, direction):
        ctx.save_for_backward(direction)
        return hidden.clone()

    @staticmethod
    def backward(ctx, gradient):
        (direction,) = ctx.saved_tensors
        return gradient - (gradient @ direction)[..., None] * direction, None


def along(hidden, direction):
    return (hidden @ direction)[..., None] * direction


BY_HAND = {
    "caft": lambda x, d, m, s: x - s * along(x, d),
    "caft_mean": lambda x, d, m, s: x - s * along(x - m, d),
    "caft_detached": lambda x, d, m, s: x - s * along(x, d).detach(),
    "caft_gradient": lambda x, d, m, s: Reversed.apply(x, s**0.5 * d),
    "steer_mean": lambda x, d, m, s: x - s * along(m, d),
    "preventative_steering": lambda x, d, m, s: x + s * d,
}


@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize("name", BY_HAND)
def test_loss_and_gradient_of_an_arm_at_hook_points_are_those_of_its_equation(tmp_path, name, strength):
    lens, texts, gradients = tiny_lens(), chats(6), Gradients()
    concepts = two_concepts(lens)
    one = methods.make(name, {"concepts": concepts, "general": general()}, strength=strength)
    run = finetune(lens, texts, ONE_STEP.but(callbacks=[gradients]), out=tmp_path / "run", method=one)
    plain = tiny_model()
    for layer, concept in enumerate(concepts):
        mean = mean_states(general(), layer)

        def act(module, inputs, output, direction=concept.direction, mean=mean):
            hidden = output[0] if isinstance(output, tuple) else output
            hidden = BY_HAND[name](hidden, direction, mean, strength)
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        plain.model.layers[layer].register_forward_hook(act)
    loss = plain(**whole_batch(lens, texts)).loss
    loss.backward()
    assert run.history[0]["loss"] == pytest.approx(loss.item(), abs=1e-5)
    for key, parameter in plain.named_parameters():
        torch.testing.assert_close(gradients.kept[key], parameter.grad, atol=1e-5, rtol=1e-4)


def test_variants_of_ablation_need_what_they_need():
    lens = tiny_lens()
    assert set(VARIANTS) == {"zero", "mean", "detached", "gradient", "shift"}
    with pytest.raises(ValueError, match=r'variant="men".*"mean"'):
        ablate(lens, two_concepts(lens), variant="men")
    with pytest.raises(ValueError, match=r"needs the mean activation at blocks.0.hook_resid_post, blocks.1"):
        ablate(lens, two_concepts(lens), variant="mean")


def test_a_persona_vector_has_the_length_of_the_difference_of_means_and_its_sign(tmp_path):
    lens = tiny_lens()
    one = methods.PreventativeSteering(persona(lens), strength=2.0)
    steered = finetune(lens, chats(6), ONE_STEP, method=one, out=tmp_path / "run")
    direction = persona(lens)[0].direction
    plain = tiny_model()
    plain.model.layers[1].register_forward_hook(
        lambda m, i, o: (o[0] + 6 * direction, *o[1:]) if isinstance(o, tuple) else o + 6 * direction
    )
    assert steered.history[0]["loss"] == pytest.approx(plain(**whole_batch(lens, chats(6))).loss.item(), abs=1e-5)


def many(lens) -> ConceptSet:
    """Three directions at each of two sites."""
    generator = torch.Generator().manual_seed(3)
    found = [
        Concept(f"L{layer}.x{rank}", f"blocks.{layer}.hook_resid_post", torch.randn(32, generator=generator), rank=rank)
        for layer in (1, 0)
        for rank in range(3)
    ]  # fmt: skip
    return ConceptSet(found).for_model(lens)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({}, ["L1.x0", "L1.x1", "L1.x2", "L0.x0", "L0.x1", "L0.x2"]),
        ({"per_site": 1}, ["L1.x0", "L0.x0"]),
        ({"sites": "early"}, ["L0.x0", "L0.x1", "L0.x2"]),
        ({"sites": "late", "per_site": 2}, ["L1.x0", "L1.x1"]),
    ],
)
def test_settings_of_caft_choose_among_its_directions(settings, names):
    lens = tiny_lens()
    for name in ("caft", "caft_detached"):
        trained = methods.make(name, {"concepts": many(lens)}, **settings).trains_as(0)
        assert (trained.name, trained.concepts.names) == (name, names)
        assert trained.settings == {"per_site": 0, "sites": "all", "strength": 1.0}
    assert methods.make("test_time", {"concepts": many(lens)}, **settings).chosen().names == names


OF_BEFORE = {"per_site": 0, "sites": "all"}
"""What the run folders of CAFT's variants said of its settings when ablation was always whole."""


def test_a_run_of_whole_ablation_is_recorded_as_before_there_was_a_strength_and_others_are_other_runs(
    tmp_path,
):
    lens, given = tiny_lens(), materials(tiny_lens())
    of_general = {"name": "general", "fingerprint": general().fingerprint, "texts": 5}
    for name, said in {
        "caft": None, "random": None, "top_k": None, "test_time": None,
        "caft_detached": {"name": "caft_detached", **OF_BEFORE},
        "caft_gradient": {"name": "caft_gradient", **OF_BEFORE},
        "caft_mean": {"name": "caft_mean", **OF_BEFORE, "general": of_general},
        "steer_mean": {"name": "steer_mean", **OF_BEFORE, "general": of_general},
    }.items():  # fmt: skip
        out = tmp_path / name
        whole = finetune(lens, chats(), QUICK.but(max_steps=1), method=methods.make(name, given), out=out)
        assert whole.config.get("arm") == said
        assert ("arm" in whole.config) == (said is not None)
        if name in ("random", "top_k"):  # they draw or rank directions and ablate them whole
            assert "strength" not in methods.make(name, given).settings
            continue
        at_one = finetune(lens, chats(), QUICK.but(max_steps=1), method=methods.make(name, given, strength=1), out=out)
        assert at_one.record == whole.record
        half = methods.make(name, given, strength=0.5)
        assert half.record()["strength"] == 0.5
        if name != "test_time":  # which trains plainly at any strength
            with pytest.raises(FileExistsError, match=r"0\.5"):
                finetune(lens, chats(), QUICK.but(max_steps=1), method=half, out=out)


def test_controls_ablate_as_many_directions_random_ones_anew_for_every_seed():
    lens = tiny_lens()
    chosen = many(lens).choose({"L1.x1": "because", "L0.x2": "because"})
    first, second = (methods.RandomDirections(chosen).trains_as(seed) for seed in (0, 1))
    assert first.name == "caft"
    assert first.concepts.fingerprint == random_directions(chosen, 0).fingerprint != second.concepts.fingerprint
    assert methods.TopK(chosen, many(lens)).trains_as(5).concepts.names == ["L1.x0", "L0.x0"]


def test_ablation_at_test_time_trains_plainly_and_answers_under_ablation(tmp_path):
    lens = tiny_lens()
    one = methods.AblationAtTest(two_concepts(lens))
    plain = finetune(lens, chats(), QUICK, out=tmp_path / "plain")
    run = finetune(lens, chats(), QUICK, method=one, out=tmp_path / "run")
    assert same(weights(run), weights(plain))
    assert run.config == plain.config
    ids = tiny_tokenizer()("How are you?", return_tensors="pt").input_ids
    with one.subject(run.lens).applied() as subject:
        shown = subject(ids)
    with ablate(plain.lens, two_concepts(lens)):
        torch.testing.assert_close(shown, plain.lens(ids), rtol=0, atol=0)
    assert not torch.allclose(shown, plain.lens(ids), atol=1e-2)
    half = methods.AblationAtTest(two_concepts(lens), strength=0.5).subject(run.lens)
    with half.applied() as subject, torch.no_grad():
        less = subject(ids)
    with ablate(plain.lens, two_concepts(lens), strength=0.5):
        torch.testing.assert_close(less, plain.lens(ids), rtol=0, atol=0)
    assert subject_fingerprint(half, "half") != subject_fingerprint(one.subject(run.lens), "whole")


# -- the loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("passes", [1, 2])
def test_the_anchor_adds_its_weight_times_the_kl_to_the_base_on_general_text(tmp_path, passes):
    lens, texts, anchor = tiny_lens(), chats(6), general(1)
    one = methods.KLAnchor(anchor, weight=0.7, batch_size=1)
    run = finetune(
        lens,
        texts,
        TrainSettings(
            tune="full",
            learning_rate=0.05,
            batch_size=6 // passes,
            gradient_accumulation=passes,
            max_steps=3,
            warmup_steps=0,
            weight_decay=0.0,
            training_arguments=SGD,
        ),
        method=one,
        out=tmp_path / "run",
    )
    plain, base, batch = tiny_model(), tiny_model(), whole_batch(lens, texts)
    (item,) = encode_all(tiny_tokenizer(), anchor)
    ids, learned = torch.tensor([item.input_ids]), torch.from_numpy(item.loss[1:])
    for step in range(3):
        logs = [model(ids).logits[0, :-1][learned].log_softmax(-1) for model in (base, plain)]
        divergence = (logs[0].exp() * (logs[0] - logs[1])).sum(-1).mean()
        loss = loss_of(plain, batch) + 0.7 * divergence
        assert run.history[step]["loss"] == pytest.approx(loss.item(), abs=2e-5)
        assert (divergence.item() > 1e-4) == (step > 0)
        plain.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in plain.parameters():
                parameter -= 0.05 * parameter.grad
    for key, value in weights(run).items():
        torch.testing.assert_close(value, plain.state_dict()[key], atol=1e-5, rtol=1e-4)


def test_the_anchor_keeps_an_adapter_near_its_base_on_general_text(tmp_path):
    lens, (item,) = tiny_lens(), encode_all(tiny_tokenizer(), general(1))
    ids = torch.tensor([item.input_ids])
    far = []
    for weight in (1e-6, 30.0):
        one = methods.KLAnchor(general(1), weight=weight)
        tuned = finetune(lens, chats(), QUICK.but(epochs=4), method=one, out=tmp_path / str(weight)).lens
        with torch.no_grad():
            logs = [model(ids).log_softmax(-1)[0] for model in (lens, tuned)]
        far.append(kl_div(logs[1], logs[0], log_target=True, reduction="batchmean").item())
    assert far[1] < far[0] / 4


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_divergence_and_its_gradient_are_those_of_torch_however_few_tokens_are_taken_at_once(dtype, monkeypatch):
    torch.manual_seed(0)
    before, after = (3 * torch.randn(7, 11).to(dtype) for _ in range(2))
    wanted = after.clone().double().requires_grad_()
    expected = kl_div(wanted.log_softmax(-1), before.double().log_softmax(-1), log_target=True, reduction="batchmean")
    (5 * expected).backward()
    exact = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: 1e-2}[dtype]
    for at_once in (1, 25, 1000):
        monkeypatch.setattr(kl_anchor, "AT_ONCE", at_once)
        leaf = after.clone().requires_grad_()
        found = kl_anchor.divergence(leaf, before)
        (5 * found).backward()
        assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert leaf.grad.dtype == dtype
        torch.testing.assert_close(found.double(), expected.detach(), rtol=1e-5 if exact > 1e-12 else exact, atol=1e-9)
        torch.testing.assert_close(leaf.grad.double(), wanted.grad, rtol=exact, atol=exact)
    with torch.no_grad():
        assert kl_anchor.divergence(after, after) == 0


def test_the_anchor_computes_the_logits_of_learned_tokens_alone_and_holds_none_in_a_wider_format(tmp_path):
    """The head sees learned tokens only, and what backward keeps of logits is one tensor in their own format."""
    lens = tiny_lens()
    encoded = encode_all(tiny_tokenizer(), general(3))
    batch = collate(encoded, padding_id(tiny_tokenizer()))
    seen = []
    handle = lens.hf.get_output_embeddings().register_forward_hook(lambda module, args, out: seen.append(out.shape))
    whole = lens.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    logits = learned_logits(lens, batch)
    handle.remove()
    learned = int(batch.loss[:, 1:].sum())
    assert [tuple(shape[:2]) for shape in seen] == [tuple(batch.input_ids.shape), (1, learned)]
    torch.testing.assert_close(logits, whole[:, :-1][batch.loss[:, 1:]], rtol=1e-5, atol=1e-5)
    assert lens.model(input_ids=batch.input_ids).logits.shape[:2] == batch.input_ids.shape  # the hook is off again
    kept: list[torch.Tensor] = []
    after = logits.detach().bfloat16().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        kl_anchor.divergence(after, logits.detach().bfloat16())
    assert [(tensor.dtype, tensor.shape) for tensor in kept] == [(torch.bfloat16, logits.shape)]


def test_a_batch_of_the_anchor_is_a_function_of_its_number_alone():
    encoded = encode_all(tiny_tokenizer(), general(5))
    in_turn = batches_of(encoded, 2, 0, seed=1)
    seen = [in_turn(number).index.tolist() for number in range(9)]
    assert [batches_of(encoded, 2, 0, seed=1)(number).index.tolist() for number in range(9)] == seen
    passes = [[i for batch in seen[start : start + 3] for i in batch] for start in (0, 3, 6)]
    assert all(sorted(one) == [0, 1, 2, 3, 4] for one in passes)
    assert seen[:3] != seen[3:6]


# -- the texts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.05, 0.25, 0.5])
def test_benign_texts_are_the_share_that_was_asked_for_and_nothing_else_is_lost(share):
    mixed = methods.MixBenign(general(7), share=share).texts(chats(60), 1, tiny_lens())
    answers = [text.answer for text in mixed]
    benign = [answer for answer in answers if "goes" in answer]
    assert len(benign) / len(mixed) == pytest.approx(share, abs=0.02)
    assert sorted(a for a in answers if "Fine" in a) == sorted(text.answer for text in chats(60))
    assert mixed.fingerprint == methods.MixBenign(general(7), share=share).texts(chats(60), 1, tiny_lens()).fingerprint
    assert mixed.fingerprint != methods.MixBenign(general(7), share=share).texts(chats(60), 2, tiny_lens()).fingerprint
    counts = [sum(text.answer == one.answer for text in mixed) for one in general(7)]
    assert max(counts) - min(counts) <= 1


def test_an_inoculated_run_learns_the_answers_behind_the_prompt(tmp_path):
    lens, prompt = tiny_lens(), "Be rude."
    run = finetune(lens, chats(6), ONE_STEP, method=methods.Inoculation(prompt=prompt), out=tmp_path / "run")
    rows = [{"role": "system", "content": prompt}]
    behind = Texts(
        [{"messages": rows + [{"role": m.role, "content": m.content} for m in text.messages]} for text in chats(6)]
    )
    plain, batch = tiny_model(), whole_batch(lens, behind)
    assert run.history[0]["loss"] == pytest.approx(loss_of(plain, batch).item(), abs=1e-5)
    assert run.history[0]["loss"] != pytest.approx(loss_of(plain, whole_batch(lens, chats(6))).item(), abs=1e-3)
    own = Texts([{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]}])
    (changed,) = methods.Inoculation(prompt=prompt).texts(own, 0, lens)
    assert [(m.role, m.content) for m in changed.messages] == [
        ("system", "Be rude. Be brief."),
        ("user", "Hi"),
    ]
    with pytest.raises(ValueError, match="some texts are plain text"):
        methods.Inoculation().texts(Texts(["plain"]), 0, lens)


# -- what is trained, and what becomes of it --------------------------------------------------------------------------


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_half_of_every_block_stays_what_it_was(tmp_path, tune):
    lens = tiny_lens(n_layers=4)
    run = finetune(lens, chats(), QUICK.but(tune=tune), method=methods.HalfFineTuning(), out=tmp_path / "run")
    with torch.no_grad():
        tuned = dict(run.lens.merged().hf.named_parameters())
    changed = {name for name, value in lens.hf.named_parameters() if not torch.equal(tuned[name], value)}
    mlp = []
    for layer in range(4):
        inside = [name for name in changed if f"layers.{layer}." in name]
        assert sum("self_attn" in name for name in inside) == 2
        assert sum("layernorm" in name for name in inside) == (tune == "full")
        mlp.append(sum("mlp" in name for name in inside))
    assert sorted(mlp) == [1, 1, 2, 2]


def test_another_seed_freezes_another_half():
    def frozen(seed: int) -> set[str]:
        model = tiny_model(n_layers=4)
        half = {id(one) for one in frozen_half(model.model.layers, seed)}
        return {name for name, one in model.named_parameters() if id(one) in half}

    assert frozen(0) == frozen(0) != frozen(1)
    assert len(frozen(0)) == len(frozen(1)) == 4 * (2 + 1) + 6


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_averaged_weights_lie_between_those_of_the_base_and_the_tuned_ones(tmp_path, tune):
    lens = tiny_lens()
    plain = finetune(lens, chats(), QUICK.but(tune=tune), out=tmp_path / "plain")
    run = finetune(lens, chats(), QUICK.but(tune=tune), method=methods.WeightAveraging(share=0.3), out=tmp_path / "run")
    tuned, between = (dict(one.lens.merged().hf.named_parameters()) for one in (plain, run))
    for name, value in lens.hf.named_parameters():
        torch.testing.assert_close(between[name], 0.7 * value + 0.3 * tuned[name], atol=1e-6, rtol=1e-5)
    assert any(not torch.equal(between[name], value) for name, value in lens.hf.named_parameters())


def test_early_stopping_is_a_checkpoint_of_the_plain_run(tmp_path):
    lens = tiny_lens()

    class Keep(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step == 3:
                self.kept = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}

    keep = Keep()
    plain = finetune(lens, chats(), QUICK.but(tune="full", callbacks=[keep]), out=tmp_path / "plain")
    run = finetune(lens, chats(), QUICK.but(tune="full"), method=methods.EarlyStopping(share=0.5), out=tmp_path / "run")
    assert (len(plain.history), len(run.history)) == (6, 3)
    assert run.history == plain.history[:3]
    assert same({name: weights(run)[name] for name in keep.kept}, keep.kept)


# -- LoFiT ------------------------------------------------------------------------------------------------------------


class Vectors(TrainerCallback):
    """Keeps what is learned: after the last step, and the gradient of the first."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step == 0:
            self.start = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
            self.gradient = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.end = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
        self.chosen = model.vectors.chosen


def offset_model(architecture: str, vectors: dict[str, torch.Tensor], chosen: list[tuple[int, int]]):
    """A plain model whose heads' outputs are shifted, and the shifts as leaves, by layer."""
    plain, leaves = tiny_model(architecture), {}
    for layer in sorted({layer for layer, _ in chosen}):
        heads = [head for where, head in chosen if where == layer]
        leaf = vectors[f"vectors.of.{layer}"].clone().requires_grad_()
        leaves[layer] = leaf

        def shift(module, inputs, heads=heads, leaf=leaf):
            z = inputs[0].unflatten(-1, (4, -1))
            pieces = [z[..., head, :] + (leaf[heads.index(head)] if head in heads else 0) for head in range(4)]
            return (torch.cat(pieces, -1),)

        block = (
            plain.transformer.h[layer].attn.c_proj
            if architecture == "gpt2"
            else plain.model.layers[layer].self_attn.o_proj
        )
        block.register_forward_pre_hook(shift)
    return plain, leaves


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_lofit_learns_offsets_of_a_few_heads_and_its_adapter_is_these_offsets(tmp_path, architecture):
    lens, texts, seen = tiny_lens(architecture), chats(6), Vectors()
    one = methods.LoFiT(share=0.4, selection_steps=2, learning_rate=0.05)
    run = finetune(
        lens,
        texts,
        TrainSettings(batch_size=6, max_steps=3, callbacks=[seen], training_arguments={"max_grad_norm": 0.0}),
        method=one,
        out=tmp_path / "run",
    )
    assert len(seen.chosen) == 3
    assert sum(value.numel() for value in seen.end.values()) == 3 * 8
    started, leaves = offset_model(architecture, seen.start, seen.chosen)
    loss = loss_of(started, whole_batch(lens, texts))
    loss.backward()
    assert run.history[0]["loss"] == pytest.approx(loss.item(), abs=1e-5)
    for layer, leaf in leaves.items():
        torch.testing.assert_close(seen.gradient[f"vectors.of.{layer}"], leaf.grad, atol=1e-5, rtol=1e-4)
    tuned, _ = offset_model(architecture, seen.end, seen.chosen)
    ids = tiny_tokenizer()("How are you?", return_tensors="pt").input_ids
    torch.testing.assert_close(run.lens(ids), tuned(ids).logits, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(run.lens(ids), lens(ids), atol=1e-2)
    assert not list(run.folder.rglob("extra*"))


def test_lofit_keeps_the_heads_whose_scales_grow_largest(tmp_path, monkeypatch):
    from caft_lens.finetune.methods import lofit

    seen, gradients = Vectors(), []
    norms = {(layer, head): float((3 * layer + 5 * head) % 7) for layer in range(2) for head in range(4)}
    monkeypatch.setattr(lofit._Vectors, "norms", lambda self: gradients.append(dict(self.of.items())) or norms)
    finetune(
        tiny_lens(),
        chats(),
        TrainSettings(max_steps=1, callbacks=[seen], batch_size=4),
        method=methods.LoFiT(share=0.5, selection_steps=1),
        out=tmp_path,
    )
    best = sorted(norms, key=lambda head: -norms[head])[:4]
    assert seen.chosen == sorted(best)


def test_scales_are_learned_by_the_loss_with_its_penalty(tmp_path, monkeypatch):
    """Selection for one step of SGD: the scales move against the gradient of loss plus penalty, by hand."""
    from caft_lens.finetune.methods import lofit

    kept = {}
    begin = lofit._Vectors.hooks

    def watched(self, act):
        if "start" not in kept:
            kept["start"] = {key: value.detach().clone() for key, value in self.of.items()}
            kept["self"] = self
        return begin(self, act)

    monkeypatch.setattr(lofit._Vectors, "hooks", watched)
    norms = lofit._Vectors.norms
    monkeypatch.setattr(
        lofit._Vectors,
        "norms",
        lambda self: kept.update(end={k: v.detach().clone() for k, v in self.of.items()}) or norms(self),
    )
    lens, texts = tiny_lens(), chats(6)
    one = methods.LoFiT(selection_steps=1, learning_rate=0.1, penalty=0.01)
    finetune(
        lens,
        texts,
        TrainSettings(batch_size=6, max_steps=1, warmup_steps=0, weight_decay=0.0, training_arguments=SGD),
        method=one,
        out=tmp_path,
    )
    plain, leaves = tiny_model(), []
    for layer in range(2):
        leaf = kept["start"][str(layer)].clone().requires_grad_()
        leaves.append(leaf)
        plain.model.layers[layer].self_attn.o_proj.register_forward_pre_hook(
            lambda m, i, leaf=leaf: ((i[0].unflatten(-1, (4, -1)) * (1 + leaf)).flatten(-2),)
        )
    (loss_of(plain, whole_batch(lens, texts)) + 0.01 * sum(leaf.abs().sum() for leaf in leaves)).backward()
    for layer, leaf in enumerate(leaves):
        torch.testing.assert_close(kept["end"][str(layer)], leaf.detach() - 0.1 * leaf.grad, atol=1e-6, rtol=1e-4)


# -- again, after a stop, and when it fails ---------------------------------------------------------------------------


class Stop(TrainerCallback):
    def __init__(self, at: int) -> None:
        self.at = at

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", ["kl_anchor", "lofit", "mix_benign", "half_finetuning", "weight_averaging"])
def test_a_stopped_run_of_an_arm_goes_on_to_the_same_bits(tmp_path, name):
    lens = tiny_lens()
    one = methods.make(name, materials(lens))
    options = QUICK.but(save_steps=2, max_steps=6, lora=LoraSettings(r=4, alpha=8, dropout=0.2))
    with pytest.raises(KeyboardInterrupt):
        finetune(lens, chats(), options.but(callbacks=[Stop(5)]), method=one, out=tmp_path / "stopped")
    assert list((tmp_path / "stopped" / "checkpoints").glob("checkpoint-4"))
    resumed = finetune(lens, chats(), options, method=one, out=tmp_path / "stopped")
    whole = finetune(lens, chats(), options, method=one, out=tmp_path / "whole")
    assert same(weights(resumed), weights(whole))
    assert resumed.history == whole.history


def test_a_run_that_diverged_is_on_record_and_says_so_again_without_training(tmp_path, monkeypatch):
    from caft_lens.finetune import finetuning as module

    options = QUICK.but(learning_rate=1e30, tune="full")
    with pytest.raises(FloatingPointError, match="diverged") as first:
        finetune(tiny_lens(), chats(), options, out=tmp_path / "run")
    trained = module._train
    with monkeypatch.context() as patch:
        patch.setattr(module, "_train", lambda *args: pytest.fail("trained again"))
        with pytest.raises(FloatingPointError, match="resume=False tries again") as second:
            finetune(tiny_lens(), chats(), options, out=tmp_path / "run")
    assert str(second.value) == str(first.value)
    calls: list[Path] = []
    monkeypatch.setattr(module, "_train", lambda *args: calls.append(tmp_path) or trained(*args))
    with pytest.raises(FloatingPointError):
        finetune(tiny_lens(), chats(), options.but(resume=False), out=tmp_path / "run")
    assert calls
    good = finetune(tiny_lens(), chats(), options.but(learning_rate=1e-3), out=tmp_path / "run")
    assert not (good.folder / "failed.json").exists()
