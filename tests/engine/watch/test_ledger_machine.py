"""Any sequence of calls leaves in the ledger what a plain dictionary would have."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tomoscribe.engine.watch.entry import Entry, Identity, State
from tomoscribe.engine.watch.ledger import Ledger
from tomoscribe.engine.watch.ledger_queries import totals
from tomoscribe.engine.watch.owner import Owner

LEASE = 30.0
paths = st.sampled_from(["a.mrc", "sub/b.mrc", "c\udcff.rec"])
contents = st.builds(Identity, st.integers(0, 1), st.integers(0, 3), st.just(5))
owners = st.sampled_from([Owner("elsewhere", pid, 1) for pid in (1, 2)])
numbers = st.integers(1, 4)
IN_HAND = {"owner": None, "lease": None}


class Model(RuleBasedStateMachine):
    """The ledger, and beside it what it ought to hold: entries by path. One clock ticks with every call."""

    def __init__(self):
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.ledger = Ledger(Path(self._folder.name) / "ledger.sqlite")
        self.entries = {}
        self.now = 0.0
        self.revision = 0
        self.sums = [0, 0, 0.0]

    def teardown(self):
        self.ledger.close()
        self._folder.cleanup()

    def put(self, entry):
        """Hold a changed entry, which counts as one revision."""
        self.revision += 1
        self.entries[entry.path] = replace(entry, revision=self.revision)

    def held(self, number, owner):
        return next(
            (e for e in self.entries.values() if (e.number, e.state, e.owner) == (number, State.RUNNING, str(owner))),
            None,
        )

    @rule(seconds=st.sampled_from([0.5, 29.0, 31.0]))
    def wait(self, seconds):
        self.now += seconds

    @rule()
    def open_again(self):
        self.ledger.close()
        self.ledger = Ledger(Path(self._folder.name) / "ledger.sqlite")

    @rule(
        path=paths,
        content=contents,
        state=st.sampled_from([State.ARRIVING, State.WAITING, State.WAITING, State.QUARANTINED]),
        reason=st.sampled_from([None, "b"]),
    )
    def notice(self, path, content, state, reason):
        old = self.entries.get(path)
        times = {
            "complete": self.now if state is State.WAITING else None,
            "finished": self.now if state is State.QUARANTINED else None,
        }
        if old is None or old.identity != content or old.state is State.GONE:
            number = len(self.entries) + 1 if old is None else old.number
            self.put(Entry(number, path, state, content, 0, reason=reason, noticed=self.now, **times))
        else:
            open_to_change = old.state is State.ARRIVING or (old.state is State.QUARANTINED and old.attempts == 0)
            if open_to_change and (state, reason) != (old.state, old.reason):
                self.put(replace(old, state=state, reason=reason, **times))
        assert self.ledger.notice(path, content, state, self.now, reason) == self.entries[path]

    @rule(path=paths)
    def gone(self, path):
        old = self.entries.get(path)
        if old is not None and old.state not in (State.DONE, State.GONE):
            self.put(replace(old, state=State.GONE, finished=self.now, **IN_HAND))
        self.ledger.gone(path, self.now)

    @rule(owner=owners)
    def claim(self, owner):
        free = [
            e
            for e in self.entries.values()
            if e.state is State.WAITING or (e.state is State.RUNNING and e.lease <= self.now)
        ]
        free.sort(key=lambda e: (e.attempts < 3, e.identity.modified, e.number))
        if not free:
            assert self.ledger.claim(owner, LEASE, self.now) is None
            return
        new = replace(
            free[-1],
            state=State.RUNNING,
            attempts=free[-1].attempts + 1,
            claimed=self.now,
            owner=str(owner),
            lease=self.now + LEASE,
            slices=0,
        )
        self.put(new)
        assert self.ledger.claim(owner, LEASE, self.now) == self.entries[new.path]

    def report(self, number, by, answer, /, **changes):
        """Compare what the ledger answered, and hold what it ought to have changed."""
        entry = self.held(number, by)
        assert answer is (entry is not None)
        if entry is not None:
            self.put(replace(entry, **changes))

    @rule(number=numbers, owner=owners)
    def renew(self, number, owner):
        self.report(number, owner, self.ledger.renew(number, owner, LEASE, self.now), lease=self.now + LEASE)

    @rule(number=numbers, owner=owners, slices=st.integers(0, 4), shape=st.sampled_from([None, (4, 2, 3)]))
    def progress(self, number, owner, slices, shape):
        entry = self.held(number, owner)
        known = shape or (entry and entry.shape)
        self.report(number, owner, self.ledger.progress(number, owner, slices, shape), slices=slices, shape=known)

    @rule(number=numbers, owner=owners)
    def preview(self, number, owner):
        entry = self.held(number, owner)
        first = self.now if entry is None or entry.previewed is None else entry.previewed
        self.report(number, owner, self.ledger.previewed(number, owner, self.now), previewed=first)

    @rule(number=numbers, owner=owners)
    def release(self, number, owner):
        entry = self.held(number, owner)
        attempts = entry.attempts - 1 if entry else 0
        answer = self.ledger.release(number, owner)
        self.report(number, owner, answer, state=State.WAITING, attempts=attempts, claimed=None, slices=0, **IN_HAND)

    @rule(number=numbers, owner=owners)
    def quarantine(self, number, owner):
        answer = self.ledger.quarantine(number, owner, "bad", self.now)
        changes = {"state": State.QUARANTINED, "reason": "bad", "finished": self.now}
        self.report(number, owner, answer, **changes, **IN_HAND)

    @rule(number=numbers, owner=owners, seconds=st.sampled_from([None, 2.5]))
    def finish(self, number, owner, seconds):
        result = {
            "seconds": seconds,
            "shape": (4, 2, 3),
            "voxel_size": (1.0, 2.0, 0.1),
            "model": "m",
            "backend": "b",
            "counts": {"ribosome": 3},
            "outputs": {"labels": "a__labels.mrc"},
            "warnings": ("w",),
        }
        if self.held(number, owner):
            self.sums = [self.sums[0] + 1, self.sums[1] + 24, self.sums[2] + (seconds or 0.0)]
        answer = self.ledger.finish(number, owner, now=self.now, **result)
        changes = {"state": State.DONE, "reason": None, "finished": self.now, "slices": 4}
        self.report(number, owner, answer, **changes, **result, **IN_HAND)

    @rule(number=numbers, text=st.sampled_from(["exit 0", "exit 1"]))
    def end_hook(self, number, text):
        for entry in self.entries.values():
            if entry.number == number and entry.state is State.DONE:
                self.put(replace(entry, hook=text))
                break
        self.ledger.hook_ended(number, text)

    @rule(owner=owners)
    def beat(self, owner):
        self.ledger.beat(owner, self.now, {"folder": "/data"})
        self.revision += 1

    @invariant()
    def agrees(self):
        entries = sorted(self.entries.values(), key=lambda e: e.revision)
        assert self.ledger.changed_since(0, 10) == entries
        assert self.ledger.revision() == self.revision
        assert self.ledger.known() == {e.path: (e.identity, e.state) for e in entries}
        assert self.ledger.states() == {s: sum(e.state is s for e in entries) for s in State}
        done = sorted((e for e in entries if e.state is State.DONE), key=lambda e: (e.finished, e.number))
        assert {e.number for e in self.ledger.unhooked()} == {e.number for e in done if e.hook is None}
        assert list(totals(self.ledger).values()) == self.sums


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=30, stateful_step_count=40)
