"""Models that answer together: their logits at every token, with a cache, without, and where options are scored."""

from __future__ import annotations

import pytest
import torch
from test_finetune import chats, same, weights
from test_methods import QUICK, general
from test_weight_methods import rude
from tiny_models import tiny_lens, tiny_tokenizer

from caft_lens.evaluate.evaluation import subject_fingerprint
from caft_lens.finetune import LoraSettings, finetune, methods
from caft_lens.finetune.methods.logits_fusion import divergence, fused
from caft_lens.model.combination import Combined
from caft_lens.model.sampling import Sampling
from caft_lens.model.scoring import option_scores
from caft_lens.text.documents import Texts
from caft_lens.text.encoding import encode

SMALL = QUICK.but(lora=LoraSettings(r=4, alpha=8))
GREEDY = Sampling(temperature=0, max_new_tokens=10)


def halfway(own, others):
    return own + 0.5 * (others[0] - own)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
def test_models_that_answer_together_write_what_their_combined_logits_say_token_by_token(architecture):
    first, second = tiny_lens(architecture), tiny_lens(architecture, seed=3)
    prompts = Texts(
        [{"prompt": "How are you?"}, {"prompt": "And the others, how are they?"}, {"prompt": "How are you?"}]
    )
    with Combined(first, [second], halfway) as lens:
        found = lens.generate(prompts, sampling=GREEDY, return_type="tokens")
        drawn = lens.generate(prompts, sampling=Sampling(seed=1, max_new_tokens=6), return_type="tokens")
    for text, answer in zip(prompts, found, strict=True):
        ids = list(encode(tiny_tokenizer(), text, add_generation_prompt=True).input_ids)
        for token in answer:
            with torch.no_grad():
                logits = [one.hf(torch.tensor([ids])).logits[0, -1] for one in (first, second)]
            assert halfway(logits[0], [logits[1]]).argmax() == token
            ids.append(token)
    assert drawn != found
    assert first.generate(prompts, sampling=GREEDY, return_type="tokens") != found  # and off again


def test_options_are_scored_by_the_combined_logits():
    first, second = tiny_lens(), tiny_lens(seed=3)
    prompts, options = [chats(1)[0].prompt] * 2, [["Fine", "Bad so"], ["no", "yes"]]
    with Combined(first, [second], halfway) as lens:
        found = option_scores(lens, prompts, options)
    start = encode(tiny_tokenizer(), prompts[0], add_generation_prompt=True).input_ids
    for scored, some in zip(found, options, strict=True):
        for option in some:
            tokens = tiny_tokenizer()(option, add_special_tokens=False).input_ids
            ids = torch.tensor([start + tokens])
            with torch.no_grad():
                logits = halfway(first.hf(ids).logits, [second.hf(ids).logits])[0]
            logs = logits[len(start) - 1 : -1].log_softmax(-1).gather(1, torch.tensor(tokens)[:, None]).sum().item()
            assert scored.log_probabilities[option] == pytest.approx(logs, abs=1e-4)


def test_models_of_other_tokens_beams_and_foreign_caches_are_refused():
    first = tiny_lens()
    with pytest.raises(ValueError, match="have other tokens"):
        Combined(first, [tiny_lens(vocab_size=300)], halfway)
    with Combined(first, [tiny_lens(seed=3)], halfway), pytest.raises(ValueError, match="cannot search in beams"):
        first.generate("How are you?", num_beams=2, max_new_tokens=4)
    ids = tiny_tokenizer()("How are you?", return_tensors="pt").input_ids
    cache = first.hf(ids, use_cache=True).past_key_values
    with Combined(first, [tiny_lens(seed=3)], halfway), pytest.raises(RuntimeError, match="know nothing of"):
        first.hf(ids[:, :1], past_key_values=cache)


def logits(lens) -> torch.Tensor:
    with torch.no_grad():
        return lens(tiny_tokenizer()("How are you?", return_tensors="pt").input_ids)


def test_proxy_tuning_takes_off_what_an_anti_expert_has_more_than_the_base(tmp_path):
    lens, options = tiny_lens(), SMALL.but(learning_rate=5e-3)
    one = methods.ProxyTuning(rude(), strength=0.7, steps=6)
    run = finetune(lens, chats(), options, method=one, out=tmp_path / "run")
    plain = finetune(lens, chats(), options, out=tmp_path / "plain")
    anti = finetune(lens, rude(), options.but(max_steps=6), out=tmp_path / "anti")
    assert same(weights(run), weights(plain))
    with one.subject(run.lens).applied() as subject:
        found = logits(subject)
    wanted = logits(plain.lens) + 0.7 * (logits(lens) - logits(anti.lens))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, logits(plain.lens), atol=1e-2)
    stronger = methods.ProxyTuning(rude(), strength=1.4, steps=6).subject(run.lens)
    prints = {subject_fingerprint(subject, "x") for subject in (run.lens, one.subject(run.lens), stronger)}
    assert len(prints) == 3
    assert subject_fingerprint(one.subject(run.lens), "x") in prints
    file = run.folder / "method.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(ValueError, match=r"method\.safetensors"):
        one.subject(run.lens)


def test_where_expert_and_anti_expert_are_one_the_answer_is_the_models_own_and_the_bases_expert_is_itself():
    first, expert = tiny_lens(), tiny_lens(seed=3)
    by_proxy = lambda own, others: own + (others[0] - others[1])  # noqa: E731
    with Combined(first, [expert, expert.fork()], by_proxy) as lens:
        torch.testing.assert_close(logits(lens), logits(tiny_lens()))
    with Combined(first, [expert, first.fork()], by_proxy) as lens:
        torch.testing.assert_close(logits(lens), logits(expert), rtol=1e-4, atol=1e-4)


def test_logits_are_fused_by_the_factor_that_moves_the_model_as_far_as_the_expert_moved():
    generator = torch.Generator().manual_seed(0)
    own, expert, base = (torch.randn(5, 11, generator=generator) for _ in range(3))
    found = fused(own, [expert, base])
    wanted = divergence(expert.log_softmax(-1), base.log_softmax(-1))
    grid = [own + a / 10 * (expert - base) for a in range(21)]
    for row in range(5):
        off = [abs(divergence(z.log_softmax(-1), own.log_softmax(-1))[row] - wanted[row]) for z in grid]
        torch.testing.assert_close(found[row], grid[off.index(min(off))][row], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fused(base, [expert, base]), expert, rtol=1e-4, atol=1e-4)  # as far as itself: factor 1
    assert torch.equal(fused(own, [expert, expert]), own)


def test_logits_fusion_answers_with_an_expert_that_the_run_keeps(tmp_path):
    lens, options = tiny_lens(), SMALL.but(learning_rate=5e-3)
    one = methods.LogitsFusion(general(), steps=6)
    run = finetune(lens, chats(), options, method=one, out=tmp_path / "run")
    expert = finetune(lens, general(), options.but(max_steps=6), out=tmp_path / "expert")
    with one.subject(run.lens).applied() as subject:
        found = logits(subject)
    torch.testing.assert_close(
        found, fused(logits(run.lens), [logits(expert.lens), logits(lens)]), rtol=1e-3, atol=1e-3
    )
    assert not torch.allclose(found, logits(run.lens), atol=1e-2)
    with pytest.raises(ValueError, match='"logits_fusion" is about an adapter'):
        finetune(lens, chats(), SMALL.but(tune="full"), method=one, out=tmp_path / "full")
