"""The command `caft-lens`.

    caft-lens audit data.jsonl --model NAME
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
LARGE = 20e6
"""Parameters from which on a command says beforehand how long it will take."""

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
def audit(
    texts: Annotated[str, typer.Argument(metavar="DATA", help="What is to be trained on: a file, or a name.")],
    model: Annotated[str, typer.Option(help="The model that is to be tuned: a name or a folder.")],
    against: Annotated[str | None, typer.Option(metavar="DATA", help="A reference that is as it should be.")] = None,
    saes: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whose SAEs are read.", show_default="the model's own")
    ] = None,
    layer: Annotated[
        list[int] | None, typer.Option(help="Of the SAEs; may be given several times.", show_default="all that it has")
    ] = None,
    corpus: Annotated[
        str | None, typer.Option(metavar="DATA", help="Where contexts are read.", show_default="the data itself")
    ] = None,
    rows: Annotated[
        int | None, typer.Option(min=1, help="Read at most so many, drawn at random.", show_default="all")
    ] = None,
    own_answers: Annotated[int, typer.Option(min=0, help="How many prompts the model answers itself.")] = 200,
    out: Annotated[Path, typer.Option(help="Where the report and the audit go.")] = Path("audit"),
) -> None:
    """Say what data would teach a model before any training, and write a page on it.

    An interrupt (Ctrl-C) leaves no half of a report.
    """
    from caft_lens._support.errors import CaftLensError
    from caft_lens._support.files import shown
    from caft_lens.audit import AuditSettings, expected_seconds
    from caft_lens.audit import audit as audited
    from caft_lens.model.lens import load
    from caft_lens.saes.loading import load_saes
    from caft_lens.text.documents import Texts, data

    def read(source: str | None) -> Texts | None:
        found = None if source is None else data(source)
        return found if found is None or rows is None or rows >= len(found) else found.sample(rows, seed=0)

    try:
        # What is quick to be refused comes first.
        trained, reference, looked_in = read(texts), read(against), None if corpus is None else data(corpus)
        base = load(model)
        found = load_saes(model if saes is None else saes, layer or None)
        settings = AuditSettings(own_answers=own_answers)
        if sum(parameter.numel() for parameter in base.model.parameters()) >= LARGE:
            seconds = expected_seconds(base, trained, found, against=reference, settings=settings)
            typer.echo(f"This takes about {max(1, round(seconds / 60)):,} minutes, by a trial on a few rows.")
        result = audited(base, trained, found, against=reference, settings=settings)
        result.save(out)
        page, words = result.report(out, looked_in)
    except (CaftLensError, OSError) as error:
        refuse(error.args[0] if isinstance(error, KeyError) else error)
    typer.echo(f"{result}\nThe report is in {shown(page)} and {shown(words)}.")


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
