"""``tomoscribe dataset``: from tomograms and annotations to images that a network is trained on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tomoscribe.cli import dataset_stack

if TYPE_CHECKING:
    from tomoscribe.train.dataset.build import Progress
    from tomoscribe.train.dataset.storage import Dataset

__all__ = ["dataset"]

dataset = typer.Typer(help="Make a dataset of annotated tomograms; merge tomograms to be annotated, and split labels.")


@dataset.command("build", no_args_is_help=True)
def build(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE.yaml", help="Tomograms, annotations, and what becomes of them.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DATASET", help="Folder of the dataset.")],
    processes: Annotated[
        int | None,
        typer.Option(
            min=1, help="Tomograms that are worked on at the same time.", show_default="the cores that may be used"
        ),
    ] = None,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Leave out tomograms that cannot be used, and say which.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the dataset that is there; what has not changed is kept.")
    ] = False,
) -> None:
    """Build a dataset from a recipe.

    A build that was stopped goes on where it was when the same command is run again. In the folder are report.md with
    all figures, contact_sheet.png to look at, and the images as Zarr.
    """
    from tomoscribe.cli.failure import print_error
    from tomoscribe.engine.cores import usable_cores
    from tomoscribe.engine.errors import BackendUnavailableError

    try:
        from tomoscribe.train.dataset.build import BadInputsError, build_dataset
    except ModuleNotFoundError as error:
        raise BackendUnavailableError(
            f'datasets need the package {error.name}; install it with: pip install "tomoscribe[train]"'
        ) from error
    with _progress() as progress:
        try:
            made = build_dataset(
                recipe,
                output,
                processes=processes or usable_cores(),
                keep_going=keep_going,
                overwrite=overwrite,
                progress=progress,
            )
        except BadInputsError as error:
            for failure in error.failures:
                print_error(failure.message)
            raise
    _summarise(made)


dataset.command("merge", no_args_is_help=True)(dataset_stack.merge)
dataset.command("split", no_args_is_help=True)(dataset_stack.split)


@contextmanager
def _progress() -> Iterator[Progress]:
    """Draw a bar for the slices of each stage, with the tomogram that was worked on last."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("slices"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[tomogram]}"),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        stages = {stage: bars.add_task(stage, total=None, tomogram="", visible=False) for stage in ("labels", "images")}

        def advance(stage: str, tomogram: str, count: int, total: int) -> None:
            bars.update(stages[stage], advance=count, total=total, tomogram=tomogram, visible=True)

        yield advance


def _summarise(made: Dataset) -> None:
    """Print what was left out and what to beware of, and a table of the classes."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from tomoscribe.train.dataset.contract import SPLITS

    aside = Console(stderr=True, highlight=False, soft_wrap=True)
    for failure in made.provenance["left_out"]:
        aside.print(Text(f"left out {failure['tomogram']}: {failure['message']}", "red"))
    for warning in made.provenance["warnings"]:
        aside.print(Text(f"warning: {warning}", "yellow"))
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("share of voxels")
    counts = {split: made.counts[made.numbers(split)] for split in SPLITS}
    for split in SPLITS:
        table.add_column(split, justify="right")
    for label_class in made.class_map.classes:
        swatch = ("■ ", "rgb({},{},{})".format(*label_class.colour))
        shares = [counts[split][:, label_class.number].sum() / max(counts[split].sum(), 1) for split in SPLITS]
        table.add_row(Text.assemble(swatch, label_class.name), *(f"{share:.2%}" for share in shares))
    table.add_row(Text("images", "bold"), *(f"{len(counts[split]):,}" for split in SPLITS))
    out = Console(highlight=False, soft_wrap=True)
    out.print(table)
    many = "tomogram" if len(made.tomograms) == 1 else "tomograms"
    out.print(f"{made.path}: {len(made.images):,} images of {len(made.tomograms)} {many}; see report.md in it")
