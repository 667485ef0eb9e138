"""Records that are written, read and compared."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import t, ttest_ind

from tomoscribe.engine import Bundle, ParameterError
from tomoscribe.engine.latency.comparison import Verdict, compare
from tomoscribe.engine.latency.configuration import Effort
from tomoscribe.engine.latency.record import Measurement, Record
from tomoscribe.engine.latency.start import STAGES, ColdStart
from tomoscribe.engine.latency.statistics import Figure
from tomoscribe.engine.latency.volume import VolumeTimes

VOLUME = VolumeTimes("openvino", "int8", "cpu", (4, 64, 64), "OpenVINO", (0.1, 0.2), (1.0, 1.1))
START = ColdStart("openvino", "int8", "cpu", (64, 64), (dict.fromkeys(STAGES, 5.0),))


def row(configuration="a", device="cpu", **figures):
    return Measurement(
        "latency",
        {"backend": configuration, "device": device},
        {name: Figure(*figure) for name, figure in figures.items()},
    )


@pytest.fixture
def record(tiny_bundle, monkeypatch):
    monkeypatch.setattr("tomoscribe.engine.latency.record.gpu_names", lambda numbers: dict.fromkeys(numbers, "NVIDIA"))

    def record(*rows, **entries):
        return replace(Record.of(Bundle.load(tiny_bundle), Effort(), rows), **entries)

    return record


@pytest.fixture
def verdict(record):
    """The verdict on one figure, given as (value, error, samples) before and after."""

    def verdict(before, after, tolerance=0.05, name="x_ms"):
        found = compare(record(row(**{name: before})), record(row(**{name: after})), tolerance)
        return found.pairs[0].changes[0].verdict

    return verdict


def test_a_record_is_read_as_it_was_written(record, tmp_path):
    written = record(*map(Measurement.of, (VOLUME, START)))
    written.write(tmp_path / "a.json")
    read = Record.read(tmp_path / "a.json")
    assert read == written
    assert read.model["sha256"].keys() == {"fp32"}
    assert {"processor", "cores_usable", "memory_bytes"} <= read.machine.keys()
    assert {"python", "tomoscribe", "onnxruntime"} <= read.versions.keys()
    page = json.loads((tmp_path / "a.json").read_text())
    assert page["measurements"][0]["configuration"]["slices"] == 4
    assert page["measurements"][0]["whole_s"] == [1.0, 1.1]
    assert page["measurements"][1]["figures"]["total_ms"] == {"value": 20.0, "standard_error": None, "samples": 1}
    assert page["effort"] == {"warm_up_ms": 200.0, "duration_s": 3.0, "runs": 10}


def test_weights_that_no_backend_reads_are_not_the_model(record, tiny_bundle):
    bundle = Bundle.load(tiny_bundle)
    trained = replace(bundle, artifacts={**bundle.artifacts, "checkpoint": bundle.artifacts["fp32"]})
    assert Record.of(trained, Effort(), ()).model == Record.of(bundle, Effort(), ()).model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda page: "not JSON", "found none"),
        (lambda page: "[]", "another kind"),
        (lambda page: json.dumps(page | {"format": "other"}), "another kind"),
        (lambda page: json.dumps(page | {"format_version": 2}), "format version 1, found 2"),
        (lambda page: json.dumps({key: page[key] for key in page if key != "machine"}), "missing .*machine"),
        (lambda page: json.dumps(page | {"measurements": [3]}), "another kind"),
        (lambda page: json.dumps(page).replace('"value": 20.0', '"value": 0'), "total_ms is 0"),
        (lambda page: json.dumps(page).replace('"samples": 1', '"samples": 4'), "4 samples"),
    ],
)
def test_a_file_that_is_no_record_is_refused(record, tmp_path, change, message):
    path = tmp_path / "a.json"
    record(Measurement.of(START)).write(path)
    path.write_text(change(json.loads(path.read_text())))
    with pytest.raises(ParameterError, match=f"a.json.*{message}"):
        Record.read(path)


def test_no_file_is_refused(tmp_path):
    with pytest.raises(ParameterError, match="No such file"):
        Record.read(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("after", "expected"),
    [(1.04, "same"), (1.06, "slower"), (0.96, "same"), (0.94, "faster"), (1.05 - 1e-9, "same")],
)
def test_without_noise_the_tolerance_decides(verdict, after, expected):
    assert verdict((1.0, 0.0, 5), (after, 0.0, 5)) == expected
    # What is more a second is less a query.
    assert verdict((after, 0.0, 5), (1.0, 0.0, 5), name="x_per_second") == expected


def test_a_figure_and_its_inverse_have_one_verdict(verdict):
    assert verdict((1.0, 0.0, 5), (2.0, 0.0, 5), 0.6) == "slower"
    assert verdict((2.0, 0.0, 5), (1.0, 0.0, 5), 0.6) == "faster"
    assert verdict((2.0, 0.0, 5), (1.0, 0.0, 5), 1.1) == "same"


def test_noise_is_the_confidence_interval_of_welch(record):
    random = np.random.default_rng(0)
    samples = random.normal(100, 3, 5), random.normal(110, 8, 9)
    before, after = (row(x_ms=(1.0, s.std(ddof=1) / len(s) ** 0.5, len(s))) for s in samples)
    change = compare(record(before), record(after)).pairs[0].changes[0]
    interval = ttest_ind(*samples, equal_var=False).confidence_interval(0.99)
    assert change.noise == pytest.approx((interval.high - interval.low) / 2)


def test_more_than_the_tolerance_may_be_noise(verdict):
    # Both known to 1 %, by five samples each: 8 degrees of freedom.
    noise = t.ppf(0.995, 8) * 0.01 * 2**0.5
    assert verdict((1.0, 0.01, 5), (1.05 + 0.9 * noise, 0.01, 5)) == "within noise"
    assert verdict((1.0, 0.01, 5), (1.05 + 1.1 * noise, 0.01, 5)) == "slower"
    assert verdict((1.05 + 1.1 * noise, 0.01, 5), (1.0, 0.01, 5)) == "faster"


def test_what_was_measured_once_is_not_judged(verdict):
    assert verdict((1.0, 0.01, 5), (2.0, None, 1)) == "measured once"
    assert verdict((1.0, None, 1), (1.01, 0.01, 5)) == "same"


def test_rows_are_paired_by_their_configuration(record):
    figure = {"x_ms": (1.0, 0.0, 5)}
    before = record(row("a", **figure), row("b", **figure), row("c", **figure))
    after = record(row("c", x_ms=(3.0, 0.0, 5)), row("d", **figure), row("a", y_ms=(1.0, 0.0, 5), **figure))
    found = compare(before, after)
    assert [pair.configuration["backend"] for pair in found.pairs] == ["a", "c"]
    assert [[change.name for change in pair.changes] for pair in found.pairs] == [["x_ms"], ["x_ms"]]
    assert found.pairs[1].changes[0].ratio == 3
    assert [row.configuration["backend"] for row in found.only_before] == ["b"]
    assert [row.configuration["backend"] for row in found.only_after] == ["d"]
    assert {verdict: found.count(verdict) for verdict in (Verdict.SLOWER, Verdict.SAME)} == {"slower": 1, "same": 1}


def test_rows_of_another_kind_are_no_pair(record):
    other = replace(row("a", x_ms=(1.0, 0.0, 5)), kind="volume")
    with pytest.raises(ParameterError, match="that both files have, found none"):
        compare(record(row("a", x_ms=(1.0, 0.0, 5))), record(other))


def test_a_tolerance_below_0_is_refused(record):
    with pytest.raises(ParameterError, match="tolerance"):
        compare(record(row()), record(row()), -0.01)


def test_what_else_differs_is_told(record):
    one = record(row())
    assert compare(one, record(row())).warnings == ()
    machine = one.machine | {"processor": "another", "cores_usable": 64}
    model = {"name": one.model["name"], "sha256": {"fp32": "0" * 64}}
    versions = {key: value for key, value in one.versions.items() if key != "numpy"} | {"tomoscribe": "9"}
    warnings = compare(one, record(row(), machine=machine, model=model, versions=versions)).warnings
    assert len(warnings) == 3
    assert "another, 64 cores" in warnings[0]
    assert "tiny with other weights" in warnings[1]
    assert f"numpy {one.versions['numpy']} → none, tomoscribe {one.versions['tomoscribe']} → 9" in warnings[2]
    assert "tiny and big" in compare(one, record(row(), model=model | {"name": "big"})).warnings[0]


def test_another_device_is_another_configuration(record):
    figure = {"x_ms": (1.0, 0.0, 5)}
    before = record(row(**figure), row(device="0", **figure), machine={"gpus": {"0": "NVIDIA H200"}})
    after = record(row(device="0", **figure), row(device="1", **figure), machine={"gpus": {"0": "NVIDIA H200"}})
    found = compare(before, after)
    assert [pair.configuration["device"] for pair in found.pairs] == ["0"]
    assert [row.configuration["device"] for row in found.only_before] == ["cpu"]
    assert [row.configuration["device"] for row in found.only_after] == ["1"]
    with pytest.raises(ParameterError, match=r"backend, precision, device, .* that both files have, found none"):
        compare(record(row(**figure)), record(row(device="0", **figure), machine={}))


def test_a_gpu_of_another_kind_is_told(record):
    figure = {"x_ms": (1.0, 0.0, 5)}
    machines = [{"gpus": {"0": "NVIDIA H200", "1": "NVIDIA L4"}}, {"gpus": {"0": "NVIDIA A100"}}, {}]
    records = [record(row(device="0", **figure), machine=machine) for machine in machines]
    (warning,) = compare(*records[:2]).warnings
    assert warning == "GPU 0 differs (NVIDIA H200; NVIDIA A100): a difference in speed may be its own"
    assert compare(records[0], records[2]).warnings == compare(records[1], records[1]).warnings == ()


def test_a_record_names_the_gpus_that_were_measured(tiny_bundle, monkeypatch):
    monkeypatch.setattr(
        "tomoscribe.engine.latency.record.gpu_names", lambda numbers: {number: f"GPU-{number}" for number in numbers}
    )
    rows = [row(device=device, x_ms=(1.0, 0.0, 5)) for device in ("1,0", "cpu", "10")]
    assert Record.of(Bundle.load(tiny_bundle), Effort(), rows).machine["gpus"] == {
        "0": "GPU-0",
        "1": "GPU-1",
        "10": "GPU-10",
    }


def test_where_no_gpu_was_measured_none_is_asked_for(record, monkeypatch):
    monkeypatch.delattr("tomoscribe.engine.latency.record.gpu_names")
    assert record(row()).machine["gpus"] == {}


def test_a_record_from_before_there_were_gpus_is_of_the_cpu(record, tmp_path):
    path = tmp_path / "a.json"
    record(row(x_ms=(1.0, 0.0, 5))).write(path)
    page = json.loads(path.read_text())
    del page["machine"]["gpus"], page["measurements"][0]["configuration"]["device"]
    path.write_text(json.dumps(page))
    read = Record.read(path)
    assert read.measurements[0].configuration["device"] == "cpu"
    assert compare(read, record(row(x_ms=(1.0, 0.0, 5)))).warnings == ()
