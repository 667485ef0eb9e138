from __future__ import annotations

import csv
import json
import tracemalloc

import numpy as np
import pytest
import zarr

from tomoscribe.engine.errors import OutputExistsError, ParameterError
from tomoscribe.engine.intensity import intensity_of
from tomoscribe.engine.trimming import Trim
from tomoscribe.train.dataset import writing
from tomoscribe.train.dataset.build import BadInputsError, build_dataset
from tomoscribe.train.dataset.contract import IGNORE, SPLITS
from tomoscribe.train.dataset.recipe import read_recipe
from tomoscribe.train.dataset.sources import find_inputs
from tomoscribe.train.dataset.storage import open_dataset
from tomoscribe.train.phantom import draw_parameters, make_phantom


def test_a_dataset_holds_what_the_files_hold(lab, tmp_path, check_images):
    build_dataset(lab.recipe(), tmp_path / "ds")
    dataset = open_dataset(tmp_path / "ds")
    assert [tomogram.name for tomogram in dataset.tomograms] == ["t0", "t1", "t2", "t3"]
    assert dataset.voxel_size == (10.0, 10.0)
    # 40 × 70 in tiles of 32: rows from 0 and 8, columns from 0, 32 and 38.
    assert {(image.top, image.left) for image in dataset.images} == {(t, c) for t in (0, 8) for c in (0, 32, 38)}
    check_images(dataset, {f"t{number}": lab.volume(number) for number in range(4)}, 32)
    # Every tile with foreground is there.
    foreground = dataset.counts[:, 1:].any(axis=1).sum()
    expected = sum(
        lab.volume(number)[1][z, top : top + 32, left : left + 32].any()
        for number in range(4)
        for z in range(12)
        for top in (0, 8)
        for left in (0, 32, 38)
    )
    assert foreground == expected
    assert {image.split for image in dataset.images} == set(SPLITS)
    assert not (tmp_path / "ds" / "building").exists()


def test_others_can_read_it_with_zarr_and_csv(lab, tmp_path):
    build_dataset(lab.recipe(tiles={"size": 32, "background": "all", "context": 0}), tmp_path / "ds")
    group = zarr.open_group(tmp_path / "ds" / "images.zarr", mode="r")
    assert sorted(name for name, _ in group.members()) == ["t0", "t1", "t2", "t3"]
    with (tmp_path / "ds" / "images.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 12 * 6
    for row in rows[::29]:
        labels = group[f"{row['tomogram']}/labels"][int(row["z"]), int(row["tile"])]
        assert int(row["long thing"]) == (labels == 2).sum()
        _, volume = lab.volume(int(row["tomogram"][1]))
        top, left = int(row["top"]), int(row["left"])
        np.testing.assert_array_equal(labels, volume[int(row["z"]), top : top + 32, left : left + 32])
        np.testing.assert_array_equal(group[f"{row['tomogram']}/voxels"][int(row["z"]), int(row["tile"])].sum(), 1024)


def test_only_slices_near_an_image_are_stored(lab, tmp_path, check_images):
    intensity, labels = lab.volume(0, (60, 32, 32))
    labels[:] = 0
    labels[20:22] = 1
    lab.write("one.mrc", intensity)
    lab.write("one_l.mrc", labels.astype(np.int8))
    source = {"tomograms": "one.mrc", "labels": "one_l.mrc", "split": "train"}
    dataset = build_dataset(lab.recipe(source, tiles={"size": 32, "background": 0, "context": 3}), tmp_path / "ds")
    stored = zarr.open_array(tmp_path / "ds" / "images.zarr" / "one" / "intensity", mode="r")
    assert np.flatnonzero(stored[:].any(axis=(1, 2, 3))).tolist() == list(range(17, 25))
    assert stored.attrs["stored"] == [[[17, 25]]]
    check_images(dataset, {"one": (intensity, labels)}, 32)


def test_slices_outside_the_trim_are_context_and_no_images(lab, tmp_path, check_images):
    done = []
    recipe = lab.recipe(trim=[4, 9], tiles={"size": 70, "background": "all", "context": 2})
    dataset = build_dataset(recipe, tmp_path / "ds", progress=lambda *what: done.append(what))
    assert {image.z for image in dataset.images} == {4, 5, 6, 7, 8}
    # Progress counts every slice once in each stage, those that are trimmed too.
    for stage in ("labels", "images"):
        assert sum(count for what, _, count, _ in done if what == stage) == 48
    assert {total for *_, total in done} == {48}
    check_images(dataset, {f"t{number}": lab.volume(number) for number in range(4)}, 70)


def test_an_automatic_trim_is_reported(lab, tmp_path):
    dataset = build_dataset(lab.recipe(trim="automatic"), tmp_path / "ds")
    assert all(tomogram.trim_reason for tomogram in dataset.tomograms)
    assert (tmp_path / "ds" / "trim.png").stat().st_size
    build_dataset(lab.recipe(trim="none"), tmp_path / "ds", overwrite=True)
    assert not (tmp_path / "ds" / "trim.png").exists()


def test_annotated_slices_that_the_automatic_trim_leaves_out_are_told(lab, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "find_content", lambda _: Trim(3, 9, np.ones(12), 0.5, "because"))
    _, labels = lab.volume(1)
    labels[0, 5] = IGNORE
    lab.write("labels/t1__labels.mrc", labels.astype(np.int16))
    source = {**lab.source, "tomograms": "tomograms/t1.mrc", "ignore": 255}
    dataset = build_dataset(lab.recipe(source, trim="automatic"), tmp_path / "ds")
    # Labels are in slices 1 to 9.
    (warning,) = (line for line in dataset.provenance["warnings"] if "automatic trim" in line)
    assert "t1: the automatic trim leaves out 3 slices" in warning
    monkeypatch.setattr(writing, "find_content", lambda _: Trim(1, 10, np.ones(12), 0.5, "because"))
    dataset = build_dataset(lab.recipe(source, trim="automatic"), tmp_path / "other")
    assert "automatic trim" not in str(dataset.provenance["warnings"])


def test_values_ignore_and_polarity_are_as_the_recipe_has_them(lab, tmp_path, check_images):
    intensity, labels = lab.volume(1)
    values = np.array([0, 30, 7], np.int16)[labels]
    values[:, :3] = 9
    lab.write("one.mrc", -intensity)
    lab.write("one_l.mrc", values)
    source = {"tomograms": "one.mrc", "labels": "one_l.mrc", "invert": True, "voxel_size": 12.0}
    dataset = build_dataset(
        lab.recipe({**source, "values": {30: "long thing", 7: "background"}, "ignore": 9}), tmp_path / "ds"
    )
    expected = np.array([0, 2, 0], np.uint8)[labels]
    expected[:, :3] = IGNORE
    check_images(dataset, {"one": (-intensity, expected)}, 32, invert=True)
    assert dataset.voxel_size == (12.0, 12.0)


def test_maps_are_cleaned_and_put_in_order(lab, tmp_path, check_images):
    intensity, labels = lab.volume(0)
    rounds, longs = ((labels == label).astype(np.float32) for label in (1, 2))
    longs[2, 6:14, 8:30] = 0.9  # overlaps the round things, which win
    rounds[9, 36:38, 60:62] = 1  # 4 nm³, too small
    lab.write("maps/one.mrc", intensity)
    lab.write("maps/one__LongThing.mrc", longs)
    lab.write("maps/one__RoundThing.mrc", rounds, voxel_size=0)  # that of the tomogram counts
    source = {"tomograms": "maps/one.mrc", "maps": "maps/{tomogram}__{feature}.mrc", "smallest": 10}
    dataset = build_dataset(lab.recipe({**source, "priority": ["round thing"]}), tmp_path / "ds")
    expected = labels.copy()
    expected[2, 6:14, 8:30] = np.where(labels[2, 6:14, 8:30] == 1, 1, 2)
    check_images(dataset, {"one": (intensity, expected)}, 32)


def test_a_missing_map_is_an_error_background_or_ignored(lab, tmp_path, check_images):
    intensity, labels = lab.volume(0)
    lab.write("maps/one.mrc", intensity)
    lab.write("maps/one__RoundThing.mrc", (labels == 1).astype(np.float32))
    source = {"tomograms": "maps/one.mrc", "maps": "maps/{tomogram}__{feature}.mrc"}
    with pytest.raises(BadInputsError, match=r"expected its feature map .*one__LongThing\.mrc, found none"):
        build_dataset(lab.recipe(source), tmp_path / "ds")
    with pytest.raises(BadInputsError, match=r"one\.mrc: expected a feature map at least, found no .*x__RoundThing"):
        build_dataset(lab.recipe({**source, "maps": "x__{feature}.mrc", "missing": "ignore"}), tmp_path / "ds")
    for missing, rest in (("background", 0), ("ignore", IGNORE)):
        dataset = build_dataset(lab.recipe({**source, "missing": missing}), tmp_path / missing)
        check_images(dataset, {"one": (intensity, np.where(labels == 1, 1, rest).astype(np.uint8))}, 32)


def test_phantoms_are_what_their_seeds_make(tmp_path, lab, check_images):
    table = {"count": 3, "seed": 5, "parameters": {"shape": [8, 40, 48], "sample": {"gold": [0.0, 8.0]}}}
    recipe = lab.recipe({"phantoms": table}, classes=None, tiles={"size": 48, "background": "all", "context": 1})
    dataset = build_dataset(recipe, tmp_path / "ds", processes=2)
    assert [len(dataset.numbers(split)) for split in SPLITS] == [8, 8, 8]
    phantoms = [make_phantom(draw_parameters(table["parameters"], seed)) for seed in (5, 6, 7)]
    volumes = {f"phantom_{seed}": (p.intensity, p.labels) for seed, p in zip((5, 6, 7), phantoms, strict=True)}
    check_images(dataset, volumes, 48)


def test_the_folder_of_something_else_is_left_alone(lab, tmp_path):
    with pytest.raises(OutputExistsError, match="expected a new or an empty folder, found files"):
        build_dataset(lab.recipe(), lab.folder, overwrite=True)
    with pytest.raises(OutputExistsError, match="found a file"):
        build_dataset(lab.recipe(), lab.folder / "recipe.yaml")
    with pytest.raises(ParameterError, match="readable YAML"):
        build_dataset(tmp_path / "none.yaml", tmp_path / "ds")
    assert not (tmp_path / "ds").exists()


def test_runs_are_bounded_and_none_crosses_a_shard(monkeypatch):
    monkeypatch.setattr(writing, "_RUN_BYTES", 4 * 40 * 70 * 5)
    runs = list(writing._runs((23, 40, 70), 3, 21))
    assert runs == [(3, 5), (5, 10), (10, 15), (15, 20), (20, 21)]
    assert list(writing._runs((4, 10_000, 10_000))) == [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_memory_does_not_grow_with_the_depth(lab, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "_RUN_BYTES", 4 * 96 * 96 * 4)
    peaks = []
    for depth in (32, 256):
        intensity, labels = lab.volume(0, (depth, 96, 96))
        lab.write("one.mrc", intensity)
        lab.write("one_l.mrc", labels.astype(np.int8))
        del intensity, labels
        recipe = read_recipe(lab.recipe({"tomograms": "one.mrc", "labels": "one_l.mrc"}))
        (source,) = find_inputs(recipe, lab.folder)
        output = tmp_path / str(depth)
        tracemalloc.start()
        found = writing.survey(source, recipe.tiles, output, lambda _: None)
        writing.write_intensity(source, recipe.tiles, output, found, np.ones_like(found.stored), lambda _: None)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # A deep volume in memory would be 8 times a shallow one.
    assert peaks[1] < 1.5 * peaks[0]


@pytest.mark.parametrize("seed", range(3))
def test_a_tomogram_that_is_named_twice_goes_to_one_split_and_is_told(lab, tmp_path, seed):
    (lab.folder / "linked").symlink_to(lab.folder / "tomograms")
    linked = {**lab.source, "tomograms": "linked"}
    dataset = build_dataset(lab.recipe(lab.source, linked, seed=seed), tmp_path / "ds")
    splits = {frozenset(i.split for i in dataset.images if i.tomogram.startswith(f"t{n}")) for n in range(4)}
    assert splits == {frozenset([split]) for split in SPLITS}
    assert "t0_2 is the same tomogram as t0; name it in one source of the recipe" in dataset.provenance["warnings"]


def test_a_tomogram_that_is_named_twice_goes_where_one_of_its_sources_is_fixed(lab, tmp_path):
    fixed = {**lab.source, "tomograms": "tomograms/t0.mrc", "split": "test"}
    dataset = build_dataset(lab.recipe(lab.source, fixed), tmp_path / "ds")
    assert {image.split for image in dataset.images if image.tomogram.startswith("t0")} == {"test"}
    dataset = build_dataset(lab.recipe({**lab.source, "split": "train"}, fixed), tmp_path / "other")
    assert {image.split for image in dataset.images if image.tomogram.startswith("t0")} == {"train", "test"}
    (warning,) = (line for line in dataset.provenance["warnings"] if line.startswith("t0_2"))
    assert "fixed to another split" in warning


def test_a_recipe_may_be_edited_while_it_is_built(lab, tmp_path):
    recipe = lab.recipe()
    text = recipe.read_text()
    dataset = build_dataset(recipe, tmp_path / "ds", progress=lambda *_: recipe.write_text("name: other"))
    assert recipe.read_text() == "name: other"
    assert dataset.provenance["recipe_text"] == text


def test_what_reproduces_it_is_kept(lab, tmp_path):
    recipe = lab.recipe(seed=7)
    dataset = build_dataset(recipe, tmp_path / "ds")
    provenance = json.loads((tmp_path / "ds" / "dataset.json").read_text())["provenance"]
    assert provenance["recipe_text"] == recipe.read_text()
    assert provenance["seed"] == 7
    assert [tomogram["name"] for tomogram in provenance["tomograms"]] == ["t0", "t1", "t2", "t3"]
    assert set(provenance["versions"]) >= {"tomoscribe", "zarr", "numpy"}
    record = dataset.tomograms[1]
    file = lab.folder / "tomograms/t1.mrc"
    assert record.sources["files"][0] == {
        "path": str(file),
        "bytes": file.stat().st_size,
        "changed": file.stat().st_mtime_ns,
    }
    statistics = intensity_of(lab.volume(1)[0])
    assert (record.mean, record.standard_deviation) == (statistics.mean, statistics.standard_deviation)
