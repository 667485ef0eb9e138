"""What ``tomoscribe doctor`` looks at, but for the GPU."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from tomoscribe.cli.installation import (
    Part,
    builds_of,
    install_command,
    installed_version,
    replace_command,
)
from tomoscribe.cli.page import binary_size, file_size

__all__ = [
    "Finding",
    "State",
    "backend_findings",
    "find_cores",
    "find_memory",
    "find_onnxruntime",
    "find_part",
    "find_python",
    "find_temporary_space",
    "find_terminal",
]

# A compressed reconstruction of 1024 × 1024 × 512 voxels has so much when it is unpacked to float32.
_TEMPORARY_SPACE = 2 * 2**30


class State(StrEnum):
    """How a finding stands."""

    OK = "ok"
    NOTE = "note"
    """Nothing is wrong; something that not everybody needs is not there."""
    LACK = "lack"
    """Something does not work as it could."""
    FAIL = "fail"
    """`segment` cannot run."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what.
        state: how it stands.
        text: what was found, in a line.
        fix: the command that mends it; None where nothing has to be, or no command does.
        facts: the same for scripts.
    """

    name: str
    state: State
    text: str
    fix: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the finding as ``--json`` prints it."""
        return {"name": self.name, "state": str(self.state), "text": self.text, "fix": self.fix, **self.facts}


def find_python() -> Finding:
    """Say what tomoscribe and Python this is, and on what."""
    versions = {"tomoscribe": installed_version("tomoscribe"), "python": platform.python_version()}
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    text = f"{versions['tomoscribe']} on Python {versions['python']} ({sys.executable}), {system}"
    return Finding(
        "tomoscribe", State.OK, text, facts={"versions": versions, "executable": sys.executable, "system": system}
    )


def backend_findings() -> list[Finding]:
    """Ask every backend to run the bundled model."""
    from tomoscribe.cli.trials import try_backends
    from tomoscribe.engine import Bundle, BundleError, default_bundle

    try:
        bundle = Bundle.load(default_bundle())
    except BundleError as error:
        return [Finding("model", State.FAIL, str(error), facts={"runs": False})]
    trials = try_backends(bundle)
    # One that runs is enough; the others are then worth knowing of, and no more.
    otherwise = State.NOTE if any(trial.runs for trial in trials) else State.FAIL
    return [
        Finding(trial.backend, State.OK if trial.runs else otherwise, trial.answer, facts={"runs": trial.runs})
        for trial in trials
    ]


def find_onnxruntime(cpu: Part) -> Finding:
    """Say which ONNX Runtime there is and what it can run on; whether segment can do without, the backends tell.

    Args:
        cpu: the extra that brings it.
    """
    name, builds = "ONNX Runtime", builds_of("onnxruntime")
    facts: dict[str, Any] = {"packages": {build: installed_version(build) for build in builds}, "providers": []}
    if not builds:
        return Finding(name, State.LACK, "not installed", install_command(cpu), facts)
    try:
        import onnxruntime

        facts["providers"] = onnxruntime.get_available_providers()
    except Exception as error:  # an extension that does not load has no class of errors of its own
        again = replace_command(builds, builds[0])
        return Finding(name, State.LACK, f"cannot be imported ({' '.join(str(error).split())})", again, facts)
    found = ", ".join(f"{build} {version}" for build, version in facts["packages"].items())
    if len(builds) > 1:
        text = f"{found}: they overwrite each other, keep one"
        return Finding(name, State.LACK, text, replace_command(builds, builds[-1]), facts)
    text = f"{found}, with {', '.join(facts['providers'])}"
    if cpu.missing:
        return Finding(name, State.LACK, f"{text}; {cpu.missing[0].wanted} is needed", install_command(cpu), facts)
    return Finding(name, State.OK, text, facts=facts)


def find_part(part: Part) -> Finding:
    """Say what is there of the packages of a part; what an extra lacks may well be meant to be lacking."""
    name = f"for {part.name}" if part.name else "base"
    facts = {"packages": {package.name: package.found for package in part.packages}}
    absent = [package.name for package in part.missing if package.found is None]
    unfit = [f"{p.name} {p.found} where {p.wanted} is needed" for p in part.missing if p.found is not None]
    if not part.missing:
        return Finding(name, State.OK, ", ".join(f"{p.name} {p.found}" for p in part.packages), facts=facts)
    lacks = [*unfit, *([f"not installed: {', '.join(absent)}"] if absent else [])]
    state = State.FAIL if not part.name else State.LACK if unfit else State.NOTE
    return Finding(name, state, "; ".join(lacks), install_command(part), facts)


def find_cores() -> Finding:
    """Say how many cores there are for this process."""
    from tomoscribe.engine.machine import read_cores

    cores = read_cores()
    text = f"{cores.usable} of {cores.installed}"
    if cores.usable < cores.installed:
        limited = cores.quota is not None and round(cores.quota) <= cores.usable
        text += f", by a quota of {cores.quota:g} (cgroup)" if limited else ", by the process's affinity"
    facts = {"installed": cores.installed, "usable": cores.usable, "quota": cores.quota}
    return Finding("cores", State.OK, text, facts=facts)


def find_memory() -> Finding:
    """Say how much memory there is for this process."""
    from tomoscribe.engine.machine import read_memory

    memory = read_memory()
    facts = {"installed": memory.installed, "available": memory.available, "limit": memory.limit}
    if memory.usable is None:
        return Finding("memory", State.NOTE, "the system does not say how much there is", facts=facts)
    text = binary_size(memory.usable)
    if memory.installed is not None and memory.usable < memory.installed:
        text += f" of {binary_size(memory.installed)}, by a limit for this process (cgroup or ulimit)"
    if memory.available is not None:
        text += f"; {binary_size(memory.available)} are free on the machine now"
    return Finding("memory", State.OK, text, facts=facts)


def find_temporary_space() -> Finding:
    """Say how much space there is for tomograms that have to be decompressed."""
    name, fix = "temporary files", "export TMPDIR=/a/folder/with/space"
    try:
        folder = Path(tempfile.gettempdir())
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding(name, State.LACK, f"no folder for them can be written ({error.strerror})", fix)
    text = f"{folder}, {file_size(free)} free"
    facts = {"folder": str(folder), "free": free}
    if free < _TEMPORARY_SPACE:
        return Finding(name, State.LACK, f"{text}; compressed tomograms are unpacked there", fix, facts)
    return Finding(name, State.OK, text, facts=facts)


def find_terminal() -> Finding:
    """Say how tomoscribe can draw on the terminal."""
    from rich.console import Console

    console, encoding = Console(), (sys.stdout.encoding or "utf-8").lower()
    facts = {"terminal": console.is_terminal, "colours": console.color_system, "encoding": encoding}
    text = "none: plain text, a line each"
    if console.is_terminal:
        colours = f"{console.color_system} colours" if console.color_system else "no colours"
        text = f"{console.width} × {console.height}, {colours} (TERM={os.environ.get('TERM', '')})"
    if not encoding.replace("-", "").startswith("utf8"):
        text = f"{text}, {encoding}: Å, × and names outside of it cannot be shown"
        return Finding("terminal", State.LACK, text, "export PYTHONUTF8=1", facts)
    return Finding("terminal", State.OK, f"{text}, {encoding}", facts=facts)
