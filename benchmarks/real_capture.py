"""Capture at three layers of a real model against a bare forward pass to the last of them, nnsight and TransformerLens.

    python benchmarks/real_capture.py [--model smollm2] [--rounds 12] [--pages 64] [--clock cpu]

Bare is the model of transformers, cut off after the last wanted layer. It, nnsight, `run_with_cache` of
TransformerLens's bridge and the first row of caft_lens are given batches that are already padded tensors; all stop at
the last wanted layer. The rows "from text" also hold templates, tokens, roles and padding. What is captured is checked
to be equal before anything is timed. The bridge computes attention step by step, so that it can be hooked. Peak memory
is that of a process of its own for each.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Sequence
from typing import Any

import peers
import torch
from capture import BATCH_TOKENS, Nothing
from timing import interleaved, machine
from torch import Tensor

from caft_lens.activations.capture import captured
from caft_lens.activations.differences import stream
from caft_lens.activations.moments import Moments
from caft_lens.model.lens import Lens, load
from caft_lens.text.batching import Batch, Scan, batches
from caft_lens.text.documents import Texts, data

PAGES = "smollm2/gender"
SCAN = Scan(BATCH_TOKENS)
BARE, READY, LOADED = "bare", "caft_lens, batches ready", "the model, loaded and not run"
TEXT, COVARIANCES = "caft_lens, from text", "caft_lens, from text, covariances"
NNSIGHT = peers.named("nnsight", "nnsight")
BRIDGE = peers.named("run_with_cache", "transformer-lens")
PACKAGES = {NNSIGHT: "nnsight", BRIDGE: "transformer-lens"}
CLOSE, CLOSE_IN_HALF = 1e-3, 5e-2
"""How far captures may be apart, relative to the length of the activation, in fp32 and in half precision."""

Capture = Callable[[Batch], list[Tensor]]
"""Activations of a batch, `[batch, pos, d_model]` of each wanted layer."""


def bare(lens: Lens, model: Any, wanted: Sequence[int]) -> Callable[[Batch], None]:
    """A forward pass of transformers to the last wanted layer."""
    cut = model.model
    cut.layers, cut.norm = cut.layers[: wanted[-1] + 1], torch.nn.Identity()

    @torch.inference_mode()
    def forward(batch: Batch) -> None:
        cut(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)

    return forward


def by_nnsight(lens: Lens, model: Any, wanted: Sequence[int]) -> Capture:
    """Capture by nnsight."""
    import nnsight

    traced: Any = nnsight.NNsight(model.model)

    @torch.inference_mode()
    def capture(batch: Batch) -> list[Tensor]:
        given = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "use_cache": False}
        with traced.trace(**given) as tracer:
            acts = [traced.layers[layer].output for layer in wanted].save()
            tracer.stop()
        return acts

    return capture


def by_bridge(lens: Lens, model: Any, wanted: Sequence[int]) -> Capture:
    """Capture by TransformerLens."""
    from transformer_lens.model_bridge import TransformerBridge

    bridge: Any = TransformerBridge.boot_transformers(
        lens.name, hf_model=model, tokenizer=lens.tokenizer, dtype=lens.dtype
    )
    names = [f"blocks.{layer}.hook_out" for layer in wanted]
    how = {"names_filter": names, "stop_at_layer": wanted[-1] + 1}

    @torch.inference_mode()
    def capture(batch: Batch) -> list[Tensor]:
        _, cache = bridge.run_with_cache(batch.input_ids, attention_mask=batch.attention_mask, **how)
        return [cache[name] for name in names]

    return capture


MAKERS: dict[str, Callable[[Lens, Any, Sequence[int]], Callable[[Batch], Any]]] = {
    BARE: bare,
    NNSIGHT: by_nnsight,
    BRIDGE: by_bridge,
}


def names_here() -> list[str]:
    """The contestants that can run here."""
    return [BARE, READY, TEXT, COVARIANCES, *(name for name in PACKAGES if peers.here(PACKAGES[name]))]


def layers_of(lens: Lens) -> list[int]:
    """The wanted layers: at a quarter, a half and three quarters of the depth."""
    return [lens.n_layers // 4, lens.n_layers // 2, 3 * lens.n_layers // 4]


def ready_for(lens: Lens, pages: Texts) -> list[Batch]:
    """The pages as batches, where the model is."""
    return [batch.to(lens.device) for batch in batches(lens.tokenizer, pages, scan=SCAN)]


def contestant(name: str, lens: Lens, pages: Texts, *, alone: bool = False) -> Callable[[], None]:
    """One of them, ready to be run on all pages; peers have a copy of the model, unless they are alone with it."""
    wanted, ready = layers_of(lens), ready_for(lens, pages)

    def through_capture() -> None:
        for _ in captured((lens,), ready, [lens.hook_name(layer) for layer in wanted], None):
            pass

    def from_text() -> None:
        stream(lens, pages, wanted, Moments() if name == COVARIANCES else Nothing(), roles=None, scan=SCAN)

    if name not in MAKERS:
        return through_capture if name == READY else from_text
    one = MAKERS[name](lens, lens.hf if alone else copy.deepcopy(lens.hf), wanted)

    def in_batches() -> None:
        for batch in ready:
            one(batch)

    return in_batches


@torch.inference_mode()
def check_equal(lens: Lens, pages: Texts) -> str:
    """Refuse to time contestants that do not capture the same; how far they are apart, as a sentence."""
    wanted, (batch, *_) = layers_of(lens), ready_for(lens, pages)
    mask = batch.attention_mask.bool()
    reference: list[Tensor] = []
    keep = lambda module, given, output: reference.append(output[mask])  # noqa: E731
    handles = [lens.hf.model.layers[layer].register_forward_hook(keep) for layer in wanted]
    lens.hf.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
    for handle in handles:
        handle.remove()
    hooks = [lens.hook_name(layer) for layer in wanted]
    (ours,) = captured((lens,), [batch], hooks, None, sinks="read")
    found = {READY: [ours.acts[hook] for hook in hooks]}
    for name in set(names_here()) & set(PACKAGES):
        found[name] = [acts[mask] for acts in MAKERS[name](lens, copy.deepcopy(lens.hf), wanted)(batch)]
    room = CLOSE if lens.dtype == torch.float32 else CLOSE_IN_HALF
    apart = {}
    for name, acts in found.items():
        pairs = zip(acts, reference, strict=True)
        apart[name] = max(float(((one - of).norm(dim=-1) / of.norm(dim=-1)).max()) for one, of in pairs)
        if not apart[name] <= room:
            raise peers.NotEqual(f"{name} captures something else than transformers computes: {apart[name]:.2g} off.")
    said = ", ".join(f"{name} {apart[name]:.1g}" for name in names_here() if name in apart)
    return f"Apart from what transformers' layers give, at most, relative to its length: {said}."


def main() -> None:
    """Check, run the rounds, measure memory, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default="smollm2", help="whatever cl.load takes, with decoder blocks in model.layers"
    )
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--pages", type=int, default=64)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu beside other busy processes")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    lens, pages = load(options.model), data(PAGES)[: options.pages]
    if options.measure:
        if options.measure != LOADED:
            contestant(options.measure, lens, pages, alone=True)()
        print(peers.peak())
        return
    ready = ready_for(lens, pages)
    tokens = sum(int(batch.attention_mask.sum()) for batch in ready)
    print(f"On {machine()}.\n")
    print(f"{lens}, capture at {layers_of(lens)}, {len(pages)} pages, {tokens} tokens in {len(ready)} batches.\n")
    print(check_equal(lens, pages), "\n", sep="", flush=True)
    names = names_here()
    timings = interleaved({name: contestant(name, lens, pages) for name in names}, options.rounds, clock=options.clock)
    same = ["--model", options.model, "--pages", str(options.pages)]
    peaks = {name: peers.peak_of(__file__, name, same) for name in (*names, LOADED)}
    print(peers.table(timings, BARE, peaks, [name for name in PACKAGES if name not in names]))


if __name__ == "__main__":
    main()
