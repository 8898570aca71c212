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

An arm's method is its own name or told by `method:`; it takes materials by the names of its fields (another one where
its entry says so), and searches the grid of its card unless `search:` says otherwise. A key that is not known is an
error that names the nearest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    model_serializer,
    model_validator,
)

from caft_lens._support import processes, renamed
from caft_lens._support.errors import BadFile, BadRecipe, CaftLensError, MissingFile, nearest
from caft_lens._support.files import atomic_path, explained, file_name
from caft_lens._support.plain_yaml import read_yaml
from caft_lens.concepts.concept_set import ConceptSet
from caft_lens.evaluate.tasks import task as named_task
from caft_lens.experiments.contest import Contender, Tuning, contest
from caft_lens.experiments.experiment import Execution
from caft_lens.experiments.result import Result
from caft_lens.find.means import difference_of_means
from caft_lens.finetune.methods.registry import make, named
from caft_lens.finetune.settings import TrainSettings
from caft_lens.model.lens import Lens, load
from caft_lens.text.documents import Text, Texts, data

UNTUNED = "none"
KINDS = ("texts", "concepts", "means")
Name = Annotated[str, Field(min_length=1)]
Whole = Annotated[int, Field(strict=True, gt=0, le=2**53)]
Seeds = Annotated[tuple[Annotated[int, Field(strict=True)], ...], Field(min_length=1)]


class Part(BaseModel):
    """A mapping of a recipe. A key that it does not have is an error that names the nearest."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and cls.model_config["extra"] == "forbid":
            for key in given:
                if key not in cls.model_fields:
                    raise BadRecipe(f'has no key "{key}".{nearest(key, cls.model_fields)}')
        return given


def _says(key: str, allowed: Sequence[Any], text: Text) -> bool:
    """Whether the `meta` of a text says one of some values under a key."""
    return text.meta.get(key) in allowed


class TextsOf(Part):
    """Texts by name; what their `meta` has to be, and how many from the first. A name alone stands for them, too."""

    texts: Name
    where: dict[str, JsonValue] = {}
    first: Whole | None = None

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, given: Any) -> Any:
        return {"texts": given} if isinstance(given, str) else given

    @model_serializer
    def _short(self) -> str | dict[str, Any]:
        said = {"texts": self.texts, "where": self.where, "first": self.first}
        return self.texts if not (self.where or self.first) else {key: one for key, one in said.items() if one}

    def read(self) -> Texts:
        """The texts."""
        texts = data(self.texts)
        for key, wanted in self.where.items():
            allowed = wanted if isinstance(wanted, list) else [wanted]
            texts = texts.filter(partial(_says, key, allowed))
        return texts[: self.first]


class Means(Part):
    """A difference of means: of texts with the concept, and of others."""

    concept: TextsOf
    contrast: TextsOf
    layers: tuple[int | str, ...]


class Material(Part):
    """What methods need: texts, or concepts of a folder, or of means."""

    texts: Name | None = None
    where: dict[str, JsonValue] = {}
    first: Whole | None = None
    concepts: Name | None = None
    means: Means | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if sum(getattr(self, kind) is not None for kind in KINDS) != 1:
            raise BadRecipe(f"is one of {', '.join(KINDS)}: {{{KINDS[0]}: …}}")
        return self

    def read(self, base: Lens) -> Texts | ConceptSet:
        """The texts or concepts."""
        if self.concepts is not None:
            return ConceptSet.load(self.concepts)
        if self.means is not None:
            of = self.means
            return difference_of_means(base, of.concept.read(), of.contrast.read(), of.layers)
        return TextsOf(texts=self.texts or "", where=self.where, first=self.first).read()


class ArmOf(Part):
    """An arm: its method, its own texts, what is searched; all other keys are fields of the method."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    method: Name | None = None
    texts: TextsOf | None = None
    search: list[dict[str, JsonValue]] | None = None

    @property
    def own(self) -> dict[str, Any]:
        """Fields of the method."""
        return self.model_extra or {}


def _settings(given: Any) -> TrainSettings:
    if isinstance(given, TrainSettings):
        return given
    if not isinstance(given, Mapping):
        raise BadRecipe(f"is a mapping, not {given!r:.80}.")
    try:
        return TrainSettings(**given)
    except CaftLensError as error:
        raise BadRecipe(f"is refused: {error}") from None


class TuningOf(Part):
    """Fields of `Tuning`."""

    seeds: Seeds = Tuning.seeds
    n: Whole = Tuning.n
    n_in_distribution: Whole = Tuning.n_in_distribution
    tolerance: Annotated[float, Field(strict=True, ge=0)] = Tuning.tolerance


class Recipe(Part):
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
        BadRecipe: For a key that is missing, unknown or of a wrong kind; a `ValueError`.

    Example:
        >>> Recipe(task="pocket/emergent-misalignment", texts="pocket/insecure-code", arms={"plain": None}, sedes=[1])
        Traceback (most recent call last):
        ...
        caft_lens._support.errors.BadRecipe: A recipe has no key "sedes". Did you mean "seeds"?
    """

    task: Name
    texts: TextsOf
    arms: Annotated[dict[Name, ArmOf | None], Field(min_length=1)]
    out: Name = "runs/contest"
    base: Name | None = None
    seeds: Seeds = (1, 2, 3, 4, 5)
    answers: Whole = 1000
    in_distribution: Whole = 400
    workers: Whole | None = None
    tuning: TuningOf = TuningOf()
    training: Annotated[TrainSettings, PlainValidator(_settings), PlainSerializer(lambda one: one.said)] = (
        TrainSettings()
    )
    materials: dict[Name, Material] = {}

    def __init__(self, /, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as error:
            raise BadRecipe(_said(error)) from None

    @classmethod
    def read(cls, path: str | Path) -> Recipe:
        """Read a file.

        Raises:
            MissingFile: When it is not there.
            BadRecipe: When it is not YAML, says a key twice, or is no recipe; a `ValueError`.
        """
        try:
            content = renamed.recipe(read_yaml(path))
        except MissingFile as error:
            raise MissingFile(f"No such file: {path}. {error}") from None
        except BadFile as error:
            raise BadRecipe(str(error)) from error
        if not isinstance(content, Mapping):
            raise BadRecipe(f"{path} is a mapping of {', '.join(cls.model_fields)}, not {type(content).__name__}.")
        try:
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
            BadRecipe: As `check`.
        """
        self.check()
        said = self.model_dump(mode="json", exclude_defaults=True)
        with atomic_path(path) as temporary:
            text = yaml.safe_dump(said, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110)
            temporary.write_text(text, encoding="utf-8")
        return Path(path)

    def check(self) -> None:
        """Refuse what cannot be run, before any model is loaded.

        Raises:
            BadRecipe: Naming the key; a `ValueError`.
            KeyError: For a task that there is not.
        """
        named_task(self.task)
        for name, entry in self.arms.items():
            try:
                file_name(name)
                self._check_arm(name, entry or ArmOf())
            except BadRecipe:
                raise
            except (KeyError, ValueError) as error:
                raise BadRecipe(f"arms.{name}: {error.args[0]}") from error

    def _check_arm(self, name: str, entry: ArmOf) -> None:
        kind = entry.method or name
        if kind == UNTUNED:
            if given := [*entry.own, *(entry.model_fields_set - {"method"})]:
                raise BadRecipe(f'arms.{name} is untuned: it has no key "{given[0]}".')
            return
        method, needs = named(kind), named(kind).needs()
        known = [*ArmOf.model_fields, *(one.name for one in fields(method))]
        for key in entry.own:
            if key not in known:
                raise BadRecipe(f'arms.{name} has no key "{key}".{nearest(key, known)}')
        for need, meaning in needs.items():
            material = entry.own.get(need, need)
            if not isinstance(material, str):
                raise BadRecipe(f"arms.{name}.{need} is {material!r}; expected the name of a material.")
            if material not in self.materials:
                raise BadRecipe(
                    f'arms.{name} needs the material "{material}" ({meaning}), which is not among materials.'
                    f"{nearest(material, self.materials)}"
                )

    def run(self) -> Result:
        """Run the contest, or go on with it.

        Under `accelerate launch` the processes share the models out among them, each on a GPU of its own.
        """
        with processes.alone():
            base = load(self.base or self.task.rpartition("/")[0])
            materials = {name: one.read(base) for name, one in self.materials.items()}
            return contest(
                self.task,
                {name: _contender(name, entry or ArmOf(), materials) for name, entry in self.arms.items()},
                self.seeds,
                base=base,
                texts=self.texts.read(),
                out=self.out,
                n=self.answers,
                n_in_distribution=self.in_distribution,
                tuning=Tuning(**dict(self.tuning)),
                execution=Execution(workers=self.workers),
                settings=self.training,
            )


def _contender(name: str, entry: ArmOf, materials: Mapping[str, Any]) -> Contender:
    kind = entry.method or name
    if kind == UNTUNED:
        return Contender(None)
    needs = named(kind).needs()
    given = {key: materials[str(value)] if key in needs else value for key, value in entry.own.items()}
    return Contender(make(kind, materials, **given), entry.texts and entry.texts.read(), entry.search)


def _said(error: ValidationError) -> str:
    """One sentence for what was refused: where, what was expected, what was found."""
    first = error.errors(include_url=False)[0]
    *parents, last = (str(part) for part in first["loc"] or [""])
    where, of = ".".join([*parents, last]) or "A recipe", ".".join(parents) or "A recipe"
    if first["type"] == "value_error":
        return f"{where} {first['msg'].removeprefix('Value error, ')}"
    if first["type"] == "missing":
        return f"{of} does not say {last}."
    if kind := {"dict_type": "mapping", "model_type": "mapping", "tuple_type": "list"}.get(first["type"]):
        return f"{where} is a {kind}, not {first['input']!r:.80}."
    return explained(error, "it", "a recipe")
