"""The watcher as a process and what it takes of the machine, somebody who looks at its page, a disk to fill."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Sample", "Visitor", "WatcherProcess", "small_disk"]

_PATIENCE = 60.0


@dataclass(frozen=True)
class Sample:
    """What the watcher took at a moment.

    Attributes:
        time: seconds since the epoch.
        memory: bytes of resident memory (VmRSS).
        open_files: descriptors.
        threads: of the process.
    """

    time: float
    memory: int
    open_files: int
    threads: int


class WatcherProcess:
    """``tomoscribe watch``, started again should it die, as systemd does it.

    Attributes:
        deaths: how often it has ended without being asked to.
    """

    def __init__(self, folder: Path, output: Path, log: Path, options: list[str]) -> None:
        """Start it.

        Args:
            folder: to watch.
            output: for its outputs.
            log: what it prints.
            options: of the command.
        """
        self.deaths = 0
        self._log = log
        self._command = [
            *_without_power_over_permissions(),
            *(sys.executable, "-c", "from tomoscribe.cli import main; main()"),
            *("watch", str(folder), "--output", str(output), "--port", "0", *options),
        ]
        self._start()

    def sample(self) -> Sample:
        """Return what it takes now; it is started again where it has died."""
        if self._process.poll() is not None:
            self.deaths += 1
            self._start()
        process = Path("/proc", str(self._process.pid))
        try:
            status = dict(
                line.split(":", 1) for line in (process / "status").read_text(encoding="ascii").splitlines() if line
            )
            files = sum(1 for _ in (process / "fd").iterdir())
            return Sample(time.time(), int(status["VmRSS"].split()[0]) * 1024, files, int(status["Threads"]))
        except (OSError, KeyError):  # it has died just now
            return self.sample()

    def address(self) -> str:
        """Return where its page is."""
        return self._address

    def stop(self) -> float:
        """Ask it to stop, and return how many seconds it took.

        Raises:
            RuntimeError: it did not end well.
        """
        start = time.monotonic()
        self._process.send_signal(signal.SIGTERM)
        status = self._process.wait(_PATIENCE)
        if status != 0:
            raise RuntimeError(f"expected the watcher to stop with 0, found {status}; see {self._log}")
        return time.monotonic() - start

    def kill(self) -> None:
        """End it at once, if it has not ended."""
        self._process.kill()
        self._process.wait()

    def _start(self) -> None:
        known = self._log.stat().st_size if self._log.exists() else 0
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log)  # noqa: S603
        end = time.monotonic() + _PATIENCE
        while True:
            lines = self._log.read_bytes()[known:].decode(errors="replace").split()
            found = next((word for word in lines if word.startswith("http://")), None)
            if found is not None:
                self._address = found
                return
            if self._process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"expected the watcher to start, found {' '.join(lines)}")
            time.sleep(0.05)


class Visitor:
    """Somebody who has the page open, and looks at the newest tomogram, all the time.

    Attributes:
        answers: how often each status was answered; ``lost`` counts connections.
        events: how many server-sent events came.
    """

    def __init__(self, watcher: WatcherProcess, every: float) -> None:
        """Begin to visit.

        Args:
            watcher: whose page it is.
            every: seconds between two looks.
        """
        self.answers: Counter[str] = Counter()
        self.events = 0
        self._watcher = watcher
        self._every = every
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._look, self._listen)]
        for thread in self._threads:
            thread.start()

    def leave(self) -> None:
        """Look no more."""
        self._stop.set()
        self._threads[0].join()

    def _look(self) -> None:
        while not self._stop.wait(self._every):
            self._get("health")
            status = json.loads(self._get("api/status") or "{}")
            self._get("api/tomograms?sort=time&limit=50")
            newest = status.get("newest")
            if newest is not None:
                address = f"api/tomograms/{newest['number']}"
                self._get(f"{address}/preview/grey.webp")
                if newest["state"] == "done":
                    for picture in ("grey.webp", "labels.png"):
                        self._get(f"{address}/slices/{int(time.time()) % newest['shape'][0]}/{picture}")

    def _get(self, path: str) -> bytes:
        try:
            with urllib.request.urlopen(self._watcher.address() + path, timeout=_PATIENCE) as answer:  # noqa: S310
                self.answers[str(answer.status)] += 1
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            self.answers[f"{error.code} {path.split('?')[0].rsplit('/', 1)[-1]}"] += 1
        except OSError:
            self.answers["lost"] += 1
        return b""

    def _listen(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(OSError):
                request = urllib.request.urlopen(self._watcher.address() + "events", timeout=_PATIENCE)  # noqa: S310
                with request as stream:
                    for line in stream:
                        self.events += line.startswith(b"event:")
                        if self._stop.is_set():
                            return
            self._stop.wait(1.0)


@contextlib.contextmanager
def small_disk(folder: Path, size: int) -> Iterator[str | None]:
    """Mount a disk of so many bytes in memory on a folder, where that is allowed.

    Yields:
        Why it was not, or None.
    """
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", f"size={size}", "tomoscribe-soak", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError) as error:
        yield f"no small disk could be mounted ({str(getattr(error, 'stderr', '') or error).strip()})"
        return
    try:
        yield None
    finally:
        subprocess.run([shutil.which("umount") or "umount", "-l", str(folder)], check=True)  # noqa: S603


def _without_power_over_permissions() -> list[str]:
    """Return what to put before a command so that permissions hold for it, even if root runs it."""
    setpriv = shutil.which("setpriv")
    if os.geteuid() != 0 or setpriv is None:
        return []
    return [setpriv, "--bounding-set=-dac_override,-dac_read_search"]
