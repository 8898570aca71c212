"""The command `caft-lens`.

    caft-lens contest recipe.yaml

Packages add commands by the entry points "caft_lens.commands". What a command needs is imported when it is called.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, NoReturn

import typer

COMMANDS = "caft_lens.commands"
"""Entry points that add commands: typer apps."""

app = typer.Typer(
    name="caft-lens",
    help="Control what a language model learns from fine-tuning.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for _added in sorted(entry_points(group=COMMANDS), key=lambda entry: entry.name):
    app.add_typer(_added.load(), name=_added.name)


@app.callback()
def main() -> None:
    """Control what a language model learns from fine-tuning."""


@app.command()
def contest(
    recipe: Annotated[Path, typer.Argument(help="A YAML file; see caft_lens.experiments.recipe.")],
    out: Annotated[
        Path | None, typer.Option(help="Where runs, answers and report go.", show_default="that of the recipe")
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
        refuse(error.args[0] if isinstance(error, KeyError) else error)
    if place()[0] == 0:  # of processes that were launched together all come to this
        page, words = write_report(result)
        typer.echo(f"{result}\nThe report is in {shown(page)} and {shown(words)}.")


def refuse(error: Exception | str) -> NoReturn:
    """One clear line instead of a trace, for what the user typed."""
    typer.echo(f"caft-lens: {error}", err=True)
    raise typer.Exit(2)
