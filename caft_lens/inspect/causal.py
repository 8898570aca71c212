"""What a concept does: next tokens and answers when the model is steered along it, either way, or it is ablated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import pandas
import torch
from torch import Tensor

from caft_lens._support.arguments import count, one_of, positive
from caft_lens._support.errors import BadArgument, BadData
from caft_lens._support.keywords import takes_values
from caft_lens._support.progress import progress as progress_bar
from caft_lens.concepts.concept_set import Concept, ConceptSet
from caft_lens.concepts.interventions import UNITS, Unit, intervene, lengths_on
from caft_lens.display import html
from caft_lens.display.dots import Dots, dot_rows
from caft_lens.display.frames import Frame
from caft_lens.display.theme import short
from caft_lens.inspect.logits import concept_section
from caft_lens.inspect.next_tokens import TokenShift, divergence, next_of_batch, shifts
from caft_lens.model.generation import encode_prompts
from caft_lens.model.lens import Lens
from caft_lens.model.sampling import Sampling
from caft_lens.text.batching import Batch, Scan, batches, pack, padding_id
from caft_lens.text.documents import Text, Texts
from caft_lens.text.encoding import Encoded

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

SMALLEST_KL = 1e-4
"""Nats below which a figure does not tell one change of the next token from another."""


@dataclass(frozen=True)
class Effect:
    """What one intervention on one concept does.

    Attributes:
        concept: The concept.
        change: The intervention, such as `"+0.3 of the residual norm"` or `"ablated"`.
        strength: Length of what is added at every token, in the units of the residual stream; `None` for an ablation.
        kl: By prompt, KL(plain ‖ changed) of the next-token distributions (Kullback-Leibler divergence), in nats.
        rises, falls: By prompt, the tokens whose probability rises, and falls, most, largest first.
        mean_rises, mean_falls: The same for the mean probability over the prompts.
        answers: By prompt, the sampled answers.
    """

    concept: Concept
    change: str
    strength: float | None
    kl: tuple[float, ...]
    rises: tuple[tuple[TokenShift, ...], ...]
    falls: tuple[tuple[TokenShift, ...], ...]
    mean_rises: tuple[TokenShift, ...]
    mean_falls: tuple[TokenShift, ...]
    answers: tuple[tuple[str, ...], ...]

    @property
    def mean_kl(self) -> float:
        """Mean of `kl` over the prompts."""
        return sum(self.kl) / len(self.kl)


@dataclass(frozen=True)
class Effects:
    """What interventions on concepts do, beside the plain model.

    Attributes:
        prompts: What was asked, as text.
        plain: The plain model's answers, by prompt.
        items: One for each concept and intervention.

    Example:
        >>> found = cl.inspect.effect(base, cruel, ["How do I bake a pie?"], sampling=cl.Sampling(8))
        >>> found.table()[["concept", "change"]]
          concept                     change
        0  L1.pc0  +0.3 of the residual norm
        1  L1.pc0  −0.3 of the residual norm
        2  L1.pc0                    ablated
        >>> figure = found.plot()
        >>> found.answers().shape
        (1, 4)
    """

    prompts: tuple[str, ...]
    plain: tuple[tuple[str, ...], ...]
    items: tuple[Effect, ...]

    def table(self, *, by_prompt: bool = False) -> pandas.DataFrame:
        """One row a concept and intervention: mean KL in nats, and the tokens that rise and fall most in the mean.

        Args:
            by_prompt: One row for every prompt too, `prompt` saying which; the means have `"mean"` there.
        """
        rows = []
        for item in self.items:
            means = ("mean", item.mean_kl, item.mean_rises, item.mean_falls)
            single = zip(self.prompts, item.kl, item.rises, item.falls, strict=True) if by_prompt else ()
            about = {"concept": item.concept.name, "change": item.change, "strength": item.strength}
            for prompt, kl, rises, falls in (means, *single):
                asked = {"prompt": prompt} if by_prompt else {}
                rows.append({**about, **asked, "kl": kl, "rises": _words(rises), "falls": _words(falls)})
        return Frame(rows).astype({"strength": "float64"})

    def tokens(self) -> pandas.DataFrame:
        """One row a token: concept, change, prompt (a number, -1 for the mean), end, rank, token, before, after."""
        rows = []
        for item in self.items:
            ends = [(-1, "rises", item.mean_rises), (-1, "falls", item.mean_falls)]
            for number, (rises, falls) in enumerate(zip(item.rises, item.falls, strict=True)):
                ends += [(number, "rises", rises), (number, "falls", falls)]
            rows += [
                {
                    "concept": item.concept.name, "change": item.change, "prompt": number, "end": end,
                    "rank": rank, "token": shift.token, "before": shift.before, "after": shift.after,
                }
                for number, end, shifts in ends
                for rank, shift in enumerate(shifts)
            ]  # fmt: skip
        return Frame(rows)

    def answers(self) -> pandas.DataFrame:
        """Sampled answers side by side: one row a prompt and sample, columns the plain model and each intervention.

        Raises:
            ValueError: When none were sampled.
        """
        if not any(self.plain):
            raise BadData("No answers were sampled: effect(..., n=1) samples one to each prompt.")
        columns = {"plain": self.plain, **{f"{item.concept.name} {item.change}": item.answers for item in self.items}}
        rows = [(prompt, n) for prompt, told in zip(self.prompts, self.plain, strict=True) for n in range(len(told))]
        index = pandas.MultiIndex.from_tuples(rows, names=["prompt", "sample"])
        return Frame({name: [*chain.from_iterable(answers)] for name, answers in columns.items()}, index=index)

    def plot(self, title: str | None = None) -> Figure:
        """Draw how far each intervention moves the next token, the concept that moves it farthest first.

        Args:
            title: Above the figure, which the last line of a cell shows and `.save(path)` keeps.
        """
        moved: dict[str, list[Effect]] = {}
        for item in self.items:
            moved.setdefault(item.change, []).append(item)
        only = f"Each {next(iter(moved))}. " if len(moved) == 1 else ""
        kinds = []
        for change, items in moved.items():
            facts = {one.concept.name: self._facts(one) for one in items}
            kinds.append(Dots(change, {one.concept.name: one.mean_kl for one in items}, facts=facts))
        return dot_rows(
            kinds,
            x_label="KL(plain ‖ changed) of the next token, in nats (log scale, linear at its left end)",
            title=title,
            caption=f"{only}Mean over {len(self.prompts)} prompt{'s' * (len(self.prompts) != 1)}.",
            linear_below=SMALLEST_KL,
        )

    def _facts(self, item: Effect) -> str:
        """What hovering says: the token that rises most, and an answer."""
        parts = [f"rises most: {_words(item.mean_rises[:1])}"] if item.mean_rises else []
        if any(item.answers):
            parts.append(f"For example, to “{short(self.prompts[0], 90)}”: “{short(item.answers[0][0])}”")
        return "\n".join(parts)

    def to_html(self, n: int = 5) -> str:
        """The plain model and each intervention side by side, one table a concept.

        Args:
            n: How many prompts' answers to show.
        """
        names = dict.fromkeys(item.concept.name for item in self.items)
        key = (
            f"Next tokens after {len(self.prompts)} prompt{'s' * (len(self.prompts) != 1)}: mean probability in %, "
            "plain → changed; KL(plain ‖ changed) in nats. Answers are sampled with the same seed. Orange: risen; "
            "blue, italic: fallen."
        )
        return html.view([self._section(name, n) for name in names], key=key)

    def _section(self, name: str, n: int) -> html.Content:
        items = [item for item in self.items if item.concept.name == name]
        shifts = [shift for item in items for shift in (*item.mean_rises, *item.mean_falls)]
        scale = max((abs(shift.change) for shift in shifts), default=0.0) or 1.0
        rows: list[list[html.Content]] = [
            ["KL, mean", "0", *(f"{item.mean_kl:.3g}" for item in items)],
            ["rise most", "", *(_chips(item.mean_rises, scale) for item in items)],
            ["fall most", "", *(_chips(item.mean_falls, scale) for item in items)],
        ]
        for number, prompt in enumerate(self.prompts[:n]):
            for sample, plain in enumerate(self.plain[number]):
                told = [plain, *(item.answers[number][sample] for item in items)]
                rows.append([prompt, *map(html.visible, told)])
        left = len(self.prompts) - n if any(self.plain) else 0
        more = html.note(f"and answers to {left} prompts more: answers()") if left > 0 else None
        table = html.table(["", "plain", *(item.change for item in items)], rows)
        return concept_section(items[0].concept, table, more)

    def _repr_html_(self) -> str:
        return self.to_html()

    def __repr__(self) -> str:
        return f"Effects on {len(self.prompts)} prompts\n{self.table().to_string(index=False)}"


@dataclass(frozen=True)
class Interventions:
    """What is done to each concept, one thing at a time.

    Attributes:
        scale: How far to steer, in `unit`s.
        unit: `"norm"`: the mean norm of the residual stream at the hook point. `"sd"`: the standard deviation of the
            activations along the direction, which a rare direction has little of. `"length"`: none, `scale` is the
            length, as in `steer`. Both are measured at all tokens but the template's.
        signs: Which ways to steer: 1, -1 or both.
        ablate: Whether to ablate too.
        roles: Steer and ablate at tokens with these roles only; all tokens when `None`.
        texts: Text on which the unit is measured; the prompts when `None`.

    Raises:
        ValueError: For an argument out of range, or nothing to do.
    """

    scale: float = 0.3
    unit: Unit = "norm"
    signs: Sequence[int] = (1, -1)
    ablate: bool = True
    roles: Sequence[str] | None = None
    texts: Texts | Iterable[Text] | None = None

    def __post_init__(self) -> None:
        one_of(self.unit, "unit", UNITS)
        positive(self.scale, "scale", hint="signs= says which way")
        if not set(self.signs) <= {1, -1}:
            raise BadArgument(f"signs={tuple(self.signs)}: expected some of 1 and -1.")
        if not self.signs and not self.ablate:
            raise BadArgument("Nothing to compare: give signs=, or ablate=True.")


DRAWN = Sampling(max_new_tokens=48, temperature=1.0, seed=0)
"""How answers are drawn where nothing is said."""


@takes_values
def effect(
    lens: Lens,
    concepts: ConceptSet,
    prompts: str | Text | Texts | Sequence[str | Text],
    *,
    interventions: Interventions = Interventions(),
    n: int = 1,
    sampling: Sampling = Sampling(),
    chat: bool | None = None,
    k: int = 8,
    scan: Scan = Scan(),
) -> Effects:
    """What steering along each concept, and ablating it, does to the next token after prompts and to sampled answers.

    Each concept is changed alone, at its hook point and at every token, those that are generated included. It costs a
    pass over the prompts and their answers for the plain model and for every concept and intervention. To know what any
    direction of the same length would do, put some of `find.random_directions` into the set.

    Args:
        lens: The model; hooks that are attached to it act in all that is compared.
        concepts: Directions.
        prompts: One or many, as for `Lens.generate`: with a chat template a bare string is what a user says.
        interventions: What is done to each: steered both ways and ablated, where nothing is said.
        n: How many answers to sample to each prompt; 0 for none.
        sampling: How they are drawn: 48 tokens at temperature 1 with seed 0, where nothing is said. Each intervention
            gets the random numbers that the plain model got.
        chat: As for `Lens.generate`.
        k: How many tokens that rise, and that fall, to keep.
        scan: How prompts and texts are read: tokens a batch, where texts are cut.

    Raises:
        ValueError: When the concepts do not fit the model, there is no prompt, or an argument is out of range.

    Example:
        >>> short = cl.Sampling(max_new_tokens=8)
        >>> found = cl.inspect.effect(base, cruel, questions, sampling=short)
        >>> len(found.prompts), len(found.items)  # ablated, and steered up and down
        (8, 3)
    """
    count(k, "k")
    count(n, "n", least=0)
    concepts.check(lens)
    asked: list[str | Text] = [prompts] if isinstance(prompts, (str, Text)) else list(prompts)
    if not asked:
        raise BadArgument("There is no prompt.")
    items = [replace(item, index=i) for i, item in enumerate(encode_prompts(lens, asked, chat))]
    packed = list(pack(items, padding_id(lens.tokenizer), batch_tokens=scan.batch_tokens))
    texts = interventions.texts
    measured = packed if texts is None else batches(lens.need_tokenizer(), texts, scan)
    lengths = lengths_on(lens, concepts, measured, interventions.unit)
    changes = [one for concept in concepts for one in _changes(lens, concepts, concept, lengths, interventions)]
    tally = _Shifts(lens, len(items), len(changes), k)
    drawn = sampling.over(DRAWN)
    steps = len(changes) * (2 if n else 1)
    with progress_bar(total=steps, desc="effects", unit="change", show=len(changes) > 1) as bar:
        for batch in packed:
            plain = next_of_batch(lens, batch)
            tally.see_plain(plain)
            for number, change in enumerate(changes):
                with change.applied():
                    tally.see(number, batch, plain, next_of_batch(lens, batch))
                bar.update(1 / len(packed))
        unchanged, found = _answers(lens, asked, n, drawn, chat), []
        for number, change in enumerate(changes):
            with change.applied():
                answers = _answers(lens, asked, n, drawn, chat)
            found.append(tally.effect(number, change, answers))
            if n:
                bar.update()
    shown = tuple(_asked(lens, prompt, item) for prompt, item in zip(asked, items, strict=True))
    return Effects(shown, unchanged, tuple(found))


def _answers(
    lens: Lens, asked: Sequence[str | Text], n: int, drawn: Sampling, chat: bool | None
) -> tuple[tuple[str, ...], ...]:
    """Sampled answers by prompt, `n` to each."""
    if not n:
        return tuple(() for _ in asked)
    repeated: Any = [prompt for prompt in asked for _ in range(n)]
    answers = lens.generate(repeated, sampling=drawn, chat=chat)
    return tuple(tuple(answers[start : start + n]) for start in range(0, len(answers), n))


@dataclass(frozen=True)
class _Change:
    """An intervention: what it is called, and the block in which it holds."""

    concept: Concept
    name: str
    strength: float | None
    applied: Callable[[], AbstractContextManager[Lens]]


def _changes(
    lens: Lens, concepts: ConceptSet, concept: Concept, lengths: Mapping[str, float], interventions: Interventions
) -> Iterator[_Change]:
    scale, roles = interventions.scale, interventions.roles
    for sign in interventions.signs:
        strength = sign * scale * lengths[concept.name]
        name = f"{'+' if sign > 0 else '−'}{scale:g} {UNITS[interventions.unit]}"
        steered = partial(intervene, lens, concepts, {concept.name: strength}, roles=roles)
        yield _Change(concept, name, strength, steered)
    if interventions.ablate:
        ablated = partial(intervene, lens, concepts, {concept.name: "ablate"}, roles=roles)
        yield _Change(concept, "ablated", None, ablated)


class _Shifts:
    """What every change does to the next token, prompt by prompt and on the mean, from one batch after another."""

    def __init__(self, lens: Lens, prompts: int, changes: int, k: int) -> None:
        self.tokenizer = lens.need_tokenizer()
        self.words = min(len(self.tokenizer), lens.d_vocab)
        self.k, self.prompts = k, prompts
        self.before = torch.zeros(self.words)
        self.after = torch.zeros(changes, self.words)
        self.kl = [[0.0] * prompts for _ in range(changes)]
        self.ends: list[list[tuple[Any, Any]]] = [[((), ())] * prompts for _ in range(changes)]

    def see_plain(self, plain: Tensor) -> None:
        self.before += plain.exp()[:, : self.words].sum(dim=0).cpu()

    def see(self, number: int, batch: Batch, plain: Tensor, changed: Tensor) -> None:
        kl = divergence(plain, changed).tolist()
        before, after = plain.exp()[:, : self.words], changed.exp()[:, : self.words]
        self.after[number] += after.sum(dim=0).cpu()
        for row, prompt in enumerate(batch.index.tolist()):
            self.kl[number][prompt] = kl[row]
            self.ends[number][prompt] = self._most(before[row], after[row])

    def effect(self, number: int, change: _Change, answers: tuple[tuple[str, ...], ...]) -> Effect:
        rises, falls = self._most(self.before / self.prompts, self.after[number] / self.prompts)
        return Effect(
            concept=change.concept,
            change=change.name,
            strength=change.strength,
            kl=tuple(self.kl[number]),
            rises=tuple(up for up, _ in self.ends[number]),
            falls=tuple(down for _, down in self.ends[number]),
            mean_rises=rises,
            mean_falls=falls,
            answers=answers,
        )

    def _most(self, before: Tensor, after: Tensor) -> tuple[tuple[TokenShift, ...], tuple[TokenShift, ...]]:
        return shifts(self.tokenizer, before, after, self.k)


def _asked(lens: Lens, prompt: str | Text, item: Encoded) -> str:
    if isinstance(prompt, str):
        return prompt
    if prompt.is_chat and len(prompt.prompt.messages) == 1:
        return prompt.prompt.messages[0].content
    return str(lens.need_tokenizer().decode(item.input_ids, skip_special_tokens=True))


def _words(shifts: Sequence[TokenShift]) -> str:
    return ", ".join(f"{html.spaced(s.token)} {100 * s.before:.3g}→{100 * s.after:.3g} %" for s in shifts)


def _chips(shifts: Sequence[TokenShift], scale: float) -> html.Content:
    rows = ((s.token, s.change, f"{100 * s.before:.3g} → {100 * s.after:.3g}") for s in shifts)
    return html.chips(rows, scale) or "–"
