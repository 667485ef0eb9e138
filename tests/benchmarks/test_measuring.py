"""What the benchmarks of the stream share, and that they run."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from tomoscribe.engine import open_tomogram

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """Import a script as it imports others: from its own folder."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return import_module


def test_everything_runs_once_a_round_in_an_order_that_turns(script):
    order = []
    runs = {name: lambda name=name: order.append(name) or float(len(order)) for name in "abc"}
    figures = script("measuring").interleaved(runs, 4)
    assert "".join(order) == "abcbcacababc"
    assert figures == {"a": [1, 6, 8, 10], "b": [2, 4, 9, 11], "c": [3, 5, 7, 12]}


def test_a_ratio_is_the_median_of_the_rounds(script):
    assert script("measuring").ratio([1, 20, 3], [1, 10, 1]) == 2


@pytest.mark.parametrize("count", [0, 2, 3, 8])
def test_a_busy_backend_labels_every_slot_in_turn_and_ends_idle(script, count):
    class Backend:
        def __init__(self):
            self.at_work, self.submitted, self.most = [], [], 0

        def submit(self, slot):
            assert slot not in self.at_work
            self.at_work.append(slot)
            self.submitted.append(slot)
            self.most = max(self.most, len(self.at_work))

        def wait(self, slot):
            assert slot == self.at_work.pop(0)

    backend = Backend()
    script("measuring").keep_busy(backend, ["a", "b", "c"], count)
    assert "".join(backend.submitted) == "abcabcabc"[:count]
    assert backend.most == min(count, 3)
    assert not backend.at_work


def test_a_table_lines_up(script):
    table = script("measuring").markdown_table(["name", "s"], [["a", "1.50"], ["longer", "10.00"]])
    assert table.splitlines() == [
        "| name   |     s |",
        "| ------ | ----: |",
        "| a      |  1.50 |",
        "| longer | 10.00 |",
    ]


@pytest.mark.parametrize("dtype", ["int8", "int16", "float16", "float32"])
def test_noise_is_a_tomogram_with_noise_in_the_rows_that_were_asked_for(script, tmp_path, dtype):
    path = script("measuring").write_noise(tmp_path / "noise.mrc", (3, 40, 50), dtype, rows=10)
    with open_tomogram(path) as tomogram:
        assert (tomogram.shape, tomogram.dtype, tomogram.warnings) == ((3, 40, 50), np.dtype(dtype), ())
        assert tomogram.geometry.voxel_size == (15, 15, 15)
        values = np.empty(tomogram.shape, np.float32)
        tomogram.read_slices(0, values)
    assert (np.abs(values[:, :10].std(axis=(1, 2)) - 20) < 3).all()
    assert not values[:, 10:].any()


def test_overlap_runs_and_names_its_ratios(script, tmp_path, tiny_bundle, monkeypatch, capsys):
    words = ["--quick", "--model", tiny_bundle, "--backend", "onnxruntime", "--slices", "10", "--folder", tmp_path]
    monkeypatch.setattr(sys, "argv", ["overlap.py", *map(str, words), "--json", str(tmp_path / "overlap.json")])
    script("overlap").main()
    page = json.loads((tmp_path / "overlap.json").read_text(encoding="utf-8"))
    ratios = page["ratios"]
    worst = ratios.pop("end_to_end_over_bare_backend")
    assert set(ratios) == {f"end_to_end_over_bare_backend_{dtype}" for dtype in ("float32", "int16", "float16")}
    assert worst == min(ratios.values()) > 0
    assert page["benchmark"] == "overlap"
    assert page["versions"]["tomoscribe"]
    assert page["machine"]["cores_usable"] >= 1
    assert "commit" in page
    assert capsys.readouterr().out.count("| float") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["overlap.json"]
