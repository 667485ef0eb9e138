"""The parity report of a bundle: ``parity.json``, and ``parity.md`` to read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tomoscribe.engine.class_map import ClassMap
from tomoscribe.export.comparison import Comparison
from tomoscribe.export.difference import SCORE_GAIN
from tomoscribe.export.parity import LEAST_PIXELS, Figures, Sample

if TYPE_CHECKING:
    from tomoscribe.export.quantisation import Quantisation

__all__ = ["write_parity_report"]


def write_parity_report(
    folder: Path,
    title: str,
    comparisons: Sequence[Comparison],
    samples: Sequence[Sample],
    class_map: ClassMap,
    *,
    pictures: Mapping[str, tuple[str, str]] | None = None,
    quantisations: Mapping[str, Quantisation] | None = None,
) -> None:
    """Write the report into a bundle's folder.

    Args:
        folder: the bundle's.
        title: the model's name.
        comparisons: one for each artifact.
        samples: what all of them were compared on.
        class_map: the names of the labels.
        pictures: the difference pictures by precision: the file, and the sample that it shows.
        quantisations: how the INT8 artifacts were made, by precision.

    Raises:
        OSError: a file cannot be written.
    """
    entries = {
        "model": title,
        "reference": comparisons[0].reference,
        "samples": [{"name": sample.name, "slices": list(sample.slices.shape)} for sample in samples],
        "artifacts": {c.precision: {**c.to_json(), "layer_errors": c.layers_to_json()} for c in comparisons},
        "quantisation": {precision: made.to_json() for precision, made in (quantisations or {}).items()},
    }
    text = json.dumps(entries, indent=2, ensure_ascii=False, allow_nan=False)
    (folder / "parity.json").write_text(text + "\n", encoding="utf-8")
    lines = [
        f"# Parity of {title}",
        "",
        f"Every artifact against {comparisons[0].reference}, on {len(samples)} samples. Scores count from 0 to 255. "
        "The Dice coefficient is that of the artifact's labels with the reference's; a class on fewer than "
        f"{LEAST_PIXELS} pixels has none. A gate judges the phantoms and each tomogram apart.",
        "",
        *_figures_table(comparisons, class_map),
        *_shortfalls(comparisons),
        *_apart(comparisons),
        *_layers_table([c for c in comparisons if c.layer_errors]),
        *_gallery(pictures or {}),
        *(
            line
            for precision, made in (quantisations or {}).items()
            for line in ("", f"## How {precision} was made", "", *made.to_markdown())
        ),
        "",
        "## Samples",
        "",
        *(f"- {sample.name}: {' × '.join(map(str, sample.slices.shape))}" for sample in samples),
    ]
    (folder / "parity.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _figures_table(comparisons: Sequence[Comparison], class_map: ClassMap) -> list[str]:
    names = [c.name for c in class_map.classes]
    header = ["artifact", "run by", "pixels", "labels equal", "largest Δ score", "mean Δ score", *names, "gate"]
    rows = []
    for c in comparisons:
        for runtime, figures in c.figures.items():
            rows.append([c.precision, runtime, *_cells(figures, names), "drifts" if c.shortfalls else "passed"])
            rows += [["", f"… on {source}", *_cells(part, names), ""] for source, part in figures.sources.items()]
        for runtime, verdict in c.apart.items():
            cells = [""] * (4 + len(names)) if verdict.figures is None else _cells(verdict.figures, names)
            rows.append([c.precision, runtime, *cells, "drifts" if verdict.shortfalls else "passed"])
    return _table(header, rows)


def _cells(figures: Figures, names: Sequence[str]) -> list[str]:
    dice = (figures.dice[name] for name in names)
    return [
        f"{figures.pixels:,}",
        f"{figures.labels_equal:.4%}",
        str(figures.largest_score_difference),
        f"{figures.mean_score_difference:.4f}",
        *("–" if value is None else f"{value:.4f}" for value in dice),
    ]


def _shortfalls(comparisons: Sequence[Comparison]) -> list[str]:
    lines = [f"- {c.precision}: {missed}" for c in comparisons for missed in c.shortfalls]
    return ["", "Written although it drifts, because that was allowed:", "", *lines] if lines else []


def _apart(comparisons: Sequence[Comparison]) -> list[str]:
    lines = [
        f"- {c.precision} in {runtime}: {missed}"
        for c in comparisons
        for runtime, verdict in c.apart.items()
        for missed in verdict.shortfalls
    ]
    return ["", "Not taken unless it is asked for:", "", *lines] if lines else []


def _layers_table(comparisons: Sequence[Comparison]) -> list[str]:
    if not comparisons:
        return []
    # In the order of the graph, which dictionaries keep.
    layers = list(dict.fromkeys(layer for c in comparisons for layer in c.layer_errors))
    rows = [[layer, *(_share(c.layer_errors.get(layer)) for c in comparisons)] for layer in layers]
    return [
        "",
        "## Where the error arises",
        "",
        "Root mean square of a convolution's error as a share of its values, on the first sample.",
        "",
        *_table(["layer", *(c.precision for c in comparisons)], rows),
    ]


def _gallery(pictures: Mapping[str, tuple[str, str]]) -> list[str]:
    if not pictures:
        return []
    lines = [
        "",
        "## Differences",
        "",
        "The slice with the most labels that differ: as it is, the reference's labels, the artifact's labels, and the "
        f"differences: grey by how far the scores are apart, {SCORE_GAIN} times brighter than they are; red where the "
        "label is another.",
    ]
    for precision, (file, name) in pictures.items():
        lines += ["", f"{precision}, {name}:", "", f"![{precision}]({file})"]
    return lines


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]


def _share(error: float | None) -> str:
    if error is None:
        return "–"
    return f"{error:.3%}" if math.isfinite(error) else "not finite"
