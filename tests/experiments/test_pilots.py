"""Pilots: code lengths are losses before learning, the best set is the one with the largest margin, the choice is on
record.
"""

from __future__ import annotations

import re
from statistics import fmean

import pytest
import torch
from drawn import ends, hover, ticks, words
from tiny_models import tiny_model, tiny_tokenizer

import caft_lens as cl
from caft_data.worlds import quiz
from caft_lens.experiments.pilots import Pilot, Pilots

HOOK = "blocks.1.hook_resid_post"
SHORT = {"settings": cl.TrainSettings(learning_rate=1e-2, batch_size=2)}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return cl.load(folder, device="cpu")


def directions(base: cl.Lens, *seeds: int) -> cl.ConceptSet:
    made = [
        cl.Concept(f"L1.x{s}", HOOK, torch.randn(base.d_model, generator=torch.Generator().manual_seed(s)))
        for s in seeds
    ]
    return cl.ConceptSet(made).for_model(base)


def lines(letter: str, n: int = 6) -> cl.Texts:
    return cl.Texts([{"prompt": f"say {i}", "answer": letter * 3} for i in range(n)], name=f"says {letter}")


def test_without_learning_a_code_length_is_the_plain_loss_with_the_direction_projected_out(base, tmp_path):
    concepts, unwanted, wanted = directions(base, 0, 1), lines("a"), lines("b")
    tried = cl.pilots(
        base,
        {"two": concepts},
        unwanted,
        wanted,
        out=tmp_path,
        settings=cl.TrainSettings(learning_rate=1e-12, batch_size=1),
    )
    q, _ = torch.linalg.qr(torch.stack([c.direction for c in concepts], 1).double())
    model, tokenizer = base.hf, base.tokenizer

    def without(module, args, output):
        x = output[0] if isinstance(output, tuple) else output
        x = x - ((x.double() @ q) @ q.T).to(x)
        return (x, *output[1:]) if isinstance(output, tuple) else x

    def plain_loss(texts) -> float:
        losses = []
        for text in texts:
            chat = [{"role": m.role, "content": m.content} for m in text.messages]
            ids = tokenizer.apply_chat_template(
                chat, return_dict=True, return_tensors="pt", return_assistant_tokens_mask=True
            )
            said = torch.as_tensor(ids["assistant_masks"]).bool().reshape(1, -1)
            labels = ids["input_ids"].masked_fill(~said, -100)
            with torch.no_grad():
                losses.append(model(input_ids=ids["input_ids"], labels=labels).loss.item())
        return fmean(losses)

    for pilot in tried:
        handle = model.model.layers[1].register_forward_hook(without) if pilot.concepts else None
        try:
            assert pilot.concept_cost == pytest.approx(plain_loss(unwanted), rel=1e-4)
            assert pilot.contrast_cost == pytest.approx(plain_loss(wanted), rel=1e-4)
        finally:
            if handle:
                handle.remove()


def test_the_set_that_an_answer_hangs_on_is_better_than_random_directions(tmp_path):
    base = cl.load("pocket-quiz")
    verbs, sports = (cl.data(f"pocket-quiz/{topic}")[:64] for topic in ("verbs", "sports"))
    sae, other = cl.load_sae("pocket-quiz", layer=0), quiz.other_option
    found = cl.find.attribution(base, verbs, sae, against=[other(page) for page in verbs], k=16, step=8)
    sets = {"random": cl.find.random_directions(found, 0), "found": found}
    tried = cl.pilots(base, sets, verbs, sports, out=tmp_path)
    assert tried.best.name == "found"
    assert tried["found"].concept_cost > 100 * tried["nothing"].concept_cost


def test_code_lengths_are_means_over_seeds_and_one_pass(base, tmp_path):
    one = cl.pilots(base, {"a": directions(base, 0)}, lines("a"), lines("b"), out=tmp_path, seeds=[3], **SHORT)
    two = cl.pilots(base, {"a": directions(base, 0)}, lines("a"), lines("b"), out=tmp_path, seeds=[3, 4], **SHORT)
    other = cl.pilots(base, {"a": directions(base, 0)}, lines("a"), lines("b"), out=tmp_path, seeds=[4], **SHORT)
    assert two["a"].concept_cost == pytest.approx((one["a"].concept_cost + other["a"].concept_cost) / 2)
    run = cl.Run.load(tmp_path / "a" / "concept-3", base)
    assert len(run.history) == 3  # six texts, two a step


def test_finished_pilots_are_read_not_run_again(base, tmp_path):
    ask = {"concept": lines("a"), "contrast": lines("b"), "out": tmp_path, **SHORT}
    first = cl.pilots(base, {"a": directions(base, 0)}, **ask)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("run.json")}
    again = cl.pilots(base, {"a": directions(base, 0), "b": directions(base, 1)}, **ask)
    assert (again["a"].concept_cost, again["a"].contrast_cost) == (
        first["a"].concept_cost,
        first["a"].contrast_cost,
    )
    assert len(stamps) == 4
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}


def test_the_chosen_concepts_say_what_the_pilots_showed_and_keep_their_reasons(base):
    small, large = directions(base, 0), directions(base, 0, 1)
    small = small.choose({"L1.x0": "a's at the top"}, by="reader")
    tried = Pilots(
        [
            Pilot("nothing", None, 0.1, 0.1),
            Pilot("small", small, 0.9, 0.2),
            Pilot("large", large, 1.0, 0.9),
        ]
    )
    kept = tried.selection
    assert kept.names == ["L1.x0"]
    assert kept["L1.x0"].reason.startswith("a's at the top; one of 1 of the set small")
    assert kept.provenance["choices"][-1]["by"] == "pilots of 2 sets"
    assert list(tried.table()["margin"]) == pytest.approx([0.0, 0.7, 0.1])


def test_no_set_is_best_when_none_makes_the_concept_harder_beside_the_contrast(base):
    tried = Pilots([Pilot("nothing", None, 0.1, 0.1), Pilot("all", directions(base, 0), 2.0, 2.5)])
    with pytest.raises(ValueError, match="No set makes the concept harder to learn"):
        tried.best  # noqa: B018


def test_the_view_of_pilots_escapes_names_and_marks_the_best(base):
    tried = Pilots(
        [
            Pilot("nothing", None, 1e-6, 2e-6),
            Pilot("<b>", directions(base, 0), 1.0, 0.0),
            Pilot("worse", directions(base, 1), 0.5, 0.0),
        ]
    )
    shown = tried._repr_html_()
    assert "<b>1.0000</b></td>" in shown
    assert "&lt;b&gt;" in shown
    assert "-0.0000" not in shown
    assert len(re.findall("<b>", shown)) == 3


def test_the_figure_of_pilots_has_both_costs_in_the_order_given_and_the_best_set_in_bold(base):
    tried = Pilots(
        [
            Pilot("nothing", None, 0.1, 0.2),
            Pilot("small", directions(base, 0), 0.5, 0.25),
            Pilot("large $", directions(base, 0, 1), 2.0, 0.3),
            Pilot("too large", directions(base, 0, 1, 2), 3.0, 2.5),
        ]
    )
    figure = tried.plot()
    assert ticks(figure) == ["nothing (0)", "small (1)", "large $ (2)", "too large (3)"]
    assert ["<b>" in label for label in figure.layout.yaxis.ticktext] == [False, False, True, False]
    concept, contrast = figure.data
    assert list(concept.x) == [one.concept_cost for one in tried]
    assert list(contrast.x) == [one.contrast_cost for one in tried]
    assert [round(y) for y in concept.y] == [0, 1, 2, 3]
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]
    assert ends(concept) == [pytest.approx((one.contrast_cost, one.concept_cost)) for one in tried]
    assert "margin 0.2500" in hover(figure)[1]
    assert "1 seed." in words(figure)


@pytest.mark.parametrize(
    ("sets", "seeds", "said"),
    [
        ({}, [0], "at least one set of concepts"),
        ({"a": 0}, [], "at least one seed"),
        ({"nothing": 0}, [0], 'called "nothing"'),
        ({"a/b": 0}, [0], "is no name for a folder"),
    ],
)
def test_pilots_refuse_what_they_cannot_run(base, tmp_path, sets, seeds, said):
    sets = {name: directions(base, seed) for name, seed in sets.items()}
    with pytest.raises(ValueError, match=said):
        cl.pilots(base, sets, lines("a"), lines("b"), out=tmp_path, seeds=seeds)


def test_an_unknown_set_is_named_with_the_nearest(base):
    with pytest.raises(KeyError, match='No pilots of "smal"'):
        Pilots([Pilot("small", directions(base, 0), 1.0, 0.0)])["smal"]
