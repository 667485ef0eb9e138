"""What is compared: the networks that were trained for it, and the bundled model in several ways."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from accuracy_cost_models import Model, add_flips, load_network, new_network, operations, parameters, write_bundle
from accuracy_cost_networks import Structure
from accuracy_cost_training import Length, finished, trainings

from tomoscribe.engine.backends.onnxruntime import OnnxRuntimeBackend
from tomoscribe.engine.backends.openvino import OpenVinoBackend
from tomoscribe.engine.bundle import CHECKPOINT, Bundle
from tomoscribe.engine.errors import BackendUnavailableError
from tomoscribe.train.checkpoint import load_checkpoint
from tomoscribe.train.dataset.contract import LabelledImages
from tomoscribe.train.fit import BEST_FILE

__all__ = ["BUNDLED", "bundled_models", "trained_models"]

BUNDLED = "bundled model"

_FLIPS = 4  # along y, along x, along both, and not at all


def trained_models(
    images: LabelledImages, structures: Sequence[Structure], length: Length, work: Path, folder: Path
) -> list[Model]:
    """Return the networks as bundles: trained ones, and random ones where the training is not finished.

    Args:
        images: the dataset.
        structures: the networks.
        length: of their trainings.
        work: of the trainings.
        folder: of the bundles.
    """
    models = []
    for structure, seed, run in trainings(structures, work):
        done, again = finished(run, length.steps), seed is not None
        if again and not done:
            continue
        if done:
            network, specification = load_network(run / BEST_FILE, structure)
        else:
            network, specification = new_network(images, structure, length.settings(structure).context or 0)
        models.append(
            Model(
                structure.title + (", other seed" if again else ""),
                write_bundle(network, specification, folder / run.name),
                OnnxRuntimeBackend,
                parameters(network),
                operations(network),
                trained=done,
                structure=structure,
                again=again,
            )
        )
    return models


def bundled_models(bundle: Bundle, folder: Path) -> list[Model]:
    """Return the bundled model as ONNX Runtime runs it, the same averaged over flips, and OpenVINO's BF16 where it is.

    Args:
        bundle: the bundled model.
        folder: where the bundle of flips is written.
    """
    network = load_checkpoint(bundle.artifact_path(CHECKPOINT)).network
    count, work = parameters(network), operations(network)
    flips = add_flips(bundle, folder / "flips")
    models = [
        Model(BUNDLED, bundle, OnnxRuntimeBackend, count, work),
        Model(f"{BUNDLED}, averaged over flips", flips, OnnxRuntimeBackend, count, _FLIPS * work),
    ]
    in_bf16 = partial(OpenVinoBackend, precision="bf16")
    try:
        in_bf16(bundle).close()
    except BackendUnavailableError as reason:
        print(f"not measured: {reason}")
    else:
        models.append(Model(f"{BUNDLED}, BF16 (OpenVINO)", bundle, in_bf16, count, work))
    return models
