"""Which files of a watched folder are reconstructions, by their names and, where names do not tell, by their headers.

Counted are the names that `tomoscribe.engine.inputs` takes from a folder, in sub-folders too. What the programs that
write reconstructions put beside them is left out:

* **AreTomo3** (``CTsPackage.cpp``, ``CAsyncSaveVol.cpp``) writes ``X_Vol.mrc``, the volume, beside ``X.mrc``, the tilt
  series, with ``X_TLT.txt``; halves (``X_EVN_Vol.mrc``, ``X_ODD_Vol.mrc``), the volume once more in other binnings
  (``X_2ND_Vol.mrc``, ``X_3RD_Vol.mrc``), power spectra (``X_CTF.mrc``) and a folder ``X_Imod`` for IMOD.
* **Warp** (``TiltSeries.cs``, ``Movie.cs``) writes ``reconstruction/X_10.00Apx.mrc``, and it once more, as halves and
  deconvolved, in sub-folders; averages, masks, spectra and tilt series in folders of their own.
* **IMOD** (eTomo's ``FileType.java``) writes ``X_rec.mrc`` or ``X.rec`` after trimming; before it ``X_full_rec.mrc`` or
  ``X_full.rec``, samples of the top, middle and bottom, trials of filters, and stacks of every kind.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from tomoscribe.engine.inputs import COMPRESSIONS, TOMOGRAM_EXTENSIONS, UNCOMPRESSED_EXTENSIONS, tomogram_stem
from tomoscribe.engine.tomogram.mrc_header import HEADER_SIZE, MrcHeader, parse_header

__all__ = ["is_reconstruction", "is_searched", "stack_reason", "tilt_series_companion"]

_OTHER_FOLDERS = frozenset(
    [
        *("average", "ctf", "deconv", "denoising", "even", "mask", "matching", "odd", "particles", "particleseries"),
        *("powerspectrum", "segmentation", "subtomo", "thumbnails", "tiltstack"),
    ]
)
# Names without .gz and .bz2.
_OTHER_NAMES = re.compile(
    r"""(
      _(EVN|ODD|even|odd)(_Vol|(_full)?_rec)?(_[\d.]+Apx)?\.\w+  # halves
    | _(2ND|3RD)_Vol\.mrc                                        # AreTomo3's volume in another binning
    | _(CTF|Thick|proj|projXY|projXZ|projYZ)\.mrc                # AreTomo's spectra, trials and projections
    | _(st|aligned|ali|preali|preblend)\.mrc                     # tilt series of AreTomo, Warp and IMOD
    | _(full|3dfind|cpos)(-\d+)?(\.rec|_rec\.mrc)                # IMOD's volumes before trimming, and to find beads
    | ^(top|mid|bot|sum)[ab]?(\.rec|_rec\.mrc)                   # its samples, and two axes before trimming
    | _((srec|sint|vsr|efos|slfi)\d+|(gfc|hlfs)\d+\.\d+(-f\d+\.\d+)?)\.mrc  # its trials of SIRT and of filters
    )$""",
    re.VERBOSE,
)
# Written by AreTomo3 (one before the tilt series, one long after), by eTomo, and by SerialEM.
_COMPANIONS = ("_TLT.txt", "_Vol.mrc", ".rawtlt", ".mrc.mdoc")
_LARGEST_TILT = 90.0
_LEAST_RANGE = 10.0
_LARGEST_EXTENDED_HEADER = 1 << 22
# SerialEM: the bytes that each bit of the flags stands for; the first is the tilt angle.
_SERIALEM_BYTES = (2, 6, 4, 2, 2, 4, 2, 4, 2, 4, 2)


def is_reconstruction(relative: PurePosixPath, patterns: Sequence[str] = ()) -> bool:
    """Return whether a file is to be labelled, as far as its name says.

    Args:
        relative: its path, relative to the watched folder.
        patterns: in place of the rules of this module. One with a ``/`` is held against the path, where ``**`` stands
            for any number of folders, and one without against the name. Names with ``__``, hidden files and what is in
            hidden folders never count: they are outputs, or not there yet.
    """
    if "__" in tomogram_stem(Path(relative.name)) or relative.name.startswith("."):
        return False
    if not all(is_searched(folder, patterns) for folder in relative.parts[:-1]):
        return False
    if patterns:
        return any(_matches(relative.parts, pattern) for pattern in patterns)
    name = relative.name
    compression = next((ending for ending in COMPRESSIONS if name.lower().endswith(ending)), "")
    name = name[: len(name) - len(compression)]
    known = tuple(e for e in TOMOGRAM_EXTENSIONS if not (compression and e in UNCOMPRESSED_EXTENSIONS))
    return name.lower().endswith(known) and _OTHER_NAMES.search(name) is None


def is_searched(folder: str, patterns: Sequence[str] = ()) -> bool:
    """Return whether a sub-folder of this name is looked into; with patterns, all are that are not hidden."""
    if folder.startswith(".") or folder.lower().endswith(".zarr"):
        return False
    return bool(patterns) or not (folder in _OTHER_FOLDERS or folder.endswith("_Imod"))


def tilt_series_companion(path: Path) -> str | None:
    """Return the name of a file beside an ``X.mrc`` that says that it is a tilt series, None if there is none.

    The headers of AreTomo3's tilt series and volumes are alike, so that only this tells them apart.
    """
    if path.suffix.lower() != ".mrc":
        return None
    names = (path.stem + ending for ending in _COMPANIONS)
    return next((name for name in names if path.with_name(name).exists()), None)


def stack_reason(path: Path) -> str | None:
    """Return why a file is a stack of images and no volume, as its header has it; None if it says nothing of the kind.

    It says so by MRC2014's rule (space group 0 and a cell of one section), or by the tilt angles of the sections in an
    extended header as SerialEM, FEI's programs or, after Agard's, AreTomo write it. Files that cannot be read say
    nothing.
    """
    try:
        with path.open("rb") as file:
            start = file.read(HEADER_SIZE)
            if len(start) < HEADER_SIZE:
                return None
            header = parse_header(start)
            size = header.extended_size
            extended = file.read(size) if header.plausible and 0 < size <= _LARGEST_EXTENDED_HEADER else b""
    except OSError:
        return None
    sections = header.size[2]
    if not header.plausible or sections == 1:
        return None
    if header.space_group == 0 and header.sampling[2] == 1:
        return f"expected a volume, found a stack of {sections} images by its header; --pattern takes it all the same"
    tilts = _tilts(start, extended, header)
    if tilts and max(map(abs, tilts)) <= _LARGEST_TILT and max(tilts) - min(tilts) >= _LEAST_RANGE:
        return (
            f"expected a volume, found a tilt series from {min(tilts):.0f}° to {max(tilts):.0f}° by its header; "
            "--pattern takes it all the same"
        )
    return None


def _matches(parts: tuple[str, ...], pattern: str) -> bool:
    if "/" not in pattern:
        return fnmatchcase(parts[-1], pattern)
    return _matches_path(parts, tuple(pattern.strip("/").split("/")))


def _matches_path(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches_path(parts[skipped:], pattern[1:]) for skipped in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and _matches_path(parts[1:], pattern[1:])


def _tilts(start: bytes, extended: bytes, header: MrcHeader) -> list[float]:
    """Return the tilt angle of every section in degrees; none where the extended header holds none.

    Sources: IMOD's mrc_format.txt for SerialEM's values (int16, hundredths of a degree, first where bit 0 is set) and
    Agard's (integers, then floats, the first of which is the tilt); MRC2014's note on FEI1 (float64 at byte 100).
    """
    sections = header.size[2]
    integers, floats = struct.unpack_from(header.byte_order + "hh", start, 128)
    kind = start[104:108]
    flagged = sum(count for bit, count in enumerate(_SERIALEM_BYTES) if floats >> bit & 1)
    if kind in (b"FEI1", b"FEI2"):
        layout, step, place, scale = "d", len(extended) // sections, 100, 1.0
    elif flagged == integers and floats & 1:
        layout, step, place, scale = "h", integers, 0, 0.01
    elif kind != b"SERI" and integers >= 0 < floats:
        layout, step, place, scale = "f", 4 * (integers + floats), 4 * integers, 1.0
    else:
        return []
    if step < place + struct.calcsize(layout) or len(extended) < sections * step:
        return []
    return [
        scale * struct.unpack_from(header.byte_order + layout, extended, section * step + place)[0]
        for section in range(sections)
    ]
