"""The pictures that the page shows before a volume is read: previews and thumbnails, small files of the watcher's own.

``pictures/<number>/`` holds those of an entry. Their names begin with what tells the content, so that pictures of
earlier content are never shown for later one, and nothing has to be written down about them. All can be made anew.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tomoscribe.engine.class_map import ClassMap
from tomoscribe.engine.picture import overlay_panel
from tomoscribe.engine.replacing import replacing
from tomoscribe.engine.result import SlicePreview
from tomoscribe.engine.watch.entry import Entry

__all__ = ["LARGEST_SIDE", "Pictures", "content_key", "encode_grey", "encode_labels", "encode_thumbnail"]

LARGEST_SIDE = 1024
"""Pixels: larger slices are made smaller for a browser."""

_THUMBNAIL_SIDE = 320
_DEVIATIONS = 3.0  # grey values are stretched between so many standard deviations on each side of the mean


def encode_grey(image: NDArray[np.generic], mean: float, standard_deviation: float) -> bytes:
    """Return a slice as a browser shows it: an 8-bit WebP, black and white three deviations from the mean.

    Args:
        image: ``(y, x)``; y points upwards in the picture. NaN is black.
        mean: of the tomogram's intensities.
        standard_deviation: of the same, above 0.
    """
    low = mean - _DEVIATIONS * standard_deviation
    scaled = (image[::-1].astype(np.float32) - np.float32(low)) * np.float32(
        255 / (2 * _DEVIATIONS * standard_deviation)
    )
    grey = np.clip(np.nan_to_num(scaled, nan=0, posinf=255, neginf=0), 0, 255).astype(np.uint8)
    # Averages of what falls into a pixel, or noise alone would be seen of large slices.
    return _webp(_fitted(Image.fromarray(grey), LARGEST_SIDE, Image.Resampling.BOX))


def encode_labels(labels: NDArray[np.uint8]) -> bytes:
    """Return the labels of a slice as an 8-bit grey PNG whose values are the label numbers.

    Args:
        labels: ``(y, x)``; y points upwards in the picture, which has the size of `encode_grey`'s.
    """
    picture = _fitted(Image.fromarray(np.ascontiguousarray(labels[::-1])), LARGEST_SIDE, Image.Resampling.NEAREST)
    encoded = io.BytesIO()
    picture.save(encoded, "PNG", compress_level=1)
    return encoded.getvalue()


def encode_thumbnail(grey: bytes, labels: bytes, class_map: ClassMap) -> bytes:
    """Return a small coloured picture of a slice: a WebP of at most 320 pixels in width and height.

    Args:
        grey: what `encode_grey` returned.
        labels: what `encode_labels` returned for the same slice.
        class_map: the colours.
    """
    with Image.open(io.BytesIO(grey)) as picture, Image.open(io.BytesIO(labels)) as numbers:
        small = _fitted(picture.convert("L"), _THUMBNAIL_SIDE, Image.Resampling.BOX)
        return _webp(overlay_panel(small.convert("RGB"), np.asarray(numbers), class_map))


def content_key(entry: Entry) -> str:
    """Return a word that is another for other content of the same entry."""
    identity = entry.identity
    return f"{identity.modified:x}-{identity.size:x}-{identity.inode:x}"


class Pictures:
    """Writes and finds the pictures of entries. Threads and processes may do so at the same time.

    Args:
        folder: of all pictures, made when the first one is written.
        class_map: the colours of thumbnails.
    """

    def __init__(self, folder: Path, class_map: ClassMap) -> None:
        self._folder = folder
        self._class_map = class_map

    def save_preview(self, entry: Entry, preview: SlicePreview) -> None:
        """Write the pictures of a slice and the thumbnail, and remove earlier ones.

        Raises:
            OutputError: they cannot be written.
        """
        start = f"{content_key(entry)}.z{preview.z}"
        labels = encode_labels(preview.labels)
        grey = encode_grey(preview.image, preview.mean, preview.standard_deviation)
        self._write(entry, f"{start}.labels.png", labels)
        # Last of the two, for it is what is looked for.
        self._write(entry, f"{start}.grey.webp", grey)
        self._write(entry, self._thumbnail_name(entry), encode_thumbnail(grey, labels, self._class_map))
        self._remove_others(entry, start)

    def preview(self, entry: Entry) -> tuple[Path, Path, int] | None:
        """Return the grey picture, the labels and the z of the slice that was saved for this content, if one was."""
        for grey in sorted(self._files(entry, ".grey.webp")):
            labels = grey.with_name(grey.name.removesuffix(".grey.webp") + ".labels.png")
            z = grey.name.split(".")[1].removeprefix("z")
            if z.isdecimal() and _is_there(grey) and _is_there(labels):
                return grey, labels, int(z)
        return None

    def thumbnail(self, entry: Entry, make: bool) -> Path | None:
        """Return the small coloured picture of the saved slice, at most 320 pixels wide and high; None without one.

        Args:
            entry: whose.
            make: draw it from the preview where it is not there.

        Raises:
            OutputError: it cannot be written.
        """
        path = self._folder_of(entry) / self._thumbnail_name(entry)
        if _is_there(path):
            return path
        preview = self.preview(entry) if make else None
        if preview is None:
            return None
        grey, labels, _ = preview
        try:
            drawn = encode_thumbnail(grey.read_bytes(), labels.read_bytes(), self._class_map)
        except OSError:
            return None  # removed meanwhile, or damaged; Pillow's errors are OSErrors too
        self._write(entry, path.name, drawn)
        return path

    def _write(self, entry: Entry, name: str, data: bytes) -> None:
        path = self._folder_of(entry) / name
        with replacing(path) as temporary:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)

    def _remove_others(self, entry: Entry, start: str) -> None:
        """Remove what is of other content or of another slice, but not what is just being written for this one."""
        kept, beginnings = self._thumbnail_name(entry), (f"{start}.", f".{content_key(entry)}.")
        with contextlib.suppress(OSError):  # they are of no harm
            for path in self._folder_of(entry).iterdir():
                if path.name != kept and not path.name.startswith(beginnings):
                    path.unlink()

    def _files(self, entry: Entry, ending: str) -> list[Path]:
        try:
            paths = list(self._folder_of(entry).iterdir())
        except OSError:
            return []
        start = f"{content_key(entry)}."
        return [path for path in paths if path.name.startswith(start) and path.name.endswith(ending)]

    def _folder_of(self, entry: Entry) -> Path:
        return self._folder / str(entry.number)

    @staticmethod
    def _thumbnail_name(entry: Entry) -> str:
        return f"{content_key(entry)}.thumbnail.webp"


def _is_there(path: Path) -> bool:
    """Return whether a file has something in it: after a power failure one may be there and empty."""
    try:
        return path.stat().st_size > 0
    except OSError:
        return False


def _fitted(picture: Image.Image, side: int, how: Image.Resampling) -> Image.Image:
    """Return a picture that is no wider and no higher than so many pixels; smaller ones are not enlarged."""
    scale = side / max(picture.size)
    if scale >= 1:
        return picture
    width, height = (max(1, round(length * scale)) for length in picture.size)
    return picture.resize((width, height), how)


def _webp(picture: Image.Image) -> bytes:
    encoded = io.BytesIO()
    # Method 2: the methods below and above take several times as long for about the same size.
    picture.save(encoded, "WEBP", quality=80, method=2)
    return encoded.getvalue()
