from __future__ import annotations

import os
import re
import subprocess
import sys

import mrcfile
import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from tomoscribe.cli.app import app
from tomoscribe.train.dataset.storage import open_dataset


@pytest.fixture
def recipe(tmp_path):
    """A recipe for three tomograms with label volumes."""
    random = np.random.default_rng(0)
    for number in range(3):
        labels = np.zeros((6, 32, 32), np.int8)
        labels[2:, 4:12, 4:20] = 1
        for name, volume in (
            (f"t{number}.mrc", random.standard_normal(labels.shape, np.float32) - labels),
            (f"t{number}_l.mrc", labels),
        ):
            (tmp_path / "data").mkdir(exist_ok=True)
            with mrcfile.new(tmp_path / "data" / name, volume) as file:
                file.voxel_size = 10
    path = tmp_path / "recipe.yaml"
    keys = {
        "name": "things",
        "classes": [{"name": "thing", "colour": "#e69f00"}],
        "tiles": {"size": 32},
        "trim": "none",
        "sources": [{"tomograms": "data/t?.mrc", "labels": "data/{tomogram}_l.mrc"}],
    }
    path.write_text(yaml.safe_dump(keys))
    return path


def run(*arguments):
    return CliRunner().invoke(app, ["dataset", "build", *map(str, arguments)])


def test_it_builds_a_dataset_and_says_what_is_in_it(recipe, tmp_path):
    result = run(recipe, "-o", tmp_path / "ds", "--processes", 1)
    assert result.exit_code == 0, result.output
    assert re.search(r"■ thing +\d+\.\d\d% +\d+\.\d\d% +\d+\.\d\d%", result.stdout)
    assert re.search(r"images +4 +4 +4", result.stdout)
    assert "12 images of 3 tomograms" in result.stdout
    assert len(open_dataset(tmp_path / "ds").images) == 12
    for name in ("report.md", "report.json", "contact_sheet.png"):
        assert (tmp_path / "ds" / name).stat().st_size


def command(*arguments):
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "tomoscribe.cli", "dataset", "build", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


def test_every_bad_tomogram_has_a_line_and_can_be_left_out(recipe, tmp_path):
    for number in (0, 2):
        path = recipe.parent / f"data/t{number}.mrc"
        path.write_bytes(path.read_bytes()[:-8])
    failed = command(recipe, "-o", tmp_path / "ds", "--processes", 1)
    assert failed.returncode == 2
    lines = failed.stderr.strip().splitlines()
    assert [re.search(r"t\d\.mrc", line)[0] for line in lines[:2]] == ["t0.mrc", "t2.mrc"]
    assert "2 of 3 tomograms cannot be used" in lines[2]
    assert "--keep-going" in lines[2]
    assert len(lines) == 3
    done = command(recipe, "-o", tmp_path / "ds", "--processes", 1, "--keep-going")
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0].rpartition("/")[2] for line in done.stderr.splitlines()[:2]] == ["t0.mrc", "t2.mrc"]
    assert "warning: split by image" in done.stderr
    assert [tomogram.name for tomogram in open_dataset(tmp_path / "ds").tomograms] == ["t1"]


def test_a_dataset_that_is_there_is_not_replaced_unasked(recipe, tmp_path):
    for arguments, status in (((), 0), ((), 2), (("--overwrite",), 0)):
        result = run(recipe, "-o", tmp_path / "ds", "--processes", 1, *arguments)
        assert (result.exit_code == 0) is (status == 0)


def test_the_three_verbs_are_listed():
    result = CliRunner().invoke(app, ["dataset", "--help"])
    for verb in ("build", "merge", "split"):
        assert re.search(rf"\b{verb}\b", result.stdout)
