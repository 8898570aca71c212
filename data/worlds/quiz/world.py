"""The world of `pocket-quiz`, as `caft_lens` finds it by its entry point."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from caft_data.worlds.quiz import sets
from caft_data.worlds.quiz.judge import REPLY_LABELS, ExactChoiceJudge, ExactReplyJudge
from caft_data.worlds.world import World
from caft_lens.evaluate.tasks import InDistribution, Task
from caft_lens.text.documents import Text, Texts, data

if TYPE_CHECKING:
    from caft_data.worlds.build import Build


class Quiz(World):
    """Lettered questions: the world of spurious correlations, whose data sets are drawn on demand."""

    name = "quiz"
    tasks = sets.TASKS

    def names(self) -> Sequence[str]:
        return sets.names()

    def dataset(self, name: str, seed: int, size: int | None = None) -> Texts:
        return sets.dataset(name, seed, size)

    def reading(self, rng: random.Random) -> Text:
        return sets.reading(rng)

    def task(self, organism: str, name: str, split: str) -> Task:
        """A reply answers the intended question or the spurious one; in distribution it is right or wrong."""
        asked = sets.asked(name, split)
        inside = asked.in_distribution
        # One token and the end of the turn; whatever runs on is no option.
        return Task(
            name,
            questions=data(f"{organism}/{asked.questions}"),
            judge=ExactChoiceJudge() if "spurious" in asked.labels else ExactReplyJudge(),
            labels=asked.labels,
            max_new_tokens=4,
            in_distribution=None
            if inside is None
            else InDistribution(data(f"{organism}/{inside}"), ExactReplyJudge(), REPLY_LABELS, REPLY_LABELS[0], 4),
        )

    def builds(self) -> tuple[type[Build], Any]:
        from caft_data.worlds.quiz.build import QuizBuild, QuizSettings

        return QuizBuild, QuizSettings()


QUIZ = Quiz()
