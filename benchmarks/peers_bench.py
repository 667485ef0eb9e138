"""The processes in which the configurations of `peers.py` work, one after the other."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import mrcfile
import numpy as np
from numpy.typing import NDArray
from peers_child import Task
from peers_configurations import Configuration

from tomoscribe.engine import Bundle, open_tomogram
from tomoscribe.engine.bundle import CHECKPOINT
from tomoscribe.engine.intensity import measure_intensity

__all__ = ["Bench", "ChildError"]

CHILD = Path(__file__).with_name("peers_child.py")
SHARE_OF_INDEPENDENT = 8


class ChildError(Exception):
    """A configuration failed.

    Attributes:
        said: the last line that its process said.
    """

    def __init__(self, configuration: Configuration, said: str) -> None:
        super().__init__(f"{configuration.full_title}: {said}")
        self.said = said


class Bench:
    """What all configurations work on, and the processes in which they do.

    Attributes:
        bundle: the model as it ships, with its checkpoint.
        quantised: the bundle that has INT8, if there is one.
        shape: of the tomogram, ``(z, y, x)``.
        descriptions: what worked, in a line, of the configurations that have been timed and say it.

    Args:
        bundle: as above.
        quantised: as above.
        tomogram: an MRC file of float32.
        compiled: the folder of PyTorch's compiled kernels.
        folder: for outputs, and for the trial that chooses a backend, which is of this run.
    """

    def __init__(self, bundle: Bundle, quantised: Bundle | None, tomogram: Path, compiled: Path, folder: Path) -> None:
        self.bundle = bundle
        self.quantised = quantised
        self.descriptions: dict[str, str] = {}
        self._tomogram = tomogram
        self._folder = folder
        with open_tomogram(tomogram) as opened:
            self.shape = opened.shape
            statistics = measure_intensity(opened)
        self._statistics = statistics.mean, statistics.standard_deviation
        self._environment = os.environ | {
            "XDG_CACHE_HOME": str((folder / "cache").resolve()),
            "TORCHINDUCTOR_CACHE_DIR": str(compiled.resolve()),
        }

    def whole(self, configuration: Configuration) -> float:
        """Return the seconds that a process takes to do it all."""
        task = self._task(configuration, "whole", self.shape[0])
        if configuration.is_tomoscribe:
            command = ["-m", "tomoscribe.cli", "segment", task.tomogram, "--output", task.output, "--overwrite"]
            command += ["--model", task.model, "--precision", configuration.precision, "--quiet"]
        else:
            command = [str(CHILD), task.to_json()]
        start = time.perf_counter()
        self._run(configuration, command)
        return time.perf_counter() - start

    def steady(self, configuration: Configuration, slices: int | None = None) -> float:
        """Return the seconds of a slice once all is warm, measured on the first slices, or on as many as suit it."""
        depth = self.shape[0]
        wanted = depth if configuration.thorough else max(2, depth // SHARE_OF_INDEPENDENT)
        task = self._task(configuration, "steady", min(slices or wanted, depth))
        seconds, *description = self._run(configuration, [str(CHILD), task.to_json()]).splitlines()
        if description:
            self.descriptions[configuration.name] = description[0]
        return float(seconds)

    def labels(self, configuration: Configuration) -> NDArray[np.uint8]:
        """Return the labels that `whole` has left."""
        output = Path(self._task(configuration, "whole", 1).output)
        with mrcfile.open(output / "phantom__labels.mrc" if configuration.is_tomoscribe else output) as file:
            labels: NDArray[np.uint8] = file.data.astype(np.uint8)
        return labels

    def _task(self, configuration: Configuration, kind: str, slices: int) -> Task:
        bundle = self.quantised if configuration.quantised else self.bundle
        assert bundle is not None
        if configuration.is_tomoscribe:
            model, suffix = bundle.path, ""
        else:
            artifact = CHECKPOINT if configuration.family == "torch" else "fp32"
            model, suffix = bundle.artifact_path("int8-cpu" if configuration.quantised else artifact), ".mrc"
        return Task(
            configuration=configuration.name,
            kind=kind,
            tomogram=str(self._tomogram),
            model=str(model),
            output=str(self._folder / f"labels_{configuration.name}{suffix}"),
            context=bundle.specification.context,
            statistics=self._statistics,
            slices=slices,
        )

    def _run(self, configuration: Configuration, words: list[str]) -> str:
        command = [sys.executable, *words]
        answer = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)  # noqa: S603
        if answer.returncode:
            said = answer.stderr.strip().splitlines()
            raise ChildError(configuration, said[-1] if said else f"nothing, and its status was {answer.returncode}")
        return answer.stdout
