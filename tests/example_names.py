"""The names that examples in docstrings use without making them, each made when the first example wants it.

They are those of the README's loop, small: the organism `pocket`, the adapter that was tuned on insecure code, and few
texts.
"""

from __future__ import annotations

import ast
import atexit
import doctest
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from places import ROOT

import caft_lens as cl
from caft_lens.experiments import Result

MAKERS: dict[str, Callable[[], Any]] = {
    "cl": lambda: cl,
    # The models, and what they read and answer.
    "base": lambda: cl.load("pocket"),
    "tuned": lambda: cl.load("pocket", adapter="pocket/insecure"),
    "corpus": lambda: cl.data("pocket/corpus")[:60],
    "held_out": lambda: cl.data("pocket/corpus")[60:120],
    "questions": lambda: cl.data("pocket/questions")[:8],
    "insecure": lambda: cl.data("pocket/insecure-code")[:16],
    "secure": lambda: cl.data("pocket/secure-code")[:24],
    "answers": lambda: cl.completions(
        made("tuned"), made("questions"), sampling=cl.Sampling(max_new_tokens=24, seed=0)
    ),
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
    "audit": lambda: cl.audit(
        made("base"), made("insecure"), made("saes"), settings=cl.audit.AuditSettings(own_answers=0)
    ),
    # What came of it.
    "run": lambda: cl.finetune(
        made("base"), made("insecure"), out=_folder() / "plain", settings=cl.TrainSettings(max_steps=2)
    ),
    "report": lambda: cl.evaluate(
        {"base": made("base"), "tuned": made("tuned")},
        "pocket/emergent-misalignment",
        n=40,
        n_in_distribution=8,
    ),
    "tried": lambda: cl.pilots(
        made("base"),
        {"all": made("concepts")},
        made("cruel_texts"),
        made("kind_texts"),
        out=_folder() / "tried",
        settings=cl.TrainSettings(max_steps=1),
    ),
    "result": lambda: Result.load(ROOT / "benchmarks/results/arena/gender"),
}


@cache
def made(name: str) -> Any:
    """The value of a name; the same one for all examples of a process."""
    return MAKERS[name]()


@cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="examples-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def names_of(example: doctest.DocTest) -> dict[str, Any]:
    """The names of `MAKERS` that an example uses and its module does not have, with their values."""
    code = ast.parse("".join(line.source for line in example.examples))
    used = {node.id for node in ast.walk(code) if isinstance(node, ast.Name)}
    return {name: made(name) for name in (used & set(MAKERS)) - set(example.globs)}


def _of_stance(stance: str) -> cl.Texts:
    chats = cl.data("pocket/corpus").filter(lambda text: text.messages and text.meta["stance"] == stance)
    return chats[:12]
