from __future__ import annotations

import sys

import pytest
from typer.testing import CliRunner

from tomoscribe.cli.app import app
from tomoscribe.engine.errors import BackendUnavailableError, OutputExistsError
from tomoscribe.train.checkpoint import load_checkpoint

RECIPE = """
seed = 1
[phantoms]
training = 1
validation = 1
[phantoms.parameters]
shape = [8, 32, 32]
[network]
depth = 1
base_width = 2
[sampling]
crop = 32
[fit]
name = "small"
steps = 2
batch_size = 1
precision = "fp32"
"""


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["train", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


def test_a_recipe_becomes_a_checkpoint_which_is_not_replaced_unless_asked(tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    printed = run(recipe, "-o", tmp_path / "run", "--processes", 1)
    assert printed == str(tmp_path / "run" / "best.safetensors")
    assert load_checkpoint(tmp_path / "run" / "best.safetensors").specification.name == "small"
    with pytest.raises(OutputExistsError, match="--overwrite"):
        run(recipe, "-o", tmp_path / "run")


def test_without_torch_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tomoscribe.train.fit", None)
    with pytest.raises(BackendUnavailableError, match=r"tomoscribe\[train\]"):
        run(tmp_path / "recipe.toml", "-o", tmp_path / "run")
