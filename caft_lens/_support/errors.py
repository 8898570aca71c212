"""The errors of the library, and the wording of what a misspelt name was probably meant to be.

Every error says what was wrong, what was expected and what to do. All are `CaftLensError`s, and each is also the
builtin that one would catch (`ValueError`, `FileNotFoundError`, …), so that `except ValueError` goes on to work.
`nearest` writes the end of a message for names (hook points, concepts, data sets, arms).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CaftLensError(Exception):
    """Anything that the library refuses; catch this one for all of them.

    What to do: Read the message: it says what was wrong, what was expected and what to do. The class says its kind.
    """


class BadArgument(CaftLensError, ValueError):
    """An argument that makes no sense: out of range, or two that exclude each other.

    What to do: The message names the argument, what it may be and what was given: change that one.
    """


class BadType(CaftLensError, TypeError):
    """A value of a kind that is not understood.

    What to do: Give what the message names: for a `Run` its `Lens`, `run.lens`; for one concept a set, `found[:1]`.
    """


class BadData(CaftLensError, ValueError):
    """A row, message or file of texts that is not understood; the message names the row.

    What to do: Look at that row. Rename or drop the field that is named, or write rows as `cl.data` reads them:
    `prompt` and `answer`, `messages`, or `text`. Nothing is skipped silently, so mend the file or filter it before.
    """


class BadFile(CaftLensError, ValueError):
    """A file that is broken, was changed, or holds something else; the message names file, field, expected and found.

    What to do: Make the file again with the call that wrote it, or restore it from a copy. If you changed it on
    purpose, say so where the message tells (its hash stands beside it). A run folder is made again with
    `TrainSettings(resume=False)` or `overwrite=True`.
    """


class UnknownName(CaftLensError, KeyError):
    """A name that is none: of a hook point, concept, column, method; the message says which are near.

    What to do: Take one of the names that are offered. `lens.hook_names`, `concepts.names` and
    `list(methods())` hold all of them.
    """

    def __str__(self) -> str:
        return Exception.__str__(self)  # KeyError would put it in quotes


class UnknownAttribute(CaftLensError, AttributeError):
    """An attribute that something else has; the message says what.

    What to do: Ask what the message names: of a `Run` the model is `run.lens`.
    """


class MissingFile(CaftLensError, FileNotFoundError):
    """A file or folder that is not there; the message names its neighbours.

    What to do: Check the path against the folder that the message names: relative paths start at the current folder, in
    a notebook that of the notebook. A data set or model that ships has a name without a suffix: `"pocket/questions"`.
    """

    def __str__(self) -> str:
        return Exception.__str__(self)


class Occupied(CaftLensError, FileExistsError):
    """A folder that holds something else than what would be written there; the message says what differs.

    What to do: Choose another folder, or make the call what it was; `overwrite=True` replaces a run. Nothing in the
    folder was touched.
    """

    def __str__(self) -> str:
        return Exception.__str__(self)


class BadTemplate(CaftLensError, ValueError):
    """A chat template that rejects a chat, or asks for something else than was trained.

    What to do: Load the tokenizer of the instruction-tuned model, set `tokenizer.chat_template`, or give plain text.
    What a template wants beside the messages goes to `cl.load(..., template_arguments={...})`.
    """


class BadModel(CaftLensError, ValueError):
    """A model, adapter or SAE that cannot be used as asked.

    What to do: The message says what does not fit. Mostly one loads the base that an adapter or run was made for, a
    checkpoint with safetensors, or an architecture whose blocks lie on one residual stream.
    """


class BadRecipe(CaftLensError, ValueError):
    """A recipe of an experiment that cannot be run.

    What to do: Mend the key that the message names in the YAML file; a recipe needs `task`, `texts` and `arms`.
    """


class ConceptMismatch(CaftLensError, ValueError):
    """Concepts, SAEs or activations that belong to another model.

    What to do: Use the model that they were found on, or one tuned from it; or find them anew. If it *is* that model
    under another name, declare it: `concepts.for_model(lens)`, `caft_lens.saes.fitting.for_model(sae, lens)`.
    """


class NotTrained(CaftLensError, RuntimeError):
    """A fine-tuning that would not have trained what was asked.

    What to do: On the first step an ablated site did not fire or a trainable parameter got no gradient. Train the model
    that the lens hooks, and choose `LoraSettings(targets=...)` in the forward pass: fused or replaced modules get none.
    """


class BadPass(CaftLensError, RuntimeError):
    """A forward pass in which what is attached to hook points cannot act.

    What to do: Where hooks act on some roles, tell the roles: give text or a `Batch`, or open
    `lens.roles_as(batch.roles)`. Where a block was not reached, leave the model's own forward as it is.
    """


class Diverged(CaftLensError, FloatingPointError):
    """A loss, weight or logit that is not finite.

    What to do: Lower the learning rate, warm up longer, or use bfloat16 or float32 instead of float16. The run folder
    remembers it: the same call says it again at once; `resume=False` tries anew.
    """


class Busy(CaftLensError, RuntimeError):
    """A folder, model or GPU that another process or thread is working on.

    What to do: Wait for it, choose another folder, or give each thread its own lens: `lens.fork()` shares the weights.
    """


class NotInstalled(CaftLensError, ImportError):
    """A package that only some things need is missing; the message says how to install it.

    What to do: Install what the message names, mostly `pip install "caft-lens[workbench]"`, and restart Python.
    """


class JudgeError(CaftLensError, RuntimeError):
    """A judge that failed, or returned what is no score.

    What to do: Mend the judge and call again with the same `out=`: answers and earlier verdicts are kept.
    """


class BadScore(JudgeError, ValueError):
    """What a judge returned that is none of what its task lets it say; the message quotes it.

    What to do: Let the judge return one of the task's `labels`; or say what it returns, `labels={True:
    "polite", False: "rude"}` or `scale=(0, 100)`.
    """


class EndpointError(CaftLensError, RuntimeError):
    """A server that did not give what was asked of it.

    What to do: Check address, model and key (in the environment variable that `key_env=` names), then call
    again: what was answered is cached and not paid for twice. `dry_run=True` shows every request.
    """


class NotSolved(CaftLensError, AssertionError):
    """An answer to an exercise that is missing or not right yet; the message says what is wrong with it.

    What to do: Change the cell of the answer, run it, and run the check again. The hint and the solution unfold below
    the exercise.
    """

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the message, without the way to it."""
        return [f"✗ {self}"]


def nearest(name: object, valid: Iterable[object]) -> str:
    """The end of an error message about a misspelt name: at most 3 that are close, or the first 12 that are valid.

    Example:
        >>> nearest("blocks.1.hook_resid_pots", ["blocks.1.hook_resid_post", "attn"])
        ' Did you mean "blocks.1.hook_resid_post"?'
        >>> nearest("zebra", ["pca", "sae"])
        ' Valid: "pca", "sae".'
    """
    names = [*dict.fromkeys(map(str, valid))]
    close = difflib.get_close_matches(str(name), names)
    if close:
        return ' Did you mean "' + '" or "'.join(close) + '"?'
    if not names:
        return " There is nothing to choose from."
    more = ", …" if len(names) > 12 else ""
    return ' Valid: "' + '", "'.join(names[:12]) + f'"{more}.'
