"""What a user would otherwise pick, beside tomoscribe: same weights, same tomogram, one run.

    python benchmarks/peers.py --output benchmarks/results [--json FILE] [--slices 16] [--size 960] [--rounds 3]
        [--work FOLDER] [--only NAME ...]

`peers_configurations.CONFIGURATIONS` lists what is compared: PyTorch (eager with MONAI's sliding windows, channels
last, compiled, BF16), ONNX Runtime in a bare loop, OpenVINO in the loop of its own benchmark, and tomoscribe as its
command and its `Segmenter` are. The tomogram is a phantom. Every configuration has two processes of its own in every
round, and all take turns: one that does it all, *whole*, whose time is from its start to its end, and one that times
labelling once the network is loaded and warm, *steady* (`peers_child` has the details). PyTorch, where no slice has
anything to do with the next, is timed over an eighth of them in the latter. Before the rounds each is tried on two
slices, which fills the caches of all; what is not installed or fails is left out, and that is said. The labels of all
are compared with those of PyTorch in FP32, and the speeds with the machine's peak (`roofline.py`).

The bundle with INT8 is exported from the checkpoint of the bundle that ships, which takes minutes; `--work` keeps it,
the phantom and PyTorch's compiled kernels for the next run. ``--quick`` does without INT8 where there is none yet,
without compiling and without trying.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from measuring import argument_parser, circumstances, interleaved, save_results
from peers_bench import Bench, ChildError
from peers_configurations import CONFIGURATIONS, REFERENCE, Configuration
from peers_plot import draw_speeds
from peers_ratios import Outcome, agreement, ratios
from peers_report import Setting, page
from peers_torch import OVERLAP, WINDOW
from roofline import measure_peaks, operations_per_voxel

from tomoscribe.engine import Bundle, default_bundle
from tomoscribe.engine.bundle import CHECKPOINT
from tomoscribe.export.bundle import export_bundle
from tomoscribe.train.phantom import draw_parameters, make_phantom
from tomoscribe.train.phantom.files import write_phantom


def make_tomogram(folder: Path, shape: tuple[int, int, int], bundle: Bundle) -> Path:
    """Return a phantom that the model was trained for, made if it is not there yet."""
    path = folder / "x".join(map(str, shape)) / "phantom.mrc"
    if not path.exists():
        voxel_size = sum(bundle.specification.voxel_size) / 2
        path.parent.mkdir(parents=True, exist_ok=True)
        write_phantom(make_phantom(draw_parameters({"shape": shape, "voxel_size": voxel_size}, seed=0)), path)
    return path


def make_quantised(folder: Path, bundle: Bundle, quick: bool) -> Bundle | None:
    """Return the bundle of the same checkpoint that has INT8, exported if it is not there yet, which is not quick."""
    path = folder / "int8-bundle"
    if not path.exists():
        if quick:
            return None
        export_bundle(bundle.artifact_path(CHECKPOINT), path, precisions=["int8-cpu"], progress=print)
    return Bundle.load(path)


def why_not(bench: Bench, configuration: Configuration, quick: bool) -> str | None:
    """Return why a configuration does not run here; None if it does, which is not tried if that must be quick."""
    if configuration.missing:
        return f"{configuration.missing} is not installed"
    if configuration.quantised and bench.quantised is None:
        return "--quick exports no INT8"
    if quick:
        return "--quick compiles nothing" if configuration.settings.get("compiled") else None
    try:
        bench.steady(configuration, 1)
    except ChildError as error:
        return error.said
    return None


def measure(bench: Bench, found: Sequence[Configuration], rounds: int) -> list[Outcome]:
    """Return what every configuration does."""
    runs = {}
    for configuration in found:
        runs[f"{configuration.name} whole"] = partial(bench.whole, configuration)
        runs[f"{configuration.name} steady"] = partial(bench.steady, configuration)
    seconds = interleaved(runs, rounds)
    labels = {configuration.name: bench.labels(configuration) for configuration in found}
    reference, classes = labels.get(REFERENCE), bench.bundle.specification.classes
    outcomes = []
    for configuration in found:
        name = configuration.name
        description = bench.descriptions.get(name, "")
        outcomes.append(
            Outcome(
                configuration,
                # A backend's description ends with its precision.
                precision=description.rpartition(", ")[2].lower() or configuration.precision,
                description=description,
                whole=seconds[f"{name} whole"],
                steady=seconds[f"{name} steady"],
                agreement=None if reference is None else agreement(labels[name], reference, classes),
            )
        )
    return outcomes


def window_pixels(height: int, width: int) -> float:
    """Return how many pixels MONAI's windows compute for each of a slice.

    They start at every three quarters of a window, the last of them where the slice ends (MONAI,
    ``dense_patch_slices``); a slice that is smaller than a window is padded to one.
    """
    step = int(WINDOW * (1 - OVERLAP))
    counts = [1 + max(0, -(-(length - WINDOW) // step)) for length in (height, width)]
    return counts[0] * counts[1] * WINDOW**2 / (height * width)


def parse() -> argparse.Namespace:
    """Return the arguments, with what `--quick` makes of those that are not given."""
    parser = argument_parser(__doc__)
    parser.add_argument("--output", type=Path, help="folder of peers.md and peers.png")
    parser.add_argument("--slices", type=int, help="at least 8 (16; quick: 8)")
    parser.add_argument("--size", type=int, help="height and width of a slice (960; quick: 512)")
    parser.add_argument("--rounds", type=int, help="(3; quick: 1)")
    parser.add_argument("--model", type=Path, default=default_bundle(), help="a bundle with its checkpoint")
    parser.add_argument("--work", type=Path, help="folder that keeps what need not be made again")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[c.name for c in CONFIGURATIONS])
    arguments = parser.parse_args()
    for name, (usual, quick) in {"slices": (16, 8), "size": (960, 512), "rounds": (3, 1)}.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, quick if arguments.quick else usual)
    return arguments


def main() -> None:
    """Measure, print and save."""
    arguments = parse()
    bundle = Bundle.load(arguments.model)
    if arguments.size % bundle.specification.tile_multiple:
        raise SystemExit(f"--size: expected a multiple of {bundle.specification.tile_multiple}, found {arguments.size}")
    wanted = [known for known in CONFIGURATIONS if arguments.only is None or known.name in arguments.only]
    shape = (arguments.slices, arguments.size, arguments.size)
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        quantised = make_quantised(work, bundle, arguments.quick) if any(c.quantised for c in wanted) else None
        bench = Bench(bundle, quantised, make_tomogram(work, shape, bundle), work / "inductor", Path(temporary))
        left_out = {}
        for configuration in wanted:
            print(f"{configuration.full_title} …", flush=True)
            if reason := why_not(bench, configuration, arguments.quick):
                print(f"  left out: {reason}", flush=True)
                left_out[configuration.full_title] = reason
        outcomes = measure(bench, [known for known in wanted if known.full_title not in left_out], arguments.rounds)
    setting = Setting(
        command=f"python benchmarks/peers.py --slices {shape[0]} --size {shape[1]} --rounds {arguments.rounds}",
        model=bundle.specification.name,
        shape=shape,
        rounds=arguments.rounds,
        operations_per_voxel=operations_per_voxel(bundle.artifact_path("fp32")),
        peaks=measure_peaks(*((1024, 0.2) if arguments.quick else (2048, 2))),
        window_pixels=window_pixels(*shape[1:]),
        left_out=left_out,
        circumstances=circumstances(),
    )
    found = ratios(outcomes, shape[1] * shape[2], setting.operations_per_voxel, setting.best_peaks)
    text = page(setting, outcomes, found, "peers.png")
    print(text)
    if arguments.output is not None:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "peers.md").write_text(text, encoding="utf-8")
        draw_speeds(outcomes, shape, arguments.output / "peers.png")
    save_results(
        arguments.json,
        __file__,
        found,
        model=setting.model,
        shape=shape,
        rounds=setting.rounds,
        operations_per_voxel=setting.operations_per_voxel,
        peaks=setting.peaks,
        left_out=left_out,
        configurations=[outcome.to_json() for outcome in outcomes],
    )


if __name__ == "__main__":
    main()
