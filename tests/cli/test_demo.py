from __future__ import annotations

import re

import pytest
from PIL import Image
from typer.testing import CliRunner

from tomoscribe.cli.app import app
from tomoscribe.engine.errors import BundleError


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["demo", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_it_leaves_labels_class_volumes_and_a_picture_and_prints_the_figures(tmp_path):
    # Twice: what an earlier demo left is replaced.
    for _ in range(2):
        printed = run("--output", tmp_path / "demo", "--shape", "16x96x96")
    names = {path.name for path in (tmp_path / "demo").iterdir()}
    assert names >= {
        "phantom.mrc", "phantom__truth.mrc", "phantom__labels.mrc", "phantom__Ribosome.mrc",
        "phantom__Microtubule.mrc", "phantom__DoubleMembrane.mrc", "phantom__SingleMembrane.mrc",
        "phantom__CarbonEdge.mrc", "phantom__overview.png",
    }  # fmt: skip
    assert not [name for name in names if name.startswith(".")]
    with Image.open(tmp_path / "demo" / "phantom__overview.png") as picture:
        picture.load()
    for name in ("microtubule", "ribosome", "double membrane", "single membrane", "carbon edge"):
        assert re.search(rf"{name} +(nan|[01]\.\d\d\d) +[\d,]+", printed), printed
    assert re.search(r"voxels per second .*peak memory \d+ MiB", printed)


def test_a_model_of_other_classes_is_refused(tmp_path, tiny_bundle):
    with pytest.raises(BundleError, match="classes"):
        run("--output", tmp_path / "demo", "--model", tiny_bundle)
