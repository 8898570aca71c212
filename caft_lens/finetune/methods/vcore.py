"""VCORE: tokens whose loss a step on other texts lowers most weigh most."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from caft_lens._support.blocks import block
from caft_lens.finetune.methods.kl_anchor import batches_of
from caft_lens.finetune.methods.registry import Card, Method, Plan, Training, register, setting
from caft_lens.finetune.probe import gradients, moved
from caft_lens.finetune.step import Pass, batch_loss
from caft_lens.model.architectures import evaluating
from caft_lens.text.batching import padding_id


@register
class VCORE(Method):
    name = "vcore"
    card = Card(
        idea="Try a small step on other training texts, and weigh each token by how much its loss falls: tokens on "
        "which the data agree count, those that stand alone do not. The variance of the weighted loss is held down.",
        equation="s_t = (l_t(θ) - l_t(θ - ε ∇L_B'(θ))) / ε; q = softmax_t(s_t / τ), w_t = n q_t within a text of n "
        "tokens; L(θ) = mean of c w_t l_t, c = min(1, sqrt(var(s_t / n) / var(q_t s_t)))",
        source="VCORE: Variance-Controlled Optimization-based Reweighting for Chain-of-Thought Supervision (the "
        "authors' code scales by the ratio of mean losses instead)",
        arxiv="2510.27462",
        grid=tuple({"temperature": temperature} for temperature in (1.0, 10.0, 100.0, 5000.0)),
        family="loss",
        cost="a forward and backward pass on other texts, and two forward passes",
        neutral={"temperature": 1e30},
    )

    temperature: float = setting(5000.0, "temperature τ of the weights; the larger, the more alike they are", above=0)
    probe: float = setting(1e-4, "length ε of the step that is tried, as a learning rate", above=0)
    probe_size: int = setting(16, "texts of the batch B' of that step", least=1)

    @block
    def during(self, training: Training) -> Iterator[Plan]:
        lens = training.lens
        parameters = [one for one in lens.model.parameters() if one.requires_grad]
        # Another order than that of training, so that the two batches seldom share a text.
        others = batches_of(training.encoded, self.probe_size, padding_id(lens.tokenizer), training.seed + 1)

        def loss(step: Pass) -> Tensor:
            other = others(step.number).to(lens.device)
            with evaluating(lens.model):  # dropout would be most of a difference this small
                gradient = gradients(batch_loss(lens, other), parameters)
                with torch.no_grad():
                    before = step.losses_of(lens).double()
                    with moved(parameters, [-self.probe * g for g in gradient]):
                        gain = (before - step.losses_of(lens)) / self.probe
            weights = torch.empty_like(gain)
            for row in step.rows.unique():
                where = step.rows == row
                weights[where] = weights_of(gain[where], self.temperature)
            return step.mean(weights.to(step.losses) * step.losses)

        yield Plan(loss=loss)


def weights_of(gain: Tensor, temperature: float) -> Tensor:
    """The weights c w of the tokens of a text, from what their losses gain, fp64 `[n]`."""
    n = len(gain)
    share = (gain / temperature).softmax(0)
    if n < 2 or not (weighted := (share * gain).var()):
        return n * share
    return n * share * (gain / n).var().div(weighted).sqrt().clamp_max(1)
