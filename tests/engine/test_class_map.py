from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tomoscribe.engine.class_map import DEFAULT_CLASS_MAP, ClassMap, LabelClass
from tomoscribe.engine.errors import ParameterError

colours = st.tuples(*[st.integers(0, 255)] * 3)


def test_the_default_is_the_five_features_in_order():
    assert [(c.number, c.name) for c in DEFAULT_CLASS_MAP.classes] == [
        (1, "microtubule"),
        (2, "ribosome"),
        (3, "double membrane"),
        (4, "single membrane"),
        (5, "carbon edge"),
    ]
    assert len(DEFAULT_CLASS_MAP) == 5
    assert len({c.colour for c in DEFAULT_CLASS_MAP.classes}) == 5


@pytest.mark.parametrize(
    ("name", "feature"),
    [("ribosome", "Ribosome"), ("double membrane", "DoubleMembrane"), ("ER_exit-site", "ERExitSite")],
)
def test_a_feature_has_no_spaces_or_underscores(name, feature):
    assert LabelClass(1, name, (0, 0, 0)).feature == feature


@pytest.mark.parametrize("name", ["double membrane", "Double_Membrane", "DoubleMembrane", "double-membrane", "3", 3])
def test_a_class_is_found_in_any_spelling_and_by_number(name):
    assert [c.number for c in DEFAULT_CLASS_MAP.select([name])] == [3]


def test_a_selection_is_in_label_order_and_without_repeats():
    assert [c.number for c in DEFAULT_CLASS_MAP.select(["carbon edge", "1", "microtubule"])] == [1, 5]


def test_an_unknown_class_is_named_with_those_there_are():
    with pytest.raises(ParameterError, match=r"'nucleus'.*microtubule, ribosome, double membrane"):
        DEFAULT_CLASS_MAP.select(["ribosome", "nucleus"])


def test_a_text_is_not_taken_for_a_list_of_letters():
    with pytest.raises(ParameterError, match=r"\['ribosome'\]"):
        DEFAULT_CLASS_MAP.select("ribosome")


@pytest.mark.parametrize(
    "classes",
    [
        (),
        (LabelClass(2, "a", (0, 0, 0)),),
        (LabelClass(1, "a", (0, 0, 0)), LabelClass(3, "b", (0, 0, 0))),
        (LabelClass(1, "a b", (0, 0, 0)), LabelClass(2, "A_B", (0, 0, 0))),
        (LabelClass(1, "labels", (0, 0, 0)),),
        (LabelClass(1, " ", (0, 0, 0)),),
        tuple(LabelClass(n, f"c{n}", (0, 0, 0)) for n in range(1, 257)),
    ],
)
def test_a_map_that_cannot_be_is_refused(classes):
    with pytest.raises(ParameterError, match="class map"):
        ClassMap(classes)


@given(st.lists(colours, min_size=1, max_size=255))
def test_a_map_survives_json(drawn):
    class_map = ClassMap(tuple(LabelClass(n, f"class {n}", colour) for n, colour in enumerate(drawn, start=1)))
    assert ClassMap.from_json(class_map.to_json()) == class_map


@pytest.mark.parametrize(
    "entries",
    [
        [{"number": 1, "name": "a"}],
        [{"number": 1, "name": "a", "colour": "red"}],
        [{"number": 1, "name": "a", "colour": "#12345g"}],
        [{"number": "one", "name": "a", "colour": "#123456"}],
        [1],
        None,
    ],
)
def test_json_that_is_no_map_is_refused(entries):
    with pytest.raises(ParameterError, match="class map"):
        ClassMap.from_json(entries)
