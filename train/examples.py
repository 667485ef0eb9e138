"""A picture of example images: the slice, what it should be labelled, what it was labelled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tomoscribe.engine.class_map import ClassMap
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
from tomoscribe.train.dataset.contract import IGNORE
from tomoscribe.train.validation import Example

__all__ = ["draw_examples"]

Place = tuple[int, int]

_PANEL = 384
_LEGEND_LINE = 28
_COLUMNS = ("slice", "truth", "prediction")
_UNKNOWN = 0.35  # brightness of what is not annotated


def draw_examples(examples: Sequence[Example], class_map: ClassMap, title: str) -> Image.Image:
    """Draw a row for each example: slice, truth, prediction; what the truth does not know is dark in both.

    Args:
        examples: one at least, all of one size.
        class_map: names and colours.
        title: the headline.
    """
    headline, small = ImageFont.load_default(size=26), ImageFont.load_default(size=17)
    scale = _PANEL / max(examples[0].slice.shape)
    rows = [_row(example, class_map, scale) for example in examples]
    width, height = rows[0][0].size
    top = MARGIN + 44 + 30
    right = MARGIN + 3 * width + 2 * GAP
    places = _legend_places(class_map, right, small)
    legend = places[-1][1] + _LEGEND_LINE
    size = (right + MARGIN, top + len(rows) * (height + GAP) + 10 + legend + MARGIN)
    canvas = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, MARGIN - 8), title, fill=BRIGHT, font=headline)
    for column, name in enumerate(_COLUMNS):
        left = MARGIN + column * (width + GAP)
        draw.text((left, top - 28), name, fill=DIM, font=small)
        for line, row in enumerate(rows):
            upper = top + line * (height + GAP)
            canvas.paste(row[column], (left, upper))
            draw.rectangle((left - 1, upper - 1, left + width, upper + height), outline=FRAME)
    for label_class, (x, y) in zip(class_map.classes, places, strict=True):
        y += size[1] - MARGIN - legend
        draw.rounded_rectangle((x, y + 1, x + 18, y + 19), 4, fill=label_class.colour)
        draw.text((x + 26, y), label_class.name, fill=BRIGHT, font=small)
    return canvas


def _legend_places(class_map: ClassMap, right: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[Place]:
    """Return where each class stands in the legend, which goes on in a new line where one is full."""
    places = []
    x, y = MARGIN, 0
    for label_class in class_map.classes:
        width = 26 + round(font.getlength(label_class.name)) + 24
        if x > MARGIN and x + width > right:
            x, y = MARGIN, y + _LEGEND_LINE
        places.append((x, y))
        x += width
    return places


def _row(example: Example, class_map: ClassMap, scale: float) -> tuple[Image.Image, ...]:
    # y points upwards, as in every picture of tomoscribe.
    image, truth, labels = (part[::-1] for part in (example.slice, example.truth, example.labels))
    low, high = np.percentile(image, PERCENTILES)
    plain = grey_panel(image, float(low), float(high), scale)
    unknown = Image.fromarray((truth == IGNORE).astype(np.uint8) * 255).resize(plain.size, Image.Resampling.NEAREST)
    panels = [overlay_panel(plain, np.where(truth == IGNORE, 0, part), class_map) for part in (truth, labels)]
    for panel in panels:
        panel.paste(panel.point(lambda value: round(value * _UNKNOWN)), mask=unknown)
    return plain, *panels
