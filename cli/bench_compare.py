"""``tomoscribe bench --compare``: two benchmarks beside each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from tomoscribe.cli.page import facts_table, plain_table, print_page

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tomoscribe.engine.latency.comparison import Comparison

__all__ = ["print_comparison"]

_STYLES = {"slower": "bold red", "faster": "green", "same": "", "within noise": "dim", "measured once": "dim"}


def print_comparison(before: Path, after: Path, tolerance: float) -> int:
    """Print what changed from one file of ``--json`` to another.

    Args:
        before: the earlier file.
        after: the later file.
        tolerance: how much slower is the same, over the figure.

    Returns:
        The exit status: 1 where a figure is slower, 0 where none is.

    Raises:
        ParameterError: files that cannot be compared.
    """
    from tomoscribe.engine.latency.comparison import Verdict, compare
    from tomoscribe.engine.latency.record import Record

    records = Record.read(before), Record.read(after)
    comparison = compare(*records, tolerance)
    facts = (
        (when, f"{path}, {record.model['name']}, {record.date}")
        for when, path, record in zip(("before", "after"), (before, after), records, strict=True)
    )
    print_page([facts_table(facts), *_page(comparison, tolerance)])
    return 1 if comparison.count(Verdict.SLOWER) else 0


def _page(comparison: Comparison, tolerance: float) -> Iterator[RenderableType]:
    for warning in comparison.warnings:
        yield Text(f"warning: {warning}", "yellow")
    for pair in comparison.pairs:
        yield Text()
        yield Text.assemble((pair.kind, "bold"), f"; {_words(pair.configuration)}")
        names = ("before", "after", "ratio", "noise")
        table = plain_table("figure", *names, "verdict", right=names)
        for change in pair.changes:
            table.add_row(
                change.name.replace("_", " "),
                f"{change.before:.4g}",
                f"{change.after:.4g}",
                f"{change.ratio:.3f}",
                "–" if change.noise is None else f"{change.noise:.1%}",
                Text(change.verdict, _STYLES[change.verdict]),
            )
        yield table
    yield Text()
    for when, rows in (("before", comparison.only_before), ("after", comparison.only_after)):
        if rows:
            kinds = Counter(row.kind for row in rows)
            left_out = ", ".join(f"{count} of {kind}" for kind, count in kinds.items())
            yield Text(f"configurations that were measured only {when}: {left_out}", "yellow")
    yield _summary(comparison, tolerance)


def _summary(comparison: Comparison, tolerance: float) -> Text:
    from tomoscribe.engine.latency.comparison import Verdict

    counts = {verdict: comparison.count(verdict) for verdict in Verdict}
    total = sum(counts.values())
    parts = [f"{count} {verdict}" for verdict, count in counts.items() if count]
    style = _STYLES["slower"] if counts[Verdict.SLOWER] else ""
    return Text(
        f"{total} figure{'' if total == 1 else 's'}: {', '.join(parts)}; up to {tolerance:.1%} is the same", style
    )


def _words(configuration: Mapping[str, Any]) -> str:
    """Return a configuration as the tables of a benchmark have it."""
    return ", ".join(
        f"{name} {'x'.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in configuration.items()
    )
