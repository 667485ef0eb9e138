from __future__ import annotations

import sys

import mrcfile
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from tomoscribe.cli.dataset_stack import merge, split
from tomoscribe.engine.errors import BackendUnavailableError, ParameterError

app = typer.Typer()
app.command("merge")(merge)
app.command("split")(split)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def tomograms(tmp_path):
    paths = [tmp_path / "a.mrc", tmp_path / "b.mrc"]
    for number, path in enumerate(paths):
        with mrcfile.new(path) as file:
            file.set_data(np.full((2, 4, 5), number, np.int16))
    return paths


def test_merge_and_split(tomograms, tmp_path):
    merged, table = tmp_path / "all.mrc", tmp_path / "all.json"
    result = run("merge", *tomograms, "-o", merged)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [str(merged), str(table)]
    merged.rename(tmp_path / "all__Ribosome.mrc")
    result = run("split", tmp_path / "all__Ribosome.mrc", "--table", table, "-o", tmp_path / "maps")
    assert result.exit_code == 0, result.output
    parts = [tmp_path / "maps" / f"{name}__Ribosome.mrc" for name in "ab"]
    assert result.stdout.splitlines() == [str(path) for path in parts]
    for number, path in enumerate(parts):
        with mrcfile.open(path) as file:
            assert np.array_equal(file.data, np.full((2, 4, 5), number))


def test_errors_reach_the_command_line(tomograms, tmp_path):
    assert isinstance(run("merge", tomograms[0], "-o", tmp_path / "all.mrc").exception, ParameterError)
    assert run("merge", *tomograms, "-o", tmp_path / "all.mrc").exit_code == 0
    again = run("merge", *tomograms, "-o", tmp_path / "all.mrc")
    assert "pass --overwrite" in str(again.exception)
    assert run("merge", *tomograms, "-o", tmp_path / "all.mrc", "--overwrite").exit_code == 0


def test_what_to_install_is_told(tomograms, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "tomoscribe.train.dataset.stacking", raising=False)
    monkeypatch.delattr("tomoscribe.train.dataset.stacking", raising=False)
    monkeypatch.setitem(sys.modules, "pydantic", None)
    with pytest.raises(BackendUnavailableError, match=r"pydantic.*tomoscribe\[train\]"):
        merge(tomograms, tmp_path / "all.mrc")
