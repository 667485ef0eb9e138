"""``tomoscribe picture``: a picture of a tomogram with its labels over it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tomoscribe.engine import ClassMap

__all__ = ["picture"]


def picture(
    tomogram: Annotated[Path, typer.Argument(metavar="TOMOGRAM", help="The tomogram.")],
    labels: Annotated[
        Path | None,
        typer.Argument(metavar="LABELS", help="Its label volume.", show_default="<tomogram>__labels.mrc beside it"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PNG",
            help="The picture.",
            show_default="<tomogram>__overview.png beside the labels",
        ),
    ] = None,
    voxel_size: Annotated[
        float | None, typer.Option(metavar="Å", min=0.01, help="Voxel size in Å, where the header's is wrong.")
    ] = None,
) -> None:
    """Draw the central slices of a tomogram, grey and with its labels in colour, with legend and scale bar."""
    from tomoscribe.engine import ParameterError, open_tomogram
    from tomoscribe.engine.outputs import OutputPaths
    from tomoscribe.engine.picture import draw_overview

    if output is not None and output.suffix.lower() != ".png":
        raise ParameterError(f"{output}: expected a name that ends in .png; a picture is a PNG file")
    labels = labels or OutputPaths.of(tomogram, None).labels
    output = output or OutputPaths.of(tomogram, labels.parent).picture
    with open_tomogram(tomogram, voxel_size=voxel_size) as volume, open_tomogram(labels, mode0="signed") as numbers:
        typer.echo(draw_overview(volume, numbers, _class_map_of(labels), output))


def _class_map_of(labels: Path) -> ClassMap:
    """Return the class map of the sidecar beside a label volume, or the default where there is none."""
    import json

    from tomoscribe.engine import DEFAULT_CLASS_MAP, ClassMap, ParameterError

    sidecar = labels.with_suffix(".json")
    try:
        return ClassMap.from_json(json.loads(sidecar.read_text(encoding="utf-8"))["classes"])
    except FileNotFoundError:
        return DEFAULT_CLASS_MAP
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ParameterError(
            f"{sidecar}: expected the classes of {labels.name}, found another thing ({error})"
        ) from error
