from __future__ import annotations

import mrcfile
import pytest
from typer.testing import CliRunner

from tomoscribe.cli.app import app
from tomoscribe.cli.phantom import parse_shape
from tomoscribe.engine.errors import OutputExistsError, ParameterError

SMALL = ["--shape", "8x32x40", "--voxel-size", "15", "--signal-to-noise", "0.5"]


def run(*arguments: object) -> list[str]:
    result = CliRunner().invoke(app, ["phantom", *map(str, arguments)], catch_exceptions=True)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout.split()


def test_it_writes_a_tomogram_its_truth_and_its_parameters(tmp_path):
    printed = run(tmp_path / "cell.mrc", *SMALL)
    assert printed == [str(tmp_path / name) for name in ("cell.mrc", "cell__truth.mrc", "cell__truth.json")]
    with mrcfile.open(tmp_path / "cell.mrc") as tomogram, mrcfile.open(tmp_path / "cell__truth.mrc") as truth:
        assert tomogram.data.shape == truth.data.shape == (8, 32, 40)
        assert float(tomogram.voxel_size.x) == 15


def test_options_win_over_the_parameter_file_and_its_ranges_are_drawn(tmp_path):
    (tmp_path / "p.toml").write_text("shape = [9, 32, 32]\nvoxel_size = [11.0, 12.0]\n", encoding="utf-8")
    run(tmp_path / "a.mrc", "--parameters", tmp_path / "p.toml", "--shape", "8x32x32")
    with mrcfile.open(tmp_path / "a.mrc") as tomogram:
        assert tomogram.data.shape == (8, 32, 32)
        assert 11 <= float(tomogram.voxel_size.x) <= 12


def test_seeds_differ_and_repeat(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(tmp_path / f"{name}.mrc", *SMALL, "--seed", seed)
    a, b, c = (mrcfile.read(tmp_path / f"{name}.mrc").tobytes() for name in "abc")
    assert a == b != c


def test_files_that_are_there_are_kept(tmp_path):
    (tmp_path / "a.mrc").write_bytes(b"mine")
    with pytest.raises(OutputExistsError):
        run(tmp_path / "a.mrc", *SMALL)
    assert (tmp_path / "a.mrc").read_bytes() == b"mine"
    run(tmp_path / "a.mrc", *SMALL, "--overwrite")
    assert (tmp_path / "a.mrc").stat().st_size == 1024 + 4 * 8 * 32 * 40


def test_a_name_that_is_no_mrc_is_refused(tmp_path):
    with pytest.raises(ParameterError, match=r"\.mrc"):
        run(tmp_path / "a.tif", *SMALL)


@pytest.mark.parametrize("text", ["64x512", "64x512x512x1", "64x-5x5", "axbxc", "", "64x5.5x5"])
def test_a_shape_that_is_none_is_refused(text):
    with pytest.raises(ParameterError, match="64x512x512"):
        parse_shape(text)


def test_a_shape_is_read():
    assert parse_shape("64x512X300") == [64, 512, 300]
