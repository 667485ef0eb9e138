from __future__ import annotations

from dataclasses import fields

import pytest

from tomoscribe.engine.errors import ParameterError
from tomoscribe.train.phantom import ImagingParameters, PhantomParameters, draw_parameters, read_parameter_table


def test_a_number_is_taken_and_a_range_is_drawn_from():
    table = {"voxel_size": [10, 18], "sample": {"ribosomes": 500}, "imaging": {"filter": ["ramp", "sirt"]}}
    drawn = [draw_parameters(table, seed) for seed in range(40)]
    sizes = [parameters.voxel_size for parameters in drawn]
    assert all(10 <= size <= 18 for size in sizes)
    assert max(sizes) - min(sizes) > 5
    assert {parameters.sample.ribosomes for parameters in drawn} == {500.0}
    assert {parameters.imaging.filter for parameters in drawn} == {"ramp", "sirt"}


def test_the_same_seed_draws_the_same_whatever_the_order_of_the_file():
    forward = {"sample": {"gold": [0, 9], "ribosomes": [0, 9]}}
    backward = {"sample": {"ribosomes": [0, 9], "gold": [0, 9]}}
    assert draw_parameters(forward, 5) == draw_parameters(backward, 5)
    assert draw_parameters(forward, 5) != draw_parameters(forward, 6)


def test_the_file_may_fix_the_seed():
    assert draw_parameters({"seed": 77}, 5).seed == 77
    assert draw_parameters({}, 5).seed == 5


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ({"ribosomes": 5}, "ribosomes"),
        ({"sample": {"ribosome": 5}}, "ribosome"),
        ({"sample": 3}, "sample"),
        ({"shape": [64, 512]}, "shape"),
        ({"shape": [4, 512, 512]}, "shape"),
        ({"shape": "64x512x512"}, "shape"),
        ({"voxel_size": [18, 10]}, "voxel_size"),
        ({"voxel_size": "13"}, "voxel_size"),
        ({"voxel_size": 100}, "voxel_size"),
        ({"voxel_size": float("nan")}, "voxel_size"),
        ({"imaging": {"phase_flip": 1}}, "phase_flip"),
        ({"imaging": {"filter": "fancy"}}, "filter"),
        ({"imaging": {"maximum_tilt": 90}}, "maximum_tilt"),
        ({"imaging": {"tilt_step": 0}}, "tilt_step"),
        ({"imaging": {"signal_to_noise": 0}}, "signal_to_noise"),
        ({"sample": {"crowding": 0.9}}, "crowding"),
        ({"sample": {"ribosomes": -1}}, "ribosomes"),
        ({"sample": {"thickness": 1.5}}, "thickness"),
        ({"seed": -1}, "seed"),
        ({"imaging": {"defocus": float("inf")}}, "defocus"),
    ],
)
def test_a_value_that_cannot_be_is_named(table, named):
    with pytest.raises(ParameterError, match=named) as caught:
        draw_parameters(table, 0)
    assert "\n" not in str(caught.value)


def test_a_parameter_file_is_read_and_a_broken_one_refused(tmp_path):
    path = tmp_path / "dense.toml"
    path.write_text("voxel_size = 15.0\n[sample]\nribosomes = 9000.0\n", encoding="utf-8")
    parameters = draw_parameters(read_parameter_table(path), 1)
    assert (parameters.voxel_size, parameters.sample.ribosomes) == (15.0, 9000.0)
    path.write_text("voxel_size = = 15\n", encoding="utf-8")
    with pytest.raises(ParameterError, match=r"dense\.toml"):
        read_parameter_table(path)
    with pytest.raises(ParameterError, match="missing"):
        read_parameter_table(tmp_path / "missing.toml")


def test_every_parameter_is_described():
    for kind in (PhantomParameters, ImagingParameters, type(PhantomParameters().sample)):
        for field in fields(kind):
            assert f"        {field.name}: " in (kind.__doc__ or ""), field.name
