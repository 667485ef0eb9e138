"""Everything that needs a GPU, in one call of under ten minutes.

    python benchmarks/gpu.py --output benchmarks/results --json benchmarks/results/gpu.json [--work FOLDER]
        [--minutes 9] [--only NAME ...] [--device 0]

Tests that need a GPU; labels of phantoms against ONNX Runtime on the CPU; whole volumes of 281 × 960 × 960 with U-Nets
of base width 16, 32 and 64 and random weights, from file to files, with the times of all stages, overlap, and TFLOP/s
against a product of matrices; raw dtypes over the bus; CUDA graphs; PyTorch in FP16, compiled, and with MONAI's sliding
windows, on the same weights. Each part has a process of its own and a time in which it has to be done. What a part
needs and is not here (tensorrt, onnxruntime-gpu, pycuda, cuda.bindings, torch, monai) is said, as is what failed, and
the rest goes on. The results are written after every part, so that a run that is ended keeps what it has.

`--work` keeps networks, volumes and plans for the next run, and so `--only prepare` can make them beforehand; `--only`
takes the beginnings of parts' names. ``--quick`` takes a minute or two, with little of everything. ``--rehearse`` does
the same on the CPU, with tiny networks and tomoscribe's backends there, to see that the script works. Without a GPU the
exit status is 1. `gpu_node.sh` carries all of it to a machine without a network.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpu_parts import FULL, QUICK, REHEARSAL, Part, Scale, make_parts
from gpu_ratios import Figures, ratios
from gpu_report import Setting, page
from gpu_running import DONE, FAILED, Outcome, Process
from gpu_setup import LIBRARIES
from measuring import argument_parser, circumstances, save_results

from tomoscribe.engine.replacing import replacing

# Less than this is not enough to begin a part with.
LEAST_SECONDS = 5
EXAMINING_SECONDS = 90


class Results:
    """What was found, and the files that it is written to.

    Args:
        setting: what is measured where.
        output: folder of ``gpu.md``, or None.
        json: the file of the results, or None.
    """

    def __init__(self, setting: Setting, output: Path | None, json: Path | None) -> None:
        self.outcomes: list[Outcome] = []
        self._setting = setting
        self._output = output
        self._json = json

    @property
    def page(self) -> str:
        """The page so far."""
        return page(self._setting, self.outcomes, self._ratios)

    def add(self, outcome: Outcome) -> None:
        """Take what came of a part, say so, and write everything."""
        self.outcomes.append(outcome)
        reason = f": {outcome.reason}" if outcome.reason else ""
        print(f"{outcome.part.name}: {outcome.state}, {outcome.seconds:.0f} s{reason}", flush=True)
        if self._output is not None:
            self._output.mkdir(parents=True, exist_ok=True)
            with replacing(self._output / "gpu.md") as temporary:
                temporary.write_text(self.page, encoding="utf-8")
        if self._json is not None:
            self._json.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._json) as temporary:
                save_results(
                    temporary,
                    __file__,
                    self._ratios,
                    gpu=dict(self._setting.machine),
                    parts=[outcome.to_json() for outcome in self.outcomes],
                )

    @property
    def _ratios(self) -> dict[str, float]:
        return ratios(Figures(self.outcomes), self._setting.scale)


def examine(scale: Scale, work: Path) -> tuple[Mapping[str, Any], dict[str, str | None]]:
    """Return what the machine is, and of everything that parts need why it is not there, None if it is."""
    arguments = {"backends": scale.backends, "precision": scale.precision, "device": scale.device}
    outcome = Process(Part("examine", "examine", EXAMINING_SECONDS, arguments), work, EXAMINING_SECONDS).finish()
    if outcome.state != DONE:
        print(f"examine: {outcome.state}: {outcome.reason}", flush=True)
    machine = next((note for note in outcome.notes if note["kind"] == "machine"), None)
    if machine is None:
        raise SystemExit("gpu.py: the machine cannot be examined")
    return machine, {note["name"]: note["missing"] for note in outcome.notes if note["kind"] == "needed"}


def has_gpu(machine: Mapping[str, Any], missing: Mapping[str, str | None]) -> bool:
    """Return whether there is a GPU that anything here can use."""
    return bool(machine["gpus"]) or any(missing.get(library, "") is None for library in LIBRARIES)


def run(parts: Iterable[Part], missing: Mapping[str, str | None], work: Path, results: Results, until: float) -> None:
    """Run parts in their order, as far as there is time.

    Args:
        parts: what to run.
        missing: why something is not here, by what parts need; None where it is.
        work: the folder that they share.
        results: what is told of each.
        until: when the time is over, of `time.monotonic`.
    """
    running: deque[Process] = deque()

    def finish() -> None:
        while running:
            results.add(running[0].finish())
            running.popleft()

    try:
        for part in parts:
            if part.measures:
                finish()
            left = until - time.monotonic()
            reasons = [reason for name in part.needs if (reason := missing.get(name, f"{name} was not looked for"))]
            if reasons or left < LEAST_SECONDS:
                results.add(Outcome.missing(part, "; ".join(reasons) or "no time was left"))
                continue
            running.append(Process(part, work, left))
            if part.measures:
                finish()
        finish()
    finally:
        for process in running:
            process.stop()


def choose(parts: Sequence[Part], beginnings: Sequence[str]) -> list[Part]:
    """Return the parts whose names begin in one of some ways, and those that they come after."""
    chosen = [part for part in parts if part.name.startswith(tuple(beginnings))]
    if not chosen:
        names = ", ".join(part.name for part in parts)
        raise SystemExit(f"--only: expected the beginnings of some of {names}, found {' '.join(beginnings)}")
    before = {name for part in chosen for name in part.after}
    return [part for part in parts if part in chosen or part.name in before]


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the arguments."""
    parser = argument_parser(__doc__)
    parser.add_argument("--output", type=Path, help="folder of gpu.md")
    parser.add_argument("--work", type=Path, help="folder that keeps networks, volumes and plans")
    parser.add_argument("--minutes", type=float, default=9, help="in which all has to be done (9)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="parts whose names begin like this")
    parser.add_argument("--device", default="0", help="GPU, as CUDA counts them (0)")
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with tiny networks")
    return parser.parse_args(words)


def main() -> None:
    """Measure, print and save."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("gpu.py: ended; what was saved is kept"))
    arguments = parse(sys.argv[1:])
    until = time.monotonic() + 60 * arguments.minutes
    scale = QUICK if arguments.quick else FULL
    scale = REHEARSAL if arguments.rehearse else replace(scale, device=arguments.device)
    parts = list(make_parts(scale))
    if arguments.only:
        parts = choose(parts, arguments.only)
    with tempfile.TemporaryDirectory() as temporary:
        work = (arguments.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        # What is compiled is of this run, or of its folder.
        os.environ |= {"XDG_CACHE_HOME": str(work / "cache"), "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor")}
        machine, missing = examine(scale, work)
        if scale.device != "cpu" and not has_gpu(machine, missing):
            found = machine["problem"] or missing.get("cuda.bindings")
            raise SystemExit(f"gpu.py: expected an NVIDIA GPU, found none ({found}); to try the script: --rehearse")
        words = [word for flag in ("quick", "rehearse") if getattr(arguments, flag) for word in (f"--{flag}",)]
        command = " ".join(["python benchmarks/gpu.py", *words])
        results = Results(Setting(command, scale, machine, circumstances()), arguments.output, arguments.json)
        run(parts, missing, work, results, until)
    print(f"\n{results.page}")
    if any(outcome.state == FAILED for outcome in results.outcomes):
        raise SystemExit("gpu.py: some parts failed; the page says which")


if __name__ == "__main__":
    main()
