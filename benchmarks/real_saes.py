"""SAEs for SmolLM2-135M-Instruct at three layers, on text that can be had without a hub.

    make real-saes
    python benchmarks/real_saes.py [--tokens 2000000] [--out FOLDER] [--products float32]
    python benchmarks/real_saes.py --trial | --corpus | --neutral

The corpus is documentation that lies on the machine, snippets that people rated (fetched with pip) and the model's own
chats (`caft_data.worlds.smollm2.corpus`). An interrupted run goes on where it was: chats are kept in parts of 128, the
training every 250,000 tokens of text, and an SAE that is finished is not trained again. Says how long it will take.

    --products  the precision of the model's matrix products, by default bfloat16 where the processor multiplies twice
                as fast in it (AMX, AVX-512 BF16): activations within 2 % (layer 24). The SAEs train in float32 either
                way.
    --corpus  says what the corpus is made of, and trains nothing
    --neutral writes those of the model's chats that are committed: the first 240 about everyday subjects
    --trial   compares numbers of active latents and learning rates on a few activations that are captured once (dev
              choice of K and LEARNING_RATE below); writes benchmarks/results/sae_trial.json
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from timing import fast_products, machine

import caft_lens as cl
from caft_data.worlds.smollm2 import corpus, own_chats, ratings
from caft_lens._support.files import read_json, sha256, write_json
from caft_lens.activations.capture import captured
from caft_lens.saes.reconstruction import reconstruction
from caft_lens.saes.training import TRAINED_ROLES, Training
from caft_lens.text.batching import Scan, batches

HERE = Path(__file__).parent
MODEL = "smollm2"
# After about a quarter, a half and four fifths of 30 blocks. Directions at 8, 12, 16, 20 and 24 steer what is learned;
# before 8 the stream is mostly words, after 24 mostly the next one. A pass ends at the last layer that is asked for.
LAYERS = (8, 16, 24)
D_SAE = 2304  # four times the width; 5.3 MB a layer in float16, so that three can be committed
# Chosen on other held-out documents than those of the cards, from 33,000 captured tokens (--trial). Explained variance
# at layer 16, 32 active latents: 0.69 at a rate of 1e-3, 0.74 at 3e-3, 0.72 at 6e-3. At 3e-3: 0.68 with 16 active
# latents, 0.74 with 32 (0.79 at layer 8, 0.69 at layer 24), 0.78 with 64; loss recovered 0.89 with 32, 0.93 with 64.
# From a bias of 0 rather than the mean, 0.61 instead of 0.68 (1e-3), and four of five latents never fire.
K = 64
LEARNING_RATE = 3e-3
SETTINGS = cl.saes.SaeSettings(
    d_sae=D_SAE,
    k=K,
    tokens=2_000_000,
    batch_size=1024,
    learning_rate=LEARNING_RATE,
    warmup_steps=100,
    decay_share=0.3,
    dead_after_steps=50,
    buffer_tokens=65_536,
    save_tokens=250_000,
    seed=0,
)
SCAN = Scan(4096, max_length=256)
HELD_OUT = 120  # documents for the cards' figures, which take six passes a layer
CHATS = 1500
NEUTRAL = 240
CHAT = cl.Sampling(max_new_tokens=96, temperature=0.7, top_p=0.95, batch_size=32)
COMMITTED, MOST_MB = HERE.parent / "data" / MODEL / "saes", 20
TOLD = 100_000  # tokens between two lines that say how long it will take


def cache() -> Path:
    """Where the model's chats are kept, and SAEs that are too large to be committed."""
    given = os.environ.get("XDG_CACHE_HOME")
    return Path(given or Path.home() / ".cache") / "caft_lens" / MODEL


def with_products(lens: cl.Lens, products: str) -> cl.Lens:
    """The lens, its matrix products in that precision; weights and residual stream stay as they are."""
    if products == "float32":
        return lens
    entered: list[torch.autocast] = []

    def enter(*_: Any) -> None:
        entered.append(torch.autocast(lens.device.type, getattr(torch, products)))
        entered[-1].__enter__()

    def leave(*_: Any) -> None:
        entered.pop().__exit__(None, None, None)

    lens.model.register_forward_pre_hook(enter)
    lens.model.register_forward_hook(leave, always_call=True)  # a pass that ends at a layer ends by an exception
    return lens


def documents() -> corpus.Corpus:
    """The corpus without chats of the model."""
    ratings.fetch()
    return corpus.documents(snippets=corpus.training_snippets())


def own(lens: cl.Lens, found: corpus.Corpus, n: int, products: str) -> list[cl.Text]:
    """Chats of the model, some of them about documents of the corpus."""
    passages = [text.text for text in found.train if text.text and text.meta["source"] != corpus.REVIEWS]
    quoted = [text.text for text in found.train if text.text and text.meta["source"] == corpus.REVIEWS]
    asked = own_chats.prompts(n, passages, quoted)

    def answer(part: cl.Texts, seed: int) -> cl.Texts:
        return cl.completions(lens, part, sampling=replace(CHAT, seed=seed))

    chats: list[cl.Text] = []
    for chat in own_chats.chats(asked, answer, cache() / "chats", f"{lens.fingerprint} {CHAT} {products}"):
        chats.append(chat)
        if len(chats) % own_chats.PART == 0:
            print(f"{len(chats):,} of {len(asked):,} chats", flush=True)
    return chats


def whole_corpus(lens: cl.Lens, n_chats: int, products: str) -> corpus.Corpus:
    """The documents, with the model's own chats."""
    found = documents()
    return found.with_chats(own(lens, found, n_chats, products))


def tokens_of(lens: cl.Lens, found: corpus.Corpus) -> dict[str, int]:
    """Tokens by source."""
    tokenizer = lens.need_tokenizer()

    def count(text: cl.Text) -> int:
        said = text.text if text.text is not None else "\n".join(turn.content for turn in text.messages)
        return len(tokenizer(said).input_ids)

    return found.sizes(count)


def about(sizes: dict[str, int]) -> str:
    """What the corpus is, in words, for the cards."""
    total = sum(sizes.values())
    parts = ", ".join(f"{source} {100 * size / total:.0f} %" for source, size in sizes.items())
    return f"a corpus of {total:,} tokens ({parts})"


def told(texts: cl.Texts, sizes: dict[str, int], already: int, total: int) -> Iterator[cl.Text]:
    """The texts, saying now and then how long reading what is left of `total` tokens will take."""
    per_text = sum(sizes.values()) / max(1, len(texts))
    start, next_line = time.perf_counter(), TOLD
    for number, text in enumerate(texts):
        if number == already:
            start, next_line = time.perf_counter(), int(number * per_text) + TOLD
        if number > already and next_line <= min(number * per_text, total):
            rate = (time.perf_counter() - start) / (number - already)
            left = max(0, total / per_text - number) * rate / 60
            read = int(number * per_text)
            print(f"{read:,} of {total:,} tokens read; about {left:.0f} minutes to go", flush=True)
            next_line += TOLD
        yield text


def train(tokens: int, out: Path | None, n_chats: int, products: str) -> None:
    """All of it."""
    lens = with_products(cl.load(MODEL), products)
    float16 = 2 * len(LAYERS) * 2 * D_SAE * lens.d_model / 1e6  # MB of all encoders and decoders
    out = out or (COMMITTED if float16 <= MOST_MB else cache() / "saes")
    found = whole_corpus(lens, n_chats, products)
    sizes = tokens_of(lens, found)
    what = f"{about(sizes)}, read with products in {products}"
    print(what, flush=True)
    state = out / ".training" / "state.json"
    begun = read_json(state.with_name("products.json"))["products"] if state.is_file() else products
    if begun != products:
        raise SystemExit(f"The training in {out} was begun with --products {begun}: go on with them, or remove it.")
    write_json(state.with_name("products.json"), {"products": products})
    already = read_json(state)["texts_read"] if state.is_file() else 0
    settings = replace(SETTINGS, tokens=tokens)
    start = time.perf_counter()
    saes = cl.saes.train(
        lens,
        told(found.train, sizes, already, tokens),
        LAYERS,
        out,
        held_out=found.held_out[:HELD_OUT],
        settings=settings,
        scan=SCAN,
        about=what,
    )
    print(f"{len(saes)} SAEs in {out} after {(time.perf_counter() - start) / 60:.0f} minutes", flush=True)
    print(cl.sae_cards(out).to_string())


def write_neutral(n_chats: int, products: str) -> None:
    """Commit some of the model's chats that quote nothing."""
    lens = with_products(cl.load(MODEL), products)
    everyday = (chat for chat in own(lens, documents(), n_chats, products) if own_chats.ABOUT not in chat.meta)
    cl.Texts(list(islice(everyday, NEUTRAL)), "neutral chats").save(own_chats.NEUTRAL)


# -- the trial --------------------------------------------------------------------------------------------------------

TRIAL_TEXTS, TRIAL_HELD_OUT = 200, 40  # documents: about 40,000 and 8,000 tokens
TRIAL_PASSES = 4  # over the captured tokens: so few are not enough for one
TRIAL_SPLICED = 12  # documents with the SAE spliced in
TRIAL_BATCH, TRIAL_DEAD = 512, 25  # small, for more steps and some that revive latents
TRIAL_LAYER, TRIAL_K = 16, 32
TRIED: tuple[dict[str, Any], ...] = (
    {"learning_rate": 1e-3, "start_at_mean": None, "dead_after_steps": 200},
    {"learning_rate": 1e-3, "dead_after_steps": 200},
    {"learning_rate": 1e-3},
    {"spliced": True},
    {"learning_rate": 6e-3},
    {"k": 16},
    {"k": 64, "spliced": True},
    {"layer": 8},
    {"layer": 24},
)
"""What is tried beside the settings of the trial."""


def trial(kept: Path) -> None:
    """Compare settings on activations that are captured once."""
    lens = cl.load(MODEL)
    found = corpus.documents()
    # Those that the cards' figures are measured on are left alone.
    texts = {"train": found.train[:TRIAL_TEXTS], "held out": found.held_out[HELD_OUT : HELD_OUT + TRIAL_HELD_OUT]}
    acts, seconds = {}, {}
    for name, some in texts.items():
        path = kept / f"{sha256(some.fingerprint + lens.fingerprint + str(LAYERS))[:16]}.pt"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.save(_captured(lens, some), path)
        acts[name], seconds[name] = torch.load(path)
    n, n_held_out = (len(acts[name][lens.hook_name(TRIAL_LAYER)]) for name in texts)
    rows: list[dict[str, Any]] = []

    print(f"{1000 * seconds['train'] / n:.2f} seconds of processor for 1,000 tokens' activations", flush=True)
    for changes in TRIED:
        settings, layer = tried(changes)
        hook = lens.hook_name(layer)
        row, sae = _figures(lens, hook, acts["train"][hook], acts["held out"][hook], settings)
        if changes.get("spliced"):
            row["loss_recovered"] = _recovered(lens, sae, texts["held out"][:TRIAL_SPLICED])
        rows.append(row)
        print(rows[-1], flush=True)
        write_json(
            HERE / "results" / "sae_trial.json",
            {
                "machine": machine(),
                "what": "explained variance on held-out text, sinks left out",
                "tokens": n,
                "held_out_tokens": n_held_out,
                "passes": TRIAL_PASSES,
                "d_sae": D_SAE,
                "forward_cpu_seconds_per_1000_tokens": round(1000 * seconds["train"] / n, 2),
                "rows": rows,
            },
        )


def tried(changes: Mapping[str, Any]) -> tuple[cl.saes.SaeSettings, int]:
    """Settings of one trial, and its layer."""
    others = {key: value for key, value in changes.items() if key not in ("layer", "spliced")}
    small = replace(SETTINGS, k=TRIAL_K, batch_size=TRIAL_BATCH, dead_after_steps=TRIAL_DEAD, save_tokens=None)
    return replace(small, **others), changes.get("layer", TRIAL_LAYER)


def _captured(lens: cl.Lens, texts: cl.Texts) -> tuple[dict[str, torch.Tensor], float]:
    """Activations by hook point, and the seconds of processor that they took."""
    hooks = [lens.hook_name(layer) for layer in LAYERS]
    start = time.process_time()
    packed = batches(lens.tokenizer, texts, scan=SCAN, progress="activations")
    parts = [one.acts for one in captured((lens,), packed, hooks, TRAINED_ROLES, sinks="leave out together")]
    seconds = time.process_time() - start
    return {hook: torch.cat([part[hook] for part in parts]).float() for hook in hooks}, seconds


def _figures(
    lens: cl.Lens, hook: str, train_on: torch.Tensor, held_out: torch.Tensor, settings: cl.saes.SaeSettings
) -> tuple[dict[str, Any], Any]:
    """An SAE of captured activations, what it explains of others, and itself."""
    size = settings.batch_size
    total = TRIAL_PASSES * len(train_on) // size - 8  # the first eight are for the length of activations
    settings = replace(settings, tokens=total * size)
    training = Training(lens, [hook], settings)
    start = time.process_time()
    trainer, losses = training.trainers[hook], list[float]()
    step = trainer.step

    def watched(batch: torch.Tensor) -> Any:
        losses.append(float((found := step(batch)).loss.detach()))
        return found

    trainer.step = watched  # type: ignore[method-assign]
    for batch in islice(_shuffled(train_on, size), total + 8):
        training.step({hook: batch})
    seconds = time.process_time() - start
    ((_, sae),) = training.finished()
    latents, error = set[int](), 0.0
    with torch.no_grad():
        for part in held_out.split(2048):
            active = sae.encode(part)
            latents |= set(active.any(dim=0).nonzero()[:, 0].tolist())
            error += float((sae.decode(active) - part).square().sum())
    variance = float((held_out - held_out.mean(dim=0)).square().sum())
    row = {
        "hook": hook,
        **{key: getattr(settings, key) for key in ("k", "learning_rate", "start_at_mean", "dead_after_steps")},
        "explained_variance": round(1 - error / variance, 4),
        "loss_first": round(losses[0], 2),
        "loss_last": round(sum(losses[-8:]) / 8, 2),
        "latents_never_active": D_SAE - len(latents),
        "cpu_seconds_per_1000_tokens": round(1000 * seconds / (total * size), 3),
    }
    return row, sae


def _recovered(lens: cl.Lens, sae: Any, texts: cl.Texts) -> float:
    """How much of the loss that the mean costs is won back by an SAE that was just trained."""
    with TemporaryDirectory() as folder:
        sae.save_inference_model(folder)
        found = reconstruction(lens, cl.load_sae(folder, lens=lens), texts, roles=TRAINED_ROLES, scan=SCAN)
    return round(found.recovered_from_mean.mean, 4)


def _shuffled(acts: torch.Tensor, size: int) -> Iterator[torch.Tensor]:
    """Batches, pass after pass, in another order each time."""
    random = torch.Generator().manual_seed(0)
    while True:
        order = torch.randperm(len(acts), generator=random)
        whole: Iterable[torch.Tensor] = order[: len(order) // size * size].split(size)
        yield from (acts[some] for some in whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=SETTINGS.tokens)
    parser.add_argument("--chats", type=int, default=CHATS, help="prompts that the model answers for the corpus")
    parser.add_argument("--out", type=Path, help="where the SAEs go")
    parser.add_argument("--products", choices=("float32", "bfloat16"), default=fast_products())
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--trial", action="store_true", help="compare settings on a few activations")
    what.add_argument("--neutral", action="store_true", help="write the chats that are committed")
    what.add_argument("--corpus", action="store_true", help="say what the corpus is made of")
    told_to = parser.parse_args()
    if told_to.trial:
        trial(cache() / "trial")
    elif told_to.neutral:
        write_neutral(told_to.chats, told_to.products)
    elif told_to.corpus:
        lens = with_products(cl.load(MODEL), told_to.products)
        found = whole_corpus(lens, told_to.chats, told_to.products)
        for source, size in tokens_of(lens, found).items():
            print(f"{size:>12,}  {source}")
    else:
        train(told_to.tokens, told_to.out, told_to.chats, told_to.products)


if __name__ == "__main__":
    main()
