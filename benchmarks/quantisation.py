"""INT8: which rule takes the best ranges, and what its two forms cost and gain, against FP32.

    python benchmarks/quantisation.py --output benchmarks/results [--bundle BUNDLE] [--tomogram FILE ...]

Ranges are taken from the samples that `tomoscribe export` calibrates on, and judged on those that its parity gate uses;
no slice is in both. Everything is quantised while the rules are compared, the logits' convolution too; then `quantise`
searches for what has to stay in float.

Times are those of one thread on the processor, not of a clock, and the graphs take turns, in an order that turns from
round to round, so that what else the machine does hits all alike; a figure is the median of the rounds' ratios.
OpenVINO is measured where it is installed. Neither runtime says anything of TensorRT, which needs a GPU.

A third form shows what one file for all would cost: symmetric as TensorRT wants it, and quantised at the outputs as
ONNX Runtime wants it.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnxruntime.quantization import QDQQuantizer, QuantType, TensorsData

from tomoscribe.engine.bundle import Bundle, default_bundle
from tomoscribe.engine.class_map import ClassMap
from tomoscribe.export.graph import INPUTS, OUTPUTS
from tomoscribe.export.parity import Figures, Sample, measure, onnxruntime_runner, remembered
from tomoscribe.export.quantisation import Quantisation, quantise
from tomoscribe.export.quantisation_calibration import DEFAULT_RULE, RULES, calibrate
from tomoscribe.export.quantisation_graph import OPERATORS, Form, quantised_graph
from tomoscribe.export.samples import gather_samples

Run = Callable[[], Any]
BOTH = "symmetric, inputs and outputs"


def form_for_both(model: onnx.ModelProto, ranges: TensorsData) -> onnx.ModelProto:
    """Quantise symmetrically at the inputs and outputs of every operator of the network."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    stack = [node.name for node in model.graph.node if node.op_type == "Concat"][:1]  # the slices and their context
    options = {"ActivationSymmetric": True, "QuantizeBias": False}
    operators = list(OPERATORS[Form.CPU])
    quantiser = QDQQuantizer(copy, True, False, QuantType.QInt8, QuantType.QInt8, ranges, [], stack, operators, options)
    quantised: onnx.ModelProto = quantiser.quantize_model()
    return quantised


def onnxruntime_run(path: Path, feed: Mapping[str, Any]) -> Run:
    """Return a call of ONNX Runtime on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(list(OUTPUTS), dict(feed))


def openvino_run(path: Path, feed: Mapping[str, Any]) -> Run | None:
    """Return a call of OpenVINO on one thread; None where it is not installed."""
    try:
        import openvino
    except ImportError:
        return None
    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(str(path), "CPU", settings)
    return lambda: compiled(dict(feed))


def speeds(runs: Mapping[str, Run], rounds: int) -> dict[str, tuple[float, float]]:
    """Return milliseconds, and the speed of each in multiples of the first: medians of the rounds."""
    names, taken = list(runs), {name: [] for name in runs}
    for number in range(rounds + 1):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            start = time.process_time()
            runs[name]()
            taken[name].append(time.process_time() - start)
    first = taken[names[0]][1:]  # the first round warms up
    return {
        name: (
            1000 * statistics.median(times[1:]),
            statistics.median(a / b for a, b in zip(first, times[1:], strict=True)),
        )
        for name, times in taken.items()
    }


def figures_row(source: str, figures: Figures) -> str:
    """Return the last columns of a row: how far a graph agrees with FP32 on one source of samples."""
    dice = {name: value for name, value in figures.dice.items() if value is not None}
    worst = min(dice, key=dice.__getitem__)
    return (
        f"{source} | {figures.labels_equal:.3%} | {figures.mean_score_difference:.3f} | {dice[worst]:.4f} ({worst}) |"
    )


class Comparison:
    """Compares on one bundle, and keeps the lines of the report."""

    def __init__(self, bundle: Bundle, tomograms: list[Path], folder: Path) -> None:
        self.fp32 = bundle.artifact_path("fp32")
        self.model = onnx.load(self.fp32)
        self.class_map: ClassMap = bundle.specification.class_map
        self.samples = gather_samples(bundle.specification, tomograms, quantised=True)
        self.folder = folder
        self.reference = remembered(onnxruntime_runner(self.fp32))
        self.lines: list[str] = []

    def say(self, *lines: str) -> None:
        """Print lines, and keep them."""
        print(*lines, sep="\n", flush=True)
        self.lines += lines

    def rules(self) -> None:
        """Compare the rules in both forms, with everything quantised."""
        self.say(
            "| ranges | taken in (s) | form | on | labels equal | mean Δ score | lowest Dice |",
            "|---|---|---|---|---|---|---|",
        )
        for name, rule in RULES.items():
            start = time.process_time()
            ranges = calibrate(self.fp32, self.samples.calibration, OPERATORS[Form.CPU], rule)
            seconds = time.process_time() - start
            for form in Form:
                path = self.save(form, quantised_graph(self.model, ranges, form))
                for source, figures in self.by_source(path).items():
                    self.say(f"| {name} | {seconds:.1f} | {form} | {figures_row(source, figures)}")
            if name == DEFAULT_RULE:
                self.save(BOTH, form_for_both(self.model, ranges))

    def search(self, form: Form) -> None:
        """Say what `quantise` does."""
        start = time.process_time()
        path = self.folder / f"{form}.onnx"
        samples = self.samples
        result: Quantisation = quantise(self.fp32, samples.calibration, samples.search, self.class_map, path, form=form)
        seconds = time.process_time() - start
        self.say(*result.to_markdown(), "", f"{seconds:.0f} s of one core. On the parity samples:", "")
        for source, figures in self.by_source(path).items():
            dice = ", ".join(f"{name} {value:.4f}" for name, value in figures.dice.items() if value is not None)
            self.say(f"- {source}: {dice}")
        self.say("")

    def by_source(self, path: Path) -> Mapping[str, Figures]:
        """Compare a graph with FP32 on the phantoms and on each tomogram."""
        figures = measure(self.reference, onnxruntime_runner(path), self.samples.parity, self.class_map)
        return figures.sources or {self.samples.parity[0].source: figures}

    def time(self, size: int, rounds: int) -> None:
        """Compare the speed of FP32 and the files that the other comparisons left."""
        sample = self.one_slice(size)
        feed = dict(zip(INPUTS, (sample.slices, sample.mean, sample.rstd), strict=True))
        paths = {"fp32": self.fp32, **{form: self.folder / f"{form}.onnx" for form in (*Form, BOTH)}}
        self.say("| runtime | graph | ms of one thread | times as fast as FP32 | bytes |", "|---|---|---|---|---|")
        for runtime, runner in (("ONNX Runtime", onnxruntime_run), ("OpenVINO", openvino_run)):
            runs = {name: run for name, path in paths.items() if (run := runner(path, feed)) is not None}
            for name, (milliseconds, ratio) in (speeds(runs, rounds) if runs else {}).items():
                size_on_disk = paths[name].stat().st_size
                self.say(f"| {runtime} | {name} | {milliseconds:.1f} | {ratio:.2f} | {size_on_disk:,} |")

    def one_slice(self, size: int) -> Sample:
        """Return one slice to label, of the first sample repeated to `size`² pixels."""
        sample = self.samples.parity[0]
        labelled = self.reference(sample).labels
        depth = len(sample.slices) - len(labelled) + 1
        slices = sample.slices[:depth]
        repeats = (1, -(-size // slices.shape[1]), -(-size // slices.shape[2]))
        tiled = np.tile(slices, repeats)[:, :size, :size].copy()
        return Sample(sample.name, tiled, sample.mean[:depth], sample.rstd[:depth])

    def save(self, name: str, model: onnx.ModelProto) -> Path:
        """Save a graph under its name."""
        path = self.folder / f"{name}.onnx"
        onnx.save(model, path)
        return path


def main() -> None:
    """Compare, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for quantisation[_TOMOGRAM].md")
    parser.add_argument("--bundle", type=Path, default=default_bundle())
    parser.add_argument("--tomogram", type=Path, action="append", default=[])
    parser.add_argument("--size", type=int, default=512, help="height and width of the slice that is timed")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundle = Bundle.load(arguments.bundle)
        comparison = Comparison(bundle, arguments.tomogram, Path(folder))
        names = ", ".join(path.name for path in arguments.tomogram)
        comparison.say(
            "# INT8",
            "",
            f"`benchmarks/quantisation.py`: {bundle.specification.name}, phantoms"
            f"{f' and {names}' if names else ''}, ONNX Runtime {onnxruntime.__version__} on {platform.machine()}. "
            "Against FP32; scores count from 0 to 255.",
            "",
            "## Ranges, everything quantised",
            "",
        )
        comparison.rules()
        for form in Form:
            comparison.say("", f"## What `quantise` does, {form}", "")
            comparison.search(form)
        size = arguments.size
        comparison.say(f"## Speed, one slice of {size}×{size}, medians of {arguments.rounds} rounds", "")
        comparison.time(size, arguments.rounds)
        text = "\n".join(comparison.lines) + "\n"
        name = "_".join(["quantisation", *(path.stem for path in arguments.tomogram)])
        (arguments.output / f"{name}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
