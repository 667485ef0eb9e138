"""``tomoscribe demo``: a phantom is made, segmented, drawn and judged."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tomoscribe.cli.phantom import parse_shape

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tomoscribe.engine import ClassMap, Segmentation
    from tomoscribe.train.phantom import PhantomParameters

__all__ = ["demo"]

# No phantom that the bundled model was trained on has a seed as high as this.
DEMO_SEED = 3_000_000


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the results.")] = Path(
        "demo"
    ),
    shape: Annotated[str, typer.Option(metavar="ZxYxX", help="Size of the phantom in voxels.")] = "64x512x512",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the phantom.")] = DEMO_SEED,
    model: Annotated[
        Path | None,
        typer.Option(metavar="BUNDLE", help="Folder of the model.", show_default="the model that came along"),
    ] = None,
) -> None:
    """Make a phantom tomogram, segment it, draw a picture, and compare the labels with the truth.

    Results of an earlier demo in the same folder are replaced.
    """
    from rich.console import Console

    from tomoscribe.engine import DEFAULT_CLASS_MAP, BundleError, Segmenter, open_tomogram
    from tomoscribe.engine.picture import draw_overview
    from tomoscribe.train.evaluation.volumes import compare_label_volumes
    from tomoscribe.train.phantom import draw_parameters
    from tomoscribe.train.phantom.files import PhantomFiles

    parameters = draw_parameters({"shape": parse_shape(shape)}, seed)
    files = PhantomFiles.beside(output / "phantom.mrc")
    console = Console(stderr=True)
    segmenting = console.status("segmenting it")

    def tell(_phase: str, share: float) -> None:
        segmenting.update(f"segmenting it: TensorRT builds a plan for this GPU first, {share:.0%}")

    with Segmenter(model, building=tell) as segmenter:
        class_map = segmenter.bundle.specification.class_map
        if class_map != DEFAULT_CLASS_MAP:
            raise BundleError(f"{segmenter.bundle.path}: the demo needs a model with the classes of its phantom")
        depth, height, width = parameters.shape
        with console.status(f"making a phantom of {width} × {height} × {depth}"):
            _make_elsewhere(parameters, files.tomogram)
        with segmenting:
            result = segmenter.segment(files.tomogram, overwrite=True)
        peak = _peak_memory()
    picture = output / "phantom__overview.png"
    with open_tomogram(files.tomogram) as tomogram, open_tomogram(result.labels) as labels:
        draw_overview(tomogram, labels, class_map, picture)
    dice = compare_label_volumes(result.labels, files.truth, class_map).dice()
    _print_report(result, class_map, dice, peak)
    for path in (files.tomogram, files.truth, result.labels, *result.class_volumes.values(), picture):
        typer.echo(path)


def _make_elsewhere(parameters: PhantomParameters, tomogram: Path) -> None:
    """Make the phantom in a process of its own, so that this one's peak memory is that of segmenting."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(_make, parameters, tomogram).result()


def _make(parameters: PhantomParameters, tomogram: Path) -> None:
    from tomoscribe.train.phantom import make_phantom
    from tomoscribe.train.phantom.files import write_phantom

    write_phantom(make_phantom(parameters), tomogram, overwrite=True)


def _peak_memory() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Kibibytes, but bytes on macOS (getrusage(2) of either).
    return peak if sys.platform == "darwin" else peak * 1024


def _print_report(result: Segmentation, class_map: ClassMap, dice: NDArray[np.float64], peak: int) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("class", "Dice", "voxels found"):
        table.add_column(name, justify="left" if name == "class" else "right")
    for label_class in class_map.classes:
        title = Text.assemble(("■ ", "rgb({},{},{})".format(*label_class.colour)), label_class.name)
        table.add_row(title, f"{dice[label_class.number]:.3f}", f"{result.counts[label_class.name]:,}")
    out = Console(highlight=False)
    out.print(table)
    out.print(
        f"{result.voxels_per_second / 1e6:.2f} million voxels per second "
        f"({result.voxels:,} in {result.seconds:.1f} s), peak memory {peak / 2**20:.0f} MiB"
    )
    out.print(f"{result.model}, {result.backend}")
