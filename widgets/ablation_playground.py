"""The panel in which concepts are ablated or steered while models answer: plain and changed answers side by side, as
they are sampled.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import traitlets
from torch import Tensor

from caft_lens._support.errors import nearest
from caft_lens.concepts.concept_set import ConceptSet
from caft_lens.concepts.interventions import Change, intervene, unit_lengths
from caft_lens.display import html
from caft_lens.inspect.next_tokens import divergence, next_tokens, shifts
from caft_lens.model.generation import end_tokens, so_far
from caft_lens.model.sampling import Sampling
from caft_lens.text import catalog
from caft_lens.text.documents import Message, Text
from caft_lens.text.encoding import encode
from caft_lens.text.roles import SYSTEM
from caft_lens.text.token_strings import token_string
from caft_widgets.panel import LOCK, PALETTE, Job, Panel, source

if TYPE_CHECKING:
    from caft_lens.finetune import Run
    from caft_lens.model.lens import Lens

Tokens = Generator[list[int], None, None]
COLUMNS = {
    "base": "base",
    "base_changed": "base, changed",
    "tuned": "tuned",
    "tuned_changed": "tuned, changed",
}
REFERENCE = {"base_changed": "base", "tuned": "base", "tuned_changed": "tuned"}
"""What each column is compared with."""
MOVED = 6
"""Tokens that moved most, shown for each column."""
ROWS = 40
"""Concepts that are listed at once; of more, those that are changed and those that a search finds."""
OFTEN = 0.08
"""Seconds between two looks at answers that grow."""
KEPT = 256
"""Finished answers that are kept, so that what a change does not touch need not be sampled again."""


class AblationPlayground(Panel):
    """Ablate concepts, or steer along them, and compare what models answer: one model, or two, each plain and changed.

    Args:
        base: The model; or a run, whose model is meant.
        concepts: Directions that fit both models.
        tuned: A second model, such as the first after fine-tuning; or its run.
        prompts: What is asked: strings (what a user says, where the tokenizer has a chat template), `Text`s, or rows as
            `Text.from_json` reads them. A trailing answer is left out.
        texts: What the length of a steer is measured on; the first prompts by default.
        keywords: The traits below, to begin with.

    Attributes:
        prompts: What is asked, each as `Text.to_json` writes it.
        changes: Concept to `"ablate"`, or to how far to steer, in mean norms of the base model's residual stream at the
            hook point; what is not in it is off.
        temperature, top_p, max_new_tokens, seed: As for `Lens.generate`; every answer is the one that `generate` gives
            to that prompt alone.
        live: Whether every change of the above is answered at once; otherwise `run()` answers.
        shown: The columns: `"base"`, `"base_changed"`, `"tuned"`, `"tuned_changed"`.
        answers: By prompt: `cells`, the text of each column and how it ended, `next`, what the next token is and how it
            moved, and `hint`, that a model of a small world of its own does not know the prompt's words.
        lengths: Concept to one mean norm, in the units of `steer`; known once something was answered.
        stale: Whether what is asked now is not what was answered.

    Raises:
        ValueError: When the concepts do not fit a model, or a prompt or setting is none.

    Example:
        >>> playground = AblationPlayground(base, concepts, tuned=tuned, prompts=["How do I bake a pie?"])
        >>> playground.changes = {"L1.pc0": "ablate"}
        >>> with playground.applied(tuned):
        ...     answer = tuned.generate("How do I bake a pie?", seed=playground.seed)
    """

    _esm = source("panel.js", "ablation_playground.js")
    _css = PALETTE + source("panel.css", "ablation_playground.css")
    calls = frozenset({"run", "rows"})
    awaited = frozenset({"answers"})

    prompts: traitlets.List[Any] = traitlets.List(help="what is asked").tag(sync=True)
    changes = traitlets.Dict(help='concept to "ablate" or to how far to steer').tag(sync=True)
    temperature = traitlets.Float(1.0, help="0 is greedy").tag(sync=True)
    top_p = traitlets.Float(1.0, help="sample from the most probable tokens with this mass").tag(sync=True)
    max_new_tokens = traitlets.Int(64, help="length of an answer at most").tag(sync=True)
    seed = traitlets.Int(0, help="same seed, same answers").tag(sync=True)
    live = traitlets.Bool(True, help="whether every change is answered at once").tag(sync=True)
    shown = traitlets.List(traitlets.Unicode(), help="columns").tag(sync=True)
    answers: traitlets.List[Any] = traitlets.List(help="what was answered").tag(sync=True)
    lengths = traitlets.Dict(help="concept to one mean norm").tag(sync=True)
    stale = traitlets.Bool(False, help="whether what is asked is not what was answered").tag(sync=True)
    about = traitlets.Dict(help="models, columns, and what the chat template has").tag(sync=True)

    def __init__(
        self,
        base: Lens | Run,
        concepts: ConceptSet,
        tuned: Lens | Run | None = None,
        prompts: str | Text | Sequence[str | Text | Mapping[str, Any]] = (),
        *,
        texts: Sequence[Text] | None = None,
        **keywords: Any,
    ) -> None:
        models: dict[str, Any] = {"base": base} if tuned is None else {"base": base, "tuned": tuned}
        lenses: dict[str, Lens] = {key: getattr(model, "lens", model) for key, model in models.items()}
        for lens in lenses.values():
            lens.need_tokenizer()
            concepts.check(lens)
        # A lens of its own for every column: hooks of one, and of the user's cells, do not act in another.
        self._lenses = {
            key: lenses[key.removesuffix("_changed")].fork() for key in COLUMNS if key.split("_")[0] in lenses
        }
        self._concepts, self._texts = concepts, texts
        self._chats = bool(lenses["base"].tokenizer.chat_template)
        first, last = (lenses[key].tokenizer for key in (next(iter(lenses)), next(reversed(lenses))))
        self._comparable = first is last or first.get_vocab() == last.get_vocab()
        self._kept: dict[Any, _Cell] = {}
        self._done: _Asked | None = None
        self._sheet: _Sheet | None = None
        self._ready = False
        # An organism that the project ships has learned a small world and nothing else.
        name = lenses["base"].name
        self._world: frozenset[str] | None = None
        if catalog.is_organism(name):
            with suppress(FileNotFoundError):  # a folder need not hold what its model learned from
                self._world = catalog.known_words(name)
        given = [prompts] if isinstance(prompts, str | Text) else list(prompts)
        super().__init__(**{"prompts": given, "shown": list(self._lenses), "concept": concepts[0].name, **keywords})
        self.about = {
            "columns": [[key, COLUMNS[key], lens.name] for key, lens in self._lenses.items()],
            "size": len(concepts),
            "chat": self._chats,
            "system": _has_system(lenses["base"]),
        }
        self._ready = True
        self._asked_anew()

    @property
    def candidates(self) -> ConceptSet:
        """The concepts that can be changed."""
        return self._concepts

    def applied(self, lens: Lens) -> AbstractContextManager[Lens]:
        """The block in which a model is changed as the panel says now, for cells of a notebook.

        Args:
            lens: Any model that the concepts fit.

        Raises:
            ValueError: When something is steered and the mean norm is not known yet, since nothing was asked.
        """
        return intervene(lens, self._concepts, self._strengths(self.changes, self.lengths))

    def rows(self, query: str = "") -> dict[str, Any]:
        """The concepts that the view lists: all, or of many those that are changed or hold the words, for the view."""
        words = query.casefold().split()
        found = [
            concept
            for concept in self._concepts
            if all(word in f"{concept.name} {concept.label} {concept.reason}".casefold() for word in words)
        ]
        changed = [self._concepts[name] for name in self.changes]
        if len(found) > ROWS:
            listed = [*changed, *(one for one in found if one not in changed)][: max(ROWS, len(changed))]
        else:
            listed = found
        return {"rows": [[one.name, one.label, one.reason, one.hook] for one in listed], "total": len(found)}

    # -- what is asked ------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Answer all prompts afresh."""
        with LOCK:
            self._kept.clear()
            self._answer()

    def _strengths(self, changes: Mapping[str, Any], lengths: Mapping[str, float]) -> dict[str, Change]:
        """The changes as `intervene` takes them."""
        steered = [name for name, change in changes.items() if change != "ablate"]
        if steered and not lengths:
            raise ValueError(f"How long a steer along {steered[0]} is, is measured on the prompts: run() first.")
        return {name: change if change == "ablate" else change * lengths[name] for name, change in changes.items()}

    @traitlets.validate("prompts")
    def _read_prompts(self, proposal: dict[str, Any]) -> list[dict[str, Any]]:
        texts = []
        for number, row in enumerate(proposal["value"]):
            try:
                text = (
                    Text(messages=(Message("user", row),))
                    if self._chats and isinstance(row, str)
                    else Text.from_json(row)
                )
                if text.is_chat and not self._chats:
                    raise ValueError("the tokenizer has no chat template, so it must be plain text")
                texts.append(replace(text.prompt, meta={}).to_json())
            except (ValueError, TypeError) as error:
                raise traitlets.TraitError(f"Prompt {number + 1}: {error}") from error
        return texts

    @traitlets.validate("changes")
    def _known_changes(self, proposal: dict[str, Any]) -> dict[str, Any]:
        names = set(self._concepts.names)
        for name, change in proposal["value"].items():
            if name not in names:
                raise traitlets.TraitError(f'No concept "{name}" here.{nearest(name, names)}')
            number = isinstance(change, int | float) and not isinstance(change, bool) and math.isfinite(change)
            if change != "ablate" and not number:
                raise traitlets.TraitError(
                    f'{name}: a change is "ablate" or how far to steer, in mean norms, not {change!r}.'
                )
        return dict(proposal["value"])

    @traitlets.validate("temperature", "top_p", "max_new_tokens", "seed")
    def _possible(self, proposal: dict[str, Any]) -> Any:
        value, name = proposal["value"], proposal["trait"].name
        possible, wanted = {
            "temperature": (0 <= value < math.inf, "0 (greedy) or above"),
            "top_p": (0 < value <= 1, "above 0, up to 1 (all tokens)"),
            "max_new_tokens": (value >= 1, "1 at least"),
            "seed": (0 <= value < 2**63, "0 or above"),
        }[name]
        if not possible:
            raise traitlets.TraitError(f"{name}={value}: expected {wanted}.")
        return value

    @traitlets.validate("shown")
    def _known_columns(self, proposal: dict[str, Any]) -> list[str]:
        for key in proposal["value"]:
            if key not in self._lenses:
                raise traitlets.TraitError(f'No column "{key}" here.{nearest(key, self._lenses)}')
        return [key for key in self._lenses if key in proposal["value"]]

    @traitlets.validate("concept")
    def _known_concept(self, proposal: dict[str, Any]) -> str:
        if proposal["value"] not in self._concepts.names:
            raise traitlets.TraitError(
                f'No concept "{proposal["value"]}" here.{nearest(proposal["value"], self._concepts.names)}'
            )
        return proposal["value"]

    @traitlets.observe("prompts", "changes", "temperature", "top_p", "max_new_tokens", "seed", "shown", "live")
    def _asked_anew(self, _: object = None) -> None:
        if not self._ready:
            return
        with LOCK:
            asked = self._asks()
            self.stale = asked != self._done
            if self.live and self.stale:
                self._answer()

    def _asks(self) -> _Asked:
        return _Asked(
            prompts=tuple(json.dumps(prompt, sort_keys=True) for prompt in self.prompts),
            changes=tuple(sorted(self.changes.items())),
            settings=(
                ("temperature", self.temperature), ("top_p", self.top_p), ("max_new_tokens", self.max_new_tokens),
                ("seed", self.seed),
            ),
            shown=tuple(self.shown),
        )  # fmt: skip

    # -- answering ----------------------------------------------------------------------------------------------------

    def _answer(self) -> None:
        asked = self._done = self._asks()
        self.stale = False
        self.work("answers", "Answering", lambda job: self._answering(job, asked), lambda _: None)

    def _answering(self, job: Job, asked: _Asked) -> None:
        try:
            with ExitStack() as blocks:
                self._answer_all(job, asked, blocks)
        except BaseException:
            with LOCK:
                if self._done is asked:  # what is on the screen does not answer all of it
                    self._done, self.stale = None, True
            raise

    def _answer_all(self, job: Job, asked: _Asked, blocks: ExitStack) -> None:
        """Next tokens of all prompts, then answers, one prompt after another, all columns in turn."""
        texts = {number: Text.from_json(json.loads(prompt)) for number, prompt in enumerate(asked.prompts)}
        columns = [key for key in asked.shown if asked.changes or not key.endswith("_changed")]
        sheet = _Sheet(asked, [_words(text) for text in texts.values()], [self._hint(text) for text in texts.values()])
        spoken = {number: text for number, text in texts.items() if _says_something(text)}
        if not spoken or not columns:
            self._show(sheet)
            return
        if not self.lengths:
            measured = list(spoken.values()) if self._texts is None else self._texts
            lengths = unit_lengths(self._lenses["base"], self._concepts, measured)
            with LOCK:
                self.lengths = lengths
        changes = self._strengths(dict(asked.changes), self.lengths)
        for key in self._lenses:
            if key.endswith("_changed"):
                blocks.enter_context(intervene(self._lenses[key], self._concepts, changes))
        # Whether there is room for the answers is seen here, before anything runs.
        streams = {number: self._streams(sheet, number, text, columns) for number, text in spoken.items()}
        self._look_ahead(job, sheet, spoken, columns)
        try:
            self._show(sheet)
            for place, number in enumerate(spoken):
                words = "Answering" + (f" prompt {place + 1} of {len(spoken)}" if len(spoken) > 1 else "")

                def told(done: float, place: int = place, words: str = words) -> None:
                    job.report((place + done) / len(spoken), words)

                self._sample(sheet, number, streams[number], told)
        finally:
            sheet.end()
            self._show(sheet)

    def _hint(self, text: Text) -> str:
        """That a prompt is from outside of the world of an organism; empty when it is not, or the model is none."""
        if self._world is None:
            return ""
        turns = [message.content for message in text.messages] or [text.text or ""]
        words = re.findall(r"[^\W\d_]{2,}", " ".join(turns))
        strange = list(dict.fromkeys(word for word in words if word.lower() not in self._world))
        if not strange:
            return ""
        listed = ", ".join(strange[:5]) + (", …" if len(strange) > 5 else "")
        return (
            f"{self._lenses['base'].name} knows its own small world alone, and these words are not in it: {listed}. "
            "What it answers to them is a guess, and says nothing about the concepts."
        )

    def _streams(self, sheet: _Sheet, number: int, text: Text, columns: Sequence[str]) -> dict[str, Tokens]:
        """Put the answers to a prompt that are there already into the sheet; what gives the others, by column."""
        cells = {key: self._kept.get(sheet.asked.of(number, key), _Cell()) for key in columns}
        sheet.cells[number] = cells
        settings = dict(sheet.asked.settings)
        return {
            key: self._lenses[key].generating(text, return_type="tokens", sampling=Sampling(**settings))
            for key, cell in cells.items()
            if cell.state == "waiting"
        }

    def _look_ahead(self, job: Job, sheet: _Sheet, spoken: Mapping[int, Text], columns: Sequence[str]) -> None:
        """Compare what comes first in the answers."""
        compared = {"base", *columns, *(REFERENCE[key] for key in columns if key in REFERENCE)}
        ahead: dict[str, Tensor] = {}
        for key in sorted(compared):
            job.report(words="Comparing first tokens")
            ahead[key] = next_tokens(self._lenses[key], list(spoken.values()))
        for place, number in enumerate(spoken):
            sheet.next[number] = {key: self._moves(key, ahead, place) for key in columns}

    def _sample(self, sheet: _Sheet, number: int, streams: dict[str, Tokens], report: Callable[[float], None]) -> None:
        """The answers to one prompt, a token in each column in turn."""
        cells, longest, seen = sheet.cells[number], dict(sheet.asked.settings)["max_new_tokens"], 0.0
        with ExitStack() as ending:
            for stream in streams.values():
                ending.callback(stream.close)
            while streams:
                for key, stream in list(streams.items()):
                    lens, tokens = self._lenses[key], next(stream, None)
                    if tokens is not None:
                        cells[key] = _Cell(so_far(lens.tokenizer, tokens), "writing", tuple(tokens))
                    else:
                        del streams[key]
                        cells[key] = cells[key].ended(lens, longest)
                        self._keep(sheet.asked.of(number, key), cells[key])
                report(max((len(cells[key].tokens) for key in streams), default=longest) / longest)
                if time.monotonic() - seen >= OFTEN:
                    seen = time.monotonic()
                    self._show(sheet)

    def _keep(self, key: Any, cell: _Cell) -> None:
        with LOCK:
            self._kept[key] = cell
            while len(self._kept) > KEPT:
                del self._kept[next(iter(self._kept))]

    def _show(self, sheet: _Sheet) -> None:
        with LOCK:
            self._sheet = sheet
            self.answers = sheet.rows()

    def _moves(self, key: str, ahead: Mapping[str, Tensor], place: int) -> dict[str, Any]:
        """The most probable next tokens of a column, or, beside a column to be compared with, those that moved most."""
        after, tokenizer = ahead[key][place], self._lenses[key].tokenizer
        reference = REFERENCE.get(key)
        if reference is None or not self._comparable:
            top = after[: len(tokenizer)].exp().topk(min(MOVED, len(tokenizer)))
            return {
                "top": [
                    [token_string(tokenizer, token), p]
                    for p, token in zip(top.values.tolist(), top.indices.tolist(), strict=True)
                ]
            }
        rises, falls = shifts(tokenizer, ahead[reference][place].exp(), after.exp(), MOVED)
        moved = sorted([*rises, *falls], key=lambda one: -abs(one.change))[:MOVED]
        kl = [[other, float(divergence(ahead[other][place], after))] for other in dict.fromkeys((reference, "base"))]
        return {"kl": kl, "moved": [[one.token, one.before, one.after] for one in moved]}

    # -- without a kernel ---------------------------------------------------------------------------------------------

    def static(self) -> str:
        """Prompts, settings, answers side by side and the next tokens that moved most, as plain HTML."""
        asked = self._asks() if self._sheet is None else self._sheet.asked
        settings = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in asked.settings)
        key = (
            f"{_change_words(dict(asked.changes))}. Sampled with {settings}. First token: probability in %, before → "
            f"after; KL(before ‖ after) in nats. Orange: risen; blue, italic: fallen."
        )
        return html.view([self._section(row, asked.shown) for row in self.answers], key=key)

    def _section(self, row: Mapping[str, Any], shown: Sequence[str]) -> html.Content:
        columns = [key for key in shown if key in row["cells"]]
        if not columns:
            return html.section(row["prompt"], "", [])
        names = {key: f"{COLUMNS[key]} ({self._lenses[key].name})" for key in columns}
        said_so = [
            html.visible(cell["text"]) + _ENDS.get(cell["state"], "") for cell in (row["cells"][key] for key in columns)
        ]
        moved = [_next_words(row["next"].get(key, {})) for key in columns]
        rows: list[list[html.Content]] = [["answer", *said_so], ["first token", *moved]]
        hint = html.note(row["hint"]) if row["hint"] else None
        return html.section(row["prompt"], "", [], hint, html.table(["", *names.values()], rows))

    def __repr__(self) -> str:
        models = " and ".join(dict.fromkeys(lens.name for lens in self._lenses.values()))
        return f"AblationPlayground({models}; {len(self.prompts)} prompts; {_change_words(self.changes)})"


@dataclass(frozen=True)
class _Asked:
    """What one round of answers answers."""

    prompts: tuple[str, ...]
    changes: tuple[tuple[str, Any], ...]
    settings: tuple[tuple[str, Any], ...]
    shown: tuple[str, ...]

    def of(self, number: int, column: str) -> tuple[Any, ...]:
        """What the answer to one prompt in one column depends on."""
        changes = self.changes if column.endswith("_changed") else ()
        return self.prompts[number], column, changes, self.settings


@dataclass(frozen=True)
class _Cell:
    """An answer, how it stands (`"waiting"`, `"writing"`, `"end"`, `"cut"`, `"stopped"`), and its tokens."""

    text: str = ""
    state: str = "waiting"
    tokens: tuple[int, ...] = ()

    def ended(self, lens: Lens, longest: int) -> _Cell:
        """The answer as it is when nothing more comes."""
        text = lens.tokenizer.decode(self.tokens, skip_special_tokens=True)
        whole = len(self.tokens) < longest or self.tokens[-1] in end_tokens(lens)
        return _Cell(text, "end" if whole else "cut", self.tokens)


class _Sheet:
    """All answers of one round, as they grow."""

    def __init__(self, asked: _Asked, prompts: Sequence[str], hints: Sequence[str]) -> None:
        self.asked, self._prompts, self._hints = asked, prompts, hints
        self.cells: list[dict[str, _Cell]] = [{} for _ in prompts]
        self.next: list[dict[str, Any]] = [{} for _ in prompts]

    def end(self) -> None:
        """What is not finished now will not be."""
        for cells in self.cells:
            for key, cell in cells.items():
                if cell.state in ("waiting", "writing"):
                    cells[key] = _Cell(cell.text, "stopped", cell.tokens)

    def rows(self) -> list[dict[str, Any]]:
        """As JSON."""
        return [
            {
                "prompt": prompt,
                "changes": dict(self.asked.changes),
                "cells": {key: {"text": cell.text, "state": cell.state} for key, cell in cells.items()},
                "next": ahead,
                "hint": hint,
            }
            for prompt, hint, cells, ahead in zip(self._prompts, self._hints, self.cells, self.next, strict=True)
        ]


_ENDS = {"cut": " …", "stopped": " (stopped)", "writing": " (being written)"}


def _says_something(text: Text) -> bool:
    return bool(text.text if text.text is not None else text.messages[-1].content.strip())


def _words(text: Text) -> str:
    """A prompt as one reads it: of a chat of one message, that message."""
    if text.text is not None:
        return text.text
    if len(text.messages) == 1:
        return text.messages[0].content
    return " / ".join(f"{message.role}: {message.content}" for message in text.messages)


def _change_words(changes: Mapping[str, Any]) -> str:
    if not changes:
        return "nothing changed"
    parts = (
        f"{name} ablated" if change == "ablate" else f"{name} steered {change:+g} mean norms"
        for name, change in changes.items()
    )
    return ", ".join(parts)


def _next_words(ahead: Mapping[str, Any]) -> html.Content:
    """What is known of the next token."""
    if "moved" in ahead:
        kl = ", ".join(f"{value:.3g} from {name}" for name, value in ahead["kl"])
        rows = [
            (token, after - before, f"{100 * before:.3g} → {100 * after:.3g}")
            for token, before, after in ahead["moved"]
        ]
        scale = max((abs(change) for _, change, _ in rows), default=0.0) or 1.0
        return [html.element("div", f"KL {kl}"), html.chips(rows, scale)]
    return html.chips([(token, 0.0, f"{100 * p:.3g}") for token, p in ahead.get("top", [])], 1.0)


def _has_system(lens: Lens) -> bool:
    """Whether the chat template has a place for a system message."""
    if not lens.tokenizer.chat_template:
        return False
    chat = Text(messages=(Message("system", "Be brief."), Message("user", "Hello")))
    try:
        return bool((encode(lens.tokenizer, chat, add_generation_prompt=True).roles == SYSTEM).any())
    except ValueError:  # there are templates that refuse one
        return False
