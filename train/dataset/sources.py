"""From a recipe to the tomograms that it names, each with the paths of its annotation."""

from __future__ import annotations

import glob
from pathlib import Path

from tomoscribe.engine.class_map import ClassMap
from tomoscribe.engine.errors import ParameterError
from tomoscribe.engine.inputs import find_tomograms, tomogram_stem
from tomoscribe.train.dataset.pairs import AnnotatedFile, AnnotatedPhantom, Input
from tomoscribe.train.dataset.recipe import FileSource, LabelSource, MapSource, PhantomSource, Recipe

__all__ = ["find_inputs"]


def find_inputs(recipe: Recipe, folder: Path) -> list[Input]:
    """Return the tomograms that a recipe names, in its order; no file is opened.

    Args:
        recipe: the recipe.
        folder: what its paths are relative to.

    Raises:
        TomogramNotFoundError: a source gives no tomogram.
        ParameterError: a list that cannot be read, or a file that would annotate two tomograms or two features.
    """
    taken: set[str] = set()
    owners: dict[Path, tuple[str, str]] = {}
    inputs: list[Input] = []
    class_map = recipe.class_map
    for source in recipe.sources:
        trim = source.trim or recipe.trim
        if isinstance(source, PhantomSource):
            for drawn in source.phantoms.drawn():
                name = _unused(f"phantom_{drawn.seed}", taken)
                inputs.append(AnnotatedPhantom(name, class_map, trim, source.split, False, drawn))
            continue
        for path in _tomograms(source, folder):
            name = _unused(tomogram_stem(path), taken)
            labels, missing = _annotation_paths(source, path, folder, class_map)
            found = AnnotatedFile(name, class_map, trim, source.split, source.invert, path, source, labels, missing)
            _check_owner(found, owners)
            inputs.append(found)
    return inputs


def _check_owner(found: AnnotatedFile, owners: dict[Path, tuple[str, str]]) -> None:
    """See that no file is the annotation of another tomogram too, or of another feature."""
    files = {"": found.labels} if isinstance(found.labels, Path) else found.labels
    for feature, path in files.items():
        owner = (found.identity, feature)
        other = owners.setdefault(path, owner)
        if other != owner:
            used = " and ".join(f"{what} of {tomogram}".removeprefix(" of ") for tomogram, what in (other, owner))
            raise ParameterError(
                f"{path}: expected the annotation of one tomogram, and of one feature if it is a map, found it named "
                f"for {used}; put {{tomogram}}, and {{feature}} if there are several, into its path"
            )


def _tomograms(source: FileSource, folder: Path) -> tuple[Path, ...]:
    entries = [source.tomograms] if isinstance(source.tomograms, str) else source.tomograms
    return find_tomograms(_relative(entry, folder) for entry in entries).tomograms


def _relative(entry: str, folder: Path) -> Path:
    path = Path(entry).expanduser()
    # Only the entry is a pattern: a bracket in the name of the recipe's folder stands for itself.
    is_pattern = glob.has_magic(entry) and not (folder / path).exists()
    return Path(glob.escape(str(folder))) / path if is_pattern else folder / path


def _annotation_paths(
    source: LabelSource | MapSource, tomogram: Path, folder: Path, class_map: ClassMap
) -> tuple[Path | dict[str, Path], tuple[Path, ...]]:
    """Return the label volume, or the maps by class, and the maps that are not there."""

    def fill(template: str, feature: str = "") -> Path:
        filled = template.replace("{tomogram}", tomogram_stem(tomogram)).replace("{feature}", feature)
        return folder / Path(filled.replace("{folder}", str(tomogram.parent.absolute()))).expanduser()

    if isinstance(source, LabelSource):
        return fill(source.labels), ()
    if isinstance(source.maps, str):
        maps = {c.name: fill(source.maps, c.feature) for c in class_map.classes}
    else:
        maps = {name: fill(template) for name, template in source.maps.items()}
    there = {name: path for name, path in maps.items() if path.exists()}
    missing = tuple(path for name, path in maps.items() if name not in there)
    return there, missing


def _unused(name: str, taken: set[str]) -> str:
    """Return a name that is not taken yet in any spelling, because some file systems know no case."""
    # No name in a Zarr group consists of dots, begins with two underscores, or is that of the group's own file.
    if not name.strip(".") or name.startswith("__") or name.casefold() == "zarr.json":
        name = f"tomogram_{name}"
    number, unused = 1, name
    while unused.casefold() in taken:
        number += 1
        unused = f"{name}_{number}"
    taken.add(unused.casefold())
    return unused
