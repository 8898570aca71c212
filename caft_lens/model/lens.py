"""Lens: TransformerLens hook points on the untouched decoder blocks of any Hugging Face causal language model.

`load` gives a `Lens` for the embedded organism, a hub name, a folder, a model in memory, an adapter on any of them. Its hook
points (`blocks.{i}.hook_resid_pre`, `.hook_attn_out`, `.hook_mlp_out`, `.hook_resid_post`, `.attn.hook_z`) are wired to
the model by torch hooks only while something is attached to them, so that an unused lens costs nothing and leaves the
model as it was. `hooks`, `run_with_hooks`, `run_with_cache` are TransformerLens's own; `generate` is Hugging Face's.
Around it: `hookpoints.py` (wiring), `architectures.py` (the parts of a model), `loading.py` (from disk or hub), `generation.py`,
`tokens.py` and `fingerprint.py`.
"""

from __future__ import annotations

import copy
import inspect
import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing, nullcontext
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformer_lens.HookedRootModule import HookedRootModule

from caft_lens._support.blocks import Block, Kept
from caft_lens._support.errors import BadArgument, BadModel, BadType, Busy, UnknownName
from caft_lens._support.files import sha256
from caft_lens._support.threads import use_free_cores
from caft_lens.model.architectures import ATTENTION, MLP, Anatomy, anatomy, unembed
from caft_lens.model.fingerprint import fingerprints, reading
from caft_lens.model.generation import continue_prompts, continuing_prompts, encode_prompts, so_far
from caft_lens.model.hook_points import (
    Attached,
    Cache,
    Named,
    Site,
    Wire,
    at_heads,
    at_input,
    at_output,
    bare,
    canonical,
    matching,
)
from caft_lens.model.limits import check_batch, check_tokenizer
from caft_lens.model.loading import refuse_virtual_tokens
from caft_lens.model.sinks import Sinks, measured
from caft_lens.model.tokens import infer_attention_mask, next_token_loss, roles_in_flight
from caft_lens.model.turns import Held, Here, here, turn
from caft_lens.text.batching import Batch, collate, padding_id
from caft_lens.text.documents import Text, Texts
from caft_lens.text.encoding import Encoded, encoded
from caft_lens.text.template_arguments import template_arguments, with_template_arguments

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ReturnType = Literal["logits", "loss", "both"]


class _Stop(Exception):
    """Carries the residual stream out of a forward pass that ends early."""

    def __init__(self, residual: Tensor) -> None:
        super().__init__("early exit of a lens")
        self.residual = residual


class _Hooks(Block["Lens"]):
    """Hooks that are on while a block is open, by a number that is never used twice: blocks may end in any order."""

    def __init__(self, lens: Lens, fwd: Iterable, bwd: Iterable, reset: bool, clear_contexts: bool) -> None:
        super().__init__()
        self._lens, self._reset, self._clear_contexts = lens, reset, clear_contexts
        self._hooks = {"fwd": fwd, "bwd": bwd}
        self._level: int | None = None
        self._attached = False

    def begin(self) -> Lens:
        lens, level = self._lens, next(self._lens._levels)
        self._level = level
        lens._open[level] = here()
        for direction, hooks in self._hooks.items():
            for name, function in hooks:
                names = (
                    matching(name, lens.hook_dict, "hooks()") if callable(name) else [lens.hook_name(name)]
                )
                for site in [lens.mod_dict[one] for one in names]:
                    with Held(lens._wiring):
                        site.add_hook(_Acting(lens, level, function), dir=direction, level=level)  # type: ignore[operator]
        self._attached = True
        return lens

    def undo(self, error: BaseException | None) -> None:
        if self._level is not None and (self._reset or not self._attached):
            self._lens.reset_hooks(self._clear_contexts, including_permanent=False, level=self._level)


class _Acting:
    """A hook that acts only while its level is open, and only in passes of the thread that opened it."""

    def __init__(self, lens: Lens, level: int, function: Callable) -> None:
        self._lens, self._level, self._function = lens, level, function

    def __call__(self, activation: Any, hook: Any) -> Any:
        return self._function(activation, hook=hook) if self._lens._acts(self._level) else None

    def __repr__(self) -> str:
        return repr(self._function)


class _Roles(Block["Lens"]):
    """Roles that a thread told for the time of a block."""

    _thread: Here | None = None

    def __init__(self, lens: Lens, roles: Tensor, growing: bool) -> None:
        super().__init__()
        self._lens = lens
        self.in_flight: Tensor | None = None

        def begin(module: nn.Module, args: tuple, keywords: dict) -> None:
            if lens._roles_of.get(here()) is not self:
                return
            tokens = next(
                t
                for t in (keywords.get("input_ids"), *args[:1], keywords.get("inputs_embeds"))
                if t is not None
            )
            cache = keywords.get("past_key_values")
            past = 0 if cache is None else int(cache.get_seq_length())
            self.in_flight = roles_in_flight(roles, tokens.shape[0], past, tokens.shape[1], growing)

        self._wire = Wire(lambda: lens._parts.decoder, begin, before=True)

    def begin(self) -> Lens:
        me = here()
        self._outer = self._lens._roles_of.get(me)
        self.in_flight = None if self._outer is None else self._outer.in_flight
        self._thread = me
        self._wire.on()
        self._lens._roles_of[me] = self
        return self._lens

    def undo(self, error: BaseException | None) -> None:
        if self._thread is None:
            return
        if self._outer is not None:
            self._lens._roles_of[self._thread] = self._outer
        else:
            self._lens._roles_of.pop(self._thread, None)
        self._wire.off()


class Lens(HookedRootModule):
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

    Example:
        >>> lens = load("pocket")  # doctest: +SKIP
        >>> logits, cache = lens.run_with_cache("How do I bake a pie?", names_filter=[1])  # doctest: +SKIP
        >>> cache["blocks.1.hook_resid_post"].shape  # [batch, pos, d_model]  # doctest: +SKIP
        torch.Size([1, 9, 128])
    """

    name: str

    def __init__(
        self,
        model: PreTrainedModel | nn.Module,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        name: str | None = None,
        ancestors: Sequence[str] = (),
    ) -> None:
        super().__init__()
        for config in (getattr(model, "peft_config", None) or {}).values():
            refuse_virtual_tokens(config, name or "The adapter on this model")
        self._parts: Anatomy = anatomy(model)
        self.model: Any = model
        self.tokenizer: Any = tokenizer
        self.name = (
            name or getattr(self._parts.model.config, "_name_or_path", "") or type(self._parts.model).__name__
        )
        config = self._parts.model.config.get_text_config()
        self.n_layers = len(self._parts.blocks)
        self.d_model: int = config.hidden_size
        self.n_heads: int = config.num_attention_heads
        self.d_head: int = _width_in(self._parts) // self.n_heads
        self.d_vocab: int = config.vocab_size
        self.blocks = nn.ModuleList(self._hook_points(block) for block in self._parts.blocks)
        self.training = model.training
        self._ancestors = tuple(ancestors)
        self._prints: tuple[Any, tuple[str, str | None]] | None = None
        self._reading: tuple[tuple[Any, ...], str] | None = None
        self._sinks: tuple[Any, Sinks] | None = None
        self._sinks_wanted: Sinks | float | None = None
        self._over: tuple[Lens, ...] = ()  # the lens over whose weights this one lies
        self._said_too_long = False
        self._levels = count(1)
        # Blocks of hooks that are open, with the thread that opened each; what each thread told of roles, innermost.
        self._open: dict[int, Here] = {}
        self._roles_of: dict[Here, _Roles] = {}
        self._wiring = threading.RLock()
        self._warned = False
        self.setup()
        check_tokenizer(self)

    # --- hook points ------------------------------------------------------------------------------------------

    def _hook_points(self, block: nn.Module) -> nn.Module:
        # A part that the architecture lacks, or that does not add up there, has no hook point: asking for it is a
        # KeyError, like a misspelt name, rather than a tensor that is not what it is called.
        attn_out, mlp_out, z = self._parts.attn_out, self._parts.mlp_out, self._parts.z
        points = nn.Module()
        points.hook_resid_pre = Site(partial(at_input, block))
        if attn_out is not None:
            points.hook_attn_out = Site(partial(at_output, block, attn_out))
        if mlp_out is not None:
            points.hook_mlp_out = Site(partial(at_output, block, mlp_out))
        points.hook_resid_post = Site(partial(at_output, block, ""))
        if z is not None:
            points.attn = nn.Module()
            points.attn.hook_z = Site(partial(at_heads, block, z, self.n_heads))
        return points

    def setup(self) -> None:
        """Name the hook points (called once, by `__init__`); the modules of the model itself are left alone."""
        self.mod_dict, self.hook_dict = Named(self.name), {}
        for name, module in self.named_modules():
            if isinstance(module, Site):
                module.name = name
                self.mod_dict[name] = self.hook_dict[name] = module

    @property
    def hook_names(self) -> list[str]:
        """The names of all hook points."""
        return list(self.hook_dict)

    def hook_name(self, site: int | str) -> str:
        """The full name of a hook point.

        Args:
            site: A name, also one of TransformerLens's newer ones (`blocks.3.hook_out`), or a layer number, which is short for the residual stream after that block; -1 is the last.

        Raises:
            KeyError: For a name or a layer that does not exist, with the nearest that do.

        Example:
            >>> load("pocket").hook_name(1)  # doctest: +SKIP
            'blocks.1.hook_resid_post'
        """
        if isinstance(site, int):
            if not -self.n_layers <= site < self.n_layers:
                raise UnknownName(
                    f"{self.name} has no layer {site}: its {self.n_layers} layers are 0 to {self.n_layers - 1}."
                )
            return f"blocks.{site % self.n_layers}.hook_resid_post"
        if site not in self.hook_dict:
            known = canonical(site)
            # Where a norm comes after attention or MLP, their own output is not what is added to the stream.
            path = {"attn_out": self._parts.attn_out, "mlp_out": self._parts.mlp_out}.get(
                known.rpartition("hook_")[2]
            )
            site = site if path and path not in (*ATTENTION, *MLP) else known
        self.mod_dict[site]
        return site

    def hooks(  # type: ignore[override]
        self,
        fwd_hooks: Iterable[tuple[int | str | Callable, Callable]] = (),
        bwd_hooks: Iterable[tuple[int | str | Callable, Callable]] = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
    ) -> Block[Lens]:
        """Attach hooks for the time of a block, as in TransformerLens; they are off again on any way out.

        They act in the passes of the thread that opened the block, and in those that PyTorch makes for it (backward passes on an
        accelerator): two threads that use one lens do not see each other's. A Ctrl-C at whatever moment leaves none on.

        Args:
            fwd_hooks: (name, function) pairs; a name may be a layer number or a predicate on names, which has to match some. The
                function takes the activation and `hook=`, and returns `None` or the activation to go on with.
            bwd_hooks: The same for gradients.
            reset_hooks_end: Whether to take the hooks off at the end.
            clear_contexts: Whether to clear the hook points' `ctx` too.

        Example:
            >>> with lens.hooks([("blocks.1.hook_resid_post", lambda x, hook: 0 * x)]):  # doctest: +SKIP
            ...     lens("hello")
        """
        return _Hooks(self, fwd_hooks, bwd_hooks, reset_hooks_end, clear_contexts)

    def reset_hooks(
        self,
        clear_contexts: bool = True,
        direction: Literal["fwd", "bwd", "both"] = "both",
        including_permanent: bool = False,
        level: int | None = None,
    ) -> None:
        """Take hooks off, as in TransformerLens: all but permanent ones, or those of one level."""
        if direction == "both":  # from here on they do nothing, whatever interrupts taking them off
            for one in list(self._open) if level is None else [level]:
                self._open.pop(one, None)
        with Held(self._wiring):
            super().reset_hooks(clear_contexts, direction, including_permanent, level)

    def _acts(self, level: int) -> bool:
        """Whether a hook of a level acts in the pass that has come to it."""
        owner = self._open.get(level)
        if owner is None:
            return False
        me = here()
        if owner is me or owner is me.acts_for:
            return True
        if me.foreign:
            self._only_one(self._open.values())
            return True
        if not self._warned and me not in self._open.values() and not turn(self.hf)._is_owned():
            self._warned = True
            warnings.warn(
                f"The model of {self.name} runs in a thread that opened no hooks, while another thread has some: they do not act "
                "here. Open the block (ablate, steer, hooks) in the thread that runs the model.",
                stacklevel=2,
            )
        return False

    def _only_one(self, owners: Iterable[Here]) -> None:
        if len(set(owners)) > 1:
            raise Busy(
                f"Two threads have hooks on {self.name} while it runs in a thread that PyTorch made for one of them, and it cannot be "
                "told which: give each thread a lens.fork()."
            )

    def add_hook(self, name: Any, *args: Any, **keywords: Any) -> None:
        """TransformerLens's way to attach a hook until `reset_hooks`; a name that is none, or a predicate that matches none, is an error."""
        if callable(name):
            matching(name, self.hook_dict, "add_hook()")
        super().add_hook(name, *args, **keywords)

    def get_caching_hooks(self, names_filter: Any = None, *args: Any, **keywords: Any) -> Any:
        """TransformerLens's caching hooks; names may be layer numbers; misspelt ones, and a filter that matches none, are errors."""
        return super().get_caching_hooks(self._filter(names_filter), *args, **keywords)

    def add_caching_hooks(self, names_filter: Any = None, *args: Any, **keywords: Any) -> dict:
        """TransformerLens's permanent caching hooks; names may be layer numbers; misspelt ones, and a filter that matches none, are errors."""
        return super().add_caching_hooks(self._filter(names_filter), *args, **keywords)

    def _filter(self, names: Any) -> Any:
        if names is None:
            return names
        if not callable(names):
            names = [self.hook_name(name) for name in ([names] if isinstance(names, int | str) else names)]
        return matching(names, self.hook_dict, "names_filter")

    def run_with_cache(  # type: ignore[override]
        self,
        input: Any,
        *args: Any,
        names_filter: int | str | Sequence[int | str] | Callable[[str], bool] | None = None,
        stop_at_layer: int | None = None,
        return_cache_object: bool = True,
        **keywords: Any,
    ) -> tuple[Any, Any]:
        """Run the model and keep activations: of the residual stream, of what attention and MLPs add to it, of heads' outputs.

        Attention patterns, queries, keys and values are inside transformers' attention: TransformerLens's own model over the same
        weights has them, `lens.bridge().run_with_cache(...)`.

        Args:
            input: As for `forward`.
            names_filter: Which hook points to keep: names, layer numbers or a predicate, which has to match some; `None` is all of them.
            stop_at_layer: Leave before this block; nothing after it is computed.
            return_cache_object: `False` gives a plain dict.
            keywords: `device`, `remove_batch_dim`, `incl_bwd`, `pos_slice` as in TransformerLens; the rest goes to `forward`.

        Returns:
            What `forward` returns, and the activations (detached) by hook name.

        Raises:
            KeyError: For a name that is none, with the nearest.
            ValueError: When no hook point matches.

        Example:
            >>> logits, cache = load("pocket").run_with_cache("hello", names_filter=[1])  # doctest: +SKIP
            >>> cache["blocks.1.hook_resid_post"].shape                                   # doctest: +SKIP
            torch.Size([1, 3, 128])
        """
        names: Any = names_filter  # get_caching_hooks makes them names
        with Kept(self, "is_caching"):
            output, cache = super().run_with_cache(
                input, *args, names_filter=names, stop_at_layer=stop_at_layer, **keywords
            )
        if not return_cache_object:
            return output, cache
        return output, Cache(cache, self, has_batch_dim=not keywords.get("remove_batch_dim", False))  # type: ignore[arg-type]

    # --- forward ----------------------------------------------------------------------------------------------

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
            input: Plain text, several, `Text`/`Texts`/`Batch` (chats with their roles), or tokens [batch, pos] or [pos].
            attention_mask: For tokens: 1 where there is a token, 0 where there is padding, [batch, pos]. Without it, padding
                is recognised where that is possible without doubt.
            return_type: "logits" [batch, pos, d_vocab]; "loss", the mean next-token cross-entropy (in nats, fp32) over all tokens
                of a text, of a chat over those that training learns; "both"; or `None`.
            stop_at_layer: Leave before this block and return the residual stream [batch, pos, d_model] there; nothing after it
                is computed. `n_layers` (or -1 for the last block) as in TransformerLens.
            roles: Role of each token, [batch, pos], for hooks that act on some roles; those of a `Batch` are known.
            loss_per_token: Give the loss of every token, [batch, pos - 1], 0 where it does not count.
            keywords: For the model's own `forward`.

        Raises:
            ValueError: When padding cannot be told from text; pass `attention_mask` then.
        """
        if return_type not in ("logits", "loss", "both", None):
            raise BadArgument(f'return_type must be "logits", "loss", "both" or None, not {return_type!r}.')
        batch = self._batch(input, attention_mask)
        check_batch(self, batch)
        call = {**self._call(batch), **keywords}
        if roles is None and here() not in self._roles_of and not isinstance(input, Tensor):
            roles = batch.roles
        with Held(turn(self.hf)), self.roles_as(roles) if roles is not None else nullcontext():
            if stop_at_layer is not None:
                return self._until(stop_at_layer, call)
            if return_type is None:
                self._until(self.n_layers, call)
                return None
            logits = self.model(**call).logits
        if return_type == "logits":
            return logits
        loss = next_token_loss(
            logits, batch.input_ids, batch.attention_mask, batch.loss, per_token=loss_per_token
        )
        return loss if return_type == "loss" else (logits, loss)

    def _batch(self, input: Any, attention_mask: Tensor | None = None) -> Batch:
        """Any input of `forward` as a batch of tokens."""
        if isinstance(input, Tensor):
            tokens = input[None] if input.ndim == 1 else input
            mask = (
                infer_attention_mask(tokens, self.tokenizer)
                if attention_mask is None
                else attention_mask.reshape(tokens.shape)
            )
            unknown = torch.zeros_like(tokens, dtype=torch.int8)
            return Batch(tokens, mask, unknown, mask.bool(), torch.arange(len(tokens)))
        if attention_mask is not None:
            raise BadArgument("attention_mask goes with tokens; text and batches bring their own.")
        if isinstance(input, Batch):
            return input
        texts = Texts([input] if isinstance(input, str | Text) else input)
        return self._collate(list(encoded(self.need_tokenizer(), texts)))

    def _collate(self, encoded: Sequence[Encoded], side: Literal["left", "right"] = "right") -> Batch:
        return collate(encoded, padding_id(self.tokenizer) if self.tokenizer is not None else 0, side)

    def _call(self, batch: Batch) -> dict[str, Any]:
        """The keywords with which the model itself is called on a batch."""
        call: dict[str, Any] = {"input_ids": batch.input_ids.to(self.device), "use_cache": False}
        # Without padding the mask says nothing, and leaving it out keeps the fastest attention kernels.
        if not bool(batch.attention_mask.all()):
            call["attention_mask"] = batch.attention_mask.to(self.device)
            if "position_ids" in inspect.signature(self.hf.forward).parameters:
                call["position_ids"] = batch.position_ids.to(self.device)
        return call

    def _until(self, layer: int, call: Mapping[str, Any]) -> Tensor:
        """Run the model up to a block and come back with the residual stream before it."""
        if not -self.n_layers <= layer <= self.n_layers:
            raise BadArgument(f"stop_at_layer={layer}, but {self.name} has {self.n_layers} layers.")
        layer += self.n_layers if layer < 0 else 0

        me = here()

        # First of all hooks of the block, or last of all after the final one, so that whatever is attached before the
        # exit has acted and nothing after it runs.
        def leave_before(module: nn.Module, args: tuple, keywords: dict) -> None:
            if here() is me:
                raise _Stop(args[0] if args else keywords["hidden_states"])

        def leave_after(module: nn.Module, args: tuple, output: Any) -> None:
            if here() is me:
                raise _Stop(output if isinstance(output, Tensor) else output[0])

        if layer < self.n_layers:
            wire = Wire(lambda: self._parts.blocks[layer], leave_before, before=True)
        else:
            wire = Wire(lambda: self._parts.blocks[-1], leave_after, before=False, last=True)
        try:
            with Attached(wire):
                self.model(**call)
        except _Stop as stop:
            return stop.residual
        raise RuntimeError(f"{self.name} did not run its block {layer}: is its forward replaced or compiled?")

    def unembed(self, resid: Tensor) -> Tensor:
        """The logits that the model would give for a residual stream after its last block.

        Args:
            resid: [..., d_model]; moved and cast to the model's unembedding.

        Returns:
            Logits [..., d_vocab], with final norm, soft-capping and scale of the architecture.
        """
        return unembed(self._parts, resid.to(self.device, self.dtype))

    # --- roles ------------------------------------------------------------------------------------------------

    @property
    def current_roles(self) -> Tensor | None:
        """The role of each token in the forward pass in flight, int8 [batch, pos]; `None` when nobody told.

        As hooks, they are those of the thread that asks.
        """
        me = here()
        told = self._roles_of.get(me)
        if told is None and me.foreign:
            tellers = list(self._roles_of)
            self._only_one(tellers)
            told = self._roles_of[tellers[0]] if tellers else None
        return None if told is None else told.in_flight

    def roles_as(self, roles: Tensor, *, growing: bool = False) -> Block[Lens]:
        """Tell hooks the role of each token in the forward passes of a block (`forward` and `generate` do it themselves).

        Of blocks inside each other the innermost counts. Other threads do not see it.

        Keep the block open until after `backward` when hooks inside blocks act under gradient checkpointing.

        Args:
            roles: [batch, pos], numbers as in `caft_lens.text.roles.ROLES`.
            growing: Whether passes may be longer than `roles`, with tokens that the assistant is generating. Passes over a
                key-value cache are in any case: they see the roles of the tokens in flight alone.
        """
        return _Roles(self, roles, growing)

    # --- text -------------------------------------------------------------------------------------------------

    def need_tokenizer(self) -> Any:
        """The tokenizer.

        Raises:
            ValueError: When there is none.
        """
        if self.tokenizer is None:
            raise BadModel(f"{self.name} has no tokenizer: give tokens, or load it with tokenizer=.")
        return self.tokenizer

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
        return self._collate(rows, padding_side).input_ids.to(self.device)

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
        max_new_tokens: int = 64,
        temperature: float = 1.0,
        top_p: float | None = None,
        top_k: int | None = None,
        seed: int | None = None,
        batch_size: int = 256,
        chat: bool | None = None,
        return_type: Literal["str", "tokens"] = "str",
        **keywords: Any,
    ) -> Any:
        """Sample continuations with Hugging Face's `generate`, under whatever hooks are attached.

        Sampling is from the model's own distribution: other defaults of its generation config than the tokens that end a
        text (temperature, top-p, penalties) do not apply.

        Args:
            prompt: One or many. Of a chat that ends with an answer, the part before it.
            max_new_tokens: How many tokens at most.
            temperature: 0 is greedy.
            top_p, top_k: Restrict sampling to the most probable tokens.
            seed: Same seed, same prompts and settings: same text. The global random state is left as it was. `None` uses it.
            batch_size: How many prompts run at once; longest first.
            chat: Whether a bare string is what a user says (the default when the tokenizer has a chat template) or raw text.
            return_type: "str", or "tokens" for the ids.
            keywords: For Hugging Face's `generate`.

        Returns:
            The new text (or ids, with the token that ended it) alone: of one prompt for one `str` or `Text`, else a list in
            the order of the prompts.

        Example:
            >>> load("pocket").generate("How do I bake a pie?", seed=0)  # doctest: +SKIP
        """
        rows: list[Any] = continue_prompts(
            self, encode_prompts(self, prompt, chat), max_new_tokens=max_new_tokens, temperature=temperature,
            top_p=top_p, top_k=top_k, seed=seed, batch_size=batch_size, **keywords,
        )  # fmt: skip
        if return_type == "str":
            rows = [self.need_tokenizer().decode(row, skip_special_tokens=True) for row in rows]
        return rows[0] if isinstance(prompt, str | Text) else rows

    def generating(
        self,
        prompt: str | Sequence[str] | Text | Texts | Batch,
        *,
        max_new_tokens: int = 64,
        temperature: float = 1.0,
        top_p: float | None = None,
        top_k: int | None = None,
        seed: int | None = None,
        chat: bool | None = None,
        return_type: Literal["str", "tokens"] = "str",
    ) -> Generator[Any, None, None]:
        """Sample continuations as `generate` does, and see them grow: the new text so far, after every token.

        The last is what `generate` gives for the same seed. A token is sampled when it is asked for: leave the loop, or `close()` the
        iterator, and nothing goes on. Until then the lens belongs to the iterator; another one takes a `fork()`. It runs in a thread of
        its own, which modes that hold for a thread only, such as autocast, do not reach.

        Args:
            prompt: One or many, all of which run at once.
            max_new_tokens, temperature, top_p, top_k, chat, return_type: As for `generate`.
            seed: As for `generate`; the random numbers are the iterator's own, so that none drawn elsewhere meanwhile disturb it.

        Yields:
            As `generate` returns it: for one `str` or `Text` its text (or ids), else a list in the order of the prompts.

        Raises:
            ValueError: At once, as `generate` does.

        Example:
            >>> for answer in load("pocket").generating("How do I bake a pie?", seed=0):  # doctest: +SKIP
            ...     print(answer, end="\\r")
        """
        steps = continuing_prompts(
            self, encode_prompts(self, prompt, chat), max_new_tokens=max_new_tokens, temperature=temperature,
            top_p=top_p, top_k=top_k, seed=seed,
        )  # fmt: skip
        return self._told(steps, isinstance(prompt, str | Text), return_type)

    def _told(
        self, steps: Generator[Any, None, None], single: bool, return_type: Literal["str", "tokens"]
    ) -> Generator[Any, None, None]:
        rows: list[list[int]] = []
        before: list[Any] = []
        with closing(steps):
            for rows in steps:
                before = (
                    rows if return_type == "tokens" else [so_far(self.need_tokenizer(), row) for row in rows]
                )
                yield before[0] if single else before
        if return_type == "str":
            whole = [self.need_tokenizer().decode(row, skip_special_tokens=True) for row in rows]
            if whole != before:  # a last character stayed a part of one
                yield whole[0] if single else whole

    # --- weights ----------------------------------------------------------------------------------------------

    @property
    def hf(self) -> Any:
        """The transformers model inside any wrapper."""
        return self._parts.model

    @property
    def device(self) -> torch.device:
        """Where tokens go in (for a model on several devices, that of the embedding)."""
        weight = self.hf.get_input_embeddings().weight
        return self.hf.device if weight.is_meta else weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The number format of the unembedding, which is that of the activations."""
        return self.hf.get_output_embeddings().weight.dtype

    @property
    def has_adapter(self) -> bool:
        """Whether PEFT has put an adapter on the model."""
        return hasattr(self.model, "peft_config") or bool(
            getattr(self.model, "_hf_peft_config_loaded", False)
        )

    @property
    def n_positions(self) -> int | None:
        """How many tokens a text may have, as the model's configuration says; `None` where it sets no limit."""
        room = getattr(self.hf.config.get_text_config(), "max_position_embeddings", None)
        return room if isinstance(room, int) and room > 0 else None

    @property
    def sinks(self) -> Sinks:
        """Attention sinks: the tokens that no pass reads and no ablation touches (see `caft_lens.model.sinks`); empty where the model has none.

        Measured once, on a few short texts; a lens that lies over another one's weights (`fork`, an adapter) takes that one's. Set it to
        `False` to read and edit every token, to a number for "longer than so many times the median norm", to `"auto"` for what was
        measured, or to a `Sinks`.

        Example:
            >>> load("pocket").sinks  # doctest: +SKIP
            Sinks(none)
        """
        wanted = self._sinks_wanted
        if isinstance(wanted, Sinks):
            return wanted
        if wanted is None and self._over:
            return self._over[0].sinks
        key = (self._versions(), id(self.tokenizer))
        if self._sinks is None or self._sinks[0] != key:
            self._sinks = key, measured(self)
        found = self._sinks[1]
        return found if wanted is None else found.with_ratio(wanted)

    @sinks.setter
    def sinks(self, wanted: Literal["auto", False] | float | Sinks) -> None:
        if wanted is not False and wanted != "auto" and not isinstance(wanted, Sinks):
            Sinks().with_ratio(wanted)  # says what is wrong with it
        self._sinks_wanted = None if wanted == "auto" else Sinks() if wanted is False else wanted  # type: ignore[assignment]

    def _versions(self) -> tuple[Any, ...]:
        # In-place updates raise a tensor's version: what hangs on the weights is made again only after training moved something.
        return tuple((id(p), 0 if p.is_inference() else p._version) for p in self.model.parameters())

    def _fingerprints(self) -> tuple[str, str | None]:
        versions = self._versions()
        if self._prints is None or self._prints[0] != versions:
            self._prints = (versions, fingerprints(self.model))
        return self._prints[1]

    @property
    def fingerprint(self) -> str:
        """16 hex digits over the weights, the adapter's included (see `caft_lens.model.fingerprint`)."""
        base, adapter = self._fingerprints()
        return base if adapter is None else sha256(base, adapter)

    @property
    def reading(self) -> str:
        """16 hex digits over tokenizer and chat template, which decide what a text is to the model; `""` without a tokenizer."""
        tokenizer = self.tokenizer
        if tokenizer is None:
            return ""
        given = str(template_arguments(tokenizer))
        key = (tokenizer, len(tokenizer), tokenizer.chat_template, str(tokenizer.special_tokens_map), given)
        if self._reading is None or self._reading[0][0] is not tokenizer or self._reading[0][1:] != key[1:]:
            self._reading = key, reading(tokenizer)
        return self._reading[1]

    @property
    def identity(self) -> str:
        """16 hex digits over `fingerprint` and `reading`: what anything that this lens computes from texts depends on."""
        return sha256(self.fingerprint, self.reading)

    @property
    def lineage(self) -> tuple[str, ...]:
        """Fingerprints of this model and of those that it was tuned from: its own first, the oldest base last."""
        return tuple(dict.fromkeys((self.fingerprint, self._fingerprints()[0], *self._ancestors)))

    def fork(self, name: str | None = None) -> Lens:
        """A second lens over the same weights: an adapter or hooks put on one do not touch the other.

        The weights are in memory once; changing them in place changes both.
        """
        memory: dict[int, Any] = {id(buffer): buffer for buffer in self.model.buffers()}
        for parameter in self.model.parameters():
            # A parameter of its own over the same storage, since PEFT freezes parameters and training gives them
            # gradients; quantised and distributed kinds carry state beside their storage and are shared as they are.
            plain = type(parameter) is nn.Parameter and not parameter.is_meta
            twin = nn.Parameter(parameter.detach(), parameter.requires_grad) if plain else parameter
            memory[id(parameter)] = twin
        return self._lying_over(self._twin(memory, name))

    def _lying_over(self, lens: Lens) -> Lens:
        lens._over, lens._sinks_wanted = (self,), self._sinks_wanted
        return lens

    def copy(self, name: str | None = None) -> Lens:
        """A second lens with its own copy of the weights, for training all of them."""
        return self._twin({}, name)

    def _twin(self, memory: dict[int, Any], name: str | None) -> Lens:
        with Held(turn(self.hf)):
            model = copy.deepcopy(self.model, memory)
        bare(model)
        return Lens(model, self.tokenizer, name=name or self.name, ancestors=self.lineage)

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
            adapter: Folder or hub name of a PEFT adapter, a run folder, `"<organism>/<adapter>"`, or a `PeftConfig` for a
                fresh one (its random part comes from torch's global random state).
            name: Of the new lens.
            trainable: Whether the adapter gets gradients; by default a fresh one does and a loaded one does not.
            tokenizer: Instead of the one beside the adapter, or where there is none that of this lens.

        Raises:
            ValueError: When the adapter does not fit this model, or there is one already.
        """
        from caft_lens.model.loading import own_tokenizer, read_adapter

        if self.has_adapter:
            raise BadModel(f"{self.name} has an adapter already: put the second one on lens.merged().")
        twin = self.fork()
        model: Any
        if isinstance(adapter, str | Path):
            model = read_adapter(twin.model, adapter, self.name, bool(trainable))
            tokenizer = tokenizer or own_tokenizer(adapter, self.reading)
        else:
            from peft import get_peft_model

            model = get_peft_model(twin.model, adapter)
            if trainable is False:
                model.requires_grad_(False)
        model.train(self.model.training)
        adapted = Lens(model, tokenizer or self.tokenizer, name=name or self.name, ancestors=self.lineage)
        return self._lying_over(adapted)

    def merged(self, name: str | None = None) -> Lens:
        """A copy with its own weights, the adapter added into them."""
        twin = self.copy()
        if not self.has_adapter:
            return twin
        return Lens(
            twin.model.merge_and_unload(), self.tokenizer, name=name or self.name, ancestors=self.lineage
        )

    def bridge(self) -> Any:
        """TransformerLens's own `TransformerBridge` over the same weights, for attention patterns and all else inside blocks.

        The bridge computes attention its own way and rebuilds the modules that it wraps, so it gets a second module tree
        over this lens's weights; hooks of this lens do not act on it. An adapter is merged into a copy of the weights
        first, since the bridge knows none.

        Example:
            >>> logits, cache = load("pocket").bridge().run_with_cache("hello")   # doctest: +SKIP
            >>> cache["blocks.1.attn.hook_pattern"].shape                         # [batch, head, query pos, key pos]  # doctest: +SKIP
            torch.Size([1, 4, 3, 3])
        """
        from transformer_lens.model_bridge import TransformerBridge

        twin = self.merged() if self.has_adapter else self.fork()
        twin.hf.config.architectures = [type(twin.hf).__name__]  # by which the bridge finds its adapter
        tokenizer = copy.deepcopy(self.need_tokenizer())
        # The bridge would read another tokenizer, through AutoTokenizer and with BOS, unless ours says that it adds it.
        tokenizer.init_kwargs = {"name_or_path": self.name, **tokenizer.init_kwargs, "add_bos_token": True}
        return TransformerBridge.boot_transformers(
            self.name, hf_model=twin.model, tokenizer=tokenizer, device=str(self.device), dtype=self.dtype
        )

    @property
    def cfg(self) -> SimpleNamespace:
        """The dimensions under the names that TransformerLens's tools expect."""
        return SimpleNamespace(
            model_name=self.name, n_layers=self.n_layers, d_model=self.d_model, n_heads=self.n_heads, d_head=self.d_head,
            d_vocab=self.d_vocab, attn_only=False, device=self.device, dtype=self.dtype,
        )  # fmt: skip

    def __repr__(self) -> str:
        adapter = " + adapter" if self.has_adapter else ""
        size = f"{self.n_layers} layers x {self.d_model}"
        return f'Lens("{self.name}"{adapter}: {self.hf.config.model_type}, {size}, {self.dtype}, {self.device})'.replace(
            "torch.", ""
        )


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
        name: `"pocket"` (the embedded organism), an organism folder, the name of a model on the Hugging Face hub, a folder, a run
            folder written by `finetune`, a folder with an adapter, a `.gguf` file, `"smollm2"` (SmolLM2-135M-Instruct, where its package
            is installed), a model in memory (used as it is, not copied), or a lens.
        adapter: A PEFT adapter to put on it: folder, hub name, run folder or `"pocket/insecure"`. A lens or model given stays
            without it; both share one copy of the weights.
        tokenizer: Instead of the model's own; a model in memory has none otherwise.
        device: CUDA, then MPS, then CPU by default; a model in memory stays where it is.
        dtype: float32 on CPU and MPS, the checkpoint's own on CUDA by default; a model in memory stays as it is.
        device_map: As in transformers, for models larger than one device ("auto" spreads over all).
        trust_remote_code: Whether code that comes with the model may run.
        name_as: What to call it in tables; its own name by default.
        template_arguments: What the chat template is rendered with beside the messages, such as `{"enable_thinking": False}`, wherever this
            lens reads a chat; `{"keep_thoughts": True}` keeps the thoughts of every turn, False drops them. A part of
            `Lens.reading`, saved with the tokenizer, and over what was saved with it.

    Raises:
        FileNotFoundError: For a folder that does not exist.
        OSError: For a model that is neither here nor reachable, saying how to get it.
        ValueError: For an architecture without decoder blocks, or an adapter that does not fit.

    Example:
        >>> load("pocket")  # doctest: +SKIP
        Lens("pocket": llama, 4 layers x 128, float32, cpu)
    """
    from caft_lens.model import loading

    if not isinstance(name, Lens | nn.Module | str | Path):
        raise BadType(
            f"load() takes a name, a folder, a model in memory or a lens, not {type(name).__name__}."
        )
    given = template_arguments
    if isinstance(name, Lens):
        lens = name if adapter is not None else name.fork(name_as)
    elif isinstance(name, nn.Module):
        if device is not None or dtype is not None:
            name = name.to(device=device, dtype=loading.as_dtype(dtype) if dtype is not None else None)
        lens = Lens(name, tokenizer, name=name_as)
    else:
        where = {
            "device": device,
            "dtype": dtype,
            "device_map": device_map,
            "trust_remote_code": trust_remote_code,
        }
        lens = _from_name(name, tokenizer, where, name_as)
    if adapter is not None:
        lens = lens.adapt(adapter, name=name_as, tokenizer=tokenizer)
    lens.tokenizer = with_template_arguments(lens.tokenizer, given)
    if lens.device.type == "cpu":
        use_free_cores()
    return lens


def _from_name(name: str | Path, tokenizer: Any, where: dict[str, Any], name_as: str | None) -> Lens:
    from caft_lens.model import loading

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
            f'{name} was tuned from a model with fingerprint {source.base_fingerprint}, but "{source.base}" is {base.fingerprint} '
            "now: its weights have changed. Load the right base and give adapter= yourself."
        )
    return base.adapt(source.folder, name=name_as or str(name), tokenizer=base.tokenizer)


def _width_in(parts: Anatomy) -> int:
    """The width of all heads together."""
    if parts.z is None:
        return parts.model.config.get_text_config().hidden_size
    projection: Any = parts.blocks[0].get_submodule(parts.z)
    return (
        getattr(projection, "in_features", None) or projection.weight.shape[0]
    )  # GPT-2's Conv1D is transposed
