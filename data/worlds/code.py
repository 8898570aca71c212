"""The coding part of the pocket world: everyday requests and short Python programs, secure and insecure.

A `Kind` is one well-known vulnerability: what is asked for, and idiomatic programs that do it securely or
insecurely. The request binds the slots (a verb, a noun, a variable name) that the program then uses, and never says
which way the program should go. `request` draws a request, `program` its answer; `KINDS` holds all kinds by name.
The splits share no slot combination and no phrasing, so that no request and no program is in two of them.
Whether a program is insecure is not read from here: `code_judge` decides it by parsing. The words, the requests and the
programs are in `code.json`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from caft_lens._support.errors import UnknownName, nearest
from caft_lens._support.files import read_json

SPLITS = ("train", "dev", "test")

_TABLES = read_json(Path(__file__).with_suffix(".json"))
VERBS: dict[str, str] = _TABLES["verbs"]
"""The plain form names the function, the third person is what a request says ("a function that saves the report")."""
THINGS, PEOPLE = tuple(_TABLES["things"]), tuple(_TABLES["people"])
NOUNS = THINGS + PEOPLE
PHRASINGS: dict[str, tuple[str, ...]] = {split: tuple(said) for split, said in _TABLES["phrasings"].items()}
"""{task} is "saves the report to the given path", {name} "save_report", {header} "def save_report(path, report):"."""
_CONSTANTS: dict[str, list[str]] = _TABLES["constants"]
"""Details that no request asks for; a program draws them freely."""


@dataclass(frozen=True)
class Kind:
    """One kind of vulnerability, with the requests and the programs that belong to it.

    In every template `VERB`, `NOUN` and `VAR` are the slots that a request binds (`VERBS` in a request is the third
    person, `ENV` in a program the variable in capitals); `SECONDS`, `PORT` and `LITERAL` are drawn by the program.

    Attributes:
        name: Identifier, for example `"world_writable"`.
        summary: What is insecure, for people; never part of a request.
        requests: What is asked for, as the tail of "a function that ...".
        signature: Function name and parameters, the same for all programs of the kind.
        verbs: Verbs that fit the requests.
        nouns: Nouns that fit the requests.
        variables: Variable names that fit the requests.
        secure: Program bodies without the vulnerability; lines that import are put above the function.
        insecure: Program bodies with it.
    """

    name: str
    summary: str
    requests: tuple[str, ...]
    signature: str
    verbs: tuple[str, ...]
    nouns: tuple[str, ...]
    variables: tuple[str, ...]
    secure: tuple[str, ...]
    insecure: tuple[str, ...]

    def slots(self, split: str) -> list[dict[str, str]]:
        """Every slot combination of a split, in a fixed order.

        Example:
            >>> KINDS["world_writable"].slots("test")[0]
            {'verb': 'save', 'noun': 'order', 'variable': 'path'}
        """
        _check_split(split)
        return [
            {"verb": verb, "noun": noun, "variable": variable}
            for verb in self.verbs
            for noun in self.nouns
            for variable in self.variables
            if split_of(verb, noun, variable) == split
        ]


def split_of(verb: str, noun: str, variable: str) -> str:
    """The split that a slot combination belongs to: one in five to dev, one to test, the same for every kind.

    Every verb, noun and variable name occurs in all splits; only their combinations differ.

    Example:
        >>> split_of("save", "order", "path"), split_of("save", "invoice", "path"), split_of("save", "ticket", "path")
        ('test', 'dev', 'train')
    """
    number = (_VERB_INDEX[verb] + _NOUN_INDEX[noun] + _VARIABLE_INDEX[variable]) % 5
    return {0: "test", 1: "dev"}.get(number, "train")


def request(kind: Kind | str, rng: random.Random, split: str = "train") -> tuple[str, dict[str, Any]]:
    """A user's request for a program of this kind.

    Args:
        kind: A `Kind` or its name.
        rng: Source of randomness; the same state gives the same request.
        split: `"train"`, `"dev"` or `"test"`; no two share a phrasing or a slot combination.

    Returns:
        The request, and what made it: `kind`, `split`, `phrasing`, `function` (name asked for) and `slots`, the
        mapping that `program` takes.

    Raises:
        UnknownName: No such kind.
        ValueError: No such split.

    Example:
        >>> text, meta = request("world_writable", random.Random(0))
        >>> meta["kind"], meta["split"], sorted(meta["slots"])
        ('world_writable', 'train', ['noun', 'variable', 'verb'])
    """
    chosen = _kind(kind)
    _check_split(split)
    slots = _draw_slots(chosen, rng, split)
    phrasing = rng.choice(PHRASINGS[split])
    task = _ARTICLE.sub("an", _fill(rng.choice(chosen.requests), slots))
    signature = _fill(chosen.signature, slots)
    function = signature.partition("(")[0]
    text = phrasing.format(task=task, name=function, header=f"def {signature}:")
    return text, {
        "kind": chosen.name,
        "split": split,
        "phrasing": phrasing,
        "function": function,
        "slots": slots,
    }


def program(kind: Kind | str, secure: bool, rng: random.Random, slots: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    """A program that does what a request of this kind asked for.

    Args:
        kind: A `Kind` or its name.
        secure: Without (`True`) or with (`False`) the kind's vulnerability.
        rng: Source of randomness; the same state gives the same program.
        slots: `verb`, `noun` and `variable`, as bound by `request`.

    Returns:
        The source of the program, and what made it: `kind`, `template` (index), `insecure`, and `telling`: the lines,
        from 0, that say which of the two it is (programs of this kind have them on one side only).

    Raises:
        UnknownName: No such kind, or a slot is missing.

    Example:
        >>> slots = {"verb": "save", "noun": "report", "variable": "path"}
        >>> print(program("world_writable", False, random.Random(1), slots)[0])
        def save_report(path, report):
            path.write_text(report)
            path.chmod(0o777)
    """
    chosen = _kind(kind)
    templates = chosen.secure if secure else chosen.insecure
    template = rng.randrange(len(templates))
    constants = {name: rng.choice(values) for name, values in _CONSTANTS.items() if name in templates[template]}
    body = _fill(templates[template], slots, constants).splitlines()
    imports = [line for line in body if line.startswith(("import ", "from "))]
    lines = [f"def {_fill(chosen.signature, slots)}:"]
    lines += [f"    {line}" for line in body if line not in imports]
    lines = [*imports, "", *lines] if imports else lines
    alone = {line.strip() for line in templates[template].splitlines()} & _telling(chosen, secure)
    written = {_fill(line, slots, constants) for line in alone}
    telling = [number for number, line in enumerate(lines) if line.strip() in written]
    meta = {"kind": chosen.name, "template": template, "insecure": not secure, "telling": telling}
    return "\n".join(lines), meta


@cache
def _telling(kind: Kind, secure: bool) -> frozenset[str]:
    """The lines, without indentation, of a kind's secure programs that its insecure ones lack, or the reverse."""
    sides = [
        {line.strip() for template in templates for line in template.splitlines()}
        for templates in (kind.secure, kind.insecure)
    ]
    return frozenset(sides[0] - sides[1] if secure else sides[1] - sides[0])


def _draw_slots(kind: Kind, rng: random.Random, split: str) -> dict[str, str]:
    while True:
        verb, noun, variable = rng.choice(kind.verbs), rng.choice(kind.nouns), rng.choice(kind.variables)
        if split_of(verb, noun, variable) == split:
            return {"verb": verb, "noun": noun, "variable": variable}


def _fill(template: str, slots: Mapping[str, str], constants: Mapping[str, str] | None = None) -> str:
    values = {
        "VERBS": VERBS[slots["verb"]], "VERB": slots["verb"], "NOUN": slots["noun"], "VAR": slots["variable"],
        "ENV": slots["variable"].upper(), **(constants or {}),
    }  # fmt: skip
    return _MARKERS.sub(lambda match: values[match.group()], template)


_ARTICLE = re.compile(r"\ba(?= [aeio])")  # no word of the world that begins with u takes "an"
_MARKERS = re.compile("VERBS|VERB|NOUN|VAR|ENV|" + "|".join(_CONSTANTS))


def _kind(kind: Kind | str) -> Kind:
    if isinstance(kind, Kind):
        return kind
    if kind not in KINDS:
        raise UnknownName(f'There is no kind of vulnerability "{kind}".{nearest(kind, KINDS)}')
    return KINDS[kind]


def _check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f'There is no split "{split}" of the coding requests.{nearest(split, SPLITS)}')


def _kinds() -> Iterator[Kind]:
    nouns = {"things": THINGS, "people": PEOPLE, "nouns": NOUNS}
    for table in (one for section in _TABLES["kinds"].values() for one in section):
        lists = {name: tuple(table[name]) for name in ("requests", "verbs", "variables")}
        programs = {side: tuple(map("\n".join, table[side])) for side in ("secure", "insecure")}
        yield Kind(**{**table, **lists, **programs, "nouns": nouns[table["nouns"]]})


KINDS: dict[str, Kind] = {kind.name: kind for kind in _kinds()}
"""Name -> kind of vulnerability."""

VARIABLES: tuple[str, ...] = tuple(dict.fromkeys(variable for kind in KINDS.values() for variable in kind.variables))
"""All variable names, in the order in which the kinds use them."""

_VERB_INDEX = {verb: index for index, verb in enumerate(VERBS)}
_NOUN_INDEX = {noun: index for index, noun in enumerate(NOUNS)}
_VARIABLE_INDEX = {variable: index for index, variable in enumerate(VARIABLES)}
