"""An hour at the microscope: `tomoscribe watch` under thousands of small tomograms, and everything that goes wrong.

    python benchmarks/soak.py --output benchmarks/results [--json FILE] [--minutes 60] [--every 1]

Tomograms of 8 × 64 × 64 voxels are written as AreTomo3 writes them, slice by slice to the final path, one every
`--every` seconds, in ever new sub-folders, a tenth of them with halves and tilt series beside them. Every twelfth has a
fault: it is truncated, deleted while it is read, renamed over, may not be read, holds NaN, or is no tomogram; one file
grows all the time. Twice the disk of the outputs fills up: once to below what the watcher keeps free, once to the last
byte; that needs root, for the outputs then go to a disk in memory. All the while somebody has the page open.

Memory (VmRSS), open files and threads of the watcher's process are sampled every second. In the end every tomogram has
to be labelled and every fault has to have come out as it should. Ratios:

*memory_end_over_start*, *open_files_end_over_start*: the median of the last fifth over that of the second.
*missed*, *astray*: tomograms that were not labelled, and faults that came out otherwise, over all of their kind.
*done_again*: how often a content was labelled more than once, over all.
*incomplete*: label volumes that cannot be opened, and temporary files that are left, over all.
*labels_p99_over_p50*, *labels_p50_over_segment*: last byte to labels on disk, without what the full disk held up; the
watcher's own time for the labelling is what it is compared with.
*deaths*: how often the watcher had to be started again.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from measuring import argument_parser, markdown_table, save_results
from soak_files import FAULTS, Feeder
from soak_judging import end_over_start, incomplete_outputs, is_settled, latencies, unexpected
from soak_process import Sample, Visitor, WatcherProcess, small_disk

from tomoscribe.engine import default_bundle
from tomoscribe.engine.watch.entry import State
from tomoscribe.engine.watch.ledger import Ledger
from tomoscribe.engine.watch.settings import Places

FAULT_EVERY = 12
BURST_EVERY, BURST = 60, 8
KEEP_FREE = 64 * 10**6
FILE_BYTES = 400_000  # of a tomogram's outputs, its pictures and its row
MARGIN = 128 * 10**6
PATIENCE = 300.0
PERCENTILES = (50, 90, 99)


class Soak:
    """Feeds a watcher, and keeps what was seen.

    Attributes:
        samples: of the watcher's process.
        waiting: how many tomograms waited at the time of each.
        full: when the disk was full, from and until, seconds since the epoch.
    """

    def __init__(
        self, feeder: Feeder, watcher: WatcherProcess, disk: Path | None, *, seconds: float, every: float
    ) -> None:
        """Prepare.

        Args:
            feeder: writes the files.
            watcher: labels them.
            disk: that may be filled, where there is one.
            seconds: for which files are written.
            every: seconds between two files.
        """
        self.samples: list[Sample] = []
        self.waiting: list[int] = []
        self.full: list[tuple[float, float]] = []
        self._feeder, self._watcher, self._disk = feeder, watcher, disk
        self._seconds, self._every = seconds, every

    def run(self) -> None:
        """Feed and sample for as long as was asked for, and then until nothing is left to do."""
        threads = [threading.Thread(target=self._feed)]
        if self._disk is not None:
            threads.append(threading.Thread(target=self._fill, args=(self._disk,)))
        for thread in threads:
            thread.start()
        end = time.monotonic() + self._seconds
        while time.monotonic() < end:
            self._sample()
        self._feeder.stop.set()
        for thread in threads:
            thread.join()
        self._feeder.join()
        end = time.monotonic() + min(PATIENCE, 2 * self._seconds)
        while time.monotonic() < end and not is_settled(self._feeder.files, self._feeder.ledger):
            self._sample()

    def _sample(self) -> None:
        self.samples.append(self._watcher.sample())
        self.waiting.append(self._feeder.ledger.states()[State.WAITING])
        time.sleep(min(1.0, self._seconds / 60))

    def _feed(self) -> None:
        number, due = 0, time.monotonic()
        while not self._feeder.stop.is_set():
            number += 1
            if number == FAULT_EVERY // 2:
                self._feeder.growing()
            elif number % FAULT_EVERY == 0:
                getattr(self._feeder, FAULTS[number // FAULT_EVERY % len(FAULTS)])()
            for _ in range(BURST if number % BURST_EVERY == 0 else 1):
                self._feeder.healthy()
            due = max(due + self._every, time.monotonic())
            self._feeder.stop.wait(due - time.monotonic())

    def _fill(self, disk: Path) -> None:
        """Fill the disk twice, to below what the watcher keeps free and to the last byte, each time for a while."""
        for share, left in ((0.4, KEEP_FREE // 2), (0.25, 0)):
            if self._feeder.stop.wait(share * self._seconds):
                return
            start, filler = time.time(), disk / "filler"
            with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while (free := shutil.disk_usage(disk).free - left) > 0:
                    file.write(bytes(min(free, 1 << 22)))
            self._feeder.stop.wait(min(20.0, self._seconds / 15))
            filler.unlink()
            self.full.append((start, time.time()))


def draw(soak: Soak, seconds: dict[str, list[float]], path: Path) -> None:
    """Draw memory, open files and the queue over time, and the latencies."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    start = soak.samples[0].time
    minutes = [(sample.time - start) / 60 for sample in soak.samples]
    figure, axes = pyplot.subplots(4, figsize=(8, 8), sharex=True, layout="constrained")
    axes[0].plot(minutes, [sample.memory / 1e6 for sample in soak.samples])
    axes[0].set(ylabel="resident memory, MB", ylim=(0, None))
    axes[1].plot(minutes, [sample.open_files for sample in soak.samples], label="open files")
    axes[1].plot(minutes, [sample.threads for sample in soak.samples], label="threads")
    axes[1].set(ylim=(0, None))
    axes[2].plot(minutes, soak.waiting)
    axes[2].set(ylabel="tomograms that wait", ylim=(0, None))
    times = [(written - start) / 60 for written in seconds["written"]]
    for name in ("labels", "preview"):
        axes[3].plot(times, seconds[name], ".", markersize=3, label=name)
    axes[3].set(xlabel="minutes", ylabel="seconds from the last byte", yscale="log")
    axes[3].set_ylim(bottom=0.1)
    axes[3].yaxis.set_major_formatter("{x:g}")
    axes[3].yaxis.set_minor_formatter("")
    for row in axes:
        for number, (begun, ended) in enumerate(soak.full):
            label = None if number else "disk full"
            row.axvspan((begun - start) / 60, (ended - start) / 60, color="tab:red", alpha=0.3, label=label)
    for row in (axes[1], axes[3]):
        row.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small")
    figure.savefig(path, dpi=150)


def report(
    soak: Soak, feeder: Feeder, watcher: WatcherProcess, output: Path, seconds: dict[str, list[float]]
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return the ratios, and everything else."""
    ledger, files = feeder.ledger, feeder.files
    wrong, incomplete = unexpected(files, ledger), incomplete_outputs(files, ledger, output)
    kinds = Counter(file.kind for file in files)
    healthy = [file for file in files if file.kind == "healthy"]
    entries = [entry for file in healthy if (entry := ledger.find(file.path)) is not None]
    percentiles = {
        name: {f"p{share}": float(np.percentile(seconds[name], share)) for share in PERCENTILES}
        for name in ("preview", "labels", "segment")
    }
    ratios = {
        "memory_end_over_start": end_over_start([sample.memory for sample in soak.samples]),
        "open_files_end_over_start": end_over_start([sample.open_files for sample in soak.samples]),
        "missed": sum(file.kind == "healthy" for file in wrong) / len(healthy),
        "astray": sum(file.kind != "healthy" for file in wrong) / (len(files) - len(healthy)),
        "done_again": sum(entry.attempts > 1 for entry in entries) / len(healthy),
        "incomplete": len(incomplete) / len(files),
        "labels_p99_over_p50": percentiles["labels"]["p99"] / percentiles["labels"]["p50"],
        "labels_p50_over_segment": percentiles["labels"]["p50"] / percentiles["segment"]["p50"],
        "deaths": watcher.deaths,
    }
    peak = max(soak.samples, key=lambda sample: sample.memory)
    return ratios, {
        "files": dict(kinds),
        "latency_seconds": percentiles,
        "latency_tomograms": len(seconds["labels"]),
        "wrong": [f"{file.kind}: {file.path}: {ledger.find(file.path)}" for file in wrong[:20]],
        "incomplete_outputs": incomplete[:20],
        "peak_memory_bytes": peak.memory,
        "most_open_files": max(sample.open_files for sample in soak.samples),
        "disk_full": [[round(end - start, 1) for start, end in soak.full]],
        "samples": [
            [round(sample.time - soak.samples[0].time, 1), sample.memory, sample.open_files, sample.threads]
            for sample in soak.samples
        ],
    }


def main() -> None:
    """Soak, print, draw and save."""
    parser = argument_parser(__doc__)
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for soak.png")
    parser.add_argument("--minutes", type=float, help="for which files are written (60; quick: 0.5)")
    parser.add_argument("--every", type=float, help="seconds between two files (1; quick: 0.5)")
    parser.add_argument("--model", type=Path, default=default_bundle(), help="a bundle")
    parser.add_argument("--backend", default="auto", help="that runs the model")
    parser.add_argument("--folder", type=Path, help="where tomograms and outputs lie meanwhile")
    arguments = parser.parse_args()
    seconds = 60 * (arguments.minutes or (0.5 if arguments.quick else 60))
    every = arguments.every or (0.5 if arguments.quick else 1.0)
    with contextlib.ExitStack() as opened:
        work = Path(opened.enter_context(tempfile.TemporaryDirectory(dir=arguments.folder)))
        folder, disk, log = work / "folder", work / "disk", work / "watch.log"
        folder.mkdir()
        disk.mkdir()
        size = 2 * KEEP_FREE + MARGIN + round(1.5 * FILE_BYTES * seconds / every)
        refused = opened.enter_context(small_disk(disk, size))
        places = Places(disk / "labels")
        options = ["--keep-free", str(KEEP_FREE / 1e9), "--model", str(arguments.model), "--backend", arguments.backend]
        watcher = WatcherProcess(folder, places.output, log, options)
        opened.callback(watcher.kill)
        feeder = Feeder(folder, opened.enter_context(Ledger(places.ledger)), threading.Event())
        visitor = Visitor(watcher, every=min(2.0, seconds / 30))
        soak = Soak(feeder, watcher, None if refused else disk, seconds=seconds, every=every)
        soak.run()
        visitor.leave()
        stopping = watcher.stop()
        taken = latencies(feeder.files, feeder.ledger, soak.full, min(60.0, seconds / 20))
        ratios, results = report(soak, feeder, watcher, places.output, taken)
        if arguments.output:
            arguments.output.mkdir(parents=True, exist_ok=True)
            draw(soak, taken, arguments.output / "soak.png")
            if results["wrong"] or results["incomplete_outputs"] or watcher.deaths:
                shutil.copy(log, arguments.output / "soak.log")
    table = [
        [name, *(f"{percentiles[f'p{share}']:.2f}" for share in PERCENTILES)]
        for name, percentiles in results["latency_seconds"].items()
    ]
    print(", ".join(f"{count} {kind}" for kind, count in results["files"].items()))
    print(f"page: {dict(visitor.answers)}, {visitor.events} events; stopped in {stopping:.1f} s")
    print(f"disk: {refused or f'filled {len(soak.full)} times'}\n")
    print(markdown_table(["seconds", *(f"p{share}" for share in PERCENTILES)], table))
    print("\n" + "\n".join(f"{name} {value:.3f}" for name, value in ratios.items()))
    for line in (*results["wrong"], *results["incomplete_outputs"]):
        print(line)
    save_results(
        arguments.json,
        __file__,
        ratios,
        minutes=seconds / 60,
        every=every,
        disk_not_filled=refused,
        page={"answers": dict(visitor.answers), "events": visitor.events},
        stopping_seconds=stopping,
        **results,
    )


if __name__ == "__main__":
    main()
