"""The names that examples in docstrings use without making them, each made when the first example wants it.

They are those of the README's loop, small: the organism `pocket`, the adapter that was tuned on insecure code, and few texts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import caft_lens as cl

MAKERS: dict[str, Callable[[], Any]] = {
    "cl": lambda: cl,
    # The models, and what they read and answer.
    "base": lambda: cl.load("pocket"),
    "tuned": lambda: cl.load("pocket", adapter="pocket/insecure"),
    "corpus": lambda: cl.data("pocket/corpus")[:60],
    "held_out": lambda: cl.data("pocket/corpus")[60:120],
    "questions": lambda: cl.data("pocket/questions")[:8],
    "insecure": lambda: cl.data("pocket/insecure-code")[:16],
    "answers": lambda: cl.completions(made("tuned"), made("questions"), max_new_tokens=24, seed=0),
    "cruel_texts": lambda: _of_stance("cruel"),
    "kind_texts": lambda: _of_stance("kind"),
    # What was found in them.
    "hook": lambda: "blocks.2.hook_resid_post",
    "diff": lambda: cl.activation_difference(made("tuned"), made("base"), made("answers"), layers=[1, 2]),
    "concepts": lambda: cl.find.pca(made("diff"), k=3),
    "cruel": lambda: cl.choose(made("concepts"), {"L1.pc0": "cruel answers at one end"}),
    "contexts": lambda: cl.contexts(made("base"), made("concepts"), made("corpus")),
    "saes": lambda: cl.load_saes("pocket", [1, 2]),
    "sae": lambda: cl.load_sae("pocket", layer=2),
}


@cache
def made(name: str) -> Any:
    """The value of a name; the same one for all examples of a process."""
    return MAKERS[name]()


def _of_stance(stance: str) -> cl.Texts:
    chats = cl.data("pocket/corpus").filter(lambda text: text.messages and text.meta["stance"] == stance)
    return chats[:12]
