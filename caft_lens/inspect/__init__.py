"""Reading directions: what text lies at either end of them.

contexts.py  top and bottom activating contexts of any directions, in one pass
html.py      how they are shown: highlighted tokens, both signs, no JavaScript
labels.py    where concepts truly are in documents whose generator knows it
"""

from __future__ import annotations

from caft_lens.inspect.contexts import Context, Contexts, contexts
from caft_lens.inspect.labels import Labelled

__all__ = ["Context", "Contexts", "Labelled", "contexts"]
