from __future__ import annotations

import json
import os

import numpy as np
import pytest

from tomoscribe.engine.class_map import DEFAULT_CLASS_MAP
from tomoscribe.engine.errors import OutputError
from tomoscribe.engine.sidecar import Sidecar


@pytest.fixture
def sidecar(tmp_path):
    sidecar = Sidecar(tmp_path / "a__labels.json", DEFAULT_CLASS_MAP, DEFAULT_CLASS_MAP.classes[:2], {"model": "µ"})
    labels = np.array([[[0, 1, 1], [2, 3, 0]]], np.uint8)
    sidecar.write(0, labels, np.empty((1, 0, 2, 3), np.uint8))
    return sidecar


def test_commit_renames_what_prepare_wrote(sidecar, tmp_path):
    sidecar.path.write_text("an older output")
    sidecar.prepare()
    assert sidecar.path.read_text() == "an older output"
    sidecar.commit()
    assert list(tmp_path.iterdir()) == [sidecar.path]
    facts = json.loads(sidecar.path.read_text(encoding="utf-8"))
    assert facts["model"] == "µ"
    assert [entry["voxels"] for entry in facts["classes"]] == [2, 1, None, None, None]


def test_a_prepared_file_can_be_given_up(sidecar, tmp_path):
    sidecar.prepare()
    sidecar.abort()
    sidecar.abort()
    assert not list(tmp_path.iterdir())


def test_failures_are_one_line_that_names_the_file(sidecar, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OutputError, match=r"a__labels\.json: cannot be written \(No space left on device\)"):
            sidecar.prepare()
    sidecar.abort()
    assert not list(tmp_path.iterdir())
    sidecar.path.mkdir()
    sidecar.prepare()
    with pytest.raises(OutputError, match=r"a__labels\.json: cannot be written \(Is a directory\)"):
        sidecar.commit()
