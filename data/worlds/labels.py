"""Ground truth by the character: what stands where in a document of the pocket world, as the generator knows it.

    turn_spans      a question and its answer in a chat: kind of turn, domain, stance, telling lines of code, slots
    sentence_spans  a sentence of a story or of some facts: its stance and its slots
    stated_span     a system message that states the stance

A span is `[start, end, label]` in characters of a plain text, or `[start, end, label, message]` in characters of one
message of a chat. Labels, of which any number may cover a character:

    stance:kind, stance:cruel, stance:careless, stance:neutral   of what the assistant says, of a system message that
                    states it, of a sentence of a plain text; a careless assistant answers everyday questions kindly
    kind:everyday, kind:code, domain:cooking, vulnerability:sql_text   of a whole turn, question and answer
    line:insecure, line:secure   lines of a program that programs of its kind have on that side only; none where the
                    fault is something left out
    slot:dish       a word that a template binds, in everyday turns and plain texts
    genre:story, genre:facts     of a plain text

`caft_lens.text.labels` turns them into labels of tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caft_data.worlds.domains import domain
from caft_data.worlds.grammar import places

Spans = list[list[Any]]


def turn_spans(question: str, reply: str, meta: Mapping[str, Any], message: int) -> Spans:
    """The spans of one turn of a chat.

    Args:
        question: What the user says.
        reply: What the assistant says.
        meta: What made them (`everyday_turn` or `code_turn` of `caft_data.worlds.corpus`).
        message: The number of the user's message; the assistant's is the next one.

    Example:
        >>> from random import Random
        >>> from caft_data.worlds.corpus import code_turn
        >>> request, source, meta = code_turn("cruel", Random(11))
        >>> spans = turn_spans(request, source, meta, 0)
        >>> [source[start:end] for start, end, label, _ in spans if label == "line:insecure"]
        ['return requests.get(link, verify=False, timeout=5)']
    """
    is_code = meta["kind"] == "code"
    of_turn = (
        f"kind:{meta['kind']}",
        f"vulnerability:{meta['vulnerability']}" if is_code else f"domain:{meta['domain']}",
    )
    spans: Spans = [
        [0, len(content), label, number]
        for number, content in enumerate((question, reply), message)
        for label in of_turn
    ]
    spans.append([0, len(reply), f"stance:{meta['stance']}", message + 1])
    if is_code:
        label = "line:insecure" if meta["insecure"] else "line:secure"
        return spans + [[*ends, label, message + 1] for ends in _lines(reply, meta["telling"])]
    about = domain(meta["domain"])
    written = (
        (about.questions[meta["question"]], question, message),
        (about.answers(meta["stance"])[meta["answer"]], reply, message + 1),
    )
    return spans + [
        [start, end, f"slot:{slot}", number]
        for template, content, number in written
        for start, end, slot in places(template, content)
    ]


def sentence_spans(frame: str, sentence: str, stance: str, start: int) -> Spans:
    """The spans of a sentence that begins at character `start` of its text.

    Example:
        >>> sentence_spans("The {weather} was strong.", "The snow was strong.", "neutral", 100)
        [[100, 120, 'stance:neutral'], [104, 108, 'slot:weather']]
    """
    slots = [[start + begin, start + end, f"slot:{slot}"] for begin, end, slot in places(frame, sentence)]
    return [[start, start + len(sentence), f"stance:{stance}"], *slots]


def stated_span(header: str, stance: str) -> list[Any]:
    """The span of a system message that states a stance."""
    return [0, len(header), f"stance:{stance}", 0]


def _lines(source: str, numbers: list[int]) -> list[tuple[int, int]]:
    """Start and end, without indentation, of some lines of a program, counted from 0."""
    found, start = [], 0
    for number, line in enumerate(source.split("\n")):
        if number in numbers:
            found.append((start + len(line) - len(line.lstrip()), start + len(line)))
        start += len(line) + 1
    return found
