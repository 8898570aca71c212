"""One pass forward and backward over texts, and what is kept of it for each concept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from caft_lens.activations.capture import captured
from caft_lens.activations.slopes import Sloped, sloped
from caft_lens.audit.sums import AnswerSums, RowSums
from caft_lens.text.batching import Batch, Scan, batches

if TYPE_CHECKING:
    from caft_lens.audit.candidates import Candidates
    from caft_lens.audit.first_step import FirstStep
    from caft_lens.model.lens import Lens
    from caft_lens.text.documents import Texts

FEW = 12
"""So many different answers, or fewer, are kinds of answers, and what tells them apart is looked for."""
PROMPT, ANSWER = ("user", "text", "system"), ("assistant", "text")
"""Roles of the tokens by which a prompt and an answer are read."""


class Pass:
    """One pass forward and backward over some texts, and what is kept of it."""

    def __init__(
        self, lens: Lens, looked_for: Candidates, texts: Texts, scan: Scan, title: str, step: FirstStep | None = None
    ) -> None:
        hooks = looked_for.hooks
        self.push = {hook: RowSums(looked_for.count(hook)) for hook in hooks}
        self.answers = {hook: RowSums(looked_for.count(hook)) for hook in hooks}
        self.prompts = {hook: RowSums(looked_for.count(hook)) for hook in hooks}
        self.use = {hook: RowSums(looked_for.count(hook)) for hook in hooks}
        kinds = few_answers(texts)
        self.cue = {hook: AnswerSums(looked_for.count(hook), kinds) for hook in hooks} if kinds else None
        self.learned, self.loss, self.rows = 0, 0.0, 0
        self._lengths: dict[str, list[float]] = {hook: [0.0, 0.0] for hook in hooks}
        packed = batches(lens.need_tokenizer(), texts, scan, progress=title)
        for found in sloped(lens, packed, hooks, None, parameters=step.parameters if step else ()):
            self.learned += len(found.outcomes)
            self.loss -= float(found.outcomes.double().sum())
            self.rows += len(found.batch)
            if step is not None:
                step.add(found.gradients, len(found.outcomes))
            for hook in hooks:
                self._take(looked_for, hook, found, texts)

    def _take(self, looked_for: Candidates, hook: str, found: Sloped, texts: Texts) -> None:
        batch, where = found.batch, found.where[hook]
        self.push[hook].update(found.by_text(hook) @ looked_for.directions(hook).T)
        lengths = found.acts[hook][where.to(found.acts[hook].device)].float().norm(dim=-1)
        self._lengths[hook][0] += float(lengths.sum())
        self._lengths[hook][1] += len(lengths)
        self.answers[hook].update(of_role(looked_for, hook, found.acts[hook], batch, where, ANSWER))
        prompts = of_role(looked_for, hook, found.acts[hook], batch, where, PROMPT)
        self.prompts[hook].update(prompts)
        read = where & batch.mask(ANSWER if self.cue is None else PROMPT)
        there, rows = read.to(found.acts[hook].device), read.nonzero(as_tuple=True)[0]
        acts, slopes = found.acts[hook][there], found.slopes[hook][there]
        self.use[hook].update(looked_for.used_by_rows(hook, acts, slopes, rows, len(batch)))
        if self.cue is not None:
            self.cue[hook].update(prompts, [texts[int(row)].answer for row in batch.index])

    def length(self, hook: str) -> float:
        """The mean length of an activation."""
        total, tokens = self._lengths[hook]
        return total / max(1.0, tokens)

    def there(self, hook: str) -> RowSums:
        """What the texts show of each concept: in the answers, or, where these are single words, in the prompts."""
        return self.prompts[hook] if self.cue is not None else self.answers[hook]


def of_role(
    looked_for: Candidates, hook: str, acts: Tensor, batch: Batch, where: Tensor, roles: Sequence[str]
) -> Tensor:
    """The mean of each concept over the tokens of a row that have some roles, fp32 `[batch, n]`; 0 without any."""
    chosen = where & batch.mask(roles)
    rows = chosen.nonzero(as_tuple=True)[0]
    return looked_for.of_rows(hook, acts[chosen.to(acts.device)], rows, len(batch))


def few_answers(texts: Texts) -> list[str]:
    """The answers of texts that have few different ones, as a choice has; empty where they are all sorts."""
    given = Counter(text.answer for text in texts if text.answer is not None)
    repeated = len(given) <= FEW and len(given) * 4 <= sum(given.values())
    return sorted(given) if repeated and len(given) > 1 else []


def forward(lens: Lens, looked_for: Candidates, texts: Texts, scan: Scan, title: str) -> dict[str, RowSums]:
    """Each concept in the answers of some texts, by hook point: a pass without slopes."""
    sums = {hook: RowSums(looked_for.count(hook)) for hook in looked_for.hooks}
    packed = batches(lens.need_tokenizer(), texts, scan, progress=title)
    for found in captured((lens,), packed, looked_for.hooks, list(ANSWER)):
        for hook in looked_for.hooks:
            sums[hook].update(looked_for.of_rows(hook, found.acts[hook], found.where[hook][:, 0], len(found.batch)))
    return sums
