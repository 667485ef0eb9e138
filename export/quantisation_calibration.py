"""The ranges of activations that INT8 covers, taken from slices that the FP32 graph is run on."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, TensorsData, create_calibrator

from tomoscribe.engine.errors import ParameterError
from tomoscribe.export.graph import INPUTS
from tomoscribe.export.parity import Sample

__all__ = ["DEFAULT_RULE", "RULES", "Rule", "calibrate"]


@dataclass(frozen=True)
class Rule:
    """How a range is taken from all the values that an activation had.

    Attributes:
        method: ONNX Runtime's calibration method.
        options: of `onnxruntime.quantization.create_calibrator`.
    """

    method: CalibrationMethod
    options: Mapping[str, float] = field(default_factory=dict)


def _percentile(percentile: float) -> Rule:
    # The histogram of signed values serves both forms: what is cut is half of the rest at each end.
    return Rule(CalibrationMethod.Percentile, {"percentile": percentile, "num_bins": 2048, "symmetric": False})


RULES: Mapping[str, Rule] = {
    "minmax": Rule(CalibrationMethod.MinMax),
    "percentile 99.999": _percentile(99.999),
    "percentile 99.99": _percentile(99.99),
    "percentile 99.9": _percentile(99.9),
    # With as many bins as levels, which is ONNX Runtime's default, there is nothing to choose from.
    "entropy": Rule(CalibrationMethod.Entropy, {"num_bins": 512, "num_quantized_bins": 128}),
}
"""The rules that ``benchmarks/quantisation.py`` compares, by name."""

DEFAULT_RULE = "percentile 99.99"


class _OneSample(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, sample: Sample) -> None:
        self._feed: dict[str, NDArray[Any]] | None = dict(
            zip(INPUTS, (sample.slices, sample.mean, sample.rstd), strict=True)
        )

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        feed, self._feed = self._feed, None
        return feed


def calibrate(fp32: Path, samples: Sequence[Sample], operators: Sequence[str], rule: Rule) -> TensorsData:
    """Return the ranges of everything that some operators read and write.

    Samples go through one by one, so that memory holds the activations of one sample, however many there are.

    Args:
        fp32: the graph.
        samples: what it will be used on.
        operators: ONNX operator types.
        rule: how a range is taken from the values.

    Raises:
        ParameterError: there is no sample.
    """
    if not samples:
        raise ParameterError("INT8 calibration: expected slices to take ranges from, found none")
    # The calibrator writes beside its model, prints, and knows nothing of a folder that cannot be written.
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        copy = Path(folder) / "model.onnx"
        onnx.save(onnx.load(fp32), copy)
        calibrator = create_calibrator(
            copy,
            list(operators),
            augmented_model_path=str(Path(folder) / "augmented.onnx"),
            calibrate_method=rule.method,
            extra_options=dict(rule.options),
        )
        for sample in samples:
            calibrator.collect_data(_OneSample(sample))
        ranges: TensorsData = calibrator.compute_data()
        return ranges
