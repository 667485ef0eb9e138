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
        ParameterError: a list that cannot be read, or one label volume for several tomograms.
    """
    taken: set[str] = set()
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
            inputs.append(
                AnnotatedFile(name, class_map, trim, source.split, source.invert, path, source, labels, missing)
            )
    return inputs


def _tomograms(source: FileSource, folder: Path) -> tuple[Path, ...]:
    entries = [source.tomograms] if isinstance(source.tomograms, str) else source.tomograms
    found = find_tomograms(_relative(entry, folder) for entry in entries).tomograms
    template = source.labels if isinstance(source, LabelSource) else ""
    if len(found) > 1 and template and "{" not in template:
        raise ParameterError(
            f"{template}: expected {{tomogram}} in the path of the labels of {len(found)} tomograms, found one path"
        )
    return found


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
    number, unused = 1, name
    while unused.casefold() in taken:
        number += 1
        unused = f"{name}_{number}"
    taken.add(unused.casefold())
    return unused
