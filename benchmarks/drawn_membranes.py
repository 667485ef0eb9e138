"""What a model makes of DLCryoTomo's hand-drawn membranes, at several enlargements: their pixel size is not known."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from tomoscribe.engine import Segmenter, open_tomogram

__all__ = ["judge_drawn_membranes"]

_ENLARGEMENTS = (1.0, 1.5, 2.0)
# Lines are drawn some two pixels wide, and not always where the middle of the membrane is.
_TOLERANCE = 3
_MEMBRANES = (3, 4)


@dataclass
class Agreement:
    """Pixels that were found and drawn, counted.

    Attributes:
        found: of the membranes that a model found.
        drawn: of those that a person drew.
        both: of both.
        found_near: found within `_TOLERANCE` pixels of what is drawn.
        drawn_near: drawn within `_TOLERANCE` pixels of what is found.
    """

    found: int = 0
    drawn: int = 0
    both: int = 0
    found_near: int = 0
    drawn_near: int = 0

    def add(self, found: NDArray[np.bool_], drawn: NDArray[np.bool_]) -> None:
        """Count two masks of one shape, ``(y, x)``."""
        disc = np.hypot(*np.ogrid[-_TOLERANCE : _TOLERANCE + 1, -_TOLERANCE : _TOLERANCE + 1]) <= _TOLERANCE
        self.found += int(found.sum())
        self.drawn += int(drawn.sum())
        self.both += int((found & drawn).sum())
        self.found_near += int((found & ndimage.binary_dilation(drawn, disc)).sum())
        self.drawn_near += int((drawn & ndimage.binary_dilation(found, disc)).sum())

    def dice(self) -> float:
        """Return Dice."""
        return 2 * self.both / max(self.found + self.drawn, 1)

    def tolerant(self) -> float:
        """Return the harmonic mean of the share of what is found near what is drawn, and the other way round."""
        precision, recall = self.found_near / max(self.found, 1), self.drawn_near / max(self.drawn, 1)
        return 2 * precision * recall / max(precision + recall, 1e-9)


def judge_drawn_membranes(segmenter: Segmenter, images: Path, folder: Path, picture: Path) -> list[str]:
    """Judge both membrane classes against hand-drawn masks.

    Args:
        segmenter: with a model of the default class map.
        images: folder of DLCryoTomo's slices, masks and ``groups.csv``.
        folder: for tomograms and labels.
        picture: what is found over what is drawn, a column for each source slice, a row for each enlargement.

    Returns:
        A Markdown table, a row for each source slice, whose variants are pooled.
    """
    agreements: dict[str, dict[float, Agreement]] = defaultdict(lambda: defaultdict(Agreement))
    panels: dict[str, list[Image.Image]] = {}
    for name, image, drawn in _slices(images):
        found = {enlargement: _segment(segmenter, image, enlargement, folder) for enlargement in _ENLARGEMENTS}
        for enlargement, labels in found.items():
            agreements[name][enlargement].add(np.isin(labels, _MEMBRANES), drawn)
        panels.setdefault(name, [_panel(labels, drawn, segmenter) for labels in found.values()])
    _grid([panels[name] for name in sorted(panels)]).save(picture)
    heads = [f"{what}, {enlargement:g}×" for what in ("Dice", "within 3 pixels") for enlargement in _ENLARGEMENTS]
    lines = ["| source slice | " + " | ".join(heads) + " |", "|" + "---|" * (len(heads) + 1)]
    for name, by_enlargement in sorted(agreements.items()):
        values = [agreement.dice() for agreement in by_enlargement.values()]
        values += [agreement.tolerant() for agreement in by_enlargement.values()]
        lines.append(f"| {name} | " + " | ".join(f"{value:.3f}" for value in values) + " |")
    return [*lines, "", f"![Hand-drawn masks in grey and labels in colour]({picture.name})"]


def _slices(images: Path) -> Iterator[tuple[str, NDArray[np.float32], NDArray[np.bool_]]]:
    """Give source slice, image and mask, ``(y, x)`` both, of each variant."""
    with (images / "groups.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            image = tifffile.imread(images / row["file"]).astype(np.float32)
            if image.ndim == 3:  # a few have pixels that are not quite grey
                image = image[..., :3].mean(axis=-1)
            yield row["source_slice"], image, tifffile.imread(images / row["mask"]) > 127


def _segment(segmenter: Segmenter, image: NDArray[np.float32], enlargement: float, folder: Path) -> NDArray[np.uint8]:
    """Return the labels of an enlarged image, brought back to its own pixels."""
    path = folder / "slice.mrc"
    mrcfile.write(path, ndimage.zoom(image, enlargement, order=1)[np.newaxis], overwrite=True)
    result = segmenter.segment(path, overwrite=True)
    with open_tomogram(result.labels) as labels:
        whole = np.empty(labels.shape, np.int16)
        labels.read_slices(0, whole)
    rows, columns = ((np.arange(n) + 0.5) * size / n for n, size in zip(image.shape, whole.shape[1:], strict=True))
    return whole[0][np.ix_(rows.astype(int), columns.astype(int))].astype(np.uint8)


def _panel(labels: NDArray[np.uint8], mask: NDArray[np.bool_], segmenter: Segmenter) -> Image.Image:
    """Draw labels in their colours over a mask in grey; the origin of the image is not documented: it is not shown."""
    colours = np.zeros((len(segmenter.bundle.specification.class_map) + 1, 3))
    for label_class in segmenter.bundle.specification.class_map.classes:
        colours[label_class.number] = label_class.colour
    grey = np.repeat(np.where(mask, 150.0, 18.0)[..., np.newaxis], 3, axis=2)
    found = (labels > 0)[..., np.newaxis]
    return Image.fromarray(np.where(found, 0.35 * grey + 0.65 * colours[labels], grey).astype(np.uint8))


def _grid(columns: list[list[Image.Image]]) -> Image.Image:
    """Return panels of one size side by side, a list for each column."""
    gap = 8
    width, height = columns[0][0].size
    size = len(columns) * (width + gap) - gap, len(columns[0]) * (height + gap) - gap
    whole = Image.new("RGB", size, (70, 70, 70))
    for x, column in enumerate(columns):
        for y, panel in enumerate(column):
            whole.paste(panel, (x * (width + gap), y * (height + gap)))
    return whole
