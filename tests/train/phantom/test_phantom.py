from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from tomoscribe.train.phantom import (
    PhantomParameters,
    SampleParameters,
    make_phantom,
    membranes,
    microtubules,
    particles,
)
from tomoscribe.train.phantom.carbon import add_carbon_edge
from tomoscribe.train.phantom.scene import Scene
from tomoscribe.train.phantom.shapes import Warp, random_rotation

NOTHING = SampleParameters(
    thickness=1.0,
    thickness_variation=0.0,
    microtubules=0,
    ribosomes=0,
    single_membranes=0,
    single_sheets=0,
    double_membranes=0,
    double_sheets=0,
    carbon_edge=0.0,
    crowding=0.0,
    filaments=0,
    gold=0,
)


def scene(shape=(40, 96, 96), voxel_size=10.0, seed=0) -> Scene:
    return Scene(shape, voxel_size, np.random.default_rng(seed))


def test_a_phantom_is_the_same_bit_for_bit_for_the_same_seed():
    parameters = PhantomParameters(shape=(16, 96, 96), voxel_size=15.0, seed=3)
    first, second = make_phantom(parameters), make_phantom(parameters)
    np.testing.assert_array_equal(first.intensity, second.intensity)
    np.testing.assert_array_equal(first.labels, second.labels)
    assert np.any(make_phantom(replace(parameters, seed=4)).labels != first.labels)


@settings(max_examples=8)
@given(
    st.tuples(st.integers(8, 24), st.integers(8, 70), st.integers(8, 70)),
    st.floats(10, 20),
    st.integers(0, 1000),
)
def test_any_size_and_voxel_size_gives_a_finite_phantom_of_that_size(shape, voxel_size, seed):
    phantom = make_phantom(PhantomParameters(shape=shape, voxel_size=voxel_size, seed=seed))
    assert phantom.intensity.shape == phantom.labels.shape == shape
    assert (phantom.intensity.dtype, phantom.labels.dtype) == (np.float32, np.uint8)
    assert np.isfinite(phantom.intensity).all()
    assert phantom.labels.max() <= 5
    assert phantom.intensity.mean(dtype=float) == pytest.approx(0, abs=1e-3)
    assert phantom.intensity.std(dtype=float) == pytest.approx(1, abs=1e-3)


def test_all_five_features_are_there_and_dark():
    phantom = make_phantom(PhantomParameters(shape=(48, 320, 320), seed=1))
    background = phantom.intensity[phantom.labels == 0].mean()
    for number in range(1, 6):
        chosen = phantom.labels == number
        assert chosen.sum() > 500, number
        # The gap of a double membrane is as light as the background, but never the label as a whole.
        assert phantom.intensity[chosen].mean() < background, number


def test_a_sample_is_cut_at_its_surfaces():
    sample = SampleParameters(thickness=0.5, thickness_variation=0.0, carbon_edge=0.0)
    labels = make_phantom(PhantomParameters(shape=(40, 128, 128), sample=sample, seed=2)).labels
    assert not labels[:10].any()
    assert not labels[30:].any()
    assert labels[10:30].any()


def test_a_microtubule_has_13_protofilaments_of_40_angstrom_monomers():
    target = scene((60, 60, 100), 5.0)
    centre = target.size / 2
    axis = microtubules._Axis(centre, np.eye(3, dtype=np.float32), 0.0, 400.0)
    assert microtubules._paint_microtubule(target, axis)
    # Cylindrical coordinates by interpolation: along x, around it, at the radius of the protofilaments.
    turns = np.linspace(0, 2 * np.pi, 360, endpoint=False)
    along = np.arange(100.0, 400.0, 4.0)
    radius = 112.0 / 5
    middle = centre[::-1] / 5 - 0.5
    points = np.stack(
        np.broadcast_arrays(
            middle[0] + radius * np.sin(turns)[None, :],
            middle[1] + radius * np.cos(turns)[None, :],
            along[:, None] / 5 - 0.5,
        )
    )
    unrolled = scipy.ndimage.map_coordinates(target.potential, points, order=1)
    power = np.abs(np.fft.fft2(unrolled - unrolled.mean())) ** 2
    around = power[0, 1:180]
    assert np.argmax(around) + 1 == 13
    axial = power[1 : len(along) // 2].sum(axis=1)
    period = len(along) * 4.0 / (np.argmax(axial) + 1)
    assert period == pytest.approx(40, rel=0.1)


def test_a_microtubule_is_labelled_with_its_lumen_whichever_way_it_points():
    for seed in range(4):
        target = scene((80, 80, 80), 13.0)
        frame = random_rotation(np.random.default_rng(seed))
        microtubules._paint_microtubule(target, microtubules._Axis(target.size / 2, frame, 0.0, 300.0))
        points = np.argwhere(target.labels == microtubules.MICROTUBULE)
        assert len(points) * 13.0**3 == pytest.approx(np.pi * 130**2 * 600, rel=0.03)
        _, _, axes = np.linalg.svd(points - points.mean(0), full_matrices=False)
        assert abs(axes[0][::-1] @ frame[0]) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(("in_plane", "steepest"), [(1.0, 35), (0.0, 90)])
def test_microtubules_lie_in_the_plane_or_point_anywhere(in_plane, steepest):
    target = scene()
    elevations = [np.rad2deg(np.arcsin(abs(microtubules._draw_axis(target, in_plane).frame[0][2]))) for _ in range(200)]
    assert steepest - 25 < max(elevations) <= steepest
    # Even over the sphere, half of all directions are steeper than 30°; of those in the plane hardly any is.
    assert np.mean(np.array(elevations) > 30) == pytest.approx(0.5 if in_plane == 0 else 0.0, abs=0.1)


def test_a_bilayer_has_two_leaflets_38_angstrom_apart():
    distance = np.arange(-60, 61, dtype=np.float32)
    profile = membranes._bilayer(distance, 1.0)
    peaks = [d for d, a, b, c in zip(distance[1:-1], profile, profile[1:], profile[2:], strict=False) if a < b > c]
    assert peaks == [-19, 19]
    assert profile[60] < 0.3 * profile.max()


@pytest.mark.parametrize("kind", ["closed", "sheet"])
def test_a_distance_grows_by_an_angstrom_an_angstrom_at_the_surface(kind):
    generator = np.random.default_rng(3)
    target = scene((60, 120, 120), 10.0)
    warp = Warp.draw(generator, length=800.0, amplitude=90.0)
    distance = {
        "closed": membranes._Closed(
            target.size / 2, np.array([450, 350, 400], np.float32), random_rotation(generator), warp
        ),
        "sheet": membranes._Sheet(np.array([0.6, 0.8, 0.0], np.float32), 800.0, warp),
    }[kind]
    box = target.whole()
    values = distance(box.z, box.y, box.x)
    steepness = np.sqrt(sum(part**2 for part in np.gradient(values, 10.0)))
    at_surface = steepness[np.abs(values) < 15]
    assert len(at_surface) > 1000
    np.testing.assert_allclose(np.percentile(at_surface, [2, 98]), 1, atol=0.1)


def test_a_double_membrane_is_labelled_from_bilayer_to_bilayer_with_its_gap():
    target = scene((40, 200, 200), 10.0, seed=1)
    spacing = 200.0
    membranes._add_closed(target, (700, 600, 900), spacing, membranes.DOUBLE_MEMBRANE, lumen=0.5)
    labelled = target.labels == membranes.DOUBLE_MEMBRANE
    thickness = np.percentile(scipy.ndimage.distance_transform_edt(labelled)[labelled], 99) * 2 * 10.0
    assert thickness == pytest.approx(spacing + 60, rel=0.2)
    # Potential inside the label has two dark bands with light between them: bimodal across the label.
    band = target.potential[labelled]
    assert (band < 0.5).mean() > 0.2
    assert (band > 1.5).mean() > 0.15


def test_a_single_membrane_is_thin():
    target = scene((40, 200, 200), 10.0, seed=1)
    membranes._add_closed(target, (600, 600, 600), None, membranes.SINGLE_MEMBRANE, lumen=0.0)
    row = target.labels[20] == membranes.SINGLE_MEMBRANE
    assert row.any()
    assert scipy.ndimage.distance_transform_edt(row).max() * 2 * 10.0 <= 100


def test_a_ribosome_has_the_size_of_a_ribosome():
    potential, body = particles._render_ribosome(particles._ribosome_domains(), 10.0)
    volume = body.sum() * 10.0**3
    assert 2.5e6 < volume < 6e6
    extent = np.ptp(np.argwhere(body), axis=0) * 10.0
    assert 230 < extent.max() < 340
    assert potential[body].mean() > 10 * potential[~body].mean()
    assert scipy.ndimage.label(body)[1] == 1


def test_ribosomes_come_in_the_number_asked_for_and_never_overlap():
    target = scene((60, 200, 200), 13.0, seed=2)
    particles.add_ribosomes(target, 25)
    one = particles._render_ribosome(particles._ribosome_domains(), 13.0)[1].sum()
    total = (target.labels == particles.RIBOSOME).sum()
    # Those at the volume's faces are cut.
    assert 0.6 * 25 * one < total < 1.1 * 25 * one


def test_a_ribosome_does_not_enter_what_is_taken():
    target = scene((40, 60, 60), 13.0)
    potential, body = particles._render_ribosome(particles._ribosome_domains(), 13.0)
    position = target.size / 2
    assert particles._stamp(target, position, potential, body, particles.RIBOSOME)
    before = target.potential.copy()
    assert not particles._stamp(target, position + np.float32(100), potential, body, particles.RIBOSOME)
    np.testing.assert_array_equal(target.potential, before)


def test_the_labelled_carbon_is_a_band_along_the_rim():
    target = scene((40, 200, 200), 15.0, seed=4)
    add_carbon_edge(target)
    edge = target.labels == 5
    assert edge.any()
    level = np.argmax(edge.sum(axis=(1, 2)))
    film = target.occupied[level]
    width = scipy.ndimage.distance_transform_edt(edge[level]).max() * 2 * 15.0
    assert width == pytest.approx(300, abs=90)
    assert film.sum() > edge[level].sum()
    assert target.potential[edge].mean() == pytest.approx(4.5, rel=0.15)


def test_an_empty_sample_has_no_labels():
    phantom = make_phantom(PhantomParameters(shape=(16, 64, 64), sample=NOTHING))
    assert not phantom.labels.any()
