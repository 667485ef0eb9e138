"""What a build makes of inputs that cannot be used."""

from __future__ import annotations

import mrcfile
import numpy as np
import pytest

from tomoscribe.train.dataset.build import BadInputsError, build_dataset
from tomoscribe.train.dataset.contract import DatasetError
from tomoscribe.train.dataset.storage import open_dataset


def test_every_bad_input_is_named_before_the_long_work(lab, tmp_path):
    _, labels = lab.volume(0)
    lab.write("labels/t0__labels.mrc", labels[:-1].astype(np.int8))
    lab.write("labels/t1__labels.mrc", labels.astype(np.int8), voxel_size=20.0)
    path = lab.folder / "tomograms/t2.mrc"
    path.write_bytes(path.read_bytes()[:-100])
    (lab.folder / "labels/t3__labels.mrc").unlink()
    done = []
    with pytest.raises(BadInputsError, match=r"4 of 4 tomograms cannot be used: .* \(and 3 more\)") as caught:
        build_dataset(lab.recipe(), tmp_path / "ds", progress=lambda *what: done.append(what))
    assert done == []
    assert caught.value.exit_status == 2
    messages = [failure.message for failure in caught.value.failures]
    for message, name in zip(messages, ("t0__labels", "t1__labels", "t2.mrc", "t3__labels"), strict=True):
        assert name in message
        assert "\n" not in message
    assert not (tmp_path / "ds").exists()


def test_a_dataset_is_not_given_up_for_one_that_cannot_be_built(lab, tmp_path):
    images = build_dataset(lab.recipe(), tmp_path / "ds").images
    (lab.folder / "labels/t3__labels.mrc").unlink()
    with pytest.raises(BadInputsError, match="1 of 4"):
        build_dataset(lab.recipe(), tmp_path / "ds", overwrite=True)
    assert open_dataset(tmp_path / "ds").images == images


def test_keep_going_leaves_out_what_is_bad_and_says_so(lab, tmp_path, check_images):
    path = lab.folder / "tomograms/t2.mrc"
    path.write_bytes(path.read_bytes()[:-100])
    _, labels = lab.volume(1)
    labels[5, 3, 3] = 77
    lab.write("labels/t1__labels.mrc", labels.astype(np.int8))
    with pytest.raises(BadInputsError, match=r"1 of 4 .*t2\.mrc"):
        build_dataset(lab.recipe(), tmp_path / "ds")
    dataset = build_dataset(lab.recipe(), tmp_path / "ds", keep_going=True)
    assert [tomogram.name for tomogram in dataset.tomograms] == ["t0", "t3"]
    left_out = dataset.provenance["left_out"]
    assert [entry["tomogram"].rpartition("/")[2] for entry in left_out] == ["t2.mrc", "t1.mrc"]
    assert "77" in left_out[1]["message"]
    report = (tmp_path / "ds" / "report.md").read_text()
    assert "## Left out" in report
    assert "t2.mrc" in report
    check_images(dataset, {f"t{number}": lab.volume(number) for number in (0, 3)}, 32)


def test_a_slice_that_is_not_finite_is_found_when_it_is_needed(lab, tmp_path, check_images):
    intensity, _ = lab.volume(3)
    # Not among the slices that the mean is measured on: those are 16 of a deeper volume.
    intensity = np.concatenate([intensity] * 4)
    labels = np.concatenate([lab.volume(3)[1]] * 4)
    lab.write("tomograms/t3.mrc", intensity)
    with mrcfile.mmap(lab.folder / "tomograms/t3.mrc", "r+") as file:
        file.data[3] = np.nan
    lab.write("labels/t3__labels.mrc", labels.astype(np.int8))
    with pytest.raises(BadInputsError, match=r"1 of 4 .*t3\.mrc: slice z = 3"):
        build_dataset(lab.recipe(), tmp_path / "ds")
    dataset = build_dataset(lab.recipe(), tmp_path / "ds", keep_going=True)
    assert [tomogram.name for tomogram in dataset.tomograms] == ["t0", "t1", "t2"]
    assert {image.tomogram for image in dataset.images} == {"t0", "t1", "t2"}
    check_images(dataset, {f"t{number}": lab.volume(number) for number in range(3)}, 32)


def test_nothing_that_can_be_used_is_an_error_even_when_going_on(lab, tmp_path):
    for number in range(4):
        (lab.folder / f"labels/t{number}__labels.mrc").unlink()
    with pytest.raises(BadInputsError, match="4 of 4"):
        build_dataset(lab.recipe(), tmp_path / "ds", keep_going=True)


def test_an_unknown_voxel_size_is_asked_for(lab, tmp_path):
    intensity, labels = lab.volume(0)
    lab.write("one.mrc", intensity, voxel_size=0.0)
    lab.write("one_l.mrc", labels.astype(np.int8), voxel_size=0.0)
    source = {"tomograms": "one.mrc", "labels": "one_l.mrc"}
    with pytest.raises(BadInputsError, match="state voxel_size in the recipe's source"):
        build_dataset(lab.recipe(source), tmp_path / "ds")
    assert build_dataset(lab.recipe({**source, "voxel_size": 8.0}), tmp_path / "ds").voxel_size == (8.0, 8.0)


def test_a_trim_outside_the_volume_and_no_foreground_are_told(lab, tmp_path):
    with pytest.raises(BadInputsError, match=r"t0\.mrc: expected a z range within 0:12, found 4:13"):
        build_dataset(lab.recipe(trim=[4, 13]), tmp_path / "a")
    with pytest.raises(BadInputsError, match="phantom_0: expected a trim range within 0:8"):
        build_dataset(
            lab.recipe({"phantoms": {"count": 1, "parameters": {"shape": [8, 32, 32]}}}, trim=[0, 9]), tmp_path / "b"
        )
    with pytest.raises(DatasetError, match="expected tiles with foreground, found none in 4 tomograms"):
        build_dataset(lab.recipe(trim=[0, 1]), tmp_path / "c")
