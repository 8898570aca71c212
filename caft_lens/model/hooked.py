"""HookedModel: TransformerLens hook points on the untouched decoder blocks of a transformers model.

The hook points (`blocks.{i}.hook_resid_pre`, `.hook_attn_out`, `.hook_mlp_out`, `.hook_resid_post`, `.attn.hook_z`) are
wired to the model by torch hooks only while something is attached to them, so that an unused one costs nothing and
leaves the model as it was. `hooks`, `run_with_hooks` and `run_with_cache` are TransformerLens's own. What is attached
acts for the thread that attached it.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

import torch
from torch import Tensor, nn
from transformer_lens.HookedRootModule import HookedRootModule

from caft_lens._support.blocks import Block, Kept
from caft_lens._support.errors import BadModel, Busy, UnknownName
from caft_lens.model.architectures import ATTENTION, MLP, Anatomy, anatomy
from caft_lens.model.hook_names import Named, full_name, matching, written
from caft_lens.model.hook_points import Cache, Site, Wire, at_heads, at_input, at_output
from caft_lens.model.loading import refuse_virtual_tokens
from caft_lens.model.tokens import roles_in_flight
from caft_lens.model.turns import Held, Here, here, turn
from caft_lens.text.batching import padding_id

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

M = TypeVar("M", bound="HookedModel")
F = TypeVar("F", bound=Callable[..., Any])


def says(function: F, what: str) -> F:
    """A function that is to be hooked, which says in words what it does (`HookedModel.attached`)."""
    function.says = what  # type: ignore[attr-defined]
    return function


def said_of(function: Any) -> str:
    """What a hooked function does, in words: as it `says`, or its name."""
    what = getattr(function, "says", "")
    if isinstance(what, str) and what:
        return what
    name = str(getattr(function, "__name__", ""))
    return f"hook {name}" if name.isidentifier() else "hook"


class _Hooks(Block[M]):
    """Hooks that are on while a block is open, by a number that is never used twice: blocks may end in any order."""

    def __init__(self, lens: M, fwd: Iterable, bwd: Iterable, reset: bool, clear_contexts: bool) -> None:
        super().__init__()
        self._lens, self._reset, self._clear_contexts = lens, reset, clear_contexts
        self._hooks = {"fwd": fwd, "bwd": bwd}
        self._level: int | None = None
        self._attached = False

    def begin(self) -> M:
        lens, level = self._lens, next(self._lens._levels)
        self._level = level
        lens._open[level] = here()
        for direction, hooks in self._hooks.items():
            for name, function in hooks:
                names = matching(name, lens.hook_dict, "hooks()") if callable(name) else [lens.hook_name(name)]
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

    def __init__(self, lens: HookedModel, level: int, function: Callable) -> None:
        self._lens, self._level, self._function = lens, level, function
        self.says = said_of(function)

    def __call__(self, activation: Any, hook: Any) -> Any:
        return self._function(activation, hook=hook) if self._lens._acts(self._level) else None

    def __repr__(self) -> str:
        return repr(self._function)


class _Roles(Block[M]):
    """Roles that a thread told for the time of a block."""

    _thread: Here | None = None

    def __init__(self, lens: M, roles: Tensor, growing: bool) -> None:
        super().__init__()
        self._lens = lens
        self.in_flight: Tensor | None = None

        def begin(module: nn.Module, args: tuple, keywords: dict) -> None:
            if lens._roles_of.get(here()) is not self:
                return
            tokens = next(
                t for t in (keywords.get("input_ids"), *args[:1], keywords.get("inputs_embeds")) if t is not None
            )
            cache = keywords.get("past_key_values")
            past = 0 if cache is None else int(cache.get_seq_length())
            self.in_flight = roles_in_flight(roles, tokens.shape[0], past, tokens.shape[1], growing)

        self._wire = Wire(lambda: lens.anatomy.decoder, begin, before=True)

    def begin(self) -> M:
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


class HookedModel(HookedRootModule):
    """A transformers model with hook points, of which `Lens` knows how to run.

    Args:
        model: A transformers model, or one wrapped by PEFT. It is used as it is: neither copied, moved nor changed.
        tokenizer: Its (fast) tokenizer, or `None`.
        name: How to call it in tables and errors.

    Attributes:
        model, tokenizer, name: As given.
        anatomy: The parts of the model that hook points sit on.
        n_layers, d_model, n_heads, d_head, d_vocab: Its dimensions; layers are counted from 0.
    """

    name: str

    def __init__(
        self,
        model: PreTrainedModel | nn.Module,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        name: str | None = None,
    ) -> None:
        super().__init__()
        for config in (getattr(model, "peft_config", None) or {}).values():
            refuse_virtual_tokens(config, name or "The adapter on this model")
        self.anatomy: Anatomy = anatomy(model)
        self.model: Any = model
        self.tokenizer: Any = tokenizer
        self.name = name or getattr(self.hf.config, "_name_or_path", "") or type(self.hf).__name__
        config = self.hf.config.get_text_config()
        self.n_layers = len(self.anatomy.blocks)
        self.d_model: int = config.hidden_size
        self.n_heads: int = config.num_attention_heads
        self.d_head: int = _width_in(self.anatomy) // self.n_heads
        self.d_vocab: int = config.vocab_size
        self.blocks = nn.ModuleList(self._hook_points(block) for block in self.anatomy.blocks)
        self.training = model.training
        self._levels = count(1)
        # Blocks of hooks that are open, with the thread that opened each; what each thread told of roles, innermost.
        self._open: dict[int, Here] = {}
        self._roles_of: dict[Here, _Roles[Any]] = {}
        self._wiring = threading.RLock()
        self._warned = False
        self.setup()

    @property
    def hf(self) -> Any:
        """The transformers model inside any wrapper."""
        return self.anatomy.model

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
        return hasattr(self.model, "peft_config") or bool(getattr(self.model, "_hf_peft_config_loaded", False))

    @property
    def padding(self) -> int:
        """The token that fills rows of a batch; 0 where there is no tokenizer to say so."""
        return 0 if self.tokenizer is None else padding_id(self.tokenizer)

    @property
    def n_positions(self) -> int | None:
        """How many tokens a text may have, as the model's configuration says; `None` where it sets no limit."""
        room = getattr(self.hf.config.get_text_config(), "max_position_embeddings", None)
        return room if isinstance(room, int) and room > 0 else None

    def need_tokenizer(self) -> Any:
        """The tokenizer; a `BadModel` when there is none."""
        if self.tokenizer is None:
            raise BadModel(f"{self.name} has no tokenizer: give tokens, or load it with tokenizer=.")
        return self.tokenizer

    # --- hook points ------------------------------------------------------------------------------------------

    def _hook_points(self, block: nn.Module) -> nn.Module:
        # A part that the architecture lacks, or that does not add up there, has no hook point: asking for it is a
        # KeyError, like a misspelt name, rather than a tensor that is not what it is called.
        attn_out, mlp_out, z = self.anatomy.attn_out, self.anatomy.mlp_out, self.anatomy.z
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
            site: A name, also one of TransformerLens's newer ones (`blocks.3.hook_out`), or a layer number, which is
                short for the residual stream after that block; -1 is the last.

        Raises:
            UnknownName: For a name or a layer that does not exist, with the nearest that do.

        Example:
            >>> base.hook_name(1)
            'blocks.1.hook_resid_post'
        """
        if isinstance(site, int):
            if not -self.n_layers <= site < self.n_layers:
                raise UnknownName(
                    f"{self.name} has no layer {site}: its {self.n_layers} layers are 0 to {self.n_layers - 1}."
                )
            return written(site % self.n_layers)
        if site not in self.hook_dict:
            known = full_name(site)
            # Where a norm comes after attention or MLP, their own output is not what is added to the stream.
            added = {"attn_out": self.anatomy.attn_out, "mlp_out": self.anatomy.mlp_out}
            path = added.get(known.rpartition("hook_")[2])
            site = site if path and path not in (*ATTENTION, *MLP) else known
        self.mod_dict[site]
        return site

    def hooks(  # type: ignore[override]
        self,
        fwd_hooks: Iterable[tuple[int | str | Callable, Callable]] = (),
        bwd_hooks: Iterable[tuple[int | str | Callable, Callable]] = (),
        reset_hooks_end: bool = True,
        clear_contexts: bool = False,
    ) -> Block[Self]:
        """Attach hooks for the time of a block, as in TransformerLens; they are off again on any way out.

        They act in the passes of the thread that opened the block, and in those that PyTorch makes for it (backward
        passes on an accelerator): two threads that use one lens do not see each other's. A Ctrl-C leaves none on.

        Args:
            fwd_hooks: (name, function) pairs; a name may be a layer number or a predicate on names, which has to match
                some. The function takes the activation and `hook=`, and returns `None` or the activation to go on with.
            bwd_hooks: The same for gradients.
            reset_hooks_end: Whether to take the hooks off at the end.
            clear_contexts: Whether to clear the hook points' `ctx` too.

        Example:
            >>> with base.hooks([("blocks.1.hook_resid_post", lambda x, hook: 0 * x)]):
            ...     logits = base("hello")
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

    @property
    def attached(self) -> dict[str, list[str]]:
        """What is attached to the model at the moment, in words by hook point: also what a block holds that was entered
        and not left, and what another thread has attached. Empty for the model as it is.

        Example:
            >>> with cl.ablate(base, cruel):
            ...     base.attached["blocks.1.hook_resid_post"]
            ['ablation of 1 direction']
            >>> base.attached
            {}
        """
        found: dict[str, list[str]] = {}
        for name, site in self.hook_dict.items():
            for handle in (*site.fwd_hooks, *site.bwd_hooks):
                if handle.context_level in (None, 0) or handle.context_level in self._open:
                    found.setdefault(name, []).append(said_of(getattr(handle, "user_hook", None)))
        return found

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
                f"The model of {self.name} runs in a thread that opened no hooks, while another thread has some: "
                f"they do not act here. Open the block (ablate, steer, hooks) in the thread that runs the model.",
                stacklevel=2,
            )
        return False

    def _only_one(self, owners: Iterable[Here]) -> None:
        if len(set(owners)) > 1:
            raise Busy(
                f"Two threads have hooks on {self.name} while it runs in a thread that PyTorch made for one of them, "
                f"and it cannot be told which: give each thread a lens.fork()."
            )

    def add_hook(self, name: Any, *args: Any, **keywords: Any) -> None:
        """TransformerLens's way to attach a hook until `reset_hooks`; a name that matches none is an error."""
        if callable(name):
            matching(name, self.hook_dict, "add_hook()")
        super().add_hook(name, *args, **keywords)

    def get_caching_hooks(self, names_filter: Any = None, *args: Any, **keywords: Any) -> Any:
        """TransformerLens's caching hooks; names may be layer numbers, and a filter that matches none is an error."""
        return super().get_caching_hooks(self._filter(names_filter), *args, **keywords)

    def add_caching_hooks(self, names_filter: Any = None, *args: Any, **keywords: Any) -> dict:
        """TransformerLens's permanent caching hooks; `names_filter` as in `get_caching_hooks`."""
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
        """Run the model and keep activations: of the residual stream, attention, MLPs and heads.

        Attention patterns, queries, keys and values are inside transformers' attention: TransformerLens's own model
        over the same weights has them, `lens.bridge().run_with_cache(...)`.

        Args:
            input: As for `forward`.
            names_filter: Which hook points to keep: names, layer numbers or a predicate, which has to match some;
                `None` is all of them.
            stop_at_layer: Leave before this block; nothing after it is computed.
            return_cache_object: `False` gives a plain dict.
            keywords: `device`, `remove_batch_dim`, `incl_bwd`, `pos_slice` as in TransformerLens; the rest goes to
                `forward`.

        Returns:
            What `forward` returns, and the activations (detached) by hook name.

        Raises:
            UnknownName: For a name that is none, with the nearest.
            BadArgument: When no hook point matches.

        Example:
            >>> logits, cache = base.run_with_cache("hello", names_filter=[1])
            >>> cache["blocks.1.hook_resid_post"].shape
            torch.Size([1, 3, 128])
        """
        keywords |= {"names_filter": names_filter, "stop_at_layer": stop_at_layer}
        with Kept(self, "is_caching"):
            output, cache = super().run_with_cache(input, *args, **keywords)
        if not return_cache_object:
            return output, cache
        return output, Cache(cache, self, has_batch_dim=not keywords.get("remove_batch_dim", False))

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

    def roles_as(self, roles: Tensor, *, growing: bool = False) -> Block[Self]:
        """Tell hooks the role of each token in the passes of a block, as `forward` and `generate` do themselves.

        Of blocks inside each other the innermost counts. Other threads do not see it. Keep the block open until after
        `backward` when hooks inside blocks act under gradient checkpointing.

        Args:
            roles: [batch, pos], numbers as in `caft_lens.text.encoding.ROLES`.
            growing: Whether passes may be longer than `roles`, with tokens that the assistant is generating. Passes
                over a key-value cache are in any case: they see the roles of the tokens in flight alone.
        """
        return _Roles(self, roles, growing)


def _width_in(parts: Anatomy) -> int:
    """The width of all heads together."""
    if parts.z is None:
        return parts.model.config.get_text_config().hidden_size
    projection: Any = parts.blocks[0].get_submodule(parts.z)
    return getattr(projection, "in_features", None) or projection.weight.shape[0]  # GPT-2's Conv1D is transposed
