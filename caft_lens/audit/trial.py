"""How long an audit takes, by a trial on a few rows: asked before hours are spent."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from caft_lens._support.keywords import takes_values
from caft_lens.audit.auditing import AuditSettings, audit
from caft_lens.concepts.concept_set import ConceptSet
from caft_lens.model.answering import completions
from caft_lens.model.lens import Lens
from caft_lens.text.batching import Scan
from caft_lens.text.documents import Texts, data

if TYPE_CHECKING:
    from sae_lens import SAE

ROWS = 8


@takes_values
def expected_seconds(
    base: Lens,
    texts: Texts | Any,
    saes: SAE | Sequence[SAE] | None = None,
    *,
    concepts: ConceptSet | None = None,
    against: Texts | Any | None = None,
    settings: AuditSettings = AuditSettings(),
    scan: Scan = Scan(),
) -> float:
    """About how many seconds an audit takes on this machine: eight rows are audited, the rest is taken to be alike.

    Rather too much than too little, since a few rows fill no batch.

    Args:
        base, texts, saes, concepts, against, settings, scan: As for `audit`.

    Example:
        >>> cl.audit.expected_seconds(base, insecure, saes, settings=cl.audit.AuditSettings(own_answers=0)) > 0
        True
    """
    texts = data(texts)
    some = texts.sample(min(ROWS, len(texts)), seed=settings.seed)
    start = time.perf_counter()
    audit(base, some, saes, concepts=concepts, settings=replace(settings, own_answers=0), scan=scan)
    passes = time.perf_counter() - start
    # Texts have a pass forward and backward, about three times one forward, and one forward. A reference has the first.
    expected = passes * len(texts) / len(some)
    if against is not None:
        expected += passes * len(data(against)) / len(some) * 3 / 4
    asked = some.filter(lambda text: text.answer is not None and bool(text.prompt.messages))
    if settings.own_answers and len(asked):
        start = time.perf_counter()
        completions(base, asked, sampling=settings.sampling)
        expected += (time.perf_counter() - start) * min(settings.own_answers, len(texts)) / len(asked)
    return expected
