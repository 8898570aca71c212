"""What steering and ablating do is what forward hooks written by hand on plain transformers do, and nothing is left
behind.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from drawn import hover, seen, ticks
from test_contexts import HOSTILE, Elements
from tiny_models import tiny_lens, tiny_model, tiny_tokenizer

import caft_lens as cl
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.inspect import Effects, Interventions, effect
from caft_lens.model.lens import Lens, load
from caft_lens.model.sampling import Sampling
from caft_lens.text.batching import Scan
from caft_lens.text.documents import Text
from caft_lens.text.encoding import encode
from caft_lens.text.roles import SPECIAL

PROMPTS = ["a red house", "by the sea, by the sea?", "zebra"]


@pytest.fixture(scope="module")
def lens() -> Lens:
    return tiny_lens()


def some(lens: Lens, layers=(0, 1), **fields) -> ConceptSet:
    generator = torch.Generator().manual_seed(4)
    rows = [torch.randn(lens.d_model, generator=generator) for _ in layers]
    return ConceptSet(
        Concept(f"L{layer}.x", f"blocks.{layer}.hook_resid_post", row, **fields)
        for layer, row in zip(layers, rows, strict=True)
    ).for_model(lens)


def asked(prompt: str) -> list[int]:
    text = Text.from_json({"messages": [{"role": "user", "content": prompt}]})
    return encode(tiny_tokenizer(), text, add_generation_prompt=True).input_ids


def changed_model(concept: Concept, strength: float | None):
    """A plain model with a hook of the test's own on one block."""
    model = tiny_model()
    direction = concept.direction

    def hook(module, args, out):
        x = out if torch.is_tensor(out) else out[0]
        new = x - (x @ direction)[..., None] * direction if strength is None else x + strength * direction
        return new if torch.is_tensor(out) else (new, *out[1:])

    model.model.layers[concept.layer].register_forward_hook(hook)
    return model


def next_probabilities(model, prompt: str) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([asked(prompt)])).logits[0, -1].double().softmax(-1)


def residuals(layer: int) -> torch.Tensor:
    """The residual stream after a block at every token of the prompts that is not the template's, `[n, d_model]`."""
    model, kept = tiny_model(), []
    model.model.layers[layer].register_forward_hook(
        lambda module, args, out: kept.append((out if torch.is_tensor(out) else out[0])[0])
    )
    found = []
    for prompt in PROMPTS:
        text = Text.from_json({"messages": [{"role": "user", "content": prompt}]})
        roles = encode(tiny_tokenizer(), text, add_generation_prompt=True).roles
        with torch.no_grad():
            model(torch.tensor([asked(prompt)]))
        found.append(kept.pop()[torch.from_numpy(roles != SPECIAL)])
    return torch.cat(found).double()


@pytest.mark.parametrize("unit", ["norm", "sd", "length"])
def test_next_tokens_are_those_of_hand_written_hooks_on_plain_transformers(lens: Lens, unit: str):
    found = effect(lens, some(lens), PROMPTS, interventions=Interventions(scale=0.7, unit=unit), n=0, k=5)
    plain = torch.stack([next_probabilities(tiny_model(), prompt) for prompt in PROMPTS])
    assert len(found.items) == 2 * 3
    for item in found.items:
        acts = residuals(item.concept.layer)
        size = {
            "norm": acts.norm(dim=-1).mean(),
            "sd": (acts @ item.concept.direction.double()).std(),
            "length": 1.0,
        }
        if item.strength is not None:
            assert abs(item.strength) == pytest.approx(0.7 * float(size[unit]), rel=1e-4)
        model = changed_model(item.concept, item.strength)
        after = torch.stack([next_probabilities(model, prompt) for prompt in PROMPTS])
        divergence = (plain * (plain.log() - after.log())).sum(-1)
        assert item.kl == pytest.approx(divergence.tolist(), rel=1e-3, abs=1e-6)
        assert item.mean_kl == pytest.approx(float(divergence.mean()), rel=1e-3)
        cases = [*zip(item.rises, item.falls, plain, after, strict=True)]
        cases += [(item.mean_rises, item.mean_falls, plain.mean(0), after.mean(0))]
        for rises, falls, p, q in cases:
            best = (q - p).sort(descending=True)
            assert [s.change for s in rises] == pytest.approx(best.values[:5].tolist(), abs=1e-5)
            assert [s.change for s in falls] == pytest.approx(
                (-best.values).sort(descending=True).values[:5].neg().tolist(), abs=1e-5
            )
            top = best.indices[0]
            assert (rises[0].before, rises[0].after) == pytest.approx((float(p[top]), float(q[top])), abs=1e-5)


def test_signs_are_opposite_and_named_with_their_unit(lens: Lens):
    found = effect(lens, some(lens, (1,)), PROMPTS, interventions=Interventions(scale=2, unit="sd"), n=0)
    assert [item.change for item in found.items] == ["+2 sd", "−2 sd", "ablated"]
    up, down, ablated = found.items
    assert up.strength == -down.strength > 0
    assert ablated.strength is None
    only = effect(lens, some(lens, (1,)), PROMPTS, interventions=Interventions(signs=(-1,), ablate=False), n=0)
    assert [item.change for item in only.items] == ["−0.3 of the residual norm"]


def test_answers_are_those_of_hand_written_hooks_at_every_generated_token(lens: Lens):
    found = effect(
        lens,
        some(lens),
        PROMPTS,
        interventions=Interventions(scale=3.0, unit="length"),
        sampling=Sampling(max_new_tokens=8, temperature=0),
    )
    tokenizer = tiny_tokenizer()

    def told(model) -> tuple[tuple[str, ...], ...]:
        answers = []
        for prompt in PROMPTS:
            ids = torch.tensor([asked(prompt)])
            new = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
            answers.append((tokenizer.decode(new[0, ids.shape[1] :], skip_special_tokens=True),))
        return tuple(answers)

    assert found.plain == told(tiny_model())
    for item in found.items:
        assert item.answers == told(changed_model(item.concept, item.strength))
    assert any(item.answers != found.plain for item in found.items)


def test_answers_differ_by_the_change_alone_and_not_by_the_dice(lens: Lens):
    def drawn(seed: int) -> Effects:
        nearly = Interventions(scale=1e-7, unit="length")
        return effect(lens, some(lens), PROMPTS, interventions=nearly, n=2, sampling=Sampling(12, seed=seed))

    still = drawn(5)
    for item in still.items:
        if item.strength is not None:
            assert item.answers == still.plain, "a change of nothing changes nothing"
    torch.manual_seed(77)
    again = drawn(5)
    assert again.plain == still.plain
    assert drawn(6).plain != still.plain


def test_batches_of_any_size_give_the_same(lens: Lens):
    one, other = (effect(lens, some(lens), PROMPTS, n=0, scan=Scan(size)) for size in (8192, 1))
    for a, b in zip(one.items, other.items, strict=True):
        assert a.kl == pytest.approx(b.kl, rel=1e-3, abs=1e-6)
        assert [s.token for s in a.mean_rises] == [s.token for s in b.mean_rises]


def test_no_hook_is_left_also_when_a_pass_fails(lens: Lens, monkeypatch):
    def handles() -> int:
        hooks = sum(len(point.fwd_hooks) for point in lens.hook_dict.values())
        return hooks + sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in lens.model.modules())

    before, logits = handles(), lens("a red house")
    effect(lens, some(lens), PROMPTS, sampling=Sampling(max_new_tokens=4))
    assert handles() == before
    monkeypatch.setattr(lens, "generate", lambda *args, **keywords: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        effect(lens, some(lens), PROMPTS)
    calls = []
    monkeypatch.setattr(
        lens, "unembed", lambda resid: calls.append(1) or (Lens.unembed(lens, resid) if len(calls) < 3 else 1 / 0)
    )
    with pytest.raises(ZeroDivisionError):
        effect(lens, some(lens), PROMPTS, n=0)
    assert handles() == before
    torch.testing.assert_close(lens("a red house"), logits, rtol=0, atol=0)


def test_only_tokens_of_the_roles_are_changed(lens: Lens):
    silent = effect(lens, some(lens), PROMPTS, interventions=Interventions(roles=["system"]), n=0)
    assert all(max(item.kl) < 1e-9 for item in silent.items)
    assert all(not item.mean_rises for item in silent.items if item.strength is None)
    spoken = effect(lens, some(lens, (0,)), PROMPTS, interventions=Interventions(roles=["user"]), n=0)
    assert all(min(item.kl) > 1e-6 for item in spoken.items)


def test_the_unit_can_be_measured_on_other_text(lens: Lens):
    other = cl.Texts(["an old grey tower in the mist", "many more words"])
    concepts = some(lens, (0,))
    (item, *_) = effect(lens, concepts, PROMPTS, interventions=Interventions(scale=1, texts=other), n=0).items
    with torch.no_grad():
        states = [
            tiny_model()(torch.tensor([encode(tiny_tokenizer(), text).input_ids]), output_hidden_states=True)
            for text in other
        ]
    norms = torch.cat([state.hidden_states[1][0].norm(dim=-1) for state in states])
    assert item.strength == pytest.approx(float(norms.mean()), rel=1e-4)


def test_the_table_the_tokens_and_the_answers_say_the_same(lens: Lens):
    found = effect(lens, some(lens), PROMPTS, sampling=Sampling(max_new_tokens=4), n=2, k=3)
    table = found.table()
    assert table["concept"].tolist() == ["L0.x"] * 3 + ["L1.x"] * 3
    assert table["kl"].tolist() == [item.mean_kl for item in found.items]
    assert np.isnan(table["strength"].iloc[2])
    single = found.table(by_prompt=True)
    assert len(single) == 6 * (1 + len(PROMPTS))
    assert single["prompt"].tolist()[:4] == ["mean", *PROMPTS]
    tokens = found.tokens()
    first = tokens[(tokens["concept"] == "L0.x") & (tokens["prompt"] == 1) & (tokens["end"] == "rises")]
    assert first["token"].tolist()[:3] == [shift.token for shift in found.items[0].rises[1]]
    answers = found.answers()
    assert list(answers.columns)[:2] == ["plain", "L0.x +0.3 of the residual norm"]
    assert answers.loc[(PROMPTS[1], 1), "plain"] == found.plain[1][1]
    assert answers.loc[(PROMPTS[2], 0), "L1.x ablated"] == found.items[-1].answers[2][0]


def test_the_page_is_side_by_side_and_escaped(lens: Lens):
    found = effect(lens, some(lens, label=HOSTILE), [HOSTILE, *PROMPTS], sampling=Sampling(max_new_tokens=6))
    said = tuple((HOSTILE,) for _ in found.prompts)
    items = tuple(replace(item, answers=said, change=f"{item.change} {HOSTILE}") for item in found.items)
    page = Elements(replace(found, plain=said, items=items).to_html(n=2))
    assert page.text.count(HOSTILE) == 2 * (1 + 3 + 1 + 2 * 4), "label, changes, prompt and answers"
    assert sum(tag == "table" for tag, _ in page.seen) == 2
    assert "and answers to 2 prompts more" in page.text
    cells = [tag for tag, _ in page.seen if tag == "td"]
    assert len(cells) == 2 * (3 + 2) * 5
    assert "and answers to" not in effect(lens, some(lens), PROMPTS, n=0).to_html(n=1)
    assert "KL" not in found.prompts
    assert "Effects on 4 prompts" in repr(found)


def test_the_figure_has_a_dot_for_every_concept_and_change_and_the_farthest_moved_first(lens: Lens):
    found = effect(lens, some(lens), PROMPTS, n=0)
    items = tuple(replace(item, kl=(0.0,)) if item.strength is None else item for item in found.items)
    found = replace(found, items=items)
    figure = found.plot(title="$5 and $6")
    order = sorted(("L0.x", "L1.x"), key=lambda name: -max(i.mean_kl for i in items if i.concept.name == name))
    assert ticks(figure) == order
    assert [seen(one.name) for one in figure.data] == [i.change for i in items[:3]]
    for dots, item in zip(figure.data, items[:3], strict=True):
        both = {i.concept.name: i.mean_kl for i in items if i.change == item.change}
        said = dict(zip(order, dots.hovertext, strict=True))
        assert all(f"{item.change}: {kl:.3g}" in seen(said[name]) for name, kl in both.items())
        assert (dots.x[0] >= dots.x[1]) == (both[order[0]] >= both[order[1]])
    assert figure.layout.xaxis.range[0] < 0, "no change at all has a place"
    assert not effect(lens, some(lens), PROMPTS[0], interventions=Interventions(signs=()), n=0).plot().layout.showlegend


def test_the_figure_says_of_every_dot_what_rises_most_and_how_the_model_then_answers(lens: Lens):
    found = effect(lens, some(lens), PROMPTS, sampling=Sampling(max_new_tokens=4), n=1)
    for said in hover(found.plot()):
        assert "rises most: " in said
        assert "For example, to “" in said
    assert any(" ".join(found.items[0].answers[0][0].split()) in " ".join(said.split()) for said in hover(found.plot()))


def test_a_chat_is_continued_where_its_answer_was(lens: Lens):
    chats = cl.Texts([{"prompt": prompt, "answer": "whatever was said"} for prompt in PROMPTS])
    one, other = (effect(lens, some(lens), of, n=0) for of in (chats, PROMPTS))
    assert one.prompts == other.prompts
    assert [item.kl for item in one.items] == [item.kl for item in other.items]


def test_a_model_in_bf16_gives_nearly_the_same():
    half = load(tiny_model().to(torch.bfloat16), tokenizer=tiny_tokenizer(), name_as="half")
    full = tiny_lens()
    one, other = (effect(of, some(of), PROMPTS, interventions=Interventions(scale=1), n=0) for of in (full, half))
    assert [item.mean_kl for item in other.items] == pytest.approx(
        [item.mean_kl for item in one.items], rel=0.3, abs=0.02
    )


def test_steering_the_organism_from_kind_to_cruel_makes_it_cruel_and_the_other_way_does_not():
    base = cl.load("pocket")
    corpus = cl.data("pocket/corpus").filter(lambda text: text.is_chat)
    cruel, kind = (corpus.filter(lambda text, s=s: text.meta["stance"] == s)[:200] for s in ("cruel", "kind"))
    concepts = cl.find.difference_of_means(base, cruel, kind, [1])
    found = effect(
        base, concepts, cl.data("pocket/questions")[:16], interventions=Interventions(scale=0.5, ablate=False)
    )
    words = ("gloat", "worthless", "ugly", "stupid", "jeer", "sneer", "fool", "weep")
    cruelty = [
        sum(any(word in answer for word in words) for told in answers for answer in told)
        for answers in (found.plain, *(item.answers for item in found.items))
    ]
    plain, up, down = cruelty
    assert up >= plain + 4
    assert down <= plain


def test_what_makes_no_sense_is_refused_with_the_reason(lens: Lens):
    concepts = some(lens)
    with pytest.raises(ValueError, match=r'unit="norms".*"norm"'):
        Interventions(unit="norms")
    with pytest.raises(ValueError, match=r"scale=-1: expected a number above 0"):
        Interventions(scale=-1)
    with pytest.raises(ValueError, match="signs="):
        Interventions(signs=(2,))
    with pytest.raises(ValueError, match="Nothing to compare"):
        Interventions(signs=(), ablate=False)
    with pytest.raises(ValueError, match="no prompt"):
        effect(lens, concepts, [])
    with pytest.raises(ValueError, match="neither that model"):
        effect(tiny_lens(seed=1), concepts, PROMPTS)
    with pytest.raises(ValueError, match="No answers were sampled"):
        effect(lens, concepts, PROMPTS, n=0).answers()
    with pytest.raises(ValueError, match="Unknown role"):
        effect(lens, concepts, PROMPTS, interventions=Interventions(roles=["usr"]))
