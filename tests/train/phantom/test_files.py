from __future__ import annotations

import json
import re

import mrcfile
import numpy as np
import pytest

from tomoscribe.engine.errors import OutputError, OutputExistsError
from tomoscribe.train.phantom import PhantomParameters, draw_parameters, make_phantom
from tomoscribe.train.phantom.files import PhantomFiles, write_phantom

PHANTOM = make_phantom(PhantomParameters(shape=(12, 40, 48), voxel_size=12.5, seed=9))


def test_a_phantom_on_disk_is_the_phantom(tmp_path):
    files = write_phantom(PHANTOM, tmp_path / "made" / "cell.mrc")
    assert files == PhantomFiles.beside(tmp_path / "made" / "cell.mrc")
    with mrcfile.open(files.tomogram) as tomogram, mrcfile.open(files.truth) as truth:
        np.testing.assert_array_equal(tomogram.data, PHANTOM.intensity)
        np.testing.assert_array_equal(truth.data, PHANTOM.labels)
        assert tomogram.voxel_size.tolist() == truth.voxel_size.tolist() == (12.5, 12.5, 12.5)
        assert (tomogram.header.mode, truth.header.mode) == (2, 0)
        assert tomogram.is_volume()
    assert mrcfile.validate(files.tomogram)
    table = json.loads(files.parameters.read_text(encoding="utf-8"))
    again = draw_parameters(table, seed=0)
    assert again == PHANTOM.parameters


def test_nothing_is_replaced_unless_asked(tmp_path):
    path = tmp_path / "cell.mrc"
    path.write_bytes(b"mine")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        write_phantom(PHANTOM, path)
    assert path.read_bytes() == b"mine"
    write_phantom(PHANTOM, path, overwrite=True)
    assert path.stat().st_size == 1024 + PHANTOM.intensity.nbytes


def test_a_folder_that_cannot_be_made_is_one_line_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=r"cell\.mrc"):
        write_phantom(PHANTOM, tmp_path / "file" / "cell.mrc")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("last", ["cell.mrc", "cell__truth.mrc", "cell__truth.json"])
def test_a_file_that_cannot_be_written_is_one_line_and_leaves_no_part(tmp_path, last):
    (tmp_path / last).mkdir()
    with pytest.raises(OutputError, match=re.escape(last)):
        write_phantom(PHANTOM, tmp_path / "cell.mrc", overwrite=True)
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    assert not (tmp_path / "cell.mrc").is_file()


def test_a_disk_that_fills_up_leaves_no_part(tmp_path, monkeypatch):
    def full(path, *_):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mrcfile, "new", full)
    with pytest.raises(OutputError, match=r"cell\.mrc: cannot be written \(No space left"):
        write_phantom(PHANTOM, tmp_path / "cell.mrc")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_phantom_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("tomoscribe.train.phantom.files._write_labels", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_phantom(PHANTOM, tmp_path / "cell.mrc")
    assert list(tmp_path.iterdir()) == []
