"""What exporting the bundled model in every precision costs: seconds by step, and the size of the bundle.

    python benchmarks/export_cost.py --output benchmarks/results [--calibrate TOMOGRAM ...] [--checkpoint FILE]

Imports count. CPU seconds are those of all threads: on a machine that does other things
as well, a quiet one needs about as many divided by the cores that are kept busy.
"""

from __future__ import annotations

import argparse
import platform
import resource
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

from tomoscribe.engine.bundle import CHECKPOINT, Bundle, default_bundle
from tomoscribe.engine.cores import usable_cores


@dataclass(frozen=True)
class Mark:
    """When a step began, in seconds of the clock and of the CPU."""

    name: str
    wall: float
    cpu: float

    @classmethod
    def now(cls, name: str) -> Mark:
        """Return the mark of a step that begins."""
        return cls(name, time.perf_counter(), time.process_time())


def measure(checkpoint: Path, precisions: list[str], tomograms: list[Path], folder: Path) -> tuple[Bundle, list[Mark]]:
    """Export once, drift allowed, so that what the gates say is reported too."""
    marks = [Mark.now("importing")]
    from tomoscribe.export import export_bundle

    bundle = export_bundle(
        checkpoint,
        folder / "bundle",
        precisions=precisions,
        tomograms=tomograms,
        allow_drift=True,
        progress=lambda name: marks.append(Mark.now(name)),
    )
    return bundle, [*marks, Mark.now("")]


def report(bundle: Bundle, marks: list[Mark], tomograms: list[Path]) -> str:
    """Return the page of results."""
    steps = [(first.name, then.wall - first.wall, then.cpu - first.cpu) for first, then in pairwise(marks)]
    steps.append(("all", marks[-1].wall - marks[0].wall, marks[-1].cpu - marks[0].cpu))
    files = sorted((path for path in bundle.path.rglob("*") if path.is_file()), key=lambda path: -path.stat().st_size)
    total = sum(path.stat().st_size for path in files)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    on = ", ".join(path.name for path in tomograms) or "no tomogram"
    lines = [
        "# What an export costs",
        "",
        f"`benchmarks/export_cost.py`: {bundle.specification.name} in {', '.join(bundle.parity)}, calibrated on "
        f"phantoms and {on}; {usable_cores()} CPUs ({platform.machine()}), PyTorch {version('torch')}. Peak memory "
        f"{memory:.1f} GiB.",
        "",
        "| step | seconds | CPU seconds |",
        "|---|---|---|",
        *(f"| {name} | {wall:.1f} | {cpu:.1f} |" for name, wall, cpu in steps),
        "",
        "| file | MB |",
        "|---|---|",
        *(f"| {path.relative_to(bundle.path)} | {path.stat().st_size / 1e6:.2f} |" for path in files),
        f"| all | {total / 1e6:.2f} |",
        "",
        "| precision | labels equal | least Dice with FP32 | gate |",
        "|---|---|---|---|",
    ]
    for precision, figures in bundle.parity.items():
        dice = min((value for value in figures["dice"].values() if value is not None), default=float("nan"))
        verdict = "passed" if figures["passed"] else "drifts"
        lines.append(f"| {precision} | {figures['labels_equal']:.4%} | {dice:.4f} | {verdict} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--checkpoint", type=Path, help="default: the bundled model's")
    parser.add_argument("--precision", default="fp32,fp16,int8")
    parser.add_argument("--calibrate", type=Path, action="append", default=[], metavar="TOMOGRAM")
    arguments = parser.parse_args()
    checkpoint = arguments.checkpoint or Bundle.load(default_bundle()).artifact_path(CHECKPOINT)
    precisions = arguments.precision.split(",")
    with tempfile.TemporaryDirectory() as folder:
        page = report(*measure(checkpoint, precisions, arguments.calibrate, Path(folder)), arguments.calibrate)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "export_cost.md").write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
