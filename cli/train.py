"""``tomoscribe train``: a recipe in, a checkpoint out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["train"]


def train(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE.toml", help="Phantoms, network and schedule, as train/recipes has them.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="RUN", help="Folder for the log and the checkpoints.")
    ],
    processes: Annotated[int, typer.Option(min=1, help="Processes that make phantoms.")] = 2,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that is there.")] = False,
) -> None:
    """Make the phantoms of a recipe and train a U-Net on them."""
    from tomoscribe.engine.errors import BackendUnavailableError, OutputExistsError

    try:
        from tomoscribe.train.fit import BEST_FILE
        from tomoscribe.train.recipe import read_recipe, train_recipe
    except ModuleNotFoundError as error:
        raise BackendUnavailableError(
            f'training needs the package {error.name}; install it with: pip install "tomoscribe[train]"'
        ) from error
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    plan = read_recipe(recipe)
    if (output / BEST_FILE).exists() and not overwrite:
        raise OutputExistsError(f"{output / BEST_FILE}: is there already; pass --overwrite to replace the run")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        phantoms = progress.add_task("phantoms", total=plan.training + plan.validation, note="")
        steps = progress.add_task("steps", total=plan.fit.steps, note="")
        checkpoint = train_recipe(
            plan,
            output,
            processes=processes,
            phantom_made=lambda count: progress.update(phantoms, completed=count),
            step_done=lambda step, loss: progress.update(steps, completed=step, note=f"loss {loss:.3f}"),
        )
    typer.echo(checkpoint)
