"""Pages of facts: wrapped to a terminal, one line each in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

__all__ = ["binary_size", "facts_table", "file_size", "joined", "plain_table", "print_page"]

# Wide enough for anything: what reads a pipe takes a fact a line.
_UNWRAPPED = 100_000
# rich breaks lines at every kind of space, the no-break space too; this is as blank and as wide, and is none.
_JOINT = "\u2800"


def print_page(parts: Iterable[RenderableType]) -> None:
    """Print to stdout; a `Text` is left to the terminal to wrap, so that a command in it can be copied whole."""
    console = Console(highlight=False)
    in_pipe = not console.is_terminal
    if in_pipe:
        console.width = _UNWRAPPED
    with console.capture() as captured:
        for part in parts:
            console.print(part, soft_wrap=isinstance(part, Text))
    page = captured.get().replace(_JOINT, " ")
    if in_pipe:
        page = "".join(f"{line.rstrip()}\n" for line in page.splitlines())
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(page.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


def joined(words: str) -> str:
    """Return words that stay on one line wherever `print_page` wraps it."""
    return words.replace(" ", _JOINT)


def facts_table(rows: Iterable[tuple[str, str | Text]]) -> Table:
    """Return a table of names and what there is to say of each."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, fact in rows:
        table.add_row(name, fact if isinstance(fact, Text) else Text(fact))
    return table


def plain_table(*names: str, right: Iterable[str] = ()) -> Table:
    """Return an empty table with a heading for each column; those of `right` are set to the right."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in names:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return table


def file_size(size: int) -> str:
    """Return bytes in powers of ten, as files and disks are measured: ``7.8 MB``."""
    number = float(size)
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 999.95:
            return f"{size} bytes" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def binary_size(size: int) -> str:
    """Return bytes in powers of two, as memory is measured: ``24.0 GiB``."""
    return f"{size / 2**30:.1f} GiB"
