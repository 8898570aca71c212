"""`caft-lens organism`: build organisms from their seeds, and check them against their cards.

    caft-lens organism build --world quiz --seed 3
    caft-lens organism check pocket

What does the work is in `build` and `check`, which are imported when they are called.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from caft_lens.text import catalog
from caft_lens.text.worlds import for_any_model, world_named, world_names

organism = typer.Typer(help="The model organisms that ship with the package.", no_args_is_help=True)


def _known(world: str) -> str:
    """The world of an option."""
    try:
        world_named(world)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if for_any_model(world):
        others = ", ".join(name for name in world_names() if not for_any_model(name))
        raise typer.BadParameter(f'The world "{world}" has no organism: it is for any model. Give one of {others}.')
    return world


@organism.command()
def build(
    world: Annotated[str, typer.Option(help="Of which world.", callback=_known)] = "pocket",
    seed: Annotated[int, typer.Option(help="Of everything.", min=0)] = 0,
    threads: Annotated[int, typer.Option(help="Torch threads; part of what makes a build exact.", min=1)] = 2,
    steps: Annotated[
        int | None,
        typer.Option(help="Pretraining steps, for trying things out.", min=1, show_default="the world's"),
    ] = None,
    saes: Annotated[bool, typer.Option("--saes/--no-saes", help="Whether SAEs are trained.")] = True,
    out: Annotated[
        Path | None,
        typer.Option(help="Where it goes.", show_default="runs/organism; runs/pocket-<world> for another world"),
    ] = None,
    work: Annotated[Path | None, typer.Option(help="Working folder of the stages.", show_default="<out>-work")] = None,
) -> None:
    """Rebuild an organism from its seed, stage by stage; a build that was stopped goes on where it was."""
    from caft_lens.cli import refuse

    made = world_named(world).build(seed=seed, threads=threads, steps=steps, with_saes=saes, out=out, work=work)
    try:
        made.claim()
    except ValueError as error:
        refuse(error)
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

    With the card's seed every figure has to fall within the interval of the card, and is the same to the last digit
    with the same versions on the same type of machine.
    """
    from caft_lens.cli import refuse

    chosen = names or catalog.shipped()
    if not chosen:
        refuse("No organism ships with this package: build one (caft-lens organism build) and name its folder.")
    for name in chosen:
        try:
            catalog.organism_path(name)
        except FileNotFoundError as error:
            refuse(error)
    from caft_data.worlds.check import check as checked

    differing = []
    for name in chosen:
        found = checked(name, seed=seed)
        typer.echo(f"{found}\n")
        differing += [
            f"  {found.organism}: {line.what}: {line.card or 'measured'} -> {line.now}" for line in found.differing
        ]
    if differing:
        typer.echo("\n".join(["What differs:", *differing]), err=True)
        raise typer.Exit(1)
