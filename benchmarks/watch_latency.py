"""How soon `tomoscribe watch` has the labels of a reconstruction on the disk, and the first picture on its page.

    python benchmarks/watch_latency.py --json benchmarks/results/watch_latency.json [--rounds 5] [--shape 200x512x512]

In every round a tomogram of float32 is written into a watched folder as AreTomo3 writes it, slice by slice to its final
path with an extended header of 32 floats a section, `--pause` seconds between two slices. Time counts from its last
byte:

*picture*: until somebody who has the page open, and hears over server-sent events that there is a preview, has its two
images. The aim is 2 s.
*labels*: until the label volume, the last of the outputs, has its name. It is compared with *segment*: the same
tomogram, labelled in this process by a model that is as warm as the watcher's, in turns with it. The aim is one second
more.

One round that does not count comes before, for backends make themselves ready for the slices' size in it. The watcher
goes on beside `segment`, which is what it is for: with nothing to do it takes next to nothing. The tomogram is noise:
what is in it does not change the time.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from measuring import argument_parser, markdown_table, save_results
from numpy.typing import NDArray
from soak_files import write_as_aretomo3
from soak_process import WatcherProcess

from tomoscribe.engine import Segmenter, default_bundle
from tomoscribe.engine.outputs import OutputPaths
from tomoscribe.engine.watch.ledger import Ledger
from tomoscribe.engine.watch.settings import Places

PICTURE_AIM, LABELS_AIM = 2.0, 1.0
PATIENCE = 1800.0


@dataclass(frozen=True)
class Round:
    """Seconds of one round, from the last byte on but for `segment`.

    Attributes:
        complete: until the watcher took the file for complete.
        picture: until both images of the preview were fetched.
        labels: until the label volume was there.
        segment: how long `segment` takes for the same file.
    """

    complete: float
    picture: float
    labels: float
    segment: float


class Viewer:
    """Somebody who has the page open, and looks at the first picture of a tomogram as soon as there is one.

    Args:
        address: of the page.
        path: of the tomogram, in the watched folder.
    """

    def __init__(self, address: str, path: str) -> None:
        self.seen: float | None = None
        self._address = address
        self._path = path
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        if not self._listening.wait(PATIENCE):
            raise TimeoutError(f"{address}: expected server-sent events, found none")

    def wait(self) -> float:
        """Return when the pictures were there, seconds since the epoch.

        Raises:
            TimeoutError: they were not.
        """
        self._thread.join(PATIENCE)
        if self.seen is None:
            raise TimeoutError(f"{self._path}: expected a picture, found none")
        return self.seen

    def _look(self) -> None:
        with urllib.request.urlopen(f"{self._address}events", timeout=PATIENCE) as stream:  # noqa: S310
            for kind, data in _events(stream, self._listening):
                if kind == "tomogram" and data["path"] == self._path and data["previewed"] is not None:
                    for name in ("grey.webp", "labels.png"):
                        self._fetch(f"api/tomograms/{data['number']}/preview/{name}")
                    self.seen = time.time()
                    return

    def _fetch(self, path: str) -> None:
        with urllib.request.urlopen(self._address + path, timeout=PATIENCE) as answer:  # noqa: S310
            answer.read()


def _events(stream: Any, listening: threading.Event) -> Iterator[tuple[str, dict[str, Any]]]:  # noqa: ANN401 - a response
    """Give the server-sent events of a stream: https://html.spec.whatwg.org/multipage/server-sent-events.html."""
    kind, data = "message", ""
    for line in stream:
        listening.set()
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name == "event":
            kind = value
        elif name == "data":
            data += value
        elif not name and data:
            yield kind, json.loads(data)
            kind, data = "message", ""


def measure(arguments: argparse.Namespace, folder: Path) -> tuple[list[Round], str]:
    """Return the rounds that count, and what ran the model."""
    watched, output = folder / "watched", folder / "labels"
    watched.mkdir()
    values = np.random.default_rng(0).normal(0, 20, arguments.shape).astype(np.float32)
    options = ["--model", str(arguments.model), "--backend", arguments.backend]
    watcher = WatcherProcess(watched, output, folder / "watch.log", options)
    rounds: list[Round] = []
    try:
        with (
            Segmenter(arguments.model, backend=arguments.backend) as segmenter,
            Ledger(Places(output).ledger) as ledger,
        ):
            rounds.extend(
                _measure_round(watched / f"{number}.mrc", values, arguments.pause, watcher, segmenter, ledger)
                for number in range(arguments.rounds + 1)
            )
            backend = segmenter.backend
        watcher.stop()
    finally:
        watcher.kill()
    return rounds[1:], backend


def _measure_round(
    path: Path,
    values: NDArray[np.float32],
    pause: float,
    watcher: WatcherProcess,
    segmenter: Segmenter,
    ledger: Ledger,
) -> Round:
    output = path.parent.with_name("labels")
    viewer = Viewer(watcher.address(), path.name)
    write_as_aretomo3(path, values, pause)
    written = time.time()
    labels = OutputPaths.of(path, output).labels
    while not labels.exists():
        if time.time() > written + PATIENCE:
            raise TimeoutError(f"{labels}: expected labels, found none")
        time.sleep(0.005)
    labelled = time.time()
    # What comes after the labels, such as the count of objects, is not to slow `segment` down.
    while (entry := ledger.find(path.name)) is None or entry.objects is None or entry.complete is None:
        time.sleep(0.1)
    start = time.perf_counter()
    segmenter.segment(path, output.with_name("compared"), overwrite=True)
    seconds = time.perf_counter() - start
    return Round(entry.complete - written, viewer.wait() - written, labelled - written, seconds)


def ratios_of(rounds: Sequence[Round]) -> dict[str, float]:
    """Return medians of the rounds over the aims: 1 and less is what is aimed at."""
    return {
        "labels_over_segment_and_1_s": statistics.median(r.labels / (r.segment + LABELS_AIM) for r in rounds),
        "worst_labels_over_segment_and_1_s": max(r.labels / (r.segment + LABELS_AIM) for r in rounds),
        "labels_over_segment": statistics.median(r.labels / r.segment for r in rounds),
        "picture_over_2_s": statistics.median(r.picture for r in rounds) / PICTURE_AIM,
        "worst_picture_over_2_s": max(r.picture for r in rounds) / PICTURE_AIM,
    }


def _shape(text: str) -> tuple[int, int, int]:
    parts = tuple(int(part) for part in text.split("x"))
    if len(parts) != 3 or min(parts) < 1:
        raise argparse.ArgumentTypeError(f"expected ZxYxX, found {text}")
    return parts


def main() -> None:
    """Measure, print and save."""
    parser = argument_parser(__doc__)
    parser.add_argument("--rounds", type=int, help="that count (5; quick: 1)")
    parser.add_argument(
        "--shape", type=_shape, metavar="ZxYxX", help="of the tomogram (200x512x512; quick: 16x128x128)"
    )
    parser.add_argument("--pause", type=float, default=0.01, metavar="SECONDS", help="between two slices")
    parser.add_argument("--model", type=Path, default=default_bundle(), help="a bundle")
    parser.add_argument("--backend", default="auto", help="that runs the model")
    parser.add_argument("--folder", type=Path, help="where tomograms and outputs lie meanwhile")
    arguments = parser.parse_args()
    arguments.rounds = arguments.rounds or (1 if arguments.quick else 5)
    arguments.shape = arguments.shape or ((16, 128, 128) if arguments.quick else (200, 512, 512))
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        rounds, backend = measure(arguments, Path(folder))
    ratios = ratios_of(rounds)
    depth, height, width = arguments.shape
    print(f"{depth} slices of {height} × {width}, float32, {arguments.pause:g} s between two; {backend}\n")
    header = ["round", "complete, s", "picture, s", "labels, s", "segment, s", "labels - segment, s"]
    table = [
        [str(number), *(f"{value:.2f}" for value in (*asdict(r).values(), r.labels - r.segment))]
        for number, r in enumerate(rounds, 1)
    ]
    print(markdown_table(header, table))
    print("\n" + "\n".join(f"{name} {value:.3f}" for name, value in ratios.items()))
    save_results(
        arguments.json,
        __file__,
        ratios,
        shape=list(arguments.shape),
        pause=arguments.pause,
        model=arguments.model.name,
        backend=backend,
        rounds=[asdict(r) for r in rounds],
    )


if __name__ == "__main__":
    main()
