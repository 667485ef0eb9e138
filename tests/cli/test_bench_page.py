"""How a benchmark and a comparison are printed, of figures that are known."""

from __future__ import annotations

import re
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from tomoscribe.cli.bench_page import bench_page, milliseconds
from tomoscribe.cli.page import print_page
from tomoscribe.engine import Bundle
from tomoscribe.engine.latency.configuration import Configuration, Effort
from tomoscribe.engine.latency.measurement import Latency
from tomoscribe.engine.latency.record import Measurement, Record
from tomoscribe.engine.latency.start import STAGES, ColdStart
from tomoscribe.engine.latency.statistics import Figure
from tomoscribe.engine.latency.volume import VolumeTimes

MS = 1_000_000


def latency(
    backend="openvino", precision="int8", device="cpu", tile=(1024, 1024), batch=1, streams=1, times=(10.0,) * 10
):
    times = (np.array(times) * MS).astype(np.int64).reshape(-1, 1)
    answered = times.cumsum(axis=0)
    submitted = answered - times
    configuration = Configuration(backend, precision, device, tile, batch, streams)
    return Latency(configuration, backend, 1, 0, submitted, submitted + MS // 1000, answered)


@pytest.fixture
def record(tiny_bundle):
    def record(*rows, **entries):
        return replace(Record.of(Bundle.load(tiny_bundle), Effort(), rows), **entries)

    return record


@pytest.fixture
def printed(record, capsys):
    def printed(*results):
        print_page(bench_page(record(), results))
        return [re.sub(" {2,}", " | ", line) for line in capsys.readouterr().out.splitlines()]

    return printed


def test_what_is_the_same_stands_above_and_what_varies_in_columns(printed):
    lines = printed(latency(streams=1), latency(streams=2, times=[20.0] * 10))
    heading = next(number for number, line in enumerate(lines) if line.startswith("latency"))
    assert lines[heading].endswith("of 10 or more, and throughput; backend openvino int8, tile 1024x1024, batch 1")
    assert lines[heading + 1 : heading + 4] == [
        "streams | p50 | p90 | p95 | p99 | CV | Mvoxel/s",
        "1 | 10.0 | 10.0 | 10.0 | 10.0 | 0.0% | 104.86",
        "2 | 20.0 | 20.0 | 20.0 | 20.0 | 0.0% | 52.43",
    ]


def test_a_gpu_is_named_and_told_from_the_cpu(record, capsys):
    results = [latency(), latency("tensorrt", "fp16", "0")]
    machine = record().machine | {"gpus": {"0": "NVIDIA H200"}}
    print_page(bench_page(record(machine=machine), results))
    out = capsys.readouterr().out
    assert re.search(r"^GPU 0 +NVIDIA H200$", out, re.MULTILINE)
    assert re.search(r"^openvino int8 +10\.0", out, re.MULTILINE)
    assert re.search(r"^tensorrt fp16 on GPU 0 +10\.0", out, re.MULTILINE)


def test_every_percentile_has_its_column(printed):
    lines = printed(latency(times=np.arange(1.0, 101.0)))
    assert "50.5 | 90.0 | 95.0 | 99.0 | 57.2% | 20.76" in lines


@pytest.mark.parametrize("varied", [3, 4])
def test_where_much_varies_each_backend_has_a_table(printed, varied):
    rows = [
        latency("onnxruntime" if one else "openvino", tile=(512, 512 + 512 * two), streams=1 + three, batch=1 + four)
        for one in (0, 1)
        for two in (0, 1)
        for three in (0, 1)
        for four in range(varied - 2)
    ]
    lines = printed(*rows)
    assert [line.split("backend ")[1].split(",")[0] for line in lines if line.startswith("latency")] == [
        "openvino int8",
        "onnxruntime int8",
    ]


@pytest.mark.parametrize("rows", ["two backends", "everything"])
def test_tables_fit_80_columns(record, rows):
    if rows == "two backends":
        results = [latency("onnxruntime", times=[1234.0, 9876.0] * 5), latency("openvino", tile=(512, 512))]
    else:
        results = [
            latency(backend, tile=tile, batch=batch, streams=streams, times=[1234.0, 9876.0] * 5)
            for backend in ("openvino", "onnxruntime")
            for tile in ((1024, 1024), (512, 512))
            for batch in (1, 16)
            for streams in (1, 16)
        ]
    for backend, size in (("onnxruntime", 1024), ("openvino", 512)):
        results.append(VolumeTimes(backend, "int8", "cpu", (300, size, size), "", (12.3, 10.0), (1000.0, 900.0)))
        results.append(ColdStart(backend, "int8", "cpu", (size, size), (dict.fromkeys(STAGES, 1234.5),) * 2))
    out = StringIO()
    console = Console(file=out, width=80, highlight=False)
    tables = [part for part in bench_page(record(), results) if hasattr(part, "add_row")][1:]
    for table in tables:
        console.print(table)
    # What is folded has a line without figures.
    assert all(re.search(r"\d[\d.]*%? *$|(Mvoxel/s|±) *$", line) for line in out.getvalue().splitlines())


def test_latencies_that_vary_are_told(printed):
    (warning,) = (
        line for line in printed(latency(), latency(streams=2, times=[10.0, 11.0] * 5)) if line.startswith("warning")
    )
    # 10 and 11: standard deviation 0.5, mean 10.5.
    assert warning.startswith("warning: the latencies of 1 of 2 rows vary by more than 2.5%")
    assert "up to 4.8%" in warning


def test_latencies_that_hardly_vary_are_not(printed):
    assert not [line for line in printed(latency(times=[10.0, 10.4] * 5)) if line.startswith("warning")]


def test_a_pace_that_submitting_sets_is_told(printed):
    found = latency()
    lines = printed(replace(found, enqueued=found.answered - MS))
    assert [line for line in lines if line.startswith("warning: in 1 of 1 rows submitting")]


def test_volumes_and_cold_starts_have_their_medians(printed):
    lines = printed(
        VolumeTimes("openvino", "int8", "cpu", (10, 100, 1000), "", (0.2, 0.1, 0.4), (2.0, 1.0, 4.0)),
        ColdStart("openvino", "int8", "cpu", (64, 64), (dict(zip(STAGES, (1.0, 20.0, 300.0, 4000.0), strict=True)),)),
    )
    assert any(line.strip(" |").startswith("200 | 37.8%") for line in lines)
    assert "a volume from file to files, the model being loaded; backend openvino int8, volume 1000 x 100 x 10" in lines
    assert lines[-1].strip(" |") == "1.00 | 20.0 | 300 | 4000 | 4321 | –"


@pytest.mark.parametrize(
    ("value", "text"), [(0.0123, "0.012"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123"), (1234.5, "1234")]
)
def test_times_have_three_digits_or_more(value, text):
    assert milliseconds(value) == text


def row(backend="openvino", kind="latency", **figures):
    configuration = {"backend": backend, "device": "cpu", "tile": [512, 768]}
    return Measurement(kind, configuration, {name: Figure(*figure) for name, figure in figures.items()})


@pytest.fixture
def compared(tomoscribe, record, tmp_path):
    """Run `tomoscribe bench --compare` on two lists of rows."""

    def compared(before, after, *options, **entries):
        record(*before).write(tmp_path / "a.json")
        record(*after, **entries).write(tmp_path / "b.json")
        status, out, err = tomoscribe("bench", "--compare", tmp_path / "a.json", tmp_path / "b.json", *options)
        assert err == ""
        return status, [re.sub(" {2,}", " | ", line.strip()) for line in out.splitlines()]

    return compared


def test_what_is_slower_makes_the_status_1(compared):
    status, lines = compared([row(x_ms=(10.0, 0.0, 5))], [row(x_ms=(11.0, 0.0, 5))])
    assert status == 1
    assert "latency; backend openvino, device cpu, tile 512x768" in lines
    assert "x ms | 10 | 11 | 1.100 | 0.0% | slower" in lines
    assert lines[-1] == "1 figure: 1 slower; up to 5.0% is the same"


@pytest.mark.parametrize(("after", "options"), [((9.0, 0.0, 5), ()), ((11.0, 0.0, 5), ("--tolerance", 12))])
def test_what_is_not_makes_it_0(compared, after, options):
    assert compared([row(x_ms=(10.0, 0.0, 5))], [row(x_ms=after)], *options)[0] == 0


def test_noise_is_shown(compared):
    status, lines = compared(
        [row(x_ms=(10.0, 0.1, 5), y_ms=(1.0, None, 1))], [row(x_ms=(12.0, 0.1, 5), y_ms=(2.0, None, 1))]
    )
    assert status == 0
    assert "x ms | 10 | 12 | 1.200 | 47.5% | within noise" in lines
    assert "y ms | 1 | 2 | 2.000 | – | measured once" in lines


def test_what_only_one_has_and_how_they_differ_is_told(compared):
    rows = [row(name, x_ms=(1.0, 0.0, 5)) for name in "abc"]
    _, lines = compared(rows, [*rows[:1], row("a", "volume", x_ms=(1.0, 0.0, 5))], versions={"python": "2"})
    assert "configurations that were measured only before: 2 of latency" in lines
    assert "configurations that were measured only after: 1 of volume" in lines
    assert any(line.startswith("warning: versions differ: ") for line in lines)


def test_files_without_a_common_row_are_refused(tomoscribe, record, tmp_path):
    for name in "ab":
        record(row(name, x_ms=(1.0, 0.0, 5))).write(tmp_path / name)
    status, out, err = tomoscribe("bench", "--compare", tmp_path / "a", tmp_path / "b")
    assert (status, out) == (2, "")
    assert "that both files have, found none" in err


@pytest.mark.parametrize("words", [("bundle",), ("--json", "c.json")])
def test_comparing_measures_nothing(tomoscribe, words):
    status, out, err = tomoscribe("bench", *words, "--compare", "a", "b")
    assert (status, out) == (2, "")
    assert "nothing is measured" in err
