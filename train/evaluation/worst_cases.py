"""A picture of the worst cases: where each class was missed or made up, in the slice, its truth and its labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter, uniform_filter

from tomoscribe.engine.class_map import ClassMap, LabelClass
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
from tomoscribe.train.evaluation.judgement import Comparison, JudgedImage, Judgement, worst_images

__all__ = ["WorstCase", "draw_worst_cases", "find_worst_cases"]

PANEL = 300
# A window of this many pixels shows an error in its surroundings, and a membrane is still wider than a hair.
WINDOW = 256
CASES = 2
MOST_CLASSES = 10
CAPTION = 30


@dataclass(frozen=True)
class WorstCase:
    """An image that is among the worst of a class: its number in the comparison, and its Dice.

    The Dice is NaN where the class was made up.
    """

    label_class: LabelClass
    number: int
    dice: float


def find_worst_cases(judgement: Judgement) -> list[list[WorstCase]]:
    """Return up to two images a class, for up to ten classes: those with the lowest Dice of all, in label order."""
    dice = judgement.total.dice()
    occurring = [c for c in judgement.class_map.classes if not np.isnan(dice[c.number])]
    classes = sorted(sorted(occurring, key=lambda c: float(dice[c.number]))[:MOST_CLASSES], key=lambda c: c.number)
    images = judgement.image_dice()
    return [
        [WorstCase(c, number, float(images[number, c.number])) for number in worst_images(judgement, c.number, CASES)]
        for c in classes
    ]


def draw_worst_cases(comparison: Comparison, cases: Sequence[Sequence[WorstCase]], output: Path) -> None:
    """Draw the cases, those of a class side by side: slice, truth and labels of each.

    Each case is a window of the image around the most errors. Slices are smoothed a little, or noise alone would be
    seen; what does not count is dark.

    Args:
        comparison: where the images are from.
        cases: what `find_worst_cases` found.
        output: a PNG file; one that is there is replaced.

    Raises:
        TomoscribeError: an image cannot be read any more, or the picture cannot be written.
    """
    small, headline = ImageFont.load_default(size=16), ImageFont.load_default(size=26)
    width = 2 * MARGIN + CASES * 3 * PANEL + (CASES - 1) * 2 * GAP + CASES * 2 * 3
    top = MARGIN + 76
    row_height = PANEL + 2 * CAPTION + GAP
    canvas = Image.new("RGB", (width, top + len(cases) * row_height + MARGIN // 2), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, MARGIN - 8), "Worst cases", fill=BRIGHT, font=headline)
    note = "the images with the lowest Dice of each class: slice, truth and labels where the most errors are, y upwards"
    draw.text((MARGIN, MARGIN + 28), note, fill=DIM, font=small)
    for line, of_class in enumerate(cases):
        y = top + line * row_height
        label_class = of_class[0].label_class
        draw.rounded_rectangle((MARGIN, y + 3, MARGIN + 16, y + 19), 4, fill=label_class.colour)
        draw.text((MARGIN + 26, y), label_class.name, fill=BRIGHT, font=small)
        for column, case in enumerate(of_class):
            x = MARGIN + column * (3 * PANEL + 6 + 2 * GAP)
            image, intensity = comparison.show(case.number)
            rows, columns = _window(image, label_class.number)
            for panel in _panels(image, intensity, (rows, columns), comparison.class_map):
                canvas.paste(panel, (x, y + CAPTION))
                draw.rectangle((x - 1, y + CAPTION - 1, x + PANEL, y + CAPTION + PANEL), outline=FRAME)
                x += PANEL + 3
            place = image.place
            y_range, x_range = (
                f"{corner + span.start}:{corner + span.stop}"
                for corner, span in ((place.top, rows), (place.left, columns))
            )
            told = "made up" if np.isnan(case.dice) else f"Dice {case.dice:.2f}"
            text = f"{place.tomogram}   z {place.z}   y {y_range}   x {x_range}   {told}"
            draw.text((x - 3 * (PANEL + 3), y + CAPTION + PANEL + 5), text, fill=DIM, font=small)
    with replacing(output) as temporary:
        canvas.save(temporary, "PNG")


def _panels(
    image: JudgedImage, intensity: NDArray[np.float32] | None, window: tuple[slice, slice], class_map: ClassMap
) -> list[Image.Image]:
    """Return the slice, its truth and its labels, each a square with y upwards."""
    truth, labels = image.truth[window][::-1], image.labels[window][::-1]
    side = truth.shape
    scale = PANEL / max(side)
    if intensity is None:
        grey = Image.new("RGB", (round(side[1] * scale), round(side[0] * scale)), FRAME)
    else:
        smooth = gaussian_filter(intensity[window][::-1], 1.0)
        low, high = np.percentile(smooth, PERCENTILES)
        grey = grey_panel(smooth, float(low), float(high), scale)
    unknown = np.asarray(Image.fromarray(truth == IGNORE).resize(grey.size, Image.Resampling.NEAREST), bool)
    panels = [grey]
    for numbers in (np.where(truth == IGNORE, 0, truth).astype(np.uint8), labels):
        shown = np.asarray(overlay_panel(grey, numbers, class_map))
        panels.append(Image.fromarray(np.where(unknown[..., np.newaxis], shown // 3, shown).astype(np.uint8)))
    return [_squared(panel) for panel in panels]


def _window(image: JudgedImage, label: int) -> tuple[slice, slice]:
    """Return the rows and columns around the most errors of a class."""
    wrong = ((image.labels == label) != (image.truth == label)) & (image.truth != IGNORE)
    height, width = (min(WINDOW, length) for length in wrong.shape)
    # Where a window would reach out of the image it is moved in; its errors are those it then has.
    density = uniform_filter(wrong.astype(np.float32), (height, width), mode="constant")
    y, x = np.unravel_index(np.argmax(density), wrong.shape)
    top = int(np.clip(y - height // 2, 0, wrong.shape[0] - height))
    left = int(np.clip(x - width // 2, 0, wrong.shape[1] - width))
    return slice(top, top + height), slice(left, left + width)


def _squared(panel: Image.Image) -> Image.Image:
    square = Image.new("RGB", (PANEL, PANEL), BACKGROUND)
    square.paste(panel, ((PANEL - panel.width) // 2, (PANEL - panel.height) // 2))
    return square
