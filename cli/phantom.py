"""``tomoscribe phantom``: a synthetic tomogram with exact labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["parse_shape", "phantom"]


def phantom(
    output: Annotated[Path, typer.Argument(metavar="OUTPUT.mrc", help="The tomogram to write.")],
    parameters: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help="What is in the sample and how it is imaged; numbers or ranges."),
    ] = None,
    shape: Annotated[
        str | None, typer.Option(metavar="ZxYxX", help="Size in voxels.", show_default="64x512x512")
    ] = None,
    voxel_size: Annotated[
        float | None, typer.Option(metavar="Å", help="Voxel size, 5 to 40 Å.", show_default="13")
    ] = None,
    signal_to_noise: Annotated[
        float | None,
        typer.Option(metavar="RATIO", help="Variance of signal over noise in the untilted image.", show_default="0.3"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same phantom.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
) -> None:
    """Make a synthetic tomogram, and beside it OUTPUT__truth.mrc with its exact labels.

    A sample with all five features is painted, recorded as a tilt series with contrast transfer, dose and noise, and
    reconstructed with its missing wedge. Options win over the parameter file.
    """
    from rich.console import Console

    from tomoscribe.engine.errors import ParameterError
    from tomoscribe.train.phantom import draw_parameters, make_phantom, read_parameter_table
    from tomoscribe.train.phantom.files import check_free, write_phantom

    if output.suffix != ".mrc":
        raise ParameterError(f"{output}: expected a name that ends in .mrc")
    check_free(output, overwrite)
    table = read_parameter_table(parameters) if parameters else {}
    if shape is not None:
        table["shape"] = parse_shape(shape)
    if voxel_size is not None:
        table["voxel_size"] = voxel_size
    if signal_to_noise is not None:
        imaging = table.get("imaging", {})
        table["imaging"] = {**imaging, "signal_to_noise": signal_to_noise} if isinstance(imaging, dict) else imaging
    drawn = draw_parameters(table, seed)
    depth, height, width = drawn.shape
    with Console(stderr=True).status(f"making a phantom of {width} × {height} × {depth}"):
        files = write_phantom(make_phantom(drawn), output, overwrite=overwrite)
    for path in (files.tomogram, files.truth, files.parameters):
        typer.echo(path)


def parse_shape(text: str) -> list[int]:
    """Return ``[z, y, x]`` for a text such as ``64x512x512``.

    Raises:
        ParameterError: it is not three whole numbers.
    """
    from tomoscribe.engine.errors import ParameterError

    parts = text.lower().split("x")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in parts):
        raise ParameterError(f"shape: expected ZxYxX such as 64x512x512, found {text!r}")
    return [int(part) for part in parts]
