"""How many cores there are for this process."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["usable_cores"]


def usable_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Return how many cores this process may keep busy: its affinity, or a container's quota if that is less.

    Where the system has no affinity (macOS), they are all its cores.

    Args:
        quota: cgroup v2's ``cpu.max``, ``<microseconds or max> <period>`` (Linux, admin-guide/cgroup-v2).
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        allowed, period = quota.read_text(encoding="ascii").split()
        return max(1, min(cores, round(int(allowed) / int(period))))
    except (OSError, ValueError):  # no such file outside of containers, and "max" where nothing is set
        return cores
