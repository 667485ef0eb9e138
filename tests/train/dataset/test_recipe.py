from __future__ import annotations

import pytest
import yaml

from tomoscribe.engine.class_map import DEFAULT_CLASS_MAP
from tomoscribe.engine.errors import ParameterError
from tomoscribe.train.dataset.recipe import LabelSource, MapSource, PhantomSource, read_recipe

PHANTOMS = {"phantoms": {"count": 2}}
MAPS = {"tomograms": "*.mrc", "maps": "{tomogram}__{feature}.mrc"}

FULL = """
name: neurons
seed: 3
classes:
  - {name: microtubule, colour: "#e69f00"}
  - {name: ribosome, colour: "#F0E442"}
tiles: {size: 256, background: all, context: 1}
trim: [10, 80]
split: {by: image, shares: [0.7, 0.2, 0.1]}
sources:
  - tomograms: [a.mrc, b]
    labels: labels/{tomogram}__labels.mrc
    values: {1: microtubule, 2: ribosome, 7: ignore, 8: background}
    ignore: 255
    voxel_size: 10.5
    axes: xzy
    mode0: unsigned
    invert: true
    trim: none
    split: train
  - tomograms: c.mrc
    maps: {microtubule: "x/{tomogram}_mt.hdf", Ribosome: "{folder}/r.mrc"}
    threshold: {ribosome: 0.7}
    smallest: {ribosome: 500}
    priority: [ribosome, microtubule]
    missing: ignore
  - phantoms: {count: 3, seed: 2015, parameters: {shape: [16, 64, 64], imaging: {signal_to_noise: [0.1, 1.0]}}}
"""


def read(folder, **keys):
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "a", "sources": [PHANTOMS]} | keys))
    return read_recipe(path)


def test_every_key_is_read(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(FULL)
    recipe = read_recipe(path)
    assert [c.name for c in recipe.class_map.classes] == ["microtubule", "ribosome"]
    assert recipe.class_map.classes[1].colour == (240, 228, 66)
    assert (recipe.tiles.size, recipe.tiles.background, recipe.tiles.context) == (256, "all", 1)
    assert recipe.trim == (10, 80)
    labels, maps, phantoms = recipe.sources
    assert isinstance(labels, LabelSource)
    assert labels.values == {1: "microtubule", 2: "ribosome", 7: "ignore", 8: "background"}
    assert (labels.trim, labels.split, labels.voxel_size, labels.invert) == ("none", "train", 10.5, True)
    assert isinstance(maps, MapSource)
    assert maps.threshold == {"ribosome": 0.7}
    assert maps.missing == "ignore"
    assert isinstance(phantoms, PhantomSource)
    assert phantoms.phantoms.seed == 2015


def test_what_is_not_said_has_defaults(tmp_path):
    recipe = read(tmp_path)
    assert recipe.class_map == DEFAULT_CLASS_MAP
    assert (recipe.tiles.size, recipe.tiles.background, recipe.tiles.context) == (512, 0.1, 3)
    assert (recipe.trim, recipe.split.by, recipe.split.shares) == ("automatic", "automatic", (0.8, 0.1, 0.1))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"tile": 512}, "tile: Extra inputs"),
        ({"name": ""}, "name"),
        ({"seed": -1}, "seed"),
        ({"tiles": {"background": 1.0}}, "tiles.background"),
        ({"tiles": {"size": 8}}, "tiles.size"),
        ({"trim": [5, 0]}, "trim"),
        (
            {"split": {"shares": [0.8, 0.1, 0.2]}},
            "split.shares: expected shares of train, dev and test that add up to 1, found 1.1",
        ),
        ({"split": {"shares": [0.8, 0.2]}}, "split.shares"),
        ({"sources": []}, "one source at least"),
        ({"classes": [{"name": "a", "colour": "red"}]}, "classes.0.colour"),
        ({"classes": [{"name": "a", "colour": "#000000"}] * 2}, "a different name for every class"),
        ({"sources": [{"tomograms": "a.mrc"}]}, "exactly one of the keys labels, maps and phantoms"),
        ({"sources": [{**MAPS, "labels": "a.mrc"}]}, "exactly one of the keys labels, maps and phantoms"),
        ({"sources": [{"tomograms": "a.mrc", "labels": "{tomo}.mrc"}]}, r"no \{tomo\}; a path may have \{tomogram\}"),
        ({"sources": [{**MAPS, "maps": "{tomogram}.mrc"}]}, r"expected \{feature\} in the path"),
        ({"sources": [{**MAPS, "maps": {"ribosome": "{feature}.mrc"}}]}, r"no \{feature\}"),
        ({"sources": [{**MAPS, "maps": {}}]}, "the map of one class at least"),
        ({"sources": [{**MAPS, "maps": {"lysosome": "a.mrc"}}]}, "class 'lysosome'"),
        ({"sources": [{**MAPS, "priority": ["lysosome"]}]}, "class 'lysosome'"),
        ({"sources": [{**MAPS, "threshold": {"lysosome": 1}}]}, "class 'lysosome'"),
        ({"sources": [{**MAPS, "smallest": -1}]}, "smallest"),
        ({"sources": [{"tomograms": "a", "labels": "b", "values": {1: "lysosome"}}]}, "class 'lysosome'"),
        ({"sources": [{"tomograms": "a", "labels": "b", "values": {10**6: "ribosome"}}]}, "values.1000000"),
        ({"sources": [{"tomograms": "a", "labels": "b", "ignore": 10**6}]}, "ignore"),
        ({"sources": [{"tomograms": "a", "labels": "b", "voxel_size": 0}]}, "voxel_size"),
        ({"sources": [{"phantoms": {"count": 0}}]}, "count"),
        ({"sources": [{"phantoms": {"count": 1, "parameters": {"size": 1}}}]}, "no parameter"),
        ({"sources": [{"phantoms": {"count": 1}, "split": "validation"}]}, "split"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(tmp_path, keys, message):
    with pytest.raises(ParameterError, match=message) as caught:
        read(tmp_path, **keys)
    assert str(caught.value).startswith(str(tmp_path / "recipe.yaml"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "sources:\n  - tomograms: a.mrc\n    labels: a\n    tomograms: b.mrc\n",
            r"the key 'tomograms' twice .* line 4",
        ),
        ("split: {by: image, by: tomogram}\n", "the key 'by' twice"),
        ("name: 2020-13-45\n", "month must be in"),
        ("seed: !!int x\n", "invalid literal"),
        ("name: !!python/object/apply:os.getcwd []\n", "could not determine a constructor"),
        ("[" * 4000, "recursion"),
    ],
)
def test_what_is_no_plain_yaml_is_told_in_one_line(tmp_path, text, found):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(
        ParameterError, match=rf"recipe\.yaml: expected a readable YAML file, found: .*{found}"
    ) as caught:
        read_recipe(path)
    assert "\n" not in str(caught.value)


def test_a_key_may_be_merged_and_said_anew(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "name: a\nsources:\n  - &first {tomograms: a, labels: a, trim: none}\n"
        "  - {<<: *first, tomograms: b, labels: b}\n"
    )
    assert [(s.tomograms, s.trim) for s in read_recipe(path).sources] == [("a", "none"), ("b", "none")]
