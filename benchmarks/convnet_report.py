"""The report of `convnet_comparison`: tables and a picture of what its folders of work hold."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.class_map import ClassMap, hex_colour
from tomoscribe.train.metrics import ConfusionMatrix

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.patches import Patch

__all__ = ["write_report"]

_PICTURE = "convnet_comparison.png"
# Okabe and Ito's blue, vermilion, orange; paler ones for other thresholds.
_COLOURS = ("#0072b2", "#d55e00", "#f0b58a", "#e69f00", "#f5d9a0")
_DASHES = ("-", "-", ":", "-", ":")


@dataclass(frozen=True)
class _Folder:
    """What the folder of a study holds."""

    path: Path
    group: str
    class_map: ClassMap
    tests: Mapping[str, Mapping[str, ConfusionMatrix]]  # test -> method -> counts
    start: str | None  # what the U-Net started from

    @classmethod
    def read(cls, path: Path) -> _Folder:
        about = _json(path / "study.json")
        judged = sorted(((_json(file), file) for file in path.glob("judged_*.json")), key=lambda pair: pair[0]["order"])
        tests = {
            file.stem.removeprefix("judged_"): {
                method: _matrix(counts) for method, counts in entry["confusion"].items()
            }
            for entry, file in judged
        }
        return cls(path, about["group"], ClassMap.from_json(about["classes"]), tests, about.get("start"))


def write_report(folders: Sequence[Path], output: Path) -> str:
    """Write ``convnet_comparison.md`` and ``.png`` and return the text; the first folder is that of the phantoms."""
    output.mkdir(parents=True, exist_ok=True)
    studies = [_Folder.read(path) for path in folders]
    phantoms = studies[0]
    lines = [
        "# The U-Net beside EMAN2's convolutional network",
        "",
        f"Made by `python benchmarks/convnet_comparison.py {shlex.join(_told(sys.argv[1:]))}`; "
        "its docstring states the protocol, `benchmarks/eman2_convnet.py` the network and its sources. *Together*: the "
        "networks of all classes share the U-Net's time. *Each*: every one of them has as long as the U-Net. Their "
        f"thresholds are chosen on the dev split; 0.8 is EMAN2's own.",
        "",
        "## Unseen phantoms: Dice",
        "",
        _verdict(phantoms),
        "",
        f"![Dice by signal-to-noise ratio and class, and a slice]({_PICTURE})",
    ]
    for level, matrices in phantoms.tests.items():
        lines += ["", f"Signal-to-noise ratio {level}", "", *_dice_table(phantoms.class_map, matrices)]
    for group, members in groupby(studies[1:], key=lambda study: study.group):
        alike = list(members)
        lines += [
            "",
            f"## {group}: Dice",
            "",
            f"The U-Net starts from the weights of {alike[0].start}, EMAN2's networks from nothing; the time that both "
            "have is that of the U-Net on these images.",
            *_group(alike),
        ]
    lines += ["", "## What training took", "", *_training_table(studies)]
    text = "\n".join(lines) + "\n"
    (output / "convnet_comparison.md").write_text(text, encoding="utf-8")
    _draw(phantoms, output / _PICTURE)
    return text


def _verdict(study: _Folder) -> str:
    """Return how much better the U-Net is at the hardest level."""
    level, matrices = next(iter(study.tests.items()))
    unet, *others = (_dice(matrix) for matrix in matrices.values())
    differences = unet - np.max(others, axis=0)
    worst = int(np.nanargmin(differences))
    mean, other = np.nanmean(unet), max(np.nanmean(values) for values in others)
    return (
        f"At the hardest level, {level}, the U-Net's mean foreground Dice is {mean:.3f}, that of the best other "
        f"{other:.3f}, the difference {mean - other:+.3f}. Class by class, against whichever of the others is best at "
        f"it, the smallest difference is {differences[worst]:+.3f} ({study.class_map.classes[worst].name})."
    )


def _dice_table(class_map: ClassMap, matrices: Mapping[str, ConfusionMatrix]) -> list[str]:
    names = [label_class.name for label_class in class_map.classes]
    lines = ["| | mean | " + " | ".join(names) + " |", "|" + "---|" * (len(names) + 2)]
    for method, matrix in matrices.items():
        dice = _dice(matrix)
        cells = ["–" if np.isnan(value) else f"{value:.3f}" for value in (np.nanmean(dice), *dice)]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return lines


def _group(studies: Sequence[_Folder]) -> list[str]:
    """Return the tables of studies of one kind, and of all their voxels together."""
    lines: list[str] = []
    pooled: dict[str, ConfusionMatrix] = {}
    for study in studies:
        for name, matrices in study.tests.items():
            lines += ["", f"Judged on {name}", "", *_dice_table(study.class_map, matrices)]
            for method, matrix in matrices.items():
                pooled.setdefault(method, ConfusionMatrix(len(study.class_map) + 1)).counts += matrix.counts
    if len(studies) > 1:
        lines += ["", "All of them", "", *_dice_table(studies[0].class_map, pooled)]
    return lines


def _training_table(studies: Sequence[_Folder]) -> list[str]:
    """Return what each network took; of EMAN2's networks of a study the mean, for there is one a class."""
    lines = [
        "| | networks | steps | tiles seen | seconds | seconds of all cores |",
        "|---|---|---|---|---|---|",
    ]
    for study in studies:
        rows = {"U-Net": [_json(study.path / "unet.json")], **_json(study.path / "convnets.json")}
        for method, networks in rows.items():
            means = [
                np.mean([network[key] for network in networks])
                for key in ("steps", "samples", "seconds", "core_seconds")
            ]
            cells = " | ".join(f"{value:,.0f}" for value in means)
            lines.append(f"| {study.path.name}: {method} | {len(networks)} | {cells} |")
    return [
        *lines,
        "",
        "Of one network, the mean of several. A tile is 256×256 at most for the U-Net, 64×64 for the others.",
    ]


def _draw(study: _Folder, path: Path) -> None:
    """Draw Dice by level, Dice by class at the hardest level, and a slice of it."""
    figure = plt.figure(figsize=(12, 8), layout="constrained")
    upper, lower = np.ravel(figure.subfigures(2, 1, height_ratios=(1, 0.85)))
    by_level, by_class = upper.subplots(1, 2, width_ratios=(2, 3))
    methods = list(next(iter(study.tests.values())))
    levels = [float(level) for level in study.tests]
    hardest = next(iter(study.tests))
    names = [label_class.name.replace(" ", "\n") for label_class in study.class_map.classes]
    width = 0.8 / len(methods)
    for number, method in enumerate(methods):
        colour = _COLOURS[number % len(_COLOURS)]
        dice = [np.nanmean(_dice(matrices[method])) for matrices in study.tests.values()]
        by_level.plot(levels, dice, _DASHES[number % len(_DASHES)], color=colour, marker="o", label=method)
        values = _dice(study.tests[hardest][method])
        places = np.arange(len(names)) + (number - (len(methods) - 1) / 2) * width
        by_class.bar(places, np.nan_to_num(values), 0.92 * width, color=colour)
    by_level.set(xscale="log", ylim=(0, 1), xlabel="signal-to-noise ratio", ylabel="Dice", title="Mean of the classes")
    by_level.set_xticks(levels, [f"{level:g}" for level in levels], minor=False)
    by_level.minorticks_off()
    by_class.set(ylim=(0, 1), title=f"At the hardest level, {hardest}")
    by_class.set_xticks(range(len(names)), names)
    for axes in (by_level, by_class):
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    upper.legend(*by_level.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    _draw_example(study, lower, [method for method in methods if "threshold" not in method])
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _draw_example(study: _Folder, figure: Any, methods: Sequence[str]) -> None:  # noqa: ANN401 - Matplotlib has no types
    with np.load(study.path / "example.npz") as example:
        image = example["image"]
        known = example["truth"] != 255
        rows, columns = (slice(0, int(np.flatnonzero(known.any(axis=axis))[-1]) + 1) for axis in (1, 0))
        low, high = np.percentile(image[rows, columns], (0.5, 99.5))
        panels = {"slice": None, "truth": example["truth"], **{method: example[method] for method in methods}}
        grey = ((image - low) / (high - low)).clip(0, 1)[rows, columns]
        for axes, (title, labels) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
            shown = np.repeat(grey[..., np.newaxis], 3, axis=2)
            axes.imshow(shown if labels is None else _painted(shown, labels[rows, columns], study.class_map))
            axes.set_title(title, fontsize=10)
            axes.set_axis_off()
    handles = [Patch(color=hex_colour(c.colour), label=c.name) for c in study.class_map.classes]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)


def _painted(grey: NDArray[np.floating], labels: NDArray[np.uint8], class_map: ClassMap) -> NDArray[np.floating]:
    """Return an image of (y, x, colour) with the classes painted over it, half transparent."""
    painted = grey.copy()
    for label_class in class_map.classes:
        there = labels == label_class.number
        painted[there] = 0.4 * grey[there] + 0.6 * np.array(label_class.colour) / 255
    return painted


def _dice(matrix: ConfusionMatrix) -> NDArray[np.float64]:
    """Return the Dice of each foreground class; NaN for those that are not in the truth, which tell nothing."""
    return np.where(matrix.true > 0, matrix.dice(), np.nan)[1:]


def _matrix(counts: list[list[int]]) -> ConfusionMatrix:
    matrix = ConfusionMatrix(len(counts))
    matrix.counts += np.array(counts, np.int64)
    return matrix


def _told(arguments: Sequence[str]) -> list[str]:
    """Return command-line arguments with the folders of this machine cut to their names."""
    return [Path(argument).name if "/" in argument else argument for argument in arguments]


def _json(path: Path) -> Any:  # noqa: ANN401 - JSON
    return json.loads(path.read_text(encoding="utf-8"))
