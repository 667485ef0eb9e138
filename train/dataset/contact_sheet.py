"""A contact sheet: random images of a dataset, class by class, alone and with their labels over them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tomoscribe.engine.class_map import Colour
from tomoscribe.engine.picture import (
    BACKGROUND,
    BRIGHT,
    DIM,
    FRAME,
    GAP,
    MARGIN,
    PERCENTILES,
    grey_panel,
    overlay_panel,
)
from tomoscribe.engine.replacing import replacing
from tomoscribe.train.dataset.contract import IGNORE
from tomoscribe.train.dataset.storage import Dataset

__all__ = ["draw_contact_sheet"]

SAMPLES = 3
MOST_CLASSES = 16
PANEL = 288
HEADER, ROW_TITLE, CAPTION = 84, 40, 26
UNKNOWN = 0.35  # brightness of what is not annotated


def draw_contact_sheet(dataset: Dataset, output: Path, *, seed: int) -> Path:
    """Draw images of each class, chosen at random but rather those that have much of it.

    Each is shown alone and with its labels; y points upwards, and what is ignored is dark.

    Args:
        dataset: the dataset.
        output: the PNG to write.
        seed: of the choice.

    Returns:
        `output`.

    Raises:
        DatasetError: the dataset's files are damaged.
        OutputError: the picture cannot be written.
    """
    generator = np.random.default_rng(seed)
    shown = dataset.class_map.classes[:MOST_CLASSES]
    large, small = ImageFont.load_default(size=30), ImageFont.load_default(size=19)
    height = ROW_TITLE + PANEL + CAPTION + GAP
    pair = 2 * PANEL + 2
    size = (2 * MARGIN + SAMPLES * pair + (SAMPLES - 1) * GAP, MARGIN + HEADER + (len(shown) + 1) * height + MARGIN)
    canvas = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, MARGIN - 8), dataset.name, fill=BRIGHT, font=large)
    draw.text((MARGIN, MARGIN + 36), _facts(dataset), fill=DIM, font=small)
    empty = np.asarray(~dataset.counts[:, 1:].any(axis=1), np.int64)
    rows: list[tuple[str, Colour, NDArray[np.int64]]] = [
        *((c.name, c.colour, dataset.counts[:, c.number]) for c in shown),
        ("no foreground", DIM, empty),
    ]
    top = MARGIN + HEADER
    for name, colour, voxels in rows:
        draw.rounded_rectangle((MARGIN, top + 6, MARGIN + 20, top + 26), 4, fill=colour)
        draw.text((MARGIN + 30, top + 5), name, fill=BRIGHT, font=small)
        count = f"in {np.count_nonzero(voxels):,} of {len(voxels):,} images"
        draw.text((MARGIN + 30 + small.getlength(name) + 14, top + 5), count, fill=DIM, font=small)
        for column, number in enumerate(_choose(voxels, generator)):
            _paste(canvas, dataset, number, (MARGIN + column * (pair + GAP), top + ROW_TITLE))
        top += height
    with replacing(output) as temporary:
        canvas.save(temporary, "PNG")
    return output


def _choose(voxels: NDArray[np.int64], generator: np.random.Generator) -> list[int]:
    there = int(np.count_nonzero(voxels))
    if not there:
        return []
    chosen = generator.choice(len(voxels), min(SAMPLES, there), replace=False, p=voxels / voxels.sum())
    return sorted(int(number) for number in chosen)


def _paste(canvas: Image.Image, dataset: Dataset, number: int, corner: tuple[int, int]) -> None:
    slices, labels = dataset.read(number, 0)
    image, labels = slices[0, ::-1], labels[::-1]
    scale = PANEL / dataset.tile
    low, high = np.percentile(image, PERCENTILES)
    plain = grey_panel(image, float(low), float(high), scale)
    overlay = overlay_panel(plain, np.where(labels == IGNORE, 0, labels), dataset.class_map)
    unknown = Image.fromarray((labels == IGNORE).astype(np.uint8) * 255).resize(plain.size, Image.Resampling.NEAREST)
    overlay.paste(overlay.point(lambda value: round(value * UNKNOWN)), mask=unknown)
    draw = ImageDraw.Draw(canvas)
    left, top = corner
    for x, panel in ((left, plain), (left + PANEL + 2, overlay)):
        canvas.paste(panel, (x, top))
        draw.rectangle((x - 1, top - 1, x + PANEL, top + PANEL), outline=FRAME)
    record = dataset.images[number]
    place = f"z {record.z}, y {record.top}, x {record.left}  ·  {record.split}"
    font = ImageFont.load_default(size=15)
    name, room = record.tomogram, 2 * PANEL - font.getlength(f"  ·  {place}")
    while font.getlength(name) > room:
        name = name[:-2] + "…"
    draw.text((left, top + PANEL + 5), f"{name}  ·  {place}", fill=DIM, font=font)


def _facts(dataset: Dataset) -> str:
    splits = ", ".join(f"{len(dataset.numbers(split)):,} {split}" for split in ("train", "dev", "test"))
    # In nm, because the font that Pillow brings has no Å.
    low, high = (size / 10 for size in dataset.voxel_size)
    voxels = f"{low:.3g} nm" if f"{low:.3g}" == f"{high:.3g}" else f"{low:.3g} to {high:.3g} nm"
    many = "tomogram" if len(dataset.tomograms) == 1 else "tomograms"
    return (
        f"{len(dataset.images):,} images of {dataset.tile} x {dataset.tile} ({splits})   ·   "
        f"{len(dataset.tomograms)} {many}   ·   voxels of {voxels}"
    )
