"""How many cores there are for this process."""

from __future__ import annotations

import os

from tomoscribe.engine.cgroup import read_limits

__all__ = ["usable_cores"]


def usable_cores() -> int:
    """Return how many cores this process may keep busy: its affinity, or the quota of its cgroups if that is less.

    Where the system has no affinity (macOS), they are all its cores.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = read_limits().cores
    return cores if quota is None else max(1, min(cores, round(quota)))
