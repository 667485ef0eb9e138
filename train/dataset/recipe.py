"""The recipe of a dataset: which tomograms, which annotations, and what becomes of them; YAML that a user writes."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator, model_validator

from tomoscribe.engine.class_map import DEFAULT_CLASS_MAP, ClassMap
from tomoscribe.engine.errors import ParameterError
from tomoscribe.train.dataset.contract import IGNORE
from tomoscribe.train.phantom import PhantomParameters, draw_parameters
from tomoscribe.train.yaml_file import read_yaml

__all__ = [
    "FileSource",
    "LabelSource",
    "MapSource",
    "PhantomSource",
    "Recipe",
    "Source",
    "SplitRule",
    "TileRule",
    "Trim",
    "read_recipe",
]

SplitName: TypeAlias = Literal["train", "dev", "test"]
Trim: TypeAlias = Literal["automatic", "none"] | tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]]
Smallest: TypeAlias = Annotated[float, Field(ge=0)]
LabelValue: TypeAlias = Annotated[int, Field(ge=-(2**15), le=2**16 - 1)]

_PLACEHOLDER = re.compile(r"{(.*?)}")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ClassEntry(_Model):
    """A class: its name in words and its colour as ``#rrggbb``."""

    name: str = Field(min_length=1)
    colour: str = Field(pattern="^#[0-9a-fA-F]{6}$")


class TileRule(_Model):
    """What is cut from the slices.

    Attributes:
        size: height and width of a tile in pixels.
        background: share of the images that have no foreground, 0 up to but not 1; ``all`` keeps every image.
        context: slices that are kept on each side of an image; the bundled model, from which a training may start,
            looks at three.
    """

    size: int = Field(default=512, ge=16, le=4096)
    background: Annotated[float, Field(ge=0, lt=1)] | Literal["all"] = 0.1
    context: int = Field(default=3, ge=0, le=16)


class SplitRule(_Model):
    """How images are shared out among train, dev and test.

    Attributes:
        by: ``tomogram`` (no tomogram is in two splits), ``image``, or ``automatic``: by tomogram where at least three
            are free to choose from.
        shares: of train, dev and test; they add up to 1.
    """

    by: Literal["automatic", "tomogram", "image"] = "automatic"
    shares: tuple[Smallest, Smallest, Smallest] = (0.8, 0.1, 0.1)

    @field_validator("shares")
    @classmethod
    def _add_up(cls, shares: tuple[float, float, float]) -> tuple[float, float, float]:
        if not math.isclose(sum(shares), 1, abs_tol=1e-6):
            raise ValueError(f"expected shares of train, dev and test that add up to 1, found {sum(shares):g}")
        return shares


class _AnySource(_Model):
    """What every source may have.

    Attributes:
        split: the split that all its images go to; None leaves it to the recipe's rule.
        trim: as the recipe's; None is the recipe's.
    """

    split: SplitName | None = None
    trim: Trim | None = None


class FileSource(_AnySource):
    """Tomograms in files.

    Attributes:
        tomograms: file, folder, pattern or ``.txt`` list, or several of them, relative to the recipe.
        voxel_size: Å, in place of the headers'.
        axes: how the files store the axes.
        mode0: how the bytes of MRC mode 0 are read.
        invert: whether density is bright on dark.
    """

    tomograms: str | tuple[str, ...]
    voxel_size: Annotated[float, Field(gt=0)] | None = None
    axes: Literal["xyz", "xzy"] = "xyz"
    mode0: Literal["auto", "signed", "unsigned"] = "auto"
    invert: bool = False


class LabelSource(FileSource):
    """Tomograms with one label volume each.

    Attributes:
        labels: path of the label volume, where ``{tomogram}`` is the tomogram's stem and ``{folder}`` its folder.
        values: value in the file -> name of the class, ``ignore`` or ``background``; None: the value is the number.
        ignore: value of voxels that are not annotated.
    """

    labels: str
    values: dict[LabelValue, str] | None = None
    ignore: LabelValue | None = None

    @field_validator("labels")
    @classmethod
    def _known(cls, template: str) -> str:
        return _check_template(template, ("tomogram", "folder"))


class MapSource(FileSource):
    """Tomograms with one map for each feature.

    Attributes:
        maps: path of the maps, with ``{tomogram}``, ``{folder}`` and ``{feature}`` (the class as file names carry it,
            ``DoubleMembrane``), or one path for each class without the last.
        threshold: least score of the feature in the file's units, for all or by class.
        smallest: nm³ of the smallest connected component that is kept, for all or by class.
        priority: class names; where features overlap the first wins.
        missing: what a feature map that is not there means: an ``error``, that the tomogram has no such feature
            (``background``), or that nobody looked for it (``ignore``).
    """

    maps: str | dict[str, str]
    threshold: float | dict[str, float] | None = None
    smallest: Smallest | dict[str, Smallest] = 0.0
    priority: tuple[str, ...] = ()
    missing: Literal["error", "background", "ignore"] = "error"

    @field_validator("maps")
    @classmethod
    def _known(cls, maps: str | dict[str, str]) -> str | dict[str, str]:
        if isinstance(maps, dict):
            if not maps:
                raise ValueError("expected the map of one class at least")
            return {name: _check_template(template, ("tomogram", "folder")) for name, template in maps.items()}
        if "{feature}" not in maps:
            raise ValueError(f"expected {{feature}} in the path, or one path for each class, found '{maps}'")
        return _check_template(maps, ("tomogram", "folder", "feature"))


class PhantomTable(_Model):
    """Phantoms, each with a seed of its own: `seed` and those that follow.

    Attributes:
        count: how many.
        seed: of the first.
        parameters: table that `tomoscribe.train.phantom.draw_parameters` draws each from.
    """

    count: int = Field(ge=1)
    seed: int = Field(default=0, ge=0)
    parameters: dict[str, Any] = Field(default_factory=dict)

    @field_validator("parameters")
    @classmethod
    def _possible(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        # Drawn once here, so that a key that does not exist is found before the work begins.
        draw_parameters(parameters, 0)
        return parameters

    def drawn(self) -> list[PhantomParameters]:
        """Return the parameters of each phantom."""
        return [draw_parameters(self.parameters, seed) for seed in range(self.seed, self.seed + self.count)]


class PhantomSource(_AnySource):
    """Synthetic tomograms with exact labels."""

    phantoms: PhantomTable


def _kind(source: object) -> str | None:
    keys = set(source) if isinstance(source, Mapping) else set(getattr(source, "model_fields_set", ()))
    kinds = keys & {"labels", "maps", "phantoms"}
    return kinds.pop() if len(kinds) == 1 else None


Source: TypeAlias = Annotated[
    Annotated[LabelSource, Tag("labels")]
    | Annotated[MapSource, Tag("maps")]
    | Annotated[PhantomSource, Tag("phantoms")],
    Discriminator(
        _kind,
        custom_error_type="source",
        custom_error_message="a source has exactly one of the keys labels, maps and phantoms",
    ),
]


class Recipe(_Model):
    """A dataset.

    Attributes:
        name: of the dataset.
        seed: of everything that is drawn.
        classes: numbered 1, 2, 3, …; None is the default class map.
        tiles: what is cut from the slices.
        trim: slices that images are taken from: ``automatic`` finds those that hold sample, ``none`` takes all, or
            first slice and one past the last.
        split: how the images are shared out.
        sources: where tomograms and annotations are.
    """

    name: str = Field(min_length=1)
    seed: int = Field(default=0, ge=0)
    classes: tuple[ClassEntry, ...] | None = Field(default=None, min_length=1, max_length=IGNORE - 1)
    tiles: TileRule = TileRule()
    trim: Trim = "automatic"
    split: SplitRule = SplitRule()
    sources: tuple[Source, ...]

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        if not self.sources:
            raise ValueError("expected one source at least, found none")
        for source in self.sources:
            names: list[str] = []
            if isinstance(source, LabelSource) and source.values:
                names += [name for name in source.values.values() if name not in ("ignore", "background")]
            if isinstance(source, MapSource):
                by_class = (source.maps, source.threshold, source.smallest)
                names += [name for entries in by_class if isinstance(entries, dict) for name in entries]
                names += source.priority
            self.class_map.select(names)
        return self

    @property
    def class_map(self) -> ClassMap:
        """What the labels mean."""
        if self.classes is None:
            return DEFAULT_CLASS_MAP
        entries = enumerate(self.classes, 1)
        return ClassMap.from_json([{"number": n, "name": c.name, "colour": c.colour} for n, c in entries])


def read_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        ParameterError: the file cannot be read, a key is missing or unknown, or a value cannot be; the message names
            the file and the key.
    """
    return read_yaml(path, Recipe)


def _check_template(template: str, known: tuple[str, ...]) -> str:
    for name in _PLACEHOLDER.findall(template):
        if name not in known:
            choices = ", ".join(f"{{{choice}}}" for choice in known)
            raise ParameterError(f"{template}: there is no {{{name}}}; a path may have {choices}")
    return template
