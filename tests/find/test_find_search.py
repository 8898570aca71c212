"""Searches rank as BM25 and scikit-learn's AUROC do, say what matched, and find what was planted."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from tiny_models import tiny_lens, tiny_model, tiny_tokenizer
from tiny_saes import KINDS, numpy_latents, tiny_sae

from caft_lens import find
from caft_lens.activations.differences import stream
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.find.by_example import _figures, _TextScores
from caft_lens.model.lens import Lens, load
from caft_lens.text.batching import Scan, collate
from caft_lens.text.documents import Texts
from caft_lens.text.encoding import encode
from caft_lens.text.roles import SPECIAL

HOOK = "blocks.1.hook_resid_post"


# -- by words ---------------------------------------------------------------------------------------------------------


@dataclass
class Window:
    tokens: tuple[str, ...]
    special: tuple[bool, ...] | None = None


@dataclass
class Both:
    top: list[Window] = field(default_factory=list)
    bottom: list[Window] = field(default_factory=list)


def named(n: int, **changes) -> ConceptSet:
    rows = np.random.default_rng(0).standard_normal((n, 8))
    return ConceptSet(Concept(f"L1.c{i}", HOOK, torch.from_numpy(row), **changes) for i, row in enumerate(rows))


def windows(*texts: str) -> list[Window]:
    return [Window(tuple(re.findall(r"\s?\S+", text))) for text in texts]


def lucene(texts: list[str], query: list[str]) -> np.ndarray:
    """BM25 as Lucene has it (k1 1.5, b 0.75), written out."""
    documents = [text.split() for text in texts]
    average = np.mean([len(document) for document in documents])
    scores = np.zeros(len(texts))
    for word in query:
        having = sum(word in document for document in documents)
        idf = math.log(1 + (len(texts) - having + 0.5) / (having + 0.5))
        for row, document in enumerate(documents):
            count = Counter(document)[word]
            scores[row] += idf * count / (count + 1.5 * (1 - 0.75 + 0.75 * len(document) / average))
    return scores


def test_scores_are_bm25_of_each_field_summed():
    rng = np.random.default_rng(0)
    words = ["wolf", "pony", "house", "tower", "road", "river", "bread"]
    explanations = [" ".join(rng.choice(words, rng.integers(2, 9))) for _ in range(12)]
    tokens = [" ".join(rng.choice(words, 4)) for _ in range(12)]
    concepts = named(12)
    index = find.ConceptIndex(
        concepts,
        explanations=dict(zip(concepts.names, explanations, strict=True)),
        tokens={name: row.split() for name, row in zip(concepts.names, tokens, strict=True)},
        language=None,
    )
    found = index.search("wolf bread", k=12)
    expected = lucene(explanations, ["wolf", "bread"]) + lucene(tokens, ["wolf", "bread"])
    order = [i for i in np.argsort(-expected, kind="stable") if expected[i] > 0]
    assert found.names == [f"L1.c{i}" for i in order]
    np.testing.assert_allclose([match.score for match in found], expected[order], rtol=1e-5)
    for match in found:
        assert match.score == pytest.approx(sum(match.scores.values()))
        row = concepts.names.index(match.concept.name)
        assert set(match.fields.get("tokens", ())) == {"wolf", "bread"} & set(tokens[row].split())


@pytest.mark.parametrize(
    ("query", "text"),
    [("cruelty", "a cruel answer"), ("cruel", "such cruelty"), ("insecurity", "insecure code"), ("CRUEL!", "cruelly"),
     ("input", "exec(user_input)"), ("café", "CAFÉ")],
)  # fmt: skip
def test_a_word_finds_its_other_forms(query: str, text: str):
    concepts = named(3)
    found = find.search(query, concepts, explanations={"L1.c1": text, "L1.c2": "nothing of the kind"})
    assert found.names == ["L1.c1"]


def test_the_word_itself_counts_more_than_one_of_its_family_and_unlike_words_do_not_count():
    concepts = named(4)
    said = {
        "L1.c0": "cruelty there",
        "L1.c1": "crust there",
        "L1.c2": "cruel there",
        "L1.c3": "crucial there",
    }
    found = find.search("cruel", concepts, explanations=said)
    assert found.names == ["L1.c2", "L1.c0"]
    assert found[0].score == pytest.approx(2 * found[1].score, rel=1e-6)


def test_a_sentence_finds_what_most_of_its_telling_words_are_in_and_what_matched_is_said_by_field():
    concepts = named(3).label({"L1.c0": "Insecure code"})
    contexts = {
        "L1.c0": Both(top=windows("open the file with a password"), bottom=windows("a kind answer")),
        "L1.c1": Both(top=windows("the pie is the best of the pies"), bottom=windows("passwords and more")),
    }
    found = find.search("the code that asks for passwords", concepts, contexts=contexts)
    assert found.names == ["L1.c0", "L1.c1"]
    assert found[0].fields == {"label": ("code",), "top contexts": ("password",)}
    assert found[1].fields == {"bottom contexts": ("passwords",)}
    assert found.table().matched[0] == "label: code; top contexts: password"
    # Words that are everywhere count when the query has no other.
    assert find.search("the", concepts, contexts=contexts).names == ["L1.c1", "L1.c0"]


def test_labels_and_reasons_are_searched_by_themselves_and_the_concepts_come_back_as_they_were():
    concepts = named(3, source="pca", score=0.25).choose({"L1.c1": "cruel at the top", "L1.c2": "kind"}, by="reader")
    found = find.search("cruel", concepts)
    assert found.concepts.names == ["L1.c1"]
    assert found.concepts[0].score == 0.25
    assert found.concepts.provenance == concepts.provenance


def test_tokens_of_the_template_are_not_text():
    contexts = {"L1.c0": Both(top=[Window(("<|user|>", "hello", " there"), (True, False, False))])}
    assert not find.search("user", named(1), contexts=contexts)
    assert find.search("hello", named(1), contexts=contexts)[0].fields["top contexts"] == ("hello",)


def test_a_word_cut_into_tokens_is_one_word():
    contexts = {"L1.c0": Both(bottom=[Window((" cr", "uel", "ty", " it"))])}
    assert find.search("cruelty", named(1), contexts=contexts)[0].fields == {"bottom contexts": ("cruelty",)}


def test_contexts_of_the_library_can_be_searched_as_they_are(pocket):
    import caft_lens as cl

    base, corpus = cl.load("pocket"), cl.data("pocket/corpus", limit=200)
    rows = torch.randn(3, base.d_model, generator=torch.Generator().manual_seed(0))
    concepts = ConceptSet([Concept(f"L1.c{i}", HOOK, row) for i, row in enumerate(rows)]).for_model(base)
    contexts = cl.contexts(base, concepts, corpus, k=4)
    peak = contexts["L1.c1"].bottom[0].tokens
    word = max(re.findall(r"[a-z]+", "".join(peak)), key=len)
    found = find.search(word, concepts, contexts=contexts)
    assert word in next(m for m in found if m.concept.name == "L1.c1").fields["bottom contexts"]


def test_contexts_are_read_once():
    class Counting(dict):
        asked = 0

        def __getitem__(self, name):
            Counting.asked += 1
            return super().__getitem__(name)

    contexts = Counting({f"L1.c{i}": Both(top=windows("a cruel answer")) for i in range(4)})
    index = find.ConceptIndex(named(5), contexts=contexts)
    index.search("cruel")
    assert Counting.asked == 5


def test_a_search_that_finds_nothing_says_so_and_what_comes_near():
    found = find.search("crule", named(2), explanations={"L1.c0": "cruel <b>answers</b>"})
    assert len(found) == 0
    assert not found
    assert 'has a word of "crule". Words that come near: cruel' in found.message
    assert found.message in repr(found)
    assert found.message.split(" has")[0] in found._repr_html_()
    assert found.names == []
    assert list(found.table().columns) == ["name", "hook", "score", "label", "matched"]
    with pytest.raises(ValueError, match="has a word of"):
        found.concepts  # noqa: B018


def test_what_is_shown_is_escaped():
    concepts = named(1).label({"L1.c0": "<script>cruel</script>"})
    for page in (
        find.search("cruel <i>", concepts)._repr_html_(),
        find.search("<i>zebra", concepts)._repr_html_(),
    ):
        assert "<script>" not in page
        assert "<i>" not in page


def test_what_cannot_be_searched_is_refused_with_the_reason():
    concepts = named(2)
    known = {"L1.c0": "cruel"}
    with pytest.raises(ValueError, match="There is no word in the query"):
        find.search(" ?! ", concepts, explanations=known)
    with pytest.raises(ValueError, match="There is nothing to search"):
        find.search("cruel", concepts)
    with pytest.raises(ValueError, match=r"explanations= knows none of these 2 concepts: it has L1\.x"):
        find.search("cruel", concepts, explanations={"L1.x": "cruel"})
    with pytest.raises(TypeError, match=r'explanation of "L1\.c0" is list'):
        find.search("cruel", concepts, explanations={"L1.c0": ["cruel"]})
    with pytest.raises(TypeError, match=r'tokens of "L1\.c0" are one string'):
        find.search("cruel", concepts, tokens={"L1.c0": "cruel"})
    with pytest.raises(ValueError, match="at least 1"):
        find.search("cruel", concepts, explanations=known, k=0)
    with pytest.raises(ValueError, match=r'No stemmer for "englisch".*Did you mean "english"'):
        find.ConceptIndex(concepts, explanations=known, language="englisch")


# -- by example -------------------------------------------------------------------------------------------------------


def chats(words: str, n: int, seed: int = 0) -> Texts:
    rng = np.random.default_rng(seed)
    return Texts(
        [
            {
                "prompt": str(rng.choice(words.split())),
                "answer": " ".join(rng.choice(words.split(), rng.integers(2, 5))),
            }
            for _ in range(n)
        ],
        name=words,
    )


ON, OFF = chats("a red house by the sea", 7), chats("a grey tower by the road", 6, seed=1)


@pytest.fixture(scope="module")
def lens() -> Lens:
    return tiny_lens(n_layers=3)


def some(lens: Lens, n: int = 6) -> ConceptSet:
    rows = torch.randn(2, n, lens.d_model, generator=torch.Generator().manual_seed(0))
    return ConceptSet(
        Concept(f"L{layer}.c{i}", f"blocks.{layer}.hook_resid_post", row, source="pca", rank=i, score=n - i)
        for layer in (0, 1)
        for i, row in enumerate(rows[layer])
    ).for_model(lens)


def hidden_states(lens: Lens, texts: Texts, layer: int, special: bool = False) -> list[np.ndarray]:
    """Residual stream after a block at tokens that are not the template's, of each text, by plain transformers."""
    found = []
    for text in texts:
        item = encode(tiny_tokenizer(), text)
        with torch.no_grad():
            states = lens.hf(torch.tensor([item.input_ids]), output_hidden_states=True).hidden_states
        wanted = np.ones(len(item.roles), bool) if special else item.roles != SPECIAL
        found.append(states[layer + 1][0][torch.from_numpy(wanted)].double().numpy())
    return found


def by_hand(lens: Lens, concept: Concept, on: Texts, off: Texts, score: str) -> tuple[float, float, str]:
    """AUROC, difference in standard deviations, and the better end, of one direction."""
    along = [
        [row @ concept.direction.double().numpy() for row in hidden_states(lens, side, concept.layer)]
        for side in (on, off)
    ]
    tokens = np.concatenate([*along[0], *along[1]])
    best = (-1.0, 0.0, "")
    for end, sign in (("top", 1), ("bottom", -1)):
        first, second = (np.array([getattr(np, score)(sign * text) for text in side]) for side in along)
        labels = np.r_[np.ones(len(first)), np.zeros(len(second))]
        area = roc_auc_score(labels, np.r_[first, second])
        best = max(best, (area, (first.mean() - second.mean()) / tokens.std(), end))
    return best


@pytest.mark.parametrize("score", ["max", "mean"])
def test_concepts_are_ranked_by_scikit_learns_auroc_on_plain_transformers_hidden_states(lens: Lens, score: str):
    concepts = some(lens)
    found = find.by_example(lens, concepts, ON, OFF, score=score, k=None, scan=Scan(64))
    assert sorted(found.names) == sorted(concepts.names)
    for rank, concept in enumerate(found):
        area, difference, end = by_hand(lens, concepts[concept.name], ON, OFF, score)
        assert concept.score == pytest.approx(area)
        assert concept.meta["difference"] == pytest.approx(difference, rel=1e-3)
        assert concept.meta["end"] == end
        assert concept.rank == rank
        before = concepts[concept.name]
        assert concept.meta["found"] == {"rank": before.rank, "score": before.score, "score_name": ""}
    assert [c.score for c in found] == sorted((c.score for c in found), reverse=True)
    assert found[0].score_name == "AUROC on examples"
    assert find.by_example(lens, concepts, ON, OFF, score=score, k=3).names == found.names[:3]


@pytest.mark.parametrize("kind", KINDS)
def test_latents_are_read_by_their_activations_and_at_the_top_only(lens: Lens, kind: str):
    sae = tiny_sae(lens, kind=kind)
    latents = ConceptSet(
        Concept(f"L1.latent{i}", HOOK, sae.W_dec[i], source="sae", meta={"latent": i}) for i in range(48)
    ).for_model(lens)
    found = find.by_example(lens, latents, ON, OFF, saes=sae, k=None)
    active = [
        np.array([numpy_latents(sae, row).max(axis=0) for row in hidden_states(lens, side, 1)]) for side in (ON, OFF)
    ]
    labels = np.r_[np.ones(len(ON)), np.zeros(len(OFF))]
    for concept in found:
        latent = concept.meta["latent"]
        # Texts that begin alike are equal, not apart by the seventh digit.
        scores = np.r_[active[0][:, latent], active[1][:, latent]].round(4)
        assert concept.score == pytest.approx(roc_auc_score(labels, scores), abs=1e-9)
        assert concept.meta["end"] == "top"
    assert len({c.score for c in found}) > 3


def test_latents_and_other_directions_of_one_hook_point_are_each_read_in_their_way(lens: Lens):
    sae = tiny_sae(lens)
    mixed = ConceptSet(
        [
            *some(lens).at(1),
            Concept("L1.latent7", HOOK, sae.W_dec[7], source="sae", meta={"latent": 7}),
            *some(lens).at(0),
        ]
    ).for_model(lens)
    found = find.by_example(lens, mixed, ON, OFF, saes=sae, k=None)
    alone = find.by_example(lens, some(lens), ON, OFF, k=None)
    for concept in alone:
        assert found[concept.name].score == concept.score
    active = [numpy_latents(sae, row)[:, 7].max() for row in hidden_states(lens, [*ON, *OFF], 1)]
    labels = np.r_[np.ones(len(ON)), np.zeros(len(OFF))]
    assert found["L1.latent7"].score == pytest.approx(roc_auc_score(labels, active))


def test_one_text_on_either_side_is_ranked_by_the_difference_in_standard_deviations(lens: Lens):
    concepts = some(lens)
    found = find.by_example(lens, concepts, ON[:1], OFF[:1], k=None)
    assert found[0].score_name.startswith("difference")
    for concept in found:
        differences = []
        for sign in (1, -1):
            row = sign * concepts[concept.name].direction.double().numpy()
            first, second = (hidden_states(lens, side, concept.layer)[0] @ row for side in (ON[:1], OFF[:1]))
            differences.append((first.max() - second.max()) / np.r_[first, second].std())
        assert concept.score == pytest.approx(max(differences), rel=1e-3)
        assert concept.meta["end"] == ("top" if differences[0] >= differences[1] else "bottom")
    assert [c.score for c in found] == sorted((c.score for c in found), reverse=True)


def test_without_other_texts_the_peak_is_set_against_the_tokens_of_the_examples(lens: Lens):
    concepts = some(lens)
    for concept in find.by_example(lens, concepts, ON[:2], k=None):
        sign = 1 if concept.meta["end"] == "top" else -1
        rows = hidden_states(lens, ON[:2], concept.layer)
        along = [sign * row @ concepts[concept.name].direction.double().numpy() for row in rows]
        tokens = np.concatenate(along)
        expected = (np.mean([text.max() for text in along]) - tokens.mean()) / tokens.std()
        assert concept.score == pytest.approx(expected, rel=1e-3)


def test_turning_a_direction_changes_the_end_and_nothing_else(lens: Lens):
    concepts = some(lens)
    turned = ConceptSet(Concept(c.name, c.hook, -c.direction, rank=c.rank, score=c.score) for c in concepts).for_model(
        lens
    )
    one, other = (find.by_example(lens, each, ON, OFF, k=None) for each in (concepts, turned))
    assert one.names == other.names
    assert [c.score for c in one] == [c.score for c in other]
    for concept in one:
        assert {concept.meta["end"], other[concept.name].meta["end"]} == {"top", "bottom"}


def test_what_was_planted_in_a_word_is_found_first(lens: Lens):
    # The direction of one letter's embedding after the first block, among random ones.
    on = Texts(["zzzz zz", "a zzz", "zz zzz z"])
    off = Texts(["aaaa bb", "a bbb", "bb aaa c"])
    means = [np.concatenate(hidden_states(lens, side, 0)).mean(0) for side in (on, off)]
    planted = Concept("L0.planted", "blocks.0.hook_resid_post", torch.from_numpy(means[0] - means[1]))
    concepts = (some(lens, 30) + ConceptSet([planted]).for_model(lens)).for_model(lens)
    assert find.by_example(lens, concepts, on, off, score="mean", k=1).names == ["L0.planted"]


def test_the_template_counts_only_when_it_is_asked_for(lens: Lens):
    concepts = some(lens)
    every = find.by_example(lens, concepts, ON, OFF, roles=None, k=None)
    for concept in every:
        row = concepts[concept.name].direction.double().numpy()
        sign = 1 if concept.meta["end"] == "top" else -1
        scores = [(sign * states @ row).max() for states in hidden_states(lens, [*ON, *OFF], concept.layer, True)]
        assert concept.meta["mean_on"] == pytest.approx(np.mean(scores[: len(ON)]), rel=1e-3)


def test_halves_of_the_texts_merge_to_the_whole(lens: Lens):
    concepts, texts = some(lens), Texts([*ON, *OFF])
    (whole,) = stream(lens, texts, concepts.hooks, _TextScores(concepts, {}, len(texts)))
    halves = [_TextScores(concepts, {}, len(texts)) for _ in range(2)]

    class Halves:
        def update(self, hook, acts, batch, where):
            even = batch.index[where[:, 0]] % 2 == 0
            for one, rows in zip(halves, (even, ~even), strict=True):
                one.update(hook, acts[rows], batch, where[rows])

    stream(lens, texts, concepts.hooks, Halves(), scan=Scan(100))
    merged = halves[0].merge(halves[1])
    for hook in concepts.hooks:
        for name in ("top", "bottom", "sums", "counts"):
            torch.testing.assert_close(getattr(merged, name)[hook], getattr(whole, name)[hook], atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(merged.spread(hook), whole.spread(hook), rtol=1e-4)


def test_texts_that_differ_by_rounding_only_are_equal():
    scores = np.array([[1.0, 1.0], [1 + 1e-7, 1.01], [1 - 1e-7, 0.5], [1.0, 0.5]])
    area = _figures(scores, np.zeros(2), np.full(2, 0.5), 2)[0]
    assert area.tolist() == [0.5, 1.0]


def test_spread_far_from_zero_is_that_of_numpy(lens: Lens):
    concepts = some(lens)
    hook = concepts.hooks[0]
    read = _TextScores(concepts, {}, 4)
    acts = []
    for number, text in enumerate(ON[:4]):
        batch = collate([encode(tiny_tokenizer(), text, index=number)], 0)
        where = batch.mask(None).nonzero()
        part = 1000 + torch.randn(len(where), 32, generator=torch.Generator().manual_seed(number))
        read.update(hook, part, batch, where)
        acts.append(part.double().numpy())
    along = np.concatenate(acts) @ concepts.directions(hook).double().numpy().T
    np.testing.assert_allclose(read.spread(hook), along.std(axis=0), rtol=2e-3)


def test_a_model_in_bf16_ranks_as_in_fp32_up_to_its_rounding(lens: Lens):
    half = load(tiny_model(n_layers=3).to(torch.bfloat16), tokenizer=tiny_tokenizer(), name_as="half")
    full, rounded = (find.by_example(one, some(lens).for_model(one), ON, OFF, k=None) for one in (lens, half))
    scores = [[of[name].score for name in full.names] for of in (full, rounded)]
    assert np.corrcoef(scores)[0, 1] > 0.95


def test_what_was_found_knows_what_it_was_searched_by_and_fits_its_model(lens: Lens, tmp_path):
    found = find.by_example(lens, some(lens), ON, OFF, k=2)
    found.check(lens)
    assert found.provenance["data"]["fires_on"]["fingerprint"] == ON.fingerprint
    assert ConceptSet.load(found.save(tmp_path)).names == found.names
    alone = find.by_example(lens, some(lens), ["a red house"], k=2)
    alone.save(tmp_path / "alone")  # JSON has no NaN


def test_what_cannot_be_ranked_is_refused_with_the_reason(lens: Lens):
    concepts, sae = some(lens), tiny_sae(lens)

    def example(*sides, **options):
        return find.by_example(lens, options.pop("concepts", concepts), *sides, **options)

    with pytest.raises(ValueError, match="at least one text"):
        example([], OFF)
    with pytest.raises(ValueError, match="needs not_on="):
        example(ON, score="mean")
    with pytest.raises(ValueError, match=r'score="maxx".*Did you mean "max"'):
        example(ON, OFF, score="maxx")
    with pytest.raises(ValueError, match="at least 1"):
        example(ON, OFF, k=0)
    with pytest.raises(ValueError, match="Text 1 of not_on has no token"):
        example(ON, [OFF[0], {"prompt": "x", "answer": ""}], roles=["assistant"])
    with pytest.raises(ValueError, match="None of these concepts is a latent"):
        example(ON, OFF, saes=sae)
    wrong = ConceptSet([Concept("L1.latent3", HOOK, sae.W_dec[4], meta={"latent": 3})]).for_model(lens)
    with pytest.raises(ValueError, match="does not point along latent 3"):
        example(ON, OFF, saes=sae, concepts=wrong)
    with pytest.raises(ValueError, match="found on"):
        find.by_example(tiny_lens(seed=5, n_layers=3), concepts, ON, OFF)
