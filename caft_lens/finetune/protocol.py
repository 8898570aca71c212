"""What a method is: `Method`, its card, and the few places at which it may act.

Its fields are its settings: numbers and strings (`setting`) that a contest may search, and what it needs (`material`):
texts or directions. A run folder records all of them, the latter by fingerprint.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn
from transformers import TrainerCallback, TrainingArguments

from caft_lens._support.arguments import number, one_of
from caft_lens._support.errors import BadArgument, BadType
from caft_lens.concepts.concept_set import ConceptSet
from caft_lens.text.documents import Texts
from caft_lens.text.encoding import Encoded

if TYPE_CHECKING:
    from caft_lens.concepts.ablation import Ablated
    from caft_lens.finetune.settings import TrainSettings
    from caft_lens.finetune.step import Pass
    from caft_lens.model.acting import Acting
    from caft_lens.model.lens import Lens
    from caft_lens.text.batching import Batch

MOST_SETTINGS = 4
"""Of a search grid: every method has the same small budget."""
FAMILIES = ("reference", "activations", "loss", "data", "weights", "schedule", "decoding")


@dataclass(frozen=True)
class Card:
    """What a reader wants to know of a method, and a report says.

    Attributes:
        idea: In a sentence or two.
        equation: What it computes.
        source: Where it comes from.
        arxiv: Number of the paper, `""` where there is none.
        grid: The settings that a contest tries, at most four; none where there is nothing to tune.
        family: What it acts on, one of `FAMILIES`; `""` for none of them.
        cost: What it takes beside plain fine-tuning, in a few words.
        neutral: The settings with which it is plain fine-tuning, bit for bit; `None` where there are none.
    """

    idea: str
    equation: str
    source: str
    arxiv: str = ""
    grid: tuple[Mapping[str, Any], ...] = ()
    family: str = ""
    cost: str = "nothing"
    neutral: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.family:
            one_of(self.family, "family", FAMILIES)
        if len(self.grid) > MOST_SETTINGS:
            raise BadArgument(f"A grid of {len(self.grid)} settings: at most {MOST_SETTINGS} are searched.")


@dataclass
class Training:
    """The run that a method is part of.

    Attributes:
        base: The model as it was; never changed.
        lens: The model that is trained.
        given: What was to be learned.
        texts: What is learned, as the method made it of that.
        encoded: The same as tokens, in the same order.
        arguments: Of the trainer.
        seed: Of the run.
        max_length: Tokens after which a text is cut; `None` for no limit.
    """

    base: Lens
    lens: Lens
    given: Texts
    texts: Texts
    encoded: Sequence[Encoded]
    arguments: TrainingArguments
    seed: int
    max_length: int | None = None


@dataclass
class Plan:
    """What a method asks of the trainer.

    Attributes:
        fires: Hook points that must be passed in the first step, or something is wrong.
        loss: The loss of a forward pass, instead of plain fine-tuning's, which the pass knows too. Further passes that
            it makes leave the random numbers of training as they are.
        before: Called before each pass, with the batch (on the CPU) and the number of the pass, from 0, which is the
            same after a kill. It may give other token ids to read, `[batch, pos]`; what is learned stays the same.
        order: The texts of an epoch, as places in `Training.encoded`, in the order in which they are learned; takes
            the epoch, from 0. Every epoch has as many.
        callbacks: Of the trainer.
        extra: Parameters in `lens.model` that its `save_pretrained` does not know; checkpoints keep them.
        kept: What `subject` needs beside the model's weights; the run folder keeps it (`caft_lens.finetune.kept`).
    """

    fires: Sequence[str] = ()
    loss: Callable[[Pass], Tensor] | None = None
    before: Callable[[Batch, int], Tensor | None] | None = None
    order: Callable[[int], Sequence[int]] | None = None
    callbacks: Sequence[TrainerCallback] = ()
    extra: nn.Module | None = None
    kept: nn.Module | None = None


@dataclass(frozen=True)
class Method:
    """A way of fine-tuning: plain, wherever a subclass does not say otherwise.

    Subclasses, which `register` makes dataclasses, have a `name`, a `card`, and fields of `setting` and `material`.

    Raises:
        BadType: When a setting or material is of another kind than its field.
        BadArgument: When a setting is out of its range.
    """

    name: ClassVar[str]
    card: ClassVar[Card]

    def __post_init__(self) -> None:
        for one in dataclasses.fields(self):
            _check_field(self.name, one, getattr(self, one.name))

    # -- where a method acts -------------------------------------------------------------------------------------------

    def check(self, lens: Lens, tune: str) -> None:
        """Refuse, before anything is trained, a model, or a `tune`, that this method cannot do.

        Args:
            lens: The model to start from.
            tune: `"lora"` or `"full"`.
        """
        for one in self.materials.values():
            if isinstance(one, ConceptSet):
                one.check(lens)

    def trains_as(self, seed: int) -> Method:
        """The method whose training this is: itself, unless it draws directions first or acts at test time only."""
        return self

    def texts(self, texts: Texts, seed: int, base: Lens) -> Texts:
        """What is learned, from what was to be learned; `base` is the model as it was, for methods that ask it."""
        return texts

    def train_settings(self, given: TrainSettings) -> TrainSettings:
        """The settings to train with (rates, steps, sizes; not what is tuned), from those that were given."""
        return given

    def trainable(self, base: Lens, build: Callable[[], Lens], seed: int) -> Lens:
        """The lens that is trained; `build()` makes the usual one, an adapter over `base` or a copy of it."""
        return build()

    def during(self, training: Training) -> AbstractContextManager[Plan]:
        """A block around training: hooks hold while it is open, and what follows its `yield` may change the weights."""
        return nullcontext(Plan())

    def subject(self, tuned: Lens) -> Lens | Ablated | Acting:
        """What is asked when the run is tested: the tuned model (`Run.lens`), or it with something done to it."""
        return tuned

    # -- what it is ---------------------------------------------------------------------------------------------------

    @property
    def settings(self) -> dict[str, Any]:
        """Name of each setting to its value."""
        return {one.name: getattr(self, one.name) for one in fields_of(type(self), "setting")}

    @property
    def materials(self) -> dict[str, Any]:
        """Name of each material to it."""
        return {one.name: getattr(self, one.name) for one in fields_of(type(self), "material")}

    @classmethod
    def needs(cls) -> dict[str, str]:
        """Name of each material to what it is."""
        return {one.name: one.metadata["meaning"] for one in fields_of(cls, "material")}

    def record(self) -> dict[str, Any]:
        """What a run folder keeps: name, settings, and the fingerprints of materials."""
        kept = {key: _fingerprinted(value) for key, value in self.materials.items() if key != "concepts"}
        return {"name": self.name, **self.settings, **kept}

    @property
    def concepts_record(self) -> dict[str, Any] | None:
        """Of the directions that act in training; `None` without any."""
        concepts = self.materials.get("concepts")
        return None if concepts is None else _fingerprinted(concepts)

    def __repr__(self) -> str:
        said = [f"{key}={value!r}" for key, value in self.settings.items()]
        said += [f"{key}=<{getattr(value, 'name', len(value))}>" for key, value in self.materials.items()]
        return f"{type(self).__name__}({', '.join(said)})"


def setting(
    default: Any,
    meaning: str,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
) -> Any:
    """A field of a method that is a number or a string.

    Args:
        default: Its value where none is given; its type is the field's.
        meaning: What it is, for the card.
        above, least, below, most: Its range: more than, at least, less than, at most.
    """
    limits = {"above": above, "least": least, "below": below, "most": most}
    return field(default=default, kw_only=True, metadata={"kind": "setting", "meaning": meaning, "limits": limits})


def material(kind: type, meaning: str) -> Any:
    """A field of a method that is texts or directions, and has to be given.

    Args:
        kind: `Texts` or `ConceptSet`.
        meaning: What it is, for the card.
    """
    return field(metadata={"kind": "material", "type": kind, "meaning": meaning})


def fields_of(cls: type, kind: str) -> list[dataclasses.Field]:
    """The fields of a method that are settings, or those that are materials."""
    return [one for one in dataclasses.fields(cls) if one.metadata.get("kind") == kind]


def _check_field(method: str, one: dataclasses.Field, value: Any) -> None:
    hint = f'{one.metadata.get("meaning", "")}, of the method "{method}"'
    kind = one.metadata.get("type", type(one.default))
    if kind in (int, float):
        given = number(value, one.name, **one.metadata.get("limits", {}), hint=hint)
        if kind is int and not isinstance(given, int):
            raise BadType(f"{one.name}={value} is not whole: {hint}.")
    elif not isinstance(value, kind):
        raise BadType(f"{one.name} is a {kind.__name__}, not {type(value).__name__}: {hint}.")
    elif kind is str and not value.strip():
        raise BadArgument(f"{one.name} is empty: {hint}.")


def _fingerprinted(value: Texts | ConceptSet) -> dict[str, Any]:
    if isinstance(value, Texts):
        return {"name": value.name, "fingerprint": value.fingerprint, "texts": len(value)}
    return {"names": value.names, "fingerprint": value.fingerprint}
