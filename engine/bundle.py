"""The bundle: the folder that a model is deployed as, and what its ``model.json`` says.

::

    mymodel/
      model.json               format version, specification, artifacts with their sha256, parity, training, provenance
      model.fp32.onnx          the network in the graph contract; the reference of the others
      model.fp16.onnx          the same in FP16 between normalisation and softmax
      model.int8.onnx          the same, quantised, in the form that TensorRT takes
      model.int8-cpu.onnx      the same, quantised, in the form that ONNX Runtime is fast with on a CPU
      checkpoint.safetensors   the checkpoint that it was made from, to train it further
      parity.json, parity.md   how far each artifact is from the network that was trained, with pictures
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from tomoscribe.engine.class_map import ClassMap
from tomoscribe.engine.errors import BundleError, ParameterError
from tomoscribe.engine.replacing import replacing

__all__ = ["CHECKPOINT", "MODEL_FILE", "NORMALISATIONS", "Artifact", "Bundle", "ModelSpecification", "default_bundle"]

MODEL_FILE = "model.json"
CHECKPOINT = "checkpoint"
"""The artifact that is not for the engine: the weights as training keeps them. Older bundles have none."""
NORMALISATIONS = ("volume", "none")
"""What a specification may say of intensities; see `ModelSpecification`."""

_FORMAT = "tomoscribe-bundle"
_FORMAT_VERSION = 1
_CHOICES = {
    "polarity": ("dark", "bright"),
    "normalisation": NORMALISATIONS,
    "test_time_augmentation": ("none", "flips", "flips-and-turns"),
}


@dataclass(frozen=True)
class ModelSpecification:
    """What the engine has to know of a network to feed it and to read its answer.

    Attributes:
        name: the model's name, as outputs and logs carry it.
        class_map: what the label numbers mean.
        context: context slices on each side, k; the network sees ``2k + 1`` slices to label one.
        tile_multiple: the height and width of a tile are multiples of this, in pixels.
        halo: margin in pixels after which a tile's values are those of the whole slice; exact where the tile
            begins at a multiple of `tile_multiple` and the slice is padded to one.
        voxel_size: ``(smallest, largest)`` in Å that the model was trained on.
        polarity: ``dark`` where density is darker than its surroundings, as reconstruction programs write it, or
            ``bright``.
        normalisation: ``volume``: one mean and one standard deviation for the whole tomogram; ``none``: the graph takes
            intensities as they are, and of `mean` and `rstd` only where the contrast is turned over.
        test_time_augmentation: what the graph's probabilities are the mean over. ``none``: the tile as it is;
            ``flips``: the tile, mirrored along y, along x and along both; ``flips-and-turns``: these four and their
            transposes, all the symmetries of a square.

    Raises:
        ParameterError: a value that cannot be; the message names it.
    """

    name: str
    class_map: ClassMap
    context: int
    tile_multiple: int
    halo: int
    voxel_size: tuple[float, float]
    polarity: str = "dark"
    normalisation: str = "volume"
    test_time_augmentation: str = "none"

    def __post_init__(self) -> None:
        if not self.name.strip() or not self.name.isprintable():
            raise ParameterError(f"model name: expected printable text, found {self.name!r}")
        for name, smallest in (("context", 0), ("tile_multiple", 1), ("halo", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < smallest:
                raise ParameterError(f"{name}: expected a whole number of at least {smallest}, found {value!r}")
        small, large = self.voxel_size
        if not (0 < small <= large and math.isfinite(large)):
            raise ParameterError(f"voxel_size: expected (smallest, largest) in Å, found {self.voxel_size}")
        for name, known in _CHOICES.items():
            if (value := getattr(self, name)) not in known:
                raise ParameterError(f"{name}: expected one of {', '.join(known)}, found {value!r}")

    @property
    def classes(self) -> int:
        """Classes with background: the length of the class axis of the scores."""
        return len(self.class_map) + 1

    def to_json(self) -> dict[str, Any]:
        """Return the specification as it stands in ``model.json``."""
        augmentation = self.test_time_augmentation
        return {
            "name": self.name,
            "classes": self.class_map.to_json(),
            "context": self.context,
            "tile_multiple": self.tile_multiple,
            "halo": self.halo,
            "voxel_size": list(self.voxel_size),
            "polarity": self.polarity,
            "normalisation": self.normalisation,
            **({} if augmentation == "none" else {"test_time_augmentation": augmentation}),
        }

    @classmethod
    def from_json(cls, entries: Mapping[str, Any]) -> ModelSpecification:
        """Read what `to_json` wrote.

        Raises:
            ParameterError: a key is missing, or its value cannot be.
        """
        try:
            smallest, largest = entries["voxel_size"]
            return cls(
                name=str(entries["name"]),
                class_map=ClassMap.from_json(entries["classes"]),
                context=entries["context"],
                tile_multiple=entries["tile_multiple"],
                halo=entries["halo"],
                voxel_size=(float(smallest), float(largest)),
                polarity=entries["polarity"],
                normalisation=entries["normalisation"],
                test_time_augmentation=entries.get("test_time_augmentation", "none"),
            )
        except KeyError as error:
            raise ParameterError(f"specification: expected the key {error}, which is missing") from error
        except ParameterError:
            raise
        except (TypeError, ValueError) as error:
            raise ParameterError(f"specification: a value of the wrong kind ({error})") from error


@dataclass(frozen=True)
class Artifact:
    """One file of a bundle: its name inside the folder, and the sha256 of its bytes in hexadecimal."""

    file: str
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Artifact:
        """Return the artifact that a file is now.

        Raises:
            OSError: the file cannot be read.
        """
        return cls(path.name, _sha256(path))


@dataclass(frozen=True)
class Bundle:
    """A model as it is deployed.

    Attributes:
        path: the folder.
        specification: what the engine has to know.
        artifacts: the network's files by precision, such as ``fp32``, and its `CHECKPOINT`.
        parity: how far the artifacts are from the network that was trained, by precision; ``passed`` is false for one
            that was written although it drifts.
        training: where the weights come from.
        provenance: the versions that the bundle was exported with; older bundles have none.
    """

    path: Path
    specification: ModelSpecification
    artifacts: Mapping[str, Artifact]
    parity: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    _intact: set[str] = field(default_factory=set, init=False, repr=False, compare=False)

    @classmethod
    def load(cls, path: Path | str) -> Bundle:
        """Read a bundle's ``model.json``; the artifacts are not opened.

        Raises:
            BundleError: no such folder, no ``model.json`` in it, a newer format, or a value that cannot be.
        """
        folder = Path(path)
        model_file = folder / MODEL_FILE
        if not folder.is_dir():
            found = "a file" if folder.exists() else "nothing"
            raise BundleError(f"{folder}: expected a model bundle (a folder with {MODEL_FILE}), found {found} there")
        try:
            entries = json.loads(model_file.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise BundleError(f"{folder}: no {MODEL_FILE} in it; a bundle is what tomoscribe export writes") from error
        except OSError as error:
            raise BundleError(f"{model_file}: cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise BundleError(f"{model_file}: not valid JSON ({error}); export the model again") from error
        if not isinstance(entries, dict) or entries.get("format") != _FORMAT:
            raise BundleError(f"{model_file}: expected the format '{_FORMAT}', found another; not a tomoscribe bundle")
        version = entries.get("format_version")
        if version != _FORMAT_VERSION:
            advice = "upgrade tomoscribe" if isinstance(version, int) and version > _FORMAT_VERSION else "export again"
            raise BundleError(f"{model_file}: expected format version {_FORMAT_VERSION}, found {version!r}; {advice}")
        try:
            return cls(
                path=folder,
                specification=ModelSpecification.from_json(_section(entries, "specification")),
                artifacts=_read_artifacts(_section(entries, "artifacts")),
                parity=_section(entries, "parity"),
                training=_section(entries, "training"),
                provenance=_section({"provenance": {}, **entries}, "provenance"),
            )
        except ParameterError as error:
            raise BundleError(f"{model_file}: {error}") from error

    def write(self) -> None:
        """Write ``model.json`` into the bundle's folder: beside its place first, then renamed.

        Raises:
            OutputError: it cannot be written.
        """
        entries = {
            "format": _FORMAT,
            "format_version": _FORMAT_VERSION,
            "specification": self.specification.to_json(),
            "artifacts": {key: {"file": a.file, "sha256": a.sha256} for key, a in self.artifacts.items()},
            "parity": dict(self.parity),
            "training": dict(self.training),
            "provenance": dict(self.provenance),
        }
        with replacing(self.path / MODEL_FILE) as temporary:
            temporary.write_text(json.dumps(entries, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def artifact_path(self, precision: str) -> Path:
        """Return the path of an artifact whose bytes are those that were exported.

        The sha256 is computed the first time that this bundle is asked for the artifact.

        Raises:
            BundleError: the bundle has no such artifact, or the file is missing or was altered.
        """
        if precision not in self.artifacts:
            known = ", ".join(self.artifacts)
            raise BundleError(f"{self.path}: no {precision} artifact in this bundle; it has {known}")
        artifact = self.artifacts[precision]
        path = self.path / artifact.file
        if precision not in self._intact:
            try:
                found = _sha256(path)
            except OSError as error:
                raise BundleError(f"{path}: cannot be read ({error.strerror}); copy the whole bundle again") from error
            if found != artifact.sha256:
                raise BundleError(
                    f"{path}: expected sha256 {artifact.sha256[:12]}…, found {found[:12]}…; "
                    "the file was altered or cut short, copy the bundle again"
                )
            self._intact.add(precision)
        return path


def default_bundle() -> Path:
    """Return the folder of the model that tomoscribe brings with it."""
    return Path(__file__).parent / "models" / "default"


def _section(entries: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    section = entries.get(key)
    if not isinstance(section, dict):
        _refuse(f"{key}: expected an object, found {'nothing' if section is None else repr(section)}")
    return section


def _read_artifacts(entries: Mapping[str, Any]) -> dict[str, Artifact]:
    artifacts = {}
    for precision, entry in entries.items():
        if not isinstance(entry, dict) or not {"file", "sha256"} <= entry.keys():
            _refuse(f"artifact {precision}: expected file and sha256, found {entry!r}")
        file = entry["file"]
        # A bundle comes from elsewhere: its names must not reach outside its own folder, on any system.
        if not isinstance(file, str) or file in ("", ".", "..") or any(character in file for character in "/\\:\0"):
            _refuse(f"artifact {precision}: expected a file name inside the bundle, found {file!r}")
        artifacts[precision] = Artifact(file, str(entry["sha256"]))
    if not artifacts:
        _refuse("artifacts: expected one at least, found none")
    return artifacts


def _refuse(message: str) -> NoReturn:
    raise ParameterError(message)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
