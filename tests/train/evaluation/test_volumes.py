"""Label volumes against the truth, through files."""

from __future__ import annotations

import json

import mrcfile
import numpy as np
import pytest

from tomoscribe.engine import DEFAULT_CLASS_MAP, segment
from tomoscribe.engine.bundle import Bundle
from tomoscribe.engine.class_map import ClassMap, LabelClass
from tomoscribe.engine.errors import ParameterError, TomogramFormatError
from tomoscribe.train.dataset.contract import DatasetError
from tomoscribe.train.evaluation.class_maps import agreed_class_map, read_class_map
from tomoscribe.train.evaluation.judgement import judge
from tomoscribe.train.evaluation.pairs import Pair
from tomoscribe.train.evaluation.volumes import LabelReading, VolumeComparison, compare_label_volumes

CLASS_MAP = ClassMap((LabelClass(1, "dark matter", (1, 2, 3)), LabelClass(2, "light", (4, 5, 6))))


def counted(labels, truth, classes):
    counts = np.zeros((classes, classes), int)
    for found, wanted in zip(labels.ravel(), truth.ravel(), strict=True):
        counts[wanted, found] += 1
    return counts


def random_labels(seed, shape=(4, 5, 6), classes=3):
    return np.random.default_rng(seed).integers(0, classes, shape)


def test_the_counts_are_those_of_a_plain_loop(write):
    given, truth = random_labels(0, classes=6), random_labels(1, classes=6)
    confusion = compare_label_volumes(write("given.mrc", given), write("truth.mrc", truth), DEFAULT_CLASS_MAP)
    np.testing.assert_array_equal(confusion.counts, counted(given, truth, 6))


def test_volumes_of_different_shapes_are_refused_and_each_is_named(write):
    one, two = write("given.mrc", np.zeros((4, 5, 6))), write("truth.mrc", np.zeros((4, 5, 7)))
    with pytest.raises(DatasetError, match=r"given\.mrc.*\(4, 5, 7\).*\(4, 5, 6\)"):
        compare_label_volumes(one, two, DEFAULT_CLASS_MAP)
    pairs = [Pair("good", one, one), Pair("bad", one, two), Pair("gone", one, one.with_name("nowhere.mrc"))]
    with pytest.raises(DatasetError, match=r"2 of 3 pairs.*given\.mrc.*nowhere\.mrc"):
        VolumeComparison(pairs, CLASS_MAP)


def test_values_of_both_sides_are_translated_and_ignored_ones_do_not_count(write):
    given, truth = random_labels(0), random_labels(1)
    files = write("given.mrc", given * 10), write("truth.mrc", np.where(truth == 2, 77, truth))
    comparison = VolumeComparison(
        [Pair("a", *files)],
        CLASS_MAP,
        prediction=LabelReading({10: "light", 20: "background"}),
        truth=LabelReading(ignore=77),
    )
    counts = judge(comparison, tolerance=0).tomograms["a"].counts
    np.testing.assert_array_equal(counts, counted(np.array([0, 2, 0])[given][truth != 2], truth[truth != 2], 3))
    assert comparison.probabilities is None


def test_other_voxel_sizes_are_told_if_both_are_known(write):
    one = write("one.mrc", np.zeros((2, 3, 4)))
    for size, told in ((10.4, 0), (11.0, 1), (9.0, 1), (0.0, 0), (1.0, 0)):
        comparison = VolumeComparison(
            [Pair("a", one, write(f"{size}.mrc", np.zeros((2, 3, 4)), voxel_size=size))], CLASS_MAP
        )
        assert len(comparison.warnings) == told


def test_only_slices_of_the_range_count(write):
    given, truth = random_labels(0), random_labels(1)
    pair = Pair("a", write("given.mrc", given), write("truth.mrc", truth))
    judgement = judge(VolumeComparison([pair], CLASS_MAP, z_range=(1, 3)), tolerance=0)
    np.testing.assert_array_equal(judgement.total.counts, counted(given[1:3], truth[1:3], 3))
    assert [place.z for place in judgement.places] == [1, 2]
    for z_range in ((2, 2), (0, 5)):
        with pytest.raises(DatasetError, match="a: expected a z range within 0:4"):
            VolumeComparison([pair], CLASS_MAP, z_range=z_range)


def test_a_prediction_must_not_leave_voxels_out(write):
    pair = Pair("a", write("given.mrc", random_labels(0)), write("truth.mrc", random_labels(1)))
    comparison = VolumeComparison([pair], CLASS_MAP, prediction=LabelReading({1: "light", 2: "ignore"}))
    with pytest.raises(ParameterError, match=r"given\.mrc: slice z = 0.*only the truth"):
        list(comparison.images())


def test_feature_maps_are_thresholded_and_strange_or_missing_ones_are_told(write):
    scores = np.random.default_rng(0).integers(0, 101, (4, 5, 6))
    truth = random_labels(1)
    maps = {"DarkMatter": write("a__DarkMatter.mrc", scores), "Foo": write("a__Foo.mrc", scores)}
    pair = Pair("a", maps, write("truth.mrc", truth))
    comparison = VolumeComparison([pair], CLASS_MAP, prediction=LabelReading(threshold=80))
    counts = judge(comparison, tolerance=0).total.counts
    np.testing.assert_array_equal(counts, counted((scores >= 80).astype(int), truth, 3))
    told = " ".join(comparison.warnings)
    assert "no map of light" in told
    assert "a__Foo.mrc: there is no class Foo" in told
    with pytest.raises(DatasetError, match="expected maps of the classes"):
        VolumeComparison([Pair("a", {"Foo": maps["Foo"]}, pair.truth)], CLASS_MAP)


@pytest.fixture
def segmented(write, tiny_bundle, tmp_path):
    """The labels of a tomogram that the tiny model labelled, with sidecar and scores."""
    values = np.random.default_rng(0).normal(0, 1, (5, 16, 24))
    tomogram = write("t.mrc", values, np.float32)
    return segment(tomogram, tmp_path / "out", model=tiny_bundle)


def test_scores_beside_the_labels_are_judged(segmented, write, tiny_bundle):
    class_map = Bundle.load(tiny_bundle).specification.class_map
    truth = random_labels(3, (5, 16, 24))
    comparison = VolumeComparison([Pair("t", segmented.labels, write("truth.mrc", truth))], class_map)
    judgement = judge(comparison, tolerance=0)
    labels = mrcfile.read(segmented.labels)
    # The tiny model's scores are 201 of 255 for its label and 27 for the others, halved: 100 and 13.
    curve = judgement.calibration.counts[1]
    assert curve[100].tolist() == [((labels == 1) & (truth != 1)).sum(), ((labels == 1) & (truth == 1)).sum()]
    assert curve[13].sum() == (labels != 1).sum()
    # Background's is what the others leave: 127 - 13 - 13 or 127 - 100 - 13.
    background = judgement.calibration.counts[0]
    assert background[101].sum() == (labels == 0).sum()
    assert background[14].sum() == (labels != 0).sum()
    assert comparison.probabilities[100] == pytest.approx(200.5 / 255)


def test_scores_that_are_not_there_for_every_class_and_pair_are_not_judged(segmented, write, tiny_bundle):
    class_map = Bundle.load(tiny_bundle).specification.class_map
    truth = write("truth.mrc", np.zeros((5, 16, 24)))
    plain = write("plain.mrc", np.zeros((5, 16, 24)))
    pairs = [Pair("t", segmented.labels, truth), Pair("u", plain, truth)]
    assert VolumeComparison(pairs[:1], class_map).probabilities is not None
    assert VolumeComparison(pairs, class_map).probabilities is None
    assert judge(VolumeComparison(pairs, class_map), tolerance=0).calibration is None
    swapped = LabelReading({1: "light", 2: "dark matter"})
    assert VolumeComparison(pairs[:1], class_map, prediction=swapped).probabilities is None
    light = segmented.class_volumes["light"]
    light.write_bytes(write("wide.mrc", np.zeros((5, 16, 25))).read_bytes())
    with pytest.raises(TomogramFormatError, match="Light"):
        list(VolumeComparison(pairs[:1], class_map).images())
    light.unlink()
    assert VolumeComparison(pairs[:1], class_map).probabilities is None


def test_labels_of_a_z_range_are_told_of_unless_it_is_asked_for(write, tiny_bundle, tmp_path):
    tomogram = write("t.mrc", np.random.default_rng(0).normal(0, 1, (5, 16, 24)), np.float32)
    result = segment(tomogram, tmp_path / "out", model=tiny_bundle, z_range=(1, 4))
    pair = Pair("t", result.labels, result.labels)
    class_map = Bundle.load(tiny_bundle).specification.class_map
    (warning,) = VolumeComparison([pair], class_map).warnings
    assert "--z-range 1:4" in warning
    assert not VolumeComparison([pair], class_map, z_range=(1, 4)).warnings


def test_show_reads_a_slice_again_with_its_tomogram(write):
    given, truth = random_labels(0), random_labels(1)
    values = np.random.default_rng(2).normal(size=(4, 5, 6)).astype(np.float32)
    files = write("given.mrc", given), write("truth.mrc", truth)
    pairs = [Pair("a", *files), Pair("b", *files, write("t.mrc", values, np.float32))]
    comparison = VolumeComparison(pairs, CLASS_MAP)
    image, intensity = comparison.show(1)
    assert intensity is None
    np.testing.assert_array_equal(image.labels, given[1])
    image, intensity = comparison.show(4 + 2)
    assert (image.place.tomogram, image.place.z) == ("b", 2)
    np.testing.assert_array_equal(image.truth, truth[2])
    np.testing.assert_array_equal(intensity, values[2])
    with pytest.raises(DatasetError, match=r"short\.mrc"):
        VolumeComparison([Pair("a", *files, write("short.mrc", values[:3], np.float32))], CLASS_MAP)


def test_a_class_map_is_that_of_the_sidecars_which_have_to_agree(segmented, write, tiny_bundle, tmp_path):
    plain = write("plain.mrc", np.zeros((2, 2, 2)))
    own = Bundle.load(tiny_bundle).specification.class_map
    assert agreed_class_map([plain]) == DEFAULT_CLASS_MAP
    assert agreed_class_map([plain, segmented.labels]) == own
    assert agreed_class_map([plain], own) == own
    assert read_class_map(tiny_bundle) == read_class_map(segmented.sidecar) == read_class_map(segmented.labels) == own
    with pytest.raises(ParameterError, match=r"t__labels\.mrc.*microtubule.*--values"):
        agreed_class_map([segmented.labels], DEFAULT_CLASS_MAP)
    with pytest.raises(ParameterError, match=r"plain\.mrc"):
        read_class_map(plain)
    with pytest.raises(DatasetError):
        read_class_map(tmp_path)


@pytest.mark.parametrize("text", ["{", "[1]", '{"classes": 3}', '{"classes": [], "z_range": 3}', "\xff"])
def test_a_damaged_sidecar_is_told_and_a_foreign_one_is_none(write, text):
    plain = write("plain.mrc", np.zeros((2, 2, 2)))
    plain.with_suffix(".json").write_bytes(text.encode("latin-1"))
    if text == "[1]":
        assert agreed_class_map([plain]) == DEFAULT_CLASS_MAP
    else:
        with pytest.raises(ParameterError, match=r"plain\.json"):
            agreed_class_map([plain])


def test_a_sidecar_reaches_no_file_outside_its_folder(segmented, tiny_bundle, write, tmp_path):
    facts = json.loads(segmented.sidecar.read_text())
    secret = write("secret.mrc", np.zeros((5, 16, 24)))
    facts["class_volumes"]["light"] = f"../{secret.name}"
    segmented.sidecar.write_text(json.dumps(facts))
    pair = Pair("t", segmented.labels, segmented.labels)
    assert VolumeComparison([pair], Bundle.load(tiny_bundle).specification.class_map).probabilities is None
