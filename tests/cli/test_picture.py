from __future__ import annotations

import sys
from functools import partial

import mrcfile
import numpy as np
import pytest
from PIL import Image

from tomoscribe.cli import main


@pytest.fixture
def run(tomoscribe):
    return partial(tomoscribe, "picture")


@pytest.fixture
def tomogram(tmp_path):
    values = np.random.default_rng(0).normal(0, 1, (6, 20, 20)).astype(np.float32)
    labels = np.zeros((6, 20, 20), np.int8)
    labels[3, 5:15, 5:15] = 1
    for name, data in (("a.mrc", values), ("a__labels.mrc", labels)):
        with mrcfile.new(tmp_path / name) as file:
            file.set_data(data)
            file.set_volume()
            file.voxel_size = 10
    return tmp_path / "a.mrc"


def has(path, colour):
    with Image.open(path) as image:
        return (np.asarray(image) == colour).all(axis=-1).any()


def test_finds_the_labels_and_says_where_the_picture_is(run, tomogram):
    picture = tomogram.with_name("a__overview.png")
    assert run(tomogram) == (0, f"{picture}\n", "")
    assert has(picture, (230, 159, 0))


def test_takes_colours_from_the_sidecar(run, tomogram, tmp_path):
    sidecar = tmp_path / "a__labels.json"
    sidecar.write_text('{"classes": [{"number": 1, "name": "spine", "colour": "#12fe34", "voxels": 3}]}')
    output = tmp_path / "out" / "p.png"
    assert run(tomogram, tmp_path / "a__labels.mrc", "-o", output)[0] == 0
    assert has(output, (0x12, 0xFE, 0x34))
    sidecar.write_text("[]")
    status, _, err = run(tomogram)
    assert status == 2
    assert "a__labels.json" in err
    sidecar.unlink()
    sidecar.mkdir()
    status, _, err = run(tomogram)
    assert (status, err.count("\n")) == (2, 1)
    assert "a__labels.json" in err


def test_a_sidecar_of_some_classes_keeps_their_numbers(run, tomogram, tmp_path, tiny_bundle, monkeypatch, capsys):
    arguments = ["segment", tomogram, "--model", tiny_bundle, "--classes", "light", "--overwrite", "-q"]
    monkeypatch.setattr(sys, "argv", ["tomoscribe", *map(str, arguments)])
    with pytest.raises(SystemExit):
        main()
    assert run(tomogram)[0] == 0
    assert has(tmp_path / "a__overview.png", (86, 180, 233))


def test_labels_that_are_not_there_are_an_error(run, tomogram):
    tomogram.with_name("a__labels.mrc").unlink()
    status, out, err = run(tomogram)
    assert (status, out) == (2, "")
    assert "a__labels.mrc" in err
    assert not tomogram.with_name("a__overview.png").exists()


def test_a_picture_never_takes_the_place_of_a_tomogram(run, tomogram):
    before = tomogram.read_bytes()
    status, _, err = run(tomogram, "-o", tomogram)
    assert status == 2
    assert ".png" in err
    assert tomogram.read_bytes() == before
