from __future__ import annotations

import pytest

from tomoscribe.engine.errors import ParameterError, TomogramNotFoundError
from tomoscribe.train.dataset.recipe import Recipe
from tomoscribe.train.dataset.sources import find_inputs


def inputs_of(folder, *sources, **keys):
    return find_inputs(Recipe(name="a", sources=sources, **keys), folder)


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_label_volumes_are_named_after_their_tomograms(tmp_path):
    touch(tmp_path, "a/one.mrc.gz", "a/two.rec", "b/three.mrc")
    (tmp_path / "list.txt").write_text("b/three.mrc\n")
    found = inputs_of(tmp_path, {"tomograms": ["a", "list.txt"], "labels": "l/{tomogram}_l.mrc", "split": "dev"})
    assert [(source.name, source.labels) for source in found] == [
        (name, tmp_path / "l" / f"{name}_l.mrc") for name in ("one", "two", "three")
    ]
    assert {source.split for source in found} == {"dev"}


def test_maps_are_named_after_classes_and_those_that_are_missing_are_known(tmp_path):
    touch(tmp_path, "one.mrc", "one__DoubleMembrane.mrc", "one__Ribosome.mrc")
    (found,) = inputs_of(tmp_path, {"tomograms": "one.mrc", "maps": "{folder}/{tomogram}__{feature}.mrc"})
    assert {name: path.name for name, path in found.labels.items()} == {
        "ribosome": "one__Ribosome.mrc",
        "double membrane": "one__DoubleMembrane.mrc",
    }
    names = ["one__Microtubule.mrc", "one__SingleMembrane.mrc", "one__CarbonEdge.mrc"]
    assert [path.name for path in found.missing] == names
    (found,) = inputs_of(tmp_path, {"tomograms": "one.mrc", "maps": {"ribosome": "one__Ribosome.mrc"}})
    assert list(found.labels) == ["ribosome"]
    assert found.missing == ()


def test_patterns_are_the_recipe_s_and_brackets_of_its_folder_are_not(tmp_path):
    folder = tmp_path / "lab [1]"
    touch(folder, "x1.mrc", "x2.mrc", "y.mrc", "x[3].mrc")
    labels = "{tomogram}_l.mrc"
    assert [s.name for s in inputs_of(folder, {"tomograms": "x?.mrc", "labels": labels})] == ["x1", "x2"]
    assert [s.name for s in inputs_of(folder, {"tomograms": "x[3].mrc", "labels": labels})] == ["x[3]"]
    assert [s.name for s in inputs_of(tmp_path, {"tomograms": str(folder / "y.mrc"), "labels": labels})] == ["y"]


def test_tomograms_of_one_name_get_different_ones(tmp_path):
    touch(tmp_path, "a/t.mrc", "b/T.mrc", "t_2.mrc")
    found = inputs_of(tmp_path, {"tomograms": ["a/t.mrc", "b/T.mrc", "t_2.mrc"], "labels": "{folder}/l.mrc"})
    assert [source.name for source in found] == ["t", "T_2", "t_2_2"]
    assert [source.labels.parent.name for source in found[:2]] == ["a", "b"]


def test_phantoms_have_seeds_that_follow_each_other(tmp_path):
    table = {"count": 3, "seed": 7, "parameters": {"shape": [8, 32, 32], "imaging": {"dose": [50.0, 90.0]}}}
    found = inputs_of(tmp_path, {"phantoms": table, "trim": [2, 6]}, trim="none")
    assert [source.parameters.seed for source in found] == [7, 8, 9]
    assert len({source.parameters.imaging.dose for source in found}) == 3
    assert [source.trim for source in found] == [(2, 6)] * 3


def test_what_gives_no_tomogram_is_told(tmp_path):
    touch(tmp_path, "a.mrc", "b.mrc")
    with pytest.raises(TomogramNotFoundError, match=r"c\*\.mrc"):
        inputs_of(tmp_path, {"tomograms": "c*.mrc", "labels": "{tomogram}.mrc"})


@pytest.mark.parametrize(
    ("sources", "owners"),
    [
        ([{"tomograms": "?.mrc", "labels": "l.mrc"}], r"a\.mrc and .*b\.mrc"),
        ([{"tomograms": "?.mrc", "labels": "{folder}/l.mrc"}], r"a\.mrc and .*b\.mrc"),
        ([{"tomograms": f"{name}.mrc", "labels": "l.mrc"} for name in "ab"], r"a\.mrc and .*b\.mrc"),
        ([{"tomograms": "?.mrc", "maps": {"ribosome": "l.mrc"}}], r"ribosome of .*a\.mrc and ribosome of .*b\.mrc"),
        ([{"tomograms": "a.mrc", "maps": {"ribosome": "l.mrc", "microtubule": "l.mrc"}}], "ribosome of .* microtubule"),
    ],
)
def test_a_file_annotates_one_tomogram_and_a_map_one_feature(tmp_path, sources, owners):
    touch(tmp_path, "a.mrc", "b.mrc", "l.mrc")
    with pytest.raises(ParameterError, match=rf"l\.mrc: expected the annotation of one tomogram.* for .*{owners}"):
        inputs_of(tmp_path, *sources)


def test_a_tomogram_may_be_named_twice_with_its_annotation(tmp_path):
    touch(tmp_path, "a.mrc")
    sources = [{"tomograms": "a.mrc", "labels": "l.mrc", "trim": trim} for trim in ([0, 4], [8, 9])]
    assert [source.name for source in inputs_of(tmp_path, *sources)] == ["a", "a_2"]


def test_every_name_can_be_that_of_a_group(tmp_path):
    names = ["..mrc", "...mrc", "__x.mrc", "Zarr.json.mrc", "a b.mrc"]
    found = inputs_of(tmp_path, {"tomograms": names, "labels": "{tomogram}_l.mrc"})
    assert [source.name for source in found] == [
        "tomogram_.",
        "tomogram_..",
        "tomogram___x",
        "tomogram_Zarr.json",
        "a b",
    ]
    assert [source.labels.name for source in found[:2]] == ["._l.mrc", ".._l.mrc"]
