from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import ZstdCodec

from tomoscribe.engine.class_map import ClassMap, LabelClass
from tomoscribe.engine.errors import ParameterError
from tomoscribe.train.dataset.contract import DatasetError, LabelledImages
from tomoscribe.train.dataset.shards import ShardedChunks
from tomoscribe.train.dataset.storage import Dataset, ImageRecord, TomogramRecord, open_dataset, write_index

CLASS_MAP = ClassMap((LabelClass(1, "a", (1, 2, 3)), LabelClass(2, "b", (4, 5, 6))))
DEPTH, TILE = 7, 16


@pytest.fixture
def stored(tmp_path) -> tuple[Path, np.ndarray, np.ndarray]:
    """A dataset of one tomogram of (7, 16, 28), two tiles wide; slice 3 of tile 1 was not stored."""
    random = np.random.default_rng(0)
    intensity = random.standard_normal((DEPTH, 2, TILE, TILE)).astype(np.float16)
    labels = random.integers(0, 3, intensity.shape).astype(np.uint8)
    intensity[3, 1] = 0
    folder = tmp_path / "images.zarr" / "one tomogram"
    for name, values, codecs in (("intensity", intensity, None), ("labels", labels, [ZstdCodec(checksum=True)])):
        zarr.create_array(
            folder / name, data=values, chunks=(1, 1, TILE, TILE), shards=(3, 1, TILE, TILE), compressors=codecs
        )
    images = tuple(
        ImageRecord(split, "one tomogram", z, tile, 0, 12 * tile)
        for split, z, tile in (("train", 0, 0), ("test", 0, 1), ("train", 2, 1), ("dev", DEPTH - 1, 0))
    )
    counts = np.array([np.bincount(labels[i.z, i.tile].ravel(), minlength=3) for i in images], np.int64)
    record = TomogramRecord("one tomogram", (DEPTH, TILE, 28), 12.5, 3.0, 2.0, (0, DEPTH), "all slices", {})
    write_index(Dataset(tmp_path, "mine", CLASS_MAP, TILE, 2, (record,), images, counts, {"seed": 4}))
    return tmp_path, intensity, labels


def test_what_was_written_is_read(stored):
    path, _, labels = stored
    dataset: LabelledImages = open_dataset(path)
    assert dataset.class_map == CLASS_MAP
    assert dataset.tile == TILE
    assert dataset.voxel_size == (12.5, 12.5)
    assert [dataset.numbers(split).tolist() for split in ("train", "dev", "test")] == [[0, 2], [3], [1]]
    assert dataset.counts.tolist()[2] == np.bincount(labels[2, 1].ravel()).tolist()


def test_an_image_comes_with_its_neighbours_and_the_ends_are_repeated(stored):
    path, intensity, labels = stored
    dataset = open_dataset(path)
    for number, (image, around) in enumerate(
        zip(dataset.images, ([0, 0, 0, 1, 2], [0, 0, 0, 1, 2], [0, 1, 2, 3, 4], [4, 5, 6, 6, 6]), strict=True)
    ):
        for context in (0, 1, 2):
            slices, found = dataset.read(number, context)
            assert slices.dtype == np.float32
            np.testing.assert_array_equal(slices, intensity[around, image.tile][2 - context : 3 + context])
            np.testing.assert_array_equal(found, labels[image.z, image.tile])
            found[:] = 0  # may be changed


def test_images_beyond_the_context_are_refused(stored):
    dataset = open_dataset(stored[0])
    for context in (3, -1):
        with pytest.raises(DatasetError, match=r"context of 0 to 2 slices, found"):
            dataset.read(0, context)
    with pytest.raises(ParameterError, match="expected one of train, dev, test, found 'training'"):
        dataset.numbers("training")


def test_a_part_that_an_earlier_tile_covers_is_not_fresh(stored):
    dataset = open_dataset(stored[0])
    assert dataset.fresh(0) == (slice(0, 16), slice(0, 16))
    assert dataset.fresh(1) == (slice(0, 16), slice(4, 16))


def test_it_can_be_pickled_before_and_after_it_was_read(stored):
    dataset = open_dataset(stored[0])
    expected = dataset.read(1, 1)
    for copy in (pickle.loads(pickle.dumps(open_dataset(stored[0]))), pickle.loads(pickle.dumps(dataset))):
        for found, wanted in zip(copy.read(1, 1), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_chunks_are_what_zarr_reads(stored):
    for name in ("intensity", "labels"):
        path = stored[0] / "images.zarr" / "one tomogram" / name
        array, chunks = zarr.open_array(path, mode="r"), ShardedChunks(path)
        assert chunks.shape == array.shape
        for z in range(DEPTH):
            for tile in range(2):
                np.testing.assert_array_equal(chunks.read(z, tile), array[z, tile])


def test_a_shard_that_is_not_there_is_zeros(stored):
    path = stored[0] / "images.zarr" / "one tomogram" / "labels"
    (path / "c/1/0/0/0").unlink()
    assert not ShardedChunks(path).read(4, 0).any()


@pytest.mark.parametrize("name", ["intensity", "labels"])
def test_a_damaged_shard_is_told(stored, name):
    shard = stored[0] / "images.zarr" / "one tomogram" / name / "c/0/0/0/0"
    content = shard.read_bytes()
    for damaged in (content[: len(content) // 2], content[:10], b""):
        shard.write_bytes(damaged)
        with pytest.raises(DatasetError, match=r"c/0/0/0/0: damaged .*; build the dataset again"):
            open_dataset(stored[0]).read(0, 0)


def test_a_label_that_flipped_is_told(stored):
    shard = stored[0] / "images.zarr" / "one tomogram" / "labels" / "c/0/0/0/0"
    content = bytearray(shard.read_bytes())
    content[30] ^= 1
    shard.write_bytes(content)
    labels = ShardedChunks(stored[0] / "images.zarr" / "one tomogram" / "labels")
    with pytest.raises(DatasetError, match="damaged"):
        np.stack([labels.read(z, 0) for z in range(3)])


def test_another_layout_is_refused(stored):
    path = stored[0] / "images.zarr" / "one tomogram" / "intensity" / "zarr.json"
    metadata = json.loads(path.read_text())
    for change in (
        {"data_type": "float32"},
        {"codecs": [{"name": "bytes"}]},
        {"shape": None},
    ):
        path.write_text(json.dumps(metadata | change))
        with pytest.raises(DatasetError, match="expected an array of a dataset"):
            open_dataset(stored[0]).read(0, 0)


def test_what_is_no_dataset_is_told(tmp_path, stored):
    path = stored[0]
    with pytest.raises(
        DatasetError, match=r"nowhere: expected a dataset, found none; make it with: tomoscribe dataset"
    ):
        open_dataset(path / "nowhere")
    index = path / "images.csv"
    lines = index.read_text().splitlines(keepends=True)
    for damaged in (lines[:-1], ["a,b\n", *lines[1:]], [*lines[:-1], "dev,one tomogram,x,0,0,0,1,1,1\n"], []):
        index.write_text("".join(damaged))
        with pytest.raises(DatasetError, match="damaged"):
            open_dataset(path)
    facts = path / "dataset.json"
    facts.write_text(json.dumps({"format": 99}))
    with pytest.raises(DatasetError, match="expected a dataset of format 1"):
        open_dataset(path)
    facts.write_text("{")
    with pytest.raises(DatasetError, match="cannot be read"):
        open_dataset(path)
    facts.unlink()
    with pytest.raises(DatasetError, match="one whose building was not finished"):
        open_dataset(path)
