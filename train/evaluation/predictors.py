"""Models that label the images of a dataset: a bundle with the engine's backend, or a checkpoint with PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.backends import AUTO, CPU, choose_backend
from tomoscribe.engine.backends.contract import SlotShape
from tomoscribe.engine.bundle import Artifact, Bundle, ModelSpecification
from tomoscribe.engine.class_map import ClassMap
from tomoscribe.engine.errors import ParameterError
from tomoscribe.engine.tiles import TilePlan

__all__ = ["BundlePredictor", "CheckpointPredictor", "Predictor", "class_numbers", "open_predictor"]

Prediction = tuple[NDArray[np.uint8], NDArray[np.uint8]]


class Predictor(Protocol):
    """A model that is ready; a context manager."""

    @property
    def specification(self) -> ModelSpecification:
        """What the model is."""

    @property
    def sha256(self) -> str:
        """The sha256 of its file's bytes in hexadecimal."""

    @property
    def description(self) -> str:
        """One line that says what runs where."""

    def predict(self, slices: NDArray[np.float32]) -> Prediction:
        """Label an image.

        Args:
            slices: ``(2k + 1, h, w)`` float32, normalised, dark density on light, the one to label in the middle.

        Returns:
            Labels ``(h, w)`` uint8 and scores ``(classes, h, w)`` uint8, probability × 255 rounded.

        Raises:
            BackendError: the model failed.
        """

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def open_predictor(model: Path, tile: int, *, backend: str = "auto") -> Predictor:
    """Return what a model is run with: a folder is a bundle, a file is a checkpoint.

    Args:
        model: a bundle's folder, or a checkpoint (``.safetensors``).
        tile: height and width of the images in pixels.
        backend: of a bundle; ``auto`` for the fastest on the CPU.

    Raises:
        BundleError: the bundle cannot be used.
        BackendUnavailableError: the backend cannot run here.
        CheckpointError: the checkpoint cannot be read.
    """
    if model.is_dir() or model.suffix != ".safetensors":
        return BundlePredictor(Bundle.load(model), tile, backend=backend)
    return CheckpointPredictor(model, tile)


class BundlePredictor:
    """A bundle as the engine runs it, an image at a time."""

    def __init__(self, bundle: Bundle, tile: int, *, backend: str = "auto") -> None:
        self.specification = bundle.specification
        self._plan = _plan(bundle.specification, tile)
        # One image at a time, and the figures of the network that every other is judged by. A GPU's plan for it would
        # take longer to build than most datasets take.
        device = CPU if backend == AUTO else AUTO
        self._backend, _ = choose_backend(backend, bundle, precision="fp32", latency=True, device=device)
        self.sha256 = bundle.artifacts["fp32"].sha256  # there, or no backend would run it
        self.description = self._backend.description
        shape = SlotShape(1, self.specification.context, *self._plan.tile_shape, self.specification.classes)
        (self._slot,) = self._backend.allocate(shape, 1)
        # The images are normalised already.
        self._slot.mean[:] = 0
        self._slot.rstd[:] = -1 if self.specification.polarity == "bright" else 1
        self._slot.count = 1

    def predict(self, slices: NDArray[np.float32]) -> Prediction:
        """Label an image, see `Predictor.predict`."""
        (tile,) = self._plan.tiles
        self._plan.extract(tile, slices, self._slot.slices)
        self._backend.submit(self._slot)
        self._backend.wait(self._slot)
        labels, scores = (self._plan.kept(tile, values[0]) for values in (self._slot.labels, self._slot.scores))
        return labels.copy(), scores.copy()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._backend.close()


class CheckpointPredictor:
    """A checkpoint in PyTorch, in FP32, on the GPU where there is one."""

    def __init__(self, path: Path, tile: int) -> None:
        import torch

        from tomoscribe.train.checkpoint import load_checkpoint

        checkpoint = load_checkpoint(path)
        self.specification = checkpoint.specification
        self.sha256 = Artifact.of(path).sha256
        self._plan = _plan(self.specification, tile)
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        # oneDNN's and cuDNN's convolutions are faster on channels-last tensors.
        self._network = checkpoint.network.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        where = (
            torch.cuda.get_device_name() if self._device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
        )
        self.description = f"PyTorch {torch.__version__} on the {where}, FP32"
        self._sign = -1.0 if self.specification.polarity == "bright" else 1.0

    def predict(self, slices: NDArray[np.float32]) -> Prediction:
        """Label an image, see `Predictor.predict`."""
        import torch

        (tile,) = self._plan.tiles
        padded = np.empty((len(slices), *self._plan.tile_shape), np.float32)
        self._plan.extract(tile, slices, padded)
        with torch.inference_mode():
            batch = torch.from_numpy(self._sign * padded)[None].to(self._device, memory_format=torch.channels_last)
            probabilities = torch.softmax(self._network(batch)[0].float(), dim=0)
            labels = probabilities.argmax(dim=0).to(torch.uint8).cpu().numpy()
            scores = (255 * probabilities).round().to(torch.uint8).cpu().numpy()
        return self._plan.kept(tile, labels), self._plan.kept(tile, scores)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._network


def class_numbers(
    model: ClassMap, truth: ClassMap, values: Mapping[int, str] | None
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Return which class of the truth each label of a model stands for.

    Args:
        model: the model's classes.
        truth: the dataset's.
        values: the name of a class of the truth, or ``background``, by label of the model; labels that it does not
            list, and all of them if None, stand for the class of their own name.

    Returns:
        ``(labels,)`` uint8, and the names of the truth's classes that no label stands for.

    Raises:
        ParameterError: a class that the truth does not have.
    """
    numbers = np.zeros(len(model) + 1, np.uint8)
    unknown = (values or {}).keys() - range(len(model) + 1)
    if unknown:
        raise ParameterError(f"values: expected labels from 0 to {len(model)}, found {min(unknown)}")
    for label, name in enumerate(["background", *(label_class.name for label_class in model.classes)]):
        wanted = (values or {}).get(label, name)
        if wanted == "background":
            continue
        try:
            (found,) = truth.select([wanted])
        except ParameterError as error:
            known = ", ".join(label_class.name for label_class in truth.classes)
            raise ParameterError(
                f"class '{wanted}' of the model: the dataset has no such class; it has {known}; say what the label "
                f"stands for, such as --values {label}={truth.classes[0].name} or --values {label}=background"
            ) from error
        numbers[label] = found.number
    return numbers, tuple(c.name for c in truth.classes if c.number not in numbers)


def _plan(specification: ModelSpecification, tile: int) -> TilePlan:
    """Return the plan that pads an image to the model's multiple, as the engine pads a slice."""
    multiple = specification.tile_multiple
    return TilePlan.for_slice((tile, tile), multiple=multiple, halo=0, pixels=(-(-tile // multiple) * multiple) ** 2)
