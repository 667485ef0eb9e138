"""``tomoscribe doctor``: what this machine has for tomoscribe, what it lacks, and the command that mends it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tomoscribe.cli.findings import Finding

__all__ = ["doctor"]

Groups = Mapping[str, Sequence["Finding"]]

# ONNX Runtime and TensorRT have findings of their own.
_TOLD_ELSEWHERE = ("cpu", "cuda", "tensorrt")
_STYLES = {"ok": "green", "note": "dim", "lack": "yellow", "fail": "bold red"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Look at this machine: what runs models here, GPUs, driver, packages, memory, and how to mend what lacks.

    The exit status is 0 where segment can run, and 1 where it cannot.
    """
    import json

    from tomoscribe.cli.findings import State
    from tomoscribe.cli.page import print_page

    groups = _examine()
    findings = [finding for group in groups.values() for finding in group]
    can_segment = not any(finding.state is State.FAIL for finding in findings)
    if as_json:
        page = {name: [finding.to_json() for finding in group] for name, group in groups.items()}
        typer.echo(json.dumps({"can_segment": can_segment, **page}, indent=2, ensure_ascii=False))
    else:
        print_page(_page(groups, can_segment))
    raise typer.Exit(0 if can_segment else 1)


def _examine() -> Groups:
    from tomoscribe.cli.findings import (
        backend_findings,
        find_cores,
        find_memory,
        find_onnxruntime,
        find_part,
        find_python,
        find_temporary_space,
        find_terminal,
    )
    from tomoscribe.cli.findings_gpu import find_cuda_library, find_gpus, find_tensorrt
    from tomoscribe.cli.installation import read_parts

    parts = {part.name: part for part in read_parts()}
    packages = [find_part(part) for name, part in parts.items() if name not in _TOLD_ELSEWHERE]
    if parts[""].missing:
        # The engine cannot be imported, and with it go most of the questions.
        return {"tomoscribe": [find_python()], "packages": packages}
    from tomoscribe.engine.machine import find_nvidia_devices, read_driver

    driver = read_driver()
    return {
        "backends": backend_findings(),
        "machine": [find_cores(), find_memory(), *find_gpus(driver, find_nvidia_devices()), find_temporary_space()],
        "packages": [
            find_python(),
            *packages[:1],
            find_onnxruntime(parts["cpu"]),
            find_cuda_library(driver, parts.get("tensorrt")),
            find_tensorrt(driver, parts.get("tensorrt")),
            *packages[1:],
        ],
        "output": [find_terminal()],
    }


def _page(groups: Groups, can_segment: bool) -> Iterator[RenderableType]:
    from rich.table import Table
    from rich.text import Text

    findings = [finding for group in groups.values() for finding in group]
    width = max(len(finding.name) for finding in findings)
    for name, group in groups.items():
        yield Text(name, "bold")
        for finding in group:
            row = Table.grid(padding=(0, 2, 0, 0))
            row.add_column(width=6, no_wrap=True)
            row.add_column(width=width, no_wrap=True)
            row.add_column(overflow="fold")
            row.add_row(Text(f"  {finding.state}", _STYLES[finding.state]), finding.name, Text(finding.text))
            yield row
            if finding.fix is not None:
                purpose = "to add it:" if finding.state == "note" else "to mend it:"
                yield Text.assemble(" " * 8, (f"{purpose:{width}}", "dim"), "  ", (finding.fix, "cyan"))
        yield Text()
    if can_segment:
        yield Text("segment can run here", "bold green")
    else:
        yield Text("segment cannot run here; what is marked 'fail' says why", "bold red")
