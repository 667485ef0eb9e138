from __future__ import annotations

import pytest

from tomoscribe.engine import cores
from tomoscribe.engine.cgroup import Limits
from tomoscribe.engine.cores import usable_cores


@pytest.fixture
def quota(monkeypatch):
    def set_quota(value):
        monkeypatch.setattr(cores, "read_limits", lambda: Limits(cores=value))

    return set_quota


@pytest.mark.parametrize(("allowed", "expected"), [(None, 8), (2.5, 2), (0.2, 1), (99.0, 8)])
def test_a_quota_limits_the_cores(quota, monkeypatch, allowed, expected):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)))
    quota(allowed)
    assert usable_cores() == expected


@pytest.mark.parametrize(("count", "expected"), [(6, 6), (None, 1)])
def test_without_an_affinity_all_cores_count(quota, monkeypatch, count, expected):
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: count)
    quota(None)
    assert usable_cores() == expected
