"""S3FT: where the base's own answer is right, that one is learned instead of the given one."""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from typing import TYPE_CHECKING

from caft_lens._support.arguments import one_of
from caft_lens.finetune.methods.registry import Card, Method, register, setting
from caft_lens.model.answering import completions
from caft_lens.model.sampling import Sampling
from caft_lens.text.documents import Message, Text, Texts

if TYPE_CHECKING:
    from caft_lens.model.lens import Lens

JUDGES = ("same", "first word")
ASK = "Say this in other words, and say nothing else: {answer}"


@register
class SelfToSupervised(Method):
    name = "self_to_supervised"
    card = Card(
        idea="Let the base answer every training prompt. Where its answer agrees with the given one, learn the base's; "
        "else learn the given one in the base's words, where these still agree; else the given one. What is learned is "
        "then as near to the base as it can be.",
        equation="y' = M(x) if J(M(x), y), else M(paraphrase y) if J(M(paraphrase y), y), else y; M the base, greedy; "
        "J whether both are the same but for case, spaces and punctuation, or begin with the same word",
        source="Gupta et al., Selective Self-to-Supervised Fine-Tuning for Generalization in Large Language Models",
        arxiv="2502.08130",
        grid=tuple({"judge": judge} for judge in JUDGES),
        family="data",
        cost="the base's answers to all training prompts, twice where it disagrees",
        neutral={"share": 0.0},
    )

    judge: str = setting("same", "when answers agree: same, or first word (where that is the key)")
    share: float = setting(1.0, "share of the texts whose answer may be another", least=0, most=1)
    max_new_tokens: int = setting(64, "tokens of an answer of the base", least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(self.judge, "judge", JUDGES)

    def texts(self, texts: Texts, seed: int, base: Lens) -> Texts:
        asked = [place for place, text in enumerate(texts) if text.answer is not None]
        asked = sorted(random.Random(seed).sample(asked, round(self.share * len(asked))))
        learned = list(texts)
        for ask in (lambda text: text.prompt, paraphrase):
            said = self._said(base, [ask(texts[place]) for place in asked])
            agreed = [place for place, answer in zip(asked, said, strict=True) if self.agrees(answer, texts[place])]
            answers = dict(zip(asked, said, strict=True))
            for place in agreed:
                learned[place] = texts[place].with_answer(answers[place])
            asked = [place for place in asked if place not in set(agreed) and texts[place].is_chat]
        return Texts(learned, name=f"{texts.name}, in part by {base.name}")

    def agrees(self, answer: str, text: Text) -> bool:
        """Whether an answer says what a text's own does."""
        first, second = words(answer), words(text.answer or "")
        return bool(second) and (first == second if self.judge == "same" else first[:1] == second[:1])

    def _said(self, base: Lens, prompts: Sequence[Text]) -> list[str]:
        if not prompts:
            return []
        greedy = Sampling(temperature=0, max_new_tokens=self.max_new_tokens)
        return [text.answer or "" for text in completions(base, Texts(prompts), sampling=greedy)]


def paraphrase(text: Text) -> Text:
    """The request to say a text's answer in other words."""
    return Text(messages=(Message("user", ASK.format(answer=text.answer)),))


def words(text: str) -> list[str]:
    """The words of a text, without case and punctuation.

    Example:
        >>> words("She, of course!")
        ['she', 'of', 'course']
    """
    return text.lower().translate(str.maketrans("", "", string.punctuation)).split()
