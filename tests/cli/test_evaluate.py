from __future__ import annotations

import json
import sys
from collections import namedtuple
from functools import partial

import mrcfile
import numpy as np
import pytest

from tomoscribe.engine.bundle import Bundle

Record = namedtuple("Record", "tomogram z top left")


@pytest.fixture
def run(tomoscribe):
    return partial(tomoscribe, "evaluate")


@pytest.fixture
def files(tmp_path):
    """Labels and truth of two tomograms in two folders; of b, one in ten voxels is wrong."""
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        truth = generator.integers(0, 6, (3, 20, 30)).astype(np.int8)
        labels = np.where(generator.random(truth.shape) < 0.1, (truth + 1) % 6, truth) if name == "b" else truth
        for folder, kind, values in (("p", "labels", labels), ("t", "truth", truth)):
            (tmp_path / folder).mkdir(exist_ok=True)
            mrcfile.write(tmp_path / folder / f"{name}__{kind}.mrc", values.astype(np.int8))
    return tmp_path


def figures(report):
    return json.loads((report / "report.json").read_text(encoding="utf-8"))


def test_a_folder_of_labels_against_a_folder_of_truth(run, files):
    report = files / "report"
    status, out, err = run("labels", files / "p", files / "t", "-o", report)
    assert status == 0, err
    assert out.splitlines()[-1] == str(report / "report.md")
    assert "microtubule" in out
    tomograms = figures(report)["tomograms"]
    assert tomograms["a"]["mean_foreground_dice"] == 1
    assert 0.85 < tomograms["b"]["mean_foreground_dice"] < 0.95
    status, _, err = run("labels", files / "p", files / "t", "-o", report)
    assert (status, err.count("\n")) == (2, 1)
    assert "--overwrite" in err
    assert run("labels", files / "p", files / "t", "-o", report, "--overwrite", "--z-range", "1:2")[0] == 0
    assert np.sum(figures(report)["tomograms"]["a"]["confusion"]) == 20 * 30


def test_options_reach_the_figures(run, files, tiny_bundle):
    report = files / "report"
    one = files / "p" / "b__labels.mrc"
    values = "1=light,2=background,3=background,4=background,5=background"
    arguments = ["--values", values, "--truth-values", values, "--class-map", tiny_bundle, "--ignore", "0"]
    status, _, err = run("labels", one, files / "t" / "b__truth.mrc", "-o", report, *arguments, "--tolerance", "0")
    assert status == 0, err
    labels, truth = (mrcfile.read(path) for path in (one, files / "t" / "b__truth.mrc"))
    known = truth != 0
    right, wrong = (known & (truth == 1) & (labels == 1)).sum(), known & ((truth == 1) != (labels == 1))
    found = figures(report)
    assert found["classes"]["light"]["Dice"] == pytest.approx(2 * right / (2 * right + wrong.sum()))
    assert found["classes"]["dark matter"]["Dice"] is None
    assert "within 2 px" not in found["classes"]["light"]


def test_warnings_are_told_and_bad_input_is_one_line(run, files):
    (files / "t" / "a__truth.mrc").unlink()
    status, _, err = run("labels", files / "p", files / "t", "-o", files / "report")
    assert status == 0
    assert "warning" in err
    assert "no truth of a" in err
    status, _, err = run("labels", files / "p", files / "nowhere", "-o", files / "report2")
    assert (status, err.count("\n")) == (2, 1)
    status, _, err = run("labels", files / "p", files / "t", "-o", files / "report2", "--values", "1:ribosome")
    assert status == 2
    assert "N=CLASS" in err
    status, _, err = run(
        "labels", files / "p", files / "t", "-o", files / "report2", "--values", "1=ribosome,1=background"
    )
    assert status == 2
    assert "found two" in err
    status, _, err = run("labels", files / "p", files / "t", "-o", files / "p" / "a__labels.mrc")
    assert (status, err.count("\n")) == (2, 1)
    assert "found a file" in err
    assert not (files / "report2").exists()


def test_a_model_against_a_dataset(run, tmp_path, tiny_bundle, monkeypatch):
    class Images:
        """What `open_dataset` would open: two slices of one tile."""

        name, tile, voxel_size = "pictures", 16, (10.0, 10.0)
        class_map = Bundle.load(tiny_bundle).specification.class_map
        images = (Record("t", 0, 0, 0), Record("t", 1, 0, 0))

        def numbers(self, split):
            return np.array([0, 1] if split == "test" else [])

        def read(self, number, context):
            slices = np.random.default_rng(number).normal(0, 1, (2 * context + 1, 16, 16)).astype(np.float32)
            total = slices.sum(axis=0)
            return slices, np.where(total > 1.5, 2, np.where(total < -1.5, 1, 0)).astype(np.uint8)

    monkeypatch.setattr("tomoscribe.train.dataset.storage.open_dataset", lambda path: Images())
    report = tmp_path / "report"
    status, out, err = run("model", tiny_bundle, tmp_path, "-o", report)
    assert status == 0, err
    assert "1.000" in out
    assert figures(report)["mean_foreground_dice"] == 1
    assert figures(report)["facts"]["split"] == "test"
    status, _, err = run("model", tiny_bundle, tmp_path, "-o", tmp_path / "other", "--split", "dev")
    assert (status, err.count("\n")) == (2, 1)
    status, _, err = run("model", tmp_path / "none", tmp_path, "-o", tmp_path / "other")
    assert (status, err.count("\n")) == (2, 1)


def test_a_package_that_is_missing_is_named_with_what_to_install(run, files, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name in [name for name in sys.modules if name.startswith("tomoscribe.train.evaluation")]:
        monkeypatch.delitem(sys.modules, name)
    status, _, err = run("labels", files / "p", files / "t", "-o", files / "report")
    assert (status, err.count("\n")) == (2, 1)
    assert 'pip install "tomoscribe[train]"' in err
