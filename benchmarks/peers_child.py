"""The process that `peers.py` starts for one configuration, so that no library disturbs another.

    python benchmarks/peers_child.py TASK

TASK is a `Task` as JSON. ``whole``: the tomogram is read, labelled and its labels written, as a user's script would do
it; what that takes is what the process takes. ``steady``: some slices are labelled once the network is loaded and warm;
the seconds that one takes are printed. A peer has the slices in memory then, normalised where it normalises, and
its labels stay there; tomoscribe goes from the file to all of its files.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import mrcfile
import numpy as np
from numpy.typing import NDArray
from peers_configurations import CONFIGURATIONS, Configuration

__all__ = ["Task"]


@dataclass(frozen=True)
class Task:
    """What a child process is to do.

    Attributes:
        configuration: the name of one of `CONFIGURATIONS`.
        kind: ``whole`` or ``steady``.
        tomogram: an MRC file of float32.
        model: the bundle for tomoscribe, its network for a runtime, the checkpoint for PyTorch.
        output: the label volume that a peer writes, the folder for what tomoscribe writes.
        context: context slices on each side.
        statistics: mean and standard deviation of the tomogram, so that all normalise alike.
        slices: how many are labelled, from the first on.
    """

    configuration: str
    kind: str
    tomogram: str
    model: str
    output: str
    context: int
    statistics: tuple[float, float]
    slices: int

    def to_json(self) -> str:
        """Return the task as the child's argument."""
        return json.dumps(asdict(self))


def make_labeller(
    configuration: Configuration, task: Task, slices: NDArray[np.float32]
) -> Callable[[int], NDArray[np.uint8]]:
    """Return a peer that is loaded; what it imports is of no other peer's concern."""
    arguments = (Path(task.model), slices, task.context, task.statistics)
    if configuration.family == "torch":
        from peers_torch import torch_labeller

        return torch_labeller(*arguments, precision=configuration.precision, **configuration.settings)
    import peers_runtimes

    make = getattr(peers_runtimes, f"{configuration.family}_labeller")
    labeller: Callable[[int], NDArray[np.uint8]] = make(*arguments, **configuration.settings)
    return labeller


def run_peer(configuration: Configuration, task: Task) -> None:
    """Do a task with a peer."""
    with mrcfile.open(task.tomogram) as file:
        volume, voxel_size = file.data, file.voxel_size
    slices = np.pad(volume, ((task.context, task.context), (0, 0), (0, 0)), "edge")
    label = make_labeller(configuration, task, slices)
    if task.kind == "steady":
        print_seconds(label, task.slices)
        return
    labels = label(task.slices)
    with mrcfile.new(task.output, labels.astype(np.int8), overwrite=True) as file:
        file.voxel_size = voxel_size


def run_tomoscribe(configuration: Configuration, task: Task) -> None:
    """Say how long tomoscribe takes for a slice, from the file to all of its files, once the model is loaded."""
    from tomoscribe.engine import Segmenter

    with Segmenter(task.model, precision=configuration.precision) as segmenter:
        print_seconds(
            lambda count: segmenter.segment(task.tomogram, task.output, z_range=(0, count), overwrite=True), task.slices
        )
        print(segmenter.backend)


def print_seconds(label: Callable[[int], object], slices: int) -> None:
    """Print how long a slice takes, after a quarter of them to warm up, or as many as can be in work at a time."""
    from tomoscribe.engine.cores import usable_cores

    label(min(slices, max(-(-slices // 4), usable_cores())))
    start = time.perf_counter()
    label(slices)
    print((time.perf_counter() - start) / slices)


def main() -> None:
    """Do the task."""
    task = Task(**json.loads(sys.argv[1]))
    configuration = next(known for known in CONFIGURATIONS if known.name == task.configuration)
    (run_tomoscribe if configuration.is_tomoscribe else run_peer)(configuration, task)


if __name__ == "__main__":
    main()
