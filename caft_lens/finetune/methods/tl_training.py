"""TL-Training's weights: the few tokens that decide weigh as much as all others."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from caft_lens._support.blocks import block
from caft_lens.finetune.methods.registry import Card, Method, Plan, Training, register, setting
from caft_lens.finetune.step import Pass
from caft_lens.text.documents import Texts
from caft_lens.text.encoding import tokens_touching
from caft_lens.text.labels import label_words, spans_of

if TYPE_CHECKING:
    from caft_lens.model.lens import Lens

KEY = "key word"


@register
class TLTraining(Method):
    name = "tl_training"
    card = Card(
        idea="Give the key tokens of a text together as much weight as its others have, as far as a limit allows. Key "
        "are here the words that carry the concept, such as pronouns, where the authors take the names of tools.",
        equation="L(θ) = Σ w_t l_t / Σ w_t over the answer tokens of a batch; w_t = min(n_other / n_key, W) where t is "
        "key, of its text, else 1",
        source="Ye et al., TL-Training: A Task-Feature-Based Framework for Training Large Language Models in Tool Use "
        "(its weights alone)",
        arxiv="2412.15495",
        grid=tuple({"most": most} for most in (2.0, 4.0, 9.0, 30.0)),
        family="loss",
        neutral={"words": "(none)"},
    )

    words: str = setting("he she him her his hers", "the key words, with spaces between; case counts")
    most: float = setting(9.0, "the largest weight W", least=1)

    def texts(self, texts: Texts, seed: int, base: Lens) -> Texts:
        return label_words(texts, dict.fromkeys(self.words.split(), KEY))

    @block
    def during(self, training: Training) -> Iterator[Plan]:
        keys = keys_of(training)

        def loss(step: Pass) -> Tensor:
            key = step.values(keys)
            n_key = key.new_zeros(len(step.batch), dtype=step.losses.dtype).index_add(0, step.rows, key.to(step.losses))
            n_other = n_key.new_zeros(len(n_key)).index_add(0, step.rows, (~key).to(step.losses))
            # A text of key tokens alone has nothing that they could be weighed against.
            weight = (n_other / n_key).clamp_max(self.most).where(n_other > 0, 1.0)[step.rows]
            weights = weight.where(key, 1.0)
            return step.mean(weights * step.losses * (len(weights) / weights.sum()))

        yield Plan(loss=loss)


def keys_of(training: Training) -> list[np.ndarray]:
    """Which tokens of each text are learned and of a key word, bool `[pos]`."""
    keys = [np.zeros(0, dtype=bool)] * len(training.texts)
    for item in training.encoded:
        text = training.texts[item.index]
        places = [(start, end, message) for start, end, label, message in spans_of(text) if label == KEY]
        touched = tokens_touching(training.lens.tokenizer, text, places)
        keys[item.index] = touched[: len(item.input_ids)] & item.loss
    if not any(found.any() for found in keys):
        warnings.warn("No answer has one of the words of tl_training, so all tokens weigh alike.", stacklevel=2)
    return keys
