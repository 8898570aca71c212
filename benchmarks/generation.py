"""Sampling with concepts ablated against Hugging Face's `generate` on the untouched model.

    python benchmarks/generation.py [--rounds 25] [--model pocket] [--tokens 48]

Both start from questions as text and end with answers as text (chat template, left padding, decoding), and draw the
same number of tokens, with a key-value cache and the same random numbers. What is ablated: 4 directions at each of 2
layers, at every token. `lens, nothing ablated` shows what the lens alone costs. That all agree is checked first: the
lens answers word for word as plain Hugging Face does, and otherwise with the concepts ablated.

With `--answers 8` a second table: so many answers to each prompt, which the lens runs once, against the same with every
prompt run apart, as Hugging Face's `generate` does for a list of prompts.
"""

from __future__ import annotations

import argparse
import copy
from unittest.mock import patch

import torch
from timing import interleaved

import caft_lens as cl
from caft_lens.text.encoding import encode


def main() -> None:
    """Run the rounds and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu beside other processes")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--answers", type=int, default=8, help="to each prompt, in the second table")
    options = parser.parse_args()
    untouched, lens = cl.load(options.model).hf, cl.load(options.model)
    asked = [text.prompt for text in cl.data("pocket/questions")[: options.prompts]]
    # Longest first, as the lens runs them, so that the same random numbers meet the same questions.
    questions = cl.Texts(
        sorted(asked, key=lambda text: -len(encode(lens.tokenizer, text, add_generation_prompt=True).input_ids))
    )
    conversations = [
        [{"role": message.role, "content": message.content} for message in text.messages] for text in questions
    ]
    tokenizer = copy.deepcopy(lens.tokenizer)
    tokenizer.padding_side = "left"
    width, layers = lens.cfg.d_model, lens.cfg.n_layers
    chosen = [
        cl.Concept(f"L{layer}.x{i}", f"blocks.{layer}.hook_resid_post", torch.randn(width))
        for layer in (layers // 2 - 1, layers // 2)
        for i in range(4)
    ]
    concepts = cl.ConceptSet(chosen).for_model(lens)
    length = {"max_new_tokens": options.tokens, "min_new_tokens": options.tokens}

    def plain() -> list[str]:
        batch = tokenizer.apply_chat_template(
            conversations, add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt"
        )
        torch.manual_seed(0)
        tokens = untouched.generate(**batch, do_sample=True, top_k=0, **length)
        return tokenizer.batch_decode(tokens[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)

    def bare_lens() -> list[str]:
        return lens.generate(questions, seed=0, batch_size=len(questions), **length)

    def ablated() -> list[str]:
        with cl.ablate(lens, concepts):
            return lens.generate(questions, seed=0, batch_size=len(questions), **length)

    answers = plain()
    assert bare_lens() == answers != ablated()

    timings = interleaved(
        {"plain HF": plain, "lens, nothing ablated": bare_lens, "lens, ablated": ablated},
        rounds=options.rounds,
        clock=options.clock,
    )
    print(f"{lens}, {len(questions)} prompts, {options.tokens} new tokens, {torch.get_num_threads()} threads\n")
    print(timings.table("plain HF"))

    few = [text for text in questions[: max(1, len(questions) // options.answers)] for _ in range(options.answers)]

    def several() -> list[str]:
        return lens.generate(cl.Texts(few), seed=0, batch_size=len(few), **length)

    def apart() -> list[str]:
        with patch("caft_lens.model.generation._prefilled", lambda *_: None):
            return several()

    timings = interleaved({"each apart": apart, "prompts shared": several}, rounds=options.rounds, clock=options.clock)
    print(f"\n{options.answers} answers to each of {len(few) // options.answers} prompts\n")
    print(timings.table("each apart"))


if __name__ == "__main__":
    main()
