"""Limits of cgroups, read from folders laid out as the kernel lays out its own."""

from __future__ import annotations

import pytest

from tomoscribe.engine.cgroup import Limits, read_limits


@pytest.fixture
def read(tmp_path):
    """Give the limits of a process in these groups, where these files are mounted."""

    def read(membership, files):
        for name, text in files.items():
            path = tmp_path / "mount" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
        (tmp_path / "membership").write_text("".join(f"{line}\n" for line in membership))
        return read_limits(tmp_path / "mount", tmp_path / "membership")

    return read


def test_version_2_in_a_container(read):
    files = {"cpu.max": "250000 100000", "memory.max": "4294967296"}
    assert read(["0::/"], files) == Limits(2.5, 4 * 2**30)


def test_the_tightest_group_on_the_way_up_counts(read):
    files = {
        "job/cpu.max": "200000 100000",
        "job/memory.max": "1000000",
        "job/step/cpu.max": "max 100000",
        "job/step/memory.max": "max",
        "job/step/task/cpu.max": "400000 100000",
        "job/step/task/memory.max": "3000000",
        "other/cpu.max": "100000 100000",
        "other/memory.max": "1000",
    }
    assert read(["0::/job/step/task"], files) == Limits(2.0, 1_000_000)
    assert read(["0::/job/step/gone"], files) == Limits(2.0, 1_000_000)


def test_version_1(read):
    files = {
        "cpu,cpuacct/job/cpu.cfs_quota_us": "150000",
        "cpu,cpuacct/job/cpu.cfs_period_us": "100000",
        "cpu,cpuacct/cpu.cfs_quota_us": "-1",
        "cpu,cpuacct/cpu.cfs_period_us": "100000",
        "memory/memory.limit_in_bytes": "9223372036854771712",
        "memory/job/memory.limit_in_bytes": "2000000",
    }
    membership = ["5:memory:/job", "4:cpu,cpuacct:/job", "1:name=systemd:/init.scope", "0::/job"]
    assert read(membership, files) == Limits(1.5, 2_000_000)


def test_version_1_in_a_container_that_sees_the_path_outside(read):
    files = {
        "cpu/cpu.cfs_quota_us": "300000",
        "cpu/cpu.cfs_period_us": "100000",
        "memory/memory.limit_in_bytes": "5000000",
    }
    assert read(["3:cpu:/docker/0f3a", "2:memory:/docker/0f3a"], files) == Limits(3.0, 5_000_000)


def test_version_1_without_a_limit(read):
    assert read(["2:memory:/job"], {"memory/job/memory.limit_in_bytes": "9223372036854771712"}) == Limits()


@pytest.mark.parametrize("text", ["max 100000", "100000", "100000 0", "", "a b"])
def test_no_quota(read, text):
    assert read(["0::/"], {"cpu.max": text}) == Limits()


def test_a_path_with_colons(read):
    assert read(["0::/a:b"], {"a:b/memory.max": "7"}) == Limits(memory=7)


def test_a_system_without_groups(tmp_path):
    assert read_limits(tmp_path, tmp_path / "absent") == Limits()
