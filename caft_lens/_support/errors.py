"""The errors of the library, and the wording of what a misspelt name was probably meant to be.

Every error says what was wrong, what was expected and what to do. All are `CaftLensError`s, and each is also the builtin that
one would catch (`ValueError`, `FileNotFoundError`, …), so that `except ValueError` goes on to work. `nearest` writes the end of
a message for names (hook points, concepts, data sets, arms).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CaftLensError(Exception):
    """Anything that the library refuses; catch this one for all of them."""


class BadArgument(CaftLensError, ValueError):
    """An argument that makes no sense: out of range, or two that exclude each other."""


class BadType(CaftLensError, TypeError):
    """A value of a kind that is not understood."""


class BadData(CaftLensError, ValueError):
    """A row, message or file of texts that is not understood; the message names the row."""


class BadFile(CaftLensError, ValueError):
    """A file that is broken, was changed, or holds something else; the message names file, field, expected and found."""


class UnknownName(CaftLensError, KeyError):
    """A name that is none: of a hook point, concept, column, arm; the message says which are near."""

    def __str__(self) -> str:
        return Exception.__str__(self)  # KeyError would put it in quotes


class UnknownAttribute(CaftLensError, AttributeError):
    """An attribute that something else has; the message says what."""


class MissingFile(CaftLensError, FileNotFoundError):
    """A file or folder that is not there; the message names its neighbours."""

    def __str__(self) -> str:
        return Exception.__str__(self)


class Occupied(CaftLensError, FileExistsError):
    """A folder that holds something else than what would be written there; the message says what differs."""

    def __str__(self) -> str:
        return Exception.__str__(self)


class BadTemplate(CaftLensError, ValueError):
    """A chat template that rejects a chat, or asks for something else than was trained."""


class BadModel(CaftLensError, ValueError):
    """A model, adapter or SAE that cannot be used as asked."""


class BadRecipe(CaftLensError, ValueError):
    """A recipe of an experiment that cannot be run."""


class ConceptMismatch(CaftLensError, ValueError):
    """Concepts, SAEs or activations that belong to another model."""


class NotTrained(CaftLensError, RuntimeError):
    """A fine-tuning that would not have trained what was asked."""


class Diverged(CaftLensError, FloatingPointError):
    """A loss, weight or logit that is not finite."""


class Busy(CaftLensError, RuntimeError):
    """A folder or model that another process or thread is working on."""


class JudgeError(CaftLensError, RuntimeError):
    """A judge that failed, or returned what is no verdict."""


class BadScore(JudgeError, ValueError):
    """What a judge returned that is none of what its task lets it say; the message quotes it."""


class EndpointError(CaftLensError, RuntimeError):
    """A server that did not give what was asked of it."""


def nearest(name: object, valid: Iterable[object], n: int = 3) -> str:
    """The end of an error message about a misspelt name.

    Args:
        name: What the user typed.
        valid: The names that would have worked.
        n: How many suggestions at most.

    Returns:
        `' Did you mean "a" or "b"?'` when something is close, else `' Valid: "a", "b", ….'` (at most 12).

    Example:
        >>> nearest("blocks.1.hook_resid_pots", ["blocks.1.hook_resid_post", "blocks.1.hook_mlp_out"], n=1)
        ' Did you mean "blocks.1.hook_resid_post"?'
        >>> nearest("zebra", ["pca", "sae"])
        ' Valid: "pca", "sae".'
    """
    names = [str(item) for item in valid]
    close = difflib.get_close_matches(str(name), names, n=n, cutoff=0.6)
    if close:
        return f" Did you mean {' or '.join(_quoted(close))}?"
    if not names:
        return " There is nothing to choose from."
    more = ", …" if len(names) > 12 else ""
    return f" Valid: {', '.join(_quoted(names[:12]))}{more}."


def _quoted(names: Iterable[str]) -> list[str]:
    return [f'"{name}"' for name in names]
