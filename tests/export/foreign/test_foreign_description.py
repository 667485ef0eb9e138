"""What is said of a network: classes and colours, and what is refused."""

from __future__ import annotations

import pytest

from tomoscribe.engine.class_map import DEFAULT_CLASS_MAP
from tomoscribe.engine.errors import ParameterError


def test_classes_are_numbered_in_the_order_of_their_channels(describe):
    description = describe("Ribosome, membrane , Background,actin=#010203")
    assert description.background == 2
    assert [(c.number, c.name) for c in description.class_map.classes] == [
        (1, "Ribosome"),
        (2, "membrane"),
        (3, "actin"),
    ]
    assert description.class_map.classes[2].colour == (1, 2, 3)


def test_known_classes_keep_their_colour_and_no_two_are_alike(describe):
    names = ["ribosome", *(f"class {number}" for number in range(30))]
    classes = describe(",".join(["background", *names])).class_map.classes
    ribosome = next(c for c in DEFAULT_CLASS_MAP.classes if c.name == "ribosome")
    assert classes[0].colour == ribosome.colour
    colours = [c.colour for c in classes]
    assert len(set(colours)) == len(colours)
    assert set(colours) > {c.colour for c in DEFAULT_CLASS_MAP.classes}


def test_a_sigmoid_needs_no_background(describe):
    assert describe("membrane", activation="sigmoid").background is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channels": "ribosome,membrane"}, "expected one of the channels of a softmax to be 'background'"),
        ({"channels": "background,a,BACKGROUND"}, "expected one 'background' at most"),
        ({"channels": "background"}, "class map"),
        ({"channels": "background,a,A"}, "different name for every class"),
        ({"channels": "background,a=red"}, "#rrggbb"),
        ({"activation": "relu"}, "activation: expected softmax or sigmoid, found 'relu'"),
        ({"answers": "labels"}, "answers: expected logits or probabilities"),
        ({"normalise": "slice"}, "normalise: expected volume or none"),
        ({"context": -1}, "context: expected a whole number of at least 0"),
        ({"tile_multiple": 0}, "tile_multiple: expected a whole number of at least 1"),
        ({"halo": 1.5}, "halo: expected a whole number"),
        ({"scale": 0.0}, "scale other than 0"),
        ({"offset": float("nan")}, "found 1.0 and nan"),
    ],
)
def test_what_cannot_be_is_refused(describe, change, message):
    with pytest.raises(ParameterError, match=message) as caught:
        describe(**change)
    assert "\n" not in str(caught.value)
