"""A picture of where an artifact's labels and scores are not those of the reference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tomoscribe.engine.class_map import ClassMap
from tomoscribe.engine.picture import grey_panel, overlay_panel
from tomoscribe.export.parity import Answer, Runner, Sample

__all__ = ["SCORE_GAIN", "draw_difference"]

SCORE_GAIN = 8
"""How much brighter than it is a difference of scores is drawn; 32 of 255 is white."""

_GAP = 8
_COLOURS = 128  # grey noise takes most of the file, and no eye tells more shades of it
_UNEQUAL = (255, 64, 64)
_PERCENTILES = (0.5, 99.5)


def draw_difference(
    output: Path, reference: Runner, candidate: Runner, samples: Sequence[Sample], class_map: ClassMap
) -> str:
    """Draw the slice with the most labels that differ, as a PNG of four panels.

    From left to right: the slice, the reference's labels, the candidate's, and the differences: grey by how far the
    scores are apart (the class where they are furthest), red where the label is another.

    Args:
        output: the file to write.
        reference: the answers that are right.
        candidate: the answers that are judged.
        samples: what both are given; small ones, as they are drawn at their own size.
        class_map: the colours.

    Returns:
        The name of the sample.
    """
    answers = [(sample, reference(sample), candidate(sample)) for sample in samples]
    sample, expected, found = max(answers, key=lambda answer: _unequal(*answer[1:]).sum(axis=(1, 2)).max())
    z = int(_unequal(expected, found).sum(axis=(1, 2)).argmax())
    centre = z + (len(sample.slices) - len(expected.labels)) // 2
    values = (sample.slices[centre] - sample.mean[centre]) * sample.rstd[centre]
    low, high = np.percentile(values, _PERCENTILES)
    grey = grey_panel(values, float(low), float(high), 1.0)
    panels = [
        grey,
        overlay_panel(grey, expected.labels[z], class_map),
        overlay_panel(grey, found.labels[z], class_map),
        _difference_panel(expected, found, z),
    ]
    canvas = Image.new("RGB", (len(panels) * (grey.width + _GAP) - _GAP, grey.height))
    for number, panel in enumerate(panels):
        canvas.paste(panel, (number * (grey.width + _GAP), 0))
    quantised = canvas.quantize(_COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)  # keeps rare colours
    quantised.save(output, "PNG", optimize=True)
    return sample.name


def _difference_panel(expected: Answer, found: Answer, z: int) -> Image.Image:
    difference = np.abs(expected.scores[z].astype(np.int16) - found.scores[z]).max(axis=0)
    grey = np.minimum(difference * SCORE_GAIN, 255).astype(np.uint8)
    picture = np.repeat(grey[..., np.newaxis], 3, axis=-1)
    picture[_unequal(expected, found)[z]] = _UNEQUAL
    return Image.fromarray(picture)


def _unequal(expected: Answer, found: Answer) -> NDArray[np.bool_]:
    different: NDArray[np.bool_] = expected.labels != found.labels
    return different
