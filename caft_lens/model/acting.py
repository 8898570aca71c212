"""`Acting`: a model that answers with something done to it, for whoever asks several models the same."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caft_lens.model.lens import Lens


@dataclass(frozen=True)
class Acting:
    """A model seen while something acts on it: a subject for `evaluate`.

    Attributes:
        lens: The model.
        identity: What acts, by which its answers are found again: all that decides them beside the model.
        block: Gives the block in which it acts.

    Example:
        >>> silenced = Acting(base, "nothing at layer 1", lambda: base.hooks([(1, lambda x, hook: 0 * x)]))
        >>> with silenced.applied() as lens:
        ...     logits = lens("How do I bake a pie?")
    """

    lens: Lens
    identity: str
    block: Callable[[], AbstractContextManager[Any]]

    def applied(self) -> AbstractContextManager[Any]:
        """The block in which it acts."""
        return self.block()
