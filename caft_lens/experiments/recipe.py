"""A contest as a YAML file: what `caft-lens contest recipe.yaml` runs.

    task: pocket/emergent-misalignment
    texts: pocket/insecure-code
    out: runs/contest
    training: {max_steps: 100}
    materials:
      concepts: {concepts: benchmarks/choices/pocket/chosen}      # a folder of ConceptSet.save
      general: {texts: pocket/kind, where: {domain: [cooking, garden]}}
      persona: {means: {concept: {texts: …}, contrast: {texts: …}, layers: [1, 2]}}
    arms:
      base: {method: none}                                        # untuned
      plain: {}
      secure: {method: plain, texts: pocket/secure-code}
      caft: {}                                                    # takes the material "concepts"
      kl_anchor: {search: [{weight: 0.1}, {weight: 1}]}
      preventative_steering: {concepts: persona}

An arm's method is its own name or told by `method:`; it takes materials by the names of its fields (another one where its entry says so), and
searches the grid of its card unless `search:` says otherwise. A key that is not known is an error that names the nearest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field

from caft_lens._support import processes, renamed
from caft_lens._support.errors import BadFile, BadRecipe, CaftLensError, MissingFile, nearest
from caft_lens._support.files import (
    DEPTH,
    Count,
    Json,
    Named,
    Record,
    atomic_path,
    file_name,
    parsed,
    read_text,
)
from caft_lens.concepts.concept_set import ConceptSet
from caft_lens.evaluate.tasks import task as named_task
from caft_lens.experiments.contest import Contender, Tuning, contest
from caft_lens.experiments.result import Result
from caft_lens.find.means import difference_of_means
from caft_lens.finetune.methods.registry import make, named
from caft_lens.finetune.settings import TrainSettings
from caft_lens.model.lens import Lens, load
from caft_lens.text.documents import Texts, data

UNTUNED = "none"
KINDS = ("texts", "concepts", "means")
OF_TEXTS, OF_MEANS, OF_AN_ARM = (
    ("texts", "where", "first"),
    ("concept", "contrast", "layers"),
    ("method", "texts", "search"),
)
MOST_VALUES = 100_000
"""Values in a recipe, each counted where it stands: aliases of aliases can stand for more than any memory holds."""


@dataclass(frozen=True)
class Recipe:
    """A contest to run; the keys of the file.

    Args:
        task: An organism's task.
        texts: What everybody is tuned on: a data set, a file, or a mapping with `where` (what `meta` has to be).
        arms: Name to entry.
        out: Folder.
        base: Model; the organism of the task by default.
        seeds: Of the contest.
        answers: To test questions, a contender and seed.
        in_distribution: Answers to prompts of the trained kind.
        workers: Processes.
        tuning: `seeds`, `n`, `n_in_distribution`, `tolerance`.
        training: What `TrainSettings` takes.
        materials: Name to texts, concepts or means.

    Raises:
        ValueError: For a key that is missing, unknown or of a wrong kind.
    """

    task: str
    texts: str | Mapping[str, Any]
    arms: Mapping[str, Any]
    out: str = "runs/contest"
    base: str | None = None
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    answers: int = 1000
    in_distribution: int = 400
    workers: int | None = None
    tuning: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    materials: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str | Path) -> Recipe:
        """Read a file.

        Raises:
            FileNotFoundError: When it is not there.
            BadRecipe: When it is not YAML, says a key twice, or is no recipe; a `ValueError`.
        """
        try:
            text = read_text(path)
        except MissingFile as error:
            raise MissingFile(f"No such file: {path}. {error}") from None
        try:
            # A loader that makes nothing but plain values, as `yaml.SafeLoader`.
            content = yaml.load(text, Loader=_Loader)
            _plain(content)
        except (yaml.YAMLError, ValueError, TypeError, RecursionError, ArithmeticError) as error:
            why = "nested too deeply" if isinstance(error, RecursionError) else error
            raise BadRecipe(f"{path} is not YAML as a recipe has it: {why}") from error
        known = [one.name for one in fields(cls)]
        content = renamed.recipe(content)
        _keys(f"{path}", content, known)
        for key in ("task", "texts", "arms"):
            if not content.get(key):
                raise BadRecipe(f"{path} does not say {key}: a recipe needs task, texts and arms.")
        try:
            if "seeds" in content:
                content["seeds"] = _seeds(content["seeds"], "seeds")
            recipe = cls(**content)
            recipe.check()
        except (ValueError, KeyError, FileNotFoundError) as error:
            raise BadRecipe(f"{path}: {error}") from error
        return recipe

    def write(self, path: str | Path) -> Path:
        """Write the file that `read` reads; what is at its default is left out.

        Args:
            path: The YAML file; its folder is made where it is missing.

        Returns:
            The file.

        Raises:
            ValueError: As `check`.
        """
        self.check()
        bare = Recipe(self.task, self.texts, self.arms)
        said = {one.name: getattr(self, one.name) for one in fields(self)}
        said = {
            key: value
            for key, value in said.items()
            if key in ("task", "texts", "arms") or value != getattr(bare, key)
        }
        plain = json.loads(json.dumps(said))  # tuples as lists, and each value written out where it stands
        with atomic_path(path) as temporary:
            temporary.write_text(
                yaml.safe_dump(
                    plain, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110
                ),
                encoding="utf-8",
            )
        return Path(path)

    def check(self) -> None:
        """Refuse what cannot be run, before any model is loaded.

        Raises:
            BadRecipe: Naming the key; a `ValueError`.
        """
        for key in ("arms", "tuning", "training", "materials"):
            if not isinstance(getattr(self, key), Mapping):
                raise BadRecipe(f"{key} is a mapping, not {type(getattr(self, key)).__name__}.")
        _keys("tuning", self.tuning, [one.name for one in fields(Tuning)])
        for name, entry in self.materials.items():
            _keys(f"materials.{name}", entry, [*KINDS, *OF_TEXTS])
            if sum(kind in entry for kind in KINDS) != 1:
                raise BadRecipe(f"materials.{name} is one of {', '.join(KINDS)}: {{{KINDS[0]}: …}}.")
        self._check_kinds()
        try:
            TrainSettings(**self.training)
        except CaftLensError as error:
            raise BadRecipe(f"training: {error}") from None
        named_task(self.task)
        for name, entry in self.arms.items():
            entry = entry or {}
            kind = entry.get("method", name)
            if not isinstance(kind, str):
                raise BadRecipe(f"arms.{name}.method is {kind!r}; expected the name of a method.")
            if kind == UNTUNED:
                _keys(f"arms.{name}", entry, ["method"])
                continue
            try:
                cls = named(kind)
            except KeyError as error:
                raise BadRecipe(f"arms.{name}: {error.args[0]}") from error
            own = [one.name for one in fields(cls)]
            _keys(f"arms.{name}", entry, [*OF_AN_ARM, *own])
            for need in cls.needs():
                material = entry.get(need, need)
                if not isinstance(material, str):
                    raise BadRecipe(f"arms.{name}.{need} is {material!r}; expected the name of a material.")
                if material not in self.materials:
                    raise BadRecipe(
                        f'arms.{name} needs the material "{material}" ({cls.needs()[need]}), which is not among materials.'
                        f"{nearest(material, self.materials)}"
                    )

    def _check_kinds(self) -> None:
        """Refuse values of a wrong kind, and names of arms that are none for a file."""
        said = {one.name: getattr(self, one.name) for one in fields(self)}
        try:
            parsed(said, _Recipe, "the recipe", "a recipe")
            for name in self.arms:
                file_name(name)
        except (BadFile, ValueError) as error:
            raise BadRecipe(str(error)) from None

    def run(self, *, progress: bool = True) -> Result:
        """Run the contest, or go on with it.

        Under `accelerate launch` the processes share the models out among them, each on a GPU of its own.

        Args:
            progress: Whether to show a bar.
        """
        with processes.alone():
            return self._run(progress)

    def _run(self, progress: bool) -> Result:
        base = load(self.base or self.task.rpartition("/")[0])
        materials = {name: _material(base, entry) for name, entry in self.materials.items()}
        tuning = {
            **self.tuning,
            **({"seeds": _seeds(self.tuning["seeds"], "tuning.seeds")} if "seeds" in self.tuning else {}),
        }
        return contest(
            self.task,
            {name: self._contender(name, entry or {}, materials) for name, entry in self.arms.items()},
            self.seeds,
            base=base,
            texts=_texts(self.texts),
            out=self.out,
            n=self.answers,
            n_in_distribution=self.in_distribution,
            tuning=Tuning(**tuning),
            workers=self.workers,
            progress=progress,
            settings=TrainSettings(**self.training),
        )

    def _contender(self, name: str, entry: Mapping[str, Any], materials: Mapping[str, Any]) -> Contender:
        kind = entry.get("method", name)
        if kind == UNTUNED:
            return Contender(None)
        needs = named(kind).needs()
        given = {
            key: materials[value] if key in needs else value
            for key, value in entry.items()
            if key not in OF_AN_ARM
        }
        texts = _texts(entry["texts"]) if "texts" in entry else None
        return Contender(make(kind, materials, **given), texts, entry.get("search"))


class _Tuning(Record):
    seeds: Annotated[list[int], Field(min_length=1)] | None = None
    n: Count | None = None
    n_in_distribution: Count | None = None
    tolerance: float | None = None


class _Material(Record):
    texts: Named | None = None
    concepts: Named | None = None
    means: Json | None = None
    where: Json | None = None
    first: Count | None = None


class _Recipe(Record):
    """The kinds of what a recipe says; what is in the entries of arms is the methods' own."""

    task: Named
    texts: Named | Json
    arms: Annotated[dict[Named, Json | None], Field(min_length=1)]
    out: Named
    base: Named | None
    seeds: Annotated[list[int], Field(min_length=1)]
    answers: Annotated[Count, Field(gt=0)]
    in_distribution: Annotated[Count, Field(gt=0)]
    workers: Annotated[Count, Field(gt=0)] | None
    tuning: _Tuning
    training: Json
    materials: dict[Named, _Material]


class _Loader(yaml.SafeLoader):
    """YAML without a key that is said twice, and in which 1e-4 is a number, as in JSON."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f'the key "{name:.80}" is said twice', key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d{1,3}$"), list("-+0123456789")
)


def _plain(content: Any) -> None:
    """Refuse what is not of JSON's kinds, or stands for too much."""
    left, seen = [(content, 0)], 0
    while left:
        value, depth = left.pop()
        seen += 1
        if seen > MOST_VALUES or depth > DEPTH:
            raise ValueError(f"more than {MOST_VALUES} values" if seen > MOST_VALUES else "nested too deeply")
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str):
                    raise ValueError(
                        f"the key {key!r} is a {type(key).__name__}, not a text: put it in quotes"
                    )
            left += [(one, depth + 1) for one in value.values()]
        elif isinstance(value, list):
            left += [(one, depth + 1) for one in value]
        elif value is not None and not isinstance(value, (str, int, float, bool)):
            raise ValueError(f"{value!r:.80} is a {type(value).__name__}: put it in quotes")


def _keys(where: str, entry: Any, known: list[str]) -> None:
    if not isinstance(entry, Mapping):
        raise BadRecipe(f"{where} is a mapping of {', '.join(known)}, not {type(entry).__name__}.")
    for key in entry:
        if key not in known:
            raise BadRecipe(f'{where} has no key "{key}".{nearest(key, known)}')


def _seeds(given: Any, where: str) -> tuple[int, ...]:
    if not isinstance(given, list) or not all(isinstance(seed, int) for seed in given):
        raise BadRecipe(f"{where} is a list of whole numbers, not {given!r}.")
    return tuple(given)


def _material(base: Lens, entry: Mapping[str, Any]) -> Texts | ConceptSet:
    if "concepts" in entry:
        return ConceptSet.load(entry["concepts"])
    if "means" in entry:
        means = renamed.means(entry["means"])
        _keys("means", means, list(OF_MEANS))
        if missing := [key for key in OF_MEANS if key not in means]:
            raise BadRecipe(f"means do not say {missing[0]}: they need {', '.join(OF_MEANS)}.")
        return difference_of_means(base, _texts(means["concept"]), _texts(means["contrast"]), means["layers"])
    return _texts(entry)


def _texts(entry: str | Mapping[str, Any]) -> Texts:
    """Texts from a name, or from a name with what their `meta` has to be."""
    if isinstance(entry, str):
        return data(entry)
    _keys("texts", entry, list(OF_TEXTS))
    texts = data(entry["texts"])
    for key, wanted in entry.get("where", {}).items():
        allowed = wanted if isinstance(wanted, list) else [wanted]
        texts = Texts([text for text in texts if text.meta.get(key) in allowed], texts.name)
    return texts[: entry["first"]] if "first" in entry else texts
