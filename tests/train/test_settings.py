"""Training settings: what YAML may say, and that what cannot be is refused in one line that names the key."""

from __future__ import annotations

import pytest

from tomoscribe.engine.errors import ParameterError
from tomoscribe.train.settings import Devices, TrainingSettings
from tomoscribe.train.yaml_file import check_values, read_yaml


def test_yaml_says_what_differs_from_the_defaults(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("steps: 10\nclass_weights: [1, 2, 0.5]\naugmentation: {noise: 0, turns: false}\n")
    found = read_yaml(path, TrainingSettings)
    assert found.steps == 10
    assert found.class_weights == (1.0, 2.0, 0.5)
    assert (found.augmentation.noise, found.augmentation.turns, found.augmentation.contrast) == (0.0, False, 0.15)
    assert found.batch_size == TrainingSettings().batch_size
    assert check_values({"class_weights": "balanced"}, TrainingSettings, "options").class_weights == "balanced"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stepz: 10", "stepz"),
        ("steps: 0", "steps: Input should be greater than or equal to 1, found 0"),
        ("learning_rate: 0", "learning_rate"),
        ("learning_rate: .nan", "learning_rate"),
        ("foreground_share: 1.5", "foreground_share"),
        ("precision: fp64", "precision"),
        ("class_weights: even", "class_weights"),
        ("class_weights: [1, -1]", "class_weights"),
        ("patience: 0", "patience"),
        ("augmentation: {nois: 1}", "augmentation.nois"),
        ("augmentation: {repeat_share: 2}", "augmentation.repeat_share"),
        ("augmentation: {least_tilt: 70}", "augmentation.least_tilt"),
        ("steps: [", "readable YAML"),
        ("- steps", "the file: "),
    ],
)
def test_what_cannot_be_is_refused_by_name(tmp_path, text, words):
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(ParameterError) as caught:
        read_yaml(path, TrainingSettings)
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_values_from_elsewhere_are_named_after_it():
    with pytest.raises(ParameterError, match=r"^options: steps: .* found 0$"):
        check_values({"steps": 0}, TrainingSettings, "options")


@pytest.mark.parametrize(
    "wrong",
    [{"accelerator": "tpu"}, {"devices": 0}, {"devices": "all"}, {"nodes": 0}, {"workers": -1}],
)
def test_devices_that_cannot_be_are_refused(wrong):
    with pytest.raises(ParameterError, match="expected"):
        Devices(**wrong)
    assert Devices(devices="auto").devices == "auto"
