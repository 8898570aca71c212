"""Streaming passes and their reducers: what `caft_lens.activations.differences` promises, against plain transformers
and numpy.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from tiny_models import tiny_lens, tiny_model, tiny_tokenizer

from caft_lens.activations.differences import activation_difference, stream
from caft_lens.activations.moments import Moments
from caft_lens.activations.top_windows import TopWindows, Windows
from caft_lens.model.lens import Lens, load
from caft_lens.text.batching import Scan, collate
from caft_lens.text.documents import Text, Texts
from caft_lens.text.encoding import Encoded, encode
from caft_lens.text.roles import ASSISTANT, ROLES

HOOK = "blocks.1.hook_resid_post"


def some(n: int = 30, seed: int = 0) -> Texts:
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefgh "))
    say = lambda: "".join(rng.choice(letters, rng.integers(1, 25)))  # noqa: E731
    return Texts([{"prompt": say(), "answer": say()} for _ in range(n)], name="letters")


@pytest.fixture(scope="module")
def lens() -> Lens:
    return tiny_lens("llama", n_layers=3)


@pytest.fixture(scope="module")
def other() -> Lens:
    return tiny_lens("llama", seed=1, n_layers=3)


class Everything:
    """The reducer that keeps it all, for comparison."""

    def __init__(self) -> None:
        self.acts: dict[str, dict[tuple[int, int], torch.Tensor]] = {}

    def update(self, hook, acts, batch, where):
        rows = self.acts.setdefault(hook, {})
        assert len(acts) == len(where)
        for act, (row, position) in zip(acts, where.tolist(), strict=True):
            rows[int(batch.index[row]), position] = act.clone()

    def merge(self, other):
        raise NotImplementedError

    def matrix(self, hook: str) -> np.ndarray:
        return torch.stack([self.acts[hook][key] for key in sorted(self.acts[hook])]).double().numpy()


def plain_hidden_states(lens: Lens, texts: Texts, layer: int, role: int | None = ASSISTANT) -> np.ndarray:
    """The residual stream after a block by transformers alone, one text at a time, `[n_tokens, d_model]`."""
    rows = []
    for text in texts:
        encoded = encode(lens.tokenizer, text)
        with torch.no_grad():
            states = lens.hf(torch.tensor([encoded.input_ids]), output_hidden_states=True).hidden_states
        rows.append(states[layer + 1][0].double().numpy()[encoded.roles == role if role is not None else slice(None)])
    return np.concatenate(rows)


# ------------------------------------------------------------------------------------------------- the pass


def test_streamed_activations_are_those_of_plain_transformers_at_the_tokens_of_the_role(lens):
    texts = some()
    (kept,) = stream(lens, texts, [0, 1], Everything(), scan=Scan(200))
    for layer in (0, 1):
        expected = plain_hidden_states(lens, texts, layer)
        np.testing.assert_allclose(kept.matrix(f"blocks.{layer}.hook_resid_post"), expected, atol=1e-5)


def test_all_roles_are_all_tokens_but_padding(lens):
    texts = some(10)
    (kept,) = stream(lens, texts, [1], Everything(), roles=None, scan=Scan(300))
    np.testing.assert_allclose(kept.matrix(HOOK), plain_hidden_states(lens, texts, 1, role=None), atol=1e-5)


def test_two_lenses_give_the_difference_on_the_same_tokens(lens, other):
    texts = some()
    (kept,) = stream((lens, other), texts, [1], Everything(), scan=Scan(200))
    expected = plain_hidden_states(lens, texts, 1) - plain_hidden_states(other, texts, 1)
    np.testing.assert_allclose(kept.matrix(HOOK), expected, atol=1e-5)


def test_an_adapter_is_compared_with_the_base_whose_weights_it_shares(lens):
    from peft import LoraConfig

    torch.manual_seed(0)
    tuned = lens.adapt(LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    texts = some(8)
    (kept,) = stream((tuned, lens), texts, [1], Everything())
    expected = plain_hidden_states(tuned, texts, 1) - plain_hidden_states(lens, texts, 1)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(kept.matrix(HOOK), expected, atol=1e-4)


def test_a_difference_of_bf16_models_is_taken_in_fp32(lens):
    lenses = [load(tiny_model("llama", seed).to(torch.bfloat16), tokenizer=tiny_tokenizer()) for seed in (0, 1)]
    (kept,) = stream(tuple(lenses), some(3), [1], Everything())
    assert next(iter(kept.acts[HOOK].values())).dtype == torch.float32


@pytest.mark.parametrize("site", ["hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post", "attn.hook_z"])
def test_every_site_is_captured_as_the_lens_caches_it(lens, site):
    texts, name = some(5), f"blocks.1.{site}"
    (kept,) = stream(lens, texts, [name], Everything(), roles=["user", "assistant"])
    for index, text in enumerate(texts):
        _, cache = lens.run_with_cache(text, names_filter=[name])
        for (row, position), act in kept.acts[name].items():
            if row == index:
                torch.testing.assert_close(act, cache[name][0, position].flatten(), atol=1e-5, rtol=1e-5)


def test_nothing_after_the_last_hook_is_computed(lens):
    ran = []
    handles = [
        block.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, block in enumerate(lens.hf.model.layers)
    ]
    try:
        stream(lens, some(3), [0, 1], Everything())
    finally:
        for handle in handles:
            handle.remove()
    assert set(ran) == {0, 1}


def test_hooks_attached_around_the_pass_act_in_it(lens):
    texts = some(3)
    with lens.hooks([(HOOK, lambda acts, hook: torch.ones_like(acts))]):
        (kept,) = stream(lens, texts, [1, 2], Everything())
    assert (kept.matrix(HOOK) == 1).all()
    assert np.abs(kept.matrix("blocks.2.hook_resid_post") - plain_hidden_states(lens, texts, 2)).min() > 0


def test_a_generator_is_read_as_it_goes(lens):
    read, most = 0, 0

    def texts():
        nonlocal read
        for text in some(400):
            read += 1
            yield text

    class Watch(Everything):
        def update(self, hook, acts, batch, where):
            nonlocal most
            most = max(most, read - int(batch.index.min()))

    stream(lens, texts(), [0], Watch(), scan=Scan(100))
    assert read == 400
    assert most < 120


def test_reducers_see_which_tokens_they_get(lens):
    texts = some(6)

    class Check(Everything):
        def update(self, hook, acts, batch, where):
            row, position = where.unbind(1)
            assert (batch.roles[row, position] == ROLES["user"]).all()
            assert len(where) == (batch.roles == ROLES["user"]).sum()
            super().update(hook, acts, batch, where)

    (kept,) = stream(lens, texts, [0], Check(), roles=["user"])
    for index, position in kept.acts["blocks.0.hook_resid_post"]:
        assert encode(lens.tokenizer, texts[index]).roles[position] == ROLES["user"]


def test_captured_activations_can_be_learned_from(lens):
    probe = torch.nn.Linear(lens.d_model, 1)

    class Learn(Everything):
        def update(self, hook, acts, batch, where):
            probe(acts).sum().backward()

    stream(lens, some(2), [0], Learn())
    assert probe.weight.grad.abs().sum() > 0


def test_dropout_is_off_during_the_pass_and_as_it_was_after():
    lens = load(tiny_model("llama", attention_dropout=0.5), tokenizer=tiny_tokenizer())
    lens.model.train()
    lens.hf.model.norm.eval()
    noisy = [lens.run_with_cache(some(1)[0], names_filter=[1])[1][HOOK] for _ in range(2)]
    assert not torch.equal(*noisy)  # or else this shows nothing
    first, second = (stream(lens, some(3), [1], Everything())[0].matrix(HOOK) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert lens.hf.model.layers[0].self_attn.training
    assert not lens.hf.model.norm.training


def test_a_mask_that_selects_no_token_says_which_roles_there_are(lens):
    with pytest.raises(ValueError, match=r"No token has the role system.*user \(\d+ tokens\), assistant"):
        stream(lens, some(3), [0], Moments(), roles=["system"])
    with pytest.raises(ValueError, match="no text"):
        stream(lens, [], [0], Moments())


def test_what_is_misspelt_is_named(lens):
    with pytest.raises(KeyError, match="hook_resid_post"):
        stream(lens, some(1), ["blocks.1.hook_resid_pots"], Moments())
    with pytest.raises(KeyError, match="0 to 2"):
        stream(lens, some(1), [3], Moments())
    with pytest.raises(ValueError, match='Did you mean "assistant"'):
        stream(lens, some(1), [1], Moments(), roles=["asistant"])
    with pytest.raises(ValueError, match="No hook points"):
        stream(lens, some(1), [], Moments())


def test_an_activation_that_is_not_finite_names_hook_batch_and_text_and_leaves_no_hook(lens):
    broken = lens.copy()
    with torch.no_grad():
        broken.hf.model.layers[1].mlp.down_proj.weight[3] = float("inf")
    with pytest.raises(
        ValueError, match=r"blocks\.1\.hook_resid_post of tiny-llama is NaN or infinite in batch 0.*text \d"
    ):
        stream(broken, some(3), [0, 1], Moments())
    assert not any(point.has_hooks() for point in broken.hook_dict.values())


def test_models_that_cannot_be_compared_are_refused(lens):
    wide = tiny_lens("llama", d_model=64)
    with pytest.raises(ValueError, match=r"32 wide and .* 64"):
        stream((lens, wide), some(1), [0], Moments())
    from chat_templates import bytes_tokenizer

    foreign = load(tiny_model("llama"), tokenizer=bytes_tokenizer())
    with pytest.raises(ValueError, match="different tokenizers"):
        stream((lens, foreign), some(1), [0], Moments())


# ------------------------------------------------------------------------------------------------- moments


def test_streamed_mean_and_covariance_are_numpys(lens, other):
    texts = some()
    diff = activation_difference(lens, other, texts, layers=[0, 1], scan=Scan(200))
    for layer in (0, 1):
        expected = plain_hidden_states(lens, texts, layer) - plain_hidden_states(other, texts, layer)
        hook = f"blocks.{layer}.hook_resid_post"
        assert diff.count[hook] == len(expected)
        np.testing.assert_allclose(diff.mean[hook], expected.mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(diff.covariance[hook], np.cov(expected.T), atol=1e-4)


def test_the_difference_knows_where_it_comes_from(lens, other):
    texts = some(4)
    diff = activation_difference(lens, other, texts)
    assert diff.hooks == [f"blocks.{i}.hook_resid_post" for i in range(3)]
    assert diff.provenance == {
        "model": other.name,
        "fingerprint": other.fingerprint,
        "reading": other.reading,
        "d_model": 32,
        "tuned": lens.name,
        "tuned_fingerprint": lens.fingerprint,
        "data": {"name": "letters", "fingerprint": texts.fingerprint},
        "roles": ["assistant"],
        "tokens": sum(len(text.answer) for text in texts),
        "method": "activation difference",
    }


def moments_of(*parts: np.ndarray, **settings) -> Moments:
    moments = Moments(**settings)
    for part in parts:
        moments.update(HOOK, torch.from_numpy(part.astype(np.float32)))
    return moments


def test_any_split_of_the_tokens_merges_to_the_same_moments():
    acts = np.random.default_rng(0).normal(size=(500, 7)).astype(np.float32)
    for cuts in ([1], [3, 100], [499], [100, 101, 250]):
        parts = [moments_of(part) for part in np.split(acts, cuts)]
        for order in (parts, parts[::-1]):
            merged = Moments()
            for part in order:
                assert merged.merge(part) is merged
            assert merged.count[HOOK] == 500
            np.testing.assert_allclose(merged.mean[HOOK], acts.astype(np.float64).mean(axis=0), atol=1e-7)
            np.testing.assert_allclose(merged.covariance[HOOK], np.cov(acts.T.astype(np.float64)), atol=5e-6)


def test_partial_moments_merge_in_any_grouping_to_fp64():
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(n, 7)) + 3 for n in (10, 1, 200)]
    make = lambda i: moments_of(parts[i])  # noqa: E731
    left = make(0).merge(make(1)).merge(make(2)).covariance[HOOK]
    right = make(2).merge(make(1).merge(make(0))).covariance[HOOK]
    np.testing.assert_allclose(left, right, rtol=1e-12, atol=1e-14)


def test_merging_leaves_the_other_result_alone():
    rng = np.random.default_rng(0)
    one, two = moments_of(rng.normal(size=(5, 3))), moments_of(rng.normal(size=(6, 3)))
    before = two.covariance[HOOK].clone()
    one.merge(two).merge(two)
    Moments().merge(two).merge(one)
    torch.testing.assert_close(two.covariance[HOOK], before, rtol=0, atol=0)


def test_covariance_far_from_zero_loses_nothing():
    rng = np.random.default_rng(0)
    acts = (1e4 + rng.normal(size=(4000, 5)) * [1, 0.1, 0.01, 1, 1]).astype(np.float32)
    moments = moments_of(*np.split(acts, 4))
    np.testing.assert_allclose(
        moments.covariance[HOOK].diagonal(), np.cov(acts.T.astype(np.float64)).diagonal(), rtol=1e-5
    )


def test_moments_survive_a_file_and_equal_moments_are_equal_files(tmp_path, lens, other):
    diff = activation_difference(lens, other, some(4), layers=[2, 0])
    again = Moments.load(diff.save(tmp_path / "a.safetensors"))
    assert again.provenance == diff.provenance
    assert again.hooks == diff.hooks == ["blocks.2.hook_resid_post", "blocks.0.hook_resid_post"]
    assert again.count == diff.count
    for hook in diff.hooks:
        assert torch.equal(again.mean[hook], diff.mean[hook])
        assert torch.equal(again.covariance[hook], diff.covariance[hook])
    again.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_files_that_hold_no_moments_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="holds no moments"):
        Moments.load(tmp_path / "x.safetensors")
    moments_of(np.zeros((3, 4))).save(tmp_path / "y.safetensors")
    (tmp_path / "y.safetensors").write_bytes((tmp_path / "y.safetensors").read_bytes()[:-5])
    with pytest.raises(ValueError, match="truncated"):
        Moments.load(tmp_path / "y.safetensors")


def test_moments_that_do_not_belong_together_are_not_merged():
    one, two = moments_of(np.zeros((3, 4))), moments_of(np.zeros((3, 4)))
    one.provenance, two.provenance = {"fingerprint": "a"}, {"fingerprint": "b"}
    with pytest.raises(ValueError, match="fingerprint is a here and b there"):
        one.merge(two)
    with pytest.raises(ValueError, match="means only"):
        moments_of(np.zeros((3, 4)), covariance=False).merge(moments_of(np.zeros((3, 4))))
    with pytest.raises(ValueError, match="5 wide"):
        moments_of(np.zeros((3, 4))).merge(moments_of(np.zeros((3, 5))))


def test_what_moments_do_not_hold_they_say():
    moments = moments_of(np.ones((3, 4)), covariance=False)
    assert moments.mean[HOOK].tolist() == [1, 1, 1, 1]
    with pytest.raises(ValueError, match="means only"):
        moments.covariance[HOOK]
    with pytest.raises(ValueError, match="at least 2 tokens"):
        moments_of(np.ones((1, 4))).covariance[HOOK]
    with pytest.raises(KeyError, match="Did you mean"):
        moments.mean["blocks.1.hook_resid_pots"]


# ------------------------------------------------------------------------------------------------- top windows

Case = list[tuple[np.ndarray, np.ndarray, np.ndarray]]  # tokens, mask of wanted tokens, activations, per text


def corpus(n: int = 60, d: int = 4, seed: int = 0) -> Case:
    """Short texts of few different tokens, so that windows repeat; activations are a function of the token, so that
    values tie."""
    rng = np.random.default_rng(seed)
    table = np.round(rng.normal(size=(5, d)), 1)
    texts = []
    for _ in range(n):
        tokens = rng.integers(0, 5, size=rng.integers(1, 9))
        texts.append((tokens, rng.random(len(tokens)) < 0.8, table[tokens].astype(np.float32)))
    return texts


def reduce(
    case: Case, directions: torch.Tensor, numbers, batch_size: int, side: str = "right", **settings
) -> TopWindows:
    reducer = TopWindows({HOOK: directions}, **settings)
    for rows in (
        itertools.batched(numbers, batch_size) if hasattr(itertools, "batched") else batched(numbers, batch_size)
    ):
        batch = collate(
            [
                Encoded(case[i][0].tolist(), np.where(case[i][1], 3, 0).astype(np.int8), case[i][1], index=i)
                for i in rows
            ],
            pad_id=0,
            side=side,
        )
        where = batch.mask(["assistant"]).nonzero()
        acts = [
            case[int(batch.index[row])][2][int(batch.position_ids[row, position])] for row, position in where.tolist()
        ]
        if len(where):
            reducer.update(HOOK, torch.tensor(np.array(acts)), batch, where)
    return reducer


def batched(numbers, size):
    numbers = list(numbers)
    return [numbers[start : start + size] for start in range(0, len(numbers), size)]


def by_hand(case: Case, direction: np.ndarray, k: int, window: tuple[int, int], sign: int) -> list[tuple]:
    """The definition, read aloud: the best token of every text; of equal windows the best, then the earliest; the k
    best.
    """
    best: dict[tuple, tuple] = {}
    for index, (tokens, wanted, acts) in enumerate(case):
        scores = acts @ direction
        order = sorted((-sign * scores[p], p) for p in range(len(tokens)) if wanted[p])
        if not order:
            continue
        value, peak = -sign * order[0][0], order[0][1]
        span = range(peak - window[0], peak + window[1] + 1)
        key = tuple(int(tokens[p]) if 0 <= p < len(tokens) else -1 for p in span)
        shown = tuple(float(scores[p]) if 0 <= p < len(tokens) and wanted[p] else None for p in span)
        candidate = (-sign * value, index, peak, key, shown)
        best[key] = min(best.get(key, candidate), candidate, key=lambda c: c[:3])
    return [(sign * -value, *rest) for value, *rest in sorted(best.values(), key=lambda c: c[:3])[:k]]


def read(windows: Windows, direction: int) -> list[tuple]:
    rows = []
    for j in range(windows.values.shape[1]):
        if windows.index[direction, j] < 0:
            assert windows.values[direction, j].isnan()
            assert (windows.tokens[direction, j] == -1).all()
            continue
        shown = tuple(None if np.isnan(a) else a for a in windows.activations[direction, j].tolist())
        rows.append(
            (
                float(windows.values[direction, j]),
                int(windows.index[direction, j]),
                int(windows.position[direction, j]),
                tuple(windows.tokens[direction, j].tolist()),
                shown,
            )
        )
    return rows


# Multiples of a half, so that sums are exact in fp32 and ties are ties in every order of summation.
DIRECTIONS = torch.tensor(np.random.default_rng(1).integers(-2, 3, size=(6, 4)) / 2, dtype=torch.float32)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(
    "settings", [{"k": 3, "window": (1, 1)}, {"k": 5, "window": (0, 0)}, {"k": 80, "window": (4, 2)}]
)
def test_windows_are_those_that_the_definition_gives(settings, side):
    case = [(tokens, wanted, np.round(acts * 2) / 2) for tokens, wanted, acts in corpus()]
    reducer = reduce(case, DIRECTIONS, range(len(case)), batch_size=7, side=side, **settings)
    for direction, sign in itertools.product(range(len(DIRECTIONS)), (1, -1)):
        windows = (reducer.top if sign == 1 else reducer.bottom)(HOOK)
        assert windows.peak == settings["window"][0]
        expected = by_hand(case, DIRECTIONS[direction].numpy(), sign=sign, **settings)
        found = read(windows, direction)
        assert [row[:4] for row in found] == [tuple(row[:4]) for row in expected]
        for row, hand in zip(found, expected, strict=True):
            assert row[4] == hand[4]


def test_windows_do_not_depend_on_order_batches_or_how_results_are_merged():
    case = [(tokens, wanted, np.round(acts * 2) / 2) for tokens, wanted, acts in corpus()]
    settings = {"k": 4, "window": (2, 1)}
    numbers = np.random.default_rng(2).permutation(len(case)).tolist()
    whole = reduce(case, DIRECTIONS, range(len(case)), batch_size=60, **settings)

    def parts() -> list[TopWindows]:
        cuts = (numbers[:7], numbers[7:30], numbers[30:])
        return [reduce(case, DIRECTIONS, part, batch_size=5, **settings) for part in cuts]

    a, b, c = parts()
    left = a.merge(b).merge(c)
    a, b, c = parts()
    right = c.merge(b.merge(a))
    for other in (reduce(case, DIRECTIONS, numbers, batch_size=3, **settings), left, right):
        for end in ("top", "bottom"):
            for mine, theirs in zip(getattr(whole, end)(HOOK).tensors, getattr(other, end)(HOOK).tensors, strict=True):
                torch.testing.assert_close(mine, theirs, rtol=0, atol=0, equal_nan=True)


def test_thousands_of_directions_give_what_each_gives_alone():
    # Multiples of a half: sums are exact, and equal values stay equal whatever order a matrix product adds in.
    case = [(tokens, wanted, np.round(acts * 2) / 2) for tokens, wanted, acts in corpus(20)]
    many = torch.randn(700, 4, generator=torch.Generator().manual_seed(0)).mul(2).round().div(2)
    together = reduce(case, many, range(20), batch_size=8, k=2, window=(1, 1)).top(HOOK)
    for number in (0, 255, 256, 699):
        alone = reduce(case, many[number], range(20), batch_size=8, k=2, window=(1, 1)).top(HOOK)
        torch.testing.assert_close(together.values[number : number + 1], alone.values)
        assert torch.equal(together[number : number + 1].tokens, alone.tokens)


def test_windows_streamed_from_a_model_peak_where_its_cache_peaks(lens):
    texts = some(12)
    directions = torch.randn(3, lens.d_model, generator=torch.Generator().manual_seed(0))
    (reducer,) = stream(lens, texts, [1], TopWindows({HOOK: directions}, k=2), roles=["assistant"], scan=Scan(200))
    scores = {}
    for index, text in enumerate(texts):
        encoded = encode(lens.tokenizer, text)
        _, cache = lens.run_with_cache(text, names_filter=[HOOK])
        rows = (cache[HOOK][0] @ directions.T).masked_fill(
            torch.from_numpy(encoded.roles != ASSISTANT)[:, None], -torch.inf
        )
        scores[index] = rows.max(dim=0)
    for direction in range(3):
        best = sorted(scores, key=lambda i: -float(scores[i].values[direction]))[:2]
        windows = reducer.top(HOOK)
        assert windows.index[direction].tolist() == best
        assert windows.position[direction].tolist() == [int(scores[i].indices[direction]) for i in best]
        ids = encode(lens.tokenizer, texts[best[0]]).input_ids
        assert int(windows.tokens[direction, 0, windows.peak]) == ids[int(windows.position[direction, 0])]


def test_directions_that_do_not_fit_are_refused(lens):
    with pytest.raises(ValueError, match="5 wide, activations 32"):
        stream(lens, some(1), [1], TopWindows({HOOK: torch.ones(5)}))
    with pytest.raises(ValueError, match=r'no directions at "blocks\.0\.hook_resid_post"'):
        stream(lens, some(1), [0], TopWindows({HOOK: torch.ones(32)}))
    with pytest.raises(ValueError, match="NaN"):
        TopWindows({HOOK: torch.full((32,), torch.nan)})
    with pytest.raises(ValueError, match="at least one direction"):
        TopWindows({})
    with pytest.raises(ValueError, match="k=0"):
        TopWindows({HOOK: torch.ones(32)}, k=0)
    with pytest.raises(ValueError, match="same directions"):
        TopWindows({HOOK: torch.ones(32)}).merge(TopWindows({HOOK: torch.ones(32)}, k=3))


def test_text_for_a_pass_may_be_plain(lens):
    (moments,) = stream(lens, [Text(text="Once upon a time")], [0], Moments(), roles=["text"])
    assert moments.count["blocks.0.hook_resid_post"] == 16
