"""What ablation and steering do, sentence by sentence, against arithmetic done by hand on plain transformers."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from peft import LoraConfig
from tiny_models import ARCHITECTURES, tiny_lens, tiny_model, tiny_tokenizer

from caft_lens.concepts.ablation import Ablated, ablate, ablated, project_out, steer
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.concepts.interventions import intervene
from caft_lens.model.answering import completions
from caft_lens.model.attach import at, fired
from caft_lens.model.lens import Lens
from caft_lens.model.sampling import Sampling
from caft_lens.text.batching import collate
from caft_lens.text.documents import Message, Text, Texts
from caft_lens.text.encoding import encode
from caft_lens.text.roles import ASSISTANT, USER

EXACT = {"rtol": 0.0, "atol": 1e-5}
SITES = (
    "blocks.0.hook_resid_post",
    "blocks.1.hook_resid_pre",
    "blocks.1.hook_attn_out",
    "blocks.1.hook_mlp_out",
)

architectures = pytest.mark.parametrize("architecture", ARCHITECTURES)


@pytest.fixture(scope="module")
def lens() -> Lens:
    return tiny_lens()


def concepts_for(lens: Lens, hooks=SITES, per_hook: int = 3, seed: int = 0) -> ConceptSet:
    """Random directions at each hook point, not orthogonal to each other, the last one dependent on the others."""
    generator = torch.Generator().manual_seed(seed)
    concepts = []
    for hook in hooks:
        rows = torch.randn(per_hook, lens.d_model, generator=generator)
        if per_hook > 2:
            rows[-1] = rows[0] + 0.5 * rows[1]
        concepts += [Concept(f"{hook} {i}", hook, row) for i, row in enumerate(rows)]
    return ConceptSet(concepts, {"model": lens.name, "fingerprint": lens.lineage[-1]})


def chat(user: str, assistant: str) -> Text:
    return Text(messages=(Message("user", user), Message("assistant", assistant)))


CHATS = [chat("Hello", "Well, hi there."), chat("Who?", "Me.")]


def batch_of(texts=CHATS, side="right"):
    return collate([encode(tiny_tokenizer(), text) for text in texts], 0, side)


def inputs_of(batch) -> dict[str, torch.Tensor]:
    return {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "position_ids": batch.position_ids,
    }


def projector(concepts: ConceptSet, hook: str) -> torch.Tensor:
    """I - D⁺ D in fp64, from the directions themselves, of which some depend on others up to fp32 rounding."""
    directions = torch.stack([c.direction for c in concepts if c.hook == hook]).double()
    return torch.eye(directions.shape[1], dtype=torch.float64) - torch.linalg.pinv(directions, rtol=1e-5) @ directions


def by_hand(model, concepts: ConceptSet) -> list:
    """Torch hooks of the test's own that project block outputs on a plain transformers model."""
    handles = []
    for hook in concepts.hooks:
        _, layer, site = hook.split(".")
        assert site == "hook_resid_post"
        matrix = projector(concepts, hook).float()
        block = model.get_decoder().layers[int(layer)]
        handles.append(block.register_forward_hook(lambda module, args, out, matrix=matrix: out @ matrix.to(out.dtype)))
    return handles


RESID = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")


# --- the projection -------------------------------------------------------------------------------------------


@architectures
def test_ablated_activations_have_no_component_along_any_ablated_direction(architecture):
    lens = tiny_lens(architecture)
    concepts = concepts_for(lens)
    _, before = lens.run_with_cache(batch_of())
    with ablate(lens, concepts):
        _, after = lens.run_with_cache(batch_of())
    for concept in concepts:
        assert (before[concept.hook] @ concept.direction).abs().max() > 1e-2
        assert (after[concept.hook] @ concept.direction).abs().max() < 1e-5 * before[concept.hook].norm(dim=-1).max()


def test_the_orthogonal_complement_is_untouched(lens):
    concepts = concepts_for(lens, hooks=SITES[:1])
    with ablate(lens, concepts):
        _, after = lens.run_with_cache("Hello", names_filter=0)
    _, before = lens.run_with_cache("Hello", names_filter=0)
    removed = (before[0] - after[0]).double()
    assert removed.abs().max() > 1e-2
    torch.testing.assert_close(removed @ projector(concepts, SITES[0]), torch.zeros_like(removed), **EXACT)
    torch.testing.assert_close(after[0].double(), before[0].double() @ projector(concepts, SITES[0]), **EXACT)


def test_projecting_twice_is_projecting_once(lens):
    basis = concepts_for(lens).basis(SITES[0])
    x = torch.randn(2, 7, lens.d_model, generator=torch.Generator().manual_seed(0))
    once = project_out(x, basis)
    torch.testing.assert_close(project_out(once, basis), once, **EXACT)
    with ablate(lens, {0: basis}):
        logits = lens("Hello")
        with ablate(lens, {0: basis}):
            torch.testing.assert_close(lens("Hello"), logits, **EXACT)


def test_the_projection_of_everything_is_zero_and_of_nothing_the_identity():
    x = torch.randn(3, 4)
    torch.testing.assert_close(project_out(x, torch.eye(4)), torch.zeros(3, 4), **EXACT)
    torch.testing.assert_close(project_out(x, torch.zeros(4, 0)), x, rtol=0, atol=0)


@pytest.mark.parametrize("autocast", [False, True])
def test_coefficients_are_exact_in_bf16_also_under_autocast(autocast):
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(64, 2, generator=generator))[0]
    # A concept a hundred times stronger than the rest: rounded coefficients would leave more of it than there is else.
    x = (torch.randn(50, 64, generator=generator) + 100 * basis[:, 0]).bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        result = project_out(x, basis)
    exact = x.double() - x.double() @ basis.double() @ basis.double().T
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result, exact.bfloat16(), rtol=2**-7, atol=1e-4)
    assert project_out(x.double(), basis.double()).dtype == torch.float64


# --- in training what it is at inference ----------------------------------------------------------------------


def test_loss_and_gradients_under_ablation_equal_those_of_a_projection_by_hand():
    lens, model, batch = tiny_lens(), tiny_model(), batch_of()
    concepts = concepts_for(lens, RESID)
    by_hand(model, concepts)
    reference = model(**inputs_of(batch), labels=batch.labels)
    reference.loss.backward()
    with ablate(lens, concepts):
        ours = lens.model(**inputs_of(batch), labels=batch.labels)  # as a Trainer calls it
        torch.testing.assert_close(lens(batch), ours.logits, rtol=0, atol=0)
    ours.loss.backward()
    torch.testing.assert_close(ours.logits, reference.logits, **EXACT)
    for (name, a), b in zip(lens.model.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, msg=lambda m, name=name: f"{name}: {m}", **EXACT)


@architectures
def test_gradients_upstream_have_no_component_along_any_ablated_direction(architecture):
    lens = tiny_lens(architecture)
    concepts = concepts_for(lens)
    inner: dict[str, torch.Tensor] = {}

    def keep(x, hook):
        # What the site gave before the projection; a tensor of its own, so that its gradient comes through that alone.
        inner[hook.name] = x + 0
        inner[hook.name].retain_grad()
        return inner[hook.name]

    with lens.hooks([(hook, keep) for hook in concepts.hooks]), ablate(lens, concepts):
        lens(batch_of(), return_type="loss").backward()
    for concept in concepts:
        gradient = inner[concept.hook].grad
        assert gradient.norm() > 1e-4
        assert (gradient @ concept.direction).abs().max() < 1e-5 * gradient.norm(dim=-1).max()


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("roles", [None, ("assistant",)])
def test_checkpointing_changes_no_gradient_under_ablation(reentrant, roles):
    batch, gradients = batch_of(), []
    for checkpointing in (False, True):
        base = tiny_lens()
        torch.manual_seed(0)
        lens = base.adapt(LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
        lens.train()
        if checkpointing:
            lens.model.enable_input_require_grads()
            lens.model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        # Open until after backward: hooks inside a block run again when it is computed again.
        with ablate(lens, concepts_for(base), roles=roles), lens.roles_as(batch.roles):
            lens.model(**inputs_of(batch), labels=batch.labels).loss.backward()
        gradients.append([p.grad for p in lens.parameters() if p.requires_grad])
    assert len(gradients[0]) == 28
    for plain, checkpointed in zip(*gradients, strict=True):
        assert plain.abs().sum() > 0
        torch.testing.assert_close(plain, checkpointed, **EXACT)


@architectures
def test_lora_under_ablation_equals_the_merged_model_under_ablation(architecture):
    base = tiny_lens(architecture)
    tuned = base.adapt(LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    merged, concepts = tuned.merged(), concepts_for(base)
    plain = base("Hello")
    with ablate(tuned, concepts), ablate(merged, concepts):
        torch.testing.assert_close(tuned("Hello"), merged("Hello"), **EXACT)
        torch.testing.assert_close(base("Hello"), plain, rtol=0, atol=0)
    for hook in SITES:  # and every adapter weight learns
        with ablate(tuned, {hook: concepts.basis(hook)}):
            tuned(batch_of(), return_type="loss").backward()
    assert all(p.grad.abs().sum() > 0 for p in tuned.parameters() if p.requires_grad)


def test_bf16_leaves_no_more_than_rounding(lens):
    half = tiny_lens()
    half.model.to(torch.bfloat16)
    concepts = concepts_for(half)
    with ablate(half, concepts):
        _, cache = half.run_with_cache(batch_of())
        half(batch_of(), return_type="loss").backward()
    for concept in concepts:
        x = cache[concept.hook]
        assert x.dtype == torch.bfloat16
        left = (x.float() @ concept.direction).abs() / x.float().norm(dim=-1)
        assert left[x.float().norm(dim=-1) > 0].max() < 2**-8
    assert all(p.grad.dtype == torch.bfloat16 for p in half.parameters() if p.grad is not None)


def test_a_basis_first_used_in_inference_mode_still_serves_in_training():
    lens = tiny_lens()
    lens.model.double()  # so that the basis is converted on first use
    with torch.inference_mode():
        context = ablate(lens, concepts_for(lens))
    with context:
        with torch.inference_mode():
            lens("Hello")
        lens("Hello", return_type="loss").backward()
    assert lens.hf.get_input_embeddings().weight.grad.abs().sum() > 0


# --- a share of it --------------------------------------------------------------------------------------------

AFTERWARDS = {
    "zero": lambda x, q, m, s: x - s * (x @ q) @ q.T,
    "mean": lambda x, q, m, s: x - s * ((x - m) @ q) @ q.T,
    "detached": lambda x, q, m, s: x - s * (x @ q) @ q.T,
    "gradient": lambda x, q, m, s: x,
    "shift": lambda x, q, m, s: x - s * (m @ q) @ q.T,
}


@pytest.mark.parametrize("strength", [0.25, 1.0])
@pytest.mark.parametrize("variant", AFTERWARDS)
def test_a_share_of_ablation_is_that_share_of_its_equation_and_of_what_the_gradient_loses(variant, strength):
    lens, hook = tiny_lens(), SITES[0]
    basis = concepts_for(lens, [hook]).basis(hook)
    mean = torch.randn(lens.d_model, generator=torch.Generator().manual_seed(1))
    kept: list[torch.Tensor] = []

    def keep(x, hook):
        kept.append(x + 0)
        kept[-1].retain_grad()
        return kept[-1]

    options = {"variant": variant, "means": {hook: mean}, "strength": strength}
    with lens.hooks([(hook, keep)]), ablate(lens, {hook: basis}, **options), lens.hooks([(hook, keep)]):
        lens(batch_of(), return_type="loss").backward()
    before, after = kept
    x, q, m, upstream, downstream = (
        t.detach().double().numpy() for t in (before, basis, mean, before.grad, after.grad)
    )
    expected = AFTERWARDS[variant](x, q, m, strength)
    np.testing.assert_allclose(after.detach().numpy(), expected, atol=1e-5)
    lost = 0.0 if variant in ("detached", "shift") else strength
    np.testing.assert_allclose(upstream, downstream - lost * (downstream @ q) @ q.T, atol=1e-7)
    assert np.abs(downstream @ q).max() > 1e-4


def test_a_whole_ablation_has_the_bits_of_the_projection(lens):
    basis = concepts_for(lens).basis(SITES[0])
    x = torch.randn(5, lens.d_model, generator=torch.Generator().manual_seed(0))
    assert torch.equal(project_out(x, basis, 1.0), torch.addmm(x, x @ basis, basis.T, alpha=-1))
    with ablate(lens, concepts_for(lens)):
        whole = lens("Hello")
    for strength in (1, 1.0):
        with ablate(lens, concepts_for(lens), strength=strength):
            assert torch.equal(lens("Hello"), whole)


def test_a_model_seen_under_a_share_of_ablation_answers_so(lens):
    concepts = concepts_for(lens)
    with ablate(lens, concepts, strength=0.5):
        expected = lens("Hello")
    with ablated(lens, concepts, strength=0.5).applied():
        torch.testing.assert_close(lens("Hello"), expected, rtol=0, atol=0)
    with ablate(lens, concepts):
        assert (lens("Hello") - expected).abs().max() > 1e-3


@pytest.mark.parametrize("strength", [0, -0.5, 1.01, float("nan")])
def test_a_strength_that_is_no_share_is_refused(lens, strength):
    for act in (ablate, ablated):
        with pytest.raises(ValueError, match=r"strength=.*: expected a number above 0 and at most 1"):
            act(lens, concepts_for(lens), strength=strength)


# --- generation -----------------------------------------------------------------------------------------------


@architectures
@pytest.mark.parametrize("roles", [None, ("assistant",), ("user",)])
def test_cached_generation_under_ablation_equals_a_loop_without_cache(architecture, roles):
    lens = tiny_lens(architecture)
    concepts = concepts_for(lens)
    encoded = encode(tiny_tokenizer(), Text(messages=CHATS[0].messages[:1]), add_generation_prompt=True)
    tokens, known = torch.tensor([encoded.input_ids]), torch.from_numpy(encoded.roles)[None]
    with ablate(lens, concepts, roles=roles), torch.no_grad():
        generated = lens.generate(Texts([chat("Hello", ""), CHATS[1]]), max_new_tokens=6, temperature=0,
                                  return_type="tokens", eos_token_id=[])[0]  # fmt: skip
        for token in generated:
            assert token == lens(tokens, roles=known)[0, -1].argmax()
            tokens = torch.cat([tokens, torch.tensor([[token]])], 1)
            known = torch.cat([known, torch.tensor([[ASSISTANT]], dtype=torch.int8)], 1)
    assert len(generated) == 6


# --- roles ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
def test_only_tokens_of_the_roles_are_touched(lens, side):
    batch, hook = batch_of(side=side), "blocks.0.hook_resid_post"
    concepts = concepts_for(lens, [hook])
    _, plain = lens.run_with_cache(batch)
    with ablate(lens, concepts):
        _, everywhere = lens.run_with_cache(batch)
    with ablate(lens, concepts, roles=("assistant", "user")):
        _, some = lens.run_with_cache(batch)
    wanted = (batch.roles == ASSISTANT) | (batch.roles == USER)
    assert 0 < wanted.sum() < batch.attention_mask.sum()
    torch.testing.assert_close(some[hook][wanted], everywhere[hook][wanted], rtol=0, atol=0)
    torch.testing.assert_close(some[hook][~wanted], plain[hook][~wanted], rtol=0, atol=0)


def test_roles_that_nobody_told_are_an_error_that_says_how_to_tell_them(lens):
    batch, concepts = batch_of(), concepts_for(lens)
    with ablate(lens, concepts, roles=["assistant"]):
        with pytest.raises(RuntimeError, match=r"nobody told the role.*lens\.roles_as"):
            lens.model(input_ids=batch.input_ids)
        with lens.roles_as(batch.roles):
            lens.model(input_ids=batch.input_ids)
        with pytest.raises(RuntimeError, match="opened for another batch"), at(lens, {0: lambda x: x[:, 1:]}):
            lens(batch)
    with (
        pytest.raises(ValueError, match=r'Unknown role "asistant".*"assistant"'),
        ablate(lens, concepts, roles=["asistant"]),
    ):
        pass


# --- what is refused, and what is left behind -----------------------------------------------------------------


def test_concepts_that_do_not_fit_the_model_are_refused(lens):
    concepts = concepts_for(lens)
    other = tiny_lens(seed=1)
    for wrong in (other, tiny_lens(d_model=16), tiny_lens(n_layers=1)):
        with pytest.raises(ValueError, match=r"found on|wide|lacks"), ablate(wrong, concepts):
            pass
        with pytest.raises(ValueError, match=r"found on|wide|lacks"):
            ablated(wrong, concepts)
    with ablate(other, concepts.for_model(other)):
        pass


def test_a_basis_that_is_none_is_refused(lens):
    q = torch.eye(32)[:, :2]
    for wrong, error, message in [
        (
            {0: 2 * q},
            ValueError,
            r"basis for blocks\.0\.hook_resid_post is not orthonormal .*torch\.linalg\.qr",
        ),
        ({0: q * float("nan")}, ValueError, "basis for blocks.0.hook_resid_post is NaN or infinite in 64"),
        ({0: torch.eye(16)}, ValueError, "has width 16, but tiny-llama has d_model=32"),
        ({5: q}, KeyError, "no layer 5"),
        ({"blocks.0.hook_resid_pots": q}, KeyError, "Did you mean"),
        ({"blocks.0.attn.hook_z": q}, ValueError, "take hook_attn_out"),
        ({}, ValueError, "Nothing to ablate"),
        (q, TypeError, "not Tensor"),
    ]:
        with pytest.raises(error, match=message), ablate(lens, wrong):
            pass
    with pytest.raises(
        ValueError, match=r"two entries for blocks\.1\.hook_resid_post: 1 and 'blocks\.1\.hook_resid_post'"
    ):
        ablate(lens, {1: q, "blocks.1.hook_resid_post": q})
    vector = torch.zeros(32)
    vector[3] = 1
    with ablate(lens, {0: vector}):
        _, cache = lens.run_with_cache("Hello", names_filter=0)
    assert cache[0][..., 3].abs().max() < 1e-6


@pytest.mark.parametrize("interruption", [ValueError, KeyboardInterrupt])
def test_nothing_stays_ablated_whatever_ends_the_block(lens, interruption):
    plain = lens("Hello")

    def interrupted():
        with ablate(lens, concepts_for(lens)):
            assert (lens("Hello") - plain).abs().max() > 1e-2
            raise interruption

    with pytest.raises(interruption):
        interrupted()
    torch.testing.assert_close(lens("Hello"), plain, rtol=0, atol=0)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in lens.model.modules())


def test_ablating_one_of_two_lenses_over_shared_weights_leaves_the_other(lens):
    fork, plain = lens.fork(), lens("Hello")
    with ablate(fork, concepts_for(lens)):
        torch.testing.assert_close(lens("Hello"), plain, rtol=0, atol=0)
        assert (fork("Hello") - plain).abs().max() > 1e-2


# --- steering and the rest ------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [4.0, -2.5])
def test_steering_adds_a_multiple_of_the_unit_direction_at_its_site_and_nothing_else(lens, strength):
    concept = Concept("c", "blocks.0.hook_resid_post", 7 * torch.randn(32, generator=torch.Generator().manual_seed(0)))
    batch = batch_of()
    _, plain = lens.run_with_cache(batch)
    with steer(lens, concept, strength):
        _, steered = lens.run_with_cache(batch)
    added = steered[0] - plain[0]
    torch.testing.assert_close(added, (strength * concept.direction).expand_as(added), **EXACT)
    torch.testing.assert_close(steered["blocks.0.hook_attn_out"], plain["blocks.0.hook_attn_out"], rtol=0, atol=0)
    with steer(lens, concept, strength, roles=["user"]):
        _, some = lens.run_with_cache(batch)
    user = batch.roles == USER
    torch.testing.assert_close(some[0][user], steered[0][user], rtol=0, atol=0)
    torch.testing.assert_close(some[0][~user], plain[0][~user], rtol=0, atol=0)


def test_steering_keeps_the_dtype_and_refuses_another_width():
    lens = tiny_lens()
    lens.model.to(torch.bfloat16)
    with steer(lens, Concept("c", "blocks.0.hook_resid_post", torch.ones(32)), 3.0):
        assert lens("Hello").dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r'direction of "c" has width 16'):
        steer(lens, Concept("c", "blocks.0.hook_resid_post", torch.ones(16)), 3.0)


def test_steering_takes_one_concept_and_says_so():
    concepts = ConceptSet([Concept("c", "blocks.0.hook_resid_post", torch.ones(32))])
    with pytest.raises(TypeError, match="one Concept, not ConceptSet"):
        steer(tiny_lens(), concepts, 3.0)


def acts(lens, concept: Concept) -> list:
    """What may be done with a concept, each as a function of the model."""
    concepts = ConceptSet([concept]).for_model(lens)
    return [
        lambda model: ablate(model, concepts),
        lambda model: steer(model, concept, 3.0),
        lambda model: intervene(model, concepts, {"c": "ablate"}),
        lambda model: ablated(model, concepts).applied(),
    ]


def test_a_transformers_model_is_ablated_and_steered_as_its_lens_is(lens):
    concept = Concept("c", "blocks.0.hook_resid_post", torch.ones(lens.d_model))
    ids = torch.tensor([[1, 5, 3]])
    for act in acts(lens, concept):
        with act(lens), torch.no_grad():
            changed = lens.hf(ids).logits
        with act(lens.hf), torch.no_grad():
            torch.testing.assert_close(lens.hf(ids).logits, changed, rtol=0, atol=0)
        with torch.no_grad():
            assert not torch.equal(lens.hf(ids).logits, changed)


def test_a_run_is_no_model_and_the_error_says_where_its_model_is(lens):
    run = SimpleNamespace(lens=lens)
    for act in acts(lens, Concept("c", "blocks.0.hook_resid_post", torch.ones(lens.d_model))):
        with pytest.raises(TypeError, match=r"not SimpleNamespace: give run.lens"):
            act(run)
        with pytest.raises(TypeError, match=r"not str: cl.load makes a Lens"):
            act("pocket")


def test_steering_then_ablating_takes_away_what_was_added(lens):
    concept = concepts_for(lens, RESID[:1], per_hook=1)
    with ablate(lens, concept):
        expected = lens("Hello")
    with steer(lens, concept[0], 50.0), ablate(lens, concept):
        torch.testing.assert_close(lens("Hello"), expected, rtol=0, atol=1e-4)


def test_fired_counts_passes_and_knows_what_was_not_passed(lens):
    with fired(lens, [0, "blocks.1.hook_mlp_out"]) as passed:
        lens("Hello", stop_at_layer=1)
        lens("Hello", stop_at_layer=1)
    assert dict(passed) == {"blocks.0.hook_resid_post": 2, "blocks.1.hook_mlp_out": 0}


def test_a_subject_under_ablation_is_ablated_only_while_it_is_applied(lens):
    concepts, plain = concepts_for(lens), lens("Hello")
    subject = ablated(lens, concepts, roles=["text"])
    assert subject == Ablated(lens, concepts, ("text",))
    with subject.applied() as applied:
        assert applied is lens
        inside = lens("Hello")
    with ablate(lens, concepts):
        torch.testing.assert_close(inside, lens("Hello"), rtol=0, atol=0)
    torch.testing.assert_close(lens("Hello"), plain, rtol=0, atol=0)
    with pytest.raises(ValueError, match="Unknown role"):
        ablated(lens, concepts, roles=["txt"])


# --- completions ----------------------------------------------------------------------------------------------


def test_completions_are_the_answers_to_the_questions_in_their_order(lens):
    questions = Texts(
        [Text(messages=text.messages, meta={"domain": str(i)}) for i, text in enumerate(CHATS)], name="two"
    )
    answers = completions(lens, questions, sampling=Sampling(max_new_tokens=5, temperature=0))
    assert [text.answer for text in answers] == [lens.generate(text, max_new_tokens=5, temperature=0) for text in CHATS]
    assert [text.messages[0] for text in answers] == [text.messages[0] for text in CHATS]
    assert [text.meta for text in answers] == [{"domain": "0"}, {"domain": "1"}]
    assert answers.name == "tiny-llama on two"

    sampled = completions(lens, questions, n=3, sampling=Sampling(max_new_tokens=5, seed=1))
    assert [(text.meta["domain"], text.meta["sample"]) for text in sampled] == [(d, s) for d in "01" for s in range(3)]
    assert len({text.answer for text in sampled[:3]}) > 1
    assert [t.answer for t in completions(lens, questions, n=3, sampling=Sampling(max_new_tokens=5, seed=1))] == [
        t.answer for t in sampled
    ]
    with pytest.raises(ValueError, match="n=0: expected a whole number of at least 1"):
        completions(lens, questions, n=0)


def test_completions_under_ablation_are_those_of_the_ablated_model(lens):
    questions, concepts = Texts(CHATS), concepts_for(lens)
    plain = completions(lens, questions, sampling=Sampling(max_new_tokens=5, temperature=0))
    with ablate(lens, concepts):
        inside = completions(lens, questions, sampling=Sampling(max_new_tokens=5, temperature=0))
        assert inside[0].answer == lens.generate(CHATS[0], max_new_tokens=5, temperature=0)
    assert [t.answer for t in inside] != [t.answer for t in plain]


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), "1.0", None, True])
def test_steering_by_what_is_no_length_is_refused(lens, wrong):
    with pytest.raises((ValueError, TypeError), match="strength="):
        steer(lens, concepts_for(lens)[0], wrong)


def test_means_that_are_not_finite_or_of_another_width_are_refused(lens):
    concepts = concepts_for(lens)
    good = {hook: torch.ones(32) for hook in concepts.hooks}
    with ablate(lens, concepts, variant="mean", means=good):
        pass
    first = concepts.hooks[0]
    for wrong, message in [
        (torch.full((32,), float("nan")), "mean at .* is NaN or infinite in 32 of its 32"),
        (torch.ones(16), "mean at .* has width 16"),
        ([1.0] * 32, "expected a tensor"),
    ]:
        with pytest.raises((ValueError, TypeError), match=message):
            ablate(lens, concepts, variant="mean", means={**good, first: wrong})


def test_concepts_at_a_site_of_another_width_are_refused_when_they_are_checked(lens):
    heads = ConceptSet([Concept("z", "blocks.0.attn.hook_z", torch.ones(32))])
    for check in (heads.for_model, lambda lens: ablate(lens, heads)):
        with pytest.raises(ValueError, match=r"outputs of single heads.*take hook_attn_out"):
            check(lens)


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -1}, {"temperature": float("nan")}, {"temperature": "1"}, {"top_p": 0}, {"top_p": 1.5},
     {"top_p": float("nan")}, {"top_k": 0}, {"top_k": 2.5}, {"max_new_tokens": 0}, {"max_new_tokens": "8"},
     {"batch_size": -1}, {"batch_size": 0}, {"seed": -1}, {"seed": 0.5}],
    ids=str,
)  # fmt: skip
def test_sampling_out_of_range_is_refused_where_it_is_typed(lens, wrong):
    (name,) = wrong
    with pytest.raises((ValueError, TypeError), match=f"{name}="):
        lens.generate("Hello", **wrong)
    if name != "top_k":
        with pytest.raises((ValueError, TypeError), match=f"{name}="):
            completions(lens, Texts([{"prompt": "Hello"}]), sampling=Sampling(**wrong))


def test_a_lens_says_what_is_attached_to_it_by_hook_point_until_it_comes_off():
    lens = tiny_lens()
    bare, hook = repr(lens), "blocks.0.hook_resid_post"
    rows = torch.randn(2, lens.d_model, generator=torch.Generator().manual_seed(0))
    concepts = ConceptSet([Concept(f"L{i}.x", f"blocks.{i}.hook_resid_post", row) for i, row in enumerate(rows)])
    concepts = concepts.for_model(lens)
    forgotten = ablate(lens, concepts)
    forgotten.__enter__()
    assert lens.attached == {name: ["ablation of 1 direction"] for name in concepts.hooks}
    assert repr(lens) == f"{bare} with ablation of 1 direction at {', '.join(concepts.hooks)}"
    assert lens.fork().attached == {}
    with steer(lens, concepts["L1.x"], -4, roles=["assistant"]), lens.hooks([(hook, lambda x, hook: None)]):
        assert lens.attached[hook] == ["ablation of 1 direction", "hook"]
        assert "steering L1.x by -4 (assistant) at blocks.1" in repr(lens)
    forgotten.__exit__(None, None, None)

    def look(x, hook):
        return None

    lens.add_hook(hook, look)
    assert repr(lens) == f"{bare} with hook look at {hook}"
    lens.reset_hooks()
    assert (repr(lens), lens.attached) == (bare, {})
