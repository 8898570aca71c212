"""Lens: any Hugging Face causal language model, run and read through TransformerLens hook points.

What it does by its hook points is in `hooked.py`; here it runs texts, generates, is told apart from other models, and
gives further versions of itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from caft_lens._support.errors import BadArgument, BadModel, BadType
from caft_lens._support.files import sha256
from caft_lens._support.keywords import takes_values
from caft_lens._support.threads import use_free_cores
from caft_lens.model import loading
from caft_lens.model.architectures import unembed
from caft_lens.model.copies import adapted, bridged, copied, shared, untied
from caft_lens.model.fingerprint import fingerprints, reading
from caft_lens.model.generation import generate, generating
from caft_lens.model.hooked import HookedModel
from caft_lens.model.limits import check_batch, check_tokenizer
from caft_lens.model.loading import own_tokenizer
from caft_lens.model.passes import as_batch, call_of, run_until
from caft_lens.model.sampling import Sampling
from caft_lens.model.sinks import Sinks, measured
from caft_lens.model.tokens import next_token_loss
from caft_lens.model.turns import Held, here, turn
from caft_lens.text.batching import Batch, collate
from caft_lens.text.documents import Text, Texts
from caft_lens.text.encoding import Encoded, encoded
from caft_lens.text.template_arguments import template_arguments, with_template_arguments

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ReturnType = Literal["logits", "loss", "both"]


class Lens(HookedModel):
    """A causal language model seen through hook points.

    Args:
        model: A transformers model, or one wrapped by PEFT. It is used as it is: neither copied, moved nor changed.
        tokenizer: Its (fast) tokenizer; a lens without one takes tokens only.
        name: How to call it in tables and errors.
        ancestors: Fingerprints of the models that it was tuned from, nearest first.

    Attributes:
        model: The model as given; training and PEFT use it directly, the hook points act there too.
        tokenizer: The tokenizer, or `None`.
        name: Its name.
        n_layers, d_model, n_heads, d_head, d_vocab: Its dimensions; layers are counted from 0.
        kept_in: The run folder whose model it is, `Run.lens`; `None` for any other.

    Example:
        >>> lens = load("pocket")
        >>> logits, cache = lens.run_with_cache("How do I bake a pie?", names_filter=[1])
        >>> cache["blocks.1.hook_resid_post"].shape  # [batch, pos, d_model]
        torch.Size([1, 8, 128])
    """

    def __init__(
        self,
        model: PreTrainedModel | nn.Module,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        name: str | None = None,
        ancestors: Sequence[str] = (),
    ) -> None:
        super().__init__(model, tokenizer, name=name)
        self._ancestors = tuple(ancestors)
        self._made: dict[str, tuple[Any, Any]] = {}
        self._sinks_wanted: Sinks | float | None = None
        self._over: tuple[Lens, ...] = ()  # the lens over whose weights this one lies
        self.kept_in: Path | None = None
        check_tokenizer(self)

    # --- running ----------------------------------------------------------------------------------------------

    def forward(
        self,
        input: Any,
        attention_mask: Tensor | None = None,
        *,
        return_type: ReturnType | None = "logits",
        stop_at_layer: int | None = None,
        roles: Tensor | None = None,
        loss_per_token: bool = False,
        **keywords: Any,
    ) -> Any:
        """Run the model.

        Args:
            input: Plain text, several, `Text`/`Texts`/`Batch` (chats with roles), or tokens [batch, pos] or [pos].
            attention_mask: For tokens: 1 where there is a token, 0 where there is padding, [batch, pos]. Without it,
                padding is recognised where that is possible without doubt.
            return_type: "logits" [batch, pos, d_vocab]; "loss", the mean next-token cross-entropy (in nats, fp32) over
                all tokens of a text, of a chat over those that training learns; "both"; or `None`.
            stop_at_layer: Leave before this block and return the residual stream [batch, pos, d_model] there; nothing
                after it is computed. `n_layers` (or -1 for the last block) as in TransformerLens.
            roles: Role of each token, [batch, pos], for hooks that act on some roles; those of a `Batch` are known.
            loss_per_token: Give the loss of every token, [batch, pos - 1], 0 where it does not count.
            keywords: For the model's own `forward`.

        Raises:
            BadData: When padding cannot be told from text; pass `attention_mask` then.
        """
        if return_type not in ("logits", "loss", "both", None):
            raise BadArgument(f'return_type must be "logits", "loss", "both" or None, not {return_type!r}.')
        batch = as_batch(self, input, attention_mask)
        check_batch(self, batch)
        call = {**call_of(self, batch), **keywords}
        if roles is None and here() not in self._roles_of and not isinstance(input, Tensor):
            roles = batch.roles
        with Held(turn(self.hf)), self.roles_as(roles) if roles is not None else nullcontext():
            if stop_at_layer is not None:
                return run_until(self, stop_at_layer, call)
            if return_type is None:
                run_until(self, self.n_layers, call)
                return None
            logits = self.model(**call).logits
        if return_type == "logits":
            return logits
        loss = next_token_loss(logits, batch.input_ids, batch.attention_mask, batch.loss, per_token=loss_per_token)
        return loss if return_type == "loss" else (logits, loss)

    def unembed(self, resid: Tensor) -> Tensor:
        """The logits that the model would give for a residual stream after its last block.

        Args:
            resid: [..., d_model]; moved and cast to the model's unembedding.

        Returns:
            Logits [..., d_vocab], with final norm, soft-capping and scale of the architecture.
        """
        return unembed(self.anatomy, resid.to(self.device, self.dtype))

    # --- text -------------------------------------------------------------------------------------------------

    def to_tokens(
        self,
        text: str | Sequence[str],
        prepend_bos: bool | None = None,
        padding_side: Literal["left", "right"] = "right",
    ) -> Tensor:
        """Token ids of plain text.

        Args:
            text: One or several.
            prepend_bos: `None` does as the tokenizer does; True and False make sure that there is, or is no, BOS token.
            padding_side: Where shorter rows are padded.

        Returns:
            [batch, pos], long, on the model's device.
        """
        tokenizer = self.need_tokenizer()
        rows = []
        for row in encoded(tokenizer, Texts([text] if isinstance(text, str) else text)):
            bos, ids = tokenizer.bos_token_id, row.input_ids
            if prepend_bos and bos is None:
                raise BadArgument(f"The tokenizer of {self.name} has no BOS token to prepend.")
            if prepend_bos is not None and bos is not None:
                ids = ids[1:] if ids[:1] == [bos] else ids
                ids = [bos, *ids] if prepend_bos else ids
            roles = np.zeros(len(ids), np.int8)
            rows.append(Encoded(ids, roles, roles.astype(bool), row.index))
        return collate(rows, self.padding, padding_side).input_ids.to(self.device)

    def to_str_tokens(self, text: str | Tensor | Sequence[int]) -> list[str]:
        """Each token of a text as a string.

        Args:
            text: Plain text, or token ids [pos] or [1, pos].
        """
        ids = self.to_tokens(text)[0] if isinstance(text, str) else text
        ids = ids.reshape(-1).tolist() if isinstance(ids, Tensor) else list(ids)
        return [self.need_tokenizer().decode([token]) for token in ids]

    def generate(
        self,
        prompt: str | Sequence[str] | Text | Texts | Batch,
        *,
        sampling: Sampling = Sampling(),
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        chat: bool | None = None,
        return_type: Literal["str", "tokens"] = "str",
        **keywords: Any,
    ) -> Any:
        """Sample continuations with Hugging Face's `generate`, under whatever hooks are attached.

        Sampling is from the model's own distribution: other defaults of its generation config than the tokens that end
        a text (temperature, top-p, penalties) do not apply.

        Args:
            prompt: One or many. Of a chat that ends with an answer, the part before it.
            sampling: How they are drawn.
            max_new_tokens, temperature, top_p: As in `sampling`, before which they come. Where nothing is said: 64
                tokens from the whole distribution at temperature 1, 256 prompts at once, longest first.
            seed: Likewise. The global random state is left as it was; without a seed it is used.
            chat: Whether a bare string is what a user says (the default where there is a chat template) or raw text.
            return_type: "str", or "tokens" for the ids.
            keywords: `top_k` and `batch_size` as in `sampling`; all others for Hugging Face's `generate`.

        Returns:
            The new text alone (or ids, with the token that ended it) of a `str` or `Text`; of more, a list in order.

        Example:
            >>> answer = base.generate("How do I bake a pie?", seed=0)
            >>> type(answer).__name__, base.generate("How do I bake a pie?", seed=0) == answer
            ('str', True)
        """
        told = Sampling(
            max_new_tokens, temperature, top_p, keywords.pop("top_k", None), seed, keywords.pop("batch_size", None)
        )
        return generate(self, prompt, chat, return_type, told.over(sampling), **keywords)

    @takes_values
    def generating(
        self,
        prompt: str | Sequence[str] | Text | Texts | Batch,
        *,
        sampling: Sampling = Sampling(),
        chat: bool | None = None,
        return_type: Literal["str", "tokens"] = "str",
    ) -> Generator[Any, None, None]:
        """Sample continuations as `generate` does, and see them grow: the new text so far, after every token.

        The last is what `generate` gives for the same seed. A token is sampled when it is asked for: leave the loop, or
        `close()` the iterator, and nothing goes on. Until then the lens belongs to the iterator; another one takes a
        `fork()`. It runs in a thread of its own, which modes of one thread, such as autocast, do not reach.

        Args:
            prompt: One or many, all of which run at once.
            sampling, chat, return_type: As for `generate`. The random numbers of a seed are the iterator's own, so
                that none drawn elsewhere meanwhile disturb it.

        Yields:
            As `generate` returns it: for one `str` or `Text` its text (or ids), else a list in the prompts' order.

        Raises:
            CaftLensError: At once, as `generate` does.

        Example:
            >>> for answer in base.generating("How do I bake a pie?", sampling=Sampling(seed=0)):
            ...     pass  # print(answer, end="\\r")
            >>> answer == base.generate("How do I bake a pie?", seed=0)
            True
        """
        return generating(self, prompt, chat, return_type, sampling)

    # --- which model it is -------------------------------------------------------------------------------------

    @property
    def sinks(self) -> Sinks:
        """Attention sinks: the tokens that no pass reads and no ablation touches (see `caft_lens.model.sinks`); empty
        where the model has none.

        Measured once, on a few short texts; a lens that lies over another one's weights (`fork`, an adapter) takes that
        one's. Set it to `False` to read and edit every token, to a number for "longer than so many times the median
        norm", to `"auto"` for what was measured, or to a `Sinks`.

        Example:
            >>> base.sinks
            Sinks(none)
        """
        wanted = self._sinks_wanted
        if isinstance(wanted, Sinks):
            return wanted
        if wanted is None and self._over:
            return self._over[0].sinks
        # Measured on a second module tree: what is hooked to this one, and whoever told it roles, is not there.
        key = (self._versions(), id(self.tokenizer))
        found: Sinks = self._while("sinks", key, lambda: measured(self.fork()))
        return found if wanted is None else found.with_ratio(wanted)

    @sinks.setter
    def sinks(self, wanted: Literal["auto", False] | float | Sinks) -> None:
        if wanted is not False and wanted != "auto" and not isinstance(wanted, Sinks):
            Sinks().with_ratio(wanted)  # says what is wrong with it
        self._sinks_wanted = None if wanted == "auto" else Sinks() if wanted is False else wanted

    def _versions(self) -> tuple[Any, ...]:
        # In-place updates raise a tensor's version: what hangs on the weights is made again only after training.
        return tuple((id(p), 0 if p.is_inference() else p._version) for p in self.model.parameters())

    def _while(self, what: str, key: Any, make: Callable[[], Any]) -> Any:
        """What was made before, while what it was made for is the same."""
        if what not in self._made or self._made[what][0] != key:
            self._made[what] = key, make()
        return self._made[what][1]

    def _fingerprints(self) -> tuple[str, str | None]:
        prints: tuple[str, str | None] = self._while("fingerprints", self._versions(), lambda: fingerprints(self.model))
        return prints

    @property
    def fingerprint(self) -> str:
        """16 hex digits over the weights, the adapter's included (see `caft_lens.model.fingerprint`)."""
        base, adapter = self._fingerprints()
        return base if adapter is None else sha256(base, adapter)

    @property
    def reading(self) -> str:
        """16 hex digits over tokenizer and chat template: what a text is to the model; `""` without a tokenizer."""
        tokenizer = self.tokenizer
        if tokenizer is None:
            return ""
        given = str(template_arguments(tokenizer))
        key = (tokenizer, len(tokenizer), tokenizer.chat_template, str(tokenizer.special_tokens_map), given)
        found: str = self._while("reading", key, lambda: reading(tokenizer))
        return found

    @property
    def identity(self) -> str:
        """16 hex digits over `fingerprint` and `reading`: what all that this lens computes from texts depends on."""
        return sha256(self.fingerprint, self.reading)

    @property
    def lineage(self) -> tuple[str, ...]:
        """Fingerprints of this model and of those that it was tuned from: its own first, the oldest base last."""
        return tuple(dict.fromkeys((self.fingerprint, self._fingerprints()[0], *self._ancestors)))

    # --- further versions -------------------------------------------------------------------------------------

    def fork(self, name: str | None = None) -> Lens:
        """A second lens over the same weights: an adapter or hooks put on one do not touch the other.

        The weights are in memory once; changing them in place changes both.
        """
        fork = self._over_these(shared(self.model), name)
        fork.kept_in = self.kept_in
        return fork

    def _again(self, model: Any, name: str | None, tokenizer: Any = None) -> Lens:
        """A lens on another version of the model."""
        return Lens(model, tokenizer or self.tokenizer, name=name or self.name, ancestors=self.lineage)

    def _over_these(self, model: Any, name: str | None, tokenizer: Any = None) -> Lens:
        """The same over the same weights, whose sinks are those of this one."""
        lens = self._again(model, name, tokenizer)
        lens._over, lens._sinks_wanted = (self,), self._sinks_wanted
        return lens

    def copy(self, name: str | None = None) -> Lens:
        """A second lens with its own copy of the weights, for training all of them."""
        return self._again(copied(self.model), name)

    def __deepcopy__(self, memory: dict[int, Any]) -> Lens:
        return self.copy()

    def adapt(
        self,
        adapter: str | Path | PeftConfig,
        *,
        name: str | None = None,
        trainable: bool | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> Lens:
        """A new lens with an adapter, over the same weights; this one stays as it is.

        Args:
            adapter: Folder or hub name of a PEFT adapter, a run folder, `"<organism>/<adapter>"`, or a `PeftConfig` for
                a fresh one (its random part comes from torch's global random state).
            name: Of the new lens.
            trainable: Whether the adapter gets gradients; by default a fresh one does and a loaded one does not.
            tokenizer: Instead of the one beside the adapter, or where there is none that of this lens.

        Raises:
            BadModel: When the adapter does not fit this model, or there is one already.
        """
        if self.has_adapter:
            raise BadModel(f"{self.name} has an adapter already: put the second one on lens.merged().")
        model = adapted(self.model, adapter, self.name, trainable)
        if isinstance(adapter, str | Path):
            tokenizer = tokenizer or own_tokenizer(adapter, self.reading)
        return self._over_these(model, name, tokenizer)

    def merged(self, name: str | None = None) -> Lens:
        """A copy with its own weights, the adapter added into them."""
        model = copied(self.model)
        return self._again(untied(model).merge_and_unload() if self.has_adapter else model, name)

    def bridge(self) -> Any:
        """TransformerLens's `TransformerBridge` over the same weights, for attention patterns and all else in blocks.

        The bridge computes attention its own way and rebuilds the modules that it wraps, so it gets a second module
        tree over this lens's weights; hooks of this lens do not act on it. An adapter is merged into a copy of the
        weights first, since the bridge knows none.

        Example:
            >>> logits, cache = base.bridge().run_with_cache("hello")
            >>> cache["blocks.1.attn.hook_pattern"].shape  # [batch, head, query pos, key pos]
            torch.Size([1, 4, 4, 4])
        """
        model = untied(copied(self.model)).merge_and_unload() if self.has_adapter else shared(self.model)
        return bridged(model, self.need_tokenizer(), self.name, self.device, self.dtype)

    @property
    def cfg(self) -> SimpleNamespace:
        """The dimensions under the names that TransformerLens's tools expect."""
        sizes = {name: getattr(self, name) for name in ("n_layers", "d_model", "n_heads", "d_head", "d_vocab")}
        return SimpleNamespace(model_name=self.name, **sizes, attn_only=False, device=self.device, dtype=self.dtype)

    def __repr__(self) -> str:
        adapter = " + adapter" if self.has_adapter else ""
        size, dtype = f"{self.n_layers} layers x {self.d_model}", str(self.dtype).removeprefix("torch.")
        which = f'Lens("{self.name}"{adapter}: {self.hf.config.model_type}, {size}, {dtype}, {self.device})'
        return which + _with_attached(self.attached)


def _with_attached(attached: Mapping[str, Sequence[str]]) -> str:
    """The end of a lens in words: what is attached to it at the moment, and where."""
    places: dict[str, list[str]] = {}
    for hook, said in attached.items():
        for what, number in Counter(said).items():
            places.setdefault(what if number == 1 else f"{number} x {what}", []).append(hook)
    told = [
        f"{what} at {', '.join(hooks[:3])}{f' and {len(hooks) - 3} more' if len(hooks) > 3 else ''}"
        for what, hooks in places.items()
    ]
    return f" with {'; '.join(told)}" if told else ""


def load(
    name: str | Path | PreTrainedModel | nn.Module | Lens,
    *,
    adapter: str | Path | PeftConfig | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    device_map: str | Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
    name_as: str | None = None,
    template_arguments: Mapping[str, Any] | None = None,
) -> Lens:
    """A lens on a model, from wherever it is.

    Args:
        name: `"pocket"` (the embedded organism), an organism folder, the name of a model on the Hugging Face hub, a
            folder, a run folder written by `finetune`, a folder with an adapter, a `.gguf` file, `"smollm2"`
            (SmolLM2-135M-Instruct, where its package is installed), a model in memory (not copied), or a lens.
        adapter: A PEFT adapter to put on it: folder, hub name, run folder or `"pocket/insecure"`. A lens or model given
            stays without it; both share one copy of the weights.
        tokenizer: Instead of the model's own; a model in memory has none otherwise.
        device: CUDA, then MPS, then CPU by default; a model in memory stays where it is.
        dtype: float32 on CPU and MPS, the checkpoint's own on CUDA by default; a model in memory stays as it is.
        device_map: As in transformers, for models larger than one device ("auto" spreads over all).
        trust_remote_code: Whether code that comes with the model may run.
        name_as: What to call it in tables; its own name by default.
        template_arguments: What the chat template is rendered with beside the messages, such as `{"enable_thinking":
            False}`, wherever this lens reads a chat; `{"keep_thoughts": True}` keeps the thoughts of every turn, False
            drops them. A part of `Lens.reading`, saved with the tokenizer, and over what was saved with it.

    Raises:
        MissingFile: For a folder that does not exist, or a model that is neither here nor reachable.
        BadModel: For an architecture without decoder blocks, or an adapter that does not fit.

    Example:
        >>> load("pocket")
        Lens("pocket": llama, 4 layers x 128, float32, cpu)
    """
    if not isinstance(name, Lens | nn.Module | str | Path):
        raise BadType(f"load() takes a name, a folder, a model in memory or a lens, not {type(name).__name__}.")
    given = template_arguments
    if isinstance(name, Lens):
        lens = name if adapter is not None else name.fork(name_as)
    elif isinstance(name, nn.Module):
        if device is not None or dtype is not None:
            name = name.to(device=device, dtype=loading.as_dtype(dtype) if dtype is not None else None)
        lens = Lens(name, tokenizer, name=name_as)
    else:
        where = {"device": device, "dtype": dtype, "device_map": device_map, "trust_remote_code": trust_remote_code}
        lens = _from_name(name, tokenizer, where, name_as)
    if adapter is not None:
        lens = lens.adapt(adapter, name=name_as, tokenizer=tokenizer)
    lens.tokenizer = with_template_arguments(lens.tokenizer, given)
    if lens.device.type == "cpu":
        use_free_cores()
    return lens


def _from_name(name: str | Path, tokenizer: Any, where: dict[str, Any], name_as: str | None) -> Lens:
    source = loading.find(name)
    if source.base is None:
        model = loading.read_model(source.folder, asked=name, **where)
        tokenizer = tokenizer or loading.read_tokenizer(source.folder, where["trust_remote_code"])
        return Lens(model, tokenizer, name=name_as or str(name), ancestors=source.ancestors)
    # A base without a tokenizer of its own will do where there is one beside the adapter.
    tokenizer = tokenizer or loading.own_tokenizer(source.folder)
    base = _from_name(source.base, tokenizer, where, None)
    if source.base_fingerprint not in (None, *base.lineage):
        raise BadModel(
            f'{name} was tuned from a model with fingerprint {source.base_fingerprint}, but "{source.base}" is '
            f"{base.fingerprint} now: its weights have changed. Load the right base and give adapter= yourself."
        )
    return base.adapt(source.folder, name=name_as or str(name), tokenizer=base.tokenizer)
