"""Somebody's ONNX file becomes a bundle: the graph contract is put around its network, and both are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from tomoscribe.engine.bundle import Artifact, Bundle, ModelSpecification
from tomoscribe.engine.errors import BundleError, ParameterError
from tomoscribe.export.comparison import Comparison, compare
from tomoscribe.export.difference import draw_difference
from tomoscribe.export.folder import new_bundle_folder
from tomoscribe.export.foreign_description import BACKGROUND, ForeignDescription
from tomoscribe.export.foreign_float32 import in_float32
from tomoscribe.export.foreign_geometry import LARGEST_REACH, Geometry, find_geometry
from tomoscribe.export.foreign_reading import ForeignNetwork, opset_of, read_network
from tomoscribe.export.foreign_running import fitted, load, original_runner
from tomoscribe.export.foreign_wrapping import wrap
from tomoscribe.export.parity import Runner, onnxruntime_runner, remembered
from tomoscribe.export.parity_openvino import openvino_runners
from tomoscribe.export.parity_report import write_parity_report
from tomoscribe.export.provenance import provenance
from tomoscribe.export.samples import gather_samples

__all__ = ["bundle_from_onnx"]

_SUM_TOLERANCE = 5e-3  # float16 holds a probability to 5e-4
_PROBE_SIDE = 128
_FILES = {"fp32": "model.fp32.onnx", "fp16": "model.fp16.onnx"}


def bundle_from_onnx(
    file: Path,
    output: Path,
    description: ForeignDescription,
    *,
    tomograms: Iterable[Path] = (),
    allow_drift: bool = False,
    overwrite: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Bundle:
    """Write the bundle of a network that others trained and exported, if the bundle answers as the file does.

    The file is run as it is in ONNX Runtime, with normalisation, softmax or sigmoid, argmax and rounding by numpy, and
    the wrapped graph has to give the same labels and scores on phantoms and, if there are any, tomograms. A file that
    computes in float16 gives two artifacts: ``fp16`` with its own graph, and ``fp32`` with its weights in float32.

    Args:
        file: the ONNX file, ``(n, c, h, w) -> (n, channels, h, w)``.
        output: the bundle's folder.
        description: what the file does not say.
        tomograms: to compare on slices of.
        allow_drift: write an artifact that its gate does not let through, and mark it.
        overwrite: replace a bundle that is there. A folder that is not a bundle is never replaced.
        progress: is told what is being done, a few words each.

    Raises:
        BundleError: the file cannot be wrapped.
        ParameterError: the description does not fit the file, or the network sees all of a slice and no halo is given.
        TomoscribeError: a tomogram cannot be used.
        OutputExistsError: there is something at `output` that may not be replaced.
        OutputError: the folder cannot be written.
        ParityError: an artifact does not pass its gate; nothing is written.
    """
    with new_bundle_folder(output, overwrite=overwrite) as folder:
        wrapping = _Wrapping(folder, file, description, progress or (lambda _: None))
        wrapping.write_artifacts()
        wrapping.compare(tomograms, allow_drift=allow_drift)
        wrapping.finish()
    return Bundle.load(output)


class _Wrapping:
    """A bundle while it is made from an ONNX file."""

    def __init__(
        self, folder: Path, file: Path, description: ForeignDescription, progress: Callable[[str], None]
    ) -> None:
        self._folder = folder
        self._description = description
        self._progress = progress
        progress("reading the network")
        self._network = network = read_network(file, description.output)
        self._models = {"fp32": in_float32(network.model) if network.half else network.model}
        if network.half:
            self._models["fp16"] = network.model
        context = _context(network, description)
        self._probabilities = _gives_probabilities(network, description)
        progress("finding its tile multiple and halo")
        self._geometry = find_geometry(
            load(self._models["fp32"], file, network.output),
            file,
            network.channels,
            len(description.channels),
            description.tile_multiple,
        )
        self._specification = ModelSpecification(
            name=description.name,
            class_map=description.class_map,
            context=context,
            tile_multiple=self._geometry.tile_multiple,
            halo=_halo(network, description, self._geometry),
            voxel_size=description.voxel_size,
            polarity=description.polarity,
            normalisation=description.normalise,
        )
        self._comparisons: dict[str, Comparison] = {}

    def write_artifacts(self) -> None:
        """Write the networks in the graph contract."""
        self._progress("writing " + " and ".join(self._models))
        for precision, model in self._models.items():
            wrapped = wrap(
                self._network, model, self._description, self._specification, probabilities=self._probabilities
            )
            onnx.save(wrapped, self._path(precision))

    def compare(self, tomograms: Iterable[Path], *, allow_drift: bool) -> None:
        """Compare the artifacts with the file, and write the report.

        Raises:
            ParityError: a gate does not let one through, and drift is not allowed.
        """
        self._progress("slices to compare on")
        gathered = gather_samples(self._specification, tomograms, quantised=False).parity
        samples = [fitted(sample, self._network) for sample in gathered]
        class_map, pictures = self._specification.class_map, {}
        runtime = f"ONNX Runtime {onnxruntime.__version__}, CPU"
        wrapped = {precision: remembered(onnxruntime_runner(self._path(precision))) for precision in self._models}
        for precision in self._models:
            self._progress(f"comparing {precision}")
            by_hand, runner = self._reference(precision)
            candidates = {runtime: wrapped[precision]}
            if precision == "fp16":  # the file holds its FP32 form to the gate of its own precision
                candidates[f"{runtime}, the FP32 artifact"] = wrapped["fp32"]
            candidates |= openvino_runners(precision, self._path(precision), self._specification)
            comparison = compare(precision, (by_hand, runner), candidates, samples, class_map)
            if not allow_drift:
                comparison.check(self._path(precision))
            self._comparisons[precision] = comparison
            picture = f"parity.{precision}.png"
            shown = draw_difference(self._folder / picture, runner, wrapped[precision], samples, class_map)
            pictures[precision] = picture, shown
        write_parity_report(
            self._folder,
            self._specification.name,
            list(self._comparisons.values()),
            samples,
            class_map,
            pictures=pictures,
        )

    def finish(self) -> None:
        """Write ``model.json``."""
        Bundle(
            path=self._folder,
            specification=self._specification,
            artifacts={precision: Artifact.of(self._path(precision)) for precision in self._models},
            parity={precision: comparison.to_json() for precision, comparison in self._comparisons.items()},
            training=self._source(),
            provenance=provenance(opset_of(self._network.model)),
        ).write()

    def _path(self, precision: str) -> Path:
        return self._folder / _FILES[precision]

    def _reference(self, precision: str) -> tuple[str, Runner]:
        """Return the file's answers; for the FP32 form of a float16 file, those of the same form by hand."""
        network = self._network
        name = f"{network.path.name} by hand in ONNX Runtime {onnxruntime.__version__}"
        source: Path | onnx.ModelProto = network.path
        if network.half and precision == "fp32":
            name, source = f"{name}, its weights in float32", self._models["fp32"]
        runner = original_runner(
            network,
            source,
            self._description,
            context=self._specification.context,
            probabilities=self._probabilities,
        )
        return name, remembered(runner)

    def _source(self) -> dict[str, Any]:
        """Return where the weights come from and what was said of them, for ``model.json``."""
        network, description = self._network, self._description
        return {
            "onnx": {
                "file": network.path.name,
                "sha256": Artifact.of(network.path).sha256,
                "producer": network.producer,
                "opset": network.source_opset,
                "output": network.output,
            },
            "channels": list(description.channels),
            "activation": description.activation,
            "answers": "probabilities" if self._probabilities else "logits",
            "normalise": description.normalise,
            "scale": description.scale,
            "offset": description.offset,
            "reach": self._geometry.reach,
        }


def _context(network: ForeignNetwork, description: ForeignDescription) -> int:
    context = description.context
    if context is None and network.channels > 1:
        neighbours = (
            f"context {network.channels // 2} if they are neighbouring slices, " if network.channels % 2 else ""
        )
        raise ParameterError(
            f"{network.path}: expected to be told what its {network.channels} input channels are; give {neighbours}"
            "context 0 if each is the same slice"
        )
    if context and network.channels != 2 * context + 1:
        raise ParameterError(
            f"{network.path}: expected {2 * context + 1} input channels for a context of {context}, "
            f"found {network.channels}; an image has the slice itself and its neighbours on both sides"
        )
    return context or 0


def _gives_probabilities(network: ForeignNetwork, description: ForeignDescription) -> bool:
    """Run the file once, and tell whether its answers are probabilities; check them against what was said."""
    multiple = description.tile_multiple or _PROBE_SIDE
    free = -(-_PROBE_SIDE // multiple) * multiple
    batch, height, width = network.sizes
    shape = (batch or 1, network.channels, height or free, width or free)
    image = np.random.default_rng(2015).standard_normal(shape, np.float32)
    answer = load(network.path, network.path, network.output)(image)
    _check_answer(network, description, answer)
    within = answer.min() >= -_SUM_TOLERANCE and answer.max() <= 1 + _SUM_TOLERANCE
    sums = answer.sum(axis=1)
    one = bool(np.abs(sums - 1).max() <= _SUM_TOLERANCE)
    looks = bool(within and (one or description.activation == "sigmoid"))
    found = f"values from {answer.min():.3g} to {answer.max():.3g}"
    if description.activation == "softmax":
        found += f" whose sums over the channels go from {sums.min():.3g} to {sums.max():.3g}"
    if description.answers == "probabilities" and not looks:
        raise ParameterError(
            f"{network.path}: expected probabilities of a {description.activation}, found {found}; say logits, or "
            f"{'sigmoid' if description.activation == 'softmax' else 'softmax'}, whichever the network has"
        )
    if description.answers == "logits" and looks and one:
        raise ParameterError(f"{network.path}: expected logits, found {found}; say probabilities")
    return looks if description.answers is None else description.answers == "probabilities"


def _check_answer(network: ForeignNetwork, description: ForeignDescription, answer: NDArray[np.float32]) -> None:
    if answer.ndim != 4:
        raise BundleError(
            f"{network.path}: expected an answer (n, classes, h, w), found one of shape {answer.shape}; "
            "only networks that label every pixel of a 2D slice can be wrapped"
        )
    if answer.shape[1] != len(description.channels):
        raise ParameterError(
            f"{network.path}: expected a name for each of the {answer.shape[1]} channels of its output, found "
            f"{len(description.channels)} ({', '.join(description.channels)}); name all of them in their order, "
            f"{BACKGROUND} too if it has a channel"
        )
    if not np.isfinite(answer).all():
        raise BundleError(f"{network.path}: expected finite answers to an image of noise, found NaN or infinity")


def _halo(network: ForeignNetwork, description: ForeignDescription, geometry: Geometry) -> int:
    if description.halo is not None:
        return description.halo
    if geometry.reach is None:
        raise ParameterError(
            f"{network.path}: expected answers that depend on at most {LARGEST_REACH} pixels around, found that every "
            "pixel counts (instance and group normalisation do that), so that tiles of large slices get other labels "
            "than the whole; give the halo that you accept, such as 64"
        )
    return -(-geometry.reach // geometry.tile_multiple) * geometry.tile_multiple
