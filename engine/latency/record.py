"""What a benchmark leaves behind: a JSON file with every figure, and the machine, versions and model that it is of."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Self

from tomoscribe.engine.backends.gpu_choice import CPU, gpu_names, parse_devices
from tomoscribe.engine.backends.processor import read_processor
from tomoscribe.engine.bundle import CHECKPOINT, Bundle
from tomoscribe.engine.errors import ParameterError
from tomoscribe.engine.latency.configuration import Effort
from tomoscribe.engine.latency.measurement import Latency
from tomoscribe.engine.latency.statistics import Figure
from tomoscribe.engine.latency.sweep import Result
from tomoscribe.engine.latency.volume import VolumeTimes
from tomoscribe.engine.machine import read_cores, read_memory
from tomoscribe.engine.replacing import replacing

__all__ = ["Measurement", "Record"]

_FORMAT = "tomoscribe-bench"
_FORMAT_VERSION = 1
_PACKAGES = (
    "tomoscribe",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt-cu13",
    "cuda-bindings",
    "pycuda",
)


@dataclass(frozen=True)
class Measurement:
    """One row of a benchmark.

    Attributes:
        kind: ``latency``, ``volume`` or ``cold start``.
        configuration: what was measured, in JSON's types: backend, precision, device, tile as ``[height, width]``, and
            what else the kind depends on.
        figures: what can be compared with another run, by a name that ends with its unit.
        details: the rest.
    """

    kind: str
    configuration: Mapping[str, Any]
    figures: Mapping[str, Figure]
    details: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, result: Result) -> Self:
        """Return the row of a result."""
        if isinstance(result, Latency):
            details = {"backend": result.description, **result.to_json()}
            return cls("latency", result.configuration.to_json(), result.figures(), details)
        if isinstance(result, VolumeTimes):
            details = {"backend": result.description, **result.to_json()}
            return cls("volume", result.configuration(), result.figures(), details)
        return cls("cold start", result.configuration(), result.figures(), result.to_json())

    def to_json(self) -> dict[str, Any]:
        """Return the row in JSON's types."""
        figures = {name: figure.to_json() for name, figure in self.figures.items()}
        return {"kind": self.kind, "configuration": dict(self.configuration), "figures": figures, **self.details}


@dataclass(frozen=True)
class Record:
    """A benchmark.

    Attributes:
        machine: processor, cores, memory, and by its number what each GPU is that was measured.
        versions: of Python, and of the packages that speed depends on.
        model: its name, and the sha256 of each of its networks.
        effort: how long was measured: ``warm_up`` in ms, ``duration`` in seconds, ``runs``.
        measurements: the rows.
        date: when, in UTC.
    """

    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    model: Mapping[str, Any]
    effort: Mapping[str, Any]
    measurements: Sequence[Measurement]
    date: str

    @classmethod
    def of(cls, bundle: Bundle, effort: Effort, measurements: Sequence[Measurement]) -> Self:
        """Return the record of what was just measured on this machine."""
        cores, networks = read_cores(), bundle.artifacts.items()
        return cls(
            machine={
                "processor": read_processor().name,
                "architecture": platform.machine(),
                "system": platform.platform(),
                "cores_installed": cores.installed,
                "cores_usable": cores.usable,
                "memory_bytes": read_memory().installed,
                "gpus": _gpus(measurements),
            },
            versions={"python": platform.python_version(), **_versions()},
            model={
                "name": bundle.specification.name,
                "sha256": {precision: artifact.sha256 for precision, artifact in networks if precision != CHECKPOINT},
            },
            effort={"warm_up_ms": effort.warm_up, "duration_s": effort.duration, "runs": effort.runs},
            measurements=tuple(measurements),
            date=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def write(self, path: Path) -> None:
        """Write the record, in place of one that is there.

        Raises:
            OutputError: it cannot be written.
        """
        page = {
            "format": _FORMAT,
            "format_version": _FORMAT_VERSION,
            "date": self.date,
            "machine": dict(self.machine),
            "versions": dict(self.versions),
            "model": dict(self.model),
            "effort": dict(self.effort),
            "measurements": [measurement.to_json() for measurement in self.measurements],
        }
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(page, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote.

        Raises:
            ParameterError: no such file, or not a benchmark of this format.
        """
        try:
            page = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            found = error.strerror if isinstance(error, OSError) else "not JSON"
            raise ParameterError(f"{path}: expected a file of tomoscribe bench --json, found none ({found})") from error
        if not isinstance(page, dict) or page.get("format") != _FORMAT:
            raise ParameterError(f"{path}: expected a file of tomoscribe bench --json, found another kind of JSON")
        if (version_found := page.get("format_version")) != _FORMAT_VERSION:
            raise ParameterError(
                f"{path}: expected format version {_FORMAT_VERSION}, found {version_found!r}; measure again with --json"
            )
        try:
            return cls(
                machine=dict(page["machine"]),
                versions=dict(page["versions"]),
                model={"name": page["model"]["name"], "sha256": dict(page["model"]["sha256"])},
                effort=dict(page["effort"]),
                measurements=tuple(map(_measurement, page["measurements"])),
                date=str(page["date"]),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ParameterError(
                f"{path}: expected what tomoscribe bench --json writes, found an entry missing or of another kind "
                f"({error}); measure again"
            ) from error


def _measurement(row: Mapping[str, Any]) -> Measurement:
    entries = dict(row)
    kind, configuration, figures = (entries.pop(key) for key in ("kind", "configuration", "figures"))
    read = {name: _figure(name, **figure) for name, figure in figures.items()}
    # Before there were others, the device was not written down.
    configuration = {**configuration, "device": configuration.get("device", CPU)}
    return Measurement(str(kind), configuration, read, entries)


def _figure(name: str, value: float, standard_error: float | None, samples: int) -> Figure:
    if not value > 0 or (standard_error is None) != (samples < 2):
        raise ValueError(f"{name} is {value!r} with a standard error of {standard_error!r}, of {samples!r} samples")
    return Figure(float(value), None if standard_error is None else float(standard_error), int(samples))


def _gpus(measurements: Sequence[Measurement]) -> dict[str, str]:
    devices = {row.configuration["device"] for row in measurements}
    numbers = sorted({number for device in devices for number in parse_devices(device) or ()})
    # Where all was measured on the CPU, CUDA is left alone.
    return {str(number): name for number, name in gpu_names(numbers).items()} if numbers else {}


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
