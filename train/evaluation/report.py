"""The report of an evaluation: a page to read, the same figures as JSON, and pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.errors import OutputError, OutputExistsError
from tomoscribe.engine.replacing import replacing
from tomoscribe.train.evaluation.calibration import BINS
from tomoscribe.train.evaluation.judgement import Comparison, Judgement
from tomoscribe.train.evaluation.plots import draw_calibration, draw_confusion, draw_dice
from tomoscribe.train.evaluation.worst_cases import WorstCase, draw_worst_cases, find_worst_cases
from tomoscribe.train.metrics import ConfusionMatrix

__all__ = ["JSON_FILE", "REPORT_FILE", "check_report_folder", "class_figures", "figures_of", "write_report"]

REPORT_FILE, JSON_FILE = "report.md", "report.json"
CONFUSION, CALIBRATION, DICE, WORST = "confusion.png", "calibration.png", "dice.png", "worst_cases.png"
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

_DEFINITIONS = (
    "All figures are of voxels whose truth is known; no voxel counts twice. For a class with A its true voxels and B "
    "those that were given it: Dice = 2 |A ∩ B| / (|A| + |B|), IoU = |A ∩ B| / |A ∪ B|, precision = |A ∩ B| / |B|, "
    "recall = |A ∩ B| / |A|. A dash stands where there is nothing to divide by, and for the Dice of a class that the "
    "truth lacks. The mean is that of the classes that the truth has, background not counted.",
)


def check_report_folder(output: Path, overwrite: bool) -> None:
    """See that a report may be written, before the work.

    Raises:
        OutputExistsError: there is one and `overwrite` is not set, or the place is a file's.
    """
    if output.exists() and not output.is_dir():
        raise OutputExistsError(f"{output}: expected a folder for the report, found a file; choose another place")
    for name in (REPORT_FILE, JSON_FILE):
        if (output / name).exists() and not overwrite:
            raise OutputExistsError(f"{output / name}: is there already; pass --overwrite to replace the report")


def write_report(
    judgement: Judgement, comparison: Comparison, output: Path, *, title: str, facts: Mapping[str, str]
) -> Path:
    """Write the report into a folder, made where it is missing; the files of an earlier report are replaced.

    Args:
        judgement: what was counted.
        comparison: where the worst cases are read again.
        output: the folder.
        title: the report's headline.
        facts: what was compared with what, in the order in which it is told.

    Returns:
        The page, which is written last.

    Raises:
        OutputError: the folder or a file in it cannot be written.
        TomoscribeError: an image of the worst cases cannot be read any more.
    """
    cases = find_worst_cases(judgement)
    facts = {**facts, "tomoscribe": version("tomoscribe")}
    try:
        output.mkdir(parents=True, exist_ok=True)
        for name in (REPORT_FILE, JSON_FILE, CONFUSION, CALIBRATION, DICE, WORST):
            (output / name).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{output}: cannot be written ({error.strerror}); choose another folder") from error
    draw_confusion(judgement, output / CONFUSION)
    draw_dice(judgement, output / DICE)
    if judgement.calibration is not None:
        draw_calibration(judgement, judgement.calibration, output / CALIBRATION)
    if cases:
        draw_worst_cases(comparison, cases, output / WORST)
    figures = {"facts": dict(facts), "warnings": list(comparison.warnings), **figures_of(judgement)}
    _write(output / JSON_FILE, json.dumps(figures, indent=2, ensure_ascii=False))
    _write(output / REPORT_FILE, "\n".join(_page(judgement, cases, comparison.warnings, title, facts)))
    return output / REPORT_FILE


def class_figures(judgement: Judgement) -> dict[str, NDArray[np.float64]]:
    """Return the figures over all voxels by name, each ``(classes,)``; NaN where there is nothing to say."""
    total = judgement.total
    there = total.true > 0
    figures = {
        "Dice": np.where(there, total.dice(), np.nan),
        "IoU": np.where(there, total.iou(), np.nan),
        "precision": total.precision(),
        "recall": total.recall(),
    }
    if judgement.tolerant is not None:
        figures[f"within {judgement.tolerant.tolerance} px"] = np.where(there, judgement.tolerant.dice(), np.nan)
    if judgement.calibration is not None:
        errors = [judgement.calibration.curve(label).error for label in range(len(there))]
        figures["calibration error"] = np.array(errors)
    return figures


def figures_of(judgement: Judgement) -> dict[str, Any]:
    """Return all figures as JSON has them: null where a figure cannot be had."""
    total, images = judgement.total, judgement.image_dice()
    names = [label_class.name for label_class in judgement.class_map.classes]
    columns = {**class_figures(judgement), "true voxels": total.true, "found voxels": total.found}
    classes: dict[str, dict[str, Any]] = {
        name: {key: _number(values[label]) for key, values in columns.items()}
        for label, name in enumerate(["background", *names])
    }
    for label, name in enumerate(names, 1):
        values = images[:, label][~np.isnan(images[:, label])]
        quantiles = np.quantile(values, QUANTILES) if values.size else np.full(len(QUANTILES), np.nan)
        classes[name]["images"] = int(values.size)
        classes[name]["Dice of images"] = {
            f"{q:.0%}": _number(value) for q, value in zip(QUANTILES, quantiles, strict=True)
        }
    figures: dict[str, Any] = {
        "mean_foreground_dice": _number(total.mean_dice()),
        "classes": classes,
        "confusion": {"classes": ["background", *names], "counts": total.counts.tolist()},
        "tomograms": {
            name: {
                "mean_foreground_dice": _number(confusion.mean_dice()),
                "dice": {c: _number(value) for c, value in zip(names, _dice(confusion)[1:], strict=True)},
                "confusion": confusion.counts.tolist(),
            }
            for name, confusion in judgement.tomograms.items()
        },
    }
    if judgement.calibration is not None:
        curves = {name: judgement.calibration.curve(label) for label, name in enumerate(names, 1)}
        curves["label given"] = judgement.calibration.curve(None)
        figures["calibration"] = {
            name: {
                "error": _number(curve.error),
                "voxels": curve.voxels.tolist(),
                "score": [_number(value) for value in curve.score],
                "accuracy": [_number(value) for value in curve.accuracy],
            }
            for name, curve in curves.items()
        }
    return figures


def _page(
    judgement: Judgement,
    cases: Sequence[Sequence[WorstCase]],
    warnings: Sequence[str],
    title: str,
    facts: Mapping[str, str],
) -> list[str]:
    lines = [f"# {title}", "", *(f"- {name}: {value}" for name, value in facts.items()), ""]
    if warnings:
        lines += ["## Warnings", "", *(f"- {warning}" for warning in warnings), ""]
    lines += ["## All voxels", "", *_class_table(judgement), "", *_DEFINITIONS]
    if judgement.tolerant is not None:
        near = judgement.tolerant.tolerance
        lines += [
            "",
            f"“Within {near} px” is the harmonic mean of the share of B that has a voxel of A, and of the share of A "
            f"that has one of B, within {near} pixels along x and y in the same slice. For thin membranes it tells "
            "whether they were found; Dice also tells whether they were drawn as thick.",
        ]
    lines += ["", f"![confusion matrix]({CONFUSION})", "", "## Tomograms and images", "", *_tomogram_table(judgement)]
    lines += [
        "",
        "Every figure is over all voxels of the tomogram. Dice of single images that have the class (an image is a "
        "slice, or a tile of one):",
        "",
        *_image_table(judgement),
    ]
    lines += ["", f"![distribution of Dice]({DICE})"]
    if judgement.calibration is not None:
        error = judgement.calibration.curve(None).error
        lines += [
            "",
            "## Calibration",
            "",
            "Of voxels that were labelled with a score of 0.8, four in five should be right. The expected calibration "
            f"error (Guo et al., ICML 2017; {BINS} bins) of the label that was given is {error:.4f}; those of the "
            "classes are in the table above. A rare class has a small error whatever its scores are worth, because "
            "nearly all voxels have a score close to 0 for it: look at its curve.",
            "",
            f"![calibration]({CALIBRATION})",
        ]
    if cases:
        lines += ["", "## Worst cases", "", *_case_table(judgement, cases), "", f"![worst cases]({WORST})"]
    return [*lines, ""]


def _class_table(judgement: Judgement) -> list[str]:
    columns = class_figures(judgement)
    rows = [
        [c.name, *(_cell(values[c.number]) for values in columns.values()), *_voxels(judgement, c.number)]
        for c in judgement.class_map.classes
    ]
    rows.append(["**mean**", f"**{_cell(judgement.total.mean_dice())}**", *[""] * (len(columns) + 1)])
    return _table(["class", *columns, "true voxels", "found voxels"], rows)


def _voxels(judgement: Judgement, label: int) -> list[str]:
    total = judgement.total
    return [f"{total.true[label]:,}", f"{total.found[label]:,}"]


def _tomogram_table(judgement: Judgement) -> list[str]:
    names = [label_class.name for label_class in judgement.class_map.classes]
    rows = [
        [name, *(_cell(value) for value in _dice(confusion)[1:]), _cell(confusion.mean_dice())]
        for name, confusion in judgement.tomograms.items()
    ]
    return _table(["tomogram", *names, "mean"], rows)


def _image_table(judgement: Judgement) -> list[str]:
    images = judgement.image_dice()
    rows = []
    for label_class in judgement.class_map.classes:
        values = images[:, label_class.number]
        values = values[~np.isnan(values)]
        quantiles = np.quantile(values, QUANTILES) if values.size else np.full(len(QUANTILES), np.nan)
        rows.append([label_class.name, str(values.size), *map(_cell, quantiles)])
    return _table(["class", "images", *(f"{quantile:.0%}" for quantile in QUANTILES)], rows)


def _case_table(judgement: Judgement, cases: Sequence[Sequence[WorstCase]]) -> list[str]:
    rows = []
    for case in (case for of_class in cases for case in of_class):
        place = judgement.places[case.number]
        _, true, found = judgement.overlaps[case.number, :, case.label_class.number]
        where = [place.tomogram, str(place.z), str(place.top), str(place.left)]
        rows.append([case.label_class.name, *where, _cell(case.dice), f"{true:,}", f"{found:,}"])
    return _table(["class", "tomogram", "z", "y", "x", "Dice", "true voxels", "found voxels"], rows)


def _dice(confusion: ConfusionMatrix) -> NDArray[np.float64]:
    """Return the Dice of each class, NaN where the truth lacks it."""
    return np.where(confusion.true > 0, confusion.dice(), np.nan)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


def _cell(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _number(value: float | np.generic) -> float | int | None:
    plain: float | int = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(plain, float) and math.isnan(plain) else plain


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text.rstrip() + "\n", encoding="utf-8")
