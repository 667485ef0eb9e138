"""Inspecting a TensorRT plan by what was written beside it; TensorRT is not needed."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from tomoscribe.cli.inspection import DIGITS, Inspection, assemble, heading
from tomoscribe.cli.installation import tensorrt_versions
from tomoscribe.cli.page import facts_table, plain_table
from tomoscribe.cli.parity_page import parity_rows, parity_table
from tomoscribe.engine.bundle import Bundle
from tomoscribe.engine.errors import BundleError
from tomoscribe.engine.machine import read_driver
from tomoscribe.engine.plans import PlanError, PlanFile, PlanIdentity, rebuild_command

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

__all__ = ["inspect_plan"]


@dataclass(frozen=True)
class _Need:
    """What a plan was built for, and what there is here of it; several may be here, or nothing."""

    name: str
    needed: str
    here: tuple[str, ...]

    @property
    def met(self) -> bool:
        """Whether the plan finds what it needs."""
        return self.needed in self.here


def inspect_plan(path: Path) -> Inspection:
    """Read what a plan was built for, check its sha256, and compare with this machine and the bundle around it.

    Raises:
        BundleError: there is no plan, or nothing beside it that can be read.
    """
    if not path.is_file():
        raise BundleError(f"{path}: expected a plan, found {'a folder' if path.exists() else 'nothing'} there")
    plan = PlanFile.read(path)
    problems = []
    try:
        plan.read_plan()
    except PlanError as error:
        problems.append(str(error))
    identity, size = plan.identity, path.stat().st_size
    needs = _needs(path, identity)
    entries = {
        "kind": "plan",
        "path": str(path),
        "size": size,
        "sha256": plan.sha256,
        "intact": not problems,
        "identity": identity.to_json(),
        **plan.facts,
        "here": [{**asdict(need), "met": need.met} for need in needs],
    }
    rows = [
        ("precision", identity.precision),
        ("batch", f"1 to {identity.shapes.batch} slices" if identity.shapes.batch > 1 else "1 slice"),
        ("tile", f"{identity.shapes.height} × {identity.shapes.width} pixels"),
        ("context", f"{identity.context} slices on each side"),
        ("classes", f"{identity.classes} with background"),
        *((key, _in_words(value)) for key, value in plan.facts.items() if key != "parity"),
    ]
    parity = plan.facts.get("parity")
    if parity is None:
        rows.append(("parity", "not measured; tomoscribe export --tensorrt does that"))
    sections: list[RenderableType] = [facts_table(rows), _need_table(needs), _verdict(path, identity, needs)]
    if isinstance(parity, dict):
        figures = {identity.precision: parity}
        sections[1:1] = [parity_table(figures), facts_table(parity_rows(figures))]
    return Inspection(entries, assemble(heading(path.name, "TensorRT plan", path, size), sections), problems)


def _needs(path: Path, identity: PlanIdentity) -> list[_Need]:
    gpus = read_driver().gpus
    try:
        artifacts = Bundle.load(path.parent.parent).artifacts
    except BundleError:  # the plan was copied out of its bundle
        artifacts = {}
    network = [artifacts[identity.precision].sha256] if identity.precision in artifacts else []
    return [
        _Need("GPU", identity.device.name, tuple(dict.fromkeys(gpu.name for gpu in gpus))),
        _Need(
            "compute capability",
            identity.device.compute_capability,
            tuple(dict.fromkeys(gpu.compute_capability for gpu in gpus if gpu.compute_capability)),
        ),
        _Need("TensorRT", identity.tensorrt, tuple(dict.fromkeys(tensorrt_versions().values()))),
        _Need("system", identity.system, (f"{sys.platform}-{platform.machine().lower()}",)),
        _Need("network (sha256)", identity.artifact[:DIGITS], tuple(sha256[:DIGITS] for sha256 in network)),
    ]


def _need_table(needs: Sequence[_Need]) -> Table:
    table = plain_table("built for", "", "here")
    for need in needs:
        here = Text(", ".join(need.here) or "none", "green" if need.met else "yellow")
        table.add_row(need.name, Text(need.needed), here)
    return table


def _verdict(path: Path, identity: PlanIdentity, needs: Sequence[_Need]) -> Text:
    unmet = [need.name for need in needs if not need.met]
    if not unmet:
        return Text("fits this machine", "green")
    if not needs[0].here:
        return Text("cannot run here: no NVIDIA GPU that answers; see tomoscribe doctor", "yellow")
    command = rebuild_command(path.parent.parent, identity)
    reason = f"cannot run here, where these differ: {', '.join(unmet)}; build one with:"
    return Text.assemble((reason, "yellow"), "\n", (command, "cyan"))


def _in_words(value: object) -> str:
    if isinstance(value, dict) and not any(isinstance(entry, dict | list) for entry in value.values()):
        return ", ".join(f"{key} {entry}" for key, entry in value.items())
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
