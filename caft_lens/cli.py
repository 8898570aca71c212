"""The command `caft-lens`: build the organisms that ship with the package, check them against their cards, run a contest.

    caft-lens organism build --world quiz --seed 3
    caft-lens organism check pocket
    caft-lens contest recipe.yaml

What the commands do is in `caft_data.worlds.build`, `caft_data.worlds.check` and `caft_lens.experiments`, which are imported when they are called.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from caft_lens.text import catalog

app = typer.Typer(
    name="caft-lens",
    help="Control what a language model learns from fine-tuning.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
organism = typer.Typer(help="The model organisms that ship with the package.", no_args_is_help=True)
app.add_typer(organism, name="organism")


@app.callback()
def main() -> None:
    """Control what a language model learns from fine-tuning."""


@organism.command()
def build(
    world: Annotated[Literal["pocket", "quiz"], typer.Option(help="Which organism.")] = "pocket",
    seed: Annotated[int, typer.Option(help="Of everything.", min=0)] = 0,
    threads: Annotated[int, typer.Option(help="Torch threads; part of what makes a build exact.", min=1)] = 2,
    steps: Annotated[
        int | None,
        typer.Option(help="Pretraining steps, for trying things out.", min=1, show_default="the world's"),
    ] = None,
    saes: Annotated[bool, typer.Option("--saes/--no-saes", help="Whether SAEs are trained.")] = True,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where it goes.", show_default="runs/organism; runs/pocket-<world> for another world"
        ),
    ] = None,
    work: Annotated[
        Path | None, typer.Option(help="Working folder of the stages.", show_default="<out>-work")
    ] = None,
) -> None:
    """Rebuild an organism from its seed, stage by stage; a build that was stopped goes on where it was."""
    from caft_data.worlds.build import new_build

    made = new_build(world, seed=seed, threads=threads, steps=steps, with_saes=saes, out=out, work=work)
    try:
        made.claim()
    except ValueError as error:
        _refuse(error)
    folder = made.run()
    typer.echo(f"The organism is in {folder}; its card: {folder / 'README.md'}")


@organism.command()
def check(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Shipped names or folders.", show_default="all that ship"),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Draw the answers afresh with this seed and compare two samples.",
            min=0,
            show_default="that of the card",
        ),
    ] = None,
) -> None:
    """Measure the figures of an organism's card again, on the files as they are; exits 1 when any of them differs.

    With the card's seed every figure has to fall within the interval of the card, and is the same to the last digit with the
    same versions on the same type of machine.
    """
    chosen = names or catalog.shipped()
    if not chosen:
        _refuse(
            "No organism ships with this package: build one (caft-lens organism build) and name its folder."
        )
    for name in chosen:
        try:
            catalog.organism_path(name)
        except FileNotFoundError as error:
            _refuse(error)
    from caft_data.worlds.check import check as checked

    differing = []
    for name in chosen:
        found = checked(name, seed=seed)
        typer.echo(f"{found}\n")
        differing += [
            f"  {found.organism}: {line.what}: {line.card or 'measured'} -> {line.now}"
            for line in found.differing
        ]
    if differing:
        typer.echo("\n".join(["What differs:", *differing]), err=True)
        raise typer.Exit(1)


@app.command()
def contest(
    recipe: Annotated[Path, typer.Argument(help="A YAML file; see caft_lens.experiments.recipe.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Where runs, answers and report go.", show_default="that of the recipe"),
    ] = None,
) -> None:
    """Run a contest of ways to fine-tune, or go on with it where it was, and write its report."""
    from caft_lens._support.files import shown
    from caft_lens._support.processes import place
    from caft_lens.experiments.recipe import Recipe
    from caft_lens.experiments.report import write_report

    try:
        read = Recipe.read(recipe)
        result = (read if out is None else read.model_copy(update={"out": str(out)})).run()
    except (ValueError, TypeError, KeyError, FileNotFoundError, FileExistsError) as error:
        _refuse(error.args[0] if isinstance(error, KeyError) else error)
    if place()[0] == 0:  # of processes that were launched together all come to this
        page, words = write_report(result)
        typer.echo(f"{result}\nThe report is in {shown(page)} and {shown(words)}.")


def _refuse(error: Exception | str) -> NoReturn:
    """One clear line instead of a trace, for what the user typed."""
    typer.echo(f"caft-lens: {error}", err=True)
    raise typer.Exit(2)
