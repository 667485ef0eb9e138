"""Exporting: a checkpoint becomes the bundle that the engine runs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import onnx
import onnxruntime
import torch

from tomoscribe.engine.bundle import CHECKPOINT, Artifact, Bundle, ModelSpecification
from tomoscribe.engine.errors import ParameterError
from tomoscribe.export.augmentation import augmented
from tomoscribe.export.augmentation_reference import augmented_runner, in_words
from tomoscribe.export.comparison import Comparison, compare
from tomoscribe.export.difference import draw_difference
from tomoscribe.export.drift import layer_errors
from tomoscribe.export.folder import new_bundle_folder
from tomoscribe.export.graph import OPSET, to_onnx
from tomoscribe.export.half import half_runner
from tomoscribe.export.parity import Runner, onnxruntime_runner, pytorch_runner, remembered
from tomoscribe.export.parity_openvino import openvino_runners
from tomoscribe.export.parity_report import write_parity_report
from tomoscribe.export.provenance import provenance
from tomoscribe.export.quantisation import Form, Quantisation, quantise
from tomoscribe.export.samples import SampleSets, gather_samples
from tomoscribe.export.splitting import split_concatenations
from tomoscribe.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

__all__ = ["DEFAULT_PRECISIONS", "PRECISIONS", "export_bundle"]

PRECISIONS = ("fp32", "fp16", "int8", "int8-cpu")
"""``int8`` is in the form that TensorRT takes, ``int8-cpu`` in the one that ONNX Runtime is fast with."""

DEFAULT_PRECISIONS = ("fp32", "fp16")
"""INT8 takes minutes, and slices of the user's own to be good; it is asked for."""

_FORMS = {"int8": Form.TENSORRT, "int8-cpu": Form.CPU}
_CHECKPOINT_FILE = "checkpoint.safetensors"


def export_bundle(
    checkpoint: Path,
    output: Path,
    *,
    precisions: Iterable[str] = DEFAULT_PRECISIONS,
    tomograms: Iterable[Path] = (),
    test_time_augmentation: str = "none",
    allow_drift: bool = False,
    overwrite: bool = False,
    progress: Callable[[str], None] | None = None,
) -> Bundle:
    """Write the bundle of a checkpoint, if all of its artifacts answer as the network does in PyTorch FP32.

    The bundle brings the checkpoint with it, its convolutions' weights in float16, so that a training can start from
    it. The folder is made under a temporary name beside its place and renamed when it is complete.

    Args:
        checkpoint: what ``tomoscribe train`` wrote.
        output: the bundle's folder.
        precisions: some of `PRECISIONS`; FP32 is always written, because it is the others' reference.
        tomograms: to calibrate INT8 on, and to compare on other slices of; phantoms are used as well.
        test_time_augmentation: what the bundle's answers are the mean over, as the network's in PyTorch then are too;
            see `tomoscribe.engine.bundle.ModelSpecification`. INT8 is calibrated on the network itself.
        allow_drift: write an artifact that its gate does not let through, and mark it.
        overwrite: replace a bundle that is there. A folder that is not a bundle is never replaced.
        progress: is told what is being done, a few words each.

    Raises:
        ParameterError: an unknown precision or augmentation.
        CheckpointError: the checkpoint cannot be read.
        TomoscribeError: a tomogram cannot be used.
        OutputExistsError: there is something at `output` that may not be replaced.
        OutputError: the folder cannot be written.
        ParityError: an artifact does not pass its gate; nothing is written.
    """
    wanted = {"fp32", *precisions}
    if unknown := sorted(wanted - set(PRECISIONS)):
        raise ParameterError(f"precision: expected some of {', '.join(PRECISIONS)}, found {', '.join(unknown)}")
    trained = load_checkpoint(checkpoint)
    specification = replace(trained.specification, test_time_augmentation=test_time_augmentation)
    with new_bundle_folder(output, overwrite=overwrite) as folder, tempfile.TemporaryDirectory() as single:
        tell = progress or (lambda _: None)
        tell("slices to compare on")
        samples = gather_samples(specification, tomograms, quantised=not wanted.isdisjoint(_FORMS))
        export = _Export(folder, Path(single), trained, specification, samples, allow_drift, tell)
        for precision in PRECISIONS:
            if precision in wanted:
                export.add(precision)
        export.finish(checkpoint)
    return Bundle.load(output)


class _Export:
    """A bundle while it is made.

    In the folder `single` lie its graphs without test-time augmentation and all with the same layers: what INT8 is made
    of, and what layers are compared in.
    """

    def __init__(
        self,
        folder: Path,
        single: Path,
        trained: Checkpoint,
        specification: ModelSpecification,
        samples: SampleSets,
        allow_drift: bool,
        progress: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._single = single
        self._trained = trained
        self._specification = specification
        self._samples = samples
        self._allow_drift = allow_drift
        self._progress = progress
        kind = specification.test_time_augmentation
        plain = pytorch_runner(trained.network)
        self._reference = remembered(plain if kind == "none" else augmented_runner(trained.network, kind))
        self._reference_name = f"PyTorch {torch.__version__}, FP32{in_words(kind)}"
        self._comparisons: dict[str, Comparison] = {}
        self._pictures: dict[str, tuple[str, str]] = {}
        self._quantisations: dict[str, Quantisation] = {}

    def add(self, precision: str) -> None:
        """Write an artifact and compare it.

        Raises:
            ParityError: its gate does not let it through, and drift is not allowed.
        """
        artifact = self._path(precision)
        self._progress(f"writing {precision}")
        single = self._write_single(precision)
        model = onnx.load(single)
        if precision == "fp32":  # which runs on CPUs alone
            model = split_concatenations(model)
        onnx.save(augmented(model, self._specification), artifact)
        self._progress(f"comparing {precision}")
        candidates = self._candidates(precision, artifact)
        class_map = self._specification.class_map
        comparison = compare(
            precision,
            (self._reference_name, self._reference),
            candidates,
            self._samples.parity,
            class_map,
            layer_errors(self._single_path("fp32"), single, self._samples.parity[0]) if precision != "fp32" else None,
        )
        if not self._allow_drift:
            comparison.check(artifact)
        self._comparisons[precision] = comparison
        picture = f"parity.{precision}.png"
        runner = next(iter(candidates.values()))
        shown = draw_difference(self._folder / picture, self._reference, runner, self._samples.parity, class_map)
        self._pictures[precision] = picture, shown

    def finish(self, checkpoint: Path) -> None:
        """Write everything that is not a network."""
        specification, training = self._specification, self._trained.training
        copy = self._folder / _CHECKPOINT_FILE
        save_checkpoint(copy, self._trained, compact=True)
        write_parity_report(
            self._folder,
            specification.name,
            list(self._comparisons.values()),
            self._samples.parity,
            specification.class_map,
            pictures=self._pictures,
            quantisations=self._quantisations,
        )
        artifacts = {precision: Artifact.of(self._path(precision)) for precision in self._comparisons}
        Bundle(
            path=self._folder,
            specification=specification,
            artifacts={**artifacts, CHECKPOINT: Artifact.of(copy)},
            parity={precision: comparison.to_json() for precision, comparison in self._comparisons.items()},
            training={**training, "checkpoint": {"file": checkpoint.name, "sha256": Artifact.of(checkpoint).sha256}},
            provenance=provenance(OPSET),
        ).write()

    def _path(self, precision: str) -> Path:
        return self._folder / f"model.{precision}.onnx"

    def _single_path(self, precision: str) -> Path:
        return self._single / self._path(precision).name

    def _write_single(self, precision: str) -> Path:
        network, specification = self._trained.network, self._trained.specification
        single = self._single_path(precision)
        if precision in _FORMS:
            self._quantisations[precision] = quantise(
                self._single_path("fp32"),
                self._samples.calibration,
                self._samples.search,
                specification.class_map,
                single,
                form=_FORMS[precision],
            )
        else:
            dtype = torch.float16 if precision == "fp16" else torch.float32
            onnx.save(to_onnx(network, specification, dtype), single)
        return single

    def _candidates(self, precision: str, artifact: Path) -> Mapping[str, Runner]:
        runners = {f"ONNX Runtime {onnxruntime.__version__}, CPU": onnxruntime_runner(artifact)}
        if precision == "fp16":
            runners[f"PyTorch {torch.__version__}, rounded to FP16 as a GPU does"] = half_runner(
                self._trained.network, self._specification.test_time_augmentation
            )
        return {
            **{name: remembered(runner) for name, runner in runners.items()},
            **openvino_runners(precision, artifact, self._specification),
        }
