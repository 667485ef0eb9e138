"""Plans on a real GPU; every other test of them runs without one."""

from __future__ import annotations

import numpy as np
import pytest

from tomoscribe.engine.cuda import Device, load_driver
from tomoscribe.engine.errors import BackendUnavailableError
from tomoscribe.engine.plans import PlanError, PlanFile, PlanShapes
from tomoscribe.engine.plans.loading import load_plan, tensorrt_version
from tomoscribe.export.bundle import export_bundle
from tomoscribe.export.parity import Sample
from tomoscribe.export.tensorrt import build_plan

pytestmark = pytest.mark.gpu

SHAPES = PlanShapes(batch=4, height=64, width=96)


@pytest.fixture(scope="module", autouse=True)
def _gpu():
    try:
        tensorrt_version()
        with Device(load_driver()) as device, device.current():
            yield
    except BackendUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def bundle(_gpu, checkpoint_file, tmp_path_factory):
    return export_bundle(checkpoint_file, tmp_path_factory.mktemp("bundles") / "tiny", allow_drift=True)


@pytest.fixture(scope="module")
def samples():
    slices = np.random.default_rng(0).standard_normal((7, 64, 80)).astype(np.float32)
    return [Sample("noise", slices, np.zeros(7, np.float32), np.ones(7, np.float32))]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_plan_is_built_proved_and_loaded(bundle, samples, tmp_path, precision):
    cache, told = tmp_path / "gpu.timing", []
    path = build_plan(
        bundle, precision, SHAPES, samples, timing_cache=cache, progress=lambda *phase: told.append(phase)
    )
    file = PlanFile.read(path)
    assert load_plan(path, file.identity).file == file
    assert file.facts["parity"]["passed"]
    assert file.facts["convolutions"].keys() == {precision}
    assert cache.stat().st_size > 0
    assert told[-1][1] > 0


def test_bytes_that_are_no_plan_are_refused(bundle, samples, tmp_path):
    path = build_plan(bundle, "fp16", SHAPES, samples, timing_cache=tmp_path / "gpu.timing")
    identity = PlanFile.read(path).identity
    PlanFile.write(path, b"no plan" * 1000, identity, {})
    with pytest.raises(PlanError, match="cannot load it"):
        load_plan(path, identity)
