from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tomoscribe.engine.class_map import ClassMap, LabelClass
from tomoscribe.train.dataset.build import build_dataset
from tomoscribe.train.dataset.contact_sheet import HEADER, draw_contact_sheet
from tomoscribe.train.dataset.contract import IGNORE
from tomoscribe.train.dataset.report import dataset_warnings
from tomoscribe.train.dataset.storage import Dataset, ImageRecord, TomogramRecord

CLASS_MAP = ClassMap((LabelClass(1, "a", (255, 0, 0)), LabelClass(2, "b", (0, 255, 0))))


def made_of(images, counts, split_by="tomogram", voxel_sizes=(10.0,), path=None):
    records = tuple(
        TomogramRecord(f"t{n}", (9, 32, 32), size, 0.0, 1.0, (0, 9), "", {}) for n, size in enumerate(voxel_sizes)
    )
    rows = tuple(ImageRecord(split, tomogram, z, 0, 0, 0) for split, tomogram, z in images)
    return Dataset(path, "x", CLASS_MAP, 32, 0, records, rows, np.array(counts, np.int64), {"split_by": split_by})


ALL = [("train", "t0", 0), ("dev", "t1", 0), ("test", "t2", 0)]
FULL = [[5, 5, 5]] * 3


def test_a_sound_dataset_has_no_warnings():
    assert dataset_warnings(made_of(ALL, FULL, voxel_sizes=(10.0, 10.4)), {"t0": ()}) == []


def test_what_is_missing_or_differs_is_warned_of():
    assert dataset_warnings(made_of(ALL[:2], FULL[:2]), {}) == ["test has no images"]
    assert dataset_warnings(made_of(ALL, [[5, 5, 5], [5, 0, 5], [5, 5, 5]]), {}) == ["dev has no voxel of a"]
    (warning,) = dataset_warnings(made_of(ALL, FULL, voxel_sizes=(10.0, 10.6)), {})
    assert warning == "voxel sizes differ: 10.00 to 10.60 Å"
    assert dataset_warnings(made_of(ALL, FULL), {"t1": ("its header is odd",)}) == ["t1: its header is odd"]


def test_neighbours_in_different_splits_are_counted():
    images = [("train", "t0", 0), ("train", "t0", 1), ("dev", "t0", 2), ("test", "t0", 4), ("train", "t1", 3)]
    (warning,) = dataset_warnings(made_of(images, [[5, 5, 5]] * 5, "image"), {})
    assert warning.startswith("split by image: 1 pairs of neighbouring slices are in different splits")


def test_the_figures_of_a_report_are_those_of_the_images(lab, tmp_path):
    dataset = build_dataset(lab.recipe(split={"by": "image"}), tmp_path / "ds")
    report = json.loads((tmp_path / "ds" / "report.json").read_text())
    for split, facts in report["splits"].items():
        numbers = dataset.numbers(split)
        assert facts["images"] == len(numbers)
        labels = np.stack([dataset.read(number, 0)[1] for number in numbers])
        for label, name in enumerate(("background", "round thing", "long thing")):
            assert facts["voxels"][name] == (labels == label).sum()
            assert facts["images_with"][name] == (labels == label).any(axis=(1, 2)).sum()
        assert facts["ignored_voxels"] == (labels == IGNORE).sum()
        assert facts["images_without_foreground"] == (labels == 0).all(axis=(1, 2)).sum()
    assert sum(sum(tomogram["images"].values()) for tomogram in report["tomograms"]) == len(dataset.images)
    text = (tmp_path / "ds" / "report.md").read_text()
    train = report["splits"]["train"]
    share = train["voxels"]["long thing"] / sum(train["voxels"].values())
    assert (
        f"| long thing | {train['images_with']['long thing']} | {train['voxels']['long thing']:,} | {share:.3%} |"
        in text
    )
    assert "Split by image" in text
    assert "split by image" in text.split("## Warnings")[1]
    assert (lab.folder / "recipe.yaml").read_text().strip() in text
    assert "| t2 | 70 × 40 × 12 | 10.00 |" in text


def test_the_contact_sheet_shows_every_class_in_its_colour(lab, tmp_path):
    build_dataset(lab.recipe(), tmp_path / "ds")
    picture = np.asarray(Image.open(tmp_path / "ds" / "contact_sheet.png"))
    for colour in ((0xE6, 0x9F, 0x00), (0x56, 0xB4, 0xE9)):
        # Swatch, and outlines in the panels.
        assert (picture == colour).all(axis=-1).sum() > 1000


def test_what_is_ignored_is_dark_in_the_contact_sheet(lab, tmp_path):
    intensity, labels = lab.volume(0)
    labels[:, 20:] = 99
    lab.write("one.mrc", intensity)
    lab.write("one_l.mrc", labels.astype(np.int8))
    source = {"tomograms": "one.mrc", "labels": "one_l.mrc", "ignore": 99}
    tiles = {"size": 40, "background": 0, "context": 0}
    dataset = build_dataset(lab.recipe(source, tiles=tiles), tmp_path / "ds")
    picture = np.asarray(Image.open(draw_contact_sheet(dataset, tmp_path / "sheet.png", seed=1)), np.float32)
    # The first row's first pair; y points upwards, so that what is ignored is above.
    panels = picture[28 + HEADER + 40 :][:288, 28 : 28 + 2 * 288 + 2].mean(axis=-1)
    plain, overlay = panels[:, :288], panels[:, 290:]
    assert overlay[4:130].mean() == pytest.approx(0.35 * plain[4:130].mean(), rel=0.05)
    assert overlay[200:].mean() > 0.9 * plain[200:].mean()


def test_the_seed_chooses_the_samples(lab, tmp_path):
    dataset = build_dataset(lab.recipe(), tmp_path / "ds")
    first, again, other = (
        draw_contact_sheet(dataset, tmp_path / f"{name}.png", seed=seed).read_bytes()
        for name, seed in (("a", 0), ("b", 0), ("c", 5))
    )
    assert first == again
    assert first != other
