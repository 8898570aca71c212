"""CorDA: the adapter starts in the directions that general text uses least."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from caft_lens._support.arguments import one_of
from caft_lens._support.blocks import block
from caft_lens._support.errors import BadArgument
from caft_lens.finetune.adapters import adapted_modules, beside, check_adapter, check_linear, join, pairs_of, put
from caft_lens.finetune.methods.registry import Card, Method, Plan, Training, material, register, setting
from caft_lens.model.architectures import evaluating
from caft_lens.text.documents import Texts
from caft_lens.text.encoding import encode_all

if TYPE_CHECKING:
    from caft_lens.model.lens import Lens

MODES: dict[str, Any] = {"knowledge": "kpm", "instruction": "ipm"}


@register
class CorDA(Method):
    name = "corda"
    card = Card(
        idea="Take each matrix apart as general text uses it, and let the adapter begin as the part that it uses "
        "least, so that training changes what general knowledge does not need. PEFT does it; what comes out is an "
        "ordinary adapter of twice the rank.",
        equation="W C = U S Vᵀ, C = mean of X Xᵀ over general texts, damped; A = sqrt(S_r) V_rᵀ C⁻¹, B = U_r sqrt(S_r) "
        "of the r smallest singular values, W - B A stays; mode instruction: of the r largest",
        source="Yang et al., CorDA: Context-Oriented Decomposition Adaptation of Large Language Models",
        arxiv="2406.05223",
        grid=({}, {"mode": "instruction"}),
        family="weights",
        cost="a pass over general text and a decomposition of every matrix, once; one more adapter in each pass",
    )

    general: Texts = material(Texts, "general text, whose use of the matrices is kept")
    mode: str = setting("knowledge", "knowledge (the least used directions are trained) or instruction (the most used)")
    n_texts: int = setting(256, "general texts that are read", least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self.mode, "mode", MODES)

    def check(self, lens: Lens, tune: str) -> None:
        check_adapter(self.name, tune)

    def trainable(self, base: Lens, build: Callable[[], Lens], seed: int) -> Lens:
        from peft import LoraConfig
        from peft.tuners.lora.config import CordaConfig
        from peft.tuners.lora.corda import preprocess_corda

        lens = build()
        check_linear(self.name, lens)
        usual = lens.model.peft_config["default"]
        least = min(min(one.in_features, one.out_features) for one in adapted_modules(lens).values())
        if usual.r > least:
            raise BadArgument(
                f"corda takes matrices apart, of which the smallest has rank {least}: give lora.r so much."
            )
        config = LoraConfig(
            r=usual.r,
            lora_alpha=usual.lora_alpha,
            use_rslora=usual.use_rslora,
            target_modules=usual.target_modules,
            init_lora_weights="corda",
            corda_config=CordaConfig(corda_method=MODES[self.mode]),
            task_type="CAUSAL_LM",
        )
        twin = base.copy()  # PEFT takes the adapter out of its weights
        some = self.general.sample(min(self.n_texts, len(self.general)), seed=seed)

        def read() -> None:
            with evaluating(twin.model):
                for item in encode_all(twin.tokenizer, some, need_loss=False):  # PEFT reads one text at a time
                    twin.hf(input_ids=torch.tensor([item.input_ids], device=twin.device), use_cache=False)

        preprocess_corda(twin.hf, config, run_model=read)
        put(lens, pairs_of(twin.adapt(config)))
        return lens

    @block
    def during(self, training: Training) -> Iterator[Plan]:
        start = pairs_of(training.lens)
        with beside(training.lens, start, sign=-1.0):
            yield Plan()
        join(training.lens, [(1.0, pairs_of(training.lens)), (-1.0, start)])
