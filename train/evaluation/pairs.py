"""From what a user types to pairs of labels and truth.

Labels and truth are each given as

* a **file**: one label volume;
* a **folder**: in it, the files that are called ``<tomogram>__truth`` (where the truth is looked for), or if there are
  none ``<tomogram>__labels``, or if there are none ``<tomogram>``, with any extension that `find_tomograms` looks for;
* a **form**: a path with ``{tomogram}`` in it (``'labels/{tomogram}_annotated.mrc'``), ``{feature}``
  (``'out/a__{feature}.mrc'``: one map a class), or both. The feature is the name of a class in any spelling.

A file goes with a file, whatever their names; of folders and forms, what has the same ``<tomogram>`` goes together.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tomoscribe.engine.errors import ParameterError, TomogramNotFoundError
from tomoscribe.engine.inputs import COMPRESSIONS, TOMOGRAM_EXTENSIONS, tomogram_stem

__all__ = ["FoundPairs", "Labels", "Pair", "find_pairs"]

Labels = Path | Mapping[str, Path]
"""One label volume, or a map for each of some features, by the name that it has in the file's."""

_LABEL_SUFFIXES, _TRUTH_SUFFIXES, _TOMOGRAM_SUFFIXES = ("labels", ""), ("truth", "labels", ""), ("",)
_NO_FEATURES = ("labels", "truth")
_ENDINGS = (*TOMOGRAM_EXTENSIONS, *(ending + c for ending in TOMOGRAM_EXTENSIONS for c in COMPRESSIONS))


@dataclass(frozen=True)
class Pair:
    """What is compared: the tomogram's name, labels, truth, and the tomogram itself where it is known."""

    name: str
    prediction: Labels
    truth: Labels
    tomogram: Path | None = None


@dataclass(frozen=True)
class FoundPairs:
    """The pairs in the order of their names, and a line for what has no partner."""

    pairs: tuple[Pair, ...]
    warnings: tuple[str, ...]


def find_pairs(prediction: str, truth: str, tomogram: str | None = None) -> FoundPairs:
    """Return the pairs that the arguments stand for; the files are not opened.

    Args:
        prediction: a file, folder or form.
        truth: a file, folder or form.
        tomogram: a file, folder or form without features; None if no tomogram is known.

    Raises:
        TomogramNotFoundError: a folder or form that gives nothing, no two that go together, or a pair without its
            tomogram.
        ParameterError: one file against many, or two files for one tomogram.
    """
    given, wanted = _find(prediction, _LABEL_SUFFIXES), _find(truth, _TRUTH_SUFFIXES)
    images = {} if tomogram is None else _find(tomogram, _TOMOGRAM_SUFFIXES)
    warnings = []
    if None in given or None in wanted:
        if not len(given) == len(wanted) == 1:
            raise ParameterError(
                f"{prediction}, {truth}: expected two files or two of many tomograms, found {len(given)} against "
                f"{len(wanted)}; put {{tomogram}} into both paths in place of the tomogram's name"
            )
        (name, labels), (other, true) = *given.items(), *wanted.items()
        title = name or other or _stem(labels)
        pairs = [(title, labels, true)]
        if len(images) == 1:
            images = dict(zip([title], images.values(), strict=True))
    else:
        pairs = [(name, given[name], wanted[name]) for name in sorted(filter(None, given.keys() & wanted.keys()))]
        if not pairs:
            raise TomogramNotFoundError(
                f"{prediction}, {truth}: expected labels and truth of the same tomograms, found labels of "
                f"{_listed(given)} and truth of {_listed(wanted)}"
            )
        if alone := wanted.keys() - given.keys():
            warnings.append(f"{prediction}: no labels of {_listed(alone)}, whose truth is left out")
        if alone := given.keys() - wanted.keys():
            warnings.append(f"{truth}: no truth of {_listed(alone)}, whose labels are left out")
    missing = [name for name, _, _ in pairs if not isinstance(images.get(name), Path)]
    if tomogram is not None and missing:
        raise TomogramNotFoundError(f"{tomogram}: expected the tomogram of {_listed(missing)} there, found none")
    found = [
        Pair(name, labels, true, image if isinstance(image := images.get(name), Path) else None)
        for name, labels, true in pairs
    ]
    return FoundPairs(tuple(found), tuple(warnings))


def _find(text: str, suffixes: Sequence[str]) -> Mapping[str | None, Labels]:
    """Return labels by the name of their tomogram; by None where a single file, or a single set of maps, is named."""
    path = Path(text).expanduser()
    if "{tomogram}" in text or "{feature}" in text:
        return _find_form(str(path))
    return _find_in_folder(path, suffixes) if path.is_dir() else {None: path}


def _find_in_folder(folder: Path, suffixes: Sequence[str]) -> Mapping[str | None, Labels]:
    for suffix in suffixes:
        found: dict[str | None, Path] = {}
        for path in sorted(folder.iterdir()):
            stem = tomogram_stem(path)
            fits = stem.endswith(f"__{suffix}") if suffix else "__" not in stem
            if fits and path.name.lower().endswith(_ENDINGS) and not path.name.startswith("."):
                name = stem.removesuffix(f"__{suffix}")
                if name in found:
                    raise ParameterError(
                        f"{path}: expected one file for the tomogram {name}, found {found[name].name} too; say which "
                        f"with a form, such as '{folder}/{{tomogram}}{path.name.removeprefix(name)}'"
                    )
                found[name] = path
        if found:
            return found
    expected = " or ".join(f"<tomogram>{'__' if suffix else ''}{suffix}.mrc" for suffix in suffixes)
    raise TomogramNotFoundError(
        f"{folder}: expected {expected} in this folder, found none; say how the files are called, such as "
        f"'{folder}/{{tomogram}}_labelled.mrc'"
    )


def _find_form(form: str) -> Mapping[str | None, Labels]:
    expression = pattern = ""
    for piece in re.split(r"(\{tomogram\}|\{feature\})", form):
        if piece not in ("{tomogram}", "{feature}"):
            expression += re.escape(piece)
            pattern += glob.escape(piece)
        else:
            key = piece.strip("{}")
            expression += f"(?P={key})" if f"(?P<{key}>" in expression else f"(?P<{key}>[^/]+)"
            pattern += "*"
    volumes: dict[str | None, Path] = {}
    maps: dict[str | None, dict[str, Path]] = {}
    for path in sorted(glob.glob(pattern)):  # noqa: PTH207 - Path.glob takes no absolute pattern
        match = re.fullmatch(expression, path)
        if match is None:
            continue
        name, feature = (match.groupdict().get(key) for key in ("tomogram", "feature"))
        if feature is None:
            volumes[name] = Path(path)
        elif feature not in _NO_FEATURES:
            maps.setdefault(name, {})[feature] = Path(path)
    if not (volumes or maps):
        raise TomogramNotFoundError(
            f"{form}: no file is called like this; {{tomogram}} and {{feature}} stand for names"
        )
    return {**volumes, **maps}


def _stem(labels: Labels) -> str:
    path = labels if isinstance(labels, Path) else next(iter(labels.values()))
    return tomogram_stem(path).split("__")[0]


def _listed(names: Iterable[object]) -> str:
    listed = sorted(str(name) for name in names)
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")
