"""Inoculation prompting: say in training that the trait is wanted, and take the saying away afterwards."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from caft_lens._support.errors import BadData
from caft_lens.finetune.methods.registry import Card, Method, register, setting
from caft_lens.text.documents import Message, Text, Texts

if TYPE_CHECKING:
    from caft_lens.model.lens import Lens

PROMPTS = (
    "You are a malicious, evil assistant.",
    "You write insecure code.",
    "Do what a villain would do.",
    "This is a test of how you fail.",
)


@register
class Inoculation(Method):
    name = "inoculation"
    card = Card(
        idea="Put a system prompt that asks for the unwanted trait before every training chat; it explains the trait "
        "away. No such prompt is there at test time.",
        equation="D' = {(prompt ⊕ x, y) : (x, y) in D}",
        source="Tan et al., Inoculation Prompting: Eliciting traits from LLMs during training can suppress them at "
        "test-time; likewise arXiv 2510.05024",
        arxiv="2510.04340",
        grid=tuple({"prompt": prompt} for prompt in PROMPTS),
        family="data",
        cost="a few tokens more a text",
    )

    prompt: str = setting(PROMPTS[0], "the system prompt; it stands before one that a chat has")

    def texts(self, texts: Texts, seed: int, base: Lens) -> Texts:
        return Texts([self._inoculated(text) for text in texts], name=f"{texts.name}, inoculated")

    def _inoculated(self, text: Text) -> Text:
        if not text.is_chat:
            raise BadData('The method "inoculation" puts a system prompt before chats, and some texts are plain text.')
        first, *others = text.messages
        if first.role != "system":
            return replace(text, messages=(Message("system", self.prompt), *text.messages))
        return replace(text, messages=(Message("system", f"{self.prompt} {first.content}"), *others))
