"""The script for GPU machines without a network, with a Python that only says what it is called with."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
# `pip download` leaves a file; everything else does nothing, but fails where it is told to.
PYTHON = """#!/bin/sh
echo "$*" >>"$CALLS"
case "$*" in
    *"$FAILING"*) exit 1 ;;
    *"--dest"*pycuda) : >"$(echo "$*" | sed 's/.*--dest \\([^ ]*\\) .*/\\1/')/pycuda-1.tar.gz" ;;
    *"--dest"*) : >"$(echo "$*" | sed 's/.*--dest \\([^ ]*\\) .*/\\1/')/a-1-py3-none-any.whl" ;;
    "benchmarks/gpu.py"*) echo "path $PYTHONPATH" >>"$CALLS" ;;
esac
"""


@pytest.fixture
def call(tmp_path):
    """Call the script; returns its exit status and what Python was called with."""
    python, calls, tools = tmp_path / "python", tmp_path / "calls", tmp_path / "tools"
    python.write_text(PYTHON)
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    tools.mkdir()
    for tool in ("sh", "sed", "mkdir", "rm", "cp", "touch", "echo"):
        (tools / tool).symlink_to(next(p for p in (Path("/bin") / tool, Path("/usr/bin") / tool) if p.exists()))

    def call(*words, failing="nothing at all", **environment):
        calls.write_text("")
        known = {"PATH": str(tools), "PYTHON": str(python), "CALLS": str(calls), "FAILING": failing}
        command = ["/bin/sh", "benchmarks/gpu_node.sh", *map(str, words)]
        done = subprocess.run(
            command, cwd=REPOSITORY, env=known | environment, capture_output=True, text=True, check=False
        )
        return done.returncode, calls.read_text().splitlines(), done.stderr

    return call


def test_everything_is_packed_in_parts(call, tmp_path):
    status, calls, said = call("pack", tmp_path / "parts", PACKAGES="one two", PYTHON_VERSION="3.13", PARTS_MIB="7")
    assert (status, said) == (0, "")
    wheels, sources, *splits = calls
    assert wheels.startswith("-m pip download --no-deps --only-binary=:all:")
    assert "--python-version 3.13" in wheels
    assert wheels.endswith(f"--dest {tmp_path}/parts/wheels one two")
    assert sources.endswith(f"--no-binary=pycuda --dest {tmp_path}/parts/wheels pycuda")
    assert splits == [
        f"benchmarks/wheel_parts.py split {tmp_path}/parts/wheels/{name} --size 7 --output {tmp_path}/parts"
        for name in ("a-1-py3-none-any.whl", "pycuda-1.tar.gz")
    ]
    assert list((tmp_path / "parts").iterdir()) == []  # what the parts were made of


def test_a_download_that_fails_ends_it(call, tmp_path):
    status, calls, _ = call("pack", tmp_path / "parts", failing="only-binary")
    assert (status, len(calls)) == (1, 1)


@pytest.fixture
def parts(tmp_path):
    parts = tmp_path / "parts"
    (parts / "wheels").mkdir(parents=True)
    for name in ("a-1.whl", "b-2.whl", "pycuda-1.tar.gz"):
        (parts / "wheels" / name).touch()
    return parts


def installed(calls):
    return [line.rpartition(" ")[2].rpartition("/")[2] for line in calls if "pip install" in line]


def test_all_is_installed_once_and_the_sources_every_time(call, parts):
    status, calls, said = call("run", parts, "--quick", "--only", "peak", CUDA_ROOT="/cuda")
    assert (status, said) == (0, "")
    assert calls[0] == f"benchmarks/wheel_parts.py join {parts} --output {parts}/wheels"
    assert calls[1].endswith(f"--target {parts}/site {parts}/wheels/a-1.whl {parts}/wheels/b-2.whl")
    assert installed(calls) == ["b-2.whl", "pycuda-1.tar.gz", "source"]
    assert calls[-2:] == ["benchmarks/gpu.py --quick --only peak", f"path {parts}/site"]
    assert (parts / "source" / "engine" / "bundle.py").is_file()
    status, calls, _ = call("run", parts)
    assert status == 0
    assert installed(calls) == ["source"]


@pytest.mark.parametrize(
    ("environment", "reason"),
    [({}, "no nvcc, so no pycuda"), ({"CUDA_ROOT": "/cuda", "failing": "pycuda-1.tar.gz"}, "pycuda cannot be built")],
)
def test_without_pycuda_it_goes_on(call, parts, environment, reason):
    status, calls, said = call("install", parts, **environment)
    assert status == 0
    assert reason in said
    assert installed(calls)[-1] == "source"


@pytest.mark.parametrize("words", [(), ("run",), ("send", "parts")])
def test_other_words_are_told_the_usage(call, words):
    status, calls, said = call(*words)
    assert (status, calls) == (2, [])
    assert "benchmarks/gpu_node.sh pack PARTS" in said


def test_it_can_be_executed():
    assert os.access(REPOSITORY / "benchmarks" / "gpu_node.sh", os.X_OK)
