"""Peak memory of `segment` against the size of the tomogram.

    python benchmarks/memory.py --output benchmarks/results [--json FILE] [--sizes 1 2 4 8 16] [--side 1024]

Every figure is of a process of its own that segments one tomogram of float32 slices (`--side`): its peak of resident
memory (VmHWM of /proc/self/status, Linux), which counts the interpreter, all libraries, the model and every buffer, and
not the page cache. Two curves:

*engine*: all slices, with a backend that is ready at once, so that what grows with the number of slices is seen: files
are read, intensities measured, slots filled and emptied, labels and class volumes written.
*model*: the bundled model with the backend of `--backend` on the first `--model-slices` slices of the same files; all
slices of 16 GB would take hours. Outputs have the full shape here too. What `auto` takes is found out before,
by the parent, so that no other backend counts. Of `--repeats` runs the largest counts.

The tomograms are sparse files with noise in some rows of every slice. The engine's outputs, six bytes a voxel with five
classes, really are written, to `--folder`; `--discard` leaves the volumes out where the disk is too small (the labels
are counted all the same).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measuring import argument_parser, markdown_table, save_results, write_noise

from tomoscribe.engine import Bundle, Geometry, ModelSpecification, Segmenter, default_bundle
from tomoscribe.engine.backends import BACKENDS, choose_backend
from tomoscribe.engine.backends.contract import Slot, SlotShape
from tomoscribe.engine.backends.cpu_backend import CPU_LIMITS
from tomoscribe.engine.outputs import OutputPaths
from tomoscribe.engine.sidecar import Sidecar

# Enough for a standard deviation between the sample's percentiles, little enough for any disk.
NOISY_SHARE = 1 / 32
AIM = 700e6


class TooSmallError(Exception):
    """The disk has no room."""


class InstantBackend:
    """Has done its work before it is asked; its buffers are in memory from the start."""

    name = "instant"
    description = "no network"
    streams = 1
    limits = CPU_LIMITS

    def allocate(self, shape: SlotShape, count: int) -> Sequence[Slot]:
        """Return slots whose labels and scores are 1."""
        inputs, tile = shape.batch + 2 * shape.context, (shape.height, shape.width)
        return [
            Slot(
                slices=np.ones((inputs, *tile), np.float32),
                mean=np.zeros(inputs, np.float32),
                rstd=np.ones(inputs, np.float32),
                labels=np.ones((shape.batch, *tile), np.uint8),
                scores=np.ones((shape.batch, shape.classes, *tile), np.uint8),
            )
            for _ in range(count)
        ]

    def submit(self, slot: Slot) -> None:
        """Do nothing."""

    def wait(self, slot: Slot) -> None:
        """Do nothing."""

    def cancel(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def segment_alone(task: dict[str, Any]) -> None:
    """Segment one tomogram in this process, and print the peak of its memory and the time as JSON."""
    if task["backend"] == InstantBackend.name:  # or `auto` would take it
        BACKENDS[InstantBackend.name] = lambda *_, **__: InstantBackend()
    if task["discard"]:
        OutputPaths.open_sinks = _only_sidecar
    start = time.perf_counter()
    precision = "fp32" if task["backend"] == InstantBackend.name else "auto"
    with Segmenter(task["model"], backend=task["backend"], precision=precision) as segmenter:
        segmenter.segment(task["tomogram"], task["output"], z_range=(0, task["slices"]))
        backend = segmenter.backend
    seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    print(json.dumps({"peak_bytes": peak, "seconds": seconds, "slices": task["slices"], "backend": backend}))


def _only_sidecar(
    paths: OutputPaths, geometry: Geometry, specification: ModelSpecification, keep: object, sidecar: Sidecar
) -> list[Sidecar]:
    return [sidecar]


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """Return what `segment_alone` says in a process of its own."""
    command = [sys.executable, __file__, "--alone", json.dumps(task)]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
    return dict(json.loads(answer.stdout))


def measure_curves(
    arguments: argparse.Namespace, depths: Sequence[int], prefix: int, folder: Path
) -> dict[str, list[dict[str, Any]]]:
    """Return the points of both curves, for tomograms of so many slices each.

    Raises:
        TooSmallError: the disk has no room for the outputs.
    """
    bundle, side = Bundle.load(arguments.model), arguments.side
    choose_backend(arguments.backend, bundle)[0].close()
    voxel_bytes = 4 * NOISY_SHARE + (0 if arguments.discard else len(bundle.specification.class_map) + 1)
    needed, free = max(depths) * side**2 * voxel_bytes, shutil.disk_usage(folder).free
    if needed > free:
        raise TooSmallError(f"{folder}: expected {needed / 1e9:.1f} GB free, found {free / 1e9:.1f}; pass --discard")
    common = {"model": str(arguments.model), "discard": arguments.discard, "output": str(folder / "labels")}
    curves: dict[str, list[dict[str, Any]]] = {"engine": [], "model": []}
    for depth in depths:
        path = write_noise(folder / "noise.mrc", (depth, side, side), rows=round(side * NOISY_SHARE))
        ways = {"engine": ("instant", depth), "model": (arguments.backend, min(prefix, depth))}
        for name, (backend, slices) in ways.items():
            runs = []
            # How the streams' allocations fall together is chance, and the worst case is what memory is needed for.
            for _ in range(arguments.repeats if name == "model" else 1):
                runs.append(measure(common | {"tomogram": str(path), "backend": backend, "slices": slices}))
                shutil.rmtree(folder / "labels")
            curves[name].append(
                max(runs, key=lambda run: run["peak_bytes"]) | {"runs": [run["peak_bytes"] for run in runs]}
            )
    return curves


def draw(sizes: Sequence[float], curves: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw the curves."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.5), layout="constrained")
    for name, points in curves.items():
        axes.plot(sizes, [point["peak_bytes"] / 1e6 for point in points], marker="o", label=name)
    axes.axhline(AIM / 1e6, color="grey", linestyle=":", label="aim")
    axes.set(xscale="log", xlabel="tomogram, GB", ylabel="peak of resident memory, MB", ylim=(0, None))
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes], minor=False)
    axes.minorticks_off()
    axes.legend()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure, print, draw and save."""
    parser = argument_parser(__doc__)
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for memory.png")
    parser.add_argument("--sizes", type=float, nargs="+", metavar="GB", help="of tomograms, from small to large")
    parser.add_argument("--side", type=int, default=1024, help="height and width of a slice")
    parser.add_argument("--model", type=Path, default=default_bundle(), help="a bundle")
    parser.add_argument("--model-slices", type=int, help="that the model labels (12; quick: 4)")
    parser.add_argument("--repeats", type=int, help="runs of the model, of which the largest counts (3; quick: 1)")
    parser.add_argument("--backend", default="auto", help="that runs the model")
    parser.add_argument("--folder", type=Path, help="where tomograms and outputs lie meanwhile")
    parser.add_argument("--discard", action="store_true", help="write no volumes")
    parser.add_argument("--alone", help="used by this script itself")
    arguments = parser.parse_args()
    if arguments.alone:
        segment_alone(json.loads(arguments.alone))
        return
    sizes = arguments.sizes or ([0.1, 0.4] if arguments.quick else [1, 2, 4, 8, 16])
    side = arguments.side
    depths = [round(size * 1e9 / 4 / side**2) for size in sizes]
    prefix = arguments.model_slices or (4 if arguments.quick else 12)
    arguments.repeats = arguments.repeats or (1 if arguments.quick else 3)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        try:
            curves = measure_curves(arguments, depths, prefix, Path(folder))
        except TooSmallError as error:
            parser.error(str(error))
    table = [
        [f"{size:g}", str(depth), *(f"{curves[name][n]['peak_bytes'] / 1e6:.0f}" for name in curves)]
        for n, (size, depth) in enumerate(zip(sizes, depths, strict=True))
    ]
    ratios = {
        "largest_over_smallest": curves["engine"][-1]["peak_bytes"] / curves["engine"][0]["peak_bytes"],
        "model_largest_over_smallest": curves["model"][-1]["peak_bytes"] / curves["model"][0]["peak_bytes"],
        "model_peak_over_700_mb": max(point["peak_bytes"] for point in curves["model"]) / AIM,
    }
    print(f"slices of {side} × {side}, float32")
    print(f"engine: all slices, no network, volumes {'discarded' if arguments.discard else 'written'}")
    print(f"model: the first {prefix} slices, {curves['model'][0]['backend']}\n")
    print(markdown_table(["tomogram, GB", "slices", "engine, MB", "model, MB"], table))
    print("\n" + "\n".join(f"{name} {value:.3f}" for name, value in ratios.items()))
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        draw(sizes, curves, arguments.output / "memory.png")
    save_results(
        arguments.json,
        __file__,
        ratios,
        sizes_gb=sizes,
        slices=depths,
        side=side,
        volumes_written=not arguments.discard,
        **curves,
    )


if __name__ == "__main__":
    main()
