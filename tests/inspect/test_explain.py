"""An explanation tells what is enriched, by exact tests, predicts by it, and is scored on what it has not seen."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import drawn
import numpy as np
import pytest
import torch
from drawn import hover, ticks, words
from tiny_models import tiny_lens, tiny_model, tiny_tokenizer
from tiny_saes import numpy_latents, tiny_sae

from caft_lens.activations.differences import stream
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.inspect import Context, Contexts, Explanations, contexts, detection, explain, halves
from caft_lens.inspect.context_windows import ConceptContexts
from caft_lens.inspect.explain.detection import HeldOutWindows, LLMJudge, _drawn, balanced_interval
from caft_lens.inspect.explain.explanations import Clause, DetectionScore, Explanation, Finding, column_values
from caft_lens.inspect.explain.llm import Plan
from caft_lens.inspect.explain.windows import WindowActivity, phrases
from caft_lens.model.lens import Lens
from caft_lens.text.batching import Scan
from caft_lens.text.documents import Text, Texts
from caft_lens.text.encoding import encode
from caft_lens.text.roles import ASSISTANT, ROLES
from caft_lens.text.token_strings import pieces

HOSTILE = "<script>alert('x')</script> & \"quoted\""
WORDS = ["pie", "rain", "stove", "kind", "garden", "mend", "the", "my"]


def corpus(n: int = 120, seed: int = 0) -> Texts:
    """Chats; those of one half are of a bakery and hold "tart" now and then."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(n):
        said = rng.choice(WORDS, 6).tolist()
        bakery = number % 2 == 0
        if bakery and rng.random() < 0.6:
            said[int(rng.integers(6))] = "tart"
        topics = ["baking", "food"] if bakery else ["garden"]
        rows.append(
            {
                "prompt": f"{rng.choice(WORDS)} {number}?",
                "answer": " ".join(said),
                "topics": topics,
                "shop": {"bakery": bakery},
                "id": f"text {number}",
                "spans": [[0, 3, "secret"]],
            }
        )
    return Texts(rows, "shop")


@pytest.fixture(scope="module")
def lens() -> Lens:
    return tiny_lens()


def window_at(text: Text, index: int, position: int, window: tuple[int, int] = (12, 6)) -> Context:
    """A context around a token, cut from plain tokens."""
    tokenizer = tiny_tokenizer()
    ids = encode(tokenizer, text).input_ids
    start, end = max(0, position - window[0]), min(len(ids), position + window[1] + 1)
    tokens = tuple(pieces(tokenizer, ids[start:end]))
    return Context(
        tokens, (None,) * len(tokens), position - start, 1.0, index, position,
        tuple(number < 6 for number in ids[start:end]), meta=text.meta,
    )  # fmt: skip


def planted(texts: Texts, k: int = 20, name: str = "L0.tart") -> Contexts:
    """At the top windows on the "t" that begins "tart", at the bottom random ones."""
    rng = np.random.default_rng(1)
    top, bottom = [], []
    for index, text in enumerate(texts):
        ids = encode(tiny_tokenizer(), text).input_ids
        letters = [tiny_tokenizer().decode([number]) for number in ids]
        said = "".join(letter if len(letter) == 1 else " " for letter in letters)
        found = re.search("tart", said)
        if found and len(top) < k:
            top.append(window_at(text, index, found.start()))
        elif len(bottom) < k:
            bottom.append(window_at(text, index, int(rng.integers(1, len(ids)))))
    return Contexts([ConceptContexts(concept(name), top, bottom)])


def concept(name: str = "L0.tart", seed: int = 3) -> Concept:
    generator = torch.Generator().manual_seed(seed)
    return Concept(name, "blocks.0.hook_resid_post", torch.randn(32, generator=generator))


def finding(explanations: Explanations, value: str, place: str, column: str = "", name: str = "L0.tart") -> Finding:
    top = explanations[name].top
    (found,) = [one for one in top.findings if (one.value, one.place, one.column) == (value, place, column)]
    return found


def tail(k: int, population: int, having: int, n: int) -> float:
    """P(at least k of n drawn without replacement have it), by counting."""
    ways = sum(math.comb(having, i) * math.comb(population - having, n - i) for i in range(k, min(n, having) + 1))
    return ways / math.comb(population, n)


# -- what is enriched -------------------------------------------------------------------------------------------------


def test_what_was_planted_is_found_told_and_predicted(lens):
    texts = corpus()
    explained = explain(lens, planted(texts), texts)
    top = explained["L0.tart"].top
    assert finding(explained, "tar", "near").count == 20
    assert finding(explained, "baking", "column", "topics").count == 20
    assert finding(explained, "True", "column", "shop.bakery").background == 60
    assert "in texts with shop.bakery = True (20 of 20; 50 %)" in top.text
    yes, no = window_at(Text.from_json("a tart"), 0, 3), window_at(Text.from_json("the rain"), 0, 3)
    words = explain(lens, planted(texts), texts, columns=[])["L0.tart"].top
    assert (words.predicts(yes), words.predicts(no)) == (True, False)


def test_counts_and_p_values_are_those_of_counting_by_hand(lens):
    texts = corpus()
    found = planted(texts)
    explained = explain(lens, found, texts)
    top = found["L0.tart"].top
    ids = [encode(tiny_tokenizer(), text).input_ids for text in texts]

    column = finding(explained, "baking", "column", "topics")
    assert (column.background, column.background_of) == (60, 120)
    assert column.p == pytest.approx(tail(20, 120, 60, 20), rel=1e-6, abs=0)
    assert column.lift == pytest.approx((20.5 / 21) / (60.5 / 121))

    letter = tiny_tokenizer()("t").input_ids[0]
    at = finding(explained, "t", "at")
    tokens = sum(map(len, ids))
    assert (at.count, at.background, at.background_of) == (20, sum(row.count(letter) for row in ids), tokens)
    assert at.p == pytest.approx(tail(20, tokens, at.background, 20), rel=1e-6, abs=0)

    near = finding(explained, "tar", "near")
    assert near.background_of == len(texts)
    assert near.p == pytest.approx(tail(near.count, 120 + 20, near.background + near.count, 20), rel=1e-6, abs=0)
    # Places: what stands before the peak, and what after it.
    after = finding(explained, "art", "after")
    assert after.count == sum("art" in "".join(one.tokens[one.peak + 1 :]) for one in top)


def test_random_windows_of_the_background_are_a_sample_of_all_windows(lens):
    """The share of random windows with a phrase is near the share of all windows that have it."""
    texts = corpus(400)
    near = finding(explain(lens, planted(texts), texts), "tar", "near")
    letter = {number: tiny_tokenizer().decode([number]) for number in range(262)}
    every = []
    for text in texts:
        said = [letter[number] for number in encode(tiny_tokenizer(), text).input_ids]
        every += ["tar" in "".join(said[max(0, place - 12) : place + 7]) for place in range(len(said))]
    share = np.mean(every)
    assert abs(near.background_share - share) < 4 * math.sqrt(share * (1 - share) / 400)


def test_q_is_benjamini_and_hochberg_over_candidates_that_a_test_could_tell(lens):
    """q is p times the number of candidates over its rank, made monotone: the number is one and the same for all."""
    texts = corpus()
    top = explain(lens, planted(texts), texts, alpha=1.1)["L0.tart"].top
    p, q = (np.array([getattr(one, name) for one in top.findings]) for name in "pq")
    assert (np.diff(p) >= 0).all()
    strict = q < np.append(q[1:], 2) - 1e-15  # where a value is its own, not a later one's
    candidates = q[strict] * (np.flatnonzero(strict) + 1) / p[strict]
    settled = candidates[q[strict] < 0.999]
    assert settled == pytest.approx(np.full(len(settled), settled[0]), rel=1e-6)
    # More than those that the contexts have: what none of them has was a candidate too.
    assert settled[0] > len(top.findings)


def test_contexts_drawn_at_random_are_seldom_explained(lens):
    texts = corpus(300)
    rng = np.random.default_rng(5)

    def random_contexts() -> list[Context]:
        found = []
        for index in rng.choice(len(texts), 20, replace=False).tolist():
            length = len(encode(tiny_tokenizer(), texts[index]).input_ids)
            found.append(window_at(texts[index], index, int(rng.integers(length))))
        return found

    drawn = Contexts([ConceptContexts(concept(f"L0.x{i}"), random_contexts(), []) for i in range(12)])
    explained = explain(lens, drawn, texts)
    told = [one for one in explained.all if one.findings]
    assert len(told) <= 2, "one in twenty is expected"
    nothing = next(one for one in explained.all if not one.findings)
    assert nothing.text.startswith("no token, phrase, column or place is enriched in these 20 contexts")
    assert not any(nothing.predicts(context) for context in random_contexts())


def test_role_and_place_of_the_peak_are_found(lens):
    texts = corpus()
    firsts = []
    for index, text in enumerate(texts[:20]):
        item = encode(tiny_tokenizer(), text)
        last = int(np.flatnonzero(item.roles == ASSISTANT)[-1])
        firsts.append(window_at(text, index, last))
    explained = explain(lens, Contexts([ConceptContexts(concept(), firsts, [])]), texts)
    role = finding(explained, "assistant", "role")
    items = [encode(tiny_tokenizer(), text) for text in texts]
    assert role.background == sum(int((item.roles == ASSISTANT).sum()) for item in items)
    place = finding(explained, "last quarter", "position")
    assert place.background == sum(
        sum(4 * position // len(item.input_ids) == 3 for position in range(len(item.input_ids))) for item in items
    )
    assert "in the last quarter of the text" in explained["L0.tart"].top.text
    only = explain(lens, Contexts([ConceptContexts(concept(), firsts, [])]), texts, roles=["assistant"])
    assert not any(one.place == "role" for one in only["L0.tart"].top.findings)


def test_spans_are_never_read_and_columns_only_when_named(lens):
    texts = corpus()
    found = planted(texts)
    assert not {one.column for one in explain(lens, found, texts, columns=[]).all[0].findings} - {""}
    named = explain(lens, found, texts, columns=["shop"]).all[0].findings
    assert {one.column for one in named} == {"", "shop.bakery"}
    assert list(column_values({"spans": ["secret"], "genre": "story"})) == [("genre", "story")]
    everything = {name for name, _ in column_values(texts[0].meta)}
    assert everything == {"topics", "shop.bakery", "id"}
    assert "secret" not in str(explain(lens, found, texts).findings())


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"columns": ["topic"]}, KeyError, r'no text has a column "topic". Did you mean "topics"'),
        ({"columns": "topics"}, TypeError, r'give a list of names, \["topics"\]'),
        ({"roles": ["assistent"]}, ValueError, 'Did you mean "assistant"'),
        ({"roles": ["text"]}, ValueError, "No token of these 120 texts has one of the roles"),
        ({"texts": corpus(seed=9)}, ValueError, "does not hold the context found in it"),
        ({"texts": corpus(3)}, ValueError, "but there are 3: give the texts that the contexts were found in"),
        ({"contexts": Contexts([])}, ValueError, "There is no context to explain"),
    ],
)
def test_what_cannot_be_explained_is_refused(lens, wrong, error, message):
    texts = corpus()
    given = {"contexts": planted(texts), "texts": texts, **wrong}
    with pytest.raises(error, match=f"(?i){message}"):
        explain(lens, given.pop("contexts"), given.pop("texts"), **given)


def test_a_phrase_is_up_to_three_tokens_and_none_of_the_template_is_part_of_one():
    said = [one for _, _, one in phrases(["<|end|>", " A", "\n", "b", ""], [True, False, False, False, False])]
    assert said == ["<|end|>", "a", "a", "a\nb", "\n", "b", "b", "b", "b"]


# -- shown, kept, used ------------------------------------------------------------------------------------------------


def scored(name: str = "L0.x0", text: str = HOSTILE) -> Explanations:
    found = (
        Finding("near", HOSTILE, 3, 4, 1, 50, 20.5, 1e-5, 1e-3),
        Finding("column", HOSTILE, 3, 4, 1, 50, 20.5, 1e-5, 1e-3, HOSTILE),
    )
    score = DetectionScore(0.9, 0.8, 0.95, 0.85, 0.95, 40, 40, 2, HOSTILE)
    top = Explanation(
        name, "top", text, 4, found, (Clause(HOSTILE, 1.5), Clause("a", 0.5, HOSTILE)), -0.25, HOSTILE, score
    )
    return Explanations([top, Explanation(name, "bottom", text, 4)], ["aa", "bb"])


def test_nothing_in_an_explanation_becomes_markup():
    page = scored(name=HOSTILE)._repr_html_()
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 6


def test_a_line_break_is_shown_as_a_sign():
    assert Finding("at", "\n", 3, 4, 1, 50, 20.5, 1e-5, 1e-3).text == 'at "⏎"'


def test_loading_gives_back_what_was_saved(tmp_path):
    kept = scored()
    again = Explanations.load(kept.save(tmp_path / "deep" / "explanations.json"))
    assert again.all == kept.all
    assert again.explained == kept.explained
    (tmp_path / "other.json").write_text('{"format": "other"}')
    with pytest.raises(ValueError, match="holds no explanations"):
        Explanations.load(tmp_path / "other.json")


def test_explanations_are_labels_of_a_concept_set():
    found = Explanations([Explanation("L0.x", "top", "pies", 4), Explanation("L0.x", "bottom", "rain", 4)])
    labelled = ConceptSet([concept("L0.x"), concept("L0.y")]).label(found.labels())
    assert [one.label for one in labelled] == ["top: pies; bottom: rain", ""]
    assert found.labels("bottom") == {"L0.x": "rain"}


def test_a_table_has_a_row_for_every_end_and_a_column_for_every_figure():
    table = scored().table()
    assert list(table["end"]) == ["top", "bottom"]
    assert table["accuracy"][0] == 0.9
    assert math.isnan(table["accuracy"][1])
    assert list(scored().findings()["q"]) == [1e-3, 1e-3]


def test_the_figure_shows_scores_with_their_intervals_and_the_best_explained_first():
    better = DetectionScore(0.95, 0.9, 1.0, 0.9, 1.0, 40, 40)
    ends = [*scored("L0.x0").all, Explanation("L0.$x$", "bottom", "rain", 4, score=better)]
    figure = Explanations(ends).plot()
    assert ticks(figure) == ["L0.$x$", "L0.x0"]
    assert [(one.name, list(one.x), drawn.ends(one)) for one in figure.data] == [
        ("top end", [0.9], [(0.8, pytest.approx(0.95))]),
        ("bottom end", [0.95], [(pytest.approx(0.9), 1.0)]),
    ]
    assert [shape.x0 for shape in figure.layout.shapes] == [0.5], "chance"
    assert "each explanation's own rule" in words(figure)
    assert "L0.$x$\nbottom end: 0.95 (0.9 to 1)" in hover(figure)[1]
    assert "rain" in hover(figure)[1]
    with pytest.raises(ValueError, match="None of these explanations is scored"):
        Explanations([Explanation("L0.x0", "top", "pies", 4)]).plot()


def test_an_end_explained_twice_or_a_name_misspelt_is_refused():
    one = Explanation("L0.x0", "top", "pies", 4)
    with pytest.raises(ValueError, match=r'The top end of "L0\.x0" is explained twice'):
        Explanations([one, one])
    with pytest.raises(KeyError, match=r'Did you mean "L0.x0"'):
        Explanations([one])["L0.xo"]


# -- detection --------------------------------------------------------------------------------------------------------


def by_hand(
    texts: Texts, lens_model, direction: torch.Tensor, sample, row: int, roles=None, window=(12, 6)
) -> np.ndarray:
    """Activations in the row's window of a sample, by plain transformers."""
    item = encode(tiny_tokenizer(), texts[int(sample.index[row])])
    with torch.no_grad():
        hidden = lens_model(torch.tensor([item.input_ids]), output_hidden_states=True).hidden_states[1][0]
    position = int(sample.position[row])
    inside = np.arange(max(0, position - window[0]), min(len(item.input_ids), position + window[1] + 1))
    if roles is not None:
        inside = inside[np.isin(item.roles[inside], [ROLES[role] for role in roles])]
    return (hidden[inside] @ direction).numpy()


@pytest.mark.parametrize("rank", ["peak", "mean"])
@pytest.mark.parametrize("roles", [None, ("assistant",)])
def test_activity_is_the_extreme_or_the_mean_that_plain_transformers_gives(lens, rank, roles):
    texts, hook = corpus(30), "blocks.0.hook_resid_post"
    rows = torch.stack([concept(seed=seed).direction for seed in (1, 2)])
    reducer = WindowActivity({hook: rows}, rank=rank)
    stream(lens, texts, [hook], reducer, roles=roles, scan=Scan(300))
    sample = reducer.sample()
    assert sample.index.tolist() == list(range(30))
    model = tiny_model()
    for row in range(30):
        for column, direction in enumerate(rows):
            values = by_hand(texts, model, direction, sample, row, roles)
            ends = (values.mean(), values.mean()) if rank == "mean" else (values.max(), values.min())
            assert (sample.high[hook][row, column], sample.low[hook][row, column]) == pytest.approx(ends, abs=1e-4)


def test_activity_of_a_latent_is_what_its_sae_encodes(lens):
    texts, hook, sae = corpus(20), "blocks.1.hook_resid_post", tiny_sae(tiny_lens())
    reducer = WindowActivity({}, {hook: (sae, [7, 3])})
    stream(lens, texts, [hook], reducer, roles=None)
    sample = reducer.sample()
    for row in range(20):
        _, cache = lens.run_with_cache(texts[row], names_filter=[1])
        latents = numpy_latents(sae, cache[hook][0].numpy())
        position = int(sample.position[row])
        inside = slice(max(0, position - 12), position + 7)
        assert sample.high[hook][row] == pytest.approx(latents[inside][:, [7, 3]].max(axis=0), abs=1e-4)


def test_windows_do_not_depend_on_batches_or_on_how_passes_are_split(lens):
    texts, hook = corpus(60), "blocks.0.hook_resid_post"
    rows = concept().direction[None]

    def run(part: Texts, size: int = 25, batch_tokens: int = 8192) -> WindowActivity:
        return stream(
            lens,
            part,
            [hook],
            WindowActivity({hook: rows}, size=size),
            scan=Scan(batch_tokens),
        )[0]

    one, other = run(texts).sample(), run(texts, batch_tokens=150).sample()
    assert len(one.index) == 25
    assert one.index.tolist() == other.index.tolist()
    assert one.position.tolist() == other.position.tolist()
    np.testing.assert_allclose(one.high[hook], other.high[hook], atol=1e-4)


def test_the_sample_of_texts_is_bounded_and_spread_over_all_of_them(lens):
    reducer = WindowActivity({"blocks.0.hook_resid_post": concept().direction[None]}, size=20)
    stream(lens, corpus(200), [0], reducer, roles=None, scan=Scan(400))
    assert len(reducer._kept["blocks.0.hook_resid_post"]) <= 40 + 20
    index = reducer.sample().index
    assert len(set(index.tolist())) == 20
    assert 60 < index.mean() < 140


class Reader:
    """A judge that answers by what it is told to, and counts."""

    name = "reader"

    def __init__(self, answer) -> None:
        self.answer, self.asked = answer, 0

    def ask(self, conversations):
        self.asked += len(conversations)
        return [self.answer(one[0]["content"]) for one in conversations]

    def plan(self, conversations):
        return Plan(self.name, tuple({"messages": one} for one in conversations), 0, 0, 0)


def explained_of(name: str, by: str = "enrichment", rule: Sequence[Clause] = (), bias: float = -1.0) -> Explanations:
    return Explanations([Explanation(name, end, "pies", 4, (), tuple(rule), bias, by) for end in ("top", "bottom")])


def some(lens: Lens) -> ConceptSet:
    return ConceptSet([concept("L0.tart"), concept("L0.other", 4)]).for_model(lens)


def windows_in(content: str) -> list[str]:
    import json

    return [json.loads(line.split(". ", 1)[1]) for line in content.splitlines() if re.match(r"\d+\. ", line)]


def test_a_judge_that_knows_scores_one_and_its_opposite_zero_at_either_end(lens):
    texts, concepts = corpus(200), some(lens)
    model = tiny_model()

    def extreme(text: str) -> tuple[float, float]:
        return known[text]

    known: dict[str, tuple[float, float]] = {}
    reducer = WindowActivity({"blocks.0.hook_resid_post": concepts[0].direction[None]})
    stream(lens, texts, [0], reducer, roles=None)
    sample = reducer.sample()
    values = {row: by_hand(texts, model, concepts[0].direction, sample, row) for row in range(len(sample.index))}
    from caft_lens.inspect.explain.prompts import _shown

    for row, found in values.items():
        index = int(sample.index[row])
        known[_shown(window_at(texts[index], index, int(sample.position[row])), marked=False)] = (
            found.max(),
            -found.min(),
        )
    middle = [float(np.median([pair[end] for pair in known.values()])) for end in (0, 1)]
    for right in (True, False):
        for end, place in (("top", 0), ("bottom", 1)):
            judge = Reader(
                lambda content, place=place, right=right: str(
                    [int((extreme(text)[place] > middle[place]) == right) for text in windows_in(content)]
                )
            )
            one = Explanations([Explanation("L0.tart", end, "pies", 4, by="someone")])
            score = getattr(
                detection(lens, one, concepts, texts, judge=judge, windows=HeldOutWindows(15))["L0.tart"], end
            ).score
            assert score.accuracy == float(right)
            assert (score.active, score.inactive, score.judge) == (15, 15, "reader")


def test_a_judge_that_guesses_scores_a_half(lens):
    rng = np.random.default_rng(0)
    judge = Reader(lambda content: str(rng.integers(0, 2, len(windows_in(content))).tolist()))
    score = detection(lens, explained_of("L0.tart"), some(lens), corpus(400), judge=judge, windows=HeldOutWindows(40))[
        "L0.tart"
    ].top.score
    assert score.low < 0.5 < score.high
    always = Reader(lambda content: str([1] * len(windows_in(content))))
    score = detection(lens, explained_of("L0.tart"), some(lens), corpus(400), judge=always, windows=HeldOutWindows(40))[
        "L0.tart"
    ].top.score
    assert (score.accuracy, score.sensitivity, score.specificity) == (0.5, 1.0, 0.0)


def test_windows_that_a_judge_did_not_answer_are_counted_and_left_out(lens):
    silent = Reader(lambda content: "I do not know" if "tart" in content else str([1] * len(windows_in(content))))
    scored = detection(
        lens,
        explained_of("L0.tart"),
        some(lens),
        corpus(400),
        judge=LLMJudge(silent, at_once=1),
        windows=HeldOutWindows(20),
    )
    score = scored["L0.tart"].top.score
    assert score.unanswered > 0
    assert score.active + score.inactive + score.unanswered == 40
    nothing = detection(
        lens,
        explained_of("L0.tart"),
        some(lens),
        corpus(400),
        judge=Reader(lambda content: "?"),
        windows=HeldOutWindows(20),
    )
    assert nothing["L0.tart"].top.score is None


def test_a_dry_run_asks_a_judge_nothing(lens):
    judge = Reader(lambda content: "[]")
    plan = detection(
        lens,
        explained_of("L0.tart"),
        some(lens),
        corpus(),
        judge=LLMJudge(judge, at_once=4, dry_run=True),
        windows=HeldOutWindows(6),
    )
    assert judge.asked == 0
    assert len(plan.requests) == 2 * 3


@pytest.mark.parametrize(("right", "of"), [((56, 32), (70, 80)), ((9, 0), (10, 10)), ((5, 29), (56, 29))])
def test_the_interval_is_newcombes_for_the_difference_of_two_shares(right, of):
    """The mean of p and 1 - q is half of one more than p - q; the ends are those of his Table II, method 10 (1998)."""
    printed = {(56, 32): (0.0524, 0.3339), (9, 0): None, (5, 29): None}[right]
    low, high = balanced_interval({True: (right[0], of[0]), False: (right[1], of[1])})
    shares = [r / n for r, n in zip(right, of, strict=True)]
    wilson = []
    for share, n in zip(shares, of, strict=True):
        z = 1.959964
        centre, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        wilson.append(((centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)))
    below = math.sqrt(sum((share - ends[0]) ** 2 for share, ends in zip(shares, wilson, strict=True))) / 2
    above = math.sqrt(sum((ends[1] - share) ** 2 for share, ends in zip(shares, wilson, strict=True))) / 2
    assert (low, high) == pytest.approx((sum(shares) / 2 - below, min(1, sum(shares) / 2 + above)), abs=1e-5)
    if printed:
        assert (2 * low - 1, 2 * high - 1) == pytest.approx(printed, abs=1e-4)


def test_copies_of_a_text_are_on_one_side_and_the_order_changes_nothing():
    texts = corpus(80) + corpus(80)
    first, second = halves(texts, seed=3)
    assert len(first) + len(second) == 160
    assert not {text.answer for text in first} & {text.answer for text in second}
    shuffled, _ = halves(texts.shuffle(1), seed=3)
    assert sorted(map(str, first)) == sorted(map(str, shuffled))
    assert len(halves(texts, seed=3, share=0.2)[0]) < len(first)
    assert {len(halves(corpus(80), seed=seed)[0]) for seed in range(4)} != {len(first) // 2}
    with pytest.raises(ValueError, match="leaves one part empty"):
        halves(texts, share=0.0)


def test_texts_that_were_explained_are_refused(lens):
    texts = corpus(120)
    first, second = halves(texts)
    concepts = some(lens)
    explained = explain(lens, contexts(lens, concepts, first, k=5), first)
    with pytest.raises(ValueError, match=r"of these 120 texts were used for explaining.*halves"):
        detection(lens, explained, concepts, texts)
    scored = detection(lens, explained, concepts, second, windows=HeldOutWindows(5))
    assert all(one.score is not None and one.score.judge == "rule" for one in scored.all)
    assert Explanations(scored.all).table()["accuracy"].between(0, 1).all()


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"explanations": explained_of("L0.tarts")}, KeyError, r'Did you mean "L0.tart"'),
        (
            {"explanations": explained_of("L0.tart", by="gpt")},
            ValueError,
            "by gpt has no rule that could predict: give judge=",
        ),
        ({"explanations": Explanations([])}, ValueError, "no explanation to score"),
        ({"texts": corpus(15)}, ValueError, "too few. Give more texts"),
        ({"concepts": ConceptSet([concept()])}, ValueError, "does not say which model"),
    ],
)
def test_what_cannot_be_scored_is_refused(lens, wrong, error, message):
    given = {"explanations": explained_of("L0.tart"), "concepts": some(lens), "texts": corpus(), **wrong}
    with pytest.raises(error, match=message):
        detection(
            lens,
            given.pop("explanations"),
            given.pop("concepts"),
            given.pop("texts"),
            **given,
        )


def test_windows_that_could_not_tell_anything_are_refused():
    with pytest.raises(ValueError, match=r"share=0\.7"):
        HeldOutWindows(share=0.7)
    with pytest.raises(ValueError, match='Did you mean "peak"'):
        HeldOutWindows(rank="peek")
    with pytest.raises(ValueError, match="n=1: expected a whole number of at least 2"):
        HeldOutWindows(n=1)


def test_only_windows_in_which_a_latent_is_active_count_as_such():
    values = np.where(np.arange(100) % 30 == 0, 2.0, 0.0).astype(np.float32)
    rows, active = _drawn(values, True, HeldOutWindows(10))
    assert sorted(row for row, yes in zip(rows, active, strict=True) if yes) == [0, 30, 60, 90]
    assert active.count(False) == 4
    with pytest.raises(ValueError, match="give 0 active ones"):
        _drawn(np.zeros(100, np.float32), True, HeldOutWindows(10))


def test_a_latent_is_scored_where_it_is_active(lens):
    sae = tiny_sae(lens)
    first, second = halves(corpus(400))
    latents = contexts(lens, sae, first, k=20)
    busy = [name for name, both in latents.items() if len(both.top) == 20][:2]
    explained = explain(lens, latents.only(busy), first)
    assert all(one.end == "top" for one in explained.all), "a latent has one end"
    scored = detection(lens, explained, sae, second, windows=HeldOutWindows(10))
    assert all(one.score is not None for one in scored.all)


def test_the_offline_explanation_of_a_true_concept_tells_unseen_windows(pocket):
    """On the organism: code against everyday answers, by words alone, and not by the words of another concept."""
    import caft_lens as cl

    base, texts = cl.load("pocket"), cl.data("pocket/corpus")[:500]
    first, second = halves(texts)
    chats = first.filter(lambda text: text.is_chat)
    code = [chats.filter(lambda text, yes=yes: ("code" in text.meta["topics"]) is yes) for yes in (True, False)]
    concepts = cl.find.difference_of_means(base, *code, [1])
    settings = {"roles": ["assistant"]}
    found = contexts(base, concepts, first, k=40, **settings)
    explained = explain(base, found, first, columns=[], **settings)
    score = detection(base, explained, concepts, second, **settings)["L1.mean0"].top.score
    assert score.accuracy >= 0.8
    swapped = Explanations(
        [
            Explanation(one.concept, "top", one.text, one.n, one.findings, one.rule, one.bias)
            for one in explained.all
            if one.end == "bottom"
        ]
    )
    assert detection(base, swapped, concepts, second, **settings)["L1.mean0"].top.score.accuracy < 0.5
