from __future__ import annotations

import pytest

from tomoscribe.engine.cores import usable_cores


@pytest.mark.parametrize(
    ("text", "cores"), [("max 100000", 8), ("250000 100000", 2), ("20000 100000", 1), ("9900000 100000", 8), ("", 8)]
)
def test_a_containers_quota_limits_the_cores(tmp_path, monkeypatch, text, cores):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(8)))
    (tmp_path / "cpu.max").write_text(text + "\n")
    assert usable_cores(tmp_path / "cpu.max") == cores
    assert usable_cores(tmp_path / "absent") == 8


@pytest.mark.parametrize(("count", "cores"), [(6, 6), (None, 1)])
def test_without_an_affinity_all_cores_count(tmp_path, monkeypatch, count, cores):
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: count)
    assert usable_cores(tmp_path / "absent") == cores
