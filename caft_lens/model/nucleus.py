"""Sampling from the most probable tokens without sorting the vocabulary.

Hugging Face's `generate` sorts every row of logits, which on a small model takes longer than the model. Here the
largest few are looked at, as many as the nucleus needs, and a token is drawn by the Gumbel-max trick.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LogitsProcessor

from caft_lens._support.arguments import count, positive, share

FIRST_LOOK = 32
"""Candidates that are looked at first; four times as many wherever a nucleus is larger."""


class NucleusSampler(LogitsProcessor):
    """Turns logits into noise whose argmax is a draw: for `generate(do_sample=False, logits_processor=[...])`.

    The nucleus is that of nucleus sampling (Holtzman et al., 2020): the fewest most probable tokens that together have
    at least `top_p` of the mass.

    Args:
        top_p: Mass of the nucleus, above 0, up to 1.
        temperature: What logits are divided by, above 0.
        top_k: At most so many tokens, whose mass then counts as all of it; `None` for no such limit.
        generator: Where random numbers come from; torch's global ones when `None`.

    Example:
        >>> logits = torch.tensor([[3.0, 0.0, -9.0]])
        >>> NucleusSampler(top_p=0.9)(None, logits).argmax().item()  # softmax gives the first token 95 %
        0
    """

    def __init__(
        self, top_p: float, temperature: float = 1.0, top_k: int | None = None, generator: torch.Generator | None = None
    ) -> None:
        self.top_p = share(top_p, "top_p", hint="the mass of the nucleus")
        self.temperature = positive(temperature, "temperature")
        self.top_k = None if top_k is None else count(top_k, "top_k")
        self.generator = generator

    def __call__(self, input_ids: Tensor | None, scores: Tensor) -> Tensor:
        """Scores `[batch, vocab]` of which the argmax is the draw; -inf outside of the nucleus."""
        logits = scores.float() / self.temperature
        width = logits.shape[-1]
        limit = min(self.top_k or width, width)
        largest, tokens = logits.topk(min(FIRST_LOOK, limit))
        everything = (logits if limit == width else logits.topk(limit).values).logsumexp(-1, keepdim=True)
        while True:
            mass = (largest - everything).exp()
            before = mass.cumsum(-1) - mass
            inside = before < self.top_p
            if largest.shape[-1] == limit or not inside[:, -1].any():
                break
            largest, tokens = logits.topk(min(4 * largest.shape[-1], limit))
        inside[:, 0] = True
        noise = -torch.empty_like(largest).exponential_(generator=self.generator).log()
        drawn = torch.where(inside, largest + noise, -torch.inf)
        return torch.full_like(logits, -torch.inf).scatter(-1, tokens, drawn)
