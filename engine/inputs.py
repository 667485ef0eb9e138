"""From what a user types to a list of tomograms: files, folders, patterns and ``.txt`` lists.

* A **file** is taken as it stands, whatever its name, unless it is an output of an earlier run: a
  ``<tomogram>__<Feature>.mrc`` that the ``<tomogram>__labels.json`` beside it lists. So ``*.mrc`` can be run twice.
* A **folder** gives the tomograms in it, sorted by name, without its subfolders: ``.mrc``, ``.rec``, ``.map``,
  ``.hdf``, ``.tif`` and ``.tiff``, the MRC ones also as ``.gz`` and ``.bz2``. Left out are hidden files, names with
  ``__`` (label volumes, of tomoscribe, Ais, easymode) and names that end in ``_EVN`` or ``_ODD``, also before ``_Vol``
  (half maps).
  Tilt series (``.st``, ``.ali``, ``.preali``, ``.mrcs``) are not looked for. A ``.zarr`` counts as a file here.
* A **pattern** (``"*/*.mrc"``, quoted; ``**`` goes any depth) gives the files that match, sorted, less the same ones.
* A **list** (``.txt``) has a file, folder or pattern a line, relative to the list; ``#`` starts a comment line.

A file that comes up twice is taken once. Whether a file that was named exists is seen when it is opened, so that one
wrong name does not stop a run.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tomoscribe.engine.errors import ParameterError, TomogramNotFoundError, TomoscribeError

__all__ = ["FoundTomograms", "check_output_names", "find_tomograms", "tomogram_stem"]

COMPRESSIONS = (".gz", ".bz2")
UNCOMPRESSED_EXTENSIONS = (".hdf", ".tif", ".tiff")
TOMOGRAM_EXTENSIONS = (".mrc", ".rec", ".map", *UNCOMPRESSED_EXTENSIONS)
STACK_EXTENSIONS = (".st", ".ali", ".preali", ".mrcs")
HALF_MAP = re.compile(r"_(EVN|ODD)(_Vol)?$")


@dataclass(frozen=True)
class FoundTomograms:
    """What was found.

    Attributes:
        tomograms: the files to work on, in the order of the inputs, each once.
        left_out: files that the rules of this module leave out: earlier outputs and half maps.
    """

    tomograms: tuple[Path, ...]
    left_out: tuple[Path, ...]


def find_tomograms(inputs: Iterable[Path | str]) -> FoundTomograms:
    """Return the tomograms that the inputs stand for.

    Raises:
        TomogramNotFoundError: a folder, pattern or list that gives no tomogram.
        ParameterError: a list that cannot be read as text, or a folder that may not be looked into.
    """
    tomograms: dict[str, Path] = {}
    left_out: dict[str, Path] = {}
    for entry in inputs:
        try:
            for path, wanted in _expand(Path(entry).expanduser()):
                (tomograms if wanted else left_out).setdefault(_absolute(path), path)
        except TomoscribeError:
            raise
        except OSError as error:
            raise ParameterError(
                f"{entry}: cannot be searched for tomograms, {error.filename}: {error.strerror}; check its permissions"
            ) from error
    for key in tomograms:
        left_out.pop(key, None)
    if not tomograms:
        found = f"only earlier outputs, such as {next(iter(left_out.values()))}" if left_out else "no input"
        raise TomogramNotFoundError(f"nothing to segment: expected the names of tomograms, found {found}")
    return FoundTomograms(tuple(tomograms.values()), tuple(left_out.values()))


def tomogram_stem(path: Path) -> str:
    """Return the name that outputs begin with: ``a.mrc.gz`` and ``a.rec`` give ``a``; a dot inside a name is kept."""
    name = path.name
    for endings in (COMPRESSIONS, TOMOGRAM_EXTENSIONS + STACK_EXTENSIONS):
        ending = next((e for e in endings if name.lower().endswith(e) and len(name) > len(e)), "")
        name = name[: len(name) - len(ending)]
    return name


def check_output_names(tomograms: Sequence[Path], output: Path | None = None) -> None:
    """See that no two tomograms would write the same files.

    Args:
        tomograms: the files to work on.
        output: the folder for all outputs; None puts them beside each tomogram.

    Raises:
        ParameterError: two would; the message names both.
    """
    taken: dict[str, Path] = {}
    for path in tomograms:
        key = _absolute((output or path.parent) / tomogram_stem(path))
        if key in taken:
            raise ParameterError(
                f"{path}: its outputs would have the same names as those of {taken[key]} ({key}__labels.mrc); "
                "name only one of the two, or run them with different --output folders"
            )
        taken[key] = path


def _absolute(path: Path) -> str:
    # Links are not followed: two links to one file are two names, and each gets its own output.
    return os.path.normpath(path.absolute())


def _expand(entry: Path, folder: Path = Path()) -> Iterator[tuple[Path, bool]]:
    """Give the files that an input, relative to a folder, stands for, each with whether it is wanted."""
    # An absolute entry wins over the folder: that is what joining paths does.
    path = folder / entry
    # The tests of os.path are False where those of pathlib raise, for a name that is too long or a folder that may not
    # be looked into: such a path is taken for a file, and what is wrong with it is told when it is opened.
    if path.suffix.lower() == ".txt" and os.path.isfile(path):  # noqa: PTH113
        yield from _expand_list(path)
    elif path.suffix.lower() != ".zarr" and os.path.isdir(path):  # noqa: PTH112
        yield from _expand_folder(path)
    elif glob.has_magic(str(entry)) and not os.path.exists(path):  # noqa: PTH110
        yield from _expand_pattern(entry, folder)
    else:
        yield path, not _is_own_output(path)


def _expand_list(path: Path) -> Iterator[tuple[Path, bool]]:
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path}: expected a text file with one tomogram a line ({error})") from error
    if any("\0" in line for line in lines):
        raise ParameterError(f"{path}: expected a text file with one tomogram a line, found binary data")
    entries = [line for line in lines if line and not line.startswith("#")]
    if not entries:
        raise TomogramNotFoundError(f"{path}: the list names no tomogram; write one path a line")
    for entry in entries:
        if entry.lower().endswith(".txt"):
            raise ParameterError(f"{path}: a list may not name another list ({entry}); name both on the command line")
        yield from _expand(Path(entry).expanduser(), path.parent)


def _expand_folder(folder: Path) -> Iterator[tuple[Path, bool]]:
    candidates = sorted(path for path in folder.iterdir() if _looks_like_tomogram(path))
    found = [(path, _is_wanted(path)) for path in candidates]
    if not any(wanted for _, wanted in found):
        rest = f", and {len(found)} that are earlier outputs or half maps" if found else ""
        known = " ".join(TOMOGRAM_EXTENSIONS)
        raise TomogramNotFoundError(f"{folder}: no tomogram in this folder (looked for {known}; found none{rest})")
    yield from found


def _expand_pattern(pattern: Path, folder: Path) -> Iterator[tuple[Path, bool]]:
    # Only the pattern is one: a bracket in the name of the list's folder stands for itself.
    # Path.glob takes no absolute pattern and no `..`, and gives hidden files.
    names = glob.glob(str(Path(glob.escape(str(folder))) / pattern), recursive=True)  # noqa: PTH207
    matches = sorted(path for path in map(Path, names) if path.is_file())
    if not any(_is_wanted(path) for path in matches):
        rest = f"; {len(matches)} that match are earlier outputs or half maps" if matches else ""
        raise TomogramNotFoundError(f"{folder / pattern}: no tomogram matches this pattern{rest}")
    yield from ((path, _is_wanted(path)) for path in matches)


def _looks_like_tomogram(path: Path) -> bool:
    name = path.name.lower()
    compressed = next((ending for ending in COMPRESSIONS if name.endswith(ending)), "")
    known = tuple(e for e in TOMOGRAM_EXTENSIONS if not (compressed and e in UNCOMPRESSED_EXTENSIONS))
    return name.removesuffix(compressed).endswith(known) and not name.startswith(".") and path.is_file()


def _is_wanted(path: Path) -> bool:
    stem = tomogram_stem(path)
    return "__" not in stem and not HALF_MAP.search(stem)


def _is_own_output(path: Path) -> bool:
    """Return whether the sidecar of an earlier run lists a file as one of its outputs."""
    stem, separator, _ = tomogram_stem(path).rpartition("__")
    if not separator:
        return False
    try:
        facts = json.loads(path.with_name(f"{stem}__labels.json").read_text(encoding="utf-8"))
        return path.name == facts["labels"] or path.name in facts["class_volumes"].values()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
