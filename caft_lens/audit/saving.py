"""An audit as files: `audit.json` with what was asked of what, `audit.safetensors` with the figures, beside them
`concepts/` where directions were looked for. Models, SAEs and texts are not copied: what is read again is checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from safetensors.torch import save as dump_tensors
from torch import Tensor

from caft_lens._support.errors import BadArgument, BadFile, ConceptMismatch
from caft_lens._support.files import (
    Count,
    Json,
    Record,
    absent,
    check_tensor,
    parse_tensors,
    parsed,
    read_together,
    sha256,
    write_together,
)
from caft_lens.concepts.concept_set import ConceptSet

if TYPE_CHECKING:
    from caft_lens.audit.candidates import Candidates
    from caft_lens.model.lens import Lens
    from caft_lens.text.documents import Texts

FORMAT = "caft_lens.Audit/1"
FIGURES, CARD, CONCEPTS = "audit.safetensors", "audit.json", "concepts"
BESIDE = ("share", "mean")
"""What is kept of each hook point beside the signals."""


class _File(Record):
    sha256: str


class _Card(Record):
    format: Literal["caft_lens.Audit/1"]
    about: Json
    signals: list[str]
    concepts: dict[str, Count]
    lengths: dict[str, float]
    given: str | None
    batch_tokens: Count
    max_length: Count | None
    figures: _File


@dataclass(frozen=True)
class Kept:
    """What a folder holds.

    Attributes:
        card: Everything but the figures.
        figures: By hook point and name, float64 `[n]`.
        given: The directions that were looked for.
    """

    card: _Card
    figures: dict[str, dict[str, Tensor]]
    given: ConceptSet | None

    @property
    def about(self) -> dict[str, Any]:
        """Where it came from."""
        return dict(self.card.about)


def write(
    folder: Path,
    figures: Mapping[str, Mapping[str, Tensor]],
    given: ConceptSet | None,
    rest: Mapping[str, Any],
) -> None:
    """Write an audit over whatever audit lies there.

    Args:
        folder: Where to.
        figures: By hook point and name, float64 `[n]`.
        given: The directions that were looked for.
        rest: The other fields of the card.
    """
    if given is not None:
        given.save(folder / CONCEPTS)
    tensors = {f"{hook}/{name}": one.contiguous() for hook, of in figures.items() for name, one in of.items()}
    content = dump_tensors(tensors, {"format": "pt"})
    card = {"format": FORMAT, "given": None if given is None else given.fingerprint, **rest}
    write_together(folder / FIGURES, content, folder / CARD, {**card, "figures": {"sha256": sha256(content)}})


def read(folder: Path) -> Kept:
    """What `write` wrote.

    Raises:
        MissingFile: When there is no audit.
        BadFile: When a file is truncated, changed or of another kind.
    """
    if not (folder / CARD).is_file():
        raise absent(folder, CARD, "holds no audit", "`Audit.save(folder)` writes it.")

    def described(value: Any) -> tuple[_Card, str]:
        card = parsed(value, _Card, str(folder / CARD), "the card of an audit")
        return card, card.figures.sha256

    card, content = read_together(folder / FIGURES, folder / CARD, described)
    tensors = parse_tensors(content, folder / FIGURES)
    figures = {
        hook: {
            name: check_tensor(tensors, f"{hook}/{name}", (n,), folder / FIGURES) for name in (*card.signals, *BESIDE)
        }
        for hook, n in card.concepts.items()
    }
    given = None if card.given is None else ConceptSet.load(folder / CONCEPTS)
    if given is not None and given.fingerprint != card.given:
        raise BadFile(f"{folder / CONCEPTS} holds other directions than {folder / CARD} tells of: audit again.")
    return Kept(card, figures, given)


def check(kept: Kept, folder: Path, base: Lens, texts: Texts, against: Texts | None) -> None:
    """Refuse another model, other texts or another reference than those of an audit that was read.

    Raises:
        ConceptMismatch: For another model.
        BadArgument: For other texts, a reference that is missing, or one too many.
    """
    about = kept.about
    if about["fingerprint"] != base.fingerprint:
        raise ConceptMismatch(
            f"The audit in {folder} is of {about['model']} ({about['fingerprint']}); {base.name!r} "
            f"({base.fingerprint}) is another model. Load that one, or audit again."
        )
    if about.get("reading", base.reading) != base.reading:
        raise ConceptMismatch(
            f"The audit in {folder} was read with another tokenizer or chat template than {base.name!r} has now: "
            "audit again."
        )
    had = about["data"]
    for name, given in (("texts", texts), ("against", against)):
        known = had.get(name)
        if known is None and given is not None:
            raise BadArgument(
                f"The audit in {folder} had no reference: leave {name}= out; flagged(against=...) takes one."
            )
        if known is not None and given is None:
            raise BadArgument(f"The audit in {folder} had a reference, {known['name']}: give it as {name}=.")
        if known is not None and given is not None and known["fingerprint"] != given.fingerprint:
            raise BadArgument(
                f"The audit in {folder} read {known['name'] or 'unnamed texts'} ({known['fingerprint']}) as {name}; "
                f"{given.name or 'what was given'} ({given.fingerprint}) is other text. Give that, or audit again."
            )


def check_candidates(kept: Kept, folder: Path, candidates: Candidates) -> None:
    """Refuse other SAEs than those of an audit that was read.

    Raises:
        ConceptMismatch: Naming the hook point.
    """
    had, here = kept.about["saes"], candidates.records()
    for hook in dict.fromkeys([*had, *here]):
        known, given = had.get(hook), here.get(hook)
        if known is None or given is None or known["fingerprint"] != given["fingerprint"]:
            names = [f"{one['name']} ({one['fingerprint']})" if one else "no SAE" for one in (known, given)]
            raise ConceptMismatch(
                f"The audit in {folder} looked at {names[0]} at {hook}, not at {names[1]}: give the same saes=."
            )
