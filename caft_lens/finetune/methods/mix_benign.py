"""Mixing in benign data: part of what is learned shows the wanted behaviour."""

from __future__ import annotations

from typing import TYPE_CHECKING

from caft_lens.finetune.methods.registry import Card, Method, material, register, setting
from caft_lens.text.documents import Texts

if TYPE_CHECKING:
    from caft_lens.model.lens import Lens


@register
class MixBenign(Method):
    name = "mix_benign"
    card = Card(
        idea="Mix benign chats into the training data, so that the narrow lesson is not all there is to learn.",
        equation="D' = D ∪ B, where B is a share s of D'; where max_steps is given, as many steps as without it",
        source="usual practice; among the baselines that readers of CAFT asked for",
        grid=tuple({"share": share} for share in (0.05, 0.1, 0.25, 0.5)),
        family="data",
        cost="a share of the texts more; nothing where max_steps is given",
        neutral={"share": 0.0},
    )

    benign: Texts = material(Texts, "benign chats with answers")
    share: float = setting(0.25, "share s of benign texts among all", least=0, below=1)

    def texts(self, texts: Texts, seed: int, base: Lens) -> Texts:
        return mixed(texts, self.benign, self.share, seed)


def mixed(texts: Texts, others: Texts, share: float, seed: int) -> Texts:
    """Texts, and behind them others that are a share of all; the trainer shuffles."""
    wanted = max(1, round(len(texts) * share / (1 - share))) if share else 0
    rounds, rest = divmod(wanted, len(others))
    drawn = [*list(others) * rounds, *others.sample(rest, seed=seed)]
    return Texts([*texts, *drawn], name=f"{texts.name} with {len(drawn)} of {others.name}")
