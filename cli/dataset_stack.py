"""``tomoscribe dataset merge`` and ``split``: tomograms annotated in one go, and their labels taken apart again."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

__all__ = ["merge", "split"]


def merge(
    tomograms: Annotated[
        list[Path], typer.Argument(metavar="TOMOGRAM...", help="The tomograms, from the bottom up.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="MERGED.mrc", help="The merged volume.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
) -> None:
    """Put tomograms on top of each other along z, so that they are annotated in one go.

    Beside MERGED.mrc, MERGED.json says which slices are of which tomogram; `tomoscribe dataset split` needs it.
    """
    from rich.console import Console
    from rich.progress import Progress

    stacking = _stacking()
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("slices", total=None)
        table = stacking.merge(
            tomograms,
            output,
            overwrite=overwrite,
            slice_done=lambda done, total: progress.update(task, completed=done, total=total),
        )
    typer.echo(output)
    typer.echo(table)


def split(
    labels: Annotated[
        Path,
        typer.Argument(metavar="LABELS", help="Label volume or feature map of the merged volume.", show_default=False),
    ],
    table: Annotated[Path, typer.Option(metavar="MERGED.json", help="What lies beside the merged volume.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder for the files.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
) -> None:
    """Cut the annotation of a merged volume into one file for each tomogram.

    merged__labels.mrc gives <tomogram>__labels.mrc, and merged__Ribosome.mrc gives <tomogram>__Ribosome.mrc.
    """
    for path in _stacking().split_labels(labels, table, output, overwrite=overwrite):
        typer.echo(path)


def _stacking() -> ModuleType:
    from tomoscribe.engine.errors import BackendUnavailableError

    try:
        from tomoscribe.train.dataset import stacking
    except ModuleNotFoundError as error:
        raise BackendUnavailableError(
            f'datasets need the package {error.name}; install it with: pip install "tomoscribe[train]"'
        ) from error
    return stacking
