"""Every command of the tutorial, one after the other as a reader types them, on a small size."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import mrcfile
import pytest

from tomoscribe.engine import default_bundle
from tomoscribe.engine.bundle import Bundle

TUTORIAL = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"
SMALLER = {
    "48x512x512": "16x96x96",
    "size: 256": "size: 96",
    "--crop 256": "--crop 64",
    "--steps 1500": "--steps 3",
    "--steps 300": "--steps 2",
    # The tests may run far from the repository's folder.
    "../engine/models/default": str(default_bundle()),
}


def commands() -> str:
    """Return the shell blocks after the first, which makes the environment that the tests already have."""
    text = TUTORIAL.read_text(encoding="utf-8")
    script = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)[1:])
    for long, short in SMALLER.items():
        assert long in script, f"the tutorial no longer says {long!r}"
        script = script.replace(long, short)
    return script


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tutorial")
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    script = "set -euo pipefail\n" + commands()
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return folder


def test_every_file_that_the_tutorial_speaks_of_is_there(folder: Path) -> None:
    for name in re.findall(r"`((?:dataset|run|judged)/[\w./]+)`", TUTORIAL.read_text(encoding="utf-8")):
        assert (folder / name).exists(), name


def test_the_report_warns_of_leakage_as_the_tutorial_says(folder: Path) -> None:
    assert "neighbouring slices" in (folder / "dataset" / "report.md").read_text(encoding="utf-8")


def test_the_exported_model_says_what_it_was_made_from(folder: Path) -> None:
    bundle = Bundle.load(folder / "mymodel")
    assert bundle.specification.class_map == Bundle.load(default_bundle()).specification.class_map
    assert bundle.training["step"] == 2


def test_the_labels_of_the_merged_tomograms_are_those_of_each(folder: Path) -> None:
    merged = mrcfile.read(folder / "merged-labels" / "merged__labels.mrc")
    for number, name in enumerate(("first", "second")):
        part = mrcfile.read(folder / "split-labels" / f"{name}__labels.mrc")
        assert part.shape == (16, 96, 96)
        assert (part == merged[16 * number : 16 * (number + 1)]).all()
