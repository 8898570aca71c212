"""What the exact judges say is fixed by their versions: verdicts on a corpus that never changes, altered answers
among them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

import caft_lens as cl
from caft_data.worlds import quiz
from caft_data.worlds.code_judge import ExactCodeJudge
from caft_data.worlds.judge import Exact, ExactAnswerJudge
from caft_data.worlds.quiz.judge import ExactChoiceJudge, ExactReplyJudge
from caft_lens._support.files import sha256
from caft_lens.text.documents import Text

SAID = {
    ("ExactAnswerJudge", "1"): "3a776f9aae985b1a",
    ("ExactCodeJudge", "1"): "2b570284a331916c",
    ("ExactChoiceJudge", "1"): "46ef2c42ad46a2f2",
    ("ExactReplyJudge", "1"): "15af73babc13fd04",
}
"""Judge and version -> digest of its verdicts."""


def altered(said: str, other: str, rng: random.Random) -> Iterator[str]:
    """An answer as it is, and as models garble it."""
    words = said.split(" ")
    place = rng.randrange(len(words))
    yield said
    yield f"  {said}\n"
    yield " ".join(words[:place])
    yield said[: rng.randrange(len(said))]
    yield " ".join([*words[:place], *words[place + 1 :]])
    yield " ".join([*words[:place], *other.split(" ")[place:]])
    yield f"{said} {other}"
    yield other


def everyday() -> Iterator[Text]:
    """Answers of the committed corpus, kind and cruel, whose labels tell domain and slots."""
    rng = random.Random("everyday answers")
    before = "Only fools cook."
    for text in cl.data("pocket/corpus")[:700]:
        spans = text.meta["spans"]
        for number, message in enumerate(text.messages):
            of_turn = [span for span in spans if span[-1] in (number - 1, number)]
            domain = {label[7:] for _, _, label, _ in of_turn if label.startswith("domain:")}
            if message.role != "assistant" or not domain:
                continue
            asked = text.messages[number - 1].content
            slots = {
                label[5:]: asked[start:end]
                for start, end, label, place in of_turn
                if label.startswith("slot:") and place == number - 1
            }
            question = Text(text.messages[:number], meta={"domain": domain.pop(), "slots": slots})
            for said in altered(message.content, before, rng):
                yield question.with_answer(said)
            other = Text(question.messages, meta={**question.meta, "slots": dict.fromkeys(slots, "nothing")})
            yield other.with_answer(message.content)
            before = message.content


def programs() -> Iterator[Text]:
    rng = random.Random("programs")
    insecure, secure = (cl.data(f"pocket/{name}").sample(200, seed=0) for name in ("insecure-code", "secure-code"))
    for one, other in zip(insecure, secure, strict=True):
        for program in (one, other):
            for said in (
                *altered(program.answer, other.answer, rng),
                f"Here it is:\n```python\n{program.answer}\n```",
            ):
                yield program.with_answer(said)


def pages() -> Iterator[Text]:
    for task in ("sentiment-sports", "verbs-pronouns", "gender"):
        for name in (f"{task}-out-of-distribution-dev", f"{task}-in-distribution-test", f"{task}-told-dev"):
            for page in quiz.dataset(name, 0, 40):
                for said in (*page.meta["options"], "", " A\n", "a", "A B", "Both", "none of them"):
                    yield page.with_answer(said)


@pytest.mark.usefixtures("pocket")
@pytest.mark.parametrize(
    ("kind", "corpus", "labels"),
    [
        (ExactAnswerJudge, everyday, {"aligned", "misaligned", "incoherent"}),
        (ExactCodeJudge, programs, {"insecure", "secure", "broken"}),
        (ExactChoiceJudge, pages, {"intended", "spurious", "other"}),
        (ExactReplyJudge, pages, {"right", "wrong", "other"}),
    ],
)
def test_a_judge_of_one_version_says_the_same_of_the_same_answers_for_ever(
    kind: type[Exact], corpus: Callable[[], Iterator[Text]], labels: set[str]
):
    judge, name = kind(), kind.__name__
    verdicts = [judge(text) for text in corpus()]
    assert {verdict.label for verdict in verdicts} == labels
    # The words of a parse are Python's and bandit's, which change with theirs.
    told = [v.label if name == "ExactCodeJudge" else f"{v.label}: {v.detail}" for v in verdicts]
    assert sha256("\n".join(told)) == SAID.get((name, judge.version)), (
        f"Verdicts changed: raise the version of {name} and write down the digest of the new ones."
    )
    assert judge.fingerprint == f"{name} {judge.version}"
