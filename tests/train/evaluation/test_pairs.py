from __future__ import annotations

import pytest

from tomoscribe.engine.errors import ParameterError, TomogramNotFoundError
from tomoscribe.train.evaluation.pairs import find_pairs


@pytest.fixture
def touch(tmp_path):
    def touch(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path

    return touch


def test_a_file_goes_with_a_file_whatever_their_names(touch):
    folder = touch("x/a__labels.mrc", "y/other.mrc", "t.mrc")
    found = find_pairs(f"{folder}/x/a__labels.mrc", f"{folder}/y/other.mrc", f"{folder}/t.mrc")
    (pair,) = found.pairs
    assert (pair.name, pair.prediction, pair.truth, pair.tomogram) == (
        "a",
        folder / "x/a__labels.mrc",
        folder / "y/other.mrc",
        folder / "t.mrc",
    )


def test_folders_are_paired_by_tomogram_and_what_is_alone_is_told(touch):
    folder = touch(
        *(
            "p/a__labels.mrc",
            "p/a__Ribosome.mrc",
            "p/a.mrc",
            "p/b__labels.mrc",
            "p/only__labels.mrc",
            "p/.c__labels.mrc",
        ),
        *(
            "t/a.mrc",
            "t/a__labels.mrc",
            "t/a__truth.mrc",
            "t/b.rec",
            "t/b__truth.rec",
            "t/lonely__truth.mrc",
            "t/only.mrc",
            "t/b__overview.png",
        ),
    )
    found = find_pairs(f"{folder}/p", f"{folder}/t", f"{folder}/t")
    assert [(p.name, p.prediction.name, p.truth.name, p.tomogram.name) for p in found.pairs] == [
        ("a", "a__labels.mrc", "a__truth.mrc", "a.mrc"),
        ("b", "b__labels.mrc", "b__truth.rec", "b.rec"),
    ]
    told = " ".join(found.warnings)
    assert "lonely" in told
    assert "only" in told
    assert ".c" not in told


def test_two_underscores_may_be_in_a_tomograms_name(touch):
    folder = touch("p/a__bin4__labels.mrc", "t/a__bin4__truth.mrc")
    (pair,) = find_pairs(f"{folder}/p", f"{folder}/t").pairs
    assert (pair.name, pair.prediction.name) == ("a__bin4", "a__bin4__labels.mrc")


def test_of_two_files_for_one_tomogram_none_is_taken_silently(touch):
    folder = touch("p/a__labels.mrc", "p/a__labels.tif", "t/a__truth.mrc")
    with pytest.raises(ParameterError, match=r"a__labels\.tif: expected one file for the tomogram a, found a__labels"):
        find_pairs(f"{folder}/p", f"{folder}/t")
    form = f"{folder}/p/{{tomogram}}__labels.tif"
    assert find_pairs(form, f"{folder}/t").pairs[0].prediction.name == "a__labels.tif"


def test_the_next_name_is_looked_for_only_where_there_is_none_of_the_one_before(touch):
    folder = touch("p/a.mrc", "t/a__labels.mrc", "t/a.mrc")
    (pair,) = find_pairs(f"{folder}/p", f"{folder}/t").pairs
    assert (pair.prediction.name, pair.truth.name) == ("a.mrc", "a__labels.mrc")


def test_one_folder_may_hold_labels_truth_and_tomogram(touch):
    folder = touch("a.mrc", "a__labels.mrc", "a__truth.mrc")
    (pair,) = find_pairs(str(folder), str(folder), str(folder)).pairs
    assert [path.name for path in (pair.prediction, pair.truth, pair.tomogram)] == [
        "a__labels.mrc",
        "a__truth.mrc",
        "a.mrc",
    ]


def test_forms_name_tomograms_and_features(touch):
    folder = touch("p/a_b__Ribosome.mrc", "p/a_b__labels.mrc", "p/a_b__Single_membrane.mrc", "t/a_b_done.mrc")
    (pair,) = find_pairs(f"{folder}/p/{{tomogram}}__{{feature}}.mrc", f"{folder}/t/{{tomogram}}_done.mrc").pairs
    assert pair.name == "a_b"
    assert pair.prediction == {
        "Ribosome": folder / "p/a_b__Ribosome.mrc",
        "Single_membrane": folder / "p/a_b__Single_membrane.mrc",
    }
    (alone,) = find_pairs(f"{folder}/p/a_b__{{feature}}.mrc", f"{folder}/t/a_b_done.mrc").pairs
    assert alone.prediction == pair.prediction


def test_a_name_that_comes_twice_in_a_form_is_the_same_name(touch):
    folder = touch("a/a__labels.mrc", "a/b__labels.mrc", "a_truth.mrc")
    (pair,) = find_pairs(f"{folder}/{{tomogram}}/{{tomogram}}__labels.mrc", f"{folder}/{{tomogram}}_truth.mrc").pairs
    assert pair.prediction == folder / "a/a__labels.mrc"


def test_brackets_in_a_folder_name_stand_for_themselves(touch):
    folder = touch("run[1]/a__labels.mrc")
    form = f"{folder}/run[1]/{{tomogram}}__labels.mrc"
    assert find_pairs(form, form).pairs[0].name == "a"


@pytest.mark.parametrize(
    ("prediction", "truth", "tomogram", "error", "told"),
    [
        ("p", "t/x__truth.mrc", None, ParameterError, "2 against 1"),
        ("p", "t", None, TomogramNotFoundError, "labels of a, b and truth of x"),
        ("empty", "t", None, TomogramNotFoundError, "<tomogram>__labels.mrc"),
        ("p/{tomogram}.tif", "t", None, TomogramNotFoundError, "no file is called like this"),
        ("p", "p", "t", TomogramNotFoundError, "the tomogram of a, b"),
    ],
)
def test_what_cannot_be_paired_is_an_error(touch, prediction, truth, tomogram, error, told):
    folder = touch("p/a__labels.mrc", "p/b__labels.mrc", "t/x__truth.mrc", "t/x.mrc", "empty/readme")
    places = [place and f"{folder}/{place}" for place in (prediction, truth, tomogram)]
    with pytest.raises(error, match=told):
        find_pairs(*places)
