"""The limits that a container or a batch system sets for a process: cgroups of version 1 and 2 (Linux)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Limits", "read_limits"]

_ROOT = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
# Version 1 writes "no limit" as the largest number of whole pages that fits 63 bits.
_UNLIMITED = 2**62


@dataclass(frozen=True)
class Limits:
    """What a process may use at most; None where nothing is set.

    Attributes:
        cores: processor time a second, in cores; 0.5 is half of one.
        memory: bytes.
    """

    cores: float | None = None
    memory: int | None = None


def read_limits(root: Path = _ROOT, membership: Path = _MEMBERSHIP) -> Limits:
    """Return the tightest limits of the groups that this process is in.

    A group's limit holds for all groups below it, so every group on the way up counts. Version 2 has them in
    ``cpu.max`` and ``memory.max`` (Linux, admin-guide/cgroup-v2), version 1 in ``cpu.cfs_quota_us``,
    ``cpu.cfs_period_us`` and ``memory.limit_in_bytes`` (scheduler/sched-bwc, admin-guide/cgroup-v1/memory).

    Args:
        root: where the groups are mounted.
        membership: the process's groups, a line ``number:controllers:path`` for each hierarchy (cgroups(7)).
    """
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return Limits()
    cores: list[float] = []
    memory: list[int] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for folder in _groups(root / controllers, path):
            cores += _quota(_words(folder / "cpu.max"))
            cores += _quota(_words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us"))
            memory += _bytes(_words(folder / "memory.max") or _words(folder / "memory.limit_in_bytes"))
    return Limits(min(cores, default=None), min(memory, default=None))


def _groups(mount: Path, path: str) -> Iterator[Path]:
    """Yield the folders of a group and of those above it.

    In a container the path may be that outside of it, where no such folder is to be seen: those above are.
    """
    group = mount / path.strip("/")
    yield group
    while group != mount:
        group = group.parent
        yield group


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="ascii").split()
    except (OSError, ValueError):
        return []


def _quota(words: list[str]) -> list[float]:
    # "max" and -1 are no limit.
    numbers = [int(word) for word in words if word.isdecimal()]
    return [numbers[0] / numbers[1]] if len(numbers) == 2 and numbers[1] else []


def _bytes(words: list[str]) -> list[int]:
    return [int(word) for word in words if word.isdecimal() and int(word) < _UNLIMITED]
