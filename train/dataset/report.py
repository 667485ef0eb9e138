"""The report of a dataset: what is in it, what to beware of, and how to make it again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

from tomoscribe.engine.replacing import replacing
from tomoscribe.train.dataset.contract import SPLITS
from tomoscribe.train.dataset.storage import ARRAYS_FOLDER, Dataset

__all__ = ["CONTACT_SHEET", "TRIM_PLOT", "dataset_warnings", "summarise", "write_report"]

CONTACT_SHEET = "contact_sheet.png"
TRIM_PLOT = "trim.png"
_VOXEL_SIZES = 1.05  # beyond this ratio a network sees two scales


def dataset_warnings(dataset: Dataset, by_tomogram: Mapping[str, Sequence[str]]) -> list[str]:
    """Return what a user should know before training, a line each.

    Args:
        dataset: the dataset.
        by_tomogram: the warnings of each tomogram by its name.
    """
    warnings = [*_leaks(dataset)]
    for split in SPLITS:
        counts = dataset.counts[dataset.numbers(split)].sum(axis=0)
        if not counts.any():
            warnings.append(f"{split} has no images")
            continue
        absent = [c.name for c in dataset.class_map.classes if not counts[c.number]]
        if absent:
            warnings.append(f"{split} has no voxel of {', '.join(absent)}")
    smallest, largest = dataset.voxel_size
    if largest > smallest * _VOXEL_SIZES:
        warnings.append(f"voxel sizes differ: {smallest:.2f} to {largest:.2f} Å")
    return warnings + [f"{name}: {warning}" for name, lines in by_tomogram.items() for warning in lines]


def summarise(dataset: Dataset) -> dict[str, Any]:
    """Return the counts of a dataset as JSON has them: by split, and by tomogram."""
    names = ["background", *(label_class.name for label_class in dataset.class_map.classes)]
    splits = {}
    for split in SPLITS:
        counts = dataset.counts[dataset.numbers(split)]
        voxels = counts.sum(axis=0)
        splits[split] = {
            "images": len(counts),
            "images_without_foreground": int((~counts[:, 1:].any(axis=1)).sum()),
            "ignored_voxels": int(len(counts) * dataset.tile**2 - voxels.sum()),
            "voxels": dict(zip(names, map(int, voxels), strict=True)),
            "images_with": dict(zip(names, map(int, (counts > 0).sum(axis=0)), strict=True)),
        }
    images = Counter((image.tomogram, image.split) for image in dataset.images)
    tomograms = [
        asdict(tomogram) | {"images": {split: images[tomogram.name, split] for split in SPLITS}}
        for tomogram in dataset.tomograms
    ]
    return {"splits": splits, "tomograms": tomograms, "bytes": _size(dataset.path / ARRAYS_FOLDER)}


def write_report(dataset: Dataset, output: Path, *, pictures: Sequence[str]) -> None:
    """Write ``report.md`` and ``report.json``.

    Args:
        dataset: the dataset.
        output: the folder.
        pictures: file names, in that folder, of what is shown.

    Raises:
        OutputError: a file cannot be written.
    """
    facts = summarise(dataset)
    report = {"name": dataset.name, "tile": dataset.tile, "context": dataset.context, **dataset.provenance, **facts}
    with replacing(output / "report.json") as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    with replacing(output / "report.md") as temporary:
        temporary.write_text("\n".join(_lines(dataset, facts, pictures)) + "\n", encoding="utf-8")


def _leaks(dataset: Dataset) -> list[str]:
    """Warn of slices whose neighbours are in another split: they show the same thing."""
    if dataset.provenance["split_by"] != "image":
        return []
    splits: dict[tuple[str, int], dict[int, set[str]]] = {}
    for image in dataset.images:
        splits.setdefault((image.tomogram, image.tile), {}).setdefault(image.z, set()).add(image.split)
    leaks = sum(
        b - a <= 1 and column[a] != column[b] for column in splits.values() for a, b in pairwise(sorted(column))
    )
    return [
        f"split by image: {leaks:,} pairs of neighbouring slices are in different splits and show the same structures, "
        "so that figures on dev and test will be too good; judge the model on tomograms that it has not seen"
    ]


def _lines(dataset: Dataset, facts: Mapping[str, Any], pictures: Sequence[str]) -> list[str]:
    provenance = dataset.provenance
    many = "tomogram" if len(dataset.tomograms) == 1 else "tomograms"
    lines = [
        f"# Dataset {dataset.name}",
        "",
        f"{len(dataset.images):,} images of {dataset.tile} × {dataset.tile} pixels with {dataset.context} slices of "
        f"context on each side, from {len(dataset.tomograms)} {many}; {facts['bytes'] / 1e9:.2f} GB. "
        f"{_SPLIT_TEXT[provenance['split_by']]} Seed {provenance['seed']}.",
        "",
    ]
    left_out = [f"{entry['tomogram']}: {entry['message']}" for entry in provenance["left_out"]]
    for title, entries in (("Warnings", provenance["warnings"]), ("Left out", left_out)):
        lines += [f"## {title}", "", *(f"- {entry}" for entry in entries), ""] if entries else []
    lines += [*_image_lines(facts["splits"]), *_class_lines(dataset, facts["splits"])]
    lines += ["## Tomograms", "", "Shapes are x × y × z; slices are counted from 0, and the last is one past.", ""]
    header = ["tomogram", "shape", "voxel, Å", *SPLITS, "slices", "because"]
    lines += [*_table(header, _tomogram_rows(facts), "because"), ""]
    lines += [line for picture in pictures for line in (f"![{picture}]({picture})", "")]
    return lines + _origin_lines(dataset)


def _image_lines(splits: Mapping[str, Any]) -> list[str]:
    keys = ("images", "images_without_foreground")
    rows = [[split, *(f"{splits[split][key]:,}" for key in keys)] for split in SPLITS]
    return ["## Images", "", *_table(["split", "images", "without foreground"], rows), ""]


def _class_lines(dataset: Dataset, splits: Mapping[str, Any]) -> list[str]:
    header = ["class", *(f"{split} {what}" for split in SPLITS for what in ("images", "voxels", "share"))]
    rows = []
    for name in ("background", *(label_class.name for label_class in dataset.class_map.classes)):
        row = [name]
        for split in SPLITS:
            total = max(sum(splits[split]["voxels"].values()), 1)
            voxels = splits[split]["voxels"][name]
            row += [f"{splits[split]['images_with'][name]:,}", f"{voxels:,}", f"{voxels / total:.3%}"]
        rows.append(row)
    ignored = ", ".join(f"{split} {splits[split]['ignored_voxels']:,}" for split in SPLITS)
    lines = ["## Classes", "", "Shares are of the voxels that are not ignored.", "", *_table(header, rows), ""]
    return [*lines, f"Voxels that are ignored: {ignored}.", ""]


def _origin_lines(dataset: Dataset) -> list[str]:
    provenance = dataset.provenance
    command = f"tomoscribe dataset build RECIPE.yaml -o {dataset.path.name}"
    used = ", ".join(f"{name} {number}" for name, number in provenance["versions"].items())
    lines = ["## To make it again", "", "```", command, "```", ""]
    lines += [f"with {used}, the files that `dataset.json` lists, and the recipe:", ""]
    return [*lines, "```yaml", provenance["recipe_text"].rstrip("\n"), "```"]


_SPLIT_TEXT = {
    "tomogram": "Split by tomogram: none is in two splits.",
    "image": "Split by image: slices of one tomogram are in several splits.",
    "source": "Split as the recipe's sources are fixed.",
}


def _tomogram_rows(facts: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for tomogram in facts["tomograms"]:
        depth, height, width = tomogram["shape"]
        start, stop = tomogram["trim"]
        images = [f"{tomogram['images'][split]:,}" for split in SPLITS]
        shape, size = f"{width} × {height} × {depth}", f"{tomogram['voxel_size']:.2f}"
        rows.append([tomogram["name"], shape, size, *images, f"{start}:{stop}", tomogram["trim_reason"]])
    return rows


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], *texts: str) -> list[str]:
    """Return the lines of a table; the first column and those that are named are texts, the others numbers."""
    lines = [header, ["---" if name in (header[0], *texts) else "---:" for name in header], *rows]
    return [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines]


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
