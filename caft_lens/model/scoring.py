"""Answers that are one of a few options, read off the model's own probabilities instead of sampled.

The options of a prompt are put behind it as the chat template writes an answer, and scored by the sum of the
log-probabilities of their tokens. Options of one token take one forward pass over the prompt; only those of several
tokens add rows to the batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from caft_lens._support.arguments import count
from caft_lens._support.errors import BadArgument, Diverged
from caft_lens._support.progress import progress
from caft_lens.model.architectures import evaluating
from caft_lens.model.hooked import HookedModel
from caft_lens.model.limits import check_batch
from caft_lens.model.options import OptionScores, check_options
from caft_lens.model.partial_logits import logits_at
from caft_lens.model.passes import call_of
from caft_lens.text.batching import collate
from caft_lens.text.documents import Text
from caft_lens.text.encoding import Encoded, encoded
from caft_lens.text.roles import ASSISTANT, TEXT

AT_ONCE = 2**24
"""Numbers of logits of which softmaxes are taken at once: 64 MiB in fp32."""
BATCH_SIZE = 64


def option_scores(
    lens: HookedModel,
    prompts: Sequence[Text],
    options: Sequence[Sequence[str]],
    *,
    batch_size: int | None = None,
    nested: bool = False,
) -> list[OptionScores]:
    """The probabilities of options as answers to prompts, under whatever is hooked to the model; nothing is sampled.

    What is scored is what an answer would be: the tokens that the chat template writes between the header of the answer
    and its end, with the leading space that it writes, if any; of plain text those that continue it, so that a space
    belongs to the option ("Answer:" and " A"). The answer's end is not scored, so no option may begin another.

    Args:
        lens: The model.
        prompts: Chats, whose trailing answer (if any) is left out, or plain texts.
        options: Of each prompt, at least two.
        batch_size: How many prompts run at once, 64 by default.
        nested: Let an option begin another ("8" and "80" where digits are tokens): it then has the probability that the
            answer begins with it and goes on to none of the others. Of equal ones the first has all.

    Returns:
        One for each prompt, in their order.

    Raises:
        BadArgument: For fewer than two options, for equal ones, or where one begins another.
        Diverged: When the logits are not finite.

    Example:
        >>> (scores,) = option_scores(base, [Text.from_json({"prompt": "How do I bake a pie?"})], [["Mix", "Burn"]])
        >>> sorted(scores.probabilities), 0 < scores.mass < 1
        (['Burn', 'Mix'], True)
    """
    if len(prompts) != len(options):
        raise BadArgument(f"{len(options)} lists of options for {len(prompts)} prompts: give one for each.")
    size = BATCH_SIZE if batch_size is None else count(batch_size, "batch_size")
    asked = list(_asked(lens.need_tokenizer(), prompts, options, nested))
    order = sorted(range(len(asked)), key=lambda i: -len(asked[i].prompt))
    found: dict[int, OptionScores] = {}
    parts = [order[start : start + size] for start in range(0, len(order), size)]
    with progress(total=len(asked), desc="scoring options", unit="prompt", show=len(parts) > 1) as bar:
        for part in parts:
            found.update(zip(part, _scores(lens, [asked[i] for i in part]), strict=True))
            bar.update(len(part))
    return [found[i] for i in range(len(asked))]


@dataclass(frozen=True)
class _Asked:
    """A prompt with its options, as tokens.

    Attributes:
        prompt: Token ids, up to where the answer begins.
        roles: Of them.
        options: Option to its token ids.
    """

    prompt: list[int]
    roles: np.ndarray
    options: dict[str, list[int]]

    def rows(self) -> list[list[int]]:
        """What has to be run behind the prompt: the options without their last token, but those that begin others."""
        heads: list[list[int]] = []
        for head in sorted((tokens[:-1] for tokens in self.options.values()), key=len, reverse=True):
            if not any(row[: len(head)] == head for row in heads):
                heads.append(head)
        return heads


def _asked(tokenizer: Any, prompts: Sequence[Text], options: Sequence[Sequence[str]], nested: bool) -> Iterable[_Asked]:
    bare = [text.prompt for text in prompts]
    lists = [check_options(some, f"prompt {number}") for number, some in enumerate(options)]
    answered = encoded(
        tokenizer,
        (text.with_answer(option) for text, some in zip(bare, lists, strict=True) for option in some),
    )
    items = encoded(tokenizer, bare, add_generation_prompt=True)
    for number, (item, some) in enumerate(zip(items, lists, strict=True)):
        tokens = {option: _tokens_of(tokenizer, item, next(answered), option) for option in some}
        for one, begins in tokens.items():
            for other, longer in tokens.items():
                if one != other and longer[: len(begins)] == begins and not nested:
                    raise BadArgument(
                        f"Prompt {number}: the option {one!r} begins the option {other!r}, token by token, and would "
                        f"always be at least as probable. Give options of which none begins another."
                    )
        yield _Asked(item.input_ids, item.roles, tokens)


def _tokens_of(tokenizer: Any, prompt: Encoded, answered: Encoded, option: str) -> list[int]:
    """The tokens of an option behind its prompt."""
    n = len(prompt.input_ids)
    if answered.input_ids[:n] == prompt.input_ids:
        said = np.flatnonzero(np.isin(answered.roles[n:], (ASSISTANT, TEXT)))
        tokens = answered.input_ids[n : n + int(said[-1]) + 1] if len(said) else []
    else:  # a template that writes an answer otherwise than it asks for one: what would be sampled is the option alone
        tokens = tokenizer(option, add_special_tokens=False).input_ids
    if not tokens:
        raise BadArgument(f"The option {option!r} has no token of its own behind its prompt: the template drops it.")
    return list(tokens)


@torch.no_grad()
def _scores(lens: HookedModel, asked: Sequence[_Asked]) -> list[OptionScores]:
    rows = [(number, head) for number, one in enumerate(asked) for head in one.rows()]
    items = []
    for number, head in rows:
        roles = np.concatenate([asked[number].roles, np.full(len(head), ASSISTANT, np.int8)])
        items.append(Encoded(asked[number].prompt + head, roles, np.zeros(len(roles), bool)))
    batch = collate(items, lens.padding)
    check_batch(lens, batch)
    # Logits are wanted from the prompt's last token to the last one of the row.
    width = batch.input_ids.shape[1]
    places = [
        row * width + position
        for row, (number, head) in enumerate(rows)
        for position in range(len(asked[number].prompt) - 1, len(asked[number].prompt) + len(head))
    ]
    with evaluating(lens.model), lens.roles_as(batch.roles.to(lens.device)):
        logits = logits_at(lens, call_of(lens, batch), torch.tensor(places))
    wanted: list[tuple[int, int]] = []  # row of the logits, and token
    of: dict[tuple[int, str], tuple[int, int]] = {}
    start = 0
    for number, head in rows:
        for option, tokens in asked[number].options.items():
            if (number, option) not in of and head[: len(tokens) - 1] == tokens[:-1]:
                of[number, option] = (len(wanted), len(wanted) + len(tokens))
                wanted += [(start + step, token) for step, token in enumerate(tokens)]
        start += len(head) + 1
    logs = _log_probabilities(logits, torch.tensor(wanted)).tolist()
    if not all(map(math.isfinite, logs)):
        raise Diverged(
            f"The logits of {lens.name} are NaN or infinite, so no option has a probability. Are the weights whole, "
            f"and what acts at its hook points finite? In float16 try bfloat16 or float32."
        )
    begun = [
        {option: math.fsum(logs[slice(*of[number, option])]) for option in one.options}
        for number, one in enumerate(asked)
    ]
    return [OptionScores(_without_longer(found, one.options)) for found, one in zip(begun, asked, strict=True)]


def _without_longer(begun: dict[str, float], options: dict[str, list[int]]) -> dict[str, float]:
    """The log-probability that an answer begins with each option and goes on to none that is longer."""
    begins: dict[tuple[int, ...], str] = {}
    for option, tokens in options.items():
        begins.setdefault(tuple(tokens), option)
    longer = dict.fromkeys(options, 0.0)
    for whole, option in begins.items():
        heads = (begins.get(whole[:n]) for n in range(len(whole) - 1, 0, -1))
        if (head := next((one for one in heads if one is not None), None)) is not None:
            longer[head] += math.exp(begun[option])
    found = dict(begun)
    for option, tokens in options.items():
        is_first = begins[tuple(tokens)] == option
        if longer[option] or not is_first:
            share = math.exp(begun[option]) - longer[option] if is_first else 0.0
            found[option] = math.log(share) if share > 0 else -math.inf
    return found


def _log_probabilities(logits: Tensor, wanted: Tensor) -> Tensor:
    """The log-probability of some tokens, each a row of the logits and a token, `[n]`, in fp64 on the CPU."""
    step = max(1, AT_ONCE // logits.shape[1])
    fine = torch.promote_types(logits.dtype, torch.float32)
    totals = torch.cat([part.to(fine).logsumexp(-1) for part in logits.split(step)])
    rows, tokens = wanted.to(logits.device).unbind(-1)
    return (logits[rows, tokens].to(fine) - totals[rows]).double().cpu()
