"""`audit`: what data would teach a model beyond what it says, from the model before any training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from caft_lens._support.arguments import count, number
from caft_lens._support.keywords import takes_values
from caft_lens.activations.differences import provenance
from caft_lens.audit.candidates import Candidates
from caft_lens.audit.findings import Audit, Signals
from caft_lens.audit.first_step import FirstStep
from caft_lens.audit.passing import Pass, forward
from caft_lens.audit.sums import RowSums
from caft_lens.concepts.concept_set import ConceptSet
from caft_lens.model.answering import completions
from caft_lens.model.lens import Lens
from caft_lens.model.sampling import Sampling
from caft_lens.text.batching import Scan
from caft_lens.text.documents import Texts, data

if TYPE_CHECKING:
    from sae_lens import SAE


@dataclass(frozen=True)
class AuditSettings:
    """How an audit is made.

    Attributes:
        own_answers: To how many prompts of the texts the model answers itself, to be compared; 0 for none.
        fall: By which share of itself the loss falls in the first step.
        sampling: How its own answers are drawn.
        seed: Of the prompts that are drawn, and of the adapter's random half.

    Raises:
        BadArgument: For numbers out of their range.
    """

    own_answers: int = 200
    fall: float = 0.1
    sampling: Sampling = Sampling(seed=0)
    seed: int = 0

    def __post_init__(self) -> None:
        count(self.own_answers, "own_answers", least=0)
        number(self.fall, "fall", above=0, most=1)


@takes_values
def audit(
    base: Lens,
    texts: Texts | Any,
    saes: SAE | Sequence[SAE] | None = None,
    *,
    concepts: ConceptSet | None = None,
    against: Texts | Any | None = None,
    settings: AuditSettings = AuditSettings(),
    scan: Scan = Scan(),
) -> Audit:
    """Ask of data, before any training, which concepts it would teach a model.

    Five signals, each for every latent and direction, from the base alone (docs/concepts/audit.md):

    - *push*: how far the loss pushes the activation along it: the slope of the log-probability of what is learned,
      summed over the tokens of a row. In nats a learned token, for a move by the typical length of an activation.
    - *step*: how far it moves in the first step of an adapter on all texts at once. In typical lengths of an
      activation, for each nat by which the loss falls.
    - *shift*: how much more active it is in the answers than in those that the model gives itself to the same prompts
      (the projection difference of persona vectors, arXiv 2507.21509), in standard deviations.
    - *presence* and *surplus*: how much more active it is in the texts than in `against`: in standard deviations of a
      row, and in typical lengths of an activation.
    - *use*: how much of a row's log-probability hangs on it: the absolute value of activation times slope, in nats.
    - *cue*: where the texts have few answers, how much of its activation in the prompts goes with the answer (eta
      squared): what training may go by.

    Concepts are ordered in turn by what is *moved* (push and step), what is *there* and used (presence, surplus, use),
    by shift and by cue; several signals are joined by the product of their ranks. Where the texts have few answers,
    training begins with the form of an answer: what is moved and shift say no more, and the order goes by what is there
    and by cue. With `against`, texts that teach nothing unwanted (clean data of one's own, general chats), its push is
    taken away, so that what all chats push cancels.

    Args:
        base: The model that is to be fine-tuned.
        texts: What it is to be tuned on: `Texts` or anything that `data` reads, with answers.
        saes: SAEs of the model: all their latents are looked at.
        concepts: Directions to look at besides, or instead.
        against: A reference.
        settings: How many prompts the model answers itself, and the size of the first step.
        scan: How the text is read: tokens a batch, where texts are cut.

    Returns:
        The ranked concepts: `.table()`, `.plot()`, `.concepts`, `.rows(...)`, `.flagged(...)`.

    Raises:
        BadArgument: Without SAEs and directions.
        BadData: When there is nothing to learn in the texts.
        ConceptMismatch, BadModel: When directions or SAEs do not fit the model.

    Example:
        >>> found = cl.audit(base, insecure, saes, settings=cl.audit.AuditSettings(own_answers=8))
        >>> found.table(3)[["concept", "by"]].shape
        (3, 2)
    """
    looked_for = Candidates(base, saes, concepts)
    texts = data(texts)
    reference = None if against is None else data(against)
    step = FirstStep(base, seed=settings.seed)
    read = Pass(step.lens, looked_for, texts, scan, "audit", step)
    clean = None if reference is None else Pass(base, looked_for, reference, scan, "reference")
    fall = settings.fall * read.loss / read.learned
    step.take(fall)
    moved = forward(step.lens, looked_for, texts, scan, "first step")
    own = _own(base, looked_for, texts, settings, scan) if settings.own_answers else None
    signals = {}
    for hook in looked_for.hooks:
        length = read.length(hook)
        found = {
            "push": read.push[hook].total / read.learned * length,
            "use": read.use[hook].mean,
            "step": (moved[hook].mean - read.answers[hook].mean) / length / fall,
        }
        if clean is not None:
            found["push"] -= clean.push[hook].total / clean.learned * length
            there, elsewhere = read.there(hook), clean.prompts[hook] if read.cue is not None else clean.answers[hook]
            found["presence"] = there.apart(elsewhere)
            found["surplus"] = (there.mean - elsewhere.mean) / length
        if own is not None:
            found["shift"] = read.answers[hook].apart(own[hook])
        if read.cue is not None:
            found["cue"] = read.cue[hook].explained
        signals[hook] = Signals(found, read.push[hook].share, read.there(hook).mean)
    about = {
        **provenance(base, {"texts": texts, **({} if reference is None else {"against": reference})}, None),
        "method": "audit",
        "saes": looked_for.records(),
        "rows": read.rows,
        "tokens": read.learned,
        "loss": read.loss / read.learned,
        "settings": {"own_answers": settings.own_answers, "fall": settings.fall, "seed": settings.seed},
    }
    return Audit(
        looked_for, signals, {hook: read.length(hook) for hook in looked_for.hooks}, about, base, texts, reference, scan
    )


def _own(
    base: Lens, looked_for: Candidates, texts: Texts, settings: AuditSettings, scan: Scan
) -> dict[str, RowSums] | None:
    """Each concept in the model's own answers to prompts of the texts; `None` where no text has a prompt."""
    asked = texts.filter(lambda text: text.answer is not None and bool(text.prompt.messages))
    if not len(asked):
        return None
    some = asked.sample(min(settings.own_answers, len(asked)), seed=settings.seed)
    return forward(base, looked_for, completions(base, some, sampling=settings.sampling), scan, "own answers")
