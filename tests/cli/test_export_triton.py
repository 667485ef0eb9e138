"""The command export --triton: a repository of a bundle that is there, or of one that was just made."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from tomoscribe.cli.app import app
from tomoscribe.engine.bundle import Bundle
from tomoscribe.engine.errors import BundleError, OutputExistsError, ParameterError


def run(*arguments):
    result = CliRunner().invoke(app, ["export", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


@pytest.fixture
def exported(tiny_bundle, monkeypatch):
    """Give a bundle in place of every export, and keep what was asked for."""
    asked = []
    monkeypatch.setattr(
        "tomoscribe.export.export_bundle",
        lambda *arguments, **options: asked.append(options) or Bundle.load(tiny_bundle),
    )
    return asked


def test_a_bundle_that_is_there_is_written_as_a_repository(tiny_bundle, tmp_path):
    assert run(tiny_bundle, "--triton", tmp_path / "models") == [str(tmp_path / "models" / "tiny-fp32")]
    assert (tmp_path / "models" / "tiny-fp32" / "config.pbtxt").is_file()


def test_precisions_are_those_of_the_command(tiny_bundle, tmp_path):
    assert run(tiny_bundle, "--triton", tmp_path / "models", "--precision", " fp32 ") != []
    with pytest.raises(BundleError, match="of fp16, found none"):
        run(tiny_bundle, "--triton", tmp_path / "others", "--precision", "fp32,fp16")


def test_a_new_bundle_is_written_as_it_was_exported(exported, tmp_path):
    """Its repository has what passed the gates, also where a precision was asked for that is no network of Triton's."""
    *_, last = run(
        "a.safetensors", "-o", tmp_path / "b", "--precision", "fp32,int8-cpu", "--triton", tmp_path / "models"
    )
    assert last == str(tmp_path / "models" / "tiny-fp32")
    assert exported[0]["precisions"] == ["fp32", "int8-cpu"]


def test_a_place_that_is_taken_is_refused_before_anything_is_made(exported, tiny_bundle, tmp_path):
    run(tiny_bundle, "--triton", tmp_path / "models")
    with pytest.raises(OutputExistsError, match="is there already"):
        run("a.safetensors", "-o", tmp_path / "b", "--triton", tmp_path / "models")
    assert exported == []
    run(tiny_bundle, "--triton", tmp_path / "models", "--overwrite")


def test_a_checkpoint_needs_a_bundle_to_be_made(tmp_path):
    with pytest.raises(ParameterError, match="expected the folder to make"):
        run("a.safetensors", "--triton", tmp_path / "models")
