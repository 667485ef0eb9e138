"""The figures of a parity gate, to read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.text import Text

from tomoscribe.cli.inspection import class_swatch
from tomoscribe.cli.page import plain_table

if TYPE_CHECKING:
    from rich.table import Table

    from tomoscribe.engine import ClassMap

__all__ = ["parity_rows", "parity_table"]

Figures = Mapping[str, Any]


def parity_table(parity: Mapping[str, Figures], class_map: ClassMap | None = None) -> Table:
    """Return figures with a column for each precision: classes may be many, precisions are few.

    Args:
        parity: the figures as they stand in ``model.json``, by precision.
        class_map: the colours of the classes, where they are known.
    """
    table = plain_table("parity", *parity, right=parity)
    for name, cell in _FIGURES.items():
        cells = [cell(figures) for figures in parity.values()]
        if any(cells):
            table.add_row(name, *(text or "–" for text in cells))
    dice = [figures.get("dice") or {} for figures in parity.values()]
    colours = {} if class_map is None else {c.name: c.colour for c in class_map.classes}
    for name in dict.fromkeys(name for scores in dice for name in scores):
        title = class_swatch(name, colours[name]) if name in colours else Text(name)
        table.add_row(Text.assemble("Dice ", title), *(_dice(scores.get(name)) for scores in dice))
    sources = [figures.get("sources") or {} for figures in parity.values()]
    for source in dict.fromkeys(source for parts in sources for source in parts):
        table.add_row(f"on {source}", *(_source(parts.get(source)) for parts in sources))
    if any("passed" in figures for figures in parity.values()):
        table.add_row("gate", *(_gate(figures) for figures in parity.values()))
    return table


def parity_rows(parity: Mapping[str, Figures]) -> Iterator[tuple[str, str | Text]]:
    """Yield what each precision was compared with, and where one was let through its gate."""
    for precision, figures in parity.items():
        if "reference" in figures and "runtime" in figures:
            yield f"{precision} parity", f"{figures['runtime']} against {figures['reference']}"
        for way, judged in (figures.get("others") or {}).items():
            if "passed" in judged:
                yield f"{precision} parity", Text.assemble(f"{way}: ", _gate(judged))
        for shortfall in figures.get("shortfalls") or ():
            yield f"{precision} parity", Text(f"let through with --allow-drift: {shortfall}", "yellow")


def _share(figures: Figures) -> str:
    return f"{_floor(100 * figures['labels_equal']):.4f} %" if "labels_equal" in figures else ""


def _largest(figures: Figures) -> str:
    return f"{figures['largest_score_difference']} of 255" if "largest_score_difference" in figures else ""


def _mean(figures: Figures) -> str:
    mean = figures.get("mean_score_difference")
    if mean is None:
        return ""
    return "< 0.001 of 255" if 0 < mean < 0.001 else f"{mean:.3f} of 255"


def _pixels(figures: Figures) -> str:
    return f"{figures['pixels']:,}" if "pixels" in figures else ""


_FIGURES = {
    "same labels": _share,
    "largest difference of a score": _largest,
    "mean difference of the scores": _mean,
    "pixels compared": _pixels,
}


def _dice(score: float | None) -> str:
    return "–" if score is None else f"{_floor(score):.4f}"


def _source(figures: Figures | None) -> str:
    """Return in short what a gate found on one source of samples."""
    if figures is None:
        return "–"
    dice = [score for score in figures["dice"].values() if score is not None]
    return f"{_share(figures)}, Dice ≥ {_dice(min(dice))}" if dice else _share(figures)


def _floor(value: float) -> float:
    """Round down to four digits: 100 % and 1 are said of all pixels, and of nothing less."""
    return int(value * 10_000 + 1e-6) / 10_000  # 0.9912 is stored as a little less


def _gate(figures: Figures) -> Text:
    if "passed" not in figures:
        return Text("–")
    return Text("passed", "green") if figures["passed"] else Text("drifts", "yellow")
