"""What the inspections of bundles, networks and plans have in common."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from tomoscribe.cli.page import file_size, joined, plain_table

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from tomoscribe.cli.trials import Trial
    from tomoscribe.engine import ClassMap, ModelSpecification

__all__ = ["DIGITS", "Inspection", "assemble", "backend_table", "class_swatch", "heading", "specification_rows"]

DIGITS = 12
"""Digits of a sha256 that a page shows."""

_POLARITIES = {"dark": "dark: density darker than its surroundings", "bright": "bright: density on dark"}
_NORMALISATIONS = {
    "volume": "one mean and standard deviation for the whole tomogram",
    "none": "not at all: intensities as they are in the file",
}
_AUGMENTATIONS = {
    "none": "none",
    "flips": "flips: the mean over the tile and its 3 flips",
    "flips-and-turns": "flips and turns: the mean over all 8 symmetries of a square",
}


@dataclass(frozen=True)
class Inspection:
    """What there is to say of a model file.

    Attributes:
        entries: for scripts, as ``--json`` prints them.
        page: the same for people.
        problems: what is wrong with it, an error's line each.
    """

    entries: Mapping[str, Any]
    page: Sequence[RenderableType]
    problems: Sequence[str] = ()


def heading(name: str, kind: str, path: Path, size: int) -> Text:
    """Return the lines that a page begins with."""
    return Text.assemble((name, "bold"), "\n", (f"{kind}, {path}, {file_size(size)}", "dim"))


def assemble(title: Text, sections: Iterable[RenderableType]) -> list[RenderableType]:
    """Return a page: its heading, and the sections with an empty line between them."""
    return [title, *chain.from_iterable((Text(), section) for section in sections)]


def class_swatch(name: str, colour: tuple[int, int, int], number: int | None = None) -> Text:
    """Return a class in its colour, on one line wherever the line is wrapped."""
    words = joined(name if number is None else f"{number} {name}")
    return Text.assemble(("■", "rgb({},{},{})".format(*colour)), joined(" "), words)


def specification_rows(specification: ModelSpecification) -> list[tuple[str, str | Text]]:
    """Return what the engine has to know of a network, in words."""
    around = 2 * specification.context
    count = f"n + {around}" if around else "n"
    smallest, largest = specification.voxel_size
    multiple = specification.tile_multiple
    return [
        ("classes", _listed(specification.class_map)),
        ("input", f"slices ({count}, h, w) float32 in the file's units; mean, rstd ({count}) float32"),
        ("output", f"labels (n, h, w) uint8; scores (n, {specification.classes}, h, w) uint8, probability × 255"),
        ("context", f"{specification.context} slices on each side" if around else "none: each slice by itself"),
        ("tiles", f"h and w any multiple of {multiple}, halo {specification.halo} pixels"),
        ("voxel size", f"{smallest:.1f} Å" if smallest == largest else f"{smallest:.1f} to {largest:.1f} Å"),
        ("polarity", _POLARITIES.get(specification.polarity, specification.polarity)),
        ("normalised", _NORMALISATIONS.get(specification.normalisation, specification.normalisation)),
        ("augmented", _AUGMENTATIONS.get(specification.test_time_augmentation, specification.test_time_augmentation)),
    ]


def backend_table(trials: Sequence[Trial]) -> Table:
    """Return what every backend answered when it was asked to run it on this machine."""
    table = plain_table("backend", "runs here", "how, or why not")
    for trial in trials:
        runs = Text("yes", "green") if trial.runs else Text("no", "yellow")
        table.add_row(trial.backend, runs, Text(trial.answer))
    return table


def _listed(class_map: ClassMap) -> Text:
    swatches = [class_swatch(c.name, c.colour, c.number) for c in class_map.classes]
    return Text("  ").join([Text(joined("0 background")), *swatches])
