"""The U-Net of the comparison with EMAN2's convolutional network: trained for it, or taken from a finished run."""

from __future__ import annotations

import csv
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from convnet_studies import Study

from tomoscribe.engine.cores import usable_cores
from tomoscribe.engine.errors import ParameterError
from tomoscribe.engine.replacing import replacing
from tomoscribe.train.checkpoint import load_checkpoint
from tomoscribe.train.dataset.storage import open_dataset
from tomoscribe.train.fit import fit
from tomoscribe.train.settings import TrainingSettings

__all__ = ["UNetTraining", "run_settings", "take_unet", "train_unet"]

_CHECKPOINT = "best.safetensors"
_VALIDATIONS = 5
_VALIDATION_IMAGES = 32


@dataclass(frozen=True)
class UNetTraining:
    """What a training took: steps, crops seen, seconds by the clock, and seconds of all cores together."""

    steps: int
    samples: int
    seconds: float
    core_seconds: float

    def to_json(self) -> dict[str, float]:
        """Return it as the folder of work keeps it."""
        return asdict(self)


def train_unet(study: Study, steps: int, seed: int, folder: Path) -> UNetTraining:
    """Train a U-Net to ``best.safetensors`` in a folder."""
    length = {
        "steps": steps,
        "validation_interval": -(-steps // _VALIDATIONS),
        "validation_images": _VALIDATION_IMAGES,
        "examples": 0,
        "seed": seed,
    }
    settings = study.settings.model_copy(update=length)
    begun, cores = time.perf_counter(), time.process_time()
    fit(study.images, settings, folder, start=study.start)
    seconds, core_seconds = time.perf_counter() - begun, time.process_time() - cores
    return UNetTraining(steps, steps * settings.batch_size, seconds, core_seconds)


def take_unet(run: Path, folder: Path) -> UNetTraining:
    """Copy ``best.safetensors`` of a finished run to a folder.

    The run's log knows the clock alone; all cores are taken to have been busy.
    """
    settings = run_settings(run)
    with (run / "log.csv").open(newline="", encoding="utf-8") as file:
        *_, last = csv.DictReader(file)
    if int(last["step"]) != settings.steps:
        raise ParameterError(
            f"{run}: expected a finished run of {settings.steps} steps, found {last['step']} in its log"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / _CHECKPOINT) as temporary:
        shutil.copyfile(run / _CHECKPOINT, temporary)
    seconds = float(last["seconds"])
    return UNetTraining(settings.steps, settings.steps * settings.batch_size, seconds, seconds * usable_cores())


def run_settings(run: Path, dataset: Path | None = None) -> TrainingSettings:
    """Return the settings of a run, and check that it was on a dataset.

    Raises:
        ParameterError: it was on another one.
    """
    training = load_checkpoint(run / _CHECKPOINT).training
    if dataset is not None and training["dataset"] != open_dataset(dataset).provenance:
        raise ParameterError(f"{run}: expected a run on {dataset}, found one on another dataset")
    return TrainingSettings.model_validate(training["settings"])
