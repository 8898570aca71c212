"""Files of before in today's words: the one place where old words are understood.

A concept that was "kept" was taken out of the model, one that was "dropped" was left in it; today one *ablates* a
concept or *leaves* it, and has texts with the *concept* beside texts for *contrast*.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_VERDICTS = {"keep": "ablate", "drop": "leave"}
_OF_CHOICES = {"kept": "ablate", "dropped": "leave"}
_OF_MEANS = {"wanted": "concept", "unwanted": "contrast"}
_FILES = {"contest.json": "arena.json"}
_OF_CONCEPTS = {"kept_by": "chosen_by", "kept_at": "chosen_at"}
_OF_TRAINING, _OF_ARMS = {"method": "tune"}, {"arm": "method"}
RUNS = {**_OF_TRAINING, **_OF_ARMS}
"""Keys of a run's configuration, which files go on to have, and what they are called today."""


def verdict(word: str) -> str:
    """What a file says of a concept, as it is called today; anything else as it is."""
    return _VERDICTS.get(word, word)


def card(held: Any) -> Any:
    """The card of a concept set in today's words: its record of choices, and who chose each concept.

    What is no card passes through, for its reader to refuse.

    Example:
        >>> card({"provenance": {"choices": [{"by": "me", "kept": ["L1.pc0"], "dropped": {}}]}})
        {'provenance': {'choices': [{'by': 'me', 'ablate': ['L1.pc0'], 'leave': {}}]}}
    """
    if not isinstance(held, Mapping):
        return held
    held = {**held, "provenance": _provenance(held["provenance"])} if "provenance" in held else dict(held)
    if isinstance(held.get("concepts"), list):
        held["concepts"] = [_part(one, "meta", _OF_CONCEPTS) for one in held["concepts"]]
    return held


def found(path: Path) -> Path:
    """A file by its name of before, where it lies there and none of today's name does."""
    before = path.with_name(_FILES.get(path.name, path.name))
    return before if before.is_file() and not path.is_file() else path


def recipe(held: Any) -> Any:
    """A contest's recipe in today's words.

    Example:
        >>> recipe({"training": {"method": "full"}, "arms": {"base": {"arm": "none"}, "plain": None}})
        {'training': {'tune': 'full'}, 'arms': {'base': {'method': 'none'}, 'plain': None}}
    """
    if not isinstance(held, Mapping):
        return held
    today = dict(_part(held, "training", _OF_TRAINING))
    if isinstance(held.get("arms"), Mapping):
        today["arms"] = {name: _in(one, _OF_ARMS) for name, one in held["arms"].items()}
    if isinstance(held.get("materials"), Mapping):
        today["materials"] = {name: _part(one, "means", _OF_MEANS) for name, one in held["materials"].items()}
    return today


def _provenance(held: Any) -> Any:
    if not isinstance(held, Mapping):
        return held
    today = dict(held)
    if isinstance(today.get("choices"), list):
        today["choices"] = [_in(one, _OF_CHOICES) for one in today["choices"]]
    if isinstance(today.get("routes"), Mapping):  # of a merged set: the provenance of each list
        today["routes"] = {route: _provenance(one) for route, one in today["routes"].items()}
    return today


def _part(held: Any, key: str, names: Mapping[str, str]) -> Any:
    return {**held, key: _in(held[key], names)} if isinstance(held, Mapping) and key in held else held


def _in(held: Any, names: Mapping[str, str]) -> Any:
    return {names.get(key, key): value for key, value in held.items()} if isinstance(held, Mapping) else held
