"""The page of `gpu.py`: what was found on which GPU, what it is aimed to be, and what could not be measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpu_parts import Scale
from gpu_ratios import Figures, aims
from gpu_running import DONE, Outcome
from measuring import markdown_table

__all__ = ["Setting", "page"]

_NONE = "–"
_STAGES = ("allocate", "read", "submit", "infer", "write", "complete")


@dataclass(frozen=True)
class Setting:
    """What was measured where.

    Attributes:
        command: that made the page.
        scale: how much was measured.
        machine: what `gpu_setup.examine` noted of it.
        circumstances: processor, versions and commit.
    """

    command: str
    scale: Scale
    machine: Mapping[str, Any]
    circumstances: Mapping[str, Any]


def page(setting: Setting, outcomes: Sequence[Outcome], ratios: Mapping[str, float]) -> str:
    """Return the page in Markdown.

    Args:
        setting: what was measured where.
        outcomes: of all parts so far.
        ratios: of `gpu_ratios.ratios`.
    """
    figures, scale = Figures(outcomes), setting.scale
    lines = ["# tomoscribe on a GPU", "", _heading(setting), ""]
    for title, text, table in (
        ("Aims", _AIMS, _aims(figures, scale, ratios)),
        ("Whole volumes", _VOLUMES, _volumes(figures, scale, ratios)),
        ("Stages", _STAGES_TEXT, _stages(figures, scale)),
        ("PyTorch", _TORCH, _torch(figures, scale, ratios)),
        ("The same labels", _PARITY, _parity(figures, scale)),
        ("The bus", _BUS, _bus(figures, scale)),
        ("Libraries that call CUDA's driver", _LIBRARIES, _libraries(figures, outcomes)),
        ("Tests that need a GPU", "", _tests(figures)),
        ("What was not measured", "", _not_done(outcomes)),
    ):
        if table:
            lines += [f"## {title}", "", *([text, ""] if text else []), table, ""]
    return "\n".join(lines)


_AIMS = "For one GPU of the H200's class."
_VOLUMES = (
    "*Files*: from the tomogram's file to a label volume, a score volume for each class and a sidecar, on the disk "
    "(`fsync`), with the model loaded and its slots there. *Memory*: the same, and the labels are not written. *Bare*: "
    "as many slices that lie in the backend's slots already. Overlap is bare over the other. Medians of rounds in "
    "turns. Peak: one product of matrices in the same precision, by PyTorch."
)
_STAGES_TEXT = (
    "Seconds that each stage was at work in the last round from file to files; read, submit, infer and write overlap."
)
_TORCH = (
    "The same weights, channels last. *Files*: a tomogram is read, normalised and labelled, a batch after the other, "
    "and one label volume is written. *Memory*: slices lie on the device, normalised, and the labels stay there. *×*: "
    "how many times as fast the fastest of tomoscribe's backends is, *memory* against the bare backend, which moves "
    "slices and scores over the bus and makes the scores as well."
)
_PARITY = "The bundled model on phantoms, against ONNX Runtime on the CPU in FP32; scores are 0 to 127."
_BUS = "From file to memory; slices cross as they are stored and are cast on the device, or as float32."
_LIBRARIES = "The smallest network, with each library, and with CUDA graphs switched off."


def _heading(setting: Setting) -> str:
    machine, host = setting.machine, setting.circumstances["machine"]
    depth, height, width = setting.scale.shape
    software = ", ".join(f"{name} {number}" for name, number in machine.get("versions", {}).items())
    gpu = ", ".join(machine.get("gpus") or ()) or "no GPU"
    speed = machine.get("written_bytes_per_second")
    return (
        f"Made by `{setting.command}`: U-Nets with random weights in {setting.scale.precision.upper()} on a volume of "
        f"noise of {depth} × {height} × {width}, float32; {setting.scale.rounds} rounds. {gpu}, driver "
        f"{machine.get('driver')} (CUDA {machine.get('cuda')}); {host['processor']}, {host['cores_usable']} cores; "
        f"files come to the disk at {_number(speed, 1e9)} GB/s; {software}; commit {setting.circumstances['commit']}, "
        f"{setting.circumstances['date']}."
    )


def _aims(figures: Figures, scale: Scale, ratios: Mapping[str, float]) -> str:
    if scale.device == "cpu":
        return ""
    rows = []
    for aim in aims(scale):
        value = ratios.get(aim.name)
        if aim.name.startswith("seconds_"):
            value = figures.fastest(scale.backends, max(scale.widths), "files")
        met = _NONE if value is None else "yes" if aim.is_met(value) else "no"
        rows.append([aim.title, _number(value), f"{'≤' if aim.is_most else '≥'} {aim.bound:g}", met])
    return markdown_table(["aim", "measured", "to be", "met"], rows)


def _volumes(figures: Figures, scale: Scale, ratios: Mapping[str, float]) -> str:
    voxels = scale.shape[0] * scale.shape[1] * scale.shape[2]
    rows = []
    for backend, width, part in _volume_parts(scale):
        bare = figures.seconds(part, "bare")
        if bare is None:
            continue
        files, memory = (figures.seconds(part, name) for name in ("files", "memory"))
        operations = figures.operations(width)
        name = f"{backend}_{width}"
        rows.append(
            [
                f"{backend}, base {width}",
                _number(files),
                _number(memory),
                _number(bare),
                _number(ratios.get(f"overlap_{name}")),
                _number(ratios.get(f"overlap_in_memory_{name}")),
                _number(None if files is None else voxels / files, 1e6),
                _number(None if operations is None else operations * voxels / bare, 1e12),
                _number(ratios.get(f"peak_fraction_{name}")),
                _number(figures.seconds(part, "first")),
            ]
        )
    header = ["backend and network", "files, s", "memory, s", "bare, s", "overlap", "overlap in memory"]
    header += ["Mvoxel/s", "TFLOP/s", "of peak", "first use, s"]
    return markdown_table(header, rows) if rows else ""


def _stages(figures: Figures, scale: Scale) -> str:
    rows = []
    for backend, width, part in _volume_parts(scale):
        for note in figures.notes(part, "profile")[-1:]:
            profile = note["profile"]
            busy = [_number(profile["stages"][stage]["busy"]) for stage in _STAGES]
            rows.append([f"{backend}, base {width}", *busy, _number(profile["total"]), profile["bottleneck"]])
    return markdown_table(["backend and network", *_STAGES, "in all", "sets the pace"], rows) if rows else ""


def _torch(figures: Figures, scale: Scale, ratios: Mapping[str, float]) -> str:
    rows = []
    for width in scale.widths:
        for way in ("eager", "monai", "compiled"):
            files, memory = (figures.seconds(f"torch {width}", f"{way} {name}") for name in ("files", "memory"))
            if memory is not None:
                speeds = [ratios.get(f"over_torch_{way}_{width}{suffix}") for suffix in ("", "_in_memory")]
                rows.append([f"{way}, base {width}", *map(_number, (files, memory, *speeds))])
    return markdown_table(["PyTorch", "files, s", "memory, s", "× files", "× memory"], rows) if rows else ""


def _parity(figures: Figures, scale: Scale) -> str:
    rows = [
        [
            f"{backend}, {note['precision'].upper()}",
            f"{note['labels_equal']:.5%}",
            f"{note['foreground_dice']:.5f}",
            str(note["largest_score_difference"]),
        ]
        for backend in scale.backends
        for note in figures.notes(f"parity {backend}", "parity")
    ]
    header = ["backend", "same labels", "foreground Dice", "largest difference of a score"]
    return markdown_table(header, rows) if rows else ""


def _bus(figures: Figures, scale: Scale) -> str:
    rows = []
    for backend in scale.backends:
        rows += [
            [backend, f"{note['direction']}, page-locked", f"{note['bytes_per_second'] / 1e9:.1f} GB/s"]
            for note in figures.notes(f"bus {backend}", "bandwidth")
        ]
        names = dict.fromkeys(note["name"] for note in figures.notes(f"bus {backend}", "seconds"))
        rows += [[backend, name, f"{_number(figures.seconds(f'bus {backend}', name))} s"] for name in names]
    return markdown_table(["backend", "what", "found"], rows) if rows else ""


def _libraries(figures: Figures, outcomes: Sequence[Outcome]) -> str:
    rows = []
    for outcome in outcomes:
        part = outcome.part.name
        if part.startswith("library ") and figures.seconds(part, "bare") is not None:
            seconds = (figures.seconds(part, name) for name in ("files", "memory", "bare"))
            rows.append([part.removeprefix("library "), *map(_number, seconds)])
    return markdown_table(["library", "files, s", "memory, s", "bare, s"], rows) if rows else ""


def _tests(figures: Figures) -> str:
    lines = []
    for note in figures.notes("conformance", "tests"):
        lines.append(f"{note['passed']} passed, {len(note['failed'])} failed, {sum(note['skipped'].values())} skipped.")
        lines += [f"- failed: `{name}`" for name in note["failed"]]
        lines += [f"- skipped, {count}: {reason}" for reason, count in note["skipped"].items()]
    return "\n".join(lines)


def _not_done(outcomes: Sequence[Outcome]) -> str:
    lines = [
        f"- {outcome.part.name}: {outcome.state}, {outcome.reason}" for outcome in outcomes if outcome.state != DONE
    ]
    for outcome in outcomes:
        left_out = (note for note in outcome.notes if note["kind"] == "left out")
        lines += [f"- {outcome.part.name}, {note['name']}: {note['reason']}" for note in left_out]
    return "\n".join(lines)


def _volume_parts(scale: Scale) -> Iterator[tuple[str, int, str]]:
    for width in scale.widths:
        for backend in scale.backends:
            yield backend, width, f"volume {backend} {width}"


def _number(value: float | None, unit: float = 1) -> str:
    return _NONE if value is None else f"{value / unit:.4g}"
