"""The page of `peers.py`: what was compared, how fast each was, and what that is against tomoscribe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from measuring import markdown_table, ratio
from peers_ratios import AIMS, Outcome, best_automatic

__all__ = ["Setting", "page"]

_NOT_APPLICABLE = "–"


@dataclass(frozen=True)
class Setting:
    """What was measured where.

    Attributes:
        command: that made the page.
        model: its name.
        shape: of the tomogram, ``(z, y, x)``.
        rounds: how often each configuration had its turn.
        operations_per_voxel: of the network.
        peaks: operations a second that the machine can do, by precision and library.
        window_pixels: that MONAI's windows compute for every pixel of a slice.
        left_out: titles of configurations that did not run, and why.
        circumstances: machine, versions and commit.
    """

    command: str
    model: str
    shape: tuple[int, int, int]
    rounds: int
    operations_per_voxel: float
    peaks: Mapping[str, Mapping[str, float]]
    window_pixels: float
    left_out: Mapping[str, str]
    circumstances: Mapping[str, Any]

    @property
    def best_peaks(self) -> dict[str, float]:
        """The highest peak of each precision."""
        return {precision: max(found.values()) for precision, found in self.peaks.items() if found}


def page(setting: Setting, outcomes: Sequence[Outcome], ratios: Mapping[str, float], picture: str) -> str:
    """Return the page in Markdown.

    Args:
        setting: what was measured where.
        outcomes: what was found.
        ratios: of `peers_ratios.ratios`.
        picture: the name of the plot's file.
    """
    machine, versions = setting.circumstances["machine"], setting.circumstances["versions"]
    depth, height, width = setting.shape
    software = ", ".join(f"{name} {number}" for name, number in versions.items())
    lines = [
        "# tomoscribe beside its peers",
        "",
        f"Made by `{setting.command}`: {setting.model} on a phantom of {depth} slices of {height} × {width}, float32; "
        f"medians of {setting.rounds} interleaved rounds, every configuration in processes of its own. "
        f"{machine['processor']}, {machine['cores_usable']} cores; {software}; commit "
        f"{setting.circumstances['commit']}, {setting.circumstances['date']}.",
        "",
        f"![Mvoxel/s of every configuration]({picture})",
        "",
        "## Ratios",
        "",
        "Of the faster of tomoscribe's `auto` configurations; ratios are medians of the rounds' ratios.",
        "",
        _aims(ratios),
        "",
        "## Configurations",
        "",
        "*Steady*: the network loaded and warm; peers label slices that lie in memory, and their labels stay there, "
        "tomoscribe goes from the file to a label volume and a score volume for each class, on the disk. "
        "*Whole*: the whole process, imports, loading, reading and writing included; peers write a label volume alone. "
        "*× steady*, *× whole*: how many times as fast tomoscribe is. *Dice*: against the labels of PyTorch in FP32 on "
        "whole slices; of the foreground, where a voxel agrees only if its class does, and of the worst class.",
        "",
        _configurations(setting, outcomes),
        "",
        *_left_out(setting.left_out),
        "## Like with like",
        "",
        "tomoscribe in each precision, over the best peer that works in no other.",
        "",
        _like_with_like(outcomes, ratios),
        "",
        "## Roofline",
        "",
        f"The network takes {setting.operations_per_voxel:,.0f} operations a voxel (convolutions alone). Peak: the "
        "best that any of these libraries makes of one large matrix product on the same cores, GFLOP/s. What a "
        "configuration does of it counts the voxels that it labels, not what it computes twice, and the peak is that "
        "of the precision that it is named after, though parts of the network may work in a wider one.",
        "",
        _peaks(setting),
        "",
        "## What the peers are",
        "",
        *_notes(setting),
    ]
    return "\n".join(lines) + "\n"


def _aims(ratios: Mapping[str, float]) -> str:
    names = [name for name in ratios if name in AIMS or name.removesuffix("_whole_process") in AIMS]
    rows = []
    for name in [*names, "peak_fraction"]:
        if name in ratios:
            aim = AIMS.get(name)
            rows.append([f"`{name}`", f"{ratios[name]:.4g}", _NOT_APPLICABLE if aim is None else f"≥ {aim:g}"])
    return markdown_table(["ratio", "measured", "aim"], rows)


def _configurations(setting: Setting, outcomes: Sequence[Outcome]) -> str:
    depth, height, width = setting.shape
    ours = best_automatic(outcomes)
    rows = []
    for outcome in outcomes:
        steady, whole = median(outcome.steady), median(outcome.whole)
        speed = height * width / steady
        peak = setting.best_peaks.get(outcome.precision)
        agreement = outcome.agreement
        there = [dice for dice in agreement.classes if dice is not None] if agreement else []
        rows.append(
            [
                outcome.configuration.title,
                outcome.precision.upper(),
                f"{speed / 1e6:.2f}",
                f"{depth * height * width / whole / 1e6:.2f}",
                f"{whole:.1f}",
                f"{ratio(outcome.steady, ours.steady):.2f}" if ours else _NOT_APPLICABLE,
                f"{ratio(outcome.whole, ours.whole):.2f}" if ours else _NOT_APPLICABLE,
                f"{agreement.foreground:.4f}" if agreement else _NOT_APPLICABLE,
                f"{min(there):.4f}" if there else _NOT_APPLICABLE,
                f"{setting.operations_per_voxel * speed / peak:.0%}" if peak else _NOT_APPLICABLE,
            ]
        )
    header = ["configuration", "precision", "steady, Mvoxel/s", "whole, Mvoxel/s", "whole, s"]
    header += ["× steady", "× whole", "Dice", "worst class", "of peak"]
    return markdown_table(header, rows)


def _left_out(left_out: Mapping[str, str]) -> list[str]:
    return [f"- Left out: {title} ({reason})." for title, reason in left_out.items()] + [""] * bool(left_out)


def _like_with_like(outcomes: Sequence[Outcome], ratios: Mapping[str, float]) -> str:
    rows = []
    for outcome in outcomes:
        if outcome.configuration.is_tomoscribe:
            suffix = f"_{outcome.configuration.name}"
            cells = [
                ratios.get(f"{name}_same_precision{process}{suffix}")
                for name in ("over_best_torch", "over_best_bare_backend")
                for process in ("", "_whole_process")
            ]
            rows.append(
                [
                    outcome.configuration.title,
                    outcome.description,
                    *(_NOT_APPLICABLE if cell is None else f"{cell:.3f}" for cell in cells),
                ]
            )
    header = [
        "configuration",
        "what it chose",
        "over PyTorch, steady",
        "whole",
        "over the bare backend, steady",
        "whole",
    ]
    return markdown_table(header, rows)


def _peaks(setting: Setting) -> str:
    libraries = list(dict.fromkeys(library for found in setting.peaks.values() for library in found))
    rows = [
        [precision.upper(), *(f"{found[name] / 1e9:.0f}" if name in found else _NOT_APPLICABLE for name in libraries)]
        for precision, found in setting.peaks.items()
    ]
    return markdown_table(["precision", *libraries], rows)


def _notes(setting: Setting) -> list[str]:
    return [
        "- PyTorch labels one slice after the other, from normalised slices, and makes nothing but labels: no scores. "
        "Its slices are whole, but for MONAI, whose windows of 512 with an overlap of 0.25 compute "
        f"{setting.window_pixels:.2f} pixels for each of a slice. One window at a time is MONAI's default. What is "
        "compiled has batch normalisation and weights folded in (`torch._inductor.config.freezing`), without which it "
        "is no faster than eager; PyTorch keeps no such graph, so that every process compiles, with C++ kernels from "
        "a cache. In BF16 are weights and values, which is as fast as autocast. INT8 would need another quantised "
        "network in PyTorch, and is not compared.",
        "- ONNX Runtime and OpenVINO run the bundle's files, which compute scores as well. OpenVINO works as "
        "`benchmark_app -hint throughput` does: a network of fixed size, as many requests as it finds best, inputs "
        "that are not copied. Left alone, it takes BF16 for what is not quantised; both are in the table.",
        "- tomoscribe brings a label volume, a volume for each class and a sidecar to the disk (`fsync`); peers leave "
        "one volume to the page cache. All normalise alike: peers are given what tomoscribe measures.",
        "- The trial by which tomoscribe chooses a backend comes once for a machine and bundle, and came before the "
        "first round. The tomogram comes from the page cache.",
        "- PyTorch's weights are those of the bundle's checkpoint, which keeps them in FP16. The bundle that ships was "
        "exported before they were rounded, the one with INT8 after.",
    ]
