"""Sparse autoencoders for a model of one's own: TopK, trained with sae-lens on activations that are streamed."""

from __future__ import annotations

import shutil
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from caft_lens._support.arguments import count, number
from caft_lens._support.errors import BadArgument, BadData, BadFile
from caft_lens._support.files import (
    Count,
    Record,
    absolute,
    locked,
    parse_tensors,
    parsed,
    read_json,
    read_together,
    sha256,
    write_together,
)
from caft_lens._support.keywords import takes_values
from caft_lens._support.progress import progress
from caft_lens.activations.capture import captured
from caft_lens.saes.loading import load_sae
from caft_lens.saes.publishing import is_done, publish
from caft_lens.text.batching import Scan, pack, padding_id
from caft_lens.text.documents import Text, Texts
from caft_lens.text.encoding import Cuts, Encoded, encoded
from caft_lens.text.roles import ROLES

if TYPE_CHECKING:
    from sae_lens import SAE, SAETrainer, TopKTrainingSAE

    from caft_lens.model.lens import Lens

FORMAT = "caft_lens.sae_training/1"
# All that text is made of: what a chat template adds says the same everywhere, and is long in some models.
TRAINED_ROLES = tuple(role for role in ROLES if role != "special")
_SCALE_BATCHES = 8  # that the length of activations is measured on; they are not trained on
_TEXTS_AT_ONCE = 16  # documents between two looks at how many tokens were read
_ADAM = ("step", "exp_avg", "exp_avg_sq")
_COUNTED = ("act_freq_scores", "n_forward_passes_since_fired")
_NUMBERS = ("n_training_steps", "n_training_samples", "n_frac_active_samples")


@dataclass(frozen=True)
class SaeSettings:
    """Size of an SAE and length of its training.

    TopK (Gao et al., arXiv 2406.04093): how many latents are active is set rather than tuned, and needs no threshold
    that a short run leaves unsettled.

    Attributes:
        d_sae: Latents.
        k: Latents that are active at a token.
        tokens: Tokens to train on, each seen once.
        batch_size: Tokens a step.
        learning_rate: Of Adam, at its highest.
        warmup_steps: Steps over which it rises, a tenth of all at most.
        decay_share: Share of the steps, at the end, over which it goes to 0.
        dead_after_steps: Latents that have not fired for so many steps are trained on what the others leave over.
        buffer_tokens: Activations that are held at a time and mixed.
        save_tokens: A training that is interrupted goes on from the last multiple of so many tokens of text. The
            buffer is emptied there, so that the number is part of the result. `None` saves nothing on the way.
        start_at_mean: Whether the decoder's bias starts at the mean of the first activations. From 0, most latents of a
            short training die: the few that happen to point along the mean are active everywhere. `None` is from 0,
            and is not written to the card.
        seed: Of weights and order.

    Raises:
        BadArgument: For numbers below 1, or more active latents than there are.
    """

    d_sae: int = 4096
    k: int = 32
    tokens: int = 2_000_000
    batch_size: int = 1024
    learning_rate: float = 1e-3
    warmup_steps: int = 50
    decay_share: float = 0.3
    dead_after_steps: int = 100
    buffer_tokens: int = 131_072
    save_tokens: int | None = 500_000
    start_at_mean: bool | None = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("d_sae", "k", "tokens", "batch_size", "buffer_tokens", "dead_after_steps"):
            count(getattr(self, name), name)
        number(self.learning_rate, "learning_rate", above=0)
        number(self.decay_share, "decay_share", least=0, most=1)
        if self.save_tokens is not None:
            count(self.save_tokens, "save_tokens")
        if self.k > self.d_sae:
            raise BadArgument(f"k={self.k} latents cannot be active of d_sae={self.d_sae}: give a smaller k.")
        if self.batch_size > min(self.tokens, self.buffer_tokens):
            raise BadArgument(
                f"batch_size={self.batch_size} is more than tokens={self.tokens} or buffer_tokens={self.buffer_tokens}."
            )

    @property
    def steps(self) -> int:
        """Training steps."""
        return self.tokens // self.batch_size


@takes_values
def train(
    lens: Lens,
    texts: Iterable[Text],
    layers: Sequence[int | str] | int | str,
    out: str | Path,
    *,
    held_out: Texts,
    settings: SaeSettings = SaeSettings(),
    roles: Sequence[str] | None = TRAINED_ROLES,
    scan: Scan = Scan(4096),
    about: str = "text",
) -> list[SAE]:
    """Train sparse autoencoders of the residual stream, all layers in one pass over the text.

    Activations are streamed: memory is the buffer, however many tokens there are. Attention sinks are left out
    (`Lens.sinks`). An SAE that is finished is kept, and a training that was interrupted goes on where it was last
    saved, to the same weights as if it had not been. A layer's SAE does not hang on which other layers are trained
    beside it, but for models with sinks, where a token counts at all of them or none.

    Args:
        lens: The model.
        texts: Documents, enough for `settings.tokens`: read once, from the beginning again when a training goes on.
        layers: Layer numbers (after the layer, `hook_resid_post`) or hook points.
        out: Where the folders go, one a hook point; `load_saes(out)` reads them.
        held_out: Documents to measure on. They are not trained on if they are among `texts`.
        settings: Size and length, and how often the training is saved.
        roles: Roles of the tokens that count; by default all but the chat template's. `None` for all.
        scan: Tokens a batch of the model, and where texts are cut.
        about: What the texts are, in words, for the card.

    Returns:
        One `sae_lens.SAE` a layer, as `load_sae` gives it. In each folder `cfg.json` and `sae_weights.safetensors` as
        sae-lens reads them, `card.json` with what the SAE keeps of the model (`reconstruction`), and `README.md`.

    Raises:
        BadData: When the documents end too early.
        BadFile: When `out` holds an SAE, or an interrupted training, of another model, other settings or other texts.
        Busy: When another process trains there.

    Example:
        >>> texts, short = cl.data("pocket/corpus")[60:120], cl.saes.SaeSettings(256, 16, 2048, 128, buffer_tokens=512)
        >>> saes = cl.saes.train(base, texts, [1], "runs/saes", held_out=corpus[:20], settings=short)
        >>> saes[0].W_dec.shape  # [d_sae, d_model]
        torch.Size([256, 128])

    Source:
        sae-lens (https://github.com/decoderesearch/SAELens); Gao et al., arXiv 2406.04093.
    """
    if len(held_out) < 2:
        raise BadArgument(f"{len(held_out)} held-out documents give no interval: give at least 2.")
    root = absolute(out)
    layers = [layers] if isinstance(layers, (int, str)) else list(layers)
    hooks = list(dict.fromkeys(lens.hook_name(layer) for layer in layers))
    stated = {"held_out": len(held_out), **{key: value for key, value in asdict(settings).items() if value is not None}}
    with locked(root):
        left = [hook for hook in hooks if not is_done(root / hook, lens, stated)]
        if left:
            start = time.perf_counter()
            # One that was killed while its SAEs were written is gone on with whole: what is saved is of all of them.
            state = root / ".training" / "state.json"
            going_on = state.is_file() and read_json(state).get("hooks") == hooks
            training = Training(lens, hooks if going_on else left, settings, roles, scan, state.parent)
            training.run(texts, without=held_out)
            seconds = time.perf_counter() - start
            for hook, trained in training.finished():
                if hook in left:
                    publish(
                        trained, root / hook, lens, held_out,
                        roles=roles, scan=scan, settings=stated, about=about, seconds=seconds,
                    )  # fmt: skip
            training.clear()
    return [load_sae(root, layer=hook, lens=lens) for hook in hooks]


# -- training ---------------------------------------------------------------------------------------------------------


class Training:
    """SAEs of some hook points in training, on one stream.

    Args:
        lens: The model.
        hooks: Full names of the hook points.
        settings: Size and length.
        roles: Roles of the tokens that count.
        scan: How the text is read.
        folder: Where an interrupted training is kept; `None` for nowhere.
    """

    def __init__(
        self,
        lens: Lens,
        hooks: Sequence[str],
        settings: SaeSettings,
        roles: Sequence[str] | None = TRAINED_ROLES,
        scan: Scan = Scan(4096),
        folder: Path | None = None,
    ) -> None:
        self.lens, self.hooks, self.settings, self.roles, self.scan = lens, list(hooks), settings, roles, scan
        self.folder = folder if settings.save_tokens is not None else None
        self._texts_read, self._digest = 0, ""
        self._first: list[dict[str, Tensor]] = []
        with self._own_random():
            self.trainers = {hook: self._trainer(hook) for hook in self.hooks}
            self._random = torch.get_rng_state()

    def run(self, texts: Iterable[Text], *, without: Sequence[Text] = ()) -> None:
        """Train on documents until all steps are made; goes on from what is in the folder.

        Raises:
            BadData: When they end too early.
            BadFile: When what is in the folder belongs to another training.
        """
        held_out = {content(text) for text in without}
        source = (text for text in texts if content(text) not in held_out)
        self._resume(source)
        total = self.settings.steps * self.settings.batch_size
        names = self.hooks[0] if len(self.hooks) == 1 else f"{len(self.hooks)} hook points"
        cuts = Cuts(self.scan.max_length)
        with self._own_random(), _one_bar(), progress(total=total, desc=f"SAE at {names}", unit="token") as bar:
            torch.set_rng_state(self._random)
            bar.update(self._samples)
            while self._samples < total:
                before = self._texts_read
                for batch in self._mixed(self._part(source, cuts)):
                    bar.update(self.step(batch))
                    if self._samples >= total:
                        break
                else:
                    if self._texts_read == before:
                        raise BadData(
                            f"The documents ended after {self._samples:,} of {total:,} tokens (and {_SCALE_BATCHES} "
                            f"batches of {self.settings.batch_size} on which their length is measured): give more, or "
                            f"set tokens= to fewer."
                        )
                    self._random = torch.get_rng_state()
                    self._save()
        cuts.warn()

    def finished(self) -> Iterator[tuple[str, TopKTrainingSAE]]:
        """The SAEs by hook point, the scale of the activations folded into their weights; once, at the end."""
        for hook, trainer in self.trainers.items():
            trainer.sae.fold_activation_norm_scaling_factor(trainer.activation_scaler.scaling_factor)
            trainer.set_final_sae_metadata()
            yield hook, trainer.sae

    def clear(self) -> None:
        """Take away what an interrupted training would go on from."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _samples(self) -> int:
        return next(iter(self.trainers.values())).n_training_samples

    @contextmanager
    def _own_random(self) -> Iterator[None]:
        devices = [self.lens.device] if self.lens.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            yield

    def _trainer(self, hook: str) -> SAETrainer:
        from sae_lens import SAETrainer, TopKTrainingSAE, TopKTrainingSAEConfig
        from sae_lens.config import LoggingConfig, SAETrainerConfig
        from sae_lens.saes.sae import SAEMetadata

        lens, settings = self.lens, self.settings
        config = TopKTrainingSAEConfig(
            d_in=lens.d_model,
            d_sae=settings.d_sae,
            k=settings.k,
            device=str(lens.device),
            normalize_activations="expected_average_only_in",
            metadata=SAEMetadata(
                model_name=lens.name,
                model_fingerprint=lens.fingerprint,
                hook_name=hook,
                prepend_bos=True,
                exclude_special_tokens=True,
            ),
        )
        training = SAETrainerConfig(
            total_training_samples=settings.steps * settings.batch_size,
            train_batch_size_samples=settings.batch_size,
            lr=settings.learning_rate,
            lr_end=settings.learning_rate,
            lr_warm_up_steps=min(settings.warmup_steps, settings.steps // 10),
            lr_decay_steps=int(settings.decay_share * settings.steps),
            dead_feature_window=settings.dead_after_steps,
            n_batches_for_norm_estimate=_SCALE_BATCHES,
            device=str(lens.device),
            logger=LoggingConfig(log_to_wandb=False),
        )
        # Each from the seed, so that no layer's SAE hangs on the others.
        torch.manual_seed(settings.seed)
        return SAETrainer(cfg=training, sae=TopKTrainingSAE(config), data_provider=iter(()))

    def _part(self, source: Iterator[Text], cuts: Cuts) -> Iterator[Encoded]:
        """Documents up to the next saving."""
        held, most = 0, self.settings.save_tokens
        while (most is None or held < most) and (some := list(islice(source, _TEXTS_AT_ONCE))):
            first = self._texts_read
            for text in some:
                self._see(text)
            for item in encoded(self.lens.tokenizer, some, max_length=self.scan.max_length, first_index=first):
                cuts.see(item)
                held += len(item.input_ids)
                yield item

    def _see(self, text: Text) -> None:
        self._texts_read += 1
        self._digest = sha256(self._digest + content(text))

    def _mixed(self, items: Iterator[Encoded]) -> Iterator[dict[str, Tensor]]:
        """Batches of activations `[batch_size, d_model]` by hook point, the same tokens at each, mixed over many
        documents: when the buffer is full it is shuffled and half of it is served.
        """
        size, batch_size = self.settings.buffer_tokens, self.settings.batch_size
        pool: list[Tensor] = []  # [n_tokens, n_hooks * d_model] each

        def served(least: int) -> Iterator[dict[str, Tensor]]:
            mixed = torch.cat(pool)
            mixed = mixed[torch.randperm(len(mixed))]
            end = max(least, (len(mixed) - keep) // batch_size) * batch_size
            pool[:] = [mixed[end:]]
            for batch in mixed[:end].split(batch_size):
                yield dict(zip(self.hooks, batch.split(self.lens.d_model, dim=1), strict=True))

        keep = size // 2
        for acts in self._acts(items):
            pool.append(acts)
            if sum(map(len, pool)) >= size:
                yield from served(1)
        keep = 0
        if sum(map(len, pool)) >= batch_size:
            yield from served(0)

    def _acts(self, items: Iterator[Encoded]) -> Iterator[Tensor]:
        first = next(items, None)
        if first is None:
            return
        packed = pack(chain([first], items), padding_id(self.lens.tokenizer), batch_tokens=self.scan.batch_tokens)
        for found in captured((self.lens,), packed, self.hooks, self.roles, sinks="leave out together"):
            yield torch.cat([found.acts[hook].float().to(self.lens.device) for hook in self.hooks], dim=1)

    def step(self, batch: dict[str, Tensor]) -> int:
        """A step of every SAE; how many tokens it was. The first batches only measure how long activations are."""
        if next(iter(self.trainers.values())).activation_scaler.scaling_factor is None:
            self._first.append(batch)
            if len(self._first) == _SCALE_BATCHES:
                for hook, trainer in self.trainers.items():
                    trainer.activation_scaler.estimate_scaling_factor(
                        d_in=self.lens.d_model,
                        data_provider=iter([one[hook] for one in self._first]),
                        n_batches_for_norm_estimate=_SCALE_BATCHES,
                    )
                    if self.settings.start_at_mean:
                        mean = torch.cat([one[hook] for one in self._first]).mean(dim=0)
                        with torch.no_grad():
                            trainer.sae.b_dec.copy_(mean * trainer.activation_scaler.scaling_factor)
                self._first = []
            return 0
        for hook, trainer in self.trainers.items():
            trainer.maybe_reset_sparsity()
            trainer.step(batch[hook])
            trainer.n_training_steps += 1
        return self.settings.batch_size

    # -- what an interrupted one goes on from

    def _identity(self) -> dict[str, Any]:
        return {
            "fingerprint": self.lens.fingerprint,
            "reading": self.lens.reading,
            "hooks": self.hooks,
            "roles": None if self.roles is None else list(self.roles),
            "batch_tokens": self.scan.batch_tokens,
            "max_length": self.scan.max_length,
            "settings": asdict(self.settings),
        }

    def _save(self) -> None:
        if self.folder is None or self._first:
            return
        from safetensors.torch import save

        tensors = {"random": self._random}
        numbers: dict[str, dict[str, float]] = {}
        for hook, trainer in self.trainers.items():
            mine = {f"sae.{name}": tensor for name, tensor in trainer.sae.state_dict().items()}
            for name, parameter in trainer.sae.named_parameters():
                mine |= {f"{key}.{name}": value for key, value in trainer.optimizer.state[parameter].items()}
            mine |= {name: getattr(trainer, name) for name in _COUNTED}
            tensors |= {f"{hook}/{name}": tensor.detach().cpu().contiguous() for name, tensor in mine.items()}
            numbers[hook] = {name: getattr(trainer, name) for name in _NUMBERS}
            numbers[hook]["scaling_factor"] = trainer.activation_scaler.scaling_factor
        content = save(tensors)
        record = {
            "format": FORMAT,
            **self._identity(),
            "texts_read": self._texts_read,
            "texts": self._digest,
            "numbers": numbers,
            "sha256": sha256(content),
        }
        write_together(self.folder / "state.safetensors", content, self.folder / "state.json", record)

    def _resume(self, source: Iterator[Text]) -> None:
        if self.folder is None or not (self.folder / "state.json").is_file():
            return
        where = self.folder / "state.json"

        def read(held: Any) -> tuple[_Saved, str]:
            saved = parsed(held, _Saved, str(where), "a training of SAEs that was interrupted")
            return saved, saved.sha256

        saved, content = read_together(self.folder / "state.safetensors", where, read)
        wanted = self._identity()
        other = [key for key in wanted if getattr(saved, key) != wanted[key]]
        if other:
            raise BadFile(
                f"{self.folder} holds an interrupted training with another {' and '.join(other)} than this one. "
                f"Delete it, or give another folder."
            )
        tensors = parse_tensors(content, self.folder / "state.safetensors")
        for text in islice(source, saved.texts_read):
            self._see(text)
        if self._digest != saved.texts:
            raise BadFile(
                f"{self.folder} holds an interrupted training on other texts than these. Give the same texts in the "
                f"same order, or delete it."
            )
        self._random = tensors.pop("random")
        for hook, trainer in self.trainers.items():
            mine = {key.removeprefix(f"{hook}/"): value for key, value in tensors.items() if key.startswith(f"{hook}/")}
            self._restore(trainer, mine, saved.numbers[hook])

    def _restore(self, trainer: SAETrainer, tensors: dict[str, Tensor], numbers: dict[str, float]) -> None:
        device = self.lens.device
        trainer.sae.load_state_dict(
            {key.removeprefix("sae."): value for key, value in tensors.items() if key.startswith("sae.")}
        )
        for name, parameter in trainer.sae.named_parameters():
            trainer.optimizer.state[parameter] = {
                key: tensors[f"{key}.{name}"].to("cpu" if key == "step" else device) for key in _ADAM
            }
        for name in _COUNTED:
            setattr(trainer, name, tensors[name].to(device))
        for name in _NUMBERS:
            setattr(trainer, name, int(numbers[name]))
        trainer.activation_scaler.scaling_factor = numbers["scaling_factor"]
        # Rates hang on the number of steps alone.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, that a rate is set before the first step
            for _ in range(trainer.n_training_steps):
                trainer.lr_scheduler.step()
                for scheduler in trainer.coefficient_schedulers.values():
                    scheduler.step()


class _Saved(Record):
    """An interrupted training."""

    format: Literal["caft_lens.sae_training/1"]
    fingerprint: str
    reading: str | None
    hooks: list[str]
    roles: list[str] | None
    batch_tokens: Count
    max_length: Count | None
    settings: dict[str, bool | int | float | None]
    texts_read: Count
    texts: str
    numbers: dict[str, dict[str, float]]
    sha256: str


def content(text: Text) -> str:
    if text.text is not None:
        return text.text
    return "\n".join(f"{turn.role}: {turn.content}" for turn in text.messages)


@contextmanager
def _one_bar() -> Iterator[None]:
    """sae-lens draws bars of its own, in log files at every step; ours stands for them."""
    from sae_lens.training import activation_scaler
    from tqdm.std import tqdm

    before: Any = activation_scaler.tqdm
    activation_scaler.tqdm = partial(tqdm, disable=True)
    try:
        yield
    finally:
        activation_scaler.tqdm = before
