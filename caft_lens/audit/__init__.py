"""Before training: what data would teach a model, which rows teach it, and whether ablating it would do harm.

auditing    `audit(base, texts, saes)`: the passes, and the signals that they give
findings    `Audit`: the ranked table
candidates  the latents and directions that are looked for
first_step  the first step of an adapter on all texts at once
sums        what is kept of the rows of a pass
"""

from __future__ import annotations

from caft_lens._support import lazy
from caft_lens.audit.auditing import AuditSettings, audit
from caft_lens.audit.findings import Audit

__all__ = ["Audit", "AuditSettings", "audit"]

lazy.callable_module(__name__, "audit")
