"""Builds that were done before, or were killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tomoscribe.engine.errors import OutputExistsError
from tomoscribe.train.dataset import folder
from tomoscribe.train.dataset.build import build_dataset
from tomoscribe.train.dataset.contract import DatasetError
from tomoscribe.train.dataset.storage import open_dataset


def arrays(output):
    """Return when each file of arrays was written."""
    return {path: path.stat().st_mtime_ns for path in (output / "images.zarr").rglob("c/*") if path.is_file()} | {
        path: path.stat().st_mtime_ns for path in (output / "images.zarr").rglob("0") if path.is_file()
    }


def test_the_same_recipe_gives_the_same_dataset(lab, tmp_path):
    recipe = lab.recipe()
    first, again = (build_dataset(recipe, tmp_path / name, processes=n) for name, n in (("a", 1), ("b", 2)))
    assert first.images == again.images
    assert (tmp_path / "a/images.csv").read_bytes() == (tmp_path / "b/images.csv").read_bytes()
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a/images.zarr").rglob("c/**/*"))
    assert files
    for path in files:
        if (tmp_path / "a" / path).is_file():
            assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()


def test_what_has_not_changed_is_kept(lab, tmp_path, check_images):
    output = tmp_path / "ds"
    build_dataset(lab.recipe(), output)
    with pytest.raises(OutputExistsError, match="--overwrite"):
        build_dataset(lab.recipe(), output)
    before = arrays(output)
    done = []
    build_dataset(lab.recipe(), output, overwrite=True, progress=lambda *what: done.append(what))
    assert done == []
    assert arrays(output) == before
    # One tomogram is written anew, and so it alone is read again.
    intensity, labels = lab.volume(2)
    lab.write("tomograms/t2.mrc", 3 * intensity)
    dataset = build_dataset(lab.recipe(), output, overwrite=True, progress=lambda *what: done.append(what))
    assert {(stage, name) for stage, name, _, _ in done} == {("labels", "t2"), ("images", "t2")}
    assert sum(count for stage, _, count, _ in done if stage == "labels") == 12
    check_images(dataset, {f"t{n}": lab.volume(n) for n in (0, 1, 3)} | {"t2": (3 * intensity, labels)}, 32)
    # More context needs more intensities, and no labels; another tile size everything.
    done.clear()
    tiles = {"size": 32, "background": 0.2, "context": 3}
    dataset = build_dataset(lab.recipe(tiles=tiles), output, overwrite=True, progress=lambda *what: done.append(what))
    assert {stage for stage, *_ in done} == {"images"}
    check_images(dataset, {f"t{n}": lab.volume(n) for n in (0, 1, 3)} | {"t2": (3 * intensity, labels)}, 32)
    # What the labels are made with has them made again.
    for keys in ({"trim": [0, 11]}, {"trim": [0, 11], "classes": [{"name": n, "colour": "#000000"} for n in "ab"]}):
        done.clear()
        recipe = lab.recipe(tiles=tiles, **keys)
        build_dataset(recipe, output, overwrite=True, progress=lambda *what: done.append(what))
        assert {(stage, name) for stage, name, *_ in done if stage == "labels"} == {
            ("labels", f"t{n}") for n in range(4)
        }
    # A tomogram that the recipe does not name any more goes.
    source = {**lab.source, "tomograms": ["tomograms/t0.mrc"]}
    build_dataset(lab.recipe(source), output, overwrite=True)
    assert [path.name for path in (output / "images.zarr").iterdir() if path.is_dir()] == ["t0"]


def test_a_build_that_was_killed_goes_on(lab, tmp_path, check_images):
    """Killed at several moments, its worker processes too, it leaves no dataset, and what was finished is kept."""
    output, recipe = tmp_path / "ds", lab.recipe()
    program = (
        "import sys, time; from pathlib import Path\n"
        "from tomoscribe.train.dataset.build import build_dataset\n"
        "def progress(stage, name, count, total): print(stage, name, count, flush=True); time.sleep(0.05)\n"
        "if __name__ == '__main__':\n"
        "    build_dataset(Path(sys.argv[1]), Path(sys.argv[2]), processes=1, progress=progress)\n"
    )
    script = tmp_path / "build.py"
    script.write_text(program)
    for lines in (2, 6):
        process = subprocess.Popen([sys.executable, script, recipe, output], stdout=subprocess.PIPE, text=True)
        for _ in range(lines):
            process.stdout.readline()
        process.kill()
        process.wait()
        process.stdout.close()
        with pytest.raises(DatasetError, match="not finished"):
            open_dataset(output)
    finished = {path.name for path in (output / "images.zarr").iterdir() if path.is_dir()}
    assert finished
    done = []
    dataset = build_dataset(recipe, output, progress=lambda *what: done.append(what))
    assert not finished & {name for stage, name, *_ in done if stage == "labels"}
    check_images(dataset, {f"t{number}": lab.volume(number) for number in range(4)}, 32)
    assert not (output / "building").exists()


def test_a_build_that_is_killed_while_it_removes_a_tomogram_leaves_no_part_of_it(tmp_path, monkeypatch):
    for name in ("kept", "gone"):
        (tmp_path / "images.zarr" / name).mkdir(parents=True)

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(folder.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        folder.clean_folder(tmp_path, {"kept"})
    assert [path.name for path in (tmp_path / "images.zarr").iterdir()] == ["kept"]
    monkeypatch.undo()
    folder.clean_folder(tmp_path, {"kept"})
    assert [path.name for path in tmp_path.iterdir()] == ["images.zarr"]


def test_workers_end_with_a_killed_build(lab, tmp_path):
    intensity, labels = lab.volume(0, (200, 200, 200))
    for number in range(2):
        lab.write(f"tomograms/t{number}.mrc", intensity)
        lab.write(f"labels/t{number}__labels.mrc", labels.astype(np.int8))
    script = tmp_path / "build.py"
    script.write_text(
        "import sys; from pathlib import Path\n"
        "from tomoscribe.train.dataset.build import build_dataset\n"
        "if __name__ == '__main__':\n"
        "    build_dataset(Path(sys.argv[1]), Path(sys.argv[2]), processes=2,"
        " progress=lambda *what: print(flush=True))\n"
    )
    process = subprocess.Popen(
        [sys.executable, script, lab.recipe(), tmp_path / "ds"], stdout=subprocess.PIPE, start_new_session=True
    )
    process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    pytest.fail("worker processes live on")
