"""How fast a dataset is built, relative to a plain copy of the files that it is built from.

    python benchmarks/dataset_build.py [--tomograms 4] [--shape 96x960x960] [--output benchmarks/results]

The tomograms are noise (float32) with labels of blobs (int8), each pair in files of its own. A build reads every
tomogram, cuts tiles of 512, normalises, writes float16 and compressed labels, and draws the report; `automatic` trims
too, which reads every slice once more. The plain copy reads and writes the same input bytes. Copy and builds follow
each other in rounds; each is the median of its rounds, and of a build the largest memory of its processes is told.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import yaml
from scipy.ndimage import gaussian_filter

CLASSES = [{"name": "blob", "colour": "#e69f00"}]


def make(folder: Path, count: int, shape: tuple[int, int, int]) -> None:
    """Write the tomograms and their labels."""
    random = np.random.default_rng(0)
    labels = gaussian_filter(random.standard_normal(shape, np.float32), (1, 8, 8))
    labels = (labels > 1.5 * labels.std()).astype(np.int8)
    for number in range(count):
        intensity = random.standard_normal(shape, np.float32) - labels
        for name, volume in ((f"t{number}.mrc", intensity), (f"t{number}_labels.mrc", labels)):
            with mrcfile.new(folder / name, volume) as file:
                file.voxel_size = 10
                file.set_volume()


def write_recipe(folder: Path, trim: str) -> Path:
    """Write a recipe for the tomograms."""
    source = {"tomograms": "t[0-9].mrc", "labels": "{tomogram}_labels.mrc"}
    keys = {"name": "benchmark", "classes": CLASSES, "trim": trim, "sources": [source]}
    path = folder / f"{trim}.yaml"
    path.write_text(yaml.safe_dump(keys), encoding="utf-8")
    return path


def in_its_own_process(function: Callable[..., None], *arguments: object) -> None:
    """Run a function where it leaves nothing behind: a process begins with the peak of the one that started it."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == 0


def copy(folder: Path, output: Path) -> None:
    """Copy every input, as cp does."""
    output.mkdir()
    for path in folder.glob("*.mrc"):
        shutil.copyfile(path, output / path.name)


def build(recipe: Path, output: Path, processes: int) -> None:
    """Build, in a process of its own, whose memory is then known."""
    in_its_own_process(_build, recipe, output, processes)


def _build(recipe: Path, output: Path, processes: int) -> None:
    from tomoscribe.train.dataset.build import build_dataset

    started = time.perf_counter()
    build_dataset(recipe, output, processes=processes)
    seconds = time.perf_counter() - started
    # In KiB on Linux.
    own, workers = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    (output / "measured").write_text(f"{seconds} {max(own, workers)}", encoding="utf-8")


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tomograms", type=int, default=4, help="10 at most")
    parser.add_argument("--shape", default="96x960x960", help="ZxYxX")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    z, y, x = (int(length) for length in arguments.shape.split("x"))
    seconds: dict[str, list[float]] = {}
    memory: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "input")
        folder.mkdir()
        in_its_own_process(make, folder, arguments.tomograms, (z, y, x))
        bytes_ = sum(path.stat().st_size for path in folder.glob("*.mrc"))
        plans = [(trim, n) for trim in ("none", "automatic") for n in sorted({1, arguments.processes})]
        recipes = {trim: write_recipe(folder, trim) for trim, _ in plans}
        for _ in range(arguments.rounds):
            started = time.perf_counter()
            copy(folder, Path(temporary, "copy"))
            seconds.setdefault("plain copy", []).append(time.perf_counter() - started)
            shutil.rmtree(Path(temporary, "copy"))
            for trim, processes in plans:
                output = Path(temporary, "dataset")
                build(recipes[trim], output, processes)
                name = f"build, trim {trim}, processes {processes}"
                taken, kibibytes = (output / "measured").read_text(encoding="utf-8").split()
                seconds.setdefault(name, []).append(float(taken))
                memory[name] = max(memory.get(name, 0), int(kibibytes))
                shutil.rmtree(output)
    voxels = arguments.tomograms * z * y * x
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    lines = [
        "# Building a dataset",
        "",
        f"{arguments.tomograms} tomograms of {x} × {y} × {z} (float32) with labels (int8), {bytes_ / 1e6:.0f} MB, in "
        f"the page cache; {platform.machine()}, medians of {arguments.rounds} interleaved rounds. "
        "Made by `benchmarks/dataset_build.py`.",
        "",
        "| | Mvoxel/s | time over plain copy | largest memory of a process, MB |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, median in medians.items():
        used = f"{memory[name] * 1024 / 1e6:.0f}" if name in memory else ""
        lines.append(f"| {name} | {voxels / median / 1e6:.0f} | {median / medians['plain copy']:.1f} | {used} |")
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "dataset_build.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
