"""The code's calls against the official bindings of every version: a process each, see tests/tensorrt_bindings."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[2] / "tensorrt_bindings"
FETCH = runpy.run_path(str(TESTS / "fetch.py"))


@pytest.mark.parametrize("version", FETCH["VERSIONS"])
def test_contract(version):
    folder = FETCH["FOLDER"] / version
    if not folder.is_dir():
        pytest.skip(f"needs TensorRT's bindings {version}; fetch them with: python tests/tensorrt_bindings/fetch.py")
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(TESTS)]
    environment = {**os.environ, "TOMOSCRIBE_TENSORRT_BINDINGS": str(folder)}
    ended = subprocess.run(tests, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
