"""The model's own answers to questions, as texts that the rest of the library reads."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from caft_lens._support.arguments import count
from caft_lens._support.keywords import takes_values
from caft_lens.model.generation import questions_of
from caft_lens.model.sampling import Sampling
from caft_lens.text.documents import Texts

if TYPE_CHECKING:
    from caft_lens.model.lens import Lens


@takes_values
def completions(lens: Lens, questions: Texts | Any, *, n: int = 1, sampling: Sampling = Sampling()) -> Texts:
    """Sample answers to questions.

    Args:
        lens: The model, under whatever hooks are attached to it.
        questions: Chats, whose trailing answer (if any) is replaced, or plain texts, which are continued; anything that
            `Lens.generate` takes as prompts, such as strings (chats where there is a chat template) or a data frame.
        n: How many answers to each; those to one question stand together.
        sampling: How they are drawn; by default 64 tokens at temperature 1, whole distribution, seed 0, 256 at once.

    Returns:
        `n * len(questions)` texts, each with its question's `meta` and, when `n` > 1, its number as `meta["sample"]`.

    Raises:
        BadArgument: For a number out of its range.
        BadType: For a part of `sampling` that is given as a keyword of its own.

    Example:
        >>> found = completions(base, questions, n=2)
        >>> len(found), found[1].messages[-1].role, found[1].meta["sample"]
        (16, 'assistant', 1)
    """
    count(n, "n")
    if not isinstance(questions, Texts):
        questions = Texts(questions_of(questions, bool(lens.need_tokenizer().chat_template)))
    prompts = [text.prompt for text in questions for _ in range(n)]
    answers = lens.generate(Texts(prompts), sampling=sampling.over(Sampling(seed=0)))
    answered = [prompt.with_answer(answer) for prompt, answer in zip(prompts, answers, strict=True)]
    if n > 1:
        answered = [replace(text, meta={**text.meta, "sample": i % n}) for i, text in enumerate(answered)]
    return questions.each(answered, f"{lens.name} on ") if questions.name else Texts(answered, name=lens.name)
