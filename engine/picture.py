"""A picture of a tomogram and its labels: the central slices, grey and with the labels in colour over it.

The upper row is the central xy slice, the lower row the central xz slice at the same scale; the left column is the
tomogram alone, the right one carries the labels. y and z point upwards, as 3dmod and ChimeraX show them. Grey values
are stretched between the 0.5th and 99.5th percentile of the xy slice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from tomoscribe.engine.class_map import ClassMap, LabelClass
from tomoscribe.engine.errors import ParameterError
from tomoscribe.engine.replacing import replacing
from tomoscribe.engine.tomogram.contract import Tomogram

__all__ = ["draw_overview", "grey_panel", "overlay_panel"]

MARGIN, GAP = 28, 14
PANEL_WIDTH, XY_HEIGHT, XZ_HEIGHT = 720, 960, 480
LEAST_WIDTH = 960
BACKGROUND, FRAME = (14, 17, 22), (48, 54, 64)
BRIGHT, DIM = (240, 243, 246), (148, 156, 168)
FILL, SHADE = 0.85, 0.55
PERCENTILES = (0.5, 99.5)

Panel = Image.Image


@dataclass(frozen=True)
class _Sections:
    """The two sections of a volume that are drawn, ``(y, x)`` and ``(z, x)``, in the picture's order of rows."""

    xy: NDArray[np.generic]
    xz: NDArray[np.generic]


def draw_overview(
    tomogram: Tomogram,
    labels: Tomogram,
    class_map: ClassMap,
    output: Path,
    *,
    title: str | None = None,
    note: str = "",
) -> Path:
    """Draw the overview and write it as a PNG.

    The volumes are read slice by slice, so memory does not grow with their depth.

    Args:
        tomogram: the tomogram.
        labels: its label volume, of the same shape.
        class_map: names and colours of the labels.
        output: the file to write; one that is there is replaced.
        title: the headline; by default the tomogram's file name.
        note: added to the line under the headline, such as the model's name.

    Returns:
        `output`.

    Raises:
        ParameterError: the shapes differ.
        TomogramFormatError: one of the files cannot be read.
        OutputError: the picture cannot be written.
    """
    if tomogram.shape != labels.shape:
        raise ParameterError(
            f"{labels.path}: expected the shape (z, y, x) of {tomogram.path}, {tomogram.shape}, found {labels.shape}; "
            "name the labels of this tomogram"
        )
    depth, height, width = tomogram.shape
    scale = min(PANEL_WIDTH / width, XY_HEIGHT / height, XZ_HEIGHT / depth)
    grey = _read_sections(tomogram, np.dtype(np.float32))
    numbers = _read_sections(labels, labels.dtype)
    low, high = np.percentile(grey.xy[np.isfinite(grey.xy)], PERCENTILES) if np.isfinite(grey.xy).any() else (0, 1)

    rows = []
    for values, label in ((grey.xy, numbers.xy), (grey.xz, numbers.xz)):
        plain = grey_panel(values, float(low), float(high), scale)
        rows.append((plain, overlay_panel(plain, label, class_map)))
    _draw_scale_bar(rows[0][0], tomogram.geometry.voxel_size[0], scale)

    shown = [c for c in class_map.classes if (numbers.xy == c.number).any() or (numbers.xz == c.number).any()]
    facts = [f"{width} x {height} x {depth} voxels{_voxel_size_text(tomogram.geometry.voxel_size)}", note]
    canvas = _compose(rows, title or tomogram.path.name, "   ·   ".join(filter(None, facts)), class_map, shown)
    with replacing(output) as temporary:
        output.parent.mkdir(parents=True, exist_ok=True)
        canvas.save(temporary, "PNG")
    return output


def _read_sections(volume: Tomogram, dtype: np.dtype[np.generic]) -> _Sections:
    depth, height, width = volume.shape
    buffer = np.empty((1, height, width), dtype)
    xz = np.empty((depth, width), dtype)
    xy = buffer[0]
    for z in range(depth):
        volume.read_slices(z, buffer)
        xz[depth - 1 - z] = buffer[0, height // 2]
        if z == depth // 2:
            xy = buffer[0, ::-1].copy()
    return _Sections(xy, xz)


def grey_panel(values: NDArray[np.generic], low: float, high: float, scale: float) -> Panel:
    """Return a section ``(rows, columns)`` as an RGB picture, `low` black and `high` white, enlarged by `scale`."""
    span = max(high - low, 1e-30)
    stretched = np.nan_to_num((values.astype(np.float32) - low) / span, nan=0.0)
    image = Image.fromarray((np.clip(stretched, 0, 1) * 255).astype(np.uint8))
    # Few voxels are shown as they are; many are smoothed, or noise alone would be seen.
    how = Image.Resampling.NEAREST if scale >= 4 else Image.Resampling.LANCZOS
    return image.resize(_scaled(values, scale), how).convert("RGB")


def overlay_panel(plain: Panel, labels: NDArray[np.generic], class_map: ClassMap) -> Panel:
    """Return a picture of a section with its labels, ``(rows, columns)`` before the picture was enlarged.

    What is labelled is tinted, and its outline drawn in full colour at the picture's resolution.
    """
    numbers = np.asarray(Image.fromarray(labels.astype(np.uint8)).resize(plain.size, Image.Resampling.NEAREST))
    palette = np.zeros((256, 3), np.float32)
    for label_class in class_map.classes:
        palette[label_class.number] = label_class.colour
    inside = numbers > 0
    outline = np.zeros_like(inside)
    outline[:, 1:] |= numbers[:, 1:] != numbers[:, :-1]
    outline[:, :-1] |= numbers[:, 1:] != numbers[:, :-1]
    outline[1:] |= numbers[1:] != numbers[:-1]
    outline[:-1] |= numbers[1:] != numbers[:-1]
    grey = np.asarray(plain, np.float32)
    # The colour follows the grey value instead of covering it: a plain mix turns yellow on dark density to olive.
    tinted = palette[numbers] * (SHADE + (1 - SHADE) / 255 * grey)
    mixed = np.where(outline[..., None], palette[numbers], FILL * tinted + (1 - FILL) * grey)
    return Image.fromarray(np.where(inside[..., None], mixed, grey).astype(np.uint8))


def _scaled(section: NDArray[np.generic], scale: float) -> tuple[int, int]:
    height, width = section.shape
    return max(1, round(width * scale)), max(1, round(height * scale))


def _draw_scale_bar(panel: Panel, voxel_size: float, scale: float) -> None:
    """Draw a bar of a round length, about a quarter of the panel, on a dark plate."""
    unit = voxel_size / 10 or 1.0
    length = round_length(panel.width / scale * unit / 4)
    pixels = max(1, round(length / unit * scale))
    text = f"{length:g} nm" if voxel_size else f"{length:g} voxels"
    font = ImageFont.load_default(size=20)
    draw = ImageDraw.Draw(panel, "RGBA")
    plate = max(pixels, round(font.getlength(text))) + 24
    left, bottom = 12, panel.height - 12
    draw.rounded_rectangle((left, bottom - 52, left + plate, bottom), 6, fill=(0, 0, 0, 170))
    draw.rectangle((left + 12, bottom - 16, left + 12 + pixels - 1, bottom - 11), fill=BRIGHT)
    draw.text((left + 12, bottom - 46), text, fill=BRIGHT, font=font)


def round_length(wanted: float) -> float:
    """Return the largest of 1, 2 and 5 times a power of ten that is not longer than what is wanted."""
    power = 10.0 ** math.floor(math.log10(wanted))
    return max(step * power for step in (1, 2, 5) if step * power <= wanted * (1 + 1e-9))


def _voxel_size_text(voxel_size: tuple[float, float, float]) -> str:
    # In nm, because the font that Pillow brings has no Å; nor has it ×.
    if not all(voxel_size):
        return " of unknown size"
    if max(voxel_size) - min(voxel_size) > 0.005:
        return " of " + " x ".join(f"{size / 10:.3f}" for size in voxel_size) + " nm"
    return f" of {voxel_size[0] / 10:.3f} nm"


def _compose(
    rows: list[tuple[Panel, Panel]], title: str, facts: str, class_map: ClassMap, shown: list[LabelClass]
) -> Panel:
    """Put headline, panels and legend on one canvas."""
    inner = max(2 * rows[0][0].width + GAP, LEAST_WIDTH - 2 * MARGIN)
    headline, small = ImageFont.load_default(size=30), ImageFont.load_default(size=19)
    legend = _legend_lines(class_map, inner, small)
    top = MARGIN + 40 + 34
    captions = ("xy", "xz")
    height = top + sum(row[0].height + GAP for row in rows) + 10 + 32 * len(legend) + MARGIN - 8
    canvas = Image.new("RGB", (inner + 2 * MARGIN, height), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, MARGIN - 8), _shortened(title, inner, headline), fill=BRIGHT, font=headline)
    draw.text((MARGIN, MARGIN + 34), _shortened(facts, inner, small), fill=DIM, font=small)

    y = top
    for (plain, overlay), caption in zip(rows, captions, strict=True):
        left = MARGIN + (inner - 2 * plain.width - GAP) // 2
        for x, panel in ((left, plain), (left + plain.width + GAP, overlay)):
            canvas.paste(panel, (x, y))
            draw.rectangle((x - 1, y - 1, x + panel.width, y + panel.height), outline=FRAME)
        _draw_caption(canvas, caption, left + plain.width - 8, y + 8, small)
        y += plain.height + GAP
    y += 10
    for line in legend:
        for x, label_class in line:
            colour = label_class.colour if label_class in shown else tuple(c // 3 for c in label_class.colour)
            draw.rounded_rectangle((MARGIN + x, y + 2, MARGIN + x + 20, y + 20), 4, fill=colour)
            text = BRIGHT if label_class in shown else DIM
            draw.text((MARGIN + x + 30, y), label_class.name, fill=text, font=small)
        y += 32
    return canvas


def _draw_caption(
    canvas: Panel, text: str, right: int, top: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> None:
    draw = ImageDraw.Draw(canvas, "RGBA")
    width = round(font.getlength(text))
    draw.rounded_rectangle((right - width - 16, top, right, top + 28), 5, fill=(0, 0, 0, 150))
    draw.text((right - width - 8, top + 3), text, fill=BRIGHT, font=font)


def _legend_lines(
    class_map: ClassMap, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> list[list[tuple[int, LabelClass]]]:
    """Break the legend into lines; each entry comes with its x."""
    lines: list[list[tuple[int, LabelClass]]] = [[]]
    x = 0
    for label_class in class_map.classes:
        entry = 30 + round(font.getlength(label_class.name)) + 24
        if lines[-1] and x + entry > width:
            lines.append([])
            x = 0
        lines[-1].append((x, label_class))
        x += entry
    return lines


def _shortened(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
