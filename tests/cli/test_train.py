from __future__ import annotations

import sys

import pytest
import torch
from typer.testing import CliRunner

from tomoscribe.cli.app import app
from tomoscribe.engine.errors import BackendUnavailableError, OutputExistsError, ParameterError
from tomoscribe.train.checkpoint import load_checkpoint
from tomoscribe.train.dataset.build import build_dataset

RECIPE = """
name: tiny
tiles: {size: 32, background: all, context: 1}
split: {by: image, shares: [0.5, 0.25, 0.25]}
trim: none
sources:
  - phantoms: {count: 1, seed: 3, parameters: {shape: [8, 32, 32]}}
"""
SMALL = (
    "--depth", 1, "--base-width", 2, "--crop", 16, "--steps", 2, "--batch-size", 1, "--precision", "fp32",
    "--accelerator", "cpu",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dataset")
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    build_dataset(folder / "recipe.yaml", folder / "dataset")
    return folder / "dataset"


def run(*arguments: object) -> tuple[str, str]:
    result = CliRunner().invoke(app, ["train", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout.strip(), result.stderr


def test_a_dataset_becomes_a_checkpoint_which_is_not_replaced_unless_asked(dataset, tmp_path):
    printed, _ = run(dataset, "-o", tmp_path / "run", "--name", "small", *SMALL)
    assert printed == str(tmp_path / "run" / "best.safetensors")
    checkpoint = load_checkpoint(tmp_path / "run" / "best.safetensors")
    assert checkpoint.specification.name == "small"
    assert checkpoint.training["dataset"]
    with pytest.raises(OutputExistsError, match="pass --resume to go on with it, or --overwrite to replace it"):
        run(dataset, "-o", tmp_path / "run", *SMALL)
    run(dataset, "-o", tmp_path / "run", *SMALL, "--overwrite")
    assert load_checkpoint(tmp_path / "run" / "best.safetensors").specification.name == "unet"
    with pytest.raises(ParameterError, match="pass one of them"):
        run(dataset, "-o", tmp_path / "run", *SMALL, "--overwrite", "--resume")


def test_a_run_is_gone_on_with_by_repeating_its_command(dataset, tmp_path, monkeypatch):
    from tomoscribe.train import recorder

    output = tmp_path / "run [/red] of a long name, which a narrow terminal would wrap and colour"
    command = (dataset, "-o", output, *SMALL, "--steps", 6, "--checkpoint-interval", 2, "--resume")
    draw = recorder.draw_examples
    monkeypatch.setattr(recorder, "draw_examples", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    result = CliRunner().invoke(app, ["train", *map(str, command)])
    assert result.exit_code == 130
    monkeypatch.setattr(recorder, "draw_examples", draw)
    _, told = run(*command)
    assert f"{output}: goes on after step 4\n" in told
    assert load_checkpoint(output / "last.safetensors").training["step"] == 6


def test_options_win_over_the_settings_file(dataset, tmp_path):
    file = tmp_path / "settings.yaml"
    file.write_text("name: from the file\nseed: 5\naugmentation: {noise: 0}\nclass_weights: [1, 1, 1, 1, 1, 2]\n")
    options = ("--seed", 6, "--class-weights", "balanced", "--dice", 0.5, "--focal", 1, "--patience", 3)
    best, _ = run(dataset, "-o", tmp_path / "run", "--settings", file, *SMALL, *options)
    settings = load_checkpoint(best).training["settings"]
    expected = {"name": "from the file", "seed": 6, "class_weights": "balanced", "dice": 0.5, "focal": 1, "patience": 3}
    assert {key: settings[key] for key in expected} == expected
    assert settings["augmentation"]["noise"] == 0


def test_weights_may_be_listed(dataset, tmp_path):
    best, _ = run(dataset, "-o", tmp_path / "run", *SMALL, "--class-weights", "1,2,2,2,2,0.5")
    assert load_checkpoint(best).training["settings"]["class_weights"] == [1, 2, 2, 2, 2, 0.5]
    with pytest.raises(ParameterError, match=r"^options: class_weights"):
        run(dataset, "-o", tmp_path / "other", *SMALL, "--class-weights", "1,x")


def test_fine_tuning_takes_the_models_size_and_says_what_it_starts_from(dataset, tmp_path):
    best, _ = run(dataset, "-o", tmp_path / "run", "--name", "first", *SMALL)
    options = ("--crop", 16, "--steps", 1, "--precision", "fp32", "--accelerator", "cpu")
    tuned, told = run(dataset, "-o", tmp_path / "tuned", "--start", best, *options)
    assert "starts from first" in told
    assert load_checkpoint(tuned).network.configuration == load_checkpoint(best).network.configuration


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--steps", 0), "options: steps"),
        (("--seed", 10**30), "options: seed"),
        (("--precision", "fp64"), "options: precision"),
        (("--devices", "many"), "devices: expected auto or a number"),
        (("--accelerator", "tpu"), "accelerator: expected auto, cpu or gpu"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(dataset, tmp_path, options, words):
    with pytest.raises(ParameterError, match=words):
        run(dataset, "-o", tmp_path / "run", *options)
    assert list(tmp_path.iterdir()) == []


def test_without_torch_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tomoscribe.train.fit", None)
    with pytest.raises(BackendUnavailableError, match=r"tomoscribe\[train\]"):
        run(tmp_path / "dataset", "-o", tmp_path / "run")
