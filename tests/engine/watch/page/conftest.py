"""A watched folder as a watcher leaves it, its page, and a browser to look at that with."""

from __future__ import annotations

import json
import os
import shutil
import time
from contextlib import ExitStack, contextmanager

import mrcfile
import numpy as np
import pytest

from tomoscribe.engine.class_map import DEFAULT_CLASS_MAP
from tomoscribe.engine.result import SlicePreview
from tomoscribe.engine.watch.entry import Entry, Identity, State
from tomoscribe.engine.watch.ledger import Ledger
from tomoscribe.engine.watch.ledger_rows import add
from tomoscribe.engine.watch.owner import Owner
from tomoscribe.engine.watch.page.app import create_app
from tomoscribe.engine.watch.page.server import PageServer
from tomoscribe.engine.watch.pictures import Pictures
from tomoscribe.engine.watch.settings import WatchSettings

SHAPE = 24, 60, 80
VOXEL_SIZE = 10.0


def labels_of(seed):
    """Labels (z, y, x) without any symmetry: a microtubule at the left, ribosomes that wander, an edge at the top."""
    depth, height, width = SHAPE
    labels = np.zeros(SHAPE, np.uint8)
    labels[:, 6:36, 8 + seed : 20 + seed] = 1
    for z in range(depth):
        labels[z, 40:52, 30 + z : 42 + z] = 2
    labels[:, height - 4 :, : width // 2] = 5
    return labels


class Session:
    """A watched folder, its outputs and its ledger, without a watcher: tests say what it would have done."""

    def __init__(self, root):
        self.settings = WatchSettings(root / "session_7", root / "labels")
        self.settings.folder.mkdir()
        self.settings.output.mkdir()
        places = self.settings.places
        self.ledger = Ledger(places.ledger)
        self.pictures = Pictures(places.pictures, DEFAULT_CLASS_MAP)
        self.owner = Owner.current()
        self.labels = {}
        self.servers = ExitStack()
        self.beat()

    def beat(self, **facts):
        known = {"folder": str(self.settings.folder), "model": "default", "backend": "ONNX Runtime, int8"}
        self.ledger.beat(self.owner, time.time(), {**known, "paused": None, "free_bytes": 10**12, **facts})

    def notice(self, path, state=State.WAITING, reason=None):
        """Put a tomogram into the folder, a minute newer than the one before."""
        file = self.settings.folder / path
        file.parent.mkdir(exist_ok=True)
        seed = len(self.labels)
        self.labels[path] = labels_of(seed)
        values = np.random.default_rng(seed).normal(0, 0.3, SHAPE) - 0.5 * (self.labels[path] > 0)
        _write(file, values.astype(np.float32))
        moment = time.time() - 86400 + 60 * seed
        os.utime(file, (moment, moment))
        return self.ledger.notice(path, Identity.of(file.stat()), state, time.time(), reason)

    def preview(self, path):
        """Take a tomogram, and have the first picture of it."""
        self.notice(path)
        entry = self.ledger.claim(self.owner, 600, time.time())
        assert entry.path == path
        z = SHAPE[0] // 2
        labels = self.labels[path][z]
        image = np.where(labels > 0, -0.5, 0).astype(np.float32)
        self.pictures.save_preview(entry, SlicePreview(z, image, labels, 0.0, 1.0))
        self.ledger.progress(entry.number, self.owner, 0, SHAPE, (VOXEL_SIZE,) * 3)
        assert self.ledger.previewed(entry.number, self.owner, time.time())
        return entry

    def label(self, path, warnings=()):
        """Label a tomogram; returns its number."""
        entry = self.preview(path)
        self.finish(entry, warnings)
        return entry.number

    def finish(self, entry, warnings=()):
        stem = entry.path.removesuffix(".mrc")
        outputs = {"labels": f"{stem}__labels.mrc", "sidecar": f"{stem}__labels.json"}
        (self.settings.output / stem).parent.mkdir(exist_ok=True)
        _write(self.settings.output / outputs["labels"], self.labels[entry.path].view(np.int8))
        sidecar = {"intensity": {"mean": 0.0, "standard_deviation": 1.2}}
        (self.settings.output / outputs["sidecar"]).write_text(json.dumps(sidecar))
        assert self.ledger.finish(
            entry.number,
            self.owner,
            now=time.time(),
            seconds=2.0,
            shape=SHAPE,
            voxel_size=(VOXEL_SIZE,) * 3,
            model="default",
            backend="ONNX Runtime, int8",
            counts={c.name: int((self.labels[entry.path] == c.number).sum()) for c in DEFAULT_CLASS_MAP.classes},
            outputs=outputs,
            warnings=warnings,
        )

    def fail(self, path, reason):
        entry = self.preview(path)
        assert self.ledger.quarantine(entry.number, self.owner, reason, time.time())
        return entry.number

    def fill(self, number):
        """Write so many finished tomograms into the ledger, which are nowhere else; the later, the more ribosomes."""
        now = time.time()
        with self.ledger._file.writing() as (connection, revision):
            for n in range(1, number + 1):
                counts = {c.name: n if c.name == "ribosome" else number - n for c in DEFAULT_CLASS_MAP.classes}
                entry = Entry(
                    0, f"grid/Position_{n}_Vol.mrc", State.DONE, Identity(1024, n * 10**9, n), revision, noticed=now,
                    complete=now, finished=now, shape=SHAPE, voxel_size=(VOXEL_SIZE,) * 3, slices=SHAPE[0],
                    seconds=1.0, counts=counts, outputs={},
                )  # fmt: skip
                add(connection, entry)

    def serve(self, token=None, port=0):
        """Serve the page to the end of the test, or until its server is stopped; returns that."""
        app = create_app(
            self.settings.places.ledger, self.settings, DEFAULT_CLASS_MAP, token=token, allowed_hosts=["127.0.0.1"]
        )
        return self.servers.enter_context(PageServer(lambda: app, "127.0.0.1", port))


def _write(path, values):
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(values)
        file.voxel_size = VOXEL_SIZE


@contextmanager
def _session(folder):
    session = Session(folder)
    with session.ledger, session.servers:
        yield session


@pytest.fixture
def session(tmp_path):
    with _session(tmp_path) as session:
        yield session


@pytest.fixture(scope="module")
def shared_session(tmp_path_factory):
    """One for tests that only look."""
    with _session(tmp_path_factory.mktemp("shared")) as session:
        yield session


@pytest.fixture(scope="module")
def chromium():
    """A headless Chromium; what it needs is in the extra `dev`, but for the browser itself."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, to look at the page")
    sync_api.expect.set_options(timeout=15_000)
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("needs Chromium, to look at the page; install the package chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def _browsing(chromium):
    contexts, troubles = [], []

    def browse(address, width=1440, height=900, **options):
        context = chromium.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(15_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("dialog", lambda dialog: (troubles.append(dialog.message), dialog.dismiss()))
        page.on("console", lambda line: "Security Policy" in line.text and troubles.append(line.text))
        page.on("request", lambda asked: asked.url.startswith((address, "data:")) or troubles.append(asked.url))
        page.goto(address)
        return page

    yield browse
    for context in contexts:
        context.close()
    assert troubles == []


@pytest.fixture
def browse(chromium):
    """Open an address in a window of its own; no script may fail, nor be kept from running, nor look elsewhere."""
    with _browsing(chromium) as browse:
        yield browse


@pytest.fixture(scope="module")
def shared_browse(chromium):
    """One for tests that share a window."""
    with _browsing(chromium) as browse:
        yield browse
