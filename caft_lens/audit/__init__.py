"""Before training: what data would teach a model, which rows teach it, and whether ablating it would do harm.

auditing    `audit(base, texts, saes)`: the passes, and the signals that they give
findings    `Audit`: the ranked table, its figure, contexts, rows and flags
candidates  the latents and directions that are looked for
first_step  the first step of an adapter on all texts at once
passing     one pass over texts, and what is kept of it
sums        what is kept of the rows of a pass
rows        which rows push a concept, and which stand out from a reference
showing     the figure, and the table as a view
report      the page of an audit
saving      an audit as files
trial       how long an audit takes, by a trial on a few rows
"""

from __future__ import annotations

from caft_lens._support import lazy
from caft_lens.audit.auditing import AuditSettings, audit
from caft_lens.audit.findings import Audit
from caft_lens.audit.rows import Flags, Rows
from caft_lens.audit.trial import expected_seconds

__all__ = ["Audit", "AuditSettings", "Flags", "Rows", "audit", "expected_seconds"]

lazy.callable_module(__name__, "audit")
